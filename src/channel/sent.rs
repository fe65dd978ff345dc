//! Datagrams on their way: what each carried, which are acknowledged, which are lost.
//!
//! Loss is judged by time (RFC 8985, RFC 9002 section 6.1.2): a datagram is lost when one sent later has been
//! acknowledged and it is overdue by a reordering window. While the path has never reordered, distance in packets
//! counts as well, which is faster. Both learn: every datagram that arrives out of order widens the window to what
//! would have been enough for it.

use std::ops::Range;
use std::time::Duration;

use super::log::Log;
use super::pmtu::MtuProbe;
use super::ranges::RangeSet;
use super::{ResetCode, StreamId};
use crate::rate::{RttEstimator, SendSnapshot};
use crate::units::Instant;

/// Packets of distance that mean loss on a path that has never reordered (RFC 9002 section 6.1.1 says 3; offload
/// engines and multi-queue NICs swap a few more).
const PACKET_THRESHOLD: u64 = 8;
/// The window is never finer than timers and batches.
const WINDOW_MIN: Duration = Duration::from_millis(1);
/// Without reordering for this long the path is taken for orderly again.
const REORDERING_MEMORY: Duration = Duration::from_secs(30);

/// What to do when a datagram is acknowledged or lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SentFrame {
    Stream {
        stream: StreamId,
        offset: u64,
        len: u16,
        fin: bool,
    },
    Credit(StreamId),
    Reset(StreamId, ResetCode),
    /// Nothing but padding, to learn whether the path carries so much. Its loss says nothing else.
    MtuProbe(MtuProbe),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Acknowledged, or nothing that needs to be.
    Resolved,
    InFlight,
    /// Declared lost; kept to learn whether that was wrong.
    Lost,
}

/// There is one for every datagram under way: what it weighs is what the channel needs beside the bytes themselves.
#[derive(Clone, Copy, Debug)]
struct Sent {
    snapshot: SendSnapshot,
    /// Its first frame, modulo 2^32, counted from the first ever.
    first_frame: u32,
    frames: u16,
    bytes: u16,
    fate: Fate,
    /// Sent below the path's rate: a loss is the path's own.
    low: bool,
}

/// What the datagrams carried, in order.
#[derive(Debug, Default)]
struct Frames {
    log: Log<SentFrame>,
    /// How many are gone from the front, modulo 2^32.
    gone: u32,
}

impl Frames {
    fn of(&self, sent: &Sent) -> impl Iterator<Item = SentFrame> {
        self.log.range(sent.first_frame.wrapping_sub(self.gone) as usize).copied().take(usize::from(sent.frames))
    }
}

/// What a datagram carried.
type Carried<'a> = &'a mut dyn Iterator<Item = SentFrame>;

/// An acknowledged datagram.
pub(super) struct Acked<'a> {
    pub(super) number: u64,
    pub(super) snapshot: SendSnapshot,
    pub(super) bytes: u64,
    pub(super) low: bool,
    /// Nothing where it had been declared lost.
    pub(super) frames: Carried<'a>,
    /// It had been declared lost.
    pub(super) spurious: bool,
}

/// A lost datagram.
pub(super) struct Lost<'a> {
    pub(super) number: u64,
    pub(super) bytes: u64,
    pub(super) low: bool,
    pub(super) frames: Carried<'a>,
}

/// All datagrams of a session that may still matter.
#[derive(Debug)]
pub(super) struct SentPackets {
    /// Number of the first kept.
    base: u64,
    packets: Log<Sent>,
    frames: Frames,
    /// Frames of the datagram that is being made.
    carried: u16,
    acked: RangeSet,
    in_flight: u64,
    largest_acked: Option<u64>,
    largest_acked_sent: Instant,
    /// No datagram below is in flight.
    cursor: u64,
    reordering_window: Duration,
    reordered_at: Option<Instant>,
    last_eliciting: Option<Instant>,
}

