//! One block to bytes and back; when to stop compressing.
//!
//! A stream is a sequence of blocks, each `header | body`. Header (4 bytes, big endian): kind (1: stored, 2: LZ4),
//! then the length of the body in 24 bits; an LZ4 body starts with its decompressed length in 24 bits.
//!
//! Blocks are independent of each other: each starts with an empty dictionary, so one table serves all of them and
//! any block can be decoded alone.
//!
//! | file | one job |
//! |---|---|
//! | `block` | the format of one block, both ways |
//! | `governor` | whether compressing this stream pays at the moment |

mod block;
mod governor;

use std::fmt;

use lz4_flex::block::CompressTable;

pub use block::{BLOCK_HEADER_LEN_MAX, BlockError, BlockHeader, NO_BLOCK, decode, decompress, parse_header};

use crate::units::{ByteCount, Instant};
use governor::Governor;

/// Largest decompressed length of a block; a header that declares more is refused.
pub const BLOCK_LEN_MAX: usize = 64 * 1024;

/// Blocks shorter than this are stored without a try: LZ4 finds nothing in its first and last dozen bytes, and the
/// header of a compressed block costs three more.
const COMPRESS_LEN_MIN: usize = 48;

/// Counters of one direction of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CodecStats {
    /// Bytes before compression.
    pub source: ByteCount,
    /// Bytes after, headers included.
    pub encoded: ByteCount,
    /// Whether compression is switched off at the moment because it did not pay.
    pub given_up: bool,
    /// Whether what made it give up has no structure left at all: the host most likely encrypts (or the bytes are
    /// packed by a very good compressor), and the operator can change that only at the host.
    pub looks_encrypted: bool,
}

/// Compresses one stream, block by block, as long as that pays.
pub struct Compressor {
    /// `None`: compression is off by configuration.
    governor: Option<Governor>,
    /// LZ4's hash table (8 or 16 KiB), kept between blocks. Absent until the first block is compressed and while
    /// compression is given up, so that ten thousand encrypted flows hold none.
    table: Option<CompressTable>,
    source: ByteCount,
    encoded: ByteCount,
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").field("governor", &self.governor).field("stats", &self.stats()).finish()
    }
}

impl Compressor {
    /// `enabled` false: every block is stored.
    pub fn new(enabled: bool) -> Self {
        Compressor {
            governor: enabled.then(Governor::new),
            table: None,
            source: ByteCount::ZERO,
            encoded: ByteCount::ZERO,
        }
    }

    /// Encodes one block (1 to [`BLOCK_LEN_MAX`] bytes) and appends header and body to `out`.
    ///
    /// # Panics
    /// When `block` is empty or longer, the caller's bug.
    pub fn compress(&mut self, now: Instant, block: &[u8], out: &mut Vec<u8>) {
        assert!((1..=BLOCK_LEN_MAX).contains(&block.len()), "invariant: a block is 1 to BLOCK_LEN_MAX bytes");
        let before = out.len();
        match &mut self.governor {
            Some(governor) if block.len() >= COMPRESS_LEN_MIN => {
                if governor.admit(now, block.len()) {
                    let table = self.table.get_or_insert_default();
                    if !block::compress(block, table, out) {
                        block::store(block, out);
                    }
                    governor.on_measured(now, block, out.len() - before);
                } else {
                    block::store(block, out);
                }
                if governor.is_given_up() {
                    self.table = None;
                }
            }
            _ => block::store(block, out),
        }
        self.source += ByteCount::from(block.len());
        self.encoded += ByteCount::from(out.len() - before);
    }

