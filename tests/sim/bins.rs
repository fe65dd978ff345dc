//! Bins of time in which delivered bytes, and waits, are counted.

use std::time::Duration;

/// Width of a bin.
pub const BIN: Duration = Duration::from_millis(10);

/// Which bin a moment falls into.
pub fn bin(at: Duration) -> usize {
    (at.as_nanos() / BIN.as_nanos()) as usize
}

/// Where the first `width` bins in a row begin that carried so many bytes.
pub fn first_window(bins: &[u64], width: usize, wanted: u64) -> Option<usize> {
    bins.windows(width).position(|window| window.iter().sum::<u64>() >= wanted)
}