impl SentPackets {
    pub(super) fn new(now: Instant) -> Self {
        SentPackets {
            base: 0,
            packets: Log::default(),
            frames: Frames::default(),
            carried: 0,
            acked: RangeSet::default(),
            in_flight: 0,
            largest_acked: None,
            largest_acked_sent: now,
            cursor: 0,
            reordering_window: Duration::ZERO,
            reordered_at: None,
            last_eliciting: None,
        }
    }

    /// The number the next datagram gets.
    pub(super) fn next_number(&self) -> u64 {
        self.base + self.packets.len() as u64
    }

    /// Wire bytes in flight.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Bytes of memory held.
    pub(super) fn memory(&self) -> usize {
        self.packets.memory() + self.frames.log.memory()
    }

    /// Gives memory back that has not been used for a while.
    pub(super) fn release_idle(&mut self) {
        self.packets.release_idle();
        self.frames.log.release_idle();
    }

    /// The datagram that leaves next carries this.
    pub(super) fn carry(&mut self, frame: SentFrame) {
        self.frames.log.push_back(frame);
        self.carried += 1;
    }

    /// What it was said so far that it carries.
    pub(super) fn carried(&self) -> impl Iterator<Item = SentFrame> {
        self.frames.log.range(self.frames.log.len() - usize::from(self.carried)).copied()
    }

