//! The engine as a whole: two of them back to back in memory, with hosts that know nothing of them.

mod host;
mod world;

mod opening;
mod transfer;
