//! `wanem`, the WAN emulator: joins two interfaces by the path that `longhaul::wan` models.

mod args;
mod awake;
mod change;
mod emulator;
mod end;
mod lane;
mod lateness;
mod packet;
mod report;
mod sys;
mod tap;
mod trace;
mod values;
mod vnet;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use longhaul::wan::Path;

use crate::args::Args;
use crate::emulator::{Emulator, Settings};
use crate::end::End;
use crate::report::describe;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("wanem: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let links = args.links(sys::now());
    let banner = links.each_ref().map(describe);
    let [ab, ba] = links;
    let path = Path::new(ab, ba, args.seed).map_err(|error| error.to_string())?;
    let ends = [open(args.a.as_deref(), args.tap_a.as_deref())?, open(args.b.as_deref(), args.tap_b.as_deref())?];
    let signals = sys::signals().map_err(|error| format!("no signal descriptor: {error}"))?;
    sys::sleep_precisely();
    if args.realtime
        && let Err(error) = sys::become_realtime()
    {
        eprintln!("wanem: no real-time priority ({error}); busy cores will delay frames");
    }
    let settings = Settings {
        stats_file: args.stats.clone(),
        changes_file: args.changes.clone(),
        trace: args.trace,
        seed: args.seed,
    };
    let mut emulator = Emulator::new(ends, path, signals, settings);
    // Whoever starts the emulator waits for this line.
    eprintln!("wanem: ready; a to b {}; b to a {}", banner[0], banner[1]);
    emulator.run().map_err(|error| error.to_string())
}

fn open(interface: Option<&str>, tap: Option<&str>) -> Result<End, String> {
    let opened: io::Result<End> = match (interface, tap) {
        (Some(name), _) => packet::PacketEnd::open(name).map(End::Packet),
        (None, Some(name)) => tap::TapEnd::open(name).map(End::Tap),
        (None, None) => unreachable!("clap requires one of both"),
    };
    opened.map_err(|error| format!("interface {}: {error}", interface.or(tap).unwrap_or_default()))
}
