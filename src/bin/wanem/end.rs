//! One end of the emulator: a network interface, however it is attached.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use longhaul::units::Instant;

use crate::packet::PacketEnd;
use crate::tap::TapEnd;

/// Frames read at most before something is written again: two batches of 32, 4 MiB of super-segments.
pub const READ_LIMIT: usize = 64;

/// What one round of reading brought besides frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// Frames handed over.
    pub frames: usize,
    /// Frames that no buffer could hold.
    pub too_long: u64,
}

/// What became of a batch of frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    /// Frames taken from the batch's front: sent or refused.
    pub taken: usize,
    /// Of these, refused by the interface.
    pub refused: u64,
}

/// An interface, read and written with virtio-net headers.
#[derive(Debug)]
pub enum End {
    /// An existing interface, through an AF_PACKET socket.
    Packet(PacketEnd),
    /// A TAP device of our own.
    Tap(TapEnd),
}

impl End {
    /// Reads up to [`READ_LIMIT`] frames and hands each one over with the moment it arrived, by the clock of
    /// [`sys::now`](crate::sys::now).
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn receive(&mut self, sink: impl FnMut(Instant, Vec<u8>)) -> io::Result<Received> {
        match self {
            End::Packet(end) => end.receive(sink),
            End::Tap(end) => end.receive(sink),
        }
    }

    /// Writes frames from the front of `batch`; stops where the interface wants a pause.
    pub fn send(&mut self, batch: &[Vec<u8>]) -> Sent {
        match self {
            End::Packet(end) => end.send(batch),
            End::Tap(end) => end.send(batch),
        }
    }

    /// Whether arrivals carry the kernel's moment, rather than that of the read.
    pub fn stamps_arrivals(&self) -> bool {
        matches!(self, End::Packet(_))
    }

    /// Frames the kernel dropped before we could read them, since the start.
    pub fn kernel_drops(&mut self) -> u64 {
        match self {
            End::Packet(end) => end.kernel_drops(),
            End::Tap(end) => end.kernel_drops(),
        }
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            End::Packet(end) => end.as_fd(),
            End::Tap(end) => end.as_fd(),
        }
    }
}
