//! What one incompressible transfer makes of each of the report's links, kept as a table that must not change unseen.
//!
//! Runs are exact, so the table is compared letter by letter. After a change that is meant to move it:
//! `SIM_SNAPSHOT=write cargo test --test sim goodput`, and the difference belongs into the commit. What holds for the one
//! seed holds for others as well: `goodput_table` prints them (`SIM_SEED`, 1 to 6).

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use longhaul::units::{BitRate, ByteCount};

use crate::appliance::ApplianceSpec;
use crate::identity::End;
use crate::network::{Network, NetworkSpec};
use crate::path::PathSpec;
use crate::script::Connection;
use crate::settings;

const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sim/goodput.snap.md");
const SEED: u64 = 1;
/// The connection opens once the appliances know each other.
const OPENS_AT: Duration = Duration::from_millis(1500);
/// Goodput is measured from here on.
const SETTLED_AT: Duration = Duration::from_millis(2500);
/// Time that the transfer takes at line rate.
const TRANSFER: Duration = Duration::from_secs(3);

/// One row.
struct Row {
    path: PathSpec,
    goodput: BitRate,
    retransmitted: f64,
    spurious: f64,
    drain: Duration,
    backlog_max: ByteCount,
}

impl Row {
    fn measure(path: PathSpec, seed: u64) -> Row {
        let bytes = path.rate().bytes_in(TRANSFER).as_u64();
        let connection = Connection::transfer(bytes).opens_at(OPENS_AT);
        let wiring = ApplianceSpec::default().wiring(seed);
        let mut network = Network::new(NetworkSpec::new(path.clone(), wiring, seed).with(connection));
        network.run_to(SETTLED_AT);
        let before = network.received(End::B);
        network.run();
        let last = network.seen(End::B, 0).last_received_at.expect("received");
        let acked = network.seen(End::A, 0).acked_at.expect("acknowledged");
        let stats = network.engine(End::A).and_then(|engine| engine.channel_stats()).expect("an appliance");
        Row {
            path,
            goodput: BitRate::from_transfer(ByteCount::new(bytes - before), last - SETTLED_AT),
            retransmitted: stats.bytes_retransmitted.as_u64() as f64 / bytes as f64,
            spurious: stats.datagrams_lost_spuriously as f64 / stats.datagrams_sent as f64,
            drain: last.saturating_sub(acked),
            backlog_max: network.backlog_max,
        }
    }

    fn share_of_line(&self) -> f64 {
        self.goodput.as_bps() as f64 / self.path.rate().as_bps() as f64
    }

    fn print(&self, table: &mut String) {
        let _ = writeln!(
            table,
            "| {} | {} | {:.1} | {:.3} | {:.4} | {:.1} | {} |",
            self.path.name,
            self.goodput,
            self.share_of_line() * 100.0,
            self.retransmitted * 100.0,
            self.spurious * 100.0,
            self.drain.as_secs_f64() * 1e3,
            self.backlog_max,
        );
    }
}

#[test]
fn goodput_of_the_report_s_links_is_as_recorded_and_at_least_85_per_cent() {
    let rows: Vec<Row> = PathSpec::report().into_iter().map(|path| Row::measure(path, SEED)).collect();
    let mut table = "One incompressible flow, host to host through two appliances, on virtual time; goodput after the first second.\n\
                     Written by `SIM_SNAPSHOT=write cargo test --test sim goodput`.\n\n\
                     | link | goodput | % of line rate | resent % | spurious % | drain ms | largest backlog |\n\
                     |---|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    rows.iter().for_each(|row| row.print(&mut table));
    println!("{table}");
    for row in &rows {
        assert!(row.share_of_line() >= 0.85, "{}: {:.1} % of line rate", row.path.name, row.share_of_line() * 100.0);
        let bar = row.path.rtt + Duration::from_millis(200);
        assert!(row.drain <= bar, "{}: the rest took {:?} after the host's last byte", row.path.name, row.drain);
    }
    compare(Path::new(SNAPSHOT), &table);
}

#[test]
#[ignore = "a table for people"]
fn goodput_table() {
    println!("| seed | link | goodput, % of line rate | resent % |\n|---:|---|---:|---:|");
    for seed in settings::list("SIM_SEED", &[1, 2, 3, 4, 5, 6]) {
        for row in PathSpec::report().into_iter().map(|path| Row::measure(path, seed)) {
            let (share, resent) = (row.share_of_line() * 100.0, row.retransmitted * 100.0);
            println!("| {seed} | {} | {share:.1} | {resent:.3} |", row.path.name);
            assert!(share >= 85.0, "{}, seed {seed}: {share:.1} % of line rate", row.path.name);
        }
    }
}

/// Compares with the snapshot, or writes it when asked to.
fn compare(path: &Path, table: &str) {
    if std::env::var("SIM_SNAPSHOT").is_ok_and(|value| value == "write") {
        std::fs::write(path, table).expect("the snapshot can be written");
        return;
    }
    let recorded = std::fs::read_to_string(path).expect("a snapshot; SIM_SNAPSHOT=write makes it");
    assert_eq!(recorded, table, "goodput moved; if it was meant to, run with SIM_SNAPSHOT=write");
}
