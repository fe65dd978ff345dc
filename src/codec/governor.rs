//! Whether compressing this stream pays at the moment.
//!
//! ```text
//! trusting ── a block that does not pay ──▶ doubting ── 1 MiB that does not pay ──▶ waiting
//! ▲  every block is tried                   │ a sample of every block is tried       │ a sample is tried now and then
//! └─────────────── a block pays ────────────┴────────────── a block pays ────────────┘
//! ```
//!
//! "Off above 80 % of the source" is the rule of the report this product starts from. It is applied to each block, since
//! real memory turns from noise to zeros within a few pages. Encrypted vMotion is the ordinary case today, so giving up
//! has to be quick and asking again has to be cheap: a sample is an eighth of a block, and LZ4 passes over noise at
//! several GB/s. A stream that has not paid for 128 KiB shows as given up.

use std::time::Duration;

use super::BLOCK_LEN_MAX;
use super::workspace::UNSAMPLED_LEN_MAX;
use crate::units::Instant;

/// A block is sent compressed if it shrinks to at most this share of the source.
const PAYS_PERCENT: usize = 80;

/// Source bytes in a row that did not pay, after which compression counts as given up.
const GIVE_UP_AFTER: u64 = 128 * 1024;

/// Source bytes in a row that did not pay, up to which every block is sampled: extents of noise in a guest's memory are
/// shorter.
const DOUBT_LEN: u64 = 1024 * 1024;

/// Bytes that pass untried between the samples beyond; doubles with each that shows nothing.
const SAMPLE_AFTER_MIN: u64 = 64 * 1024;

/// Limit of the doubling: at 8 KiB per MiB asking costs an encrypted stream nothing that could be measured, and a stream
/// that has turned compressible is not kept waiting.
const SAMPLE_AFTER_MAX: u64 = 1024 * 1024;

/// However few bytes pass, a sample is due after this long: a slow stream would else wait for hours.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(4);

/// Source bytes that [`Governor::recent_percent`] looks back over, about: the sums are halved when they reach it.
const WINDOW: u64 = 512 * 1024;

/// Fewest bytes to judge randomness by: 16 expected per byte value.
const RANDOMNESS_LEN_MIN: usize = 4096;

/// Enough bytes to judge it by; more would only take time.
const RANDOMNESS_LEN_MAX: usize = 16 * 1024;

/// Above this, the chi-square of 256 byte values is not that of random bytes: 255 degrees of freedom have mean 255
/// and standard deviation 22.6, so a random block exceeds it about once in 10,000. Deflate's output lies well above.
const RANDOM_CHI_SQUARE_MAX: f64 = 345.0;

/// What to do with a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Trial {
    /// Compress all of it.
    Whole,
    /// Compress all of it if a sample gives hope.
    Sample,
    /// Store it.
    None,
}

/// Whether a block of `source_len` bytes that became `encoded_len` is sent so.
pub(super) fn pays(source_len: usize, encoded_len: usize) -> bool {
    encoded_len * 100 <= source_len * PAYS_PERCENT
}

/// Decides per block whether to try.
#[derive(Debug)]
pub(super) struct Governor {
    /// Source bytes since the last block that paid, those not tried included.
    missed: u64,
    /// Of those, bytes since the last trial.
    untried: u64,
    tried_at: Instant,
    sample_after: u64,
    looks_encrypted: bool,
    /// Source and encoded bytes of late.
    recent: (u64, u64),
}

impl Governor {
    pub(super) fn new() -> Self {
        Governor {
            missed: 0,
            untried: 0,
            tried_at: Instant::ZERO,
            sample_after: SAMPLE_AFTER_MIN,
            looks_encrypted: false,
            recent: (0, 0),
        }
    }

    /// Compression is off at the moment.
    pub(super) fn is_given_up(&self) -> bool {
        self.missed >= GIVE_UP_AFTER
    }

    /// It is off because of bytes that could not be told from random ones.
    pub(super) fn looks_encrypted(&self) -> bool {
        self.is_given_up() && self.looks_encrypted
    }

    /// What the stream shrinks to of late, in percent of the source, 1 to 100.
    pub(super) fn recent_percent(&self) -> u64 {
        let (source, encoded) = self.recent;
        (encoded * 100).checked_div(source).map_or(100, |percent| percent.clamp(1, 100))
    }

