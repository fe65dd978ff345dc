//! The channel's wire format: datagram headers and the frames inside a sealed datagram.
//!
//! All integers are big endian; *varint* is QUIC's variable-length integer (RFC 9000 section 16).
//!
//! ```text
//! Initiation  1 | version(1) | Noise message 1 | mac1(16) | mac2(16)
//! Response    2 | version(1) | receiver(3) | Noise message 2 | mac1(16)
//! Cookie      3 | version(1) | masked cookie(16) | mac(16)
//! Sealed      4 | receiver(3) | number(4) | ciphertext … | tag(16)
//! ```
//!
//! `mac1` covers all before it, keyed with the receiver's public key; `mac2` covers all before it with a cookie that the
//! receiver has given out for the sender's address, or is zero. A cookie answers an initiation without (a good) `mac2`
//! while the receiver is under load; it is 34 bytes, and an initiation never less than 150.
//!
//! # Versions
//!
//! The version is that of everything in this file. An appliance speaks its own version N and N - 1
//! ([`VERSIONS`]), so two sites are updated one after the other, each twice at most a version apart:
//!
//! - An initiation is of version N; unanswered, the next is of N - 1, and so on in turn.
//! - Who speaks the initiation's version answers in that version, and the session's sealed datagrams are of it. The
//!   version is part of the handshake's prologue, so that nobody in between can alter it.
//! - Any other version gets no answer. If its `mac1` is right, it is reported with its number in status and log.
//! - First byte, version and the initiation's last 32 bytes (`mac1`, `mac2`) keep their place and meaning in every
//!   version, or versions could not recognise each other.
//! - Within a version, unknown trailing bytes of a handshake payload are ignored; an unknown frame is malformed.
//!
//! `receiver` is the index the receiver gave its end of the epoch in the handshake; `number` the low 32 bits of the
//! packet number, which is also the AEAD's nonce. The sealed header is the AEAD's additional data.
//!
//! ```text
//! PADDING     00
//! PING        01
//! ACK         02 | largest varint | delay in us varint | ranges varint | first length varint | (gap varint | length varint)…
//! FORGET      03 | below varint                  packets below it will not be asked for again
//! CREDIT      04 | stream varint | consumed varint | limit varint
//! RESET       05 | stream varint | code(2)
//! CLOSE       06
//! STREAM      08 + fin(1) + length present(2) | stream varint | offset, low 32 bits(4) | [length(2)] | bytes
//! REPAIR      0c + fin(1) | group(2) | stream varint | offset, low 32 bits(4) | symbols(1) | runs(1) | (blocks varint | length(2))…
//! SYMBOL      0e | group(2) | index(1) | symbol, to the datagram's end
//! BLOCK       0f | group(2) | index(1)           what follows in this datagram is a block
//! PARITY      10 | group(2) | index(1) | blocks(1) | symbols(1) | symbol, to the datagram's end
//! ```
//!
//! # Repair symbols
//!
//! REPAIR says what the symbols of a group are made over: the stream's bytes from `offset` on, cut into blocks, as runs
//! of so many blocks of so many bytes. SYMBOL is one of the group's `symbols` symbols, counted from 0. A symbol is as long
//! as the longest block, or one byte longer so that it is even; shorter blocks count as filled up with zeros. Which code
//! it is, [`crate::fec`] says. `fin`: the stream ends with the last block. It says nothing of what follows.
//!
//! The head of a SYMBOL is no longer than that of a STREAM frame, so that blocks are the segments that were sent, and
//! these fill their datagrams. REPAIR leaves in the datagrams of the symbols where there is room, otherwise alone, before
//! the first and after the last; either may arrive without the other and in any order. Groups are numbered one after the
//! other by who makes them, and begin anew after 65,535.
//!
//! Limits: 1 to 64 symbols, 1 to 8 runs of 1 block or more, 1024 blocks in all, 16,384 bytes each, and blocks times the
//! length of a symbol 524,288 bytes. What is beyond them, or contradicts what the same group said before, is malformed.
//! The stream's credit holds for blocks as well.
//!
//! BLOCK and PARITY are for what is sent again, from anywhere in any streams. A block is all that follows BLOCK in its
//! datagram: STREAM frames, each with its length, and nothing else. PARITY is one of `symbols` symbols over the `blocks`
//! blocks of its group, both counted from 0. The code and the filling up are the same, and what the symbols give back is
//! read as those frames; the zeros at its end are PADDING. These groups have numbers of their own. Limits: 64 blocks, 64
//! symbols. Blocks and symbols of a group arrive in any order.
//!
//! They came within version 1: an appliance that takes them says so in its handshake payload, which is
//! `instance(8) | index(4) | abilities(1) | counter(7)`. Bit 0 of the abilities: takes REPAIR and SYMBOL; bit 1: takes BLOCK
//! and PARITY. Before them, the counter had 8 bytes; its first was always 0, and whoever reads it so still finds it
//! growing. To others none of them is ever sent; they would be malformed to them.

