//! One direction of a path at work: segments in, the moment of each one's delivery out.

use std::collections::VecDeque;
use std::time::Duration;

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::SeedableRng;

use super::jitter::JitterProcess;
use super::loss::LossProcess;
use super::{Jitter, LinkConfig, LinkConfigError, Loss, Outage};
use crate::units::{BitRate, ByteCount, Instant};

/// What becomes of one segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It arrives at that moment.
    Deliver(Instant),
    /// Random loss took it, after it had used its line time.
    Lost,
    /// The queue was full.
    QueueFull,
    /// The link was dead.
    Outage,
    /// Longer than the MTU allows.
    Oversize,
}

impl Verdict {
    /// The moment of delivery, if there is one.
    pub const fn delivery(self) -> Option<Instant> {
        match self {
            Verdict::Deliver(at) => Some(at),
            _ => None,
        }
    }
}

/// Counters of one direction since its start; each segment offered is in exactly one of the outcomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkStats {
    /// Segments offered.
    pub offered: u64,
    /// Bytes offered, Ethernet headers included.
    pub offered_bytes: ByteCount,
    /// Segments with a moment of delivery.
    pub delivered: u64,
    /// Their bytes.
    pub delivered_bytes: ByteCount,
    /// Segments lost at random.
    pub lost: u64,
    /// Segments dropped because the queue was full.
    pub queue_full: u64,
    /// Segments gone in an outage.
    pub outage: u64,
    /// Segments longer than the MTU.
    pub oversize: u64,
    /// Delivered segments that were held back for reordering.
    pub held_back: u64,
    /// Most bytes the queue ever held, the segment on the line included.
    pub queue_max: ByteCount,
}

/// One direction of a path: see the [module](super) for the model.
#[derive(Clone, Debug)]
pub struct Link {
    config: LinkConfig,
    loss: LossProcess,
    jitter: JitterProcess,
    loss_rng: Pcg64Mcg,
    jitter_rng: Pcg64Mcg,
    reorder_rng: Pcg64Mcg,
    /// When the line has sent all it was given: this many nanoseconds, and `remainder` / rate of another.
    free_at: Instant,
    remainder: u128,
    /// What the queue holds: when each segment's last bit leaves, and its length. Bounded by the queue's bytes.
    queue: VecDeque<(Instant, u32)>,
    queued: u64,
    /// The last in-order delivery; the next is not before it.
    last_delivery: Instant,
    stats: LinkStats,
}

impl Link {
    /// A link at rest.
    ///
    /// # Errors
    /// When the configuration describes no link.
    pub fn new(config: LinkConfig, seed: u64) -> Result<Self, LinkConfigError> {
        config.check()?;
        // Distinct streams from one seed; seed_from_u64 mixes, so neighbours are unrelated.
        let rng = |purpose: u64| Pcg64Mcg::seed_from_u64(seed.wrapping_mul(8).wrapping_add(purpose));
        Ok(Link {
            loss: LossProcess::new(config.loss),
            jitter: JitterProcess::new(config.jitter),
            loss_rng: rng(0),
            jitter_rng: rng(1),
            reorder_rng: rng(2),
            free_at: Instant::ZERO,
            remainder: 0,
            queue: VecDeque::new(),
            queued: 0,
            last_delivery: Instant::ZERO,
            stats: LinkStats::default(),
            config,
        })
    }

    /// Offers one segment of `wire_len` bytes (IP packet and Ethernet header) at `now`, not before the last call's.
    pub fn offer(&mut self, now: Instant, wire_len: u32) -> Verdict {
        self.drain(now);
        self.judge(now, wire_len)
    }

    /// Offers the segments of a super-segment, which arrive together; appends one verdict each, in order, to `verdicts`.
    ///
    /// Each segment queues, uses line time and is lost by itself. Who keeps the survivors together must deliver them no
    /// earlier than the last one's moment.
    pub fn offer_burst(&mut self, now: Instant, wire_lens: impl IntoIterator<Item = u32>, verdicts: &mut Vec<Verdict>) {
        self.drain(now);
        for wire_len in wire_lens {
            let verdict = self.judge(now, wire_len);
            verdicts.push(verdict);
        }
    }

