//! The rate controller: how fast to send, from a model of the path.
//!
//! The model is BBR's (draft-ietf-ccwg-bbr): the largest delivery rate of recent rounds and the smallest RTT of the
//! last seconds; pace at the first, bound what is in flight by their product. It differs where measurements of BBR on
//! long links showed a cost:
//!
//! - *Queue*: cruising is corrected by the queue the path shows (the smallest RTT of a whole round above the minimum:
//!   jitter raises single samples, a standing queue raises all of them), as in Copa (NSDI 2018, section 2). BBR's
//!   cruise keeps whatever queue an overestimated rate has built. A queue that does not yield to our correction is
//!   somebody else's: then the correction rests, or a loss-based neighbour would starve us.
//! - *Loss*: random loss is not congestion. Loss is measured on what was sent while we were below the path's rate (the
//!   `Down` phase). That share is the path's own, and the pace is raised by it, because a link that loses 5 % delivers
//!   its full rate only when offered 1 / 0.95 of it. Loss that appears only above the path's rate (a policer, a
//!   shallow buffer) raises nothing.
//! - *Probing* is short (+20 % for one round, then -10 %) and frequent (every 4-6 rounds), and turns into acceleration
//!   at once when the path answers with more; a queue under a falling delivery rate cuts the estimate at once instead
//!   of after BBR's filter window.

use std::collections::VecDeque;
use std::time::Duration;

use super::delivery::RateSample;
use crate::units::{BitRate, ByteCount, Instant};

/// Pacing gain while accelerating from nothing: 4 ln 2, the smallest that doubles the rate every round (BBR draft
/// section 2.4).
const START_GAIN: u64 = 277;
/// Pacing gain while following a path that answered a probe with more.
const FOLLOW_GAIN: u64 = 160;
/// Drains what acceleration has queued.
const DRAIN_GAIN: u64 = 50;
const UP_GAIN: u64 = 120;
const DOWN_GAIN: u64 = 90;
/// Lowest gain of the queue correction.
const CORRECTION_FLOOR: u64 = 80;
/// Growth per round, in percent, that keeps acceleration going.
const GROWTH: u64 = 125;
/// Growth over the estimate, in percent, that shows a probe has found more rate.
const FOUND_MORE: u64 = 106;
/// Rounds without growth that end acceleration even when no queue shows.
const FLAT_ROUNDS: u32 = 3;
/// Rounds the rate filter looks back: two probing cycles.
const RATE_FILTER_ROUNDS: u64 = 12;
/// Rounds over which the mean rate is taken.
const MEAN_ROUNDS: usize = 4;
/// Rounds of correction without effect after which the queue counts as somebody else's.
const FOREIGN_QUEUE_ROUNDS: u32 = 8;
/// Window in datagrams before anything is known.
const INITIAL_WINDOW: u64 = 128;
/// Over a short path the initial window per RTT would claim more than any link has.
const INITIAL_RATE_MAX: BitRate = BitRate::from_mbps(100);
/// The window never falls below this many datagrams.
const WINDOW_MIN: u64 = 16;
/// Window as a share of the BDP in percent; what is above 100 absorbs ack aggregation and jitter.
const WINDOW_GAIN: u64 = 200;
/// Window gain while accelerating and no queue shows yet.
const START_WINDOW_GAIN: u64 = 300;
/// A cycle of probing is not shorter than this, however short the RTT.
const CYCLE_MIN: Duration = Duration::from_millis(20);
/// Loss beyond this share is never taken for the path's own.
const OWN_LOSS_MAX_PERMILLE: u64 = 300;
/// While the own loss is measured it is made up for by this much at most: less than `Down` stays below the path's rate,
/// or a queue that overflows would pass for the path's own loss, and making up for it would feed it.
const DOWN_COMPENSATION_MAX_PERMILLE: u64 = 60;
/// The loss measurement forgets half of itself each time it has seen this many datagrams.
const LOSS_WINDOW: u64 = 8_192;
/// A round lasts at least this long. Below it the RTT is that of schedulers and interrupts rather than of the path, and
/// what arrives within it comes in lumps.
const ROUND_MIN: Duration = Duration::from_millis(4);
/// The rate filter looks back for at least this long: many short rounds fit into one pause of a busy machine.
const RATE_FILTER_MIN: Duration = Duration::from_millis(150);
/// Queueing delay always tolerated: timers, interrupts and offloads of real machines.
const QUEUE_FLOOR: Duration = Duration::from_millis(1);
/// When the minimum RTT has not been seen again for this long, the flow drains its queue once to measure it.
const MIN_RTT_EXPIRY: Duration = Duration::from_secs(10);

