//! One block to bytes and back; when to stop compressing.
//!
//! A stream is a sequence of blocks, each `header | body`. Header (4 bytes, big endian): kind (1: stored, 2: LZ4),
//! then the length of the body in 24 bits; an LZ4 body starts with its decompressed length in 24 bits.

use crate::units::{ByteCount, Instant};

/// Largest decompressed length of a block; a header that declares more is refused.
pub const BLOCK_LEN_MAX: usize = 64 * 1024;

/// Counters of one direction of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodecStats {
    /// Bytes before compression.
    pub source: ByteCount,
    /// Bytes after, headers included.
    pub encoded: ByteCount,
    /// Whether compression is switched off at the moment because it did not pay.
    pub given_up: bool,
}

/// Compresses one stream, block by block, as long as that pays.
#[derive(Debug)]
pub struct Compressor {}

#[expect(unused_variables, reason = "bodies follow in the codec's own commit")]
impl Compressor {
    /// `enabled` false: every block is stored.
    pub fn new(enabled: bool) -> Self {
        todo!()
    }

    /// Encodes one block (1 to [`BLOCK_LEN_MAX`] bytes) and appends header and body to `out`.
    pub fn compress(&mut self, now: Instant, block: &[u8], out: &mut Vec<u8>) {
        todo!()
    }

    /// What it did so far.
    pub fn stats(&self) -> CodecStats {
        todo!()
    }
}

/// The peer sent a block that no compressor of ours makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// Neither stored nor LZ4.
    #[error("unknown block kind {0}")]
    Kind(u8),
    /// Declares an empty block or one above [`BLOCK_LEN_MAX`].
    #[error("block declares {0} bytes")]
    Length(usize),
    /// The body is not valid LZ4 or does not give the declared length.
    #[error("block body is corrupt")]
    Corrupt,
}

/// A decoded block header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockHeader {
    /// Header and body: what to consume from the stream.
    pub encoded_len: usize,
    /// Bytes the block gives.
    pub decoded_len: usize,
}

/// Longest header of a block.
pub const BLOCK_HEADER_LEN_MAX: usize = 7;

/// Reads the header at the start of `bytes`; `None` while it is incomplete.
#[expect(unused_variables, reason = "bodies follow in the codec's own commit")]
pub fn parse_header(bytes: &[u8]) -> Result<Option<BlockHeader>, BlockError> {
    todo!()
}

/// Decodes one whole block (`header.encoded_len` bytes) into `out[..header.decoded_len]`.
#[expect(unused_variables, reason = "bodies follow in the codec's own commit")]
pub fn decompress(block: &[u8], out: &mut [u8]) -> Result<BlockHeader, BlockError> {
    todo!()
}
