//! The channel's UDP socket: datagrams in batches (GSO, GRO), socket buffers, kernel drops.
//!
//! What is lost on this machine is counted here, so that nobody takes it for loss on the WAN.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::net::sockopt;
use rustix::time::{ClockId, clock_gettime};

use super::Clock;
use crate::units::Instant;

/// Receive buffers handed to one system call; each takes what the kernel coalesced (GRO). More would only push the
/// engine's own memory out of the cache.
pub const RECV_BATCH: usize = 8;

/// Longest UDP payload, and thereby longest coalesced receive.
const RECV_LEN_MAX: usize = 65_535;

/// Longest segmented send: a UDP payload has to fit an IPv4 packet as if it were one (65,535 less both headers).
const SEND_LEN_MAX: usize = 65_507;

/// Bytes asked for in each direction: 30 ms of 1 Gbps, with the kernel's bookkeeping per datagram counted in.
pub const SOCKET_BUFFER_LEN: usize = 8 * 1024 * 1024;

/// What passed, and what was lost on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UdpCounters {
    /// Datagrams handed to the kernel.
    pub datagrams_sent: u64,
    /// Datagrams taken from the kernel.
    pub datagrams_received: u64,
    /// Times the send buffer was full.
    pub send_blocked: u64,
    /// Datagrams the kernel refused to send (no route, interface down, firewall).
    pub send_refused: u64,
    /// Datagrams longer than the interface's MTU.
    pub send_oversized: u64,
    /// Times a segmented send failed and was repeated datagram by datagram.
    pub gso_failed: u64,
    /// Datagrams the kernel dropped because our receive buffer was full: not WAN loss.
    pub receive_dropped: u64,
}

/// The socket, with its receive buffers.
pub struct UdpChannelSocket {
    socket: UdpSocket,
    state: UdpSocketState,
    slab: Box<[u8]>,
    counters: UdpCounters,
    /// When nothing waited to be received: what comes later has arrived later.
    emptied_at: Instant,
    /// The kernel's 32-bit drop counter as last seen.
    drops_seen: u32,
    /// Segmentation was given up in this send for datagrams that proved too long by themselves.
    gso_was_innocent: bool,
}

impl std::fmt::Debug for UdpChannelSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UdpChannelSocket")
            .field("socket", &self.socket)
            .field("counters", &self.counters)
            .finish_non_exhaustive()
    }
}

