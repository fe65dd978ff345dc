//! The channel of each of two test appliances, which know each other.

use std::net::SocketAddr;

use longhaul::channel::{ChannelConfig, PathMtu};
use longhaul::crypto::PrivateKey;
use longhaul::rate::RateMode;

/// The channel of end `side`, 0 or 1, whose peer is at `peer`.
pub fn channel_config(side: usize, peer: SocketAddr, path_mtu: PathMtu, rate: RateMode) -> ChannelConfig {
    let keys = [PrivateKey([1; 32]), PrivateKey([2; 32])];
    ChannelConfig {
        private_key: keys[side].0,
        peer_public_key: keys[1 - side].public_key().0,
        peer_next_public_key: None,
        preshared_key: None,
        tail_copies: true,
        repair_symbols: true,
        peer_address: Some(peer),
        path_mtu,
        rate,
    }
}