use super::layout::{Layout, RUNS_MAX};
use super::parity::BLOCKS_MAX as PARITY_BLOCKS_MAX;
use super::{ResetCode, StreamId};
use crate::fec::{SYMBOLS_MAX, Shape};

/// Versions of the wire format that are spoken, in handshake datagrams: our own, then the one before it (the first has
/// none).
pub(super) const VERSIONS: [u8; 1] = [1];
/// Header of a sealed datagram.
pub(super) const SEALED_HEADER_LEN: usize = 8;
/// Indices have 24 bits.
pub(super) const INDEX_MASK: u32 = 0x00ff_ffff;
/// Ranges an ack reports at most: the newest. Older ones were in earlier acks.
pub(super) const ACK_RANGES_MAX: usize = 256;

/// What a datagram may be filled up with.
pub(super) const PADDING: u8 = 0;

const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const COOKIE: u8 = 3;
const SEALED: u8 = 4;
const MAC_LEN: usize = crate::crypto::MAC_LEN;

/// A datagram by its first byte, lengths checked.
#[derive(Debug)]
pub(super) enum Datagram<'a> {
    /// A handshake's first message, of any version.
    Initiation(InitiationDatagram<'a>),
    /// A handshake's answer; `covered` is what `mac1` covers.
    Response { version: u8, receiver: u32, noise: &'a [u8], covered: &'a [u8], mac1: &'a [u8] },
    /// Asks for the initiation once more, with this cookie; `covered` is what `mac` covers.
    Cookie { masked: [u8; MAC_LEN], covered: &'a [u8], mac: &'a [u8] },
    /// A sealed datagram; `header` is its additional data.
    Sealed { receiver: u32, number: u32, header: [u8; SEALED_HEADER_LEN], body: &'a mut [u8] },
}

/// An initiation. Only the parts that every version has are known to be there.
#[derive(Clone, Copy, Debug)]
pub(super) struct InitiationDatagram<'a> {
    pub(super) version: u8,
    pub(super) noise: &'a [u8],
    /// What `mac1` covers.
    pub(super) covered: &'a [u8],
    pub(super) mac1: &'a [u8],
    /// What `mac2` covers.
    pub(super) covered2: &'a [u8],
    pub(super) mac2: &'a [u8],
}

/// Takes a datagram apart; `None` when it is none of ours.
pub(super) fn parse_datagram(bytes: &mut [u8]) -> Option<Datagram<'_>> {
    match *bytes.first()? {
        INITIATION if bytes.len() > 2 + 2 * MAC_LEN => {
            let (covered2, mac2) = bytes.split_at(bytes.len() - MAC_LEN);
            let (covered, mac1) = covered2.split_at(covered2.len() - MAC_LEN);
            let (version, noise) = (covered[1], &covered[2..]);
            Some(Datagram::Initiation(InitiationDatagram { version, noise, covered, mac1, covered2, mac2 }))
        }
        RESPONSE if bytes.len() > 5 + MAC_LEN => {
            let (covered, mac1) = bytes.split_at(bytes.len() - MAC_LEN);
            let receiver = u32::from_be_bytes([0, covered[2], covered[3], covered[4]]);
            Some(Datagram::Response { version: covered[1], receiver, noise: &covered[5..], covered, mac1 })
        }
        COOKIE if bytes.len() == COOKIE_LEN => {
            let (covered, mac) = bytes.split_at(bytes.len() - MAC_LEN);
            Some(Datagram::Cookie { masked: covered[2..].try_into().ok()?, covered, mac })
        }
        SEALED if bytes.len() >= SEALED_HEADER_LEN + crate::crypto::TAG_LEN => {
            let (header, body) = bytes.split_at_mut(SEALED_HEADER_LEN);
            let header: [u8; SEALED_HEADER_LEN] = (&*header).try_into().ok()?;
            let receiver = u32::from_be_bytes([0, header[1], header[2], header[3]]);
            let number = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            Some(Datagram::Sealed { receiver, number, header, body })
        }
        _ => None,
    }
}

