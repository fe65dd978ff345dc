//! The UDP socket: sending what the engine has, what to do when it is full.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::task::Context;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::driven::Driven;
use super::watch::watch;
use crate::channel::Arrival;
use crate::io::{Clock, UdpChannelSocket, UdpCounters};
use crate::units::Instant;

/// Batches taken from the engine in one go, and their bytes: what one core sends in half a millisecond.
const TRANSMITS_PER_ROUND: usize = 64;
const TRANSMIT_BYTES_PER_ROUND: usize = 512 * 1024;

/// How soon a full socket is tried again when the system has no descriptor left to wait with.
const BLOCKED_RETRY: Duration = Duration::from_millis(1);

/// Datagrams the socket did not take yet.
#[derive(Clone, Copy)]
struct Unsent {
    destination: SocketAddr,
    segment_size: usize,
    /// Bytes of the send buffer that are done with.
    done: usize,
}

/// The channel's way to the WAN.
pub(super) struct ChannelPort {
    socket: AsyncFd<UdpChannelSocket>,
    out: Vec<u8>,
    unsent: Option<Unsent>,
    /// Wakes the loop when a full socket has room. A descriptor of its own, registered only while it is needed: a UDP
    /// socket that is always watched for room wakes its watcher with every datagram that leaves.
    room: Option<AsyncFd<OwnedFd>>,
    retry_at: Option<Instant>,
}

impl ChannelPort {
    pub(super) fn bind(listen: SocketAddr) -> io::Result<Self> {
        let socket = UdpChannelSocket::bind(listen)?;
        let (send, receive) = socket.buffer_sizes()?;
        tracing::info!(%listen, gso = socket.is_segmenting(), send_buffer = send, receive_buffer = receive, "channel socket");
        if receive < crate::io::SOCKET_BUFFER_LEN {
            tracing::warn!(receive_buffer = receive, "small receive buffer: run as root or raise net.core.rmem_max");
        }
        let socket = watch(socket, Interest::READABLE)?;
        Ok(ChannelPort { socket, out: Vec::new(), unsent: None, room: None, retry_at: None })
    }

    /// Whether there may be datagrams to receive; if not, wakes `context` when there are.
    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> bool {
        self.socket.poll_read_ready(context).is_ready()
    }

    /// Whether a socket that was full has room again; if not, wakes `context` when it has.
    pub(super) fn poll_room(&self, context: &mut Context<'_>) -> bool {
        self.room.as_ref().is_some_and(|room| room.poll_write_ready(context).is_ready())
    }

    /// Hands one batch of datagrams to the engine and returns its bytes; `None` when none waits.
    pub(super) fn receive(&mut self, engine: &mut impl Driven) -> Option<usize> {
        // Read when the batch is here, so that it is no earlier than any arrival.
        let mut received = None;
        let mut bytes = 0;
        let handle = |from, at, datagram: &mut [u8]| {
            let now = *received.get_or_insert_with(|| Clock.now());
            bytes += datagram.len();
            engine.handle_datagram(now, Arrival { from, at }, datagram);
        };
        // What is not "none waits" is a passing condition of the kernel's, and reading it has cleared it.
        match self.socket.try_io_mut(Interest::READABLE, |socket| socket.try_recv(handle)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            _ => Some(bytes),
        }
    }

    /// Sends what the engine has; returns the bytes, and whether it may have more.
    pub(super) fn transmit(&mut self, engine: &mut impl Driven) -> (usize, bool) {
        let mut bytes = 0;
        for _ in 0..TRANSMITS_PER_ROUND {
            if bytes >= TRANSMIT_BYTES_PER_ROUND {
                break;
            }
            if self.unsent.is_none() {
                self.out.clear();
                let Some(transmit) = engine.poll_transmit(Clock.now(), &mut self.out) else { return (bytes, false) };
                let (destination, segment_size) = (transmit.destination, transmit.segment_size);
                self.unsent = Some(Unsent { destination, segment_size, done: 0 });
            }
            if !self.send_unsent() {
                return (bytes, false);
            }
            bytes += self.out.len();
        }
        (bytes, true)
    }

    /// The socket is full, and what it did not take waits in here.
    pub(super) fn is_blocked(&self) -> bool {
        self.unsent.is_some()
    }

    /// When [`ChannelPort::transmit`] is to be tried again although nothing woke us.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.retry_at
    }

    pub(super) fn counters(&mut self) -> UdpCounters {
        self.socket.get_mut().counters()
    }

    /// Sends on; false when the socket is full.
    fn send_unsent(&mut self) -> bool {
        let Some(unsent) = &mut self.unsent else { return true };
        let rest = &self.out[unsent.done..];
        if let Ok(done) = self.socket.get_mut().try_send(unsent.destination, unsent.segment_size, rest) {
            unsent.done += done;
            if unsent.done == self.out.len() {
                (self.unsent, self.room, self.retry_at) = (None, None, None);
                return true;
            }
        }
        self.await_room();
        false
    }

    fn await_room(&mut self) {
        // A fresh registration reports at once if room has come in the meantime.
        let duplicate = self.socket.get_ref().as_fd().try_clone_to_owned();
        self.room = duplicate.and_then(|fd| watch(fd, Interest::WRITABLE)).ok();
        self.retry_at = self.room.is_none().then(|| Clock.now() + BLOCKED_RETRY);
    }
}
