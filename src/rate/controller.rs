//! The rate controller: how fast to send, from a model of the path. The law and its sources: [`crate::rate`].

mod acceleration;
mod giving_way;
mod noisy;
mod probe;

use std::time::Duration;

use self::acceleration::Buildup;
use super::contest::{Contest, Overflow, Patience};
use super::delivery::RateSample;
use super::queue::{NOISY_ROUNDS, QueueEstimator, ROUND_MIN};
use super::rounds::{Rounds, Span};
use crate::units::{BitRate, ByteCount, Instant};

/// Pacing gain while accelerating from nothing: 4 ln 2, the smallest that doubles the rate every round (BBR draft
/// section 2.4).
const START_GAIN: u64 = 277;
/// Drains what acceleration has queued.
const DRAIN_GAIN: u64 = 50;
/// A slice is this part of an RTT, but no shorter than a round may be.
const SLICES: u32 = 4;
const DOWN_GAIN: u64 = 90;
/// Probes of a shallow buffer overflow it: they are rarer there, and between them a small queue is kept up.
const SHORT_CRUISE_ROUNDS: u32 = 6;
const SHORT_CRUISE_GAIN: u64 = 102;
const NOISY_DOWN_GAIN: u64 = 85;
const NOISY_DOWN_ROUNDS: u32 = 4;
const NOISY_CRUISE_ROUNDS: u32 = 4;
const NOISY_CRUISE_GAIN: u64 = 100;
/// Over a short path cruising tends upwards: a queue, once it stands, shows the path's rate exactly, where its absence
/// shows nothing, and it is short. Over a long one it would cost more than it shows.
const NOISY_SHORT_CRUISE_GAIN: u64 = 101;
/// Lowest gain of the queue correction.
const CORRECTION_FLOOR: u64 = 80;
/// The path is the limit where it delivers less than this share, in percent, of what it is offered in plenty.
const BEHIND: u64 = 85;
/// Rounds over which the mean rate is taken.
const MEAN_ROUNDS: usize = 4;
/// Rounds of correction without effect after which the queue counts as somebody else's.
const FOREIGN_QUEUE_ROUNDS: u32 = 8;
/// The estimate falls by no more than this, in percent of itself, at a time, unless the path has fallen far behind.
const FALL: u64 = 90;
/// Window in datagrams before anything is known.
const INITIAL_WINDOW: u64 = 128;
/// Over a short path the initial window per RTT would claim more than any link has.
const INITIAL_RATE_MAX: BitRate = BitRate::from_mbps(100);
/// The window never falls below this many datagrams.
pub(super) const WINDOW_MIN: u64 = 16;
/// Window as a share of the BDP in percent; what is above 100 absorbs ack aggregation and jitter.
const WINDOW_GAIN: u64 = 200;
/// The same while accelerating where the RTT may vary by itself.
const VARYING_WINDOW_GAIN: u64 = 220;
/// Time that offload batches and held acks keep datagrams accounted for.
const WINDOW_SLACK: Duration = Duration::from_millis(2);
/// A cycle of probing is not shorter than this, however short the RTT.
const CYCLE_MIN: Duration = Duration::from_millis(20);
/// Loss beyond this share is never taken for the path's own.
const OWN_LOSS_MAX_PERMILLE: u64 = 300;
/// While the own loss is measured it is made up for by this much at most: less than `Down` stays below the path's rate,
/// or a queue that overflows would pass for the path's own loss, and making up for it would feed it.
const DOWN_COMPENSATION_MAX_PERMILLE: u64 = 60;
/// The loss measurement forgets half of itself each time it has seen this many datagrams.
const LOSS_WINDOW: u64 = 8_192;
/// Datagrams that have to be seen before the own loss is known.
const LOSS_KNOWN: u64 = 256;
/// Loss above the path's own by this much, and by a quarter of the own, is a queue that overflows or a policer.
const EXCESS_LOSS_PERMILLE: u64 = 15;
/// Lost datagrams in a round that, with a queue, show its overflow.
const OVERFLOW_MIN: u64 = 8;
/// Loss that may be the path's own while that is not known.
const UNKNOWN_LOSS_PERMILLE: u64 = 160;
/// No queue that overflows is shorter than this: below it a round's RTT is that of schedulers.
const OVERFLOW_QUEUE_MIN: Duration = Duration::from_millis(1);
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
    /// Bytes in flight after the ack.
    pub in_flight: ByteCount,
    /// Bytes delivered over the session.
    pub delivered: u64,
    /// Bytes found lost.
    pub lost: u64,
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

