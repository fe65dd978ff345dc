//! One block to bytes and back; when to stop compressing.
//!
//! A stream is a sequence of blocks, each `header | body`. Header (4 bytes, big endian): kind (1: stored, 2: LZ4 block
//! format, 3: zstd frame, RFC 8878), then the length of the body in 24 bits; a compressed body starts with its decompressed
//! length in 24 bits.
//!
//! Blocks are independent of each other: each starts with an empty dictionary, so one [`Workspace`] serves all flows
//! and any block can be decoded alone, whatever method the one before it had.
//!
//! | file | one job |
//! |---|---|
//! | `block` | the format of one block, both ways |
//! | `workspace` | the compressors themselves, with the memory they work in |
//! | `governor` | whether compressing this stream pays at the moment |

mod block;
mod governor;
mod workspace;

pub use block::{
    BLOCK_HEADER_LEN_MAX, BlockError, BlockHeader, EncodedBlock, NO_BLOCK, decompress, parse_header, stored_body,
};
pub use workspace::Workspace;

use crate::units::{ByteCount, Instant};
use block::DECODED_LEN_LEN;
use governor::{Governor, Trial, pays};

/// How a block is compressed: what takes more CPU takes less of the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// LZ4: for lines that are as fast as the CPU.
    Lz4,
    /// zstd at its fastest useful level: a third less on the line, for two to three times the CPU.
    Zstd,
    /// zstd a little denser: another 4 % less, for a quarter more CPU.
    ZstdDense,
}

impl Method {
    /// As the status names it.
    pub const fn name(self) -> &'static str {
        match self {
            Method::Lz4 => "lz4",
            Method::Zstd => "zstd",
            Method::ZstdDense => "zstd-dense",
        }
    }
}

/// Largest decompressed length of a block; a header that declares more is refused.
pub const BLOCK_LEN_MAX: usize = 64 * 1024;

/// Blocks shorter than this are stored without a try: there is nothing to find in its first and last dozen bytes, and the
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
    /// How the last block was compressed that was; `None` before the first.
    pub method: Option<Method>,
}

/// Compresses one stream, block by block, as long as that pays.
#[derive(Debug)]
pub struct Compressor {
    /// `None`: compression is off by configuration.
    governor: Option<Governor>,
    source: ByteCount,
    encoded: ByteCount,
    method: Option<Method>,
}

impl Compressor {
    /// `enabled` false: every block is stored.
    pub fn new(enabled: bool) -> Self {
        Compressor {
            governor: enabled.then(Governor::new),
            source: ByteCount::ZERO,
            encoded: ByteCount::ZERO,
            method: None,
        }
    }

