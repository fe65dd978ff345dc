//! The engine as a whole: two of them back to back in memory, with hosts that know nothing of them.

#[path = "../support/ends.rs"]
mod ends;
mod host;
mod segments;
mod world;

mod hostile;
mod opening;
mod peer;
mod transfer;
