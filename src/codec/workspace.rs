//! The compressors themselves, with the memory they work in: one set for all flows of an appliance.

use std::fmt;

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use super::{BLOCK_LEN_MAX, Method};

/// Bytes of a block that are tried when there is little hope for it.
const SAMPLE_LEN: usize = 8 * 1024;

/// Pieces a sample is made of, spread over the block: memory changes its nature from page to page.
const SAMPLE_PIECES: usize = 4;

/// Blocks up to this length are tried as a whole: a sample would cost as much.
pub(super) const UNSAMPLED_LEN_MAX: usize = 2 * SAMPLE_LEN;

/// A sample that shrinks to this share is worth the whole block: it has less to refer back to than the block has.
const SAMPLE_PERCENT: usize = 95;

/// Tables and buffers for compression and decompression.
///
/// Blocks are independent of each other, so whatever a flow leaves in here means nothing to the next.
pub struct Workspace {
    lz4: CompressTable,
    /// Made with the first block that asks for it, with the level it is set to.
    zstd: Option<(zstd::bulk::Compressor<'static>, i32)>,
    unzstd: Option<zstd::bulk::Decompressor<'static>>,
    output: Box<[u8]>,
    sample: Box<[u8]>,
}

impl Default for Workspace {
    fn default() -> Self {
        let output_len = get_maximum_output_size(BLOCK_LEN_MAX).max(zstd::zstd_safe::compress_bound(BLOCK_LEN_MAX));
        Workspace {
            lz4: CompressTable::default(),
            zstd: None,
            unzstd: None,
            output: vec![0; output_len].into_boxed_slice(),
            sample: vec![0; SAMPLE_LEN].into_boxed_slice(),
        }
    }
}

impl fmt::Debug for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workspace").finish_non_exhaustive()
    }
}

impl Workspace {
    /// Compresses `block` (up to [`BLOCK_LEN_MAX`] bytes) into [`Workspace::output`]; the length, or `None` if the method
    /// cannot be had (out of memory).
    pub(super) fn compress(&mut self, method: Method, block: &[u8]) -> Option<usize> {
        match level(method) {
            None => {
                let len = compress_into_with_table(block, &mut self.output, &mut self.lz4);
                Some(len.expect("invariant: the output has LZ4's maximum size"))
            }
            Some(level) => zstd_at(&mut self.zstd, level)?.compress_to_buffer(block, &mut self.output[..]).ok(),
        }
    }

    /// What [`Workspace::compress`] made.
    pub(super) fn output(&self, len: usize) -> &[u8] {
        &self.output[..len]
    }

    /// Whether a sample of a block longer than [`UNSAMPLED_LEN_MAX`] gives hope for the whole.
    pub(super) fn is_promising(&mut self, method: Method, block: &[u8]) -> bool {
        let piece_len = SAMPLE_LEN / SAMPLE_PIECES;
        let stride = (block.len() - piece_len) / (SAMPLE_PIECES - 1);
        let mut sample = std::mem::take(&mut self.sample);
        for (at, piece) in sample.chunks_exact_mut(piece_len).enumerate() {
            piece.copy_from_slice(&block[at * stride..at * stride + piece_len]);
        }
        let len = self.compress(method, &sample);
        self.sample = sample;
        len.is_some_and(|len| len * 100 <= SAMPLE_LEN * SAMPLE_PERCENT)
    }

    /// Fills `out` with what an LZ4 `body` holds; false unless it is exactly that long.
    pub(super) fn decompress_lz4(body: &[u8], out: &mut [u8]) -> bool {
        decompress_into(body, out).is_ok_and(|len| len == out.len())
    }

    /// Fills `out` with what a zstd `body` holds; false unless it is exactly that long. In one pass, so that nothing is
    /// allocated for a window, whatever the body declares.
    pub(super) fn decompress_zstd(&mut self, body: &[u8], out: &mut [u8]) -> bool {
        let unzstd = match &mut self.unzstd {
            Some(unzstd) => unzstd,
            None => {
                let Ok(unzstd) = zstd::bulk::Decompressor::new() else { return false };
                self.unzstd.insert(unzstd)
            }
        };
        unzstd.decompress_to_buffer(body, out).is_ok_and(|len| len == out.len())
    }
}

/// The level of zstd that a method stands for; `None`: it is not zstd.
///
/// Blocks of 64 KiB, one core, guest memory of a mostly idle and of a busy server (ratio; source GB/s): LZ4 7.1; 1.8 and
/// 2.3; 0.60. Level 1: 9.8; 1.0 and 3.3; 0.31. Level 3: 10.1; 0.85 and 3.5; 0.24. Levels below 1 give less than level 1
/// at nearly its cost. A window over earlier blocks adds 1 to 3 % to the ratio and takes one to two megabytes per flow at
/// each end, blocks of 128 KiB add under 1 %: neither is worth it.
const fn level(method: Method) -> Option<i32> {
    match method {
        Method::Lz4 => None,
        Method::Zstd => Some(1),
        Method::ZstdDense => Some(3),
    }
}

fn zstd_at<'a>(
    slot: &'a mut Option<(zstd::bulk::Compressor<'static>, i32)>,
    level: i32,
) -> Option<&'a mut zstd::bulk::Compressor<'static>> {
    if slot.is_none() {
        let mut zstd = zstd::bulk::Compressor::new(level).ok()?;
        // Our own header has the length.
        zstd.include_contentsize(false).ok()?;
        *slot = Some((zstd, level));
    }
    let (zstd, current) = slot.as_mut()?;
    if *current != level {
        zstd.set_compression_level(level).ok()?;
        *current = level;
    }
    Some(zstd)
}