    /// Bytes in the queue at `now`, the segment on the line included.
    pub fn backlog(&mut self, now: Instant) -> ByteCount {
        self.drain(now);
        ByteCount::new(self.queued)
    }

    /// How long a segment offered at `now` would wait for the line.
    pub fn queue_delay(&self, now: Instant) -> Duration {
        self.free_at.saturating_since(now)
    }

    /// Counters since the start.
    pub fn stats(&self) -> LinkStats {
        self.stats
    }

    /// The configuration, as changed since.
    pub fn config(&self) -> &LinkConfig {
        &self.config
    }

    /// Changes the line rate for segments offered from now on; what is queued already leaves as it would have.
    ///
    /// # Errors
    /// At rate zero, which an outage is for; the rate stays.
    pub fn set_rate(&mut self, rate: BitRate) -> Result<(), LinkConfigError> {
        if rate == BitRate::ZERO {
            return Err(LinkConfigError::NoRate);
        }
        self.config.rate = rate;
        // A part of a nanosecond at the old rate: once per change, not per segment, so nothing accumulates.
        self.remainder = 0;
        Ok(())
    }

    /// Changes the largest IP packet for segments offered from now on.
    pub fn set_mtu(&mut self, mtu: u32) {
        self.config.mtu = mtu;
    }

    /// Changes the propagation delay for segments offered from now on; order is kept.
    pub fn set_delay(&mut self, delay: Duration) {
        self.config.delay = delay;
    }

    /// Changes the delay variation for segments offered from now on.
    pub fn set_jitter(&mut self, jitter: Jitter) {
        self.config.jitter = jitter;
        self.jitter = JitterProcess::new(jitter);
    }

    /// Changes the random loss for segments offered from now on.
    ///
    /// # Errors
    /// When such bursts cannot be; the loss stays.
    pub fn set_loss(&mut self, loss: Loss) -> Result<(), LinkConfigError> {
        loss.check()?;
        self.config.loss = loss;
        self.loss = LossProcess::new(loss);
        Ok(())
    }

    /// Replaces the whole configuration for segments offered from now on: as the single changes do, all or none.
    ///
    /// # Errors
    /// When it describes no link; the old one stays.
    pub fn reconfigure(&mut self, config: LinkConfig) -> Result<(), LinkConfigError> {
        config.check()?;
        if config.rate != self.config.rate {
            self.set_rate(config.rate)?;
        }
        if config.jitter != self.config.jitter {
            self.set_jitter(config.jitter);
        }
        if config.loss != self.config.loss {
            self.set_loss(config.loss)?;
        }
        self.config = config;
        Ok(())
    }

    /// Adds a dead time.
    pub fn add_outage(&mut self, outage: Outage) {
        self.config.outages.push(outage);
    }

    /// Takes from the queue what has left the line.
    fn drain(&mut self, now: Instant) {
        while let Some(&(leaves, wire_len)) = self.queue.front() {
            if leaves > now {
                break;
            }
            self.queued -= u64::from(wire_len);
            self.queue.pop_front();
        }
    }

    fn judge(&mut self, now: Instant, wire_len: u32) -> Verdict {
        let bytes = ByteCount::new(u64::from(wire_len));
        self.stats.offered += 1;
        self.stats.offered_bytes += bytes;
        if wire_len > self.config.max_wire_len() {
            self.stats.oversize += 1;
            return Verdict::Oversize;
        }
        if self.is_dead(now) {
            self.stats.outage += 1;
            return Verdict::Outage;
        }
        if self.queued + u64::from(wire_len) > self.config.queue.as_u64() {
            self.stats.queue_full += 1;
            return Verdict::QueueFull;
        }
        let departure = self.serialise(now, wire_len);
        self.queue.push_back((departure, wire_len));
        self.queued += u64::from(wire_len);
        self.stats.queue_max = self.stats.queue_max.max(ByteCount::new(self.queued));

        // Drawn for every admitted segment, so that an outage does not shift the losses after it.
        let lost = self.loss.strikes(&mut self.loss_rng);
        if self.is_dead(departure) {
            self.stats.outage += 1;
            return Verdict::Outage;
        }
        if lost {
            self.stats.lost += 1;
            return Verdict::Lost;
        }
        self.stats.delivered += 1;
        self.stats.delivered_bytes += bytes;
        Verdict::Deliver(self.deliver(departure))
    }

