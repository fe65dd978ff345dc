//! The benchmark's guest: the only program of a virtual machine whose memory is worth moving.
//!
//! It runs as PID 1 of an initramfs, static and without any other file. It fills memory from a seed (`fill.rs` says with
//! what), keeps a working set dirty, prints a numbered beat on the serial console, and on request sums up its memory
//! again. The kernel hands its command line over as environment: `FILL`, `FILL_MB`, `SEED`, `DIRTY_MB`, `DIRTY_PPS`,
//! `BEAT_MS`.
//!
//! Lines it prints: `F sum` once memory is filled, `B n` per beat, `V sum wrong` as the answer to a line `verify`, where
//! `wrong` counts pages of the working set that are not as written last.
//!
//! On a developer's machine, `guest emit FILL MB SEED` writes the memory to standard output, to look at how it compresses.

mod fill;

use fill::{Fill, PAGE, Random};
use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// The dirtied pages: contents, and how often each was written, which decides what it must contain.
struct WorkingSet {
    fill: Fill,
    memory: Vec<u8>,
    versions: Vec<u64>,
}

impl WorkingSet {
    fn new(fill: Fill, bytes: usize) -> Self {
        let pages = bytes / PAGE;
        let mut set = WorkingSet { fill, memory: vec![0; pages * PAGE], versions: vec![0; pages] };
        for page in 0..pages {
            set.write(page);
        }
        set
    }

    fn write(&mut self, page: usize) {
        self.versions[page] += 1;
        let bytes = &mut self.memory[page * PAGE..(page + 1) * PAGE];
        self.fill.write_dirty(page as u64, self.versions[page], bytes);
    }

    /// Pages that differ from what was written last.
    fn wrong(&self) -> usize {
        let mut expected = vec![0; PAGE];
        let as_written = |(page, bytes): (usize, &[u8])| {
            self.fill.write_dirty(page as u64, self.versions[page], &mut expected);
            bytes == expected
        };
        self.memory.chunks_exact(PAGE).enumerate().map(as_written).filter(|right| !right).count()
    }
}

/// An order-dependent sum of all words.
fn sum(memory: &[u8]) -> u64 {
    memory.chunks_exact(8).fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        let word = u64::from_le_bytes(word.try_into().expect("invariant: chunks of 8 bytes"));
        (sum.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    })
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn say(line: &str) {
    // One write per line, so that two threads' lines never mix. A console that is gone is nobody's loss.
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(format!("{line}\n").as_bytes());
    let _ = out.flush();
}

/// Runs `step` every `interval`, at the intervals' own times: a late step does not move the later ones.
fn every(interval: Duration, mut step: impl FnMut()) -> ! {
    let mut next = Instant::now();
    loop {
        step();
        next += interval;
        let now = Instant::now();
        // After a pause (the machine was stopped while it moved), go on from now instead of catching up.
        if next + interval < now {
            next = now;
        }
        thread::sleep(next.saturating_duration_since(now));
    }
}

fn run() -> ! {
    let fill = std::env::var("FILL").ok().and_then(|name| Fill::named(&name)).unwrap_or(Fill::Report);
    let seed = number("SEED", 1);
    let mut memory = vec![0; (number("FILL_MB", 64) << 20) as usize];
    fill.fill(seed, &mut memory);
    let set = Arc::new(Mutex::new(WorkingSet::new(fill, (number("DIRTY_MB", 8) << 20) as usize)));
    say(&format!("F {:016x}", sum(&memory)));

    let dirtied = Arc::clone(&set);
    let per_second = number("DIRTY_PPS", 500);
    thread::spawn(move || {
        let mut random = Random::new(seed ^ 0xd1f7);
        let step = Duration::from_millis(10);
        let mut owed = 0;
        every(step, || {
            owed += per_second * 10;
            let mut set = dirtied.lock().expect("invariant: no thread panics with the lock held");
            while owed >= 1000 && !set.versions.is_empty() {
                owed -= 1000;
                let page = random.below(set.versions.len() as u64) as usize;
                set.write(page);
            }
        })
    });

    let beat = Duration::from_millis(number("BEAT_MS", 10));
    thread::spawn(move || {
        let mut count = 0u64;
        every(beat, || {
            count += 1;
            say(&format!("B {count}"));
        })
    });

    let mut line = String::new();
    loop {
        line.clear();
        // PID 1 must not end: that would panic the kernel, and the run would be lost.
        match std::io::stdin().lock().read_line(&mut line) {
            Ok(0) | Err(_) => thread::sleep(Duration::from_millis(100)),
            Ok(_) if line.trim() == "verify" => {
                let sum = sum(&memory);
                let wrong = set.lock().expect("invariant: no thread panics with the lock held").wrong();
                say(&format!("V {sum:016x} {wrong}"));
            }
            Ok(_) => {}
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.get(1).is_some_and(|word| word == "emit") {
        let fill = arguments.get(2).and_then(|name| Fill::named(name)).expect("usage: guest emit report|dense|encrypted MB SEED");
        let megabytes: usize = arguments.get(3).and_then(|word| word.parse().ok()).unwrap_or(64);
        let seed = arguments.get(4).and_then(|word| word.parse().ok()).unwrap_or(1);
        let mut memory = vec![0; megabytes << 20];
        fill.fill(seed, &mut memory);
        std::io::stdout().lock().write_all(&memory).expect("standard output takes the memory");
        return;
    }
    run();
}