/// Appends the fixed part of an initiation.
pub(super) fn encode_initiation(version: u8, noise: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[INITIATION, version]);
    out.extend_from_slice(noise);
}

/// Appends the fixed part of a response.
pub(super) fn encode_response(version: u8, receiver: u32, noise: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[RESPONSE, version]);
    out.extend_from_slice(&receiver.to_be_bytes()[1..]);
    out.extend_from_slice(noise);
}

/// Length of a cookie datagram.
pub(super) const COOKIE_LEN: usize = 2 + 2 * MAC_LEN;

/// Appends the part of a cookie datagram that its mac covers.
pub(super) fn encode_cookie(version: u8, masked: &[u8; MAC_LEN], out: &mut Vec<u8>) {
    out.extend_from_slice(&[COOKIE, version]);
    out.extend_from_slice(masked);
}

/// The header of a sealed datagram.
pub(super) fn sealed_header(receiver: u32, number: u64) -> [u8; SEALED_HEADER_LEN] {
    let index = receiver.to_be_bytes();
    let low = (number as u32).to_be_bytes();
    [SEALED, index[1], index[2], index[3], low[0], low[1], low[2], low[3]]
}

/// The full number whose low 32 bits are `low`, nearest to `expected` (RFC 9000 appendix A.3).
pub(super) fn expand(low: u32, expected: u64) -> u64 {
    const SPAN: u64 = 1 << 32;
    let candidate = (expected & !(SPAN - 1)) | u64::from(low);
    if candidate + SPAN / 2 <= expected {
        candidate.checked_add(SPAN).unwrap_or(candidate)
    } else if candidate > expected + SPAN / 2 && candidate >= SPAN {
        candidate - SPAN
    } else {
        candidate
    }
}

/// One frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Ping,
    Ack(AckFrame<'a>),
    Forget {
        below: u64,
    },
    Credit {
        stream: StreamId,
        consumed: u64,
        limit: u64,
    },
    Reset {
        stream: StreamId,
        code: ResetCode,
    },
    Close,
    Stream {
        stream: StreamId,
        offset_low: u32,
        fin: bool,
        bytes: &'a [u8],
    },
    Repair(RepairFrame),
    Symbol {
        group: u16,
        index: u8,
        bytes: &'a [u8],
    },
    /// The frames that follow, which are read next, are a block.
    Block {
        group: u16,
        index: u8,
        block: &'a [u8],
    },
    Parity {
        group: u16,
        index: u8,
        shape: Shape,
        symbol: &'a [u8],
    },
}

