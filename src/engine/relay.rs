//! Moving the bytes of one flow: endpoint to codec to channel, and back.
//!
//! # Outbound (host to peer)
//! 1. The host's segments are in the endpoint's receive buffer, acknowledged.
//! 2. If nothing waits for the channel, and not too much is under way (`backlog`), one block is taken out: what is there,
//!    up to two milliseconds of line time after compression. It never waits for more, or request and answer would
//!    deadlock over it.
//! 3. It is compressed, by the method that suits the line at the moment (`limits`), or stored, behind its header.
//! 4. It goes straight into the channel; what the channel does not take waits here: at most one block.
//! 5. While it waits nothing is taken out, the receive buffer fills, and the host's window closes.
//! 6. After the host's FIN and its last byte an end mark follows the last block; the other direction goes on.
//!
//! # The end of the stream
//! Our direction of the stream itself is finished only when our host has acknowledged everything, its FIN included, and
//! said everything. So the end of the peer's direction confirms that nothing is under way to its host any more, and until
//! then this appliance remembers whom a restart of the peer would have robbed (`ending`). A stream that ends without its
//! end mark is a fault, never the host's FIN.
//!
//! # Inbound (peer to host)
//! 1. The channel has in-order bytes of the stream; each is still charged to the peer's credit.
//! 2. A block is decoded when all of it has come and the endpoint's send buffer has room for all of it, straight into
//!    that buffer where it can be. A host that reads slowly is not given more than it reads soon: what stands in the
//!    buffer counts as undelivered like everything before it.
//! 3. Only then it is consumed in the channel, which returns the credit: a host that reads slowly closes the peer's
//!    credit, then the far endpoint's window, then the far host.
//! 4. At the end mark the endpoint sends FIN.

use std::time::Duration;

use crate::channel::{Channel, StreamId};
use crate::codec::{
    BLOCK_HEADER_LEN_MAX, BLOCK_LEN_MAX, BlockError, BlockHeader, CodecStats, Compressor, NO_BLOCK, Workspace,
    decompress, parse_header, stored_body,
};
use crate::tcp::Endpoint;
use crate::units::{BitRate, ByteCount, Instant};

use super::backlog::{Backlog, DrainRate};
use super::limits::{block_size, method};

/// Blocks moved per direction before other flows and the sockets get their turn: compressing eight blocks of 64 KiB
/// takes about a millisecond.
const BLOCKS_PER_PUMP: usize = 8;

/// Longest encoded block.
const ENCODED_LEN_MAX: usize = BLOCK_LEN_MAX + BLOCK_HEADER_LEN_MAX;

/// What a slow host may have in its send buffer, of the rate at which it reads.
const SEND_QUEUE_TIME: Duration = Duration::from_millis(40);

/// Least that a slow host may have there.
const SEND_QUEUE_MIN: u64 = 256 * 1024;

/// A measurement of how fast a host reads is not shorter than this.
const READ_WINDOW: Duration = Duration::from_millis(20);

/// Room to compress and to decode in, one for all flows.
#[derive(Debug)]
pub(super) struct Scratch {
    workspace: Workspace,
    encoded: Vec<u8>,
    decoded: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch { workspace: Workspace::default(), encoded: vec![0; ENCODED_LEN_MAX], decoded: vec![0; BLOCK_LEN_MAX] }
    }
}

/// Whether a direction has more to do at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Progress {
    /// It waits for the host, the channel or its own end.
    Waiting,
    /// Its turn is over, but not its work.
    More,
}

/// What is next in a stream.
enum Unit {
    Block(BlockHeader),
    /// The end mark.
    End,
}

/// The bytes of one flow between endpoint and channel.
#[derive(Debug)]
pub(super) struct Relay {
    compressor: Compressor,
    /// Encoded bytes that the channel has not taken: a message, at most one block, the end mark.
    outbound: Vec<u8>,
    /// How far the channel has taken [`Relay::outbound`].
    outbound_at: usize,
    /// Bytes of the stream that the channel has taken.
    written: u64,
    backlog: Backlog,
    /// How fast the host reads.
    host_drain: DrainRate,
    /// Decoded bytes that the endpoint did not take after all: at most one block.
    inbound: Vec<u8>,
    /// Whether the end mark of our direction stands behind its last block.
    is_outbound_ended: bool,
    /// Whether the peer's end mark has come, and all before it is with the endpoint.
    is_inbound_ended: bool,
    from_host: ByteCount,
    to_host: ByteCount,
    from_peer_encoded: ByteCount,
}

