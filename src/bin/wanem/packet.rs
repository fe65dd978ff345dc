//! An existing interface as an end, through an AF_PACKET socket with virtio-net headers.
//!
//! Super-segments pass whole (PACKET_VNET_HDR), our own frames are not heard again (PACKET_IGNORE_OUTGOING), VLAN tags
//! that the kernel took out are put back (PACKET_AUXDATA), and each frame carries the moment it arrived (SO_TIMESTAMPNS),
//! so that a late read does not shift the schedule.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use longhaul::units::Instant;
use socket2::{Domain, Protocol, Socket, Type};

use crate::end::{READ_LIMIT, Received, Sent};
use crate::{sys, vnet};

/// Longest frame that a buffer holds, virtio-net header included: a 64 KiB IP packet, Ethernet, tags, and one byte by
/// which a longer one shows.
pub const FRAME_LIMIT: usize = 65_535 + 14 + 8 + vnet::VNET_LEN + 1;

/// Frames per system call.
const BATCH: usize = 32;

/// Kernel buffer of the socket each way: half a second at 1 Gbps, so that only a stalled machine drops.
const SOCKET_BUFFER: libc::c_int = 64 << 20;

/// Arrival stamps older than this are not believed (a clock was set, or the stamp is of another clock).
const STAMP_AGE_LIMIT_NS: i128 = 1_000_000_000;

/// 8-byte words of control messages: SO_TIMESTAMPNS needs 32 bytes, PACKET_AUXDATA 40.
const CONTROL_WORDS: usize = 16;

const ETH_P_ALL: u16 = 0x0003;
const ETHERTYPE_VLAN: u16 = 0x8100;

/// A bound socket and its read buffers.
pub struct PacketEnd {
    socket: OwnedFd,
    buffers: Vec<Box<[u8]>>,
    drops: u64,
}

impl std::fmt::Debug for PacketEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketEnd").field("socket", &self.socket).field("drops", &self.drops).finish_non_exhaustive()
    }
}