/// What the symbols of a group are made over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RepairFrame {
    pub(super) group: u16,
    pub(super) stream: StreamId,
    pub(super) offset_low: u32,
    /// The stream ends with the last block.
    pub(super) fin: bool,
    /// How many symbols there are.
    pub(super) symbols: u8,
    /// Not empty.
    pub(super) layout: Layout,
}

impl RepairFrame {
    /// The code of the symbols.
    pub(super) fn shape(&self) -> Shape {
        let (blocks, len) = (self.layout.blocks(), self.layout.symbol_len());
        Shape { blocks, symbols: usize::from(self.symbols), len }
    }
}

/// The ranges of an ack, still encoded but checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AckFrame<'a> {
    pub(super) largest: u64,
    pub(super) delay_us: u64,
    count: u64,
    first_len: u64,
    encoded: &'a [u8],
}

impl AckFrame<'_> {
    /// The acknowledged ranges from the highest down.
    pub(super) fn ranges(&self) -> impl Iterator<Item = std::ops::Range<u64>> + '_ {
        let mut cursor = Cursor { rest: self.encoded };
        let mut high = self.largest + 1;
        (0..self.count).map_while(move |index| {
            let len = if index == 0 {
                self.first_len
            } else {
                let gap = cursor.varint()?;
                high = high.checked_sub(gap)?;
                cursor.varint()?
            };
            let low = high.checked_sub(len)?;
            let range = low..high;
            high = low;
            Some(range)
        })
    }
}

/// The bytes are not a sequence of frames. Only the peer can cause it: they were authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame")]
pub(super) struct Malformed;

/// Reads frames off an opened datagram.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<u64> {
        let first = self.byte()?;
        let mut value = u64::from(first & 0x3f);
        for &byte in self.take((1 << (first >> 6)) - 1)? {
            value = value << 8 | u64::from(byte);
        }
        Some(value)
    }

    fn stream(&mut self) -> Option<StreamId> {
        Some(StreamId(u32::try_from(self.varint()?).ok()?))
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    /// The next frame; `Ok(None)` at the end.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame<'a>>, Malformed> {
        while self.rest.first() == Some(&PADDING) {
            self.rest = &self.rest[1..];
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.frame().map(Some).ok_or(Malformed)
    }

    fn frame(&mut self) -> Option<Frame<'a>> {
        Some(match self.byte()? {
            1 => Frame::Ping,
            2 => Frame::Ack(self.ack()?),
            3 => Frame::Forget { below: self.varint()? },
            4 => Frame::Credit { stream: self.stream()?, consumed: self.varint()?, limit: self.varint()? },
            5 => Frame::Reset { stream: self.stream()?, code: ResetCode(self.u16()?) },
            6 => Frame::Close,
            kind @ 8..=11 => {
                let stream = self.stream()?;
                let offset_low = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
                let len = if kind & 2 != 0 { usize::from(self.u16()?) } else { self.rest.len() };
                Frame::Stream { stream, offset_low, fin: kind & 1 != 0, bytes: self.take(len)? }
            }
            kind @ 12..=13 => Frame::Repair(self.repair(kind & 1 != 0)?),
            14 => {
                let (group, index) = (self.u16()?, self.byte()?);
                let bytes = self.take(self.rest.len())?;
                let fits = usize::from(index) < SYMBOLS_MAX && bytes.len() <= Layout::SYMBOL_LEN_MAX;
                (fits && !bytes.is_empty()).then_some(Frame::Symbol { group, index, bytes })?
            }
            15 => Frame::Block { group: self.u16()?, index: self.byte()?, block: self.rest },
            16 => {
                let (group, index) = (self.u16()?, self.byte()?);
                let (blocks, symbols) = (usize::from(self.byte()?), usize::from(self.byte()?));
                let symbol = self.take(self.rest.len())?;
                let shape = Shape { blocks, symbols, len: symbol.len() };
                let fits = usize::from(index) < symbols && blocks <= PARITY_BLOCKS_MAX && shape.is_valid();
                fits.then_some(Frame::Parity { group, index, shape, symbol })?
            }
            _ => return None,
        })
    }

    fn repair(&mut self, fin: bool) -> Option<RepairFrame> {
        let (group, stream) = (self.u16()?, self.stream()?);
        let offset_low = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        let (symbols, runs) = (self.byte()?, self.byte()?);
        if !(1..=SYMBOLS_MAX).contains(&usize::from(symbols)) || !(1..=RUNS_MAX).contains(&usize::from(runs)) {
            return None;
        }
        let mut layout = Layout::default();
        for _ in 0..runs {
            let (count, len) = (u16::try_from(self.varint()?).ok()?, self.u16()?);
            if !layout.push(count, len) {
                return None;
            }
        }
        Some(RepairFrame { group, stream, offset_low, fin, symbols, layout })
    }

    fn ack(&mut self) -> Option<AckFrame<'a>> {
        let (largest, delay_us, count, first_len) = (self.varint()?, self.varint()?, self.varint()?, self.varint()?);
        if count == 0 || count > ACK_RANGES_MAX as u64 {
            return None;
        }
        let start = self.rest;
        let mut floor = (largest + 1).checked_sub(first_len)?;
        for _ in 1..count {
            floor = floor.checked_sub(self.varint()?)?.checked_sub(self.varint()?)?;
        }
        let encoded = &start[..start.len() - self.rest.len()];
        Some(AckFrame { largest, delay_us, count, first_len, encoded })
    }
}