impl Relay {
    pub(super) fn new(compress: bool) -> Self {
        Relay {
            compressor: Compressor::new(compress),
            outbound: Vec::new(),
            outbound_at: 0,
            written: 0,
            backlog: Backlog::default(),
            host_drain: DrainRate::default(),
            inbound: Vec::new(),
            is_outbound_ended: false,
            is_inbound_ended: false,
            from_host: ByteCount::ZERO,
            to_host: ByteCount::ZERO,
            from_peer_encoded: ByteCount::ZERO,
        }
    }

    /// Where a message is put that the stream carries before its next block.
    pub(super) fn message_buffer(&mut self) -> &mut Vec<u8> {
        &mut self.outbound
    }

    /// Takes out what the channel has not taken.
    pub(super) fn take_waiting(&mut self) -> Vec<u8> {
        let mut waiting = std::mem::take(&mut self.outbound);
        waiting.drain(..self.outbound_at);
        self.outbound_at = 0;
        waiting
    }

    /// Hands the channel what waits. True when nothing waits any more.
    pub(super) fn flush(&mut self, channel: &mut Channel, stream: StreamId) -> bool {
        if self.outbound_at < self.outbound.len() {
            let taken = channel.write(stream, &self.outbound[self.outbound_at..]);
            self.outbound_at += taken;
            self.written += taken as u64;
        }
        if self.outbound_at < self.outbound.len() {
            return false;
        }
        self.outbound.clear();
        self.outbound_at = 0;
        true
    }

    /// Host to peer, see the numbers above.
    pub(super) fn pump_outbound(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        channel: &mut Channel,
        stream: StreamId,
        scratch: &mut Scratch,
    ) -> Progress {
        let (path, srtt) = (channel.delivery_rate(), channel.srtt());
        self.backlog.on_consumed(now, path, srtt, channel.consumed(stream));
        let block_size = block_size(channel.pacing_rate(), self.compressor.recent_percent());
        for _ in 0..BLOCKS_PER_PUMP {
            if !self.flush(channel, stream) || self.is_outbound_ended {
                return Progress::Waiting;
            }
            if endpoint.is_recv_finished() {
                self.outbound.push(NO_BLOCK);
                self.is_outbound_ended = true;
                continue;
            }
            if endpoint.readable() == 0 {
                return Progress::Waiting;
            }
            if let Some(offset) = self.backlog.waits_for(path, srtt) {
                channel.wake_when_consumed(stream, offset);
                return Progress::Waiting;
            }
            let method = method(path, channel.unsent());
            let taken = endpoint.recv(|bytes| {
                let block = &bytes[..bytes.len().min(block_size)];
                if !block.is_empty() {
                    let encoded = self.compressor.compress(now, method, block, &mut scratch.workspace);
                    for part in [encoded.header(), encoded.body()] {
                        let taken = if self.outbound.is_empty() { channel.write(stream, part) } else { 0 };
                        self.written += taken as u64;
                        self.outbound.extend_from_slice(&part[taken..]);
                    }
                    self.backlog.on_block(self.written + self.outbound.len() as u64, block.len());
                }
                (block.len(), block.len())
            });
            self.from_host += ByteCount::from(taken.unwrap_or(0));
        }
        Progress::More
    }