/// The rate controller of one session.
#[derive(Clone, Debug)]
pub struct Controller {
    config: ControllerConfig,
    phase: Phase,
    phase_since: Instant,
    phase_rounds: u32,
    gain: u64,
    /// The path's rate as estimated.
    rate: BitRate,
    /// There has been a sample.
    is_measured: bool,
    rounds: Rounds,
    /// Parts of rounds, which end by time alone: rounds last the longer the deeper the queue.
    slices: Rounds,
    round: u64,
    queue: QueueEstimator,
    /// Rounds in a row that showed more queue than there should be.
    standing_rounds: u32,
    /// The estimate when it began to stand.
    standing_from: BitRate,
    foreign_queue: bool,
    /// The window beside somebody whose queue it is.
    contest: Option<Contest>,
    patience: Patience,
    /// It is at an end.
    stands_firm: bool,
    wary_until: Instant,
    /// The queue overflowed a moment ago, and probes are not to make it do so again.
    overflowed: Option<Overflow>,
    heeds_overflow: bool,
    /// The round in which the first acceleration ended, or the path was found to have become slower.
    moved_at: Option<u64>,
    lost_in_round: bool,
    /// The round in which the queue was last drained to see whose it is.
    tested_at: Option<u64>,
    /// `Drain` ends when less than this share of the BDP, in percent, is in flight.
    drain_to: u64,
    /// How far the smallest RTT of the last slice was above the smallest.
    slice_rise: Duration,
    flat_base: BitRate,
    flat_rounds: u32,
    buildup: Buildup,
    /// It has cruised: whoever accelerates again follows a probe.
    has_cruised: bool,
    /// It accelerated, or the path became slower, since it last cruised: the queue moved, and not by itself.
    unsettled: bool,
    /// A probe has been sent whose answer is not in.
    probed: bool,
    /// Recent smallest RTT when it began, and how many in a row were answered with more.
    before_probe: Duration,
    answered: u64,
    low_acked: u64,
    low_lost: u64,
    /// The smallest RTT that was known when they began to be counted.
    low_min_rtt: Duration,
    /// Both when the last probe began.
    low_before_probe: (u64, u64),
    cruise_rounds: u32,
    lowest_gain: u64,
}

impl Controller {
    /// A controller that knows nothing but the first RTT.
    pub fn new(config: ControllerConfig, now: Instant, rtt: Duration) -> Self {
        let queue = QueueEstimator::new(now, rtt);
        // What the initial window comes to is taken for the rate until acks say otherwise: a few small samples of a
        // sender with little to say must not bring it down.
        let initial =
            BitRate::from_transfer(ByteCount::new(INITIAL_WINDOW * config.datagram.as_u64()), queue.min_rtt());
        Controller {
            config,
            phase: Phase::Accelerate,
            phase_since: now,
            phase_rounds: 0,
            gain: START_GAIN,
            rate: initial.min(INITIAL_RATE_MAX),
            is_measured: false,
            rounds: Rounds::new(now),
            slices: Rounds::new(now),
            round: 0,
            queue,
            standing_rounds: 0,
            standing_from: BitRate::ZERO,
            foreign_queue: false,
            contest: None,
            patience: Patience::default(),
            stands_firm: false,
            wary_until: now,
            overflowed: None,
            heeds_overflow: true,
            moved_at: None,
            lost_in_round: false,
            tested_at: None,
            drain_to: 100,
            slice_rise: Duration::ZERO,
            flat_base: BitRate::ZERO,
            flat_rounds: 0,
            buildup: Buildup::default(),
            has_cruised: false,
            unsettled: false,
            probed: false,
            before_probe: Duration::ZERO,
            answered: 0,
            low_acked: 0,
            low_lost: 0,
            low_min_rtt: rtt,
            low_before_probe: (0, 0),
            cruise_rounds: 3,
            lowest_gain: 100,
        }
    }

    /// Wire bytes of a full datagram from now on (the path MTU changed).
    pub fn set_datagram(&mut self, datagram: ByteCount) {
        self.config.datagram = datagram;
    }

    /// The path's delivery rate as estimated; before the first sample, the initial window per RTT.
    pub fn delivery_rate(&self) -> BitRate {
        self.rate
    }

    /// Share of datagrams that the path loses by itself, in permille.
    pub fn own_loss_permille(&self) -> u64 {
        if !self.knows_own_loss() {
            return 0;
        }
        (self.low_lost * 1000 / (self.low_acked + self.low_lost)).min(OWN_LOSS_MAX_PERMILLE)
    }

    /// Whether enough was seen of it to know it.
    pub fn knows_own_loss(&self) -> bool {
        self.low_acked + self.low_lost >= LOSS_KNOWN
    }