impl UdpChannelSocket {
    /// Binds to `listen` (an IPv6 wildcard takes IPv4 as well), never fragments (DF set), and sizes the buffers:
    /// beyond the system's limit where we may, else as far as it goes.
    ///
    /// # Errors
    /// When the address is not ours or taken.
    pub fn bind(listen: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(listen)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BUFFER_LEN).is_err() {
            sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_LEN)?;
        }
        if sockopt::set_socket_send_buffer_size_force(&socket, SOCKET_BUFFER_LEN).is_err() {
            sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_LEN)?;
        }
        let slab = vec![0; RECV_BATCH * RECV_LEN_MAX].into_boxed_slice();
        Ok(UdpChannelSocket {
            socket,
            state,
            slab,
            counters: UdpCounters::default(),
            emptied_at: Clock.now(),
            drops_seen: 0,
            gso_was_innocent: false,
        })
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// None are known for a bound socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Send and receive buffer as the kernel accounts them (twice what it was asked for), in bytes.
    ///
    /// # Errors
    /// None are known for a valid descriptor.
    pub fn buffer_sizes(&self) -> io::Result<(usize, usize)> {
        Ok((sockopt::socket_send_buffer_size(&self.socket)?, sockopt::socket_recv_buffer_size(&self.socket)?))
    }

    /// Whether datagrams leave in segmented batches (GSO), as far as is known.
    pub fn is_segmenting(&self) -> bool {
        self.state.max_gso_segments() > 1
    }

    /// Sends datagrams of `segment_size` bytes (the last may be shorter), back to back in `bytes`, and returns how
    /// many bytes it is done with: sent, or dropped and counted. Fewer than given means that the socket is full.
    ///
    /// # Errors
    /// `WouldBlock` when it is done with nothing, and nothing else: a datagram that cannot be sent is a lost one.
    pub fn try_send(&mut self, destination: SocketAddr, segment_size: usize, bytes: &[u8]) -> io::Result<usize> {
        let segment_size = segment_size.max(1);
        let mut done = 0;
        while done < bytes.len() {
            let segments = self.state.max_gso_segments().min(SEND_LEN_MAX / segment_size).max(1);
            let end = bytes.len().min(done + segments * segment_size);
            match self.send_batch(destination, segment_size, &bytes[done..end]) {
                Ok(()) => done = end,
                // It failed segmented, and was marked so: the next turn of the loop sends the same bytes one by one.
                Err(BatchError::GsoFailed) => {}
                Err(BatchError::Full) => break,
            }
        }
        if std::mem::take(&mut self.gso_was_innocent) {
            self.forgive_gso();
        }
        if done == 0 && !bytes.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(done) }
    }

    fn send_batch(&mut self, destination: SocketAddr, segment_size: usize, batch: &[u8]) -> Result<(), BatchError> {
        let datagrams = batch.len().div_ceil(segment_size) as u64;
        let transmit = Transmit {
            destination,
            ecn: None,
            contents: batch,
            segment_size: (datagrams > 1).then_some(segment_size),
            src_ip: None,
        };
        let Err(error) = self.state.try_send(UdpSockRef::from(&self.socket), &transmit) else {
            self.counters.datagrams_sent += datagrams;
            return Ok(());
        };
        match error.raw_os_error() {
            Some(libc::EAGAIN) => {
                self.counters.send_blocked += 1;
                Err(BatchError::Full)
            }
            // Drivers without GSO say so only now, some of them after it had worked for hours.
            Some(libc::EIO | libc::EINVAL) if datagrams > 1 => {
                self.counters.gso_failed += 1;
                if self.is_segmenting() { self.drop_batch(datagrams) } else { Err(BatchError::GsoFailed) }
            }
            Some(libc::EMSGSIZE) => {
                self.counters.send_oversized += datagrams;
                self.gso_was_innocent = true;
                Ok(())
            }
            _ => self.drop_batch(datagrams),
        }
    }

    fn drop_batch(&mut self, datagrams: u64) -> Result<(), BatchError> {
        self.counters.send_refused += datagrams;
        Ok(())
    }

    /// A segmented send of datagrams above the interface's MTU fails with `EINVAL` too, and quinn-udp gives GSO up
    /// for that. When the single datagrams then turn out oversized, start over with it.
    fn forgive_gso(&mut self) {
        if !self.is_segmenting()
            && let Ok(state) = UdpSocketState::new(UdpSockRef::from(&self.socket))
        {
            self.state = state;
        }
    }

    /// Receives one batch and hands each datagram, with its sender and the moment of its arrival, to `handle`, which may
    /// change it in place. Returns how many there were.
    ///
    /// # Errors
    /// `WouldBlock` when none waits; others are passing conditions the kernel reports once.
    pub fn try_recv(&mut self, mut handle: impl FnMut(SocketAddr, Instant, &mut [u8])) -> io::Result<usize> {
        let mut metas = [RecvMeta::default(); RECV_BATCH];
        let mut chunks = self.slab.chunks_exact_mut(RECV_LEN_MAX);
        let mut buffers: [IoSliceMut<'_>; RECV_BATCH] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().expect("invariant: the slab has RECV_BATCH parts")));
        let received = self.state.recv(UdpSockRef::from(&self.socket), &mut buffers, &mut metas);
        let now = Clock.now();
        if received.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            self.emptied_at = now;
        }
        let received = received?;
        let wall_clock = since_epoch();
        let mut datagrams = 0;
        for (meta, buffer) in metas.iter().zip(&mut buffers).take(received) {
            // A dual-stack socket reports IPv4 senders in mapped form; the rest of the program knows one form only.
            let from = SocketAddr::new(meta.addr.ip().to_canonical(), meta.addr.port());
            // The kernel stamps by the wall clock, which may be set in between: never before what is certain.
            let age = meta.timestamp.map_or(Duration::ZERO, |stamp| wall_clock.saturating_sub(stamp));
            let at = (now - age).max(self.emptied_at);
            let len = meta.len.min(buffer.len());
            for datagram in buffer[..len].chunks_mut(meta.stride.max(1)) {
                handle(from, at, datagram);
                datagrams += 1;
            }
        }
        self.counters.datagrams_received += datagrams as u64;
        Ok(datagrams)
    }

    /// What passed so far; asks the kernel for its drops (one system call).
    pub fn counters(&mut self) -> UdpCounters {
        if let Some(drops) = kernel_drops(&self.socket) {
            self.counters.receive_dropped += u64::from(drops.wrapping_sub(self.drops_seen));
            self.drops_seen = drops;
        }
        self.counters
    }
}

/// The wall clock, as the kernel stamps packets.
fn since_epoch() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Realtime)).unwrap_or_default()
}

enum BatchError {
    /// The send buffer is full.
    Full,
    /// Segmentation does not work here; it is off now.
    GsoFailed,
}

