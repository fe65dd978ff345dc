//! A network namespace for one test.

use std::io;
use std::process::Command;
use std::thread;

/// Runs `test` on a thread in a network namespace of its own, loopback up; threads and processes started from it
/// are in it too. It has no name and goes with them, whatever happens. Needs root.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let run = move || {
        // SAFETY: moves only the calling thread, which was made for it, into a new network namespace.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(result, 0, "namespace tests need root: {}", io::Error::last_os_error());
        ip("link set lo up");
        test();
    };
    if let Err(panic) = thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// `ip` with `arguments`, in the calling thread's namespace; returns what it printed.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