    /// What it did so far.
    pub fn stats(&self) -> CodecStats {
        CodecStats {
            source: self.source,
            encoded: self.encoded,
            given_up: self.governor.as_ref().is_some_and(Governor::is_given_up),
            looks_encrypted: self.governor.as_ref().is_some_and(Governor::looks_encrypted),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_pcg::Pcg64;

    use super::*;

    fn random(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Pcg64::seed_from_u64(seed).fill_bytes(&mut bytes);
        bytes
    }

    /// Decodes a whole stream as a receiver does: header when complete, then the block.
    fn decode(mut stream: &[u8]) -> Vec<u8> {
        let mut decoded = Vec::new();
        while !stream.is_empty() {
            let header = parse_header(stream).unwrap().expect("a whole header");
            let at = decoded.len();
            decoded.resize(at + header.decoded_len, 0);
            assert_eq!(decompress(&stream[..header.encoded_len], &mut decoded[at..]), Ok(header));
            stream = &stream[header.encoded_len..];
        }
        decoded
    }

    fn feed(compressor: &mut Compressor, now: Instant, source: &[u8], block_len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for block in source.chunks(block_len) {
            compressor.compress(now, block, &mut out);
        }
        out
    }

    #[test]
    fn zero_pages_all_but_vanish() {
        let mut compressor = Compressor::new(true);
        let encoded = feed(&mut compressor, Instant::ZERO, &vec![0; 1 << 20], BLOCK_LEN_MAX);
        assert!(encoded.len() < (1 << 20) / 200, "{}", encoded.len());
        assert_eq!(decode(&encoded), vec![0; 1 << 20]);
        assert!(!compressor.stats().given_up);
    }

    #[test]
    fn a_block_that_does_not_shrink_is_stored_and_costs_four_bytes() {
        for len in [1, 47, 48, 100, 4096, BLOCK_LEN_MAX] {
            let mut out = Vec::new();
            Compressor::new(true).compress(Instant::ZERO, &random(1, len), &mut out);
            assert_eq!((out.len(), out[0]), (len + 4, 1), "{len}");
            assert_eq!(decode(&out), random(1, len));
        }
    }

    #[test]
    fn disabled_compression_stores_and_is_not_called_given_up() {
        let mut compressor = Compressor::new(false);
        let encoded = feed(&mut compressor, Instant::ZERO, &[0; 100_000], 50_000);
        assert_eq!(encoded.len(), 100_008);
        let stats = compressor.stats();
        assert_eq!((stats.source, stats.encoded), (ByteCount::new(100_000), ByteCount::new(100_008)));
        assert!(!stats.given_up && !stats.looks_encrypted);
    }

    #[test]
    fn counters_are_what_went_in_and_out_also_behind_bytes_already_in_the_buffer() {
        let mut compressor = Compressor::new(true);
        let mut out = b"already here".to_vec();
        compressor.compress(Instant::ZERO, &[7; 5000], &mut out);
        let stats = compressor.stats();
        assert_eq!(stats.source, ByteCount::new(5000));
        assert_eq!(stats.encoded, ByteCount::from(out.len() - 12));
        assert_eq!(decode(&out[12..]), [7; 5000]);
    }

    #[test]
    fn an_encrypted_stream_gives_up_and_frees_its_table_and_a_plain_one_later_is_compressed_again() {
        let mut compressor = Compressor::new(true);
        feed(&mut compressor, Instant::ZERO, &random(3, 256 * 1024), 16 * 1024);
        assert!(compressor.stats().given_up && compressor.stats().looks_encrypted);
        assert!(compressor.table.is_none());
        let plain = vec![b'a'; 4 << 20];
        let encoded = feed(&mut compressor, Instant::ZERO, &plain, 16 * 1024);
        assert!(!compressor.stats().given_up && !compressor.stats().looks_encrypted);
        assert!(encoded.len() < 5 * (1 << 18), "all but the first MiB is compressed again: {}", encoded.len());
        assert_eq!(decode(&encoded), plain);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// A mix of runs, repeated phrases and noise at any block length comes back as it was.
        #[test]
        fn every_stream_comes_back_as_it_was(
            parts in proptest::collection::vec((0_u8..3, any::<u8>(), 1_usize..40_000), 1..8),
            block_len in 1_usize..=BLOCK_LEN_MAX,
        ) {
            let mut source = Vec::new();
            for (kind, byte, len) in parts {
                match kind {
                    0 => source.resize(source.len() + len, byte),
                    1 => source.extend((0..len).map(|at| (at % 97) as u8 ^ byte)),
                    _ => source.extend(random(u64::from(byte), len)),
                }
            }
            let block_len = block_len.max(source.len() / 500);
            let mut compressor = Compressor::new(true);
            let encoded = feed(&mut compressor, Instant::ZERO, &source, block_len);
            prop_assert!(encoded.len() <= source.len() + 4 * source.len().div_ceil(block_len));
            prop_assert_eq!(compressor.stats().encoded.as_usize(), encoded.len());
            prop_assert_eq!(decode(&encoded), source);
        }
    }
}
