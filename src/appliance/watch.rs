//! Registers a descriptor with the runtime's event queue.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches `fd` for `interest` as long as the result lives.
///
/// `AsFd` is the promise that the descriptor stays open as long as `fd` does, which is what tokio needs to know.
#[expect(
    deprecated,
    reason = "the replacement is an unsafe function for lack of an `AsFd` bound; this one has it, and unsafe stays in io"
)]
pub(super) fn watch<T: AsFd + AsRawFd>(fd: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, interest)
}
