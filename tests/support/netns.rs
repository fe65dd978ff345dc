//! Network namespaces that vanish with the test, and work inside them.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Says what is missing rather than failing somewhere in the middle.
pub fn require_root() {
    assert!(rustix::process::geteuid().is_root(), "network namespaces need root: run these tests with sudo");
}

/// Runs a command to its end.
///
/// # Panics
/// When it fails, with what it said.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `work` inside the namespace `name`, on a thread of its own: sockets made there stay there, wherever they are used
/// later.
pub fn enter<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> T {
    let path = PathBuf::from("/run/netns").join(name);
    std::thread::scope(|scope| {
        let inside = scope.spawn(move || {
            let namespace = File::open(&path).expect("the namespace exists");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may enter");
            work()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A network namespace of our own; deleted, with all its interfaces, when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// A new one with the loopback interface up. The name is unique on this machine: `lht-<pid>-<number>-<role>`.
    pub fn new(role: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        require_root();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("lht-{}-{number}-{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]));
        let netns = Netns { name };
        netns.ip("link set lo up");
        netns
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` on it; words are separated by spaces.
    pub fn ip(&self, words: &str) -> String {
        run(Command::new("ip").args(["-n", &self.name]).args(words.split_whitespace()))
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// As [`enter`], into this one.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        enter(&self.name, work)
    }

    /// Joins interface `own` of this namespace and `theirs` of the other by a virtual cable, both up.
    pub fn cable(&self, own: &str, other: &Netns, theirs: &str) {
        let names =
            ["link", "add", own, "netns", &self.name, "type", "veth", "peer", "name", theirs, "netns", &other.name];
        run(Command::new("ip").args(names));
        self.ip(&format!("link set {own} up"));
        other.ip(&format!("link set {theirs} up"));
    }

    /// Gives `interface` 10.77.0.`number` and fd77::`number`, with `congestion_control` on the routes to its neighbours.
    pub fn address(&self, interface: &str, number: u8, congestion_control: &str) {
        self.ip(&format!("addr add 10.77.0.{number}/24 dev {interface} noprefixroute"));
        self.ip(&format!("addr add fd77::{number}/64 dev {interface} nodad noprefixroute"));
        self.ip(&format!("route add 10.77.0.0/24 dev {interface} src 10.77.0.{number} congctl {congestion_control}"));
        self.ip(&format!("-6 route add fd77::/64 dev {interface} congctl {congestion_control}"));
    }

    /// Keeps the kernel from speaking on its own here.
    pub fn silence_ipv6(&self) {
        for scope in ["all", "default"] {
            let knob = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
            self.enter(|| std::fs::write(&knob, "1")).expect("a writable /proc/sys");
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Not `run`: a panic here would hide the one that ended the test.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A process that ends with the test.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// Starts `command`.
    pub fn start(command: &mut Command) -> Self {
        Daemon(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// The process, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0);
        kill_process(pid, signal).expect("it runs, or has not been waited for");
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Panics
    /// When it has not ended after 5 s.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.0.try_wait().expect("our own child").is_none() {
            assert!(Instant::now() < deadline, "SIGTERM was not followed within 5 s");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Fails where it has ended already, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
