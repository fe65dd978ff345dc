//! Keys, addresses and seeds of the two appliances: fixed, so that a run depends on its seed only.

use std::net::SocketAddr;

use longhaul::channel::{ChannelConfig, PathMtu};
use longhaul::crypto::PrivateKey;
use longhaul::rate::RateMode;

use crate::ends;

/// Which of the two ends: host, appliance, channel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum End {
    /// Left.
    A,
    /// Right.
    B,
}

impl End {
    /// Both, in order.
    pub const BOTH: [End; 2] = [End::A, End::B];

    /// The other end.
    pub const fn other(self) -> End {
        match self {
            End::A => End::B,
            End::B => End::A,
        }
    }

    /// For indexing pairs.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Where this end's appliance listens.
    pub fn address(self) -> SocketAddr {
        match self {
            End::A => "192.0.2.1:4600".parse().expect("a literal address"),
            End::B => "192.0.2.2:4600".parse().expect("a literal address"),
        }
    }

    const fn private_key(self) -> [u8; 32] {
        match self {
            End::A => [0x41; 32],
            End::B => [0x42; 32],
        }
    }

    /// What the other end pins.
    pub fn public_key(self) -> [u8; 32] {
        PrivateKey(self.private_key()).public_key().0
    }

    /// This end's channel: knows its peer's key, and its address (both sides do, as in mirrored configurations).
    pub fn channel_config(self, path_mtu: PathMtu) -> ChannelConfig {
        ChannelConfig {
            private_key: self.private_key(),
            peer_public_key: self.other().public_key(),
            ..ends::channel_config(self.index(), self.other().address(), path_mtu, RateMode::default())
        }
    }

    /// The seed of this end's `instance`-th start in the run `seed`.
    pub fn seed(self, seed: u64, instance: u64) -> [u8; 32] {
        let mut bytes = [self.index() as u8; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        bytes[8..16].copy_from_slice(&instance.to_le_bytes());
        bytes
    }
}
