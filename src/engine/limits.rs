//! Named limits of one appliance, and how the buffers of a flow are sized within them.

use std::time::Duration;

use crate::codec::BLOCK_LEN_MAX;
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

/// Source bytes of one block at `rate`. A shorter block never waits to become this long.
pub(super) fn block_size(rate: BitRate) -> usize {
    rate.bytes_in(BLOCK_TIME).as_usize().clamp(BLOCK_MIN, BLOCK_LEN_MAX)
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
        assert_eq!(block_size(BitRate::ZERO), BLOCK_MIN);
        assert_eq!(block_size(BitRate::from_mbps(100)), 25_000);
        assert_eq!(block_size(BitRate::from_mbps(1_000)), BLOCK_LEN_MAX);
    }
}
