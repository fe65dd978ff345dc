//! Random networks and scripts: whatever happens, bytes arrive whole and in order, or both hosts learn that they do not.
//!
//! `SIM_SEED=<seed> cargo test --test sim random` replays one run; `SIM_SEEDS=<n>` tries that many.

use std::time::Duration;

use longhaul::units::BitRate;
use longhaul::wan::Jitter;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::appliance::{ACCELERATED_PORT, ApplianceSpec};
use crate::host::HostSpec;
use crate::identity::End;
use crate::network::{Incident, Network, NetworkSpec};
use crate::path::PathSpec;
use crate::pattern::Content;
use crate::script::{Connection, Pause};
use crate::settings;

/// Seeds tried when nobody asks for another number.
const SEEDS: u64 = 150;

/// Says how to replay the run that is failing.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay this run: SIM_SEED={} cargo test --test sim random", self.0);
        }
    }
}

#[test]
fn random_networks_deliver_whole_or_say_so() {
    try_seeds(false);
}

#[test]
fn random_networks_deliver_whole_or_say_so_when_appliances_restart() {
    try_seeds(true);
}

fn try_seeds(restarts: bool) {
    let asked: Vec<u64> = settings::list("SIM_SEED", &[]);
    let count = settings::value("SIM_SEEDS", SEEDS);
    let seeds = if asked.is_empty() { (0..count).collect() } else { asked };
    for seed in seeds {
        let replay = Replay(seed);
        Network::new(random_spec(seed, restarts)).run();
        drop(replay);
    }
}

#[test]
fn a_random_run_is_a_function_of_its_seed() {
    let trace = |seed: u64| {
        let mut network = Network::new(random_spec(seed, false));
        network.run();
        (network.now(), network.wan(End::A).stats(), network.wan(End::B).stats())
    };
    assert_eq!(trace(3), trace(3));
}

fn random_spec(seed: u64, restarts: bool) -> NetworkSpec {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let path = random_path(&mut random);
    let v6 = random.random_bool(0.3);
    // What passes un-accelerated must fit the WAN, as without appliances: with jumbo frames nothing may have to pass.
    let jumbo = random.random_bool(0.15);
    let lan_mtu = if jumbo { 9000 } else { 1500 };
    let appliance = ApplianceSpec { lan_mtu, ..ApplianceSpec::default() };
    let mut spec = NetworkSpec::new(path, appliance.wiring(seed), seed);
    let vlan = random.random_bool(0.2).then(|| random.random_range(1..4095));
    spec.hosts = [(); 2].map(|()| HostSpec {
        mtu: if random.random_bool(0.5) { lan_mtu } else { 1500 },
        buffer: random.random_range(64..768) * 1024,
        vlan,
        offload: random.random_bool(0.7),
        v6,
        filtered_ports: Vec::new(),
    });
    // Bytes rest longest while a host's own TCP backs off, on flows that pass un-accelerated.
    spec.patience = Duration::from_secs(200);
    spec.limit = Duration::from_secs(3600);
    if !jumbo && random.random_bool(0.3) {
        let lasts = Duration::from_millis(random.random_range(50..4000));
        spec.incidents.push((random_time(&mut random), Incident::Outage(lasts)));
    }
    if restarts && !jumbo && random.random_bool(0.5) {
        let who = random_end(&mut random);
        spec.incidents.push((random_time(&mut random), Incident::Restart(who)));
    }
    let calm = spec.incidents.is_empty();
    let flows = random.random_range(1..=6);
    for _ in 0..flows {
        let mut connection = random_connection(&mut random, &spec.path, flows, calm);
        if jumbo {
            connection.port = ACCELERATED_PORT;
        }
        spec.script.push(connection);
    }
    if random.random_bool(0.2) {
        let rate = spec.path.rate().percent(random.random_range(40..250));
        spec.incidents.push((random_time(&mut random), Incident::Rate(rate)));
    }
    spec
}

fn random_path(random: &mut Pcg64Mcg) -> PathSpec {
    // Rates and times by orders of magnitude: 4 to 256 Mbps, 0.25 to 128 ms.
    let rate = BitRate::from_kbps((4_000.0 * 2_f64.powf(random.random_range(0.0..6.0))) as u64);
    let rtt = Duration::from_micros((250.0 * 2_f64.powf(random.random_range(0.0..9.0))) as u64);
    let loss = if random.random_bool(0.4) { 0.0 } else { random.random_range(0.0..2.0) };
    let burst = if random.random_bool(0.3) { random.random_range(2.0..8.0) } else { 1.0 };
    let jitter = match random.random_range(0..3) {
        0 => Jitter::NONE,
        1 => Jitter::ordered(rtt.mul_f64(random.random_range(0.0..0.3))),
        _ => Jitter::reordering(rtt.mul_f64(random.random_range(0.0..0.3))),
    };
    PathSpec::new(rate, rtt, random.random_range(0.5..4.0)).loss(loss, burst).jitter(jitter)
}

fn random_connection(random: &mut Pcg64Mcg, path: &PathSpec, flows: u64, calm: bool) -> Connection {
    let share = path.rate().bytes_in(Duration::from_millis(1500)).as_u64() / flows;
    let mut size = || match random.random_range(0..5) {
        0 => 0,
        1 => random.random_range(1..3000),
        _ => random.random_range(0..share),
    };
    let bytes = [size(), size()];
    // A simulated host's own TCP recovers poorly (it may even lose a FIN for good): what passes un-accelerated is little,
    // and meets no losses but those of a full queue.
    let gentle = calm && path.loss_share() == 0.0 && !path.link.jitter.reorders;
    let accelerated = !gentle || random.random_bool(0.7);
    let bytes = if accelerated { bytes } else { bytes.map(|len| len.min(50_000)) };
    let mut connection = Connection {
        client: random_end(random),
        port: if accelerated { ACCELERATED_PORT } else { 9000 },
        opens_at: Duration::from_millis(1500) + Duration::from_millis(random.random_range(0..2500)),
        content: [Content::Random, Content::ZeroPages, Content::Mixed][random.random_range(0..3)],
        reply_after_end: random.random_bool(0.2),
        closes_early: random.random_bool(0.2),
        listening: random.random_bool(0.95),
        ..Connection::both_ways(bytes[0], bytes[1])
    };
    for end in End::BOTH {
        if random.random_bool(0.15) {
            let after = random.random_range(0..=bytes[end.other().index()]);
            let lasts = Duration::from_millis(random.random_range(1..3000));
            connection.pauses.push(Pause { end, after, lasts });
        }
    }
    // A reset that a host sends past the appliances may be lost, and nobody repeats it.
    if accelerated && calm && random.random_bool(0.15) {
        let end = random_end(random);
        if bytes[end.index()] > 0 {
            connection.abort = Some((end, random.random_range(0..bytes[end.index()])));
        }
    }
    connection
}

fn random_end(random: &mut Pcg64Mcg) -> End {
    End::BOTH[random.random_range(0..2)]
}

fn random_time(random: &mut Pcg64Mcg) -> Duration {
    Duration::from_millis(random.random_range(1500..6000))
}
