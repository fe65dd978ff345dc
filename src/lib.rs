//! longhaul: a transparent WAN accelerator for moving running virtual machines between sites.
//!
//! # The product in one picture
//!
//! ```text
//! host A ── LAN port ┌─────────────┐ WAN port ══ WAN ══ ┌─────────────┐ LAN port ── host B
//! (no change)        │ longhaul A  │                    │ longhaul B  │            (no change)
//!                    └─────────────┘                    └─────────────┘
//!   TCP ends here, as if it were B ▲     one UDP channel     ▲ TCP ends here, as if it were A
//! ```
//!
//! A frame is either *forwarded* (it leaves the other port byte-identical and in order) or belongs to an
//! *accelerated* flow, whose TCP connection is split: the near appliance answers the host with the far host's
//! addresses, the payload crosses the WAN compressed in the channel, and the far appliance connects to the real
//! host with the first host's addresses (a transparent split connection, RFC 3135 section 2.4).
//!
//! # The rooms, and which way they may look
//!
//! Imports run downward only; rooms of one level never import each other. `tests/structure.rs` holds this table,
//! the third-party quarantine, and "no clock and no I/O below level 4".
//!
//! | level | room | one job | only user of |
//! |---|---|---|---|
//! | 0 | [`units`] | bit rates, byte counts, weights, instants | |
//! | 0 | [`buffer`] | frame buffers with headroom, memory for reuse | |
//! | 1 | [`frame`] | bytes to a checked view; flow keys; the virtio-net header | etherparse |
//! | 1 | [`codec`] | one block to bytes and back; when to stop compressing | lz4_flex, zstd |
//! | 1 | [`crypto`] | handshake, seal and open, replay window | snow, ring, base64 |
//! | 1 | [`fec`] | blocks of bytes to repair symbols and back | reed-solomon-simd |
//! | 1 | [`rate`] | RTT, delivery rate, pacer, rate controller | |
//! | 1 | [`wan`] | the emulated path: what a link does to each segment | rand_pcg |
//! | 2 | [`rules`] | ordered rules to a verdict for a flow key | ipnet |
//! | 2 | [`tcp`] | end TCP: one endpoint per flow side, byte streams | smoltcp |
//! | 2 | [`channel`] | reliable streams to the peer over datagrams | |
//! | 3 | [`engine`] | the whole appliance without I/O: flow table, learning, bypass, relay, limits | |
//! | 4 | [`config`] | YAML to typed configuration | serde_yaml |
//! | 4 | [`io`] | TAP, UDP and timer descriptors | tun, quinn-udp, rustix, libc |
//! | 4 | [`telemetry`] | logs and the status socket's texts | tracing-subscriber |
//! | 5 | [`appliance`] | the event loop | tokio |
//! | 6 | `main`, `bin/wanem` | arguments | clap |
//!
//! # Protocol logic does no I/O
//!
//! Everything that decides is one deterministic [`engine::Engine`]: frames, datagrams, time and a seed in; frames,
//! datagrams and the next deadline out. The appliance runs it on tokio; `tests/sim` runs two of them, two hosts and
//! a seeded WAN in one process on virtual time.

pub mod buffer;
pub mod channel;
pub mod codec;
pub mod crypto;
pub mod engine;
pub mod fec;
pub mod frame;
pub mod rate;
pub mod rules;
pub mod tcp;
pub mod units;
pub mod wan;

pub mod config;
pub mod io;
pub mod telemetry;

pub mod appliance;
