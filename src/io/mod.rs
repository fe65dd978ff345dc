//! The system-call edge: TAPs, the channel's UDP socket, the clock and the timer.
//!
//! Nothing here waits: every descriptor is non-blocking and made for an event loop (`AsRawFd`). Nothing here decides
//! either: errors come back sorted by what the loop has to do about them, drops are counted where they happen.
//!
//! | file | one job |
//! |---|---|
//! | `tap` | frames with virtio-net header in and out of a TAP |
//! | `udp` | datagrams in batches (GSO, GRO), socket buffers, kernel drops |
//! | `clock` | monotonic time as the engine's [`Instant`](crate::units::Instant), and deadlines to the nanosecond |

mod clock;
mod tap;
mod udp;

pub use clock::{Clock, Timer};
pub use tap::{FRAME_LEN_MAX, Offloads, TXQUEUELEN, Tap, TapError, TapFault};
pub use udp::{RECV_BATCH, SOCKET_BUFFER_LEN, UdpChannelSocket, UdpCounters};
