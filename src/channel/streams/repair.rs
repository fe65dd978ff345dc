//! Repair symbols and the streams: what is kept for them, and what they give back.

use std::ops::Range;

use super::super::repair::{PROTECTED_MAX, Source};
use super::super::wire::{RepairFrame, expand};
use super::{StreamId, Streams, Violation};

/// Streams of which bytes are kept that were read, at most; with [`PROTECTED_MAX`] that bounds the memory it takes.
const KEEPING_MAX: usize = 8;
/// Bytes are kept for so many releases of idle memory after the peer's last symbol: about a minute.
const KEEPING_TIME: u8 = 60;

impl Streams {
    /// Takes what the symbols of a group are made over.
    pub(in super::super) fn on_repair(&mut self, repair: RepairFrame) -> Result<(), Violation> {
        self.keeping_time = KEEPING_TIME;
        let id = repair.stream;
        if !self.admit(id) {
            self.recovery.drop_group(repair.group);
            return Ok(());
        }
        self.keep(id);
        let Some(stream) = self.table.get(&id) else { return Ok(()) };
        let offset = expand(repair.offset_low, stream.recv.expected());
        let end = offset.checked_add(repair.layout.bytes()).ok_or(Violation)?;
        if end > stream.recv.limit() {
            return Err(Violation);
        }
        if repair.fin {
            self.insert(id, end, &[], true)?;
        }
        if self.table.get(&id).is_some_and(|stream| stream.recv.has(&(offset..end))) {
            self.recovery.drop_group(repair.group);
            return Ok(());
        }
        self.recovery.on_repair(repair, offset).ok_or(Violation)?;
        self.recover(id)
    }

    /// Takes a symbol, whether or not it is known what it is made over.
    pub(in super::super) fn on_symbol(&mut self, group: u16, index: u8, bytes: &[u8]) -> Result<(), Violation> {
        match self.recovery.on_symbol(group, index, bytes).ok_or(Violation)? {
            Some(id) => self.recover(id),
            None => Ok(()),
        }
    }

    /// Computes what the symbols of a stream give, and takes it as if it had arrived.
    pub(super) fn recover(&mut self, id: StreamId) -> Result<(), Violation> {
        let mut gave = false;
        while let Some(stream) = self.table.get(&id)
            && let Some(blocks) = self.recovery.recover(id, &stream.recv)
        {
            for (offset, bytes) in blocks {
                self.recovered += bytes.len() as u64;
                self.insert(id, offset, &bytes, false)?;
            }
            gave = true;
        }
        if gave {
            self.note_restless(id);
        }
        Ok(())
    }

    /// Has bytes of a stream kept after they were read, while the peer makes use of that.
    pub(super) fn keep(&mut self, id: StreamId) {
        if self.keeping_time == 0 || self.keeping >= KEEPING_MAX {
            return;
        }
        if let Some(stream) = self.table.get_mut(&id)
            && !stream.recv.keeps()
        {
            stream.recv.set_keep(&mut self.pool, PROTECTED_MAX);
            self.keeping += 1;
        }
    }

    /// A while has passed: of streams that rest nothing is kept any more.
    pub(super) fn release_kept(&mut self) {
        self.keeping_time = self.keeping_time.saturating_sub(1);
        if self.keeping == 0 {
            // There may be symbols that have not heard what they are made over.
            self.recovery.clear();
            return;
        }
        let mut moved = false;
        for (id, stream) in self.table.iter_mut().filter(|(_, stream)| stream.recv.keeps()) {
            if stream.recv.is_quiet() || self.keeping_time == 0 {
                stream.recv.set_keep(&mut self.pool, 0);
                self.keeping -= 1;
                self.recovery.forget(*id);
            } else {
                moved = true;
            }
        }
        if !moved {
            self.recovery.clear();
        }
    }

    /// Stream bytes that repair symbols gave back.
    pub(in super::super) fn recovered(&self) -> u64 {
        self.recovered
    }
}