    /// Share of loss that may be the path's own, in permille.
    fn possible_loss_permille(&self) -> u64 {
        if self.knows_own_loss() { self.own_loss_permille() } else { UNKNOWN_LOSS_PERMILLE }
    }

    /// The rate to pace at, wire bytes.
    pub fn pacing_rate(&self) -> BitRate {
        // What is sent in `Down` shows the path's own loss, so it has to be below the path's rate for certain.
        let mean = (self.phase == Phase::Down).then(|| self.rounds.last(MEAN_ROUNDS)).flatten();
        let base = mean.map_or(self.rate, |mean| self.rate.min(mean.delivered).max(self.rate.percent(FALL)));
        let offered = BitRate::from_bps(
            u64::try_from(u128::from(base.as_bps()) * 1000 / u128::from(1000 - self.compensated_permille()))
                .unwrap_or(u64::MAX),
        );
        let floor = BitRate::from_transfer(ByteCount::new(2 * self.config.datagram.as_u64()), self.queue.min_rtt())
            .min(BitRate::from_kbps(256));
        let rate = offered.percent(self.effective_gain()).max(floor);
        match self.config.cap {
            Some(cap) => rate.min(cap),
            None => rate,
        }
    }

    /// By how much of the path's own loss the pace is raised, in permille.
    fn compensated_permille(&self) -> u64 {
        let own = self.own_loss_permille();
        if self.phase == Phase::Down { own.min(DOWN_COMPENSATION_MAX_PERMILLE) } else { own }
    }

    fn effective_gain(&self) -> u64 {
        if self.phase != Phase::Cruise || self.foreign_queue || self.contest.is_some() || !self.queue.is_standing() {
            return self.gain;
        }
        // Give the excess back over about twice the time that it takes to see it.
        let excess = self.queue.queue() - self.queue.target();
        let rounds = if self.queue.is_noisy() { 2 * NOISY_ROUNDS as u32 } else { 2 };
        let percent = excess.as_nanos() * 100 / (rounds * self.queue.min_rtt().max(ROUND_MIN)).as_nanos();
        (self.gain - u64::try_from(percent).unwrap_or(100).min(self.gain - CORRECTION_FLOOR)).max(CORRECTION_FLOOR)
    }

    /// Most bytes that may be in flight.
    pub fn window(&self) -> ByteCount {
        let datagram = self.config.datagram.as_u64();
        if !self.is_measured {
            return ByteCount::new(INITIAL_WINDOW * datagram);
        }
        if let Some(contest) = self.contest.filter(|_| !self.stands_firm) {
            return self.in_bytes(&contest).max(ByteCount::new(WINDOW_MIN * datagram));
        }
        let slack = self.pacing_rate().bytes_in(WINDOW_SLACK).as_u64();
        let (bdp, gain) = if self.phase == Phase::Accelerate && self.may_vary() {
            // The first RTTs may have been small ones.
            (self.rate.bytes_in(self.queue.last_rtt().min(2 * self.queue.min_rtt())), VARYING_WINDOW_GAIN)
        } else {
            (self.bdp(), WINDOW_GAIN)
        };
        ByteCount::new((bdp.as_u64() * gain / 100 + slack).max(WINDOW_MIN * datagram))
    }

    /// The window beside a neighbour, in bytes.
    fn in_bytes(&self, contest: &Contest) -> ByteCount {
        ByteCount::new((contest.window() * self.config.datagram.as_u64() as f64) as u64)
    }

    /// Bytes in flight that just fill the path.
    pub fn bdp(&self) -> ByteCount {
        self.rate.bytes_in(self.queue.base_rtt())
    }

