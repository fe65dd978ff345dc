//! The system calls that the safe libraries lack: socket options of AF_PACKET, ioctls of TAP, signals as a descriptor.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use longhaul::units::Instant;
use rustix::time::{ClockId, clock_gettime};

/// The clock that schedules are kept in: CLOCK_MONOTONIC.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// CLOCK_REALTIME in nanoseconds: the clock of the kernel's receive stamps.
pub fn realtime_ns() -> i128 {
    let time = clock_gettime(ClockId::Realtime);
    i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
}

/// CPU time that this process has used, seconds.
pub fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The index of the interface `name` in this network namespace.
///
/// # Errors
/// When there is none, or the name is none.
pub fn interface_index(name: &str) -> io::Result<i32> {
    let name = std::ffi::CString::new(name).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the pointer is to a NUL-terminated string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 { Err(io::Error::last_os_error()) } else { Ok(index as i32) }
}

/// Sets a socket option.
///
/// # Errors
/// The kernel's.
pub fn set_option<T: Copy>(fd: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    let len = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is valid for reads of `len` bytes for the length of the call; the kernel only copies from it.
    let rc = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), len) };
    check(rc)
}

/// Kernel drops on an AF_PACKET socket since the last call.
///
/// # Errors
/// The kernel's.
pub fn packet_drops(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: `stats` is valid for writes of `len` bytes, which is what the kernel is told, and any bytes make a value.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            std::ptr::from_mut(&mut stats).cast(),
            &mut len,
        )
    };
    check(rc)?;
    Ok(u64::from(stats.tp_drops))
}

/// SIGUSR1, SIGUSR2, SIGINT and SIGTERM as a descriptor; from here on they do nothing else to this process.
///
/// # Errors
/// The kernel's.
pub fn signals() -> io::Result<OwnedFd> {
    // SAFETY: an all-zero sigset_t is a value, and sigemptyset makes it the empty one.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is valid for the calls; called before any thread is started, so the mask holds for all.
    let fd = unsafe {
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGINT, libc::SIGTERM] {
            libc::sigaddset(&mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    };
    check(fd)?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The next signal of [`signals`], if one is there.
pub fn next_signal(fd: BorrowedFd<'_>) -> Option<i32> {
    let mut record = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::read(fd, &mut record).ok()?;
    // ssi_signo is the first field.
    (read == record.len()).then(|| i32::from_ne_bytes([record[0], record[1], record[2], record[3]]))
}

/// Lets sleeps end on time rather than up to 50 us later.
pub fn sleep_precisely() {
    // SAFETY: takes integers only. It cannot fail for this option.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64, 0_u64, 0_u64, 0_u64) };
}

/// Real-time priority (SCHED_FIFO), so that busy cores delay no frame.
///
/// # Errors
/// Where the kernel does not allow it.
pub fn become_realtime() -> io::Result<()> {
    let parameter = libc::sched_param { sched_priority: 1 };
    // SAFETY: `parameter` is valid for reads for the length of the call.
    check(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &parameter) })
}

/// Attaches a descriptor of /dev/net/tun to the TAP `name` (made if there is none), with virtio-net headers, and switches
/// all offloads on that the kernel has.
///
/// # Errors
/// The kernel's, or a name that is too long.
pub fn attach_tap(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an all-zero ifreq is a value: integers, and a union of integers and pointers nobody follows.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    let header_len = crate::vnet::VNET_LEN as libc::c_int;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &header_len) })?;
    let base = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    let with_uso = base | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    // SAFETY: TUNSETOFFLOAD takes its argument by value. Kernels before 6.2 refuse USO: then without.
    let set = |mask: libc::c_uint| check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, mask) });
    set(with_uso).or_else(|_| set(base))
}

/// The kernel's error for a return value of -1.
///
/// # Errors
/// That error.
pub fn check(rc: i32) -> io::Result<()> {
    if rc == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
