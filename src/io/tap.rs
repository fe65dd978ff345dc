//! Frames with virtio-net header in and out of a TAP.
//!
//! The header lets the kernel hand over and take TCP super-segments of up to 64 KiB with their checksums still to be
//! completed: one system call where there would be forty-five.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, netdevice};

use crate::frame::VNET_HEADER_LEN;

/// Longest frame a TAP hands over: the virtio-net header, Ethernet, two VLAN tags and the largest IP packet.
pub const FRAME_LEN_MAX: usize = VNET_HEADER_LEN + 14 + 8 + 65_535;

/// Frames the kernel queues for us in a TAP we created. The default of 1000 overflows while the loop is off the CPU
/// for a few milliseconds, and a host's TCP reads that as congestion.
pub const TXQUEUELEN: i32 = 10_000;

/// What the kernel may leave undone in frames it hands over (`TUNSETOFFLOAD`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offloads(u32);

impl Offloads {
    const TCP: u32 = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    /// Both or neither (Linux 6.2 and later).
    const UDP: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;

    /// Best first; the last one every kernel takes.
    const LADDER: [u32; 4] = [Self::TCP | Self::UDP, Self::TCP, libc::TUN_F_CSUM, 0];

    /// TCP super-segments of both IP versions.
    pub const fn has_tso(self) -> bool {
        self.0 & Self::TCP == Self::TCP
    }

    /// UDP super-segments of both IP versions.
    pub const fn has_uso(self) -> bool {
        self.0 & Self::UDP == Self::UDP
    }

    /// The kernel's `TUN_F_` bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
}

/// The TAP could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("TAP {name}: {step}: {source}{}", remedy(source))]
pub struct TapError {
    name: String,
    step: &'static str,
    source: io::Error,
}

impl TapError {
    /// What the system said.
    pub fn source(&self) -> &io::Error {
        &self.source
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (needs CAP_NET_ADMIN, or a TAP created for this user)",
        Some(libc::EBUSY) => " (another process has it open)",
        Some(libc::ENOENT | libc::ENODEV) => " (is the tun module loaded, and /dev/net/tun there?)",
        Some(libc::EINVAL) => " (exists already and is not a single-queue TAP?)",
        _ => "",
    }
}

/// What a failed read or write means to the event loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TapFault {
    /// Not now: a queue is full or memory is short. Drop a forwarded frame, retry one of ours.
    Busy,
    /// The kernel does not take this frame (too short, a virtio-net header that does not fit it). Never retry.
    Refused,
    /// The interface is down. Frames are lost until it comes up again; the descriptor stays good.
    Down,
    /// The interface is gone: the descriptor is dead, open anew.
    Gone,
}

impl TapFault {
    /// The meaning of an error of [`Tap::try_read`] or [`Tap::try_write`].
    pub fn of(error: &io::Error) -> TapFault {
        match error.raw_os_error() {
            // An event loop's own "not ready" has no number.
            _ if error.kind() == io::ErrorKind::WouldBlock => TapFault::Busy,
            Some(libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => TapFault::Busy,
            Some(libc::EIO | libc::ENETDOWN) => TapFault::Down,
            Some(libc::EBADFD | libc::ENODEV | libc::ENXIO | libc::EBADF) => TapFault::Gone,
            _ => TapFault::Refused,
        }
    }
}

/// One TAP, single queue: frames keep their order.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    name: String,
    created: bool,
    offloads: Offloads,
}