/// What the operator fixes.
#[derive(Clone, Copy, Debug)]
pub struct ControllerConfig {
    /// Never pace above this.
    pub cap: Option<BitRate>,
    /// Wire bytes of a full datagram.
    pub datagram: ByteCount,
}

/// What an ack (or a loss timer) tells the controller.
#[derive(Clone, Copy, Debug)]
pub struct AckReport {
    /// Now.
    pub now: Instant,
    /// The delivery-rate sample, where the ack gave one.
    pub sample: Option<RateSample>,
    /// RTT of the newest datagram acknowledged.
    pub rtt: Option<Duration>,
    /// Smallest RTT of the window.
    pub min_rtt: Duration,
    /// Mean deviation of the RTT.
    pub rttvar: Duration,
    /// Bytes in flight after the ack.
    pub in_flight: ByteCount,
    /// Bytes delivered over the session.
    pub delivered: u64,
    /// Datagrams acknowledged that were sent below the path's rate ([`Controller::is_below_path_rate`]).
    pub low_acked: u64,
    /// Datagrams lost that were sent below the path's rate.
    pub low_lost: u64,
}

/// What the controller is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Looking for the path's rate.
    Accelerate,
    /// Letting the queue run empty that looking for it has built.
    Drain,
    /// Sending a little more than the estimate, for one round.
    Up,
    /// Sending a little less, until what `Up` queued is gone.
    Down,
    /// Sending at the estimate.
    Cruise,
}

/// A delivery rate and when it was seen.
#[derive(Clone, Copy, Debug)]
struct RoundRate {
    round: u64,
    at: Instant,
    rate: BitRate,
}

/// The rate controller of one session.
#[derive(Clone, Debug)]
pub struct Controller {
    config: ControllerConfig,
    phase: Phase,
    phase_since: Instant,
    phase_rounds: u32,
    gain: u64,
    /// Descending maxima of the delivery rate. Never empty.
    rates: VecDeque<RoundRate>,
    /// There has been a sample.
    is_measured: bool,
    /// Delivered bytes and moments at the ends of the last rounds, newest last.
    recent: VecDeque<(Instant, u64)>,
    round: u64,
    round_ends_at: u64,
    /// When the current round began, and what had been delivered by then.
    round_began: (Instant, u64),
    round_app_limited: bool,
    /// Samples of the current round: their sum in bits per second, and how many.
    round_rates: (u128, u32),
    round_min_rtt: Option<Duration>,
    /// Queueing delay of the last whole round.
    queue: Duration,
    min_rtt: Duration,
    min_rtt_seen: Instant,
    rttvar: Duration,
    /// Mean of the smallest RTT of cruising rounds, and how far single rounds are from it: delay that varies by itself,
    /// where a standing queue would be steady.
    usual_rtt: Option<Duration>,
    wander: Duration,
    flat_base: BitRate,
    flat_rounds: u32,
    before_probe: BitRate,
    corrected_rounds: u32,
    foreign_queue: bool,
    low_acked: u64,
    low_lost: u64,
    cruise_rounds: u32,
}

impl Controller {
    /// A controller that knows nothing but the first RTT.
    pub fn new(config: ControllerConfig, now: Instant, rtt: Duration) -> Self {
        let min_rtt = rtt.max(Duration::from_micros(50));
        // What the initial window comes to is taken for the rate until acks say otherwise: a few small samples of a
        // sender with little to say must not bring it down.
        let initial = BitRate::from_transfer(ByteCount::new(INITIAL_WINDOW * config.datagram.as_u64()), min_rtt)
            .min(INITIAL_RATE_MAX);
        Controller {
            config,
            phase: Phase::Accelerate,
            phase_since: now,
            phase_rounds: 0,
            gain: START_GAIN,
            rates: VecDeque::from([RoundRate { round: 0, at: now, rate: initial }]),
            is_measured: false,
            recent: VecDeque::new(),
            round: 0,
            round_ends_at: 0,
            round_began: (now, 0),
            round_app_limited: false,
            round_rates: (0, 0),
            round_min_rtt: None,
            queue: Duration::ZERO,
            min_rtt,
            min_rtt_seen: now,
            rttvar: Duration::ZERO,
            wander: Duration::ZERO,
            usual_rtt: None,
            flat_base: BitRate::ZERO,
            flat_rounds: 0,
            before_probe: BitRate::ZERO,
            corrected_rounds: 0,
            foreign_queue: false,
            low_acked: 0,
            low_lost: 0,
            cruise_rounds: 3,
        }
    }

