//! A real machine's scheduler: who is to be woken wakes late, and now and then somebody else has the core.
//!
//! The appliance of a lab shares two cores with hosts, an emulator and other work. What its rate controller sees of
//! that: datagrams handled in lumps, timers that fire late, pauses of some milliseconds in which nothing is sent or
//! read, and an emulator that hands over late what was due earlier. All of it from a seed.

use std::time::Duration;

use longhaul::units::Instant;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// How busy a machine is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// Wakes at once: virtual time undisturbed.
    None,
    /// An ordinary machine: wakes within 0.1 ms, pauses of up to 3 ms ten times a second, of 5-15 ms every two seconds.
    Light,
    /// Overcommitted cores: wakes within 0.4 ms, pauses of 1-4 ms forty times a second, of 8-30 ms twice a second.
    Heavy,
}

impl Load {
    /// By the name it has in the environment.
    pub fn named(name: &str) -> Load {
        match name {
            "none" => Load::None,
            "light" => Load::Light,
            "heavy" => Load::Heavy,
            other => panic!("a machine's load is none, light or heavy, not {other}"),
        }
    }
}

/// One process on such a machine.
#[derive(Clone, Debug)]
pub struct Machine {
    load: Load,
    random: Pcg64Mcg,
    /// The process has the core from here on, as far as is decided.
    awake_at: Instant,
    /// The next pauses, of the short and of the long kind: from, until.
    pauses: [(Instant, Instant); 2],
}

impl Machine {
    /// A process of its own: `purpose` tells several of one run apart.
    pub fn new(load: Load, seed: u64, purpose: u64) -> Self {
        let random = Pcg64Mcg::seed_from_u64(seed.wrapping_mul(16).wrapping_add(purpose));
        let mut machine =
            Machine { load, random, awake_at: Instant::ZERO, pauses: [(Instant::ZERO, Instant::ZERO); 2] };
        for kind in 0..2 {
            machine.pauses[kind] = machine.next_pause(kind, Instant::ZERO);
        }
        machine
    }

    /// When the process gets to handle something that is due at `due`. Never earlier than an answer given before: what
    /// falls due while it is being woken is handled in the same lump.
    pub fn wakes(&mut self, due: Instant) -> Instant {
        if self.load == Load::None {
            return due;
        }
        if due <= self.awake_at {
            return self.awake_at;
        }
        let latency_max = if self.load == Load::Light { 100 } else { 400 };
        let mut at = due + Duration::from_micros(self.random.random_range(5..latency_max));
        for kind in 0..2 {
            while self.pauses[kind].1 <= at {
                self.pauses[kind] = self.next_pause(kind, self.pauses[kind].1);
            }
        }
        for (from, until) in self.pauses {
            if from <= at {
                at = at.max(until);
            }
        }
        self.awake_at = at;
        at
    }

    fn next_pause(&mut self, kind: usize, after: Instant) -> (Instant, Instant) {
        // Mean time between, and shortest and longest, in microseconds.
        let (between, shortest, longest) = match (self.load, kind) {
            (Load::None, _) => (1_000_000_000, 1, 2),
            (Load::Light, 0) => (100_000, 500, 3_000),
            (Load::Light, _) => (2_000_000, 5_000, 15_000),
            (Load::Heavy, 0) => (25_000, 1_000, 4_000),
            (Load::Heavy, _) => (500_000, 8_000, 30_000),
        };
        let from = after + Duration::from_micros(self.random.random_range(1..2 * between));
        (from, from + Duration::from_micros(self.random.random_range(shortest..longest)))
    }
}

#[test]
fn a_busy_machine_wakes_late_and_in_order() {
    let mut machine = Machine::new(Load::Heavy, 1, 0);
    let (mut last, mut late, mut worst) = (Instant::ZERO, Duration::ZERO, Duration::ZERO);
    for due in (0..10_000).map(|tick| Instant::from_micros(tick * 500)) {
        let at = machine.wakes(due);
        assert!(at >= due && at >= last);
        last = at;
        late += at - due;
        worst = worst.max(at - due);
    }
    assert!(worst > Duration::from_millis(15), "{worst:?}");
    assert!(late / 10_000 > Duration::from_micros(400), "{:?}", late / 10_000);
}
