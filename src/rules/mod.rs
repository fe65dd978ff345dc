//! Ordered rules to a verdict for a flow key.

use crate::frame::FlowKey;

/// Whether the payload of an accelerated flow may be compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Compression {
    /// Measured per stream; switched off while it does not pay.
    #[default]
    Auto,
    /// Never.
    Off,
}

/// What a rule asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Split the connection and relay it through the channel.
    Accelerate {
        /// Of its payload, both directions.
        compression: Compression,
    },
    /// Forward its frames untouched.
    Bypass,
}

/// The answer for one flow: what to do, and which rule said so (`None`: the default, bypass).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// What to do.
    pub action: Action,
    /// Index of the rule that matched first.
    pub rule: Option<usize>,
}

/// An ordered rule list; first match wins, default bypass.
#[derive(Clone, Debug, Default)]
pub struct Rules {}

impl Rules {
    /// The verdict for the flow whose opening SYN has this key (`dst` is the server).
    pub fn verdict(&self, _key: &FlowKey) -> Verdict {
        Verdict { action: Action::Bypass, rule: None }
    }
}