    /// Peer to host, see the numbers above.
    pub(super) fn pump_inbound(
        &mut self,
        now: Instant,
        endpoint: &mut Endpoint,
        channel: &mut Channel,
        stream: StreamId,
        scratch: &mut Scratch,
    ) -> Result<Progress, BlockError> {
        if self.is_inbound_ended {
            return Ok(Progress::Waiting);
        }
        let queue_limit = self.send_queue_limit(now, endpoint);
        for _ in 0..BLOCKS_PER_PUMP {
            if !self.inbound.is_empty() {
                let taken = endpoint.send(&self.inbound);
                self.inbound.drain(..taken);
                self.to_host += ByteCount::from(taken);
                if !self.inbound.is_empty() {
                    return Ok(Progress::Waiting);
                }
            }
            let header = match next_unit(channel, stream)? {
                Some(Unit::Block(header)) => header,
                Some(Unit::End) => {
                    channel.consume(stream, 1);
                    endpoint.finish();
                    self.is_inbound_ended = true;
                    return Ok(Progress::Waiting);
                }
                None if channel.is_ended(stream) => return Err(BlockError::Corrupt),
                None => return Ok(Progress::Waiting),
            };
            // Whoever holds it back is the host: its next acknowledgement gives the flow another turn.
            if endpoint.writable() < header.decoded_len || endpoint.send_queue() as u64 >= queue_limit {
                return Ok(Progress::Waiting);
            }
            let (head, tail) = channel.peek_slices(stream, header.encoded_len);
            if let Some(body) = stored_body(head, tail) {
                for part in body {
                    self.give(endpoint, part);
                }
            } else {
                let encoded = if tail.is_empty() {
                    head
                } else {
                    let whole = &mut scratch.encoded[..header.encoded_len];
                    let (first, second) = whole.split_at_mut(head.len());
                    first.copy_from_slice(head);
                    second.copy_from_slice(tail);
                    whole
                };
                let workspace = &mut scratch.workspace;
                let into_room = |room: &mut [u8]| decompress(encoded, room, workspace).map(|_| ());
                if let Some(decoded) = endpoint.send_with(header.decoded_len, into_room) {
                    decoded?;
                    self.to_host += ByteCount::from(header.decoded_len);
                } else {
                    let decoded = &mut scratch.decoded[..header.decoded_len];
                    decompress(encoded, decoded, workspace)?;
                    self.give(endpoint, decoded);
                }
            }
            channel.consume(stream, header.encoded_len);
            self.from_peer_encoded += ByteCount::from(header.encoded_len);
        }
        Ok(Progress::More)
    }

    /// Gives the endpoint what it takes of `bytes`; the rest waits, and all of them behind an earlier rest.
    fn give(&mut self, endpoint: &mut Endpoint, bytes: &[u8]) {
        let taken = if self.inbound.is_empty() { endpoint.send(bytes) } else { 0 };
        self.inbound.extend_from_slice(&bytes[taken..]);
        self.to_host += ByteCount::from(taken);
    }

    /// What the host may have in its send buffer.
    fn send_queue_limit(&mut self, now: Instant, endpoint: &Endpoint) -> u64 {
        let limit = |drain: &DrainRate| match drain.rate() {
            Some(rate) => rate.bytes_in(SEND_QUEUE_TIME).as_u64().max(SEND_QUEUE_MIN),
            None => u64::MAX,
        };
        let queue = endpoint.send_queue() as u64;
        let capacity = queue + endpoint.writable() as u64;
        let is_limited = queue * 4 >= limit(&self.host_drain).min(capacity) * 3;
        self.host_drain.observe(now, READ_WINDOW, self.to_host.as_u64().saturating_sub(queue), is_limited);
        limit(&self.host_drain)
    }

    /// Whether both directions have ended here, and the channel has all of ours.
    pub(super) fn is_finished(&self) -> bool {
        self.is_outbound_ended && self.outbound.is_empty() && self.is_inbound_ended
    }

    /// Bytes that the host sent and that were taken from its endpoint.
    pub(super) fn taken_from_host(&self) -> ByteCount {
        self.from_host
    }

    /// Bytes given to the host's endpoint.
    pub(super) fn given_to_host(&self) -> ByteCount {
        self.to_host
    }

    /// Encoded bytes that became [`Relay::given_to_host`].
    pub(super) fn taken_from_peer(&self) -> ByteCount {
        self.from_peer_encoded
    }

    /// Bytes of the host that were taken from its endpoint and not by the far end, and the rate at which that takes them
    /// if it is what limits.
    pub(super) fn backlog(&self) -> (ByteCount, Option<BitRate>) {
        (self.backlog.under_way(), self.backlog.drain_rate())
    }

    /// What the compressor did.
    pub(super) fn codec(&self) -> CodecStats {
        self.compressor.stats()
    }
}

/// The end mark, or the header of the next block if all of the block has come.
fn next_unit(channel: &Channel, stream: StreamId) -> Result<Option<Unit>, BlockError> {
    let mut start = [0; BLOCK_HEADER_LEN_MAX];
    let present = channel.peek(stream, &mut start);
    if start[..present].first() == Some(&NO_BLOCK) {
        return Ok(Some(Unit::End));
    }
    let Some(header) = parse_header(&start[..present])? else { return Ok(None) };
    if header.decoded_len == 0 || header.decoded_len > BLOCK_LEN_MAX {
        return Err(BlockError::Length(header.decoded_len));
    }
    if header.encoded_len > ENCODED_LEN_MAX {
        return Err(BlockError::Length(header.encoded_len));
    }
    Ok((channel.readable(stream) >= header.encoded_len).then_some(Unit::Block(header)))
}
