//! A lab of `scripts/lab` for one test, and what it tells of itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use longhaul::telemetry::{FlowStatus, Status, StatusVerdict};
use serde_json::Value;

use super::hosts::Host;
use crate::support::netns::{require_root, run};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What `up` and `start` may take on a busy machine: how long the appliances have to find each other.
const CHANNEL_PATIENCE: Duration = Duration::from_secs(15);

/// One of the two sites.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    A,
    B,
}

impl Side {
    /// As `scripts/lab` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Side::A => "a",
            Side::B => "b",
        }
    }
}

/// A running lab; taken down when dropped, whatever happened.
pub struct Lab {
    name: String,
    wiring: String,
    /// Files of the test; goes with the lab.
    pub files: PathBuf,
    pub a: Host,
    pub b: Host,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// Builds a lab and waits until its channel is up. `options` are those of `scripts/lab up`, separated by spaces.
    pub fn up(wiring: &str, options: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        require_root();
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        take_down_the_orphaned();
        let name = format!("t{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let files = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("lab-{name}"));
        std::fs::create_dir_all(&files).expect("the target directory is ours");
        let routed = options.split_whitespace().any(|option| option == "--routed");
        // From here on there is something to take back, also when `up` fails.
        let lab = Lab {
            a: Host::new(&name, "a", if routed { ["10.77.1.1", "fd77:1::1"] } else { ["10.77.0.1", "fd77::1"] }),
            b: Host::new(&name, "b", if routed { ["10.77.2.2", "fd77:2::2"] } else { ["10.77.0.2", "fd77::2"] }),
            name,
            wiring: wiring.to_owned(),
            files,
            _turn: turn,
        };
        run(script(&lab.name, "up").args(["--wiring", wiring]).args(options.split_whitespace()));
        if wiring != "wire" {
            lab.wait_for_channel();
        }
        lab
    }

    /// Namespace of one of its parts: `appa`, `wan`, ….
    pub fn namespace(&self, role: &str) -> String {
        format!("lh-{}-{role}", self.name)
    }

    /// Runs `ip` in the namespace of `role`; words are separated by spaces.
    pub fn ip(&self, role: &str, words: &str) {
        run(Command::new("ip").args(["-n", &self.namespace(role)]).args(words.split_whitespace()));
    }

    /// `start`, `stop` or `kill`s an appliance.
    pub fn appliance(&self, side: Side, what: &str) {
        run(script(&self.name, "appliance").args([side.name(), what]));
    }

    /// The appliance's configuration; it is read at its next start.
    pub fn config_path(&self, side: Side) -> PathBuf {
        let run = std::env::var_os("XDG_RUNTIME_DIR").map_or(PathBuf::from("/run"), PathBuf::from);
        run.join("longhaul-lab").join(&self.name).join(format!("{}.yaml", side.name()))
    }

    /// Replaces the rules in the appliance's configuration, which stand between `rules:` and `status_socket:`.
    pub fn set_rules(&self, side: Side, rules: &str) {
        let path = self.config_path(side);
        let config = std::fs::read_to_string(&path).expect("the lab writes it");
        let (before, rest) = config.split_once("\nrules:").expect("the lab writes rules");
        let (_, after) = rest.split_once("\nstatus_socket:").expect("the lab writes a socket");
        std::fs::write(&path, format!("{before}\nrules:{rules}\nstatus_socket:{after}")).expect("it was readable");
    }

    /// What the appliance has written.
    pub fn log(&self, side: Side) -> String {
        run(script(&self.name, "appliance").args([side.name(), "log"]))
    }

    /// Another host of this lab.
    pub fn host(&self, role: &str, addresses: [&str; 2]) -> Host {
        Host::new(&self.name, role, addresses)
    }

    /// Changes the WAN; whether that was accepted. Options are separated by spaces.
    pub fn change(&self, options: &str) -> bool {
        let output = script(&self.name, "change").args(options.split_whitespace()).output().expect("scripts/lab runs");
        output.status.success()
    }

    /// All that the lab says of itself.
    pub fn everything(&self) -> Value {
        serde_json::from_str(&run(script(&self.name, "status").arg("--json"))).expect("JSON")
    }

    /// The appliance's status document; `None` when it does not answer.
    pub fn try_status(&self, side: Side) -> Option<Status> {
        let status = self.everything()[format!("appliance_{}", side.name())].take();
        serde_json::from_value(status).expect("a status document, or null")
    }

    /// The appliance's status document.
    pub fn status(&self, side: Side) -> Status {
        self.try_status(side).unwrap_or_else(|| panic!("appliance {} does not answer", side.name()))
    }

    /// One of the appliance's counters.
    pub fn counter(&self, side: Side, name: &str) -> u64 {
        let status = self.status(side);
        *status.counters.get(name).unwrap_or_else(|| panic!("no counter {name} in {:?}", status.counters))
    }

    /// How many connections passed because of reason `name`.
    pub fn reason(&self, side: Side, name: &str) -> u64 {
        let reasons = self.status(side).reasons;
        reasons.iter().find(|reason| reason.name == name).unwrap_or_else(|| panic!("no reason {name}")).count
    }

    /// What the appliance says of the connection between these two.
    pub fn flow(&self, side: Side, src: SocketAddr, dst: SocketAddr) -> Option<FlowStatus> {
        self.status(side).flows.into_iter().find(|flow| (flow.src, flow.dst) == (src, dst))
    }

    /// Asserts that both appliances accelerate the connection from `src` to `dst`.
    pub fn assert_accelerated(&self, src: SocketAddr, dst: SocketAddr) {
        for side in [Side::A, Side::B] {
            let flow = self.flow(side, src, dst);
            let verdict = flow.as_ref().map(|flow| flow.verdict);
            assert_eq!(verdict, Some(StatusVerdict::Accelerate), "appliance {}: {flow:?}", side.name());
        }
    }

    /// Asserts that the appliance passes the connection from `src` to `dst` for reason `name`.
    pub fn assert_bypassed(&self, side: Side, src: SocketAddr, dst: SocketAddr, name: &str) {
        let flow = self.flow(side, src, dst);
        let told = flow.as_ref().map(|flow| (flow.verdict, flow.reason_name.as_deref()));
        assert_eq!(told, Some((StatusVerdict::Bypass, Some(name))), "appliance {}: {flow:?}", side.name());
    }

    /// Waits until both appliances hear each other.
    pub fn wait_for_channel(&self) {
        self.wait_for("the channel is up", CHANNEL_PATIENCE, || {
            [Side::A, Side::B].into_iter().all(|side| self.channel_state(side) == "up")
        });
    }

    /// `connecting`, `up`, `silent`, or nothing when nobody answers.
    pub fn channel_state(&self, side: Side) -> String {
        self.try_status(side).and_then(|status| status.channel).map(|channel| channel.state).unwrap_or_default()
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// When it does not within `limit`.
    pub fn wait_for(&self, what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
        let deadline = Instant::now() + limit;
        while !condition() {
            assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// What must hold of appliances after any test: nothing panicked, nothing was invalid, nothing was logged as an
    /// error.
    pub fn assert_in_order(&self) {
        for side in [Side::A, Side::B] {
            let log = self.log(side);
            assert!(!log.contains("panicked") && !log.contains("ERROR"), "appliance {}: {log}", side.name());
            for name in ["tcp_panics", "peer_faults", "dropped_bad_checksum"] {
                assert_eq!(self.counter(side, name), 0, "{name} of appliance {}", side.name());
            }
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if thread::panicking() && self.wiring != "wire" {
            // Not `run`: a panic in a panic would end the process, and leave the lab.
            let said = |command: &mut Command| match command.output() {
                Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
                Err(error) => error.to_string(),
            };
            eprintln!("{}", said(&mut script(&self.name, "status")));
            for side in [Side::A, Side::B] {
                let log = said(script(&self.name, "appliance").args([side.name(), "log"]));
                let lines: Vec<_> = log.lines().collect();
                eprintln!("end of the log of appliance {}:", side.name());
                eprintln!("{}", lines[lines.len().saturating_sub(15)..].join("\n"));
            }
        }
        let _ = script(&self.name, "down").status();
        let _ = std::fs::remove_dir_all(&self.files);
    }
}

fn script(name: &str, command: &str) -> Command {
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lab"));
    script.args([command, "--name", name]);
    if std::env::var_os("LONGHAUL_BIN_DIR").is_none() {
        let binary = PathBuf::from(env!("CARGO_BIN_EXE_longhaul"));
        script.env("LONGHAUL_BIN_DIR", binary.parent().expect("it lies in a directory"));
    }
    script
}

/// Takes down labs of test processes that were killed before they could.
fn take_down_the_orphaned() {
    let Ok(namespaces) = std::fs::read_dir("/run/netns") else { return };
    for namespace in namespaces.flatten() {
        let file = namespace.file_name().to_string_lossy().into_owned();
        let Some(name) = file.strip_prefix("lh-t").and_then(|rest| rest.strip_suffix("-wan")) else { continue };
        let Some((pid, _)) = name.split_once('x') else { continue };
        if pid.parse::<u32>().is_ok() && !PathBuf::from("/proc").join(pid).exists() {
            let _ = script(&format!("t{name}"), "down").status();
        }
    }
}