impl PacketEnd {
    /// Binds to the interface `name` of this network namespace and hears all its frames.
    ///
    /// # Errors
    /// The kernel's: no such interface, or no permission (CAP_NET_RAW, and CAP_NET_ADMIN for the buffers).
    pub fn open(name: &str) -> io::Result<Self> {
        let index = sys::interface_index(name)?;
        // Protocol zero hears nothing until the bind below, when every option is in place.
        let socket = OwnedFd::from(Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(Protocol::from(0)))?);
        let fd = socket.as_fd();
        let on: libc::c_int = 1;
        for option in [libc::PACKET_VNET_HDR, libc::PACKET_IGNORE_OUTGOING, libc::PACKET_AUXDATA] {
            sys::set_option(fd, libc::SOL_PACKET, option, &on)?;
        }
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &on)?;
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &SOCKET_BUFFER)?;
        sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SOCKET_BUFFER)?;
        let promiscuous = libc::packet_mreq {
            mr_ifindex: index,
            mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &promiscuous)?;
        bind(fd, index)?;
        let buffers = (0..BATCH).map(|_| vec![0; FRAME_LIMIT].into_boxed_slice()).collect();
        Ok(PacketEnd { socket, buffers, drops: 0 })
    }

    pub(crate) fn receive(&mut self, mut sink: impl FnMut(Instant, Vec<u8>)) -> io::Result<Received> {
        let mut received = Received::default();
        while received.frames < READ_LIMIT {
            let mut stamps = [Control::default(); BATCH];
            let mut lens = [0_usize; BATCH];
            let count = match self.receive_batch(&mut lens, &mut stamps) {
                Ok(count) => count,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN | libc::EINTR) => break,
                    // Down is not gone, and what the kernel cannot describe in a virtio-net header is not ours to carry.
                    Some(libc::ENETDOWN) => break,
                    Some(libc::EINVAL) => {
                        received.too_long += 1;
                        break;
                    }
                    _ => return Err(error),
                },
            };
            // Stamps are of the other clock, which may be set at any time: both are read anew, and after the frames. This
            // one second: whatever comes between makes frames seem later, and none is delivered too early.
            let realtime_ns = sys::realtime_ns();
            let now = sys::now();
            for i in 0..count {
                if lens[i] >= FRAME_LIMIT {
                    received.too_long += 1;
                    continue;
                }
                let mut frame = Vec::with_capacity(lens[i] + 4);
                frame.extend_from_slice(&self.buffers[i][..lens[i]]);
                if let Some((tpid, tci)) = stamps[i].vlan {
                    vnet::insert_vlan(&mut frame, tpid, tci);
                }
                let age = stamps[i].arrived_ns.map_or(0, |arrived| realtime_ns - arrived);
                let believed = (0..STAMP_AGE_LIMIT_NS).contains(&age);
                let age = std::time::Duration::from_nanos(if believed { age as u64 } else { 0 });
                sink(now - age, frame);
            }
            received.frames += count;
            if count < BATCH {
                break;
            }
        }
        Ok(received)
    }

    fn receive_batch(&mut self, lens: &mut [usize; BATCH], controls: &mut [Control; BATCH]) -> io::Result<usize> {
        let mut words = [[0_u64; CONTROL_WORDS]; BATCH];
        let mut slices: [MaybeUninit<libc::iovec>; BATCH] = [const { MaybeUninit::uninit() }; BATCH];
        // SAFETY: an all-zero mmsghdr is a value: null pointers and zero lengths.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for i in 0..BATCH {
            let iov_base = self.buffers[i].as_mut_ptr().cast();
            let slice = slices[i].write(libc::iovec { iov_base, iov_len: FRAME_LIMIT });
            messages[i].msg_hdr.msg_iov = slice;
            messages[i].msg_hdr.msg_iovlen = 1;
            messages[i].msg_hdr.msg_control = words[i].as_mut_ptr().cast();
            messages[i].msg_hdr.msg_controllen = size_of_val(&words[i]) as _;
        }
        // SAFETY: each message points to one initialised iovec and to control words, all alive and not otherwise used
        // until the call returns, with their true lengths.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        sys::check(count)?;
        let count = count as usize;
        for i in 0..count {
            lens[i] = messages[i].msg_len as usize;
            controls[i] = Control::of(&messages[i].msg_hdr);
        }
        Ok(count)
    }

    pub(crate) fn send(&mut self, batch: &[Vec<u8>]) -> Sent {
        let mut sent = Sent::default();
        while sent.taken < batch.len() {
            let chunk = &batch[sent.taken..batch.len().min(sent.taken + BATCH)];
            match self.send_batch(chunk) {
                Ok(count) => sent.taken += count,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // Our own send buffer is full: the interface wants a pause.
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => break,
                // ENOBUFS (the interface's queue is full), EMSGSIZE (longer than its MTU), ENETDOWN: this frame is refused.
                Err(_) => {
                    sent.taken += 1;
                    sent.refused += 1;
                }
            }
        }
        sent
    }

    fn send_batch(&self, batch: &[Vec<u8>]) -> io::Result<usize> {
        let mut slices: [MaybeUninit<libc::iovec>; BATCH] = [const { MaybeUninit::uninit() }; BATCH];
        // SAFETY: an all-zero mmsghdr is a value: null pointers and zero lengths.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for (i, frame) in batch.iter().enumerate() {
            let iov_base = frame.as_ptr().cast_mut().cast();
            messages[i].msg_hdr.msg_iov = slices[i].write(libc::iovec { iov_base, iov_len: frame.len() });
            messages[i].msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: `batch.len()` (at most BATCH) messages point to one initialised iovec each, of frames that outlive the
        // call; the kernel only reads through them.
        let count = unsafe {
            libc::sendmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                batch.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
            )
        };
        sys::check(count)?;
        Ok(count as usize)
    }

    pub(crate) fn kernel_drops(&mut self) -> u64 {
        self.drops += sys::packet_drops(self.socket.as_fd()).unwrap_or(0);
        self.drops
    }
}

impl AsFd for PacketEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What the control messages of a frame say.
#[derive(Clone, Copy, Debug, Default)]
struct Control {
    /// CLOCK_REALTIME, nanoseconds.
    arrived_ns: Option<i128>,
    /// TPID and TCI of the tag that was taken out.
    vlan: Option<(u16, u16)>,
}

impl Control {
    fn of(header: &libc::msghdr) -> Self {
        let mut control = Control::default();
        // SAFETY: the kernel has filled in `header` and the control messages it points to; the macros stay inside
        // msg_controllen.
        let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !message.is_null() {
            // SAFETY: not null, so a whole cmsghdr; its type tells the payload's type, which may be unaligned.
            unsafe {
                let payload = libc::CMSG_DATA(message);
                match ((*message).cmsg_level, (*message).cmsg_type) {
                    (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                        let time = payload.cast::<libc::timespec>().read_unaligned();
                        control.arrived_ns = Some(i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec));
                    }
                    (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                        let aux = payload.cast::<libc::tpacket_auxdata>().read_unaligned();
                        if aux.tp_status & libc::TP_STATUS_VLAN_VALID != 0 {
                            let has_tpid = aux.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
                            let tpid = if has_tpid { aux.tp_vlan_tpid } else { ETHERTYPE_VLAN };
                            control.vlan = Some((tpid, aux.tp_vlan_tci));
                        }
                    }
                    _ => {}
                }
                message = libc::CMSG_NXTHDR(header, message);
            }
        }
        control
    }
}

fn bind(fd: BorrowedFd<'_>, index: i32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: ETH_P_ALL.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: `address` is valid for reads of `len` bytes for the length of the call.
    sys::check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(&address).cast(), len) })
}