/// Appends a varint. Values above 62 bits do not occur (numbers and offsets of a session's life).
fn put_varint(value: u64, out: &mut Vec<u8>) {
    if value < 1 << 6 {
        out.push(value as u8);
    } else if value < 1 << 14 {
        out.extend_from_slice(&(value as u16 | 0x4000).to_be_bytes());
    } else if value < 1 << 30 {
        out.extend_from_slice(&(value as u32 | 0x8000_0000).to_be_bytes());
    } else {
        out.extend_from_slice(&(value & (u64::MAX >> 2) | 0xc000_0000_0000_0000).to_be_bytes());
    }
}

const fn varint_len(value: u64) -> usize {
    match value {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        0x4000..0x4000_0000 => 4,
        _ => 8,
    }
}

pub(super) fn put_ping(out: &mut Vec<u8>) {
    out.push(1);
}

pub(super) fn put_close(out: &mut Vec<u8>) {
    out.push(6);
}

pub(super) fn put_forget(below: u64, out: &mut Vec<u8>) {
    out.push(3);
    put_varint(below, out);
}

/// Longest CREDIT frame.
pub(super) const CREDIT_LEN_MAX: usize = 1 + 8 + 8 + 8;

pub(super) fn put_credit(stream: StreamId, consumed: u64, limit: u64, out: &mut Vec<u8>) {
    out.push(4);
    put_varint(u64::from(stream.0), out);
    put_varint(consumed, out);
    put_varint(limit, out);
}

/// Longest RESET frame.
pub(super) const RESET_LEN_MAX: usize = 1 + 8 + 2;