impl Source for Streams {
    fn rests_unacked_from(&self, stream: StreamId) -> Option<u64> {
        let stream = self.table.get(&stream).filter(|stream| !stream.blocked && stream.send.unacked() > 0);
        stream.map(|stream| stream.send.unacked_from())
    }

    fn copy_sent(&self, stream: StreamId, range: Range<u64>) -> Vec<u8> {
        self.table.get(&stream).map_or_else(Vec::new, |stream| stream.send.copy_sent(range))
    }

    fn on_covered(&mut self, stream: StreamId, end: u64) {
        if let Some(stream) = self.table.get_mut(&stream) {
            stream.send.on_covered(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::super::recovery::HELD_MAX;
    use super::super::super::repair::RepairSender;
    use super::super::super::tail::TailCopies;
    use super::super::super::wire::{self, Cursor, Frame};
    use super::*;
    use crate::units::Instant;

    const SRTT: Duration = Duration::from_millis(100);
    const CUT: usize = 1000;

    /// A segment: offset, bytes, whether the stream ends with it.
    type Sent = (u64, Vec<u8>, bool);

    fn lossy() -> TailCopies {
        let mut tail = TailCopies::new(Instant::ZERO, false);
        (0..1000).for_each(|at| tail.on_settled(at % 50 == 0, true));
        let bytes =
            super::super::super::sent::SentFrame::Stream { stream: StreamId(0), offset: 0, len: 60_000, fin: false };
        (0..60).for_each(|_| tail.on_sent(Instant::ZERO, bytes, false));
        tail
    }

    /// A finished stream of these bytes and its id, segments as sent, and what symbols leave after them in datagrams of at
    /// most `longest` bytes.
    fn sent(bytes: &[u8], longest: usize) -> (StreamId, Vec<Sent>, Vec<Vec<u8>>) {
        let (mut streams, mut tail) = (Streams::new(true), lossy());
        let mut repair = RepairSender::new(Instant::ZERO, true, true);
        let id = streams.open().unwrap();
        assert_eq!(streams.write(id, bytes), bytes.len());
        streams.finish(id);
        let mut segments = Vec::new();
        while let Some((_, segment)) = streams.next_segment(|_| CUT) {
            let mut copy = Vec::new();
            streams.append_to(id, &segment, &mut copy);
            repair.on_sent(Instant::ZERO, true, (id, segment.offset), (segment.len as u16, segment.fin));
            segments.push((segment.offset, copy, segment.fin));
        }
        let mut symbols = Vec::new();
        if repair.poll(Instant::from_millis(100), (SRTT, longest), &mut tail, &mut streams) {
            while repair.has_pending() {
                let mut frame = Vec::new();
                assert!(repair.put_symbol(longest, longest, &mut frame));
                symbols.push(frame);
            }
        }
        (id, segments, symbols)
    }

    fn read(streams: &mut Streams, id: StreamId, out: &mut Vec<u8>) {
        let from = out.len();
        out.resize(from + streams.readable(id), 0);
        streams.peek(id, &mut out[from..]);
        streams.consume(id, out.len() - from);
    }

    /// Gives all frames of a datagram to the streams; how many of them were symbols.
    fn feed(streams: &mut Streams, datagram: &[u8]) -> Result<usize, Violation> {
        let (mut cursor, mut symbols) = (Cursor::new(datagram), 0);
        while let Ok(Some(frame)) = cursor.next_frame() {
            match frame {
                Frame::Repair(repair) => streams.on_repair(repair)?,
                Frame::Symbol { group, index, bytes } => {
                    streams.on_symbol(group, index, bytes)?;
                    symbols += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        Ok(symbols)
    }

    proptest! {
        #[test]
        fn lost_segments_come_back_by_symbols_and_are_as_they_were(
            len in 1_usize..60_000,
            fates in proptest::collection::vec(0_u8..20, 200),
            symbols_first in any::<bool>(),
            backwards in any::<bool>(),
            longest in prop_oneof![Just(CUT + 6), Just(2 * CUT)],
        ) {
            let bytes: Vec<u8> = (0..len).map(|at| (at * 31 + at / 251) as u8).collect();
            let (id, segments, mut symbols) = sent(&bytes, longest);
            prop_assert!(symbols.iter().all(|datagram| datagram.len() <= longest));
            if backwards {
                symbols.reverse();
            }
            prop_assert!(!symbols.is_empty());
            let mut peer = Streams::new(false);
            peer.keeping_time = 1;
            let mut got = Vec::new();
            let arrived: Vec<_> =
                segments.iter().zip(&fates).filter(|(_, fate)| **fate > 0).map(|(segment, _)| segment).collect();
            // Of what describes the symbols, one is not lost.
            let fates = symbols.iter().zip(&fates[100..]).enumerate();
            let held: Vec<_> =
                fates.filter(|(at, (_, fate))| **fate > 0 || *at == 0).map(|(_, (datagram, _))| datagram).collect();
            let lost = segments.len() - arrived.len();
            let give = |peer: &mut Streams, got: &mut Vec<u8>| {
                for (offset, bytes, fin) in &arrived {
                    peer.on_stream(id, *offset as u32, bytes, *fin).unwrap();
                    read(peer, id, got);
                }
            };
            if !symbols_first {
                give(&mut peer, &mut got);
            }
            let held: usize = held.iter().map(|datagram| feed(&mut peer, datagram).unwrap()).sum();
            if symbols_first {
                give(&mut peer, &mut got);
            }
            read(&mut peer, id, &mut got);
            prop_assert!(bytes.starts_with(&got));
            if lost <= held && held > 0 {
                prop_assert_eq!(got.len(), bytes.len());
                prop_assert!(peer.is_ended(id) && !peer.recovery.has(id));
            }
            prop_assert!(lost > 0 || symbols_first || peer.recovered() == 0);
        }

        #[test]
        fn whatever_calls_itself_a_symbol_does_no_harm(
            frames in proptest::collection::vec(
                (
                    (any::<bool>(), 0_u16..12, 0_u32..3, prop_oneof![0_u32..5000, any::<u32>()], 0_u8..6),
                    proptest::collection::vec((0_u8..70, 0_u16..3000), 0..10),
                    proptest::collection::vec((0_u16..12, 0_u8..66, 0_usize..3000), 0..12),
                ),
                0..24,
            ),
            arrived in proptest::collection::vec((0_u32..20_000, 0_usize..1500), 0..12),
        ) {
            let mut streams = Streams::new(false);
            for at in 0..frames.len().max(arrived.len()) {
                if let Some((offset, len)) = arrived.get(at) {
                    let _ = streams.on_stream(StreamId(0), *offset, &vec![7; *len], false);
                    let all = streams.readable(StreamId(0));
                    streams.consume(StreamId(0), all / 2);
                }
                if let Some(((fin, group, stream, offset, symbols), runs, bytes)) = frames.get(at) {
                    let mut datagram = vec![12 | u8::from(*fin)];
                    datagram.extend_from_slice(&group.to_be_bytes());
                    datagram.push(*stream as u8);
                    datagram.extend_from_slice(&offset.to_be_bytes());
                    datagram.extend_from_slice(&[*symbols, runs.len() as u8]);
                    for (count, len) in runs {
                        datagram.push(count & 0x3f);
                        datagram.extend_from_slice(&len.to_be_bytes());
                    }
                    let _ = feed(&mut streams, &datagram);
                    for (group, index, len) in bytes {
                        // As long as the group's symbols are, often.
                        let even = runs.iter().map(|(_, len)| usize::from(*len).next_multiple_of(2)).max();
                        let mut datagram = Vec::new();
                        wire::put_symbol(*group, *index, &vec![7; even.filter(|_| len % 2 == 0).unwrap_or(*len)], &mut datagram);
                        let _ = feed(&mut streams, &datagram);
                    }
                }
                prop_assert!(streams.recovery.bytes() <= HELD_MAX);
            }
        }
    }

    #[test]
    fn symbols_that_contradict_their_group_are_refused() {
        let (_, _, datagrams) = sent(&[9; 5000], CUT + 6);
        let mut peer = Streams::new(false);
        let symbol = |group: u16, index, len| {
            let mut datagram = Vec::new();
            wire::put_symbol(group, index, &vec![1; len], &mut datagram);
            datagram
        };
        assert_eq!(feed(&mut peer, &symbol(0, 0, 998)), Ok(1), "nothing is known of it yet");
        assert_eq!(feed(&mut peer, &datagrams[0]), Err(Violation), "but now");
        assert_eq!(peer.recovery.bytes(), 0);
        assert_eq!(feed(&mut peer, &datagrams[0]), Ok(0));
        assert_eq!(feed(&mut peer, &symbol(0, 0, 998)), Err(Violation), "too short");
        assert_eq!(feed(&mut peer, &symbol(0, 60, CUT)), Err(Violation), "more than there are");
        assert_eq!(feed(&mut peer, &symbol(0, 0, CUT)), Ok(1));
        let mut other = datagrams[0].clone();
        other[7] ^= 1;
        assert_eq!(feed(&mut peer, &other), Err(Violation), "another offset");
        let mut beyond = datagrams[0].clone();
        (beyond[2], beyond[4]) = (1, 0x40);
        assert_eq!(feed(&mut peer, &beyond), Err(Violation), "beyond its credit");
        assert_eq!(peer.recovery.bytes(), CUT);
    }

    #[test]
    fn of_symbols_that_nothing_is_known_of_a_bounded_number_is_kept() {
        let mut peer = Streams::new(false);
        for group in 0..1000 {
            for index in 0..64 {
                peer.on_symbol(group, index, &[1; 16 * 1024]).unwrap();
                assert!(peer.recovery.bytes() <= HELD_MAX);
            }
        }
    }

    #[test]
    fn what_was_read_is_kept_only_while_the_peer_sends_symbols_and_the_stream_moves() {
        let (id, segments, symbols) = sent(&[9; 5000], 2 * CUT);
        let mut peer = Streams::new(false);
        assert_eq!(feed(&mut peer, &symbols[0]), Ok(1));
        for (offset, bytes, _) in &segments[..4] {
            peer.on_stream(id, *offset as u32, bytes, false).unwrap();
        }
        read(&mut peer, id, &mut Vec::new());
        assert_eq!(peer.keeping, 1);
        peer.release_idle();
        assert_eq!(peer.keeping, 1, "it moved");
        peer.release_idle();
        assert_eq!((peer.keeping, peer.recovery.bytes()), (0, 0));
    }

    #[test]
    fn symbols_that_never_hear_what_they_are_made_over_are_given_back() {
        let mut peer = Streams::new(false);
        peer.on_symbol(0, 0, &[1; 1000]).unwrap();
        assert_eq!(peer.recovery.bytes(), 1000);
        peer.release_idle();
        assert_eq!(peer.recovery.bytes(), 0);
    }

    #[test]
    fn memory_of_a_stream_that_came_by_symbols_alone_is_given_back() {
        let (id, segments, symbols) = sent(&[9; 500], 2 * CUT);
        assert_eq!(segments.len(), 1);
        let mut peer = Streams::new(false);
        assert_eq!(feed(&mut peer, &symbols[0]), Ok(1));
        let mut got = Vec::new();
        read(&mut peer, id, &mut got);
        assert_eq!((got, peer.recovered()), (vec![9; 500], 500));
        assert!(peer.pool.held() > 0);
        for _ in 0..6 {
            peer.release_idle();
            peer.widen_windows();
        }
        assert_eq!((peer.pool.held(), peer.keeping), (0, 0));
    }
}