    /// Wire bytes of a full datagram from now on (the path MTU changed).
    pub fn set_datagram(&mut self, datagram: ByteCount) {
        self.config.datagram = datagram;
    }

    /// The path's delivery rate as estimated; before the first sample, the initial window per RTT.
    pub fn delivery_rate(&self) -> BitRate {
        self.rates.front().map_or(BitRate::ZERO, |best| best.rate)
    }

    /// Share of datagrams that the path loses by itself, in permille.
    pub fn own_loss_permille(&self) -> u64 {
        let seen = self.low_acked + self.low_lost;
        if seen < 256 {
            return 0;
        }
        (self.low_lost * 1000 / seen).min(OWN_LOSS_MAX_PERMILLE)
    }

    /// The rate to pace at, wire bytes.
    pub fn pacing_rate(&self) -> BitRate {
        let base = self.cruising_rate();
        let offered = BitRate::from_bps(
            u64::try_from(u128::from(base.as_bps()) * 1000 / u128::from(1000 - self.compensated_permille()))
                .unwrap_or(u64::MAX),
        );
        let floor = BitRate::from_transfer(ByteCount::new(2 * self.config.datagram.as_u64()), self.min_rtt)
            .min(BitRate::from_kbps(256));
        let rate = offered.percent(self.effective_gain()).max(floor);
        match self.config.cap {
            Some(cap) => rate.min(cap),
            None => rate,
        }
    }

    /// What the estimate comes to while cruising. A maximum over samples is too high by their noise (jitter moves the
    /// ends of a sample's interval); while a queue stands, the mean over whole rounds is what the path delivers.
    fn cruising_rate(&self) -> BitRate {
        let estimate = self.delivery_rate();
        let queued = self.queue > self.queue_target() && !self.foreign_queue;
        match (self.mean_rate(), self.phase) {
            // Never far below: what we send bounds what we see delivered.
            (Some(mean), Phase::Cruise) if queued => estimate.min(mean).max(estimate.percent(90)),
            // What is sent now shows the path's own loss, so it has to be below the path's rate for certain.
            (Some(mean), Phase::Down) => estimate.min(mean),
            _ => estimate,
        }
    }

    /// By how much of the path's own loss the pace is raised, in permille.
    fn compensated_permille(&self) -> u64 {
        let own = self.own_loss_permille();
        if self.phase == Phase::Down { own.min(DOWN_COMPENSATION_MAX_PERMILLE) } else { own }
    }

    /// Delivery rate over the last few whole rounds.
    fn mean_rate(&self) -> Option<BitRate> {
        let ((start, before), (end, after)) = (self.recent.front()?, self.recent.back()?);
        (self.recent.len() > MEAN_ROUNDS).then(|| BitRate::from_transfer(ByteCount::new(after - before), *end - *start))
    }

    fn effective_gain(&self) -> u64 {
        if self.phase != Phase::Cruise || self.foreign_queue {
            return self.gain;
        }
        let target = self.queue_target();
        if self.queue <= target {
            return self.gain;
        }
        // Give the excess back over about two rounds.
        let excess = (self.queue - target).as_nanos() * 100 / (2 * self.min_rtt.max(QUEUE_FLOOR)).as_nanos();
        (self.gain - u64::try_from(excess).unwrap_or(100).min(self.gain - CORRECTION_FLOOR)).max(CORRECTION_FLOOR)
    }

    fn queue_target(&self) -> Duration {
        (self.min_rtt / 16).max(QUEUE_FLOOR).max(self.wander * 5 / 2)
    }

    /// Most bytes that may be in flight.
    pub fn window(&self) -> ByteCount {
        let datagram = self.config.datagram.as_u64();
        if !self.is_measured {
            return ByteCount::new(INITIAL_WINDOW * datagram);
        }
        let searching = self.phase == Phase::Accelerate && self.queue <= (self.min_rtt / 8).max(QUEUE_FLOOR);
        let gain = if searching { START_WINDOW_GAIN } else { WINDOW_GAIN };
        let bdp = self.bdp().as_u64();
        // Jitter, held acks and offload batches keep datagrams accounted for longer than the minimum RTT.
        let slack = self.pacing_rate().bytes_in(self.rttvar * 2 + Duration::from_millis(2)).as_u64();
        ByteCount::new((bdp * gain / 100 + slack).max(WINDOW_MIN * datagram))
    }

    /// Bytes in flight that just fill the path.
    pub fn bdp(&self) -> ByteCount {
        self.delivery_rate().bytes_in(self.min_rtt.max(QUEUE_FLOOR))
    }

