//! One direction of the emulator: frames in, each held until the link says that it arrives.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use longhaul::units::Instant;
use longhaul::wan::{Link, Verdict};

use crate::lateness::Lateness;
use crate::trace::Trace;
use crate::vnet::{Shape, SuperSegment};

/// A super-segment is delivered whole, at its last segment's moment, unless that delays its first one by more than this:
/// then it is cut. 64 KiB stay whole above 524 Mbps.
const PIECE_TIME: Duration = Duration::from_millis(1);

/// Bytes held at most, in flight and queued; what comes beyond is dropped and counted as a local drop. Enough for 10 Gbps
/// and 400 ms.
pub const HELD_LIMIT: usize = 512 << 20;

/// What happened to frames, as opposed to segments (which [`longhaul::wan::LinkStats`] counts).
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct FrameCounters {
    /// Frames read, super-segments as one.
    pub received: u64,
    /// Of these, super-segments.
    pub super_segments: u64,
    /// Super-segments that did not stay whole.
    pub split: u64,
    /// Frames written.
    pub sent: u64,
    /// Bytes held at most.
    pub held_max_bytes: usize,
}

/// Frames that the emulator itself lost: not part of the emulated path, and void a measurement.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct LocalDrops {
    /// Dropped by the kernel before they could be read.
    pub kernel_receive: u64,
    /// Refused by the outgoing interface.
    pub send_refused: u64,
    /// Longer than any buffer, or contradicting their own headers.
    pub malformed: u64,
    /// Beyond [`HELD_LIMIT`].
    pub held_overflow: u64,
}

impl LocalDrops {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.kernel_receive + self.send_refused + self.malformed + self.held_overflow
    }
}

/// A frame and when it is due. Ties leave in the order of arrival.
#[derive(Debug)]
struct Held {
    due: Instant,
    number: u64,
    frame: Vec<u8>,
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Held {}
impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

/// One direction.
#[derive(Debug)]
pub struct Lane {
    /// The emulated link.
    pub link: Link,
    /// Frames.
    pub frames: FrameCounters,
    /// Losses of our own.
    pub drops: LocalDrops,
    /// Timer error.
    pub lateness: Lateness,
    /// Recorder of the queue, where asked.
    pub trace: Option<Trace>,
    held: BinaryHeap<Reverse<Held>>,
    held_bytes: usize,
    next_number: u64,
    last_arrival: Instant,
    verdicts: Vec<Verdict>,
}

impl Lane {
    /// An empty lane.
    pub fn new(link: Link) -> Self {
        Lane {
            link,
            frames: FrameCounters::default(),
            drops: LocalDrops::default(),
            lateness: Lateness::default(),
            trace: None,
            held: BinaryHeap::new(),
            held_bytes: 0,
            next_number: 0,
            last_arrival: Instant::ZERO,
            verdicts: Vec::new(),
        }
    }

    /// Takes a frame that arrived at `arrival`, virtio-net header first.
    pub fn accept(&mut self, arrival: Instant, frame: Vec<u8>) {
        self.frames.received += 1;
        let shape = match Shape::of(&frame) {
            Ok(shape) => shape,
            Err(_) => {
                self.drops.malformed += 1;
                return;
            }
        };
        if self.held_bytes + frame.len() > HELD_LIMIT {
            self.drops.held_overflow += 1;
            return;
        }
        self.last_arrival = self.last_arrival.max(arrival);
        self.observe_queue();
        match shape {
            Shape::Single(wire_len) => {
                if let Some(due) = self.link.offer(self.last_arrival, wire_len).delivery() {
                    self.hold(due, frame);
                }
            }
            Shape::Super(segments) => self.accept_super_segment(segments, frame),
        }
        self.observe_queue();
    }

    fn observe_queue(&mut self) {
        if let Some(trace) = &mut self.trace {
            trace.observe(&mut self.link, self.last_arrival);
        }
    }

    /// When the next frame is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.held.peek().map(|Reverse(held)| held.due)
    }