    /// Puts the segment on the line behind all others; when its last bit leaves.
    fn serialise(&mut self, now: Instant, wire_len: u32) -> Instant {
        if now > self.free_at {
            self.free_at = now;
            self.remainder = 0;
        }
        let rate = u128::from(self.config.rate.as_bps());
        let bit_nanos = u128::from(wire_len) * 8_000_000_000 + self.remainder;
        self.remainder = bit_nanos % rate;
        self.free_at += Duration::from_nanos(u64::try_from(bit_nanos / rate).unwrap_or(u64::MAX));
        self.free_at
    }

    fn deliver(&mut self, departure: Instant) -> Instant {
        let mean = departure + self.config.delay;
        let deviation = self.jitter.deviation(departure, &mut self.jitter_rng);
        let varied = if deviation < 0 {
            (mean - Duration::from_nanos(deviation.unsigned_abs())).max(departure)
        } else {
            mean + Duration::from_nanos(deviation.unsigned_abs())
        };
        let reorder = self.config.reorder;
        if reorder.probability > super::Probability::ZERO && reorder.probability.draw(&mut self.reorder_rng) {
            self.stats.held_back += 1;
            return varied + reorder.hold;
        }
        if self.config.jitter.reorders {
            return varied;
        }
        // Only a delay changed at run time can bring a delivery before the last one.
        self.last_delivery = self.last_delivery.max(varied);
        self.last_delivery
    }

