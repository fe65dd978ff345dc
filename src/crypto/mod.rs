//! Handshake, seal and open, replay window: everything that keeps the channel private and authentic.
//!
//! No I/O, no clock and no hidden randomness: seeds come in as arguments, so that a simulated handshake replays.
//!
//! | file | one job |
//! |---|---|
//! | `keys` | static keys and pre-shared keys, and their text form |
//! | `handshake` | `Noise_IKpsk2_25519_AESGCM_SHA256` in two messages |
//! | `session` | AES-256-GCM over datagrams in place |
//! | `replay` | which counters were seen (RFC 6479) |
//! | `flood` | what a responder checks before it spends a Diffie-Hellman: `mac1` and cookies |

mod flood;
mod handshake;
mod keys;
mod replay;
mod session;

pub use flood::{COOKIE_LIFETIME, Cookie, CookieSecret, MAC_LEN, Mac1Key};
pub use handshake::{
    HANDSHAKE_PAYLOAD_LEN_MAX, HandshakeError, INITIATION_OVERHEAD, Initiation, PROLOGUE, RESPONSE_OVERHEAD, Response,
    respond,
};
pub use keys::{KEY_LEN, ParseKeyError, PresharedKey, PrivateKey, PublicKey};
pub use replay::ReplayWindow;
pub use session::{CONFIDENTIALITY_LIMIT, INTEGRITY_LIMIT, NotAuthentic, OpeningKey, SealingKey, SessionKeys, TAG_LEN};
