//! Path MTU discovery: how long the channel's datagrams may be (DPLPMTUD, RFC 8899).
//!
//! A session begins with a size that every path carries and looks for more with padded probes, which nobody misses when
//! they are lost: their loss is neither congestion nor counted. Deviations from the RFC:
//!
//! - A round sends up to [`PROBES_PER_ROUND`] sizes at once instead of one (section 5.3.2 leaves the search open): the
//!   largest that arrives is the new size, so the usual path is known after one RTT. [`LOSSES_MAX`] is its MAX_PROBES.
//! - A black hole (section 4.3) is suspected as soon as [`FULL_LOST_MAX`] full datagrams in a row are lost while a
//!   smaller one sent among or after them arrives, and the size falls to the base at once. Where it was an outage
//!   after all, the first round of the new search restores it one RTT later, and nothing was a black hole.
//! - While full datagrams rest unacknowledged, a small datagram (a *canary*) leaves early: without it the suspicion
//!   would have to wait for a probe timeout.
//!
//! All sizes are of IP packets.

use std::time::Duration;

use smallvec::SmallVec;

use super::PathMtu;
use crate::units::Instant;

/// What every IPv4 path is taken to carry (RFC 8899 section 5.1.2, BASE_PLPMTU).
const BASE_IPV4: usize = 1200;
/// What every IPv6 path carries (RFC 8200 section 5).
const BASE_IPV6: usize = 1280;
/// Sizes tried at once.
const PROBES_PER_ROUND: usize = 4;
/// A size that was lost this often does not fit (RFC 8899 section 5.1.2, MAX_PROBES).
const LOSSES_MAX: u32 = 3;
/// A found size is looked beyond after this long (RFC 8899 section 5.1.1, PMTU_RAISE_TIMER).
const RAISE_INTERVAL: Duration = Duration::from_secs(600);
/// Full datagrams lost in a row that make a black hole likely.
const FULL_LOST_MAX: u32 = 4;
/// The search ends when what may be left to gain is this share of the size (1 / 100) …
const STEP_SHARE: usize = 100;
/// … or this many bytes.
const STEP_MIN: usize = 8;
/// Nothing is heard for this long, or a quarter of the RTT, before a canary leaves.
const CANARY_QUIET_MIN: Duration = Duration::from_millis(5);
/// MTUs of links and tunnels that occur: the search prefers them to the middle of an interval.
const USUAL: [usize; 18] =
    [1280, 1358, 1380, 1400, 1420, 1440, 1450, 1460, 1472, 1480, 1492, 1500, 2048, 4470, 8500, 8900, 9000, 9216];

/// A probe: its size, and the search that it belongs to. An older search's answers count no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct MtuProbe {
    pub(super) size: u16,
    search: u32,
}

/// What [`MtuSearch::poll`] wants to leave now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum MtuDatagram {
    /// Padded to its size.
    Probe(MtuProbe),
    /// As small as possible.
    Canary,
}

/// Counters of the search over a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct MtuCounters {
    pub(super) probes: u64,
    pub(super) black_holes: u64,
}

/// The size in force, and the search for a larger one.
#[derive(Debug)]
pub(super) struct MtuSearch {
    base: usize,
    max: usize,
    /// Datagrams are cut to this; confirmed, or the base.
    current: usize,
    /// Sizes from here on do not fit, as far as this search knows.
    bound: usize,
    losses: SmallVec<[(usize, u32); 8]>,
    due: SmallVec<[usize; PROBES_PER_ROUND]>,
    outstanding: u32,
    search: u32,
    raise_at: Option<Instant>,
    /// The size that was given up for a suspected black hole.
    suspected: Option<usize>,
    full_lost: u32,
    full_acked: Option<u64>,
    acked_at: Instant,
    canary_at: Instant,
    counters: MtuCounters,
}

impl MtuSearch {
    pub(super) fn new(now: Instant, mtu: PathMtu, ipv6: bool) -> Self {
        let (base, max) = match mtu {
            PathMtu::Fixed(size) => (size, size),
            PathMtu::Discover { max } => (if ipv6 { BASE_IPV6 } else { BASE_IPV4 }.min(max), max),
        };
        let mut search = MtuSearch {
            base,
            max,
            current: base,
            bound: max + 1,
            losses: SmallVec::new(),
            due: SmallVec::new(),
            outstanding: 0,
            search: 0,
            raise_at: None,
            suspected: None,
            full_lost: 0,
            full_acked: None,
            acked_at: now,
            canary_at: now,
            counters: MtuCounters::default(),
        };
        search.plan(now);
        search
    }

