//! Whether compressing this stream pays at the moment.
//!
//! ```text
//! On ── encoded > 80 % of the source over the window ──▶ Off ── enough bytes or time ──▶ Probing
//! ▲                                                      ▲                                 │ │
//! │                                                      └─ no: wait for twice the bytes ──┘ │
//! └───────────────────────────────────── yes, it pays ───────────────────────────────────────┘
//! ```
//!
//! "Off above 80 % of the source" is the rule of the report this product starts from. Encrypted vMotion is the
//! ordinary case today, so giving up has to be quick (256 KiB) and asking again has to be rare.

use std::time::Duration;

use super::BLOCK_LEN_MAX;
use crate::units::Instant;

/// Compression pays while `encoded` is at most this share of the source.
const PAYS_PERCENT: u64 = 80;

/// Source bytes the verdict looks back over: the sums are halved when they reach it, so the last half of it weighs
/// fully and older bytes fade. A stream that turns from zeros to noise is given up within 256 KiB.
const WINDOW: u64 = 128 * 1024;

/// Source bytes measured before the first verdict: one odd block does not decide.
const VERDICT_LEN_MIN: u64 = 64 * 1024;

/// Source bytes of one probe.
const PROBE_LEN: u64 = 16 * 1024;

/// Stored bytes between giving up and the first probe; doubles with each probe that does not pay. Soon, because real
/// memory and real files turn from noise to zeros within a few hundred KiB, and a probe of noise costs next to nothing
/// (lz4_flex passes over it at several GB/s); it is the doubling that keeps an encrypted stream from being asked often.
const PROBE_AFTER_MIN: u64 = 128 * 1024;

/// Limit of the doubling.
const PROBE_AFTER_MAX: u64 = 64 * 1024 * 1024;

/// However few bytes pass, a probe is due after this long: a slow stream would else wait for hours.
const PROBE_INTERVAL: Duration = Duration::from_secs(4);

/// Fewest bytes to judge randomness by: 16 expected per byte value.
const RANDOMNESS_LEN_MIN: usize = 4096;

/// Above this, the chi-square of 256 byte values is not that of random bytes: 255 degrees of freedom have mean 255
/// and standard deviation 22.6, so a random block exceeds it about once in 10,000. Deflate's output lies well above.
const RANDOM_CHI_SQUARE_MAX: f64 = 345.0;

/// Decides per block whether to try.
#[derive(Debug)]
pub(super) struct Governor {
    state: State,
    measured: Measured,
    probe_after: u64,
    looks_encrypted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    On,
    /// Given up at `since`; `stored` source bytes have passed from then on.
    Off {
        since: Instant,
        stored: u64,
    },
    Probing,
}

/// Source and encoded bytes of what was compressed lately.
#[derive(Clone, Copy, Default, Debug)]
struct Measured {
    source: u64,
    encoded: u64,
}

impl Measured {
    fn pays(self) -> bool {
        self.encoded * 100 <= self.source * PAYS_PERCENT
    }
}

impl Governor {
    pub(super) fn new() -> Self {
        Governor {
            state: State::On,
            measured: Measured::default(),
            probe_after: PROBE_AFTER_MIN,
            looks_encrypted: false,
        }
    }

    /// Compression is off at the moment (a probe under way included).
    pub(super) fn is_given_up(&self) -> bool {
        self.state != State::On
    }

    /// It is off because of bytes that could not be told from random ones.
    pub(super) fn looks_encrypted(&self) -> bool {
        self.is_given_up() && self.looks_encrypted
    }

    /// Whether to try the next block, of `len` bytes. If so, [`Governor::on_measured`] follows.
    pub(super) fn admit(&mut self, now: Instant, len: usize) -> bool {
        if let State::Off { since, stored } = &mut self.state {
            if *stored < self.probe_after && now.saturating_since(*since) < PROBE_INTERVAL {
                *stored += len as u64;
                return false;
            }
            self.state = State::Probing;
            self.measured = Measured::default();
        }
        true
    }

    /// What came of a block that was admitted.
    pub(super) fn on_measured(&mut self, now: Instant, block: &[u8], encoded_len: usize) {
        self.measured.source += block.len() as u64;
        self.measured.encoded += encoded_len as u64;
        match self.state {
            State::On => {
                if self.measured.source >= VERDICT_LEN_MIN && !self.measured.pays() {
                    self.probe_after = PROBE_AFTER_MIN;
                    self.give_up(now, block);
                } else if self.measured.source >= WINDOW {
                    self.measured.source /= 2;
                    self.measured.encoded /= 2;
                }
            }
            State::Probing if self.measured.source >= PROBE_LEN => {
                if self.measured.pays() {
                    // The window starts from the probe, so that the next verdict needs as much evidence as the first.
                    self.state = State::On;
                } else {
                    self.probe_after = (self.probe_after * 2).min(PROBE_AFTER_MAX);
                    self.give_up(now, block);
                }
            }
            State::Probing | State::Off { .. } => {}
        }
    }