    /// What to do with the next block, of `len` bytes. [`Governor::on_block`] follows.
    pub(super) fn admit(&mut self, now: Instant, len: usize) -> Trial {
        let is_waiting = self.missed >= DOUBT_LEN && self.untried < self.sample_after;
        if is_waiting && now.saturating_since(self.tried_at) < SAMPLE_INTERVAL {
            return Trial::None;
        }
        if self.missed == 0 || len <= UNSAMPLED_LEN_MAX { Trial::Whole } else { Trial::Sample }
    }

    /// What came of a block: its encoded length if that pays.
    pub(super) fn on_block(&mut self, now: Instant, block: &[u8], trial: Trial, encoded_len: Option<usize>) {
        let len = block.len() as u64;
        self.recent.0 += len;
        self.recent.1 += encoded_len.map_or(len, |encoded| encoded as u64);
        if self.recent.0 >= WINDOW {
            self.recent = (self.recent.0 / 2, self.recent.1 / 2);
        }
        if encoded_len.is_some() {
            (self.missed, self.sample_after) = (0, SAMPLE_AFTER_MIN);
            return;
        }
        let (was_given_up, was_waiting) = (self.is_given_up(), self.missed >= DOUBT_LEN);
        self.missed += len;
        if trial == Trial::None {
            self.untried += len;
            return;
        }
        (self.untried, self.tried_at) = (0, now);
        if was_waiting {
            self.sample_after = (self.sample_after * 2).min(SAMPLE_AFTER_MAX);
        }
        let is_judged = self.is_given_up() && (was_waiting || !was_given_up);
        if is_judged && block.len() >= RANDOMNESS_LEN_MIN {
            let start = &block[..block.len().min(RANDOMNESS_LEN_MAX)];
            self.looks_encrypted = chi_square(start) < RANDOM_CHI_SQUARE_MAX;
        }
    }
}