    /// Datagrams may be this long, as IP packets.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    pub(super) fn counters(&self) -> MtuCounters {
        self.counters
    }

    /// The path is another: everything found is void, and `new` begins.
    pub(super) fn replace(&mut self, new: MtuSearch) {
        let (search, counters) = (self.search + 1, self.counters);
        *self = MtuSearch { search, counters, ..new };
    }

    fn begin(&mut self, now: Instant) {
        self.search += 1;
        self.outstanding = 0;
        self.bound = self.max + 1;
        self.losses.clear();
        (self.full_lost, self.full_acked) = (0, None);
        self.plan(now);
    }

    /// Chooses the sizes of the next round; none when the search is over.
    fn plan(&mut self, now: Instant) {
        self.due = self.candidates();
        self.raise_at = None;
        if self.due.is_empty() {
            if self.suspected.take().is_some_and(|before| self.current < before) {
                self.counters.black_holes += 1;
            }
            if self.current < self.max {
                self.raise_at = Some(now + RAISE_INTERVAL);
            }
        }
    }

    fn step(&self) -> usize {
        (self.current / STEP_SHARE).max(STEP_MIN)
    }

    fn candidates(&self) -> SmallVec<[usize; PROBES_PER_ROUND]> {
        let low = self.current;
        let mut sizes = SmallVec::new();
        if self.bound <= low + 1 || (self.bound <= self.max && self.bound - low <= self.step()) {
            return sizes;
        }
        // The smallest size that was lost probably does not fit, and it is tried again where all depends on it.
        let lost = self.losses.iter().map(|(size, _)| *size).filter(|size| *size > low).min().unwrap_or(self.bound);
        if lost < self.bound && lost - low <= self.step() {
            sizes.push(lost);
            return sizes;
        }
        let mut add = |size: usize| {
            if low < size && size < lost && sizes.len() < PROBES_PER_ROUND && !sizes.contains(&size) {
                sizes.push(size);
            }
        };
        if lost > self.max {
            // Where the largest fits, the search is over.
            add(self.max);
            add(self.suspected.unwrap_or(self.max));
            add(1500);
            add(nearest_usual(low + (lost - low) / 2, low, lost));
            return sizes;
        }
        if USUAL.contains(&low) {
            // Probably the very MTU: is there anything at all beyond?
            add(low + self.step());
        }
        for part in 1..=2 {
            let point = low + (lost - low) * part / 3;
            add(nearest_usual(point, low, lost));
            add(point);
        }
        sizes
    }

    // --- what leaves ---

    /// Takes the next datagram that the search wants to leave at `now`. `oldest`: when the oldest datagram in flight
    /// left; `srtt`: the smoothed RTT.
    pub(super) fn poll(&mut self, now: Instant, oldest: Option<Instant>, srtt: Duration) -> Option<MtuDatagram> {
        if self.raise_at.is_some_and(|at| at <= now) {
            self.begin(now);
        }
        if let Some(size) = self.due.pop() {
            self.outstanding += 1;
            self.counters.probes += 1;
            let size = u16::try_from(size).unwrap_or(u16::MAX);
            return Some(MtuDatagram::Probe(MtuProbe { size, search: self.search }));
        }
        if self.canary_deadline(oldest, srtt).is_some_and(|at| at <= now) {
            self.canary_at = now;
            return Some(MtuDatagram::Canary);
        }
        None
    }

    pub(super) fn poll_timeout(&self, oldest: Option<Instant>, srtt: Duration) -> Option<Instant> {
        if !self.due.is_empty() {
            return Some(Instant::ZERO);
        }
        [self.raise_at, self.canary_deadline(oldest, srtt)].into_iter().flatten().min()
    }

    fn canary_deadline(&self, oldest: Option<Instant>, srtt: Duration) -> Option<Instant> {
        if self.current <= self.base {
            return None;
        }
        let quiet = (srtt / 4).max(CANARY_QUIET_MIN);
        Some((oldest? + srtt + quiet).max(self.acked_at + quiet).max(self.canary_at + srtt + quiet))
    }

    // --- what became of it ---

    pub(super) fn on_probe_acked(&mut self, now: Instant, probe: MtuProbe) {
        let size = usize::from(probe.size);
        if probe.search != self.search {
            return;
        }
        if size > self.current {
            self.current = size;
            (self.full_lost, self.full_acked) = (0, None);
            self.losses.retain(|(lost, _)| *lost > size);
            if size >= self.bound {
                self.bound = self.max + 1;
            }
        }
        self.resolve(now);
    }

    pub(super) fn on_probe_lost(&mut self, now: Instant, probe: MtuProbe) {
        let size = usize::from(probe.size);
        if probe.search != self.search {
            return;
        }
        if size > self.current {
            let count = match self.losses.iter_mut().find(|(lost, _)| *lost == size) {
                Some((_, count)) => {
                    *count += 1;
                    *count
                }
                None => {
                    self.losses.push((size, 1));
                    1
                }
            };
            if count >= LOSSES_MAX {
                self.bound = self.bound.min(size);
                let bound = self.bound;
                self.losses.retain(|(lost, _)| *lost <= bound);
            }
        }
        self.resolve(now);
    }

    fn resolve(&mut self, now: Instant) {
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding == 0 && self.due.is_empty() {
            self.plan(now);
        }
    }

    /// A datagram of `size` arrived, which was not a probe.
    pub(super) fn on_acked(&mut self, now: Instant, number: u64, size: usize) {
        self.acked_at = now;
        if size >= self.current && self.full_acked.is_none_or(|newest| number > newest) {
            self.full_acked = Some(number);
            self.full_lost = 0;
        }
    }

    /// A datagram of `size` is lost, which was not a probe. That it was declared lost means that a later one arrived;
    /// if that was a full one, it is in [`MtuSearch::on_acked`]'s books by now.
    pub(super) fn on_lost(&mut self, number: u64, size: usize) {
        if size >= self.current && self.full_acked.is_none_or(|newest| number > newest) {
            self.full_lost += 1;
        }
    }

    /// After the losses of a moment were told: falls back to the base where full datagrams vanish. True when it did.
    pub(super) fn fall_back(&mut self, now: Instant) -> bool {
        if self.current <= self.base || self.full_lost < FULL_LOST_MAX {
            return false;
        }
        self.suspected = Some(self.suspected.unwrap_or(self.current));
        self.current = self.base;
        self.begin(now);
        true
    }
}

