//! The simulator: hosts, appliances and a seeded WAN in one process on virtual time.
//!
//! Every run is a function of its seed: no clock, no I/O, no threads. What a run measures is therefore exact, and a
//! failing seed replays with `SIM_SEED=<seed> cargo test --test sim`.

mod agenda;
mod appliance;
mod bins;
mod bursts;
mod channel;
mod channel_scenarios;
mod channel_table;
mod cubic;
mod drain;
#[path = "../support/ends.rs"]
mod ends;
mod fixed;
mod goodput;
mod host;
mod identity;
mod kernel;
mod machine;
mod network;
mod offload;
mod outages;
mod parity;
mod path;
mod path_mtu;
mod pattern;
mod peering;
mod peering_scenarios;
mod progress;
mod random;
mod rate_changes;
mod scenarios;
mod script;
mod settings;
mod sharing;
mod standing;
mod tail;
mod weather;
mod weights;
mod wire;