    /// Whether what is sent now stays below the path's rate, so that its losses are the path's own.
    pub fn is_below_path_rate(&self) -> bool {
        // While a long queue stands, what is lost may have overflowed it.
        let full = if self.queue.is_noisy() {
            self.queue.queue() > self.full_queue() || self.slice_rise > self.full_queue() * 3 / 2
        } else {
            !self.is_short() && self.slice_rise > self.full_queue()
        };
        !full && (self.phase == Phase::Down || (self.phase == Phase::Cruise && self.effective_gain() < 97))
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Queueing delay of the last whole round.
    pub fn queue(&self) -> Duration {
        self.queue.queue()
    }

    /// The mean RTT of the path without a queue where it is known to vary by itself, or a little less.
    pub fn varying_rtt(&self) -> Option<Duration> {
        self.queue.varying_rtt()
    }

    /// Takes an ack.
    pub fn on_ack(&mut self, report: &AckReport) {
        let now = report.now;
        self.queue.on_rtt(now, report.rtt, report.min_rtt);
        if !self.queue.is_noisy() && self.queue.min_rtt() + self.queue.target() < self.low_min_rtt {
            // What was taken for an empty path had a queue, and it may have overflowed.
            (self.low_acked, self.low_lost, self.low_before_probe) = (0, 0, (0, 0));
            self.low_min_rtt = self.queue.min_rtt();
            self.join_drain(now);
        }
        self.rounds.on_lost(report.lost);
        self.slices.on_lost(report.lost);
        self.lost_in_round |= report.lost > 0;
        self.low_acked += report.low_acked;
        self.low_lost += report.low_lost;
        if self.low_acked + self.low_lost > LOSS_WINDOW {
            self.low_acked /= 2;
            self.low_lost /= 2;
        }
        if let Some(rtt) = report.rtt {
            self.rounds.on_rtt(rtt);
            self.slices.on_rtt(rtt);
        }
        let (mut ended, mut slice_ended) = (false, false);
        if let Some(sample) = report.sample {
            self.is_measured = true;
            // While accelerating the newest sample is the best. An app-limited one counts only where it shows more.
            if self.phase == Phase::Accelerate && !self.is_short() && !self.may_vary() {
                self.rate = self.rate.max(sample.rate);
            }
            // Where delay varies by more than the RTT, a round has to outlast that.
            let at_least = if self.is_short() && self.queue.is_noisy() { 2 * ROUND_MIN } else { ROUND_MIN };
            ended = self.rounds.on_sample(now, &sample, report.delivered, at_least);
            let sample = RateSample { prior_delivered: u64::MAX, ..sample };
            let at_least = (self.queue.min_rtt() / SLICES).max(ROUND_MIN);
            slice_ended = self.slices.on_sample(now, &sample, report.delivered, at_least);
        }
        let drains_to = if self.phase == Phase::Drain { self.drain_to } else { 100 };
        let empty = if self.queue.is_noisy() { self.rate.bytes_in(self.queue.mean_rtt()) } else { self.bdp() };
        let fits = report.in_flight.as_u64() * 100 <= empty.as_u64() * drains_to;
        if fits && (self.phase == Phase::Drain || (self.phase == Phase::Down && self.phase_rounds >= 1)) {
            self.enter_cruise(now);
        }
        if slice_ended {
            self.on_slice(now);
        }
        if ended {
            self.on_round(now, report);
        }
    }

    /// It knows the path's rate, and neither looks for it nor drains a queue.
    fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Cruise | Phase::Up | Phase::Down)
    }

    /// The path is shorter than a round may be: samples over one RTT are mostly noise.
    fn is_short(&self) -> bool {
        self.queue.min_rtt() < ROUND_MIN
    }

    /// What was offered, less what the path loses by itself: what was lost, as long as it may be that.
    fn offered(&self, span: &Span) -> BitRate {
        let own = if self.knows_own_loss() || !self.queue.is_noisy() {
            self.own_loss_permille()
        } else {
            span.lost_permille.min(UNKNOWN_LOSS_PERMILLE)
        };
        span.offered.permille(1000 - own)
    }

    fn on_round(&mut self, now: Instant, report: &AckReport) {
        self.round += 1;
        self.phase_rounds += 1;
        let app_limited = self.rounds.take_app_limited();
        let rtt = self.rounds.take_rtt();
        let Some(span) = self.rounds.last(1) else { return };
        if let Some(rtt) = rtt {
            self.queue.on_round(now, rtt);
            self.standing_rounds = if self.queue.is_standing() { self.standing_rounds + 1 } else { 0 };
            if self.standing_rounds <= 1 {
                self.standing_from = self.rate;
            }
            self.note_overflow(now, &span, rtt);
            if self.contest.is_some() {
                self.contend(now, &span, rtt, app_limited);
            }
        }
        let settled = self.is_settled();
        if settled && self.contest.is_none() && self.on_slower_rounds(now) {
            return;
        }
        if settled && !app_limited && self.test_queue(now) {
            return;
        }
        match self.phase {
            Phase::Accelerate => self.on_round_accelerating(now, &span, app_limited, report.in_flight),
            Phase::Drain => {
                if self.phase_rounds >= 4 {
                    self.enter_cruise(now);
                }
            }
            Phase::Up => {
                if self.phase_rounds < self.up_rounds() && !self.is_lossy_round(&span) {
                    return;
                }
                if !self.follow(now, &span) {
                    self.raise(&span);
                    let gain = if self.queue.is_noisy() { NOISY_DOWN_GAIN } else { DOWN_GAIN };
                    self.enter(now, Phase::Down, gain);
                }
            }
            Phase::Down => {
                if !self.follow(now, &span) {
                    self.raise(&span);
                    let longer = self.queue.is_noisy() && !self.is_short();
                    if self.phase_rounds >= if longer { NOISY_DOWN_ROUNDS } else { 3 } {
                        self.enter_cruise(now);
                    }
                }
            }
            Phase::Cruise => self.on_round_cruising(now, &span, app_limited, report.in_flight),
        }
    }

    /// The path's queue overflows: loss beyond the own in a round whose smallest RTT shows a queue that jitter cannot be.
    fn overflows(&self, span: &Span) -> bool {
        self.is_lossy(span, OVERFLOW_MIN) && self.queue.rise() > self.full_queue()
    }

    /// Longer than jitter can be: it may be about to overflow.
    fn full_queue(&self) -> Duration {
        (self.queue.min_rtt() / 4).max(4 * self.queue.jitter()).max(OVERFLOW_QUEUE_MIN)
    }

    /// More was lost than the path loses by itself, and `least` datagrams or more.
    fn is_lossy(&self, span: &Span, least: u64) -> bool {
        let own = self.own_loss_permille();
        let lost = span.bytes * span.lost_permille / 1000 / self.config.datagram.as_u64().max(1);
        span.lost_permille > own + own / 4 + EXCESS_LOSS_PERMILLE && lost >= least
    }

    /// More was lost in a round than the path loses by itself; weather that is hardly known yet may be a good deal of it.
    fn is_lossy_round(&self, span: &Span) -> bool {
        let uncertain = self.queue.is_noisy() || !self.knows_own_loss();
        if uncertain { self.is_lossy_noisy(span) } else { self.is_lossy(span, OVERFLOW_MIN) }
    }

    fn on_round_cruising(&mut self, now: Instant, span: &Span, app_limited: bool, in_flight: ByteCount) {
        if self.contest.is_none() && self.follow(now, span) {
            return;
        }
        self.lowest_gain = self.lowest_gain.min(self.effective_gain());
        self.meet_neighbours(now);
        if self.contest.is_none() && self.lower(now, span, app_limited, in_flight) {
            return;
        }
        if now - self.queue.min_rtt_seen > MIN_RTT_EXPIRY {
            self.queue.min_rtt_seen = now;
            self.enter(now, Phase::Drain, DRAIN_GAIN);
            return;
        }
        // A queue of our own tells more than a probe would, and wants to be gone first.
        let own_queue = if self.is_short() {
            self.standing_rounds > 0 && !self.foreign_queue
        } else {
            (1..FOREIGN_QUEUE_ROUNDS).contains(&self.standing_rounds)
                || self.queue.queue() > self.deep_queue()
                || self.contest.is_some()
        };
        let own_queue = own_queue && !self.queue.is_noisy();
        let is_time = self.phase_rounds >= self.cruise_rounds && now - self.phase_since >= CYCLE_MIN;
        if !app_limited && !own_queue && is_time && self.has_room() {
            self.probed = true;
            self.answered = 0;
            self.before_probe = self.queue.recent(NOISY_ROUNDS);
            self.probe(now);
        }
    }

    fn enter_cruise(&mut self, now: Instant) {
        self.has_cruised = true;
        if std::mem::take(&mut self.unsettled) {
            self.queue.forget_noise();
        }
        // Two to four rounds, so that sessions which share a path do not probe in step.
        let stagger = ((self.round ^ now.as_nanos()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u32 % 3;
        let (rounds, gain) = if self.queue.is_noisy() {
            (NOISY_CRUISE_ROUNDS, if self.is_short() { NOISY_SHORT_CRUISE_GAIN } else { NOISY_CRUISE_GAIN })
        } else if self.is_short() {
            (SHORT_CRUISE_ROUNDS, SHORT_CRUISE_GAIN)
        } else {
            (2, 100)
        };
        self.cruise_rounds = rounds + stagger;
        self.enter(now, Phase::Cruise, gain);
    }

    fn enter(&mut self, now: Instant, phase: Phase, gain: u64) {
        self.unsettled |= self.phase == Phase::Accelerate;
        if self.phase == Phase::Accelerate && !self.has_cruised {
            self.moved_at = Some(self.round);
        }
        if phase == Phase::Up {
            self.low_before_probe = (self.low_acked, self.low_lost);
        }
        self.phase = phase;
        self.gain = gain;
        self.drain_to = 100;
        self.phase_since = now;
        self.phase_rounds = 0;
        self.lowest_gain = 100;
    }
}