/// The usual MTU strictly between `low` and `high` that is nearest to `point`; `point` itself where there is none.
fn nearest_usual(point: usize, low: usize, high: usize) -> usize {
    let between = USUAL.into_iter().filter(|size| low < *size && *size < high);
    between.min_by_key(|size| size.abs_diff(point)).unwrap_or(point)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SRTT: Duration = Duration::from_millis(40);

    fn search(max: usize) -> MtuSearch {
        MtuSearch::new(Instant::ZERO, PathMtu::Discover { max }, false)
    }

    /// Lets the path of `mtu` answer every probe that leaves; how many did.
    fn settle(search: &mut MtuSearch, now: Instant, mtu: usize) -> u32 {
        let mut probes = 0;
        loop {
            let mut round = Vec::new();
            while let Some(MtuDatagram::Probe(probe)) = search.poll(now, None, SRTT) {
                round.push(probe);
            }
            if round.is_empty() {
                return probes;
            }
            for probe in round {
                probes += 1;
                if usize::from(probe.size) <= mtu {
                    search.on_probe_acked(now, probe);
                } else {
                    search.on_probe_lost(now, probe);
                }
            }
        }
    }

    #[test]
    fn a_path_that_carries_the_most_is_known_after_one_round() {
        for max in [1500, 9000] {
            let mut search = search(max);
            assert_eq!(search.current(), 1200);
            assert!(settle(&mut search, Instant::ZERO, max) <= PROBES_PER_ROUND as u32);
            assert_eq!((search.current(), search.poll_timeout(None, SRTT)), (max, None));
        }
    }

    #[test]
    fn every_path_is_found_to_within_a_hundredth_with_few_probes() {
        let mut most = 0;
        for max in [1400, 1500, 9000, 9216] {
            for mtu in 1200..=max {
                let mut search = search(max);
                let probes = settle(&mut search, Instant::ZERO, mtu);
                let found = search.current();
                assert!(found <= mtu && mtu - found <= (mtu / 90).max(STEP_MIN), "{found} of {mtu}");
                most = most.max(probes);
            }
        }
        assert!(most <= 40, "{most} probes");
        for (mtu, max, bound) in [(1500, 9000, 12), (1492, 1500, 16), (1420, 1500, 16)] {
            let probes = settle(&mut search(max), Instant::ZERO, mtu);
            assert!(probes <= bound, "{probes} probes for {mtu} below {max}");
        }
    }

    #[test]
    fn a_lost_probe_or_two_are_no_verdict() {
        let mut search = search(1500);
        let mut left = 2;
        for _ in 0..20 {
            let mut round = Vec::new();
            while let Some(MtuDatagram::Probe(probe)) = search.poll(Instant::ZERO, None, SRTT) {
                round.push(probe);
            }
            for probe in round {
                if probe.size == 1500 && left > 0 {
                    left -= 1;
                    search.on_probe_lost(Instant::ZERO, probe);
                } else {
                    search.on_probe_acked(Instant::ZERO, probe);
                }
            }
        }
        assert_eq!((search.current(), left), (1500, 0));
    }

    #[test]
    fn a_fixed_size_is_neither_probed_nor_doubted() {
        let mut search = MtuSearch::new(Instant::ZERO, PathMtu::Fixed(1400), false);
        for number in 0..100 {
            search.on_lost(number, 1400);
        }
        assert!(!search.fall_back(Instant::ZERO));
        assert_eq!(search.poll(Instant::from_millis(9999), Some(Instant::ZERO), SRTT), None);
        assert_eq!((search.current(), search.counters()), (1400, MtuCounters::default()));
    }

    #[test]
    fn a_path_that_shrinks_is_noticed_and_measured_again() {
        let mut search = search(1500);
        settle(&mut search, Instant::ZERO, 1500);
        let now = Instant::from_millis(1000);
        for number in 0..u64::from(FULL_LOST_MAX) {
            assert!(!search.fall_back(now));
            search.on_lost(number, 1500);
        }
        assert!(search.fall_back(now));
        assert_eq!(search.current(), 1200);
        settle(&mut search, now, 1400);
        assert_eq!((search.current(), search.counters().black_holes), (1400, 1));
    }

    #[test]
    fn an_outage_is_no_black_hole() {
        let mut search = search(9000);
        settle(&mut search, Instant::ZERO, 9000);
        for number in 0..50 {
            search.on_lost(number, 9000);
        }
        assert!(search.fall_back(Instant::ZERO));
        settle(&mut search, Instant::ZERO, 9000);
        assert_eq!((search.current(), search.counters().black_holes), (9000, 0));
    }

    #[test]
    fn losses_among_full_datagrams_that_arrive_prove_nothing() {
        let mut search = search(1500);
        settle(&mut search, Instant::ZERO, 1500);
        for round in 0..50_u64 {
            search.on_acked(Instant::ZERO, round * 10 + 9, 1500);
            for number in 0..9 {
                search.on_lost(round * 10 + number, 1500);
            }
            assert!(!search.fall_back(Instant::ZERO));
        }
    }

    #[test]
    fn a_larger_path_is_found_when_the_raise_timer_ends() {
        let mut search = search(1500);
        settle(&mut search, Instant::ZERO, 1400);
        let raise = search.poll_timeout(None, SRTT).unwrap();
        assert_eq!(raise, Instant::ZERO + RAISE_INTERVAL);
        assert_eq!(settle(&mut search, raise - Duration::from_millis(1), 1500), 0);
        settle(&mut search, raise, 1500);
        assert_eq!(search.current(), 1500);
    }

    #[test]
    fn a_canary_leaves_when_full_datagrams_rest_unanswered() {
        let mut search = search(1500);
        settle(&mut search, Instant::ZERO, 1500);
        let ms = Instant::from_millis;
        search.on_acked(ms(100), 7, 1500);
        assert_eq!(search.poll_timeout(None, SRTT), None, "nothing is in flight");
        let oldest = Some(ms(80));
        assert_eq!(search.poll_timeout(oldest, SRTT), Some(ms(130)));
        assert_eq!(search.poll(ms(129), oldest, SRTT), None);
        assert_eq!(search.poll(ms(130), oldest, SRTT), Some(MtuDatagram::Canary));
        assert_eq!(search.poll_timeout(oldest, SRTT), Some(ms(180)), "and not another one at once");
    }

    #[test]
    fn answers_to_probes_of_another_path_do_not_count() {
        let mut search = search(1500);
        let Some(MtuDatagram::Probe(old)) = search.poll(Instant::ZERO, None, SRTT) else { panic!("no probe") };
        search.replace(MtuSearch::new(Instant::ZERO, PathMtu::Discover { max: 1500 }, false));
        search.on_probe_acked(Instant::ZERO, old);
        assert_eq!(search.current(), 1200);
        settle(&mut search, Instant::ZERO, 1500);
        assert_eq!(search.current(), 1500);
    }
}