    fn give_up(&mut self, now: Instant, block: &[u8]) {
        self.state = State::Off { since: now, stored: 0 };
        if block.len() >= RANDOMNESS_LEN_MIN {
            self.looks_encrypted = chi_square(block) < RANDOM_CHI_SQUARE_MAX;
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

    /// Feeds `len` bytes in blocks that shrink to `percent`; returns how many bytes were admitted.
    fn feed(governor: &mut Governor, now: Instant, len: usize, block_len: usize, percent: usize) -> usize {
        let block = vec![0; block_len];
        let mut admitted = 0;
        for _ in 0..len / block_len {
            if governor.admit(now, block_len) {
                admitted += block_len;
                governor.on_measured(now, &block, block_len * percent / 100);
            }
        }
        admitted
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
            for history in [0, 64 * 1024, 100_000, 128 * 1024 - 200, 1 << 20, 10_000_000] {
                let mut governor = Governor::new();
                feed(&mut governor, Instant::ZERO, history, block_len, 1);
                let fed = bytes_to_give_up(&mut governor, block_len);
                assert!(fed <= 256 * 1024, "{fed} bytes in blocks of {block_len} after {history} compressible ones");
            }
        }
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
    fn one_odd_block_at_the_start_does_not_decide() {
        let mut governor = Governor::new();
        feed(&mut governor, Instant::ZERO, 32 * 1024, 16 * 1024, 101);
        feed(&mut governor, Instant::ZERO, 1 << 20, 16 * 1024, 30);
        assert!(!governor.is_given_up());
    }

    #[test]
    fn probes_back_off_by_bytes() {
        let mut governor = Governor::new();
        bytes_to_give_up(&mut governor, 16 * 1024);
        let mut distances = Vec::new();
        let mut stored = 0;
        while distances.len() < 12 {
            if feed(&mut governor, Instant::ZERO, 16 * 1024, 16 * 1024, 101) > 0 {
                distances.push(stored >> 10);
                stored = 0;
            } else {
                stored += 16 * 1024;
            }
        }
        assert_eq!(distances, [128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 65536, 65536]);
    }

    #[test]
    fn a_slow_stream_is_probed_by_time() {
        let mut governor = Governor::new();
        bytes_to_give_up(&mut governor, 1000);
        let mut admitted = Vec::new();
        for tick in 0..600_u64 {
            let now = Instant::from_millis(tick * 100);
            if feed(&mut governor, now, 1000, 1000, 101) > 0 {
                admitted.push(tick);
            }
        }
        let starts: Vec<u64> = admitted.iter().filter(|tick| !admitted.contains(&(*tick - 1))).copied().collect();
        assert_eq!(starts, [40, 96, 152, 208, 264, 320, 376, 432, 488, 544]);
    }

    #[test]
    fn a_probe_that_pays_turns_compression_on_and_shortens_the_next_wait() {
        let mut governor = Governor::new();
        bytes_to_give_up(&mut governor, 16 * 1024);
        feed(&mut governor, Instant::ZERO, 40 << 20, 16 * 1024, 101);
        let admitted = feed(&mut governor, Instant::ZERO, 70 << 20, 16 * 1024, 20);
        assert!(!governor.is_given_up());
        assert!(admitted > 30 << 20, "{admitted}");
        bytes_to_give_up(&mut governor, 16 * 1024);
        let admitted = feed(&mut governor, Instant::ZERO, PROBE_AFTER_MIN as usize + 16 * 1024, 16 * 1024, 101);
        assert_eq!(admitted, 16 * 1024);
    }

    #[test]
    fn a_probe_of_small_blocks_is_judged_over_all_of_them() {
        let mut governor = Governor::new();
        bytes_to_give_up(&mut governor, 1000);
        feed(&mut governor, Instant::ZERO, PROBE_AFTER_MIN as usize + 2000, 1000, 101);
        assert_eq!(governor.state, State::Probing);
        feed(&mut governor, Instant::ZERO, 20_000, 1000, 10);
        assert_eq!(governor.state, State::On);
    }

    #[test]
    fn random_bytes_look_encrypted_and_merely_dense_ones_do_not() {
        let mut rng = Pcg64::seed_from_u64(4);
        for len in [4096, 16 * 1024, BLOCK_LEN_MAX] {
            let mut block = vec![0; len];
            rng.fill_bytes(&mut block);
            let mut governor = Governor::new();
            governor.give_up(Instant::ZERO, &block);
            assert!(governor.looks_encrypted(), "{len} random bytes: {}", chi_square(&block));
            // Base64 has 6 bits of entropy per byte: LZ4 cannot shrink it, but it is not encrypted bytes on the wire.
            block.iter_mut().for_each(|byte| *byte = b'0' + (*byte & 63));
            governor.give_up(Instant::ZERO, &block);
            assert!(!governor.looks_encrypted());
        }
    }
}