    /// The next frame that is due at `now`, with its moment.
    pub fn poll_due(&mut self, now: Instant) -> Option<(Instant, Vec<u8>)> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(held) = self.held.pop()?;
        self.held_bytes -= held.frame.len();
        Some((held.due, held.frame))
    }

    fn accept_super_segment(&mut self, segments: SuperSegment, frame: Vec<u8>) {
        self.frames.super_segments += 1;
        let mut verdicts = std::mem::take(&mut self.verdicts);
        verdicts.clear();
        self.link.offer_burst(self.last_arrival, segments.wire_lens(), &mut verdicts);
        let mut runs = Runs { verdicts: &verdicts, at: 0 };
        match runs.next() {
            None => {}
            Some(run) if run.count == verdicts.len() => self.hold(run.due, frame),
            first => {
                self.frames.split += 1;
                for run in first.into_iter().chain(runs) {
                    self.hold(run.due, segments.cut(&frame, run.first, run.count));
                }
            }
        }
        self.verdicts = verdicts;
    }

    fn hold(&mut self, due: Instant, frame: Vec<u8>) {
        self.held_bytes += frame.len();
        self.frames.held_max_bytes = self.frames.held_max_bytes.max(self.held_bytes);
        self.held.push(Reverse(Held { due, number: self.next_number, frame }));
        self.next_number += 1;
    }
}

/// Neighbouring segments of a super-segment that are delivered together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    first: usize,
    count: usize,
    due: Instant,
}

/// The runs of survivors: cut where a segment is missing, where one would overtake, and where keeping together would
/// delay the first by more than [`PIECE_TIME`].
struct Runs<'a> {
    verdicts: &'a [Verdict],
    at: usize,
}

impl Iterator for Runs<'_> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let (first, begin) =
            (self.at..self.verdicts.len()).find_map(|i| self.verdicts[i].delivery().map(|due| (i, due)))?;
        let mut run = Run { first, count: 1, due: begin };
        while let Some(due) = self.verdicts.get(first + run.count).and_then(|verdict| verdict.delivery()) {
            if due < run.due || due.saturating_since(begin) > PIECE_TIME {
                break;
            }
            run.due = due;
            run.count += 1;
        }
        self.at = first + run.count;
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Verdict {
        Verdict::Deliver(Instant::from_micros(micros))
    }

    fn runs(verdicts: &[Verdict]) -> Vec<(usize, usize, u64)> {
        Runs { verdicts, at: 0 }.map(|run| (run.first, run.count, run.due.as_micros())).collect()
    }

    #[test]
    fn survivors_stay_together_up_to_a_gap() {
        assert_eq!(runs(&[at(1), at(2), at(3)]), [(0, 3, 3)]);
        assert_eq!(runs(&[Verdict::Lost, at(2), at(3), Verdict::Lost, at(5)]), [(1, 2, 3), (4, 1, 5)]);
        assert_eq!(runs(&[at(1), Verdict::QueueFull, Verdict::QueueFull]), [(0, 1, 1)]);
        assert_eq!(runs(&[Verdict::Lost; 3]), []);
    }

    #[test]
    fn a_run_ends_where_order_would_change_or_the_first_would_wait_too_long() {
        assert_eq!(runs(&[at(5), at(9), at(6)]), [(0, 2, 9), (2, 1, 6)]);
        assert_eq!(runs(&[at(0), at(600), at(1000), at(1001)]), [(0, 3, 1000), (3, 1, 1001)]);
    }

    #[test]
    fn frames_leave_when_due_in_order_of_their_moments() {
        let config = longhaul::wan::LinkConfig::new(longhaul::units::BitRate::from_mbps(8), Duration::from_millis(10));
        let mut lane = Lane::new(Link::new(config, 1).unwrap());
        for mark in 0..3 {
            let mut frame = vec![0; crate::vnet::VNET_LEN + 100];
            frame[30] = mark;
            lane.accept(Instant::from_millis(1), frame);
        }
        assert_eq!(lane.next_due(), Some(Instant::from_micros(11_100)));
        assert!(lane.poll_due(Instant::from_micros(11_099)).is_none());
        for mark in 0..3 {
            let (due, frame) = lane.poll_due(Instant::from_millis(12)).unwrap();
            assert_eq!((due.as_micros(), frame[30]), (11_100 + 100 * u64::from(mark), mark));
        }
        assert_eq!((lane.held_bytes, lane.next_due()), (0, None));
    }
}
