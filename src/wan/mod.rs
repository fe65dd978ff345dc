//! The emulated path: what a link does to each segment. Pure: no I/O, no clock, everything drawn from a seed.
//!
//! # The model of one direction
//!
//! ```text
//! offer ─▶ oversize? ─▶ link dead? ─▶ drop-tail queue ─▶ line (rate) ─▶ random loss ─▶ delay ± jitter ─▶ delivery
//! ```
//!
//! - [`Link`] is one direction, [`Path`] a pair of them, [`links`] the five named links of the report.
//! - **Rate** counts IP packet bytes plus the Ethernet header ([`ETHERNET_HEADER_LEN`], VLAN tags where there are any),
//!   without preamble, frame check sequence and gap. TCP and the channel are charged alike, so shares of line rate compare.
//! - **Rate, loss and queue count per MTU-sized segment**, also for super-segments: see [`Link::offer_burst`].
//! - **The queue** is bounded in bytes and drops from the tail; the segment on the line counts until its last bit left.
//! - **Loss** strikes behind the queue: a lost segment has used its line time, as on a real path.
//! - **Jitter** by default keeps order: the delay wanders within ± jitter like that of a FIFO behind other traffic
//!   ([`Jitter::ordered`]). Independent delays for each segment, which overtake each other, are an option
//!   ([`Jitter::reordering`]), and so is holding single segments back ([`Reorder`]).
//! - Loss, jitter and reordering have generators of their own: the same seed loses the same segments whatever the jitter.
//!
//! Line time is kept in nanoseconds with the exact remainder, so that a link drifts by nothing however long it runs.

mod config;
mod jitter;
mod link;
pub mod links;
mod loss;
mod path;

pub use config::{ETHERNET_HEADER_LEN, LinkConfig, LinkConfigError, MAX_VLAN_LEN, Outage, Reorder};
pub use jitter::Jitter;
pub use link::{Link, LinkStats, Verdict};
pub use loss::{Loss, ParseProbabilityError, Probability};
pub use path::{Direction, Path};
