//! Connections that a restart has orphaned: hosts still believe in them, and are told the truth.
//!
//! The restarted appliance does not know their sequence numbers, and a host accepts a reset only with exactly the next
//! one (RFC 5961 section 3.2). So it asks: an ACK as from the other host, with numbers at random, is outside the window,
//! which makes the host answer with an ACK of its right numbers (RFC 9293 section 3.10.7.4, first check), and a RST with
//! those ends the connection. A host that has forgotten answers with a RST, also where it still listens: that is why the
//! question is no SYN, which RFC 5961 section 4.2 has answered in the same way, but which opens a connection at a
//! listener. The answers are taken off the wire.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::frame::{FlowKey, L2Header, Port, TcpSegment, bare_ack, bare_rst};
use crate::units::Instant;

use super::message::Orphan;
use super::output::Output;
use super::timers::{Timer, Timers};

/// Orphans at a time; more are not reset but left to the hosts' own timers.
const ORPHANS_MAX: usize = 4096;

/// Questions for one orphan, and the time between them: all within the second in which both ends shall know. Linux
/// answers at most two per second and connection (`tcp_invalid_ratelimit`, 500 ms).
const TRIES: u32 = 4;
const TRY_TIME: Duration = Duration::from_millis(260);

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Key of the segments that the host sends.
    host_key: FlowKey,
    l2: L2Header,
    /// What the questions' numbers are made of: different ones each time, since one may hit the window.
    number: u32,
    tries: u32,
    timer: Option<Instant>,
}

/// Orphaned connections being reset.
#[derive(Debug, Default)]
pub(super) struct Orphans {
    entries: BTreeMap<u64, Entry>,
    by_host_key: BTreeMap<FlowKey, u64>,
    next: u64,
}

impl Orphans {
    /// Begins to reset a connection at our host; `number` is any that others cannot guess.
    pub(super) fn start(
        &mut self,
        now: Instant,
        orphan: &Orphan,
        number: u32,
        timers: &mut Timers,
        output: &mut Output,
    ) {
        let host_key = if orphan.host_is_server { orphan.key.reversed() } else { orphan.key };
        if self.entries.len() >= ORPHANS_MAX || self.by_host_key.contains_key(&host_key) {
            return;
        }
        let id = self.next;
        self.next += 1;
        self.entries.insert(id, Entry { host_key, l2: orphan.l2, number, tries: 0, timer: None });
        self.by_host_key.insert(host_key, id);
        self.handle_timeout(now, id, timers, output);
    }

