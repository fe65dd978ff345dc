//! What tests that use the real kernel share.

pub mod netns;