    /// Whether what is sent now stays below the path's rate, so that its losses are the path's own.
    pub fn is_below_path_rate(&self) -> bool {
        self.phase == Phase::Down || (self.phase == Phase::Cruise && self.effective_gain() < 97)
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Queueing delay of the last whole round.
    pub fn queue(&self) -> Duration {
        self.queue
    }

    /// Takes an ack.
    pub fn on_ack(&mut self, report: &AckReport) {
        let now = report.now;
        self.rttvar = report.rttvar;
        if report.min_rtt < self.min_rtt + self.min_rtt / 50 {
            self.min_rtt_seen = if report.rtt.is_some_and(|rtt| rtt <= self.min_rtt + self.queue_target() / 2) {
                now
            } else {
                self.min_rtt_seen
            };
        }
        self.min_rtt = report.min_rtt.max(Duration::from_micros(50));
        self.low_acked += report.low_acked;
        self.low_lost += report.low_lost;
        if self.low_acked + self.low_lost > LOSS_WINDOW {
            self.low_acked /= 2;
            self.low_lost /= 2;
        }
        if let Some(rtt) = report.rtt {
            self.round_min_rtt = Some(self.round_min_rtt.map_or(rtt, |min| min.min(rtt)));
        }
        let mut ended = false;
        if let Some(sample) = report.sample {
            // An app-limited sample counts only where it shows more than is known.
            self.round_app_limited |= sample.app_limited;
            if !sample.app_limited || sample.rate > self.delivery_rate() {
                self.on_sample(now, sample.rate);
            }
            if sample.prior_delivered >= self.round_ends_at && now - self.round_began.0 >= ROUND_MIN {
                self.round_ends_at = report.delivered;
                ended = true;
            }
        }
        if self.phase == Phase::Drain && report.in_flight <= self.bdp() {
            self.enter_cruise(now);
        }
        if self.phase == Phase::Down && report.in_flight <= self.bdp().max(ByteCount::new(1)) && self.phase_rounds >= 1
        {
            self.enter_cruise(now);
        }
        if ended {
            self.on_round(now, report);
        }
    }

    fn on_sample(&mut self, now: Instant, rate: BitRate) {
        self.round_rates.0 += u128::from(rate.as_bps());
        self.round_rates.1 += 1;
        self.is_measured = true;
        // While accelerating the newest sample is the best; otherwise the mean of a round, which jitter moves less.
        if self.phase == Phase::Accelerate && !self.is_short() {
            self.on_rate(now, rate);
        }
    }

    /// The path is shorter than a round may be: samples over one RTT are mostly noise.
    fn is_short(&self) -> bool {
        self.min_rtt < ROUND_MIN
    }

    fn on_rate(&mut self, now: Instant, rate: BitRate) {
        while self.rates.back().is_some_and(|known| known.rate <= rate) {
            self.rates.pop_back();
        }
        self.rates.push_back(RoundRate { round: self.round, at: now, rate });
    }

    fn on_round(&mut self, now: Instant, report: &AckReport) {
        self.round += 1;
        self.phase_rounds += 1;
        let app_limited = std::mem::take(&mut self.round_app_limited);
        // Rounds of a sender with little to say teach nothing, so they are no reason to forget either: a session that
        // idled for a day starts where it was.
        while !app_limited
            && self.rates.len() > 1
            && self.rates[0].round + RATE_FILTER_ROUNDS < self.round
            && now - self.rates[0].at > RATE_FILTER_MIN
        {
            self.rates.pop_front();
        }
        if app_limited {
            self.recent.clear();
        }
        self.recent.push_back((now, report.delivered));
        if self.recent.len() > MEAN_ROUNDS + 1 {
            self.recent.pop_front();
        }
        if let Some(round_min) = self.round_min_rtt.take() {
            self.queue = round_min.saturating_sub(self.min_rtt);
            if self.phase == Phase::Cruise && self.phase_rounds > 0 {
                let usual = self.usual_rtt.unwrap_or(round_min);
                self.wander = (self.wander * 7 + usual.abs_diff(round_min)) / 8;
                self.usual_rtt = Some((usual * 7 + round_min) / 8);
            }
        }
        let (sum, samples) = std::mem::take(&mut self.round_rates);
        let (began, before) = std::mem::replace(&mut self.round_began, (now, report.delivered));
        let round_rate = if self.is_short() {
            BitRate::from_transfer(ByteCount::new(report.delivered - before), now - began)
        } else {
            BitRate::from_bps(u64::try_from(sum / u128::from(samples.max(1))).unwrap_or(u64::MAX))
        };
        if samples > 0 && (!app_limited || round_rate > self.delivery_rate()) {
            self.on_rate(now, round_rate);
        }

        match self.phase {
            Phase::Accelerate => self.on_round_accelerating(now, app_limited, report.in_flight),
            Phase::Drain => {
                if self.phase_rounds >= 4 {
                    self.enter_cruise(now);
                }
            }
            Phase::Up => self.enter(now, Phase::Down, DOWN_GAIN),
            Phase::Down => {
                if self.follow(now, round_rate) {
                    return;
                }
                if self.phase_rounds >= 3 {
                    self.enter_cruise(now);
                }
            }
            Phase::Cruise => self.on_round_cruising(now, round_rate, app_limited),
        }
    }

    fn on_round_accelerating(&mut self, now: Instant, app_limited: bool, in_flight: ByteCount) {
        let rate = self.delivery_rate();
        let grew = rate >= self.flat_base.percent(GROWTH);
        if grew {
            self.flat_base = rate;
            self.flat_rounds = 0;
        } else {
            self.flat_rounds += 1;
        }
        // A sender with little to say proves nothing, whatever jitter makes its few samples look like.
        if app_limited && in_flight.as_u64() < INITIAL_WINDOW / 2 * self.config.datagram.as_u64() {
            return;
        }
        // A queue and a rate that no longer grows: this is the path's rate. Where the RTT varies by itself a queue is
        // not to be told from it, and the rate has to stand still for longer.
        let queued = self.queue > (self.min_rtt / 4).max(4 * QUEUE_FLOOR);
        let noisy = self.rttvar > self.min_rtt / 8;
        let rounds = if queued && !noisy { 1 } else { FLAT_ROUNDS };
        if self.flat_rounds >= rounds {
            self.enter(now, Phase::Drain, DRAIN_GAIN);
        }
    }

    fn on_round_cruising(&mut self, now: Instant, round_rate: BitRate, app_limited: bool) {
        if self.follow(now, round_rate) {
            return;
        }
        let target = self.queue_target();
        if self.queue > target {
            self.corrected_rounds += 1;
            if self.corrected_rounds >= FOREIGN_QUEUE_ROUNDS {
                self.foreign_queue = true;
            }
        } else {
            self.corrected_rounds = 0;
            self.foreign_queue = false;
        }
        // A deep queue while less than the estimate arrives: the path has become slower.
        let deep = self.queue > (self.min_rtt / 2).max(4 * target);
        let mean = self.mean_rate().filter(|mean| !app_limited && *mean < self.delivery_rate().percent(85));
        if let Some(mean) = mean.filter(|_| deep) {
            self.rates.clear();
            self.rates.push_back(RoundRate { round: self.round, at: now, rate: mean });
            self.recent.clear();
            self.corrected_rounds = 0;
            self.enter(now, Phase::Drain, DRAIN_GAIN);
            return;
        }
        if now - self.min_rtt_seen > MIN_RTT_EXPIRY {
            self.min_rtt_seen = now;
            self.enter(now, Phase::Drain, DRAIN_GAIN);
            return;
        }
        if !app_limited && self.phase_rounds >= self.cruise_rounds && now - self.phase_since >= CYCLE_MIN {
            self.before_probe = self.delivery_rate();
            self.enter(now, Phase::Up, UP_GAIN);
        }
    }

    /// A probe was answered with more: accelerate.
    fn follow(&mut self, now: Instant, round_rate: BitRate) -> bool {
        let known = self.before_probe;
        if known == BitRate::ZERO
            || round_rate < known.percent(FOUND_MORE)
            || self.queue > (self.min_rtt / 4).max(self.queue_target() * 2)
        {
            return false;
        }
        self.before_probe = BitRate::ZERO;
        self.flat_base = round_rate;
        self.flat_rounds = FLAT_ROUNDS - 1;
        self.enter(now, Phase::Accelerate, FOLLOW_GAIN);
        true
    }

    fn enter_cruise(&mut self, now: Instant) {
        // Two to four rounds, so that sessions which share a path do not probe in step.
        self.cruise_rounds = 2 + (self.round.wrapping_mul(0x9e37_79b9) >> 7) as u32 % 3;
        self.enter(now, Phase::Cruise, 100);
    }

    fn enter(&mut self, now: Instant, phase: Phase, gain: u64) {
        self.phase = phase;
        self.gain = gain;
        self.phase_since = now;
        self.phase_rounds = 0;
    }
}