pub(super) fn put_reset(stream: StreamId, code: ResetCode, out: &mut Vec<u8>) {
    out.push(5);
    put_varint(u64::from(stream.0), out);
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Appends an ACK of the ranges (from the highest down) that fit in `room` bytes; at least the first does.
pub(super) fn put_ack(
    ranges: impl Iterator<Item = std::ops::Range<u64>>,
    delay_us: u64,
    room: usize,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    scratch.clear();
    let mut count = 0;
    let (mut largest, mut first_len, mut floor) = (0, 0, 0);
    for range in ranges.take(ACK_RANGES_MAX) {
        if count == 0 {
            (largest, first_len) = (range.end - 1, range.end - range.start);
        } else {
            if scratch.len() + 16 + 28 > room {
                break;
            }
            put_varint(floor - range.end, scratch);
            put_varint(range.end - range.start, scratch);
        }
        floor = range.start;
        count += 1;
    }
    out.push(2);
    put_varint(largest, out);
    put_varint(delay_us, out);
    put_varint(count, out);
    put_varint(first_len, out);
    out.extend_from_slice(scratch);
}

/// Bytes a STREAM frame needs before its data.
pub(super) fn stream_overhead(stream: StreamId, with_length: bool) -> usize {
    1 + varint_len(u64::from(stream.0)) + 4 + if with_length { 2 } else { 0 }
}

/// Appends the head of a STREAM frame; `length` absent: the data runs to the end of the datagram.
pub(super) fn put_stream_head(stream: StreamId, offset: u64, fin: bool, length: Option<u16>, out: &mut Vec<u8>) {
    out.push(8 | u8::from(fin) | if length.is_some() { 2 } else { 0 });
    put_varint(u64::from(stream.0), out);
    out.extend_from_slice(&(offset as u32).to_be_bytes());
    if let Some(length) = length {
        out.extend_from_slice(&length.to_be_bytes());
    }
}

/// Appends a REPAIR frame.
pub(super) fn put_repair(repair: &RepairFrame, out: &mut Vec<u8>) {
    out.push(12 | u8::from(repair.fin));
    out.extend_from_slice(&repair.group.to_be_bytes());
    put_varint(u64::from(repair.stream.0), out);
    out.extend_from_slice(&repair.offset_low.to_be_bytes());
    out.extend_from_slice(&[repair.symbols, repair.layout.runs().len() as u8]);
    for (count, len) in repair.layout.runs() {
        put_varint(u64::from(*count), out);
        out.extend_from_slice(&len.to_be_bytes());
    }
}

/// Bytes a SYMBOL frame needs before its symbol.
pub(super) const SYMBOL_HEAD_LEN: usize = 4;

/// Appends a SYMBOL frame; it ends its datagram.
pub(super) fn put_symbol(group: u16, index: u8, symbol: &[u8], out: &mut Vec<u8>) {
    out.push(14);
    out.extend_from_slice(&group.to_be_bytes());
    out.push(index);
    out.extend_from_slice(symbol);
}

/// Appends a BLOCK frame.
pub(super) fn put_block((group, index): (u16, u8), out: &mut Vec<u8>) {
    out.push(15);
    out.extend_from_slice(&group.to_be_bytes());
    out.push(index);
}

/// Bytes a PARITY frame needs before its symbol.
pub(super) const PARITY_HEAD_LEN: usize = 6;

/// Appends a PARITY frame; it ends its datagram.
pub(super) fn put_parity((group, index): (u16, u8), shape: &Shape, symbol: &[u8], out: &mut Vec<u8>) {
    out.push(16);
    out.extend_from_slice(&group.to_be_bytes());
    out.extend_from_slice(&[index, shape.blocks as u8, shape.symbols as u8]);
    out.extend_from_slice(symbol);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_read_what_was_written() {
        let mut out = vec![0, 0];
        put_ping(&mut out);
        put_forget(70_000, &mut out);
        put_credit(StreamId(9), 1 << 40, 1 << 41, &mut out);
        put_reset(StreamId(70), ResetCode(513), &mut out);
        put_stream_head(StreamId(2), (7 << 32) + 5, false, Some(3), &mut out);
        out.extend_from_slice(b"abc");
        let mut layout = Layout::default();
        assert!(layout.push(200, 3) && layout.push(1, 2));
        let repair = RepairFrame { group: 513, stream: StreamId(2), offset_low: 5, fin: true, symbols: 3, layout };
        put_repair(&repair, &mut out);
        let mut symbol = out.clone();
        put_symbol(513, 2, b"code", &mut symbol);
        put_stream_head(StreamId(4), 6, true, None, &mut out);
        out.extend_from_slice(b"rest");
        let read = |bytes| {
            let mut cursor = Cursor::new(bytes);
            std::iter::from_fn(|| cursor.next_frame().unwrap()).collect::<Vec<_>>()
        };
        let frames = read(&out);
        assert_eq!(read(&symbol).last(), Some(&Frame::Symbol { group: 513, index: 2, bytes: b"code" }));
        let mut block = Vec::new();
        put_block((514, 3), &mut block);
        put_stream_head(StreamId(2), 9, false, Some(1), &mut block);
        block.push(7);
        let shape = Shape { blocks: 40, symbols: 6, len: 4 };
        put_parity((515, 5), &shape, b"code", &mut block);
        let frames_of_block = read(&block);
        assert_eq!(frames_of_block[0], Frame::Block { group: 514, index: 3, block: &block[4..] });
        assert_eq!(frames_of_block[1], Frame::Stream { stream: StreamId(2), offset_low: 9, fin: false, bytes: &[7] });
        assert_eq!(frames_of_block[2], Frame::Parity { group: 515, index: 5, shape, symbol: b"code" });
        for wrong in [(0, 6, 4), (65, 6, 4), (40, 5, 4), (40, 65, 4), (40, 6, 3), (40, 6, 0)] {
            let mut parity = Vec::new();
            let shape = Shape { blocks: wrong.0, symbols: wrong.1, len: wrong.2 };
            put_parity((515, 5), &shape, &b"code"[..wrong.2], &mut parity);
            assert!(Cursor::new(&parity).next_frame().is_err(), "{wrong:?}");
        }
        assert_eq!(
            frames,
            vec![
                Frame::Ping,
                Frame::Forget { below: 70_000 },
                Frame::Credit { stream: StreamId(9), consumed: 1 << 40, limit: 1 << 41 },
                Frame::Reset { stream: StreamId(70), code: ResetCode(513) },
                Frame::Stream { stream: StreamId(2), offset_low: 5, fin: false, bytes: b"abc" },
                Frame::Repair(repair),
                Frame::Stream { stream: StreamId(4), offset_low: 6, fin: true, bytes: b"rest" },
            ]
        );
    }

    #[test]
    fn an_ack_reads_back_its_ranges() {
        let ranges = vec![90..100_u64, 50..60, 0..1];
        let mut out = Vec::new();
        put_ack(ranges.clone().into_iter(), 1234, 1000, &mut Vec::new(), &mut out);
        let Ok(Some(Frame::Ack(ack))) = Cursor::new(&out).next_frame() else { panic!("not an ack") };
        assert_eq!((ack.largest, ack.delay_us), (99, 1234));
        assert_eq!(ack.ranges().collect::<Vec<_>>(), ranges);
    }

    #[test]
    fn an_ack_that_reaches_below_zero_is_malformed() {
        for bytes in [[2, 5, 0, 1, 7].as_slice(), &[2, 5, 0, 0, 1], &[2, 5, 0, 2, 1, 3, 3], &[2, 5, 0, 2, 1]] {
            assert_eq!(Cursor::new(bytes).next_frame(), Err(Malformed), "{bytes:?}");
        }
    }

    #[test]
    fn numbers_expand_to_the_nearest() {
        let wrap = 1_u64 << 32;
        for (full, expected) in [(0, 0), (wrap + 3, wrap - 5), (wrap - 5, wrap + 3), (5 * wrap, 5 * wrap + 1000)] {
            assert_eq!(expand(full as u32, expected), full, "{full} near {expected}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_frames_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut copy = bytes.clone();
            let _ = parse_datagram(&mut copy);
            let mut cursor = Cursor::new(&bytes);
            while let Ok(Some(frame)) = cursor.next_frame() {
                if let Frame::Ack(ack) = frame {
                    for range in ack.ranges() {
                        prop_assert!(range.start <= range.end);
                    }
                }
            }
        }
    }
}