impl AsRawFd for UdpChannelSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for UdpChannelSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The socket's receive drops since it was opened (`SO_MEMINFO`, Linux 4.12).
fn kernel_drops(socket: &UdpSocket) -> Option<u32> {
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut values = [0_u32; DROPS + 1];
    let mut len = size_of_val(&values) as libc::socklen_t;
    // SAFETY: `values` is `len` bytes of plain integers, and the kernel writes at most `len` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    (result == 0 && len as usize == size_of_val(&values)).then_some(values[DROPS])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpChannelSocket, UdpChannelSocket) {
        let bind = || UdpChannelSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        (bind(), bind())
    }

    fn receive_all(socket: &mut UdpChannelSocket) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut received = Vec::new();
        while socket.try_recv(|from, _, datagram| received.push((from, datagram.to_vec()))).is_ok() {}
        received
    }

    #[test]
    fn a_batch_arrives_as_the_datagrams_it_was_made_of() {
        let (mut sender, mut receiver) = pair();
        let bytes: Vec<u8> = (0..1200 * 70 + 17).map(|at| (at / 1200) as u8).collect();
        let to = receiver.local_addr().unwrap();
        assert_eq!(sender.try_send(to, 1200, &bytes).unwrap(), bytes.len());
        let received = receive_all(&mut receiver);
        assert_eq!(received.len(), 71);
        assert!(received.iter().all(|(from, _)| *from == sender.local_addr().unwrap()));
        assert_eq!(received.into_iter().flat_map(|(_, datagram)| datagram).collect::<Vec<u8>>(), bytes);
        assert_eq!(sender.counters().datagrams_sent, 71);
        assert_eq!(receiver.counters().datagrams_received, 71);
        assert_eq!(receiver.try_recv(|_, _, _| {}).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn datagrams_of_the_largest_size_leave_one_by_one() {
        let (mut sender, mut receiver) = pair();
        let to = receiver.local_addr().unwrap();
        assert_eq!(sender.try_send(to, 40_000, &[7; 80_000]).unwrap(), 80_000);
        assert_eq!(receive_all(&mut receiver).iter().map(|(_, datagram)| datagram.len()).sum::<usize>(), 80_000);
    }

    #[test]
    fn what_cannot_be_sent_is_counted_and_dropped() {
        let (mut sender, mut receiver) = pair();
        let to = receiver.local_addr().unwrap();
        assert_eq!(sender.try_send("[2001:db8::1]:9".parse().unwrap(), 100, &[0; 300]).unwrap(), 300);
        assert_eq!(sender.counters().send_refused, 3);
        assert_eq!(sender.try_send(to, 65_530, &[0; 65_530]).unwrap(), 65_530);
        assert_eq!(sender.counters().send_oversized, 1);
        assert_eq!(sender.try_send(to, 100, &[0; 300]).unwrap(), 300);
        assert_eq!(receive_all(&mut receiver).len(), 3);
    }

    #[test]
    fn the_moment_of_arrival_is_that_of_the_kernel_and_not_that_of_the_read() {
        let (mut sender, mut receiver) = pair();
        let to = receiver.local_addr().unwrap();
        let before = Clock.now();
        sender.try_send(to, 4, b"ping").unwrap();
        let after = Clock.now();
        std::thread::sleep(Duration::from_millis(30));
        let mut arrived = None;
        receiver.try_recv(|_, at, _| arrived = Some(at)).unwrap();
        // The two clocks are read one after the other: they agree to a few microseconds.
        let slack = Duration::from_millis(5);
        assert!(
            arrived.is_some_and(|at| at + slack > before && at < after + slack),
            "{before:?} {arrived:?} {after:?}"
        );
    }

    #[test]
    fn kernel_drops_are_counted_apart() {
        let (mut sender, mut receiver) = pair();
        let to = receiver.local_addr().unwrap();
        assert_eq!(receiver.counters().receive_dropped, 0);
        sockopt::set_socket_recv_buffer_size(&receiver, 4096).unwrap();
        for _ in 0..100 {
            sender.try_send(to, 1000, &[0; 1000]).unwrap();
        }
        let arrived = receive_all(&mut receiver).len() as u64;
        assert!(arrived < 100);
        assert_eq!(receiver.counters().receive_dropped, 100 - arrived);
        assert_eq!(receiver.counters().receive_dropped, 100 - arrived, "counted once");
    }

    #[test]
    fn a_dual_stack_socket_speaks_to_both_families_and_knows_ipv4_senders_by_their_own_address() {
        let mut dual = UdpChannelSocket::bind("[::]:0".parse().unwrap()).unwrap();
        let port = dual.local_addr().unwrap().port();
        let mut v4 = UdpChannelSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        v4.try_send(SocketAddr::new("127.0.0.1".parse().unwrap(), port), 5, b"hello").unwrap();
        let v4_address = v4.local_addr().unwrap();
        assert_eq!(receive_all(&mut dual), [(v4_address, b"hello".to_vec())]);
        dual.try_send(v4_address, 3, b"onetwo").unwrap();
        let received = receive_all(&mut v4);
        assert_eq!(received.iter().map(|(_, datagram)| &datagram[..]).collect::<Vec<_>>(), [b"one", b"two"]);
        assert_eq!(dual.counters().send_refused, 0);
    }

    #[test]
    fn the_buffers_are_as_large_as_the_system_lets_them() {
        let (socket, _) = pair();
        let (send, receive) = socket.buffer_sizes().unwrap();
        assert!(send > 200_000 && receive > 200_000, "{send} {receive}");
    }
}