/// Pearson's chi-square of the byte values against a uniform distribution.
fn chi_square(bytes: &[u8]) -> f64 {
    const { assert!(BLOCK_LEN_MAX < u32::MAX as usize) };
    let mut counts = [0_u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let expected = bytes.len() as f64 / 256.0;
    counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum()
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_pcg::Pcg64;

    use super::*;

    /// Feeds `len` bytes in blocks that shrink to `percent`; returns how many bytes were tried.
    fn feed(governor: &mut Governor, now: Instant, len: usize, block_len: usize, percent: usize) -> usize {
        let block = vec![0; block_len];
        let mut tried = 0;
        for _ in 0..len / block_len {
            let trial = governor.admit(now, block_len);
            let encoded_len = (trial != Trial::None && percent <= 80).then_some(block_len * percent / 100);
            tried += if trial == Trial::None { 0 } else { block_len };
            governor.on_block(now, &block, trial, encoded_len);
        }
        tried
    }

    /// Bytes until it gives up on blocks that do not shrink at all.
    fn bytes_to_give_up(governor: &mut Governor, block_len: usize) -> usize {
        let mut fed = 0;
        while !governor.is_given_up() {
            feed(governor, Instant::ZERO, block_len, block_len, 101);
            fed += block_len;
            assert!(fed < 10 << 20, "never gives up");
        }
        fed
    }

    #[test]
    fn noise_is_given_up_within_256_kib_whatever_came_before_and_in_whatever_blocks() {
        for block_len in [200, 1448, 4096, 16 * 1024, 32 * 1024, BLOCK_LEN_MAX] {
            for history in [0, 64 * 1024, 100_000, 1 << 20, 10_000_000] {
                let mut governor = Governor::new();
                feed(&mut governor, Instant::ZERO, history, block_len, 1);
                let fed = bytes_to_give_up(&mut governor, block_len);
                assert!(fed <= 256 * 1024, "{fed} bytes in blocks of {block_len} after {history} compressible ones");
            }
        }
    }

    #[test]
    fn a_block_is_sent_compressed_up_to_80_percent() {
        assert!(pays(1000, 800) && !pays(1000, 801) && pays(65_536, 0));
    }

    #[test]
    fn a_stream_below_80_percent_stays_on_and_one_above_is_given_up() {
        let mut governor = Governor::new();
        feed(&mut governor, Instant::ZERO, 10 << 20, 4000, 79);
        assert!(!governor.is_given_up());
        feed(&mut governor, Instant::ZERO, 1 << 20, 4000, 82);
        assert!(governor.is_given_up());
    }

    #[test]
    fn after_one_odd_block_the_next_is_tried_by_a_sample_and_the_one_after_that_as_a_whole() {
        let mut governor = Governor::new();
        feed(&mut governor, Instant::ZERO, 2 * BLOCK_LEN_MAX, BLOCK_LEN_MAX, 30);
        assert_eq!(governor.admit(Instant::ZERO, BLOCK_LEN_MAX), Trial::Whole);
        feed(&mut governor, Instant::ZERO, BLOCK_LEN_MAX, BLOCK_LEN_MAX, 101);
        assert_eq!(governor.admit(Instant::ZERO, BLOCK_LEN_MAX), Trial::Sample);
        assert_eq!(governor.admit(Instant::ZERO, 4096), Trial::Whole, "as cheap as a sample");
        feed(&mut governor, Instant::ZERO, BLOCK_LEN_MAX, BLOCK_LEN_MAX, 30);
        assert_eq!(governor.admit(Instant::ZERO, BLOCK_LEN_MAX), Trial::Whole);
    }

    #[test]
    fn samples_back_off_by_bytes() {
        let mut governor = Governor::new();
        feed(&mut governor, Instant::ZERO, DOUBT_LEN as usize, 16 * 1024, 101);
        let mut distances = Vec::new();
        let mut stored = 0;
        while distances.len() < 7 {
            if feed(&mut governor, Instant::ZERO, 16 * 1024, 16 * 1024, 101) > 0 {
                distances.push(stored >> 10);
                stored = 0;
            } else {
                stored += 16 * 1024;
            }
        }
        assert_eq!(distances, [64, 128, 256, 512, 1024, 1024, 1024]);
    }

    #[test]
    fn a_slow_stream_is_sampled_by_time() {
        let mut governor = Governor::new();
        feed(&mut governor, Instant::ZERO, 1_100_000, 1000, 101);
        let mut tried = Vec::new();
        for tick in 0..200_u64 {
            if feed(&mut governor, Instant::from_millis(tick * 100), 100, 100, 101) > 0 {
                tried.push(tick);
            }
        }
        assert_eq!(tried, [40, 80, 120, 160]);
    }

    #[test]
    fn a_block_that_pays_turns_compression_on_and_shortens_the_next_wait() {
        let mut governor = Governor::new();
        bytes_to_give_up(&mut governor, 16 * 1024);
        feed(&mut governor, Instant::ZERO, 40 << 20, 16 * 1024, 101);
        let tried = feed(&mut governor, Instant::ZERO, 3 << 20, 16 * 1024, 20);
        assert!(!governor.is_given_up());
        assert!(tried >= 2 << 20, "{tried}");
        feed(&mut governor, Instant::ZERO, DOUBT_LEN as usize, 16 * 1024, 101);
        let tried = feed(&mut governor, Instant::ZERO, SAMPLE_AFTER_MIN as usize + 16 * 1024, 16 * 1024, 101);
        assert_eq!(tried, 16 * 1024);
    }

    #[test]
    fn what_the_stream_shrinks_to_is_known_of_late() {
        let mut governor = Governor::new();
        assert_eq!(governor.recent_percent(), 100);
        feed(&mut governor, Instant::ZERO, 4 << 20, 4096, 25);
        assert_eq!(governor.recent_percent(), 25);
        feed(&mut governor, Instant::ZERO, 4 << 20, 4096, 101);
        assert!(governor.recent_percent() >= 99);
        feed(&mut governor, Instant::ZERO, 8 << 20, 4096, 0);
        assert_eq!(governor.recent_percent(), 1);
    }

    #[test]
    fn random_bytes_look_encrypted_and_merely_dense_ones_do_not() {
        let mut rng = Pcg64::seed_from_u64(4);
        for len in [4096, 16 * 1024, BLOCK_LEN_MAX] {
            let mut block = vec![0; len];
            rng.fill_bytes(&mut block);
            let mut governor = Governor::new();
            feed(&mut governor, Instant::ZERO, DOUBT_LEN as usize, 4096, 101);
            governor.on_block(Instant::ZERO, &block, Trial::Whole, None);
            assert!(governor.looks_encrypted(), "{len} random bytes: {}", chi_square(&block));
            // Base64 has 6 bits of entropy per byte: LZ4 cannot shrink it, but it is not encrypted bytes on the wire.
            block.iter_mut().for_each(|byte| *byte = b'0' + (*byte & 63));
            governor.on_block(Instant::ZERO, &block, Trial::Whole, None);
            assert!(!governor.looks_encrypted());
        }
    }
}