    /// Encodes one block (1 to [`BLOCK_LEN_MAX`] bytes), by `method` if it is compressed at all.
    ///
    /// # Panics
    /// When `block` is empty or longer, the caller's bug.
    pub fn compress<'a>(
        &mut self,
        now: Instant,
        method: Method,
        block: &'a [u8],
        workspace: &'a mut Workspace,
    ) -> EncodedBlock<'a> {
        assert!((1..=BLOCK_LEN_MAX).contains(&block.len()), "invariant: a block is 1 to BLOCK_LEN_MAX bytes");
        let body_len = self.attempt(now, method, block, workspace);
        let encoded = match body_len {
            Some(len) => EncodedBlock::compressed(method, block.len(), workspace.output(len)),
            None => EncodedBlock::stored(block),
        };
        if body_len.is_some() {
            self.method = Some(method);
        }
        self.source += ByteCount::from(block.len());
        self.encoded += ByteCount::from(encoded.encoded_len());
        encoded
    }

    /// The length of the compressed body in the workspace, if it pays.
    fn attempt(&mut self, now: Instant, method: Method, block: &[u8], workspace: &mut Workspace) -> Option<usize> {
        let governor = self.governor.as_mut().filter(|_| block.len() >= COMPRESS_LEN_MIN)?;
        let trial = governor.admit(now, block.len());
        let is_tried = match trial {
            Trial::Whole => true,
            Trial::Sample => workspace.is_promising(method, block),
            Trial::None => false,
        };
        let body_len = if is_tried { workspace.compress(method, block) } else { None };
        let body_len = body_len.filter(|len| pays(block.len(), DECODED_LEN_LEN + len));
        governor.on_block(now, block, trial, body_len);
        body_len
    }

    /// What the stream shrinks to of late, in percent of the source, 1 to 100.
    pub fn recent_percent(&self) -> u64 {
        self.governor.as_ref().map_or(100, Governor::recent_percent)
    }

    /// What it did so far.
    pub fn stats(&self) -> CodecStats {
        CodecStats {
            source: self.source,
            encoded: self.encoded,
            given_up: self.governor.as_ref().is_some_and(Governor::is_given_up),
            looks_encrypted: self.governor.as_ref().is_some_and(Governor::looks_encrypted),
            method: self.method,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng as _;
    use rand_pcg::Pcg64;

    use super::*;

    const METHODS: [Method; 3] = [Method::Lz4, Method::Zstd, Method::ZstdDense];

    fn random(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        Pcg64::seed_from_u64(seed).fill_bytes(&mut bytes);
        bytes
    }

    /// Decodes a whole stream as a receiver does: header when complete, then the block.
    fn decode(mut stream: &[u8]) -> Vec<u8> {
        let mut workspace = Workspace::default();
        let mut decoded = Vec::new();
        while !stream.is_empty() {
            let header = parse_header(stream).unwrap().expect("a whole header");
            let at = decoded.len();
            decoded.resize(at + header.decoded_len, 0);
            let block = &stream[..header.encoded_len];
            assert_eq!(decompress(block, &mut decoded[at..], &mut workspace), Ok(header));
            stream = &stream[header.encoded_len..];
        }
        decoded
    }

    /// Encodes with the methods in turn.
    fn feed(compressor: &mut Compressor, now: Instant, source: &[u8], block_len: usize, methods: &[Method]) -> Vec<u8> {
        let mut workspace = Workspace::default();
        let mut out = Vec::new();
        for (block, method) in source.chunks(block_len).zip(methods.iter().cycle()) {
            let encoded = compressor.compress(now, *method, block, &mut workspace);
            out.extend_from_slice(encoded.header());
            out.extend_from_slice(encoded.body());
        }
        out
    }

    #[test]
    fn zero_pages_all_but_vanish() {
        for method in METHODS {
            let mut compressor = Compressor::new(true);
            let encoded = feed(&mut compressor, Instant::ZERO, &vec![0; 1 << 20], BLOCK_LEN_MAX, &[method]);
            assert!(encoded.len() < (1 << 20) / 200, "{}", encoded.len());
            assert_eq!(decode(&encoded), vec![0; 1 << 20]);
            let stats = compressor.stats();
            assert_eq!((stats.given_up, stats.method), (false, Some(method)));
        }
    }

    #[test]
    fn zstd_makes_less_of_what_lz4_shrinks_and_shrinks_what_lz4_cannot() {
        let words = [&b"page"[..], b"table", b"entry", b"of", b"the", b"kernel", b"frame", b"lock"];
        let text: Vec<u8> = random(5, 100_000).iter().flat_map(|&byte| words[usize::from(byte % 8)]).copied().collect();
        let mut workspace = Workspace::default();
        let mut len = |method, source: &[u8]| {
            let block = &source[..BLOCK_LEN_MAX];
            Compressor::new(true).compress(Instant::ZERO, method, block, &mut workspace).encoded_len()
        };
        assert!(len(Method::Zstd, &text) * 10 < len(Method::Lz4, &text) * 8);
        let base64: Vec<u8> = random(6, BLOCK_LEN_MAX).iter().map(|byte| b'0' + (byte & 63)).collect();
        assert_eq!(len(Method::Lz4, &base64), BLOCK_LEN_MAX + 4);
        assert!(len(Method::Zstd, &base64) * 10 < BLOCK_LEN_MAX * 8);
    }

    #[test]
    fn a_block_that_does_not_shrink_below_80_percent_is_stored_and_costs_four_bytes() {
        for (len, method) in [1, 47, 48, 100, 4096, BLOCK_LEN_MAX].into_iter().zip(METHODS.into_iter().cycle()) {
            let encoded = feed(&mut Compressor::new(true), Instant::ZERO, &random(1, len), BLOCK_LEN_MAX, &[method]);
            assert_eq!((encoded.len(), encoded[0]), (len + 4, 1), "{len}");
            assert_eq!(decode(&encoded), random(1, len));
        }
        let mut dense = random(2, 60_000);
        dense[..9_000].fill(0);
        for method in METHODS {
            assert_eq!(feed(&mut Compressor::new(true), Instant::ZERO, &dense, BLOCK_LEN_MAX, &[method])[0], 1);
        }
        dense[..15_000].fill(0);
        for method in METHODS {
            assert_ne!(feed(&mut Compressor::new(true), Instant::ZERO, &dense, BLOCK_LEN_MAX, &[method])[0], 1);
        }
    }

    #[test]
    fn disabled_compression_stores_and_is_not_called_given_up() {
        let mut compressor = Compressor::new(false);
        let encoded = feed(&mut compressor, Instant::ZERO, &[0; 100_000], 50_000, &METHODS);
        assert_eq!(encoded.len(), 100_008);
        let stats = compressor.stats();
        assert_eq!((stats.source, stats.encoded), (ByteCount::new(100_000), ByteCount::new(100_008)));
        assert!(!stats.given_up && !stats.looks_encrypted && stats.method.is_none());
        assert_eq!(compressor.recent_percent(), 100);
    }

    #[test]
    fn an_encrypted_stream_is_given_up_and_a_plain_one_later_is_compressed_again() {
        for method in METHODS {
            let mut compressor = Compressor::new(true);
            feed(&mut compressor, Instant::ZERO, &random(3, 256 * 1024), 16 * 1024, &[method]);
            assert!(compressor.stats().given_up && compressor.stats().looks_encrypted);
            let plain = vec![b'a'; 4 << 20];
            let encoded = feed(&mut compressor, Instant::ZERO, &plain, 16 * 1024, &[method]);
            assert!(!compressor.stats().given_up && !compressor.stats().looks_encrypted);
            assert!(encoded.len() < 1 << 18, "all but the first 128 KiB is compressed again: {}", encoded.len());
            assert_eq!(decode(&encoded), plain);
        }
    }

    /// Guest memory in extents of 64 KiB, most of them zeros but for a tag per page, the others noise, in no order.
    fn mixed(extents: u64, noise_percent: u64) -> Vec<u8> {
        let mut memory = Vec::new();
        for extent in 0..extents {
            if extent * 7919 % 100 < noise_percent {
                memory.extend(random(extent, 64 * 1024));
            } else {
                for page in 0..16_u64 {
                    memory.extend((extent * 16 + page).to_le_bytes());
                    memory.resize(memory.len() + 4088, 0);
                }
            }
        }
        memory
    }

    #[test]
    fn memory_that_mixes_noise_and_zeros_shrinks_as_if_every_block_were_tried() {
        for noise_percent in [5, 30, 50, 80, 95] {
            let memory = mixed(400, noise_percent);
            // Blocks do not stand where extents do.
            for block_len in [10_000, 24 * 1024, BLOCK_LEN_MAX - 1000, BLOCK_LEN_MAX] {
                let encoded = feed(&mut Compressor::new(true), Instant::ZERO, &memory, block_len, &[Method::Lz4]).len();
                let mut workspace = Workspace::default();
                let tried = |block: &[u8]| {
                    Compressor::new(true).compress(Instant::ZERO, Method::Lz4, block, &mut workspace).encoded_len()
                };
                let best: usize = memory.chunks(block_len).map(tried).sum();
                assert!(
                    encoded * 100 <= best * 107,
                    "{noise_percent} % noise in blocks of {block_len}: {encoded} {best}"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// A mix of runs, repeated phrases and noise at any block length comes back as it was.
        #[test]
        fn every_stream_comes_back_as_it_was(
            parts in proptest::collection::vec((0_u8..3, any::<u8>(), 1_usize..40_000), 1..8),
            block_len in 1_usize..=BLOCK_LEN_MAX,
            methods in proptest::collection::vec(proptest::sample::select(&METHODS[..]), 1..5),
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
            let encoded = feed(&mut compressor, Instant::ZERO, &source, block_len, &methods);
            prop_assert!(encoded.len() <= source.len() + 4 * source.len().div_ceil(block_len));
            prop_assert_eq!(compressor.stats().encoded.as_usize(), encoded.len());
            prop_assert_eq!(decode(&encoded), source);
        }
    }
}
