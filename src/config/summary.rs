//! What a valid file will do, in words.

use std::fmt;

use super::{ChannelSettings, Settings};
use crate::channel::PathMtu;
use crate::rate::RateMode;

/// Rules written out; a longer list is counted, so that the summary stays a screen.
const RULES_SHOWN_MAX: usize = 14;

/// Several lines for an administrator to compare with what was meant.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { name, lan, wan, channel, rules, limits, status_socket } = self;
        writeln!(f, "{name} bridges {} (LAN, MTU {}) and {} (WAN, MTU {})", lan.tap, lan.mtu, wan.tap, wan.mtu)?;
        match channel {
            Some(channel) => writeln!(f, "channel: {channel}")?,
            None => writeln!(f, "channel: none, a plain bridge")?,
        }
        writeln!(f, "limits: {} accelerated flows, {} MiB of buffers", limits.flows, limits.memory.as_u64() >> 20)?;
        writeln!(f, "status: {}", status_socket.display())?;
        writeln!(f, "rules, first match wins:")?;
        for (index, rule) in rules.list().iter().take(RULES_SHOWN_MAX).enumerate() {
            writeln!(f, "  {}. {}: {rule}", index + 1, rule.name)?;
        }
        if let Some(more @ 1..) = rules.list().len().checked_sub(RULES_SHOWN_MAX) {
            writeln!(f, "  … and {more} more")?;
        }
        write!(f, "  everything else: forwarded untouched")
    }
}

impl fmt::Display for ChannelSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listens on UDP {}", self.listen)?;
        match self.peer_address {
            Some(peer) => write!(f, ", calls the peer at {peer}")?,
            None => f.write_str(", waits for the peer to call")?,
        }
        match self.rate {
            RateMode::Fair { cap: None } => f.write_str(", sends what the path carries")?,
            RateMode::Fair { cap: Some(rate) } => write!(f, ", sends what the path carries, at most {rate}")?,
            RateMode::Fixed { rate } => write!(f, ", sends at {rate} whatever the path loses")?,
        }
        match self.path_mtu {
            PathMtu::Fixed(size) => write!(f, ", packets up to {size} bytes")?,
            PathMtu::Discover { max } => write!(f, ", packets as long as the path carries, up to {max} bytes")?,
        }
        if self.peer_next_public_key.is_some() {
            f.write_str(", takes the peer's next key too")?;
        }
        if self.preshared_key_file.is_some() {
            f.write_str(", with a pre-shared key")?;
        }
        Ok(())
    }
}