    /// Notes a datagram that leaves with what it was said to [`SentPackets::carry`]; `eliciting` ones expect an ack and
    /// count as in flight.
    pub(super) fn on_sent(&mut self, snapshot: SendSnapshot, bytes: u64, low: bool, eliciting: bool) {
        let fate = if eliciting { Fate::InFlight } else { Fate::Resolved };
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX);
        if eliciting {
            self.in_flight += u64::from(bytes);
            self.last_eliciting = Some(snapshot.sent);
        }
        let frames = std::mem::take(&mut self.carried);
        let first_frame = self.frames.gone.wrapping_add((self.frames.log.len() - usize::from(frames)) as u32);
        self.packets.push_back(Sent { snapshot, first_frame, frames, bytes, fate, low });
        if !eliciting {
            self.trim(snapshot.sent, Duration::MAX);
        }
    }

    /// Takes the ranges of an ack (from the highest down) and hands each newly acknowledged datagram to `on_acked`,
    /// in ascending order within a range. False where it acknowledges what was never sent.
    pub(super) fn on_ack(
        &mut self,
        now: Instant,
        rtt: &RttEstimator,
        ranges: impl Iterator<Item = Range<u64>>,
        mut on_acked: impl FnMut(Acked<'_>),
    ) -> bool {
        let next = self.next_number();
        let before = self.largest_acked;
        let mut furthest_late: Option<Duration> = None;
        for range in ranges {
            if range.end > next {
                return false;
            }
            let range = range.start.max(self.base)..range.end;
            if range.is_empty() {
                continue;
            }
            let (base, packets, frames, in_flight) = (self.base, &mut self.packets, &self.frames, &mut self.in_flight);
            let (largest, largest_sent) = (&mut self.largest_acked, &mut self.largest_acked_sent);
            self.acked.insert_with(range, |fresh| {
                for number in fresh {
                    let packet = &mut packets[(number - base) as usize];
                    let fate = std::mem::replace(&mut packet.fate, Fate::Resolved);
                    if fate == Fate::Resolved {
                        continue;
                    }
                    if fate == Fate::InFlight {
                        *in_flight -= u64::from(packet.bytes);
                    }
                    if before.is_some_and(|before| number < before) {
                        // Against the smoothed RTT: the latest may be that of the latecomer itself.
                        let late = (now - packet.snapshot.sent).saturating_sub(rtt.srtt());
                        furthest_late = furthest_late.max(Some(late));
                    }
                    if largest.is_none_or(|largest| number > largest) {
                        *largest = Some(number);
                        *largest_sent = packet.snapshot.sent;
                    }
                    let spurious = fate == Fate::Lost;
                    let carried = if spurious { 0 } else { usize::from(packet.frames) };
                    on_acked(Acked {
                        number,
                        snapshot: packet.snapshot,
                        bytes: u64::from(packet.bytes),
                        low: packet.low,
                        frames: &mut frames.of(packet).take(carried),
                        spurious,
                    });
                }
            });
        }
        if let Some(late) = furthest_late {
            self.reordered_at = Some(now);
            self.reordering_window = self.reordering_window.max(late + late / 4).min(rtt.srtt());
        }
        true
    }

    fn time_threshold(&self, rtt: &RttEstimator) -> Duration {
        let base = rtt.srtt().max(rtt.latest());
        base + (base / 8).max(WINDOW_MIN).max(self.reordering_window)
    }

    fn forget_reordering(&mut self, now: Instant) {
        if self.reordered_at.is_some_and(|at| now - at > REORDERING_MEMORY) {
            self.reordered_at = None;
            self.reordering_window = Duration::ZERO;
        }
    }

    /// Hands every datagram that is lost by now to `on_lost`.
    pub(super) fn detect_losses(&mut self, now: Instant, rtt: &RttEstimator, mut on_lost: impl FnMut(Lost<'_>)) {
        self.forget_reordering(now);
        let Some(largest) = self.largest_acked else { return };
        let threshold = self.time_threshold(rtt);
        self.cursor = self.cursor.max(self.base);
        while self.cursor < largest {
            let index = (self.cursor - self.base) as usize;
            let packet = &mut self.packets[index];
            if packet.fate == Fate::InFlight {
                let far = self.reordered_at.is_none() && largest - self.cursor >= PACKET_THRESHOLD;
                if !far && now - packet.snapshot.sent < threshold {
                    break;
                }
                packet.fate = Fate::Lost;
                self.in_flight -= u64::from(packet.bytes);
                on_lost(Lost {
                    number: self.cursor,
                    bytes: u64::from(packet.bytes),
                    low: packet.low,
                    frames: &mut self.frames.of(packet),
                });
            }
            self.cursor += 1;
        }
        self.trim(now, threshold * 2);
    }

    /// When [`SentPackets::detect_losses`] finds the next loss if no ack arrives.
    pub(super) fn loss_deadline(&self, rtt: &RttEstimator) -> Option<Instant> {
        let largest = self.largest_acked?;
        let cursor = self.cursor.max(self.base);
        let packet = self.packets.range((cursor - self.base) as usize).next()?;
        (cursor < largest && packet.fate == Fate::InFlight).then(|| packet.snapshot.sent + self.time_threshold(rtt))
    }

    /// Drops what no longer matters from the front; losses are kept for `memory`, to recognise spurious ones.
    fn trim(&mut self, now: Instant, memory: Duration) {
        while let Some(front) = self.packets.front() {
            let done = match front.fate {
                Fate::Resolved => true,
                Fate::InFlight => false,
                Fate::Lost => now - front.snapshot.sent > memory,
            };
            if !done {
                break;
            }
            let frames = front.frames;
            self.frames.log.drop_front(usize::from(frames));
            self.frames.gone = self.frames.gone.wrapping_add(u32::from(frames));
            self.packets.drop_front(1);
            self.base += 1;
        }
        self.acked.remove_below(self.base);
    }

    /// Numbers below are settled: the peer need not report them any more.
    pub(super) fn settled(&self) -> u64 {
        self.base
    }

    /// What the oldest datagram in flight carried: the contents of a probe.
    pub(super) fn oldest_in_flight(&self) -> impl Iterator<Item = SentFrame> {
        self.first_in_flight().into_iter().flat_map(|sent| self.frames.of(sent))
    }

    fn first_in_flight(&self) -> Option<&Sent> {
        let start = (self.cursor.max(self.base) - self.base) as usize;
        self.packets.range(start).find(|sent| sent.fate == Fate::InFlight)
    }

    /// The largest number acknowledged.
    pub(super) fn largest_acked(&self) -> Option<u64> {
        self.largest_acked
    }

    /// When the oldest datagram in flight left.
    pub(super) fn oldest_in_flight_at(&self) -> Option<Instant> {
        self.first_in_flight().map(|sent| sent.snapshot.sent)
    }

    /// When the last datagram that expects an ack left.
    pub(super) fn last_eliciting(&self) -> Option<Instant> {
        self.last_eliciting
    }

    /// The reordering window in force.
    #[cfg(test)]
    fn reordering_window(&self) -> Duration {
        self.reordering_window
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::DeliveryEstimator;
    use crate::units::ByteCount;

    fn ms(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn rtt(millis: u64) -> RttEstimator {
        let mut rtt = RttEstimator::default();
        rtt.on_sample(Instant::ZERO, Duration::from_millis(millis), Duration::ZERO);
        rtt
    }

    fn with_packets(count: u64) -> SentPackets {
        let mut sent = SentPackets::new(Instant::ZERO);
        let mut delivery = DeliveryEstimator::new(Instant::ZERO);
        for number in 0..count {
            let snapshot = delivery.on_sent(ms(number), ByteCount::ZERO, 1000);
            let frame = SentFrame::Stream { stream: StreamId(0), offset: number, len: 1, fin: false };
            sent.carry(frame);
            sent.on_sent(snapshot, 1000, false, true);
        }
        sent
    }

    fn losses(sent: &mut SentPackets, now: Instant, rtt: &RttEstimator) -> usize {
        let mut count = 0;
        sent.detect_losses(now, rtt, |_| count += 1);
        count
    }

    fn ack(sent: &mut SentPackets, now: Instant, rtt: &RttEstimator, range: Range<u64>) -> Vec<(u64, bool)> {
        let mut acked = Vec::new();
        assert!(sent.on_ack(now, rtt, std::iter::once(range), |packet| acked.push((packet.number, packet.spurious))));
        acked
    }

    #[test]
    fn an_orderly_path_loses_by_distance() {
        let (mut sent, rtt) = (with_packets(20), rtt(100));
        ack(&mut sent, ms(100), &rtt, 2..10);
        assert_eq!(losses(&mut sent, ms(100), &rtt), 2);
        assert_eq!(sent.in_flight(), 10 * 1000);
    }

    #[test]
    fn a_path_that_reorders_loses_by_time_only() {
        let (mut sent, rtt) = (with_packets(60), rtt(100));
        ack(&mut sent, ms(110), &rtt, 1..8);
        assert_eq!(losses(&mut sent, ms(110), &rtt), 0);
        assert_eq!(ack(&mut sent, ms(115), &rtt, 0..8), [(0, false)]);
        ack(&mut sent, ms(140), &rtt, 9..40);
        assert_eq!(losses(&mut sent, ms(119), &rtt), 0, "reordering was seen");
        assert_eq!(sent.loss_deadline(&rtt), Some(ms(8) + Duration::from_millis(100) + sent.reordering_window()));
        assert_eq!(losses(&mut sent, ms(140), &rtt), 1);
    }

    #[test]
    fn a_spurious_loss_is_recognised_and_widens_the_window() {
        let (mut sent, rtt) = (with_packets(20), rtt(100));
        ack(&mut sent, ms(110), &rtt, 1..20);
        assert_eq!(losses(&mut sent, ms(110), &rtt), 1);
        assert_eq!(ack(&mut sent, ms(130), &rtt, 0..20), [(0, true)]);
        assert_eq!(sent.reordering_window(), Duration::from_micros(37_500));
        assert_eq!(sent.in_flight(), 0);
    }

    #[test]
    fn an_ack_of_the_future_is_refused() {
        let (mut sent, rtt) = (with_packets(3), rtt(10));
        assert!(!sent.on_ack(ms(5), &rtt, std::iter::once(0..4), |_| {}));
    }

    #[test]
    fn everything_acknowledged_leaves_nothing_behind() {
        let (mut sent, rtt) = (with_packets(1000), rtt(10));
        ack(&mut sent, ms(1000), &rtt, 0..1000);
        losses(&mut sent, ms(1000), &rtt);
        assert_eq!((sent.settled(), sent.packets.len(), sent.acked.len()), (1000, 0, 0));
        assert_eq!(sent.oldest_in_flight().count(), 0);
        assert_eq!(sent.frames.log.len(), 0);
    }
}
