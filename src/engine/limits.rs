//! Named limits of one appliance, and how the buffers of a flow are sized within them.

use std::time::Duration;

use crate::codec::{BLOCK_LEN_MAX, Method};
use crate::units::{BitRate, ByteCount};

/// Named limits of one appliance.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Accelerated flows at most; beyond, new flows pass through.
    pub flows: usize,
    /// Bytes of all flow buffers together; beyond, new flows pass through.
    pub memory: ByteCount,
}

impl Default for Limits {
    /// 10,000 flows (a site of 64 ESX hosts stays below) and 1 GiB.
    fn default() -> Self {
        Limits { flows: 10_000, memory: ByteCount::from_mib(1024) }
    }
}

/// How long the path's rate may fill one TCP buffer of a flow.
///
/// The stun trap: ESX measures progress by how fast its socket drains, so every byte that we acknowledge before the
/// far host has it makes the source believe in pages that have not arrived, and the VM stands still while they drain.
/// What is undelivered is the receive buffer here, the channel's own bounded backlog, and the send buffer at the far
/// end. 40 ms for each of the two TCP buffers is as little as rides over a LAN round trip and a busy event loop, and
/// stays well within "RTT + 200 ms" after the last byte.
const BUFFER_TIME: Duration = Duration::from_millis(40);

/// Smallest TCP buffer: four super-segments in flight on the LAN. 21 ms of a 100 Mbps path.
const BUFFER_MIN: ByteCount = ByteCount::from_kib(256);

/// Largest TCP buffer.
const BUFFER_MAX: ByteCount = ByteCount::from_mib(4);

/// How long one block occupies the line: what a byte waits for the rest of its block on arrival.
const BLOCK_TIME: Duration = Duration::from_millis(2);

/// Smallest block at any rate; below, headers and LZ4's start-up cost the ratio.
const BLOCK_MIN: usize = 4 * 1024;

/// Size of the receive and of the send buffer of a flow opened while the path moves `rate`. Neither can grow later.
pub(super) fn buffer_size(rate: BitRate) -> ByteCount {
    rate.bytes_in(BUFFER_TIME).clamp(BUFFER_MIN, BUFFER_MAX)
}

/// Source bytes of one block at `rate`, of a stream that shrinks to `percent`. A shorter block never waits to become this
/// long.
pub(super) fn block_size(rate: BitRate, percent: u64) -> usize {
    let on_line = rate.bytes_in(BLOCK_TIME).as_u64();
    usize::try_from(on_line * 100 / percent.max(1)).unwrap_or(BLOCK_LEN_MAX).clamp(BLOCK_MIN, BLOCK_LEN_MAX)
}

/// Up to this rate of the path blocks are compressed by zstd when they queue up for it. One core compresses a busy
/// server's memory at 0.31 GB/s to a third ([`Method::Zstd`]), so that to fill 300 Mbps takes 40 % of it; a mostly idle
/// one's at 1 GB/s to a tenth, 37 %.
const ZSTD_RATE_MAX: BitRate = BitRate::from_mbps(300);

/// Up to this rate the denser level: 0.24 GB/s and 20 % of a core at 120 Mbps.
const ZSTD_DENSE_RATE_MAX: BitRate = BitRate::from_mbps(120);

/// The line counts as what limits while bytes for this long wait to be sent a first time. A relay short of CPU, or a host
/// that sends less than the line carries, leaves no queue, and gets the cheap method.
const QUEUE_TIME: Duration = Duration::from_millis(10);

/// How to compress the next block for a path that moves `rate`, with `unsent` bytes waiting for it.
pub(super) fn method(rate: BitRate, unsent: ByteCount) -> Method {
    if rate > ZSTD_RATE_MAX || rate == BitRate::ZERO || unsent < rate.bytes_in(QUEUE_TIME) {
        Method::Lz4
    } else if rate > ZSTD_DENSE_RATE_MAX {
        Method::Zstd
    } else {
        Method::ZstdDense
    }
}

/// What a flow with TCP buffers of `buffer` bytes counts against [`Limits::memory`]: both buffers, and one block on
/// its way in each direction.
pub(super) fn flow_memory(buffer: ByteCount) -> ByteCount {
    buffer + buffer + ByteCount::from(2 * BLOCK_LEN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_hold_forty_milliseconds_of_the_path_within_their_bounds() {
        assert_eq!(buffer_size(BitRate::ZERO), BUFFER_MIN);
        assert_eq!(buffer_size(BitRate::from_mbps(400)), ByteCount::new(2_000_000));
        assert_eq!(buffer_size(BitRate::from_mbps(10_000)), BUFFER_MAX);
    }

    #[test]
    fn a_block_is_two_milliseconds_of_line_time_within_its_bounds() {
        assert_eq!(block_size(BitRate::ZERO, 1), BLOCK_MIN);
        assert_eq!(block_size(BitRate::from_mbps(100), 100), 25_000);
        assert_eq!(block_size(BitRate::from_mbps(100), 50), 50_000);
        assert_eq!(block_size(BitRate::from_mbps(100), 1), BLOCK_LEN_MAX);
        assert_eq!(block_size(BitRate::from_mbps(1_000), 100), BLOCK_LEN_MAX);
    }

    #[test]
    fn zstd_is_for_slow_lines_with_a_queue() {
        let queue =
            |mbps, ms| method(BitRate::from_mbps(mbps), BitRate::from_mbps(mbps).bytes_in(Duration::from_millis(ms)));
        assert_eq!(queue(100, 9), Method::Lz4);
        assert_eq!(queue(100, 11), Method::ZstdDense);
        assert_eq!(queue(250, 11), Method::Zstd);
        assert_eq!(queue(1000, 1000), Method::Lz4);
        assert_eq!(method(BitRate::ZERO, ByteCount::from_mib(1)), Method::Lz4);
    }
}