    /// Asks again, or gives up.
    pub(super) fn handle_timeout(&mut self, now: Instant, id: u64, timers: &mut Timers, output: &mut Output) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.timer = None;
        if entry.tries >= TRIES {
            self.by_host_key.remove(&entry.host_key);
            self.entries.remove(&id);
            return;
        }
        entry.tries += 1;
        let seq = entry.number.wrapping_mul(2 * entry.tries + 1);
        // Some stacks look at the acknowledgement first, and answer only one of what was never sent: of two numbers that
        // are half the sequence space apart, one is ahead of them.
        let ack =
            entry.number.rotate_left(16).wrapping_add(entry.tries << 31).wrapping_add(((entry.tries - 1) / 2) << 30);
        output.build(Port::Lan, |frame| bare_ack(frame, &entry.l2, &entry.host_key.reversed(), seq, ack));
        timers.set(Timer::Orphan(id), &mut entry.timer, Some(now + TRY_TIME));
    }

    /// A segment of no flow. True when it belongs to an orphan, and has been dealt with.
    pub(super) fn handle_segment(
        &mut self,
        segment: &TcpSegment<'_>,
        timers: &mut Timers,
        output: &mut Output,
    ) -> bool {
        let Some(&id) = self.by_host_key.get(&segment.key) else { return false };
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        if !segment.verify_checksums() {
            return true;
        }
        if segment.flags.rst() {
            timers.set(Timer::Orphan(id), &mut entry.timer, None);
            self.entries.remove(&id);
            self.by_host_key.remove(&segment.key);
        } else if segment.flags.ack() {
            // It stays until its time is over: the RST may be lost, and late segments must not pass.
            let key = segment.key.reversed();
            output.build(Port::Lan, |frame| bare_rst(frame, &entry.l2, &key, segment.ack, None));
        }
        true
    }

    /// A new SYN of the host: the old connection is over for it.
    pub(super) fn forget(&mut self, host_key: &FlowKey, timers: &mut Timers) {
        if let Some(id) = self.by_host_key.remove(host_key)
            && let Some(mut entry) = self.entries.remove(&id)
        {
            timers.set(Timer::Orphan(id), &mut entry.timer, None);
        }
    }

    /// Orphans being reset.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::FrameBuf;
    use crate::frame::{Classified, TcpFlags, VlanIds, classify};

    fn orphan(port: u16) -> Orphan {
        let key =
            FlowKey { vlans: VlanIds::default(), src: ([10, 0, 0, 1], port).into(), dst: ([10, 0, 0, 2], 8000).into() };
        Orphan { key, host_is_server: true, l2: L2Header::default() }
    }

    fn pop(output: &mut Output) -> Option<(FlowKey, TcpFlags, u32)> {
        let (port, frame) = output.pop()?;
        assert_eq!(port, Port::Lan);
        let Classified::Tcp(segment) = classify(&frame) else { panic!("a segment was built") };
        Some((segment.key, segment.flags, segment.seq))
    }

    #[test]
    fn a_host_is_asked_for_its_numbers_and_reset_with_them() {
        let (mut orphans, mut timers, mut output) = (Orphans::default(), Timers::default(), Output::default());
        let orphan = orphan(40000);
        orphans.start(Instant::ZERO, &orphan, 99, &mut timers, &mut output);
        assert_eq!(pop(&mut output), Some((orphan.key, TcpFlags::ACK, 3 * 99)));

        let mut challenge = FrameBuf::with_headroom();
        bare_ack(&mut challenge, &L2Header::default(), &orphan.key.reversed(), 5000, 7777);
        let Classified::Tcp(segment) = classify(&challenge) else { panic!("a segment was built") };
        assert!(orphans.handle_segment(&segment, &mut timers, &mut output));
        assert_eq!(pop(&mut output), Some((orphan.key, TcpFlags::RST, 7777)));

        let mut reset = FrameBuf::with_headroom();
        bare_rst(&mut reset, &L2Header::default(), &orphan.key.reversed(), 0, Some(100));
        let Classified::Tcp(segment) = classify(&reset) else { panic!("a segment was built") };
        assert!(orphans.handle_segment(&segment, &mut timers, &mut output));
        assert_eq!((orphans.len(), timers.first(), pop(&mut output)), (0, None, None));
        assert!(!orphans.handle_segment(&segment, &mut timers, &mut output));
    }

    #[test]
    fn a_silent_host_is_asked_a_few_times_within_about_a_second() {
        let (mut orphans, mut timers, mut output) = (Orphans::default(), Timers::default(), Output::default());
        orphans.start(Instant::ZERO, &orphan(40000), 99, &mut timers, &mut output);
        let (mut asked, mut now) = (1, Instant::ZERO);
        while let Some(at) = timers.first() {
            now = at;
            let Some(Timer::Orphan(id)) = timers.pop(now) else { panic!("only this timer is set") };
            let before = output.pop().is_some();
            assert!(before || asked > 1);
            orphans.handle_timeout(now, id, &mut timers, &mut output);
            asked += 1;
        }
        assert_eq!(asked, TRIES + 1);
        assert_eq!(orphans.len(), 0);
        assert!(now <= Instant::from_millis(1_100));
    }

    #[test]
    fn of_two_questions_one_acknowledges_what_was_never_sent() {
        let (mut orphans, mut timers, mut output) = (Orphans::default(), Timers::default(), Output::default());
        orphans.start(Instant::ZERO, &orphan(40000), 0x1234_5678, &mut timers, &mut output);
        let mut acks = Vec::new();
        while let Some((_, frame)) = output.pop() {
            let Classified::Tcp(segment) = classify(&frame) else { panic!("a segment was built") };
            acks.push(segment.ack);
            orphans.handle_timeout(Instant::ZERO, 0, &mut timers, &mut output);
        }
        assert_eq!(acks.len(), TRIES as usize);
        for pair in acks.chunks(2) {
            assert_eq!(pair[0].wrapping_sub(pair[1]), 1 << 31);
        }
        assert_ne!(acks[0], acks[2]);
    }

    #[test]
    fn orphans_are_bounded() {
        let (mut orphans, mut timers, mut output) = (Orphans::default(), Timers::default(), Output::default());
        for port in 1..=ORPHANS_MAX as u16 + 9 {
            orphans.start(Instant::ZERO, &orphan(port), 1, &mut timers, &mut output);
        }
        assert_eq!(orphans.len(), ORPHANS_MAX);
        orphans.forget(&orphan(1).key.reversed(), &mut timers);
        assert_eq!(orphans.len(), ORPHANS_MAX - 1);
    }
}
