//! A TAP device as an end: frames written to the device by the kernel come in, frames sent appear received on it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use longhaul::units::Instant;

use crate::end::{READ_LIMIT, Received, Sent};
use crate::packet::FRAME_LIMIT;
use crate::sys;

/// An attached TAP.
#[derive(Debug)]
pub struct TapEnd {
    device: File,
    name: String,
    buffer: Vec<u8>,
    drops_before: u64,
}

impl TapEnd {
    /// Attaches to the TAP `name`; it is made, and goes when the program ends, if there is none.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(name: &str) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
        sys::attach_tap(device.as_fd(), name)?;
        Ok(TapEnd { device, name: name.to_owned(), buffer: vec![0; FRAME_LIMIT], drops_before: transmit_drops(name) })
    }

    pub(crate) fn receive(&mut self, mut sink: impl FnMut(Instant, Vec<u8>)) -> io::Result<Received> {
        let mut received = Received::default();
        while received.frames < READ_LIMIT {
            match self.device.read(&mut self.buffer) {
                // The device cuts silently; a buffer filled to the last byte is taken for cut.
                Ok(len) if len == self.buffer.len() => received.too_long += 1,
                Ok(len) => {
                    sink(sys::now(), self.buffer[..len].to_vec());
                    received.frames += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The interface is down: nothing to read, not gone.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(received)
    }

    pub(crate) fn send(&mut self, batch: &[Vec<u8>]) -> Sent {
        let mut sent = Sent::default();
        for frame in batch {
            match self.device.write(frame) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => sent.refused += 1,
            }
            sent.taken += 1;
        }
        sent
    }

    pub(crate) fn kernel_drops(&mut self) -> u64 {
        transmit_drops(&self.name).saturating_sub(self.drops_before)
    }
}

impl AsFd for TapEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Frames dropped because the TAP's queue was full. /proc/thread-self follows the network namespace, /sys does not.
fn transmit_drops(name: &str) -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
    let fields = table.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'));
    // Eight receive columns, then bytes, packets, errors, drops of transmission.
    fields.and_then(|fields| fields.split_whitespace().nth(11)?.parse().ok()).unwrap_or(0)
}