    fn is_dead(&self, moment: Instant) -> bool {
        self.config.outages.iter().any(|outage| outage.covers(moment))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::{Probability, Reorder};

    const FRAME: u32 = 1514;

    fn link(config: LinkConfig) -> Link {
        Link::new(config, 42).unwrap()
    }

    fn clean(mbps: u64, delay_ms: u64) -> LinkConfig {
        LinkConfig::new(BitRate::from_mbps(mbps), Duration::from_millis(delay_ms))
    }

    /// Offers `segments` full frames back to back at line rate, never filling the queue.
    fn deliveries(link: &mut Link, segments: u32) -> Vec<Verdict> {
        let mut now = Instant::ZERO;
        (0..segments)
            .map(|_| {
                let verdict = link.offer(now, FRAME);
                now = now.max(Instant::ZERO + link.queue_delay(Instant::ZERO));
                verdict
            })
            .collect()
    }

    #[test]
    fn an_idle_link_delivers_after_line_time_and_delay() {
        let mut link = link(clean(100, 25));
        let sent = Instant::from_millis(7);
        // 1514 bytes at 100 Mbps: 121.12 us.
        assert_eq!(link.offer(sent, FRAME), Verdict::Deliver(sent + Duration::from_nanos(25_121_120)));
        assert_eq!(link.queue_delay(sent), Duration::from_nanos(121_120));
        assert_eq!(link.backlog(sent), ByteCount::new(1514));
        assert_eq!(link.backlog(sent + Duration::from_nanos(121_120)), ByteCount::ZERO);
    }

    #[test]
    fn ten_minutes_at_a_rate_that_never_divides_do_not_drift_by_a_nanosecond() {
        let rate = BitRate::from_bps(999_999_937);
        let mut link = link(LinkConfig::new(rate, Duration::ZERO));
        let segments = 50_000_000_u64;
        let mut now = Instant::ZERO;
        for _ in 0..segments {
            now = link.offer(now, FRAME).delivery().unwrap();
        }
        let exact = u128::from(segments) * u128::from(FRAME) * 8_000_000_000 / 999_999_937;
        assert!(exact > 600_000_000_000);
        assert_eq!(u128::from(now.as_nanos()), exact);
    }

    #[test]
    fn the_queue_drops_from_the_tail_at_its_last_byte() {
        let mut config = clean(100, 0);
        config.queue = ByteCount::new(10 * u64::from(FRAME));
        let mut link = link(config);
        let mut verdicts = Vec::new();
        link.offer_burst(Instant::ZERO, [FRAME; 12], &mut verdicts);
        assert!(verdicts[..10].iter().all(|v| v.delivery().is_some()));
        assert_eq!(verdicts[10..], [Verdict::QueueFull; 2]);
        let one_left = Instant::from_nanos(121_120);
        assert!(link.offer(one_left - Duration::from_nanos(1), FRAME).delivery().is_none());
        assert!(link.offer(one_left, FRAME).delivery().is_some());
        let stats = link.stats();
        assert_eq!((stats.offered, stats.delivered, stats.queue_full), (14, 11, 3));
        assert_eq!(stats.queue_max, ByteCount::new(15_140));
    }

    #[test]
    fn segments_of_a_burst_use_line_time_one_after_the_other() {
        let mut link = link(clean(1000, 5));
        let mut verdicts = Vec::new();
        link.offer_burst(Instant::ZERO, [FRAME, FRAME, 100], &mut verdicts);
        let ends: Vec<u64> = verdicts.iter().map(|v| v.delivery().unwrap().as_nanos() - 5_000_000).collect();
        assert_eq!(ends, [12_112, 24_224, 25_024]);
    }

    #[test]
    fn every_segment_has_exactly_one_outcome() {
        let mut config = clean(100, 5);
        config.loss = Loss::Random(Probability::from_ppm(100_000));
        config.queue = ByteCount::new(20_000);
        config.outages = vec![Outage { from: Instant::from_millis(10), until: Instant::from_millis(20) }];
        let mut link = link(config);
        for i in 0..2_000_u64 {
            link.offer(Instant::from_micros(i * 50), if i % 100 == 0 { 1600 } else { FRAME });
        }
        let s = link.stats();
        assert_eq!(s.offered, 2_000);
        assert_eq!(s.oversize, 20);
        assert_eq!(s.offered, s.delivered + s.lost + s.queue_full + s.outage + s.oversize);
        assert!(s.lost > 50 && s.queue_full > 500 && s.outage > 100, "{s:?}");
    }

    #[test]
    fn an_outage_takes_what_is_queued_but_not_what_is_on_its_way() {
        let mut config = clean(100, 25);
        config.outages = vec![Outage { from: Instant::from_micros(200), until: Instant::from_millis(1) }];
        let mut link = link(config);
        assert!(link.offer(Instant::ZERO, FRAME).delivery().is_some());
        assert_eq!(link.offer(Instant::ZERO, FRAME), Verdict::Outage);
        assert_eq!(link.offer(Instant::from_micros(999), FRAME), Verdict::Outage);
        assert!(link.offer(Instant::from_millis(1), FRAME).delivery().is_some());
    }

    #[test]
    fn default_jitter_keeps_order_and_reordering_jitter_does_not() {
        let mut config = clean(100, 12);
        config.jitter = Jitter::ordered(Duration::from_millis(3));
        let inversions = |config: LinkConfig| {
            let at: Vec<_> = deliveries(&mut link(config), 50_000).iter().map(|v| v.delivery().unwrap()).collect();
            at.windows(2).filter(|w| w[1] < w[0]).count()
        };
        assert_eq!(inversions(config.clone()), 0);
        config.jitter = Jitter::reordering(Duration::from_millis(3));
        assert!(inversions(config) > 10_000);
    }

    #[test]
    fn segments_held_back_are_overtaken_and_hold_nobody_up() {
        let mut config = clean(100, 5);
        config.reorder = Reorder { probability: Probability::from_ppm(10_000), hold: Duration::from_millis(2) };
        let mut link = link(config);
        let at: Vec<_> = deliveries(&mut link, 20_000).iter().map(|v| v.delivery().unwrap()).collect();
        let overtaken = at.windows(2).filter(|w| w[1] < w[0]).count() as u64;
        assert!((140..=260).contains(&link.stats().held_back), "{:?}", link.stats());
        assert!(overtaken > 120 && overtaken <= link.stats().held_back, "{overtaken}");
    }

    #[test]
    fn the_same_seed_loses_the_same_segments_whatever_the_jitter() {
        let mut config = clean(100, 5);
        config.loss = Loss::Random(Probability::from_ppm(10_000));
        let pattern = |config: &LinkConfig, seed| {
            let mut link = Link::new(config.clone(), seed).unwrap();
            deliveries(&mut link, 10_000).iter().map(|v| *v == Verdict::Lost).collect::<Vec<_>>()
        };
        let without = pattern(&config, 1);
        config.jitter = Jitter::reordering(Duration::from_millis(3));
        assert_eq!(pattern(&config, 1), without);
        assert_ne!(pattern(&config, 2), without);
    }

    #[test]
    fn a_changed_rate_holds_for_what_is_offered_after() {
        let mut link = link(clean(100, 0));
        link.offer(Instant::ZERO, FRAME);
        link.set_rate(BitRate::from_mbps(10)).unwrap();
        assert_eq!(link.offer(Instant::ZERO, FRAME).delivery(), Some(Instant::from_nanos(121_120 + 1_211_200)));
        assert_eq!(link.set_rate(BitRate::ZERO), Err(LinkConfigError::NoRate));
        assert_eq!(link.config().rate, BitRate::from_mbps(10));
    }

    #[test]
    fn a_new_configuration_holds_for_what_is_offered_after_or_not_at_all() {
        let mut link = link(clean(100, 0));
        link.offer(Instant::ZERO, FRAME);
        let slower = LinkConfig { loss: Loss::random(Probability::ONE), ..clean(10, 3) };
        link.reconfigure(slower.clone()).unwrap();
        assert_eq!(link.offer(Instant::ZERO, FRAME), Verdict::Lost);
        assert_eq!(link.queue_delay(Instant::ZERO), Duration::from_nanos(121_120 + 1_211_200));
        let refused = LinkConfig { rate: BitRate::ZERO, ..clean(10, 9) };
        assert_eq!(link.reconfigure(refused), Err(LinkConfigError::NoRate));
        assert_eq!(*link.config(), slower);
    }

    #[test]
    fn a_smaller_mtu_drops_what_it_no_longer_carries() {
        let mut link = link(clean(100, 0));
        assert!(link.offer(Instant::ZERO, FRAME).delivery().is_some());
        link.set_mtu(1400);
        assert_eq!(link.offer(Instant::ZERO, FRAME), Verdict::Oversize);
        assert!(link.offer(Instant::ZERO, 1414).delivery().is_some());
    }

    #[test]
    fn a_shorter_delay_at_run_time_keeps_order() {
        let mut link = link(clean(100, 50));
        let first = link.offer(Instant::ZERO, FRAME).delivery().unwrap();
        link.set_delay(Duration::from_millis(1));
        assert_eq!(link.offer(Instant::from_millis(1), FRAME).delivery(), Some(first));
    }

    #[test]
    fn settings_that_make_no_link_are_refused() {
        let mut config = clean(100, 1);
        config.queue = ByteCount::new(1500);
        assert!(matches!(Link::new(config.clone(), 0), Err(LinkConfigError::QueueBelowOneFrame { .. })));
        config.rate = BitRate::ZERO;
        assert!(matches!(Link::new(config, 0), Err(LinkConfigError::NoRate)));
    }
}
