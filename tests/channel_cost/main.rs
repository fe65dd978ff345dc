//! What the channel costs by itself, in CPU seconds per GB: with the kernel and without.
//!
//! Measurements, not checks: `cargo test --release --test channel_cost -- --ignored --nocapture --test-threads 1`.
//! `LONGHAUL_COST_GB` sets how much each run moves (default 1).

#[path = "../support/ends.rs"]
mod ends;
mod sockets;
mod virtual_path;

use rustix::time::{ClockId, clock_gettime};

/// CPU time of this thread so far.
fn cpu_nanos() -> u64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn total() -> u64 {
    let gigabytes: f64 = std::env::var("LONGHAUL_COST_GB").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    (gigabytes * 1e9) as u64
}

#[test]
#[ignore = "a measurement"]
fn seconds_per_gigabyte() {
    virtual_path::run(total());
}

#[test]
#[ignore = "a measurement"]
fn seconds_per_gigabyte_with_sockets() {
    sockets::run(total());
}