impl Tap {
    /// Opens the TAP `name`: attaches to the one that exists (persistent), or creates one that lives as long as this
    /// value. One that we created is brought up with a queue of [`TXQUEUELEN`]; of another's only the offloads are set.
    ///
    /// # Errors
    /// With the step that failed and what to do about it.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let created = !exists(name).map_err(|source| fail(name, "looking it up", source))?;
        Self::open_as(name, created)
    }

    /// Opens the TAP `name` only if it exists.
    ///
    /// # Errors
    /// As [`Tap::open`]; `ENODEV` if it does not exist.
    pub fn attach(name: &str) -> Result<Self, TapError> {
        match exists(name) {
            Ok(true) => Self::open_as(name, false),
            Ok(false) => Err(fail(name, "looking it up", Errno::NODEV.into())),
            Err(source) => Err(fail(name, "looking it up", source)),
        }
    }

    fn open_as(name: &str, created: bool) -> Result<Self, TapError> {
        let mut configuration = tun::Configuration::default();
        configuration.tun_name(name).layer(tun::Layer::L2).platform_config(|platform| {
            // Addresses and flags are not the crate's business here: a bridge port has none.
            platform.ensure_root_privileges(false).vnet_hdr(true);
        });
        let mut device = tun::create(&configuration).map_err(|error| fail(name, "opening", error.into()))?;
        device.set_nonblock().map_err(|source| fail(name, "making it non-blocking", source))?;
        if created {
            set_txqueuelen(name, TXQUEUELEN).map_err(|source| fail(name, "setting its queue length", source))?;
            tun::AbstractDevice::enabled(&mut device, true)
                .map_err(|error| fail(name, "bringing it up", error.into()))?;
        }
        // SAFETY: `into_raw_fd` gives up the only owner of an open descriptor.
        let fd = unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) };
        set_vnet_header_len(&fd).map_err(|source| fail(name, "setting the virtio-net header's length", source))?;
        let offloads = set_offloads(&fd).map_err(|source| fail(name, "setting offloads", source))?;
        Ok(Tap { fd, name: name.to_owned(), created, offloads })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it came into being with this value, and goes with it.
    pub fn is_created(&self) -> bool {
        self.created
    }

    /// What the kernel agreed to.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Reads one frame, virtio-net header first, into `buffer` ([`FRAME_LEN_MAX`] bytes: what is longer is cut off).
    ///
    /// # Errors
    /// `WouldBlock` when none waits; otherwise ask [`TapFault::of`].
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *buffer))?)
    }

    /// Writes one frame, virtio-net header first.
    ///
    /// # Errors
    /// Ask [`TapFault::of`].
    pub fn try_write(&self, frame: &[u8]) -> io::Result<()> {
        rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, frame))?;
        Ok(())
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn fail(name: &str, step: &'static str, source: io::Error) -> TapError {
    TapError { name: name.to_owned(), step, source }
}

/// A socket for interface requests; it sees the calling thread's network namespace.
fn control_socket() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?)
}

fn exists(name: &str) -> io::Result<bool> {
    match netdevice::name_to_index(control_socket()?, name) {
        Ok(_) => Ok(true),
        Err(Errno::NODEV) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn set_txqueuelen(name: &str, len: i32) -> io::Result<()> {
    let control = control_socket()?;
    // SAFETY: `ifreq` is plain data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The kernel wants a terminating zero, and has accepted this name before.
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // `ifr_qlen` is the same word of the union.
    request.ifr_ifru.ifru_metric = len;
    // SAFETY: SIOCSIFTXQLEN reads an `ifreq`, and `request` is one that outlives the call.
    check(unsafe { libc::ioctl(control.as_raw_fd(), libc::SIOCSIFTXQLEN as libc::Ioctl, &raw const request) })
}

fn set_vnet_header_len(fd: &OwnedFd) -> io::Result<()> {
    let len = VNET_HEADER_LEN as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads an `int`, and `len` is one that outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) })
}

/// The mask belongs to the device, not to the descriptor, and stays on a persistent TAP: it has to be set at every
/// open, also to zero, or TCP through it breaks while ping works.
fn set_offloads(fd: &OwnedFd) -> io::Result<Offloads> {
    let mut refusal = Errno::INVAL.into();
    for mask in Offloads::LADDER {
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        match check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(mask)) }) {
            Ok(()) => return Ok(Offloads(mask)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => refusal = error,
            Err(error) => return Err(error),
        }
    }
    Err(refusal)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_system_error_has_one_meaning_to_the_loop() {
        for (errno, fault) in [
            (libc::EAGAIN, TapFault::Busy),
            (libc::ENOBUFS, TapFault::Busy),
            (libc::EINVAL, TapFault::Refused),
            (libc::EFAULT, TapFault::Refused),
            (libc::EIO, TapFault::Down),
            (libc::EBADFD, TapFault::Gone),
        ] {
            assert_eq!(TapFault::of(&io::Error::from_raw_os_error(errno)), fault, "{errno}");
        }
        assert_eq!(TapFault::of(&io::ErrorKind::WouldBlock.into()), TapFault::Busy);
    }

    #[test]
    fn an_absent_tap_cannot_be_attached() {
        let error = Tap::attach("lh-absent").unwrap_err();
        assert_eq!(error.source().raw_os_error(), Some(libc::ENODEV));
        assert!(error.to_string().starts_with("TAP lh-absent: looking it up: "), "{error}");
    }

    #[test]
    fn the_best_offloads_are_asked_for_first() {
        assert!(Offloads(Offloads::LADDER[0]).has_tso() && Offloads(Offloads::LADDER[0]).has_uso());
        assert!(Offloads(Offloads::LADDER[1]).has_tso() && !Offloads(Offloads::LADDER[1]).has_uso());
        assert_eq!(Offloads(Offloads::LADDER[3]).bits(), 0);
    }
}
