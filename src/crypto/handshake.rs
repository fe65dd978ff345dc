//! The handshake: `Noise_IKpsk2_25519_AESGCM_SHA256` (Noise Protocol Framework, revision 34) in two messages.
//!
//! ```text
//! initiator                                             responder
//!   message 1: e, es, s, ss, payload   ───────────────▶  knows who speaks, and that the payload is theirs
//!   finish     ◀───────────────  message 2: e, ee, se, psk, payload
//! ```
//!
//! As in WireGuard the pre-shared key enters with message 2, so a wrong one shows at the initiator's
//! [`Initiation::finish`]; the responder has proof of it, and of liveness, with the first datagram that opens under
//! the new [`SessionKeys`]. Message 1 can be replayed: its payload has to carry something that only grows, and
//! [`respond`]'s `reply` refuses what is not newer.

use std::fmt;

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};

use super::keys::{KEY_LEN, PresharedKey, PrivateKey, PublicKey};
use super::session::{OpeningKey, SealingKey, SessionKeys, TAG_LEN};

/// What both ends mix in first: appliances of another protocol version never agree on keys.
pub const PROLOGUE: &[u8] = b"longhaul channel v1";

/// Largest payload of either message: both fit one datagram on the smallest path (1280 bytes, RFC 8200 section 5).
pub const HANDSHAKE_PAYLOAD_LEN_MAX: usize = 1024;

/// Bytes message 1 is longer than its payload: ephemeral key, sealed static key, tag of the payload.
pub const INITIATION_OVERHEAD: usize = KEY_LEN + KEY_LEN + TAG_LEN + TAG_LEN;

/// Bytes message 2 is longer than its payload: ephemeral key, tag of the payload.
pub const RESPONSE_OVERHEAD: usize = KEY_LEN + TAG_LEN;

/// Where the pre-shared key stands in the pattern (`psk2`: at the end of the second message).
const PSK_LOCATION: u8 = 2;

const PATTERN: &str = "Noise_IKpsk2_25519_AESGCM_SHA256";

/// The peer's message is not what it should be. Counted and dropped, never answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Shorter than its keys and tags, or longer than [`HANDSHAKE_PAYLOAD_LEN_MAX`] allows.
    #[error("a handshake message of {0} bytes")]
    Length(usize),
    /// Forged, damaged, of another version, made for another appliance, or with another pre-shared key.
    #[error("the handshake message is not authentic")]
    NotAuthentic,
    /// Authentic, but by another static key than the one pinned.
    #[error("the handshake is by {0}, not by the configured peer")]
    UnknownPeer(PublicKey),
    /// The caller's `reply` declined: a replay, or a payload it does not understand.
    #[error("the handshake's payload was declined")]
    Declined,
}

/// The initiator between its message and the peer's answer. May be dropped at any time.
pub struct Initiation {
    state: Box<HandshakeState>,
}

impl fmt::Debug for Initiation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Initiation")
    }
}

impl Initiation {
    /// Starts a handshake with `peer` and returns message 1 (`payload` sealed in it, readable by nobody else).
    ///
    /// `seed` is used up by it: a second handshake from the same seed would reuse the ephemeral key.
    ///
    /// # Panics
    /// When `payload` is longer than [`HANDSHAKE_PAYLOAD_LEN_MAX`], the caller's bug.
    pub fn new(
        local: &PrivateKey,
        peer: &PublicKey,
        psk: Option<&PresharedKey>,
        seed: [u8; 32],
        prologue: &[u8],
        payload: &[u8],
    ) -> (Self, Vec<u8>) {
        let psk = psk.cloned().unwrap_or_default();
        let mut state = builder(local, &psk, seed, prologue)
            .remote_public_key(&peer.0)
            .and_then(Builder::build_initiator)
            .expect("invariant: the pattern has the keys it needs");
        let message = write(&mut state, payload, INITIATION_OVERHEAD).expect("invariant: the initiator writes first");
        (Initiation { state: Box::new(state) }, message)
    }

    /// Takes message 2: the keys of the new session, and the responder's payload.
    ///
    /// A forged message 2 changes nothing, so that it cannot keep out the real one: call again with the next.
    pub fn finish(&mut self, message: &[u8]) -> Result<(SessionKeys, Vec<u8>), HandshakeError> {
        let payload = read(&mut self.state, message, RESPONSE_OVERHEAD)?;
        let (ours, theirs) = self.state.dangerously_get_raw_split();
        Ok((SessionKeys { seal: SealingKey::new(&ours), open: OpeningKey::new(&theirs) }, payload))
    }
}

/// What a responder has after an authentic message 1.
#[derive(Debug)]
pub struct Response {
    /// Keys of the new session; the peer has proved nothing about the pre-shared key until something opens with them.
    pub keys: SessionKeys,
    /// The message to send back.
    pub message: Vec<u8>,
    /// The initiator's payload.
    pub payload: Vec<u8>,
    /// Which of the peers asked for it was.
    pub peer: usize,
}

/// Answers message 1 if it is by one of `peers` (one peer, while its key changes two) and `reply` accepts its payload.
///
/// `reply` gets the authentic payload and returns the payload of the answer, or `None` to decline. Nothing has been
/// drawn from `seed` by then, so a declined or refused message costs no seed.
///
/// # Panics
/// When the reply is longer than [`HANDSHAKE_PAYLOAD_LEN_MAX`], the caller's bug.
pub fn respond(
    local: &PrivateKey,
    peers: &[PublicKey],
    psk: Option<&PresharedKey>,
    seed: [u8; 32],
    prologue: &[u8],
    message: &[u8],
    reply: impl FnOnce(&[u8]) -> Option<Vec<u8>>,
) -> Result<Response, HandshakeError> {
    let psk = psk.cloned().unwrap_or_default();
    let mut state =
        builder(local, &psk, seed, prologue).build_responder().expect("invariant: the pattern has the keys it needs");
    let payload = read(&mut state, message, INITIATION_OVERHEAD)?;
    let by = state.get_remote_static().and_then(|key| key.try_into().ok()).map(PublicKey);
    let by = by.expect("invariant: an initiation carries the initiator's static key");
    let peer = peers.iter().position(|peer| *peer == by).ok_or(HandshakeError::UnknownPeer(by))?;
    let answer = reply(&payload).ok_or(HandshakeError::Declined)?;
    // Only a Diffie-Hellman with the peer's ephemeral key can fail here.
    let message = write(&mut state, &answer, RESPONSE_OVERHEAD).map_err(|_| HandshakeError::NotAuthentic)?;
    let (theirs, ours) = state.dangerously_get_raw_split();
    Ok(Response {
        keys: SessionKeys { seal: SealingKey::new(&ours), open: OpeningKey::new(&theirs) },
        message,
        payload,
        peer,
    })
}

fn builder<'key>(
    local: &'key PrivateKey,
    psk: &'key PresharedKey,
    seed: [u8; 32],
    prologue: &'key [u8],
) -> Builder<'key> {
    let params: NoiseParams = PATTERN.parse().expect("invariant: a pattern snow knows");
    Builder::with_resolver(params, Box::new(SeededResolver { seed }))
        .local_private_key(&local.0)
        .and_then(|builder| builder.psk(PSK_LOCATION, &psk.0))
        .and_then(|builder| builder.prologue(prologue))
        .expect("invariant: each parameter is set once")
}

fn write(state: &mut HandshakeState, payload: &[u8], overhead: usize) -> Result<Vec<u8>, snow::Error> {
    assert!(payload.len() <= HANDSHAKE_PAYLOAD_LEN_MAX, "invariant: a handshake payload fits its datagram");
    let mut message = vec![0; payload.len() + overhead];
    let len = state.write_message(payload, &mut message)?;
    debug_assert_eq!(len, message.len());
    message.truncate(len);
    Ok(message)
}

fn read(state: &mut HandshakeState, message: &[u8], overhead: usize) -> Result<Vec<u8>, HandshakeError> {
    let payload_len = message.len().checked_sub(overhead).filter(|len| *len <= HANDSHAKE_PAYLOAD_LEN_MAX);
    let mut payload = vec![0; payload_len.ok_or(HandshakeError::Length(message.len()))?];
    let len = state.read_message(message, &mut payload).map_err(|_| HandshakeError::NotAuthentic)?;
    payload.truncate(len);
    Ok(payload)
}

/// snow's own primitives, except that randomness comes from the caller's seed.
struct SeededResolver {
    seed: [u8; 32],
}

impl CryptoResolver for SeededResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(SeededRandom(ChaCha20Rng::from_seed(self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct SeededRandom(ChaCha20Rng);

impl Random for SeededRandom {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair {
        initiator: PrivateKey,
        responder: PrivateKey,
        psk: Option<PresharedKey>,
    }

    impl Pair {
        fn new() -> Self {
            let mut rng = ChaCha20Rng::seed_from_u64(7);
            Pair { initiator: PrivateKey::generate(&mut rng), responder: PrivateKey::generate(&mut rng), psk: None }
        }

        fn initiate(&self, seed: u8) -> (Initiation, Vec<u8>) {
            let peer = self.responder.public_key();
            Initiation::new(&self.initiator, &peer, self.psk.as_ref(), [seed; 32], PROLOGUE, b"from the initiator")
        }

        fn respond(&self, message: &[u8]) -> Result<Response, HandshakeError> {
            let peers = [PublicKey([1; KEY_LEN]), self.initiator.public_key()];
            respond(&self.responder, &peers, self.psk.as_ref(), [99; 32], PROLOGUE, message, |payload| {
                assert_eq!(payload, b"from the initiator");
                Some(b"from the responder".to_vec())
            })
        }
    }

    fn assert_agree(one: &SessionKeys, other: &SessionKeys) {
        for (seal, open) in [(&one.seal, &other.open), (&other.seal, &one.open)] {
            let mut datagram = *b"payload................";
            seal.seal(5, b"header", &mut datagram);
            assert_eq!(open.open(5, b"header", &mut datagram).unwrap(), b"payload");
        }
    }

    #[test]
    fn both_ends_agree_on_keys_and_read_each_others_payload() {
        for psk in [None, Some(PresharedKey([3; KEY_LEN]))] {
            let pair = Pair { psk, ..Pair::new() };
            let (mut initiation, message1) = pair.initiate(1);
            assert_eq!(message1.len(), INITIATION_OVERHEAD + b"from the initiator".len());
            let response = pair.respond(&message1).unwrap();
            assert_eq!(response.message.len(), RESPONSE_OVERHEAD + b"from the responder".len());
            assert_eq!((response.peer, &response.payload[..]), (1, &b"from the initiator"[..]));
            let (keys, payload) = initiation.finish(&response.message).unwrap();
            assert_eq!(payload, b"from the responder");
            assert_agree(&keys, &response.keys);
        }
    }

    #[test]
    fn the_same_seed_makes_the_same_messages_and_another_seed_others() {
        let pair = Pair::new();
        let (_, message) = pair.initiate(1);
        assert_eq!(message, pair.initiate(1).1);
        assert_ne!(message[..KEY_LEN], pair.initiate(2).1[..KEY_LEN]);
        assert_eq!(pair.respond(&message).unwrap().message, pair.respond(&message).unwrap().message);
    }

    #[test]
    fn the_payload_does_not_cross_in_the_clear() {
        let (_, message) = Pair::new().initiate(1);
        assert!(!message.windows(9).any(|window| window == b"initiator"));
    }

    #[test]
    fn another_static_key_than_the_pinned_one_is_refused_on_either_side() {
        let pair = Pair::new();
        let stranger = Pair { initiator: PrivateKey([8; KEY_LEN]), responder: pair.responder.clone(), psk: None };
        let by = stranger.initiator.public_key();
        let (_, message1) = stranger.initiate(1);
        assert_eq!(pair.respond(&message1).unwrap_err(), HandshakeError::UnknownPeer(by));

        let impostor = Pair { responder: PrivateKey([9; KEY_LEN]), ..Pair::new() };
        let (_, message1) = pair.initiate(1);
        assert_eq!(impostor.respond(&message1).unwrap_err(), HandshakeError::NotAuthentic);
    }

    #[test]
    fn another_preshared_key_is_refused_by_the_initiator() {
        let pair = Pair { psk: Some(PresharedKey([1; KEY_LEN])), ..Pair::new() };
        let other = Pair { psk: Some(PresharedKey([2; KEY_LEN])), ..Pair::new() };
        let (mut initiation, message1) = pair.initiate(1);
        let response = other.respond(&message1).unwrap();
        assert_eq!(initiation.finish(&response.message).unwrap_err(), HandshakeError::NotAuthentic);
        let none = Pair::new().respond(&message1).unwrap();
        assert_eq!(initiation.finish(&none.message).unwrap_err(), HandshakeError::NotAuthentic);
    }

    #[test]
    fn another_prologue_is_refused() {
        let pair = Pair::new();
        let (_, message1) = pair.initiate(1);
        let peer = pair.initiator.public_key();
        let answer =
            respond(&pair.responder, &[peer], None, [0; 32], b"longhaul channel v2", &message1, |_| Some(vec![]));
        assert_eq!(answer.unwrap_err(), HandshakeError::NotAuthentic);
    }

    #[test]
    fn a_declined_payload_gets_no_answer() {
        let pair = Pair::new();
        let (_, message1) = pair.initiate(1);
        let answer =
            respond(&pair.responder, &[pair.initiator.public_key()], None, [0; 32], PROLOGUE, &message1, |_| None);
        assert_eq!(answer.unwrap_err(), HandshakeError::Declined);
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_refused_and_the_real_answer_still_counts() {
        let pair = Pair::new();
        let (mut initiation, message1) = pair.initiate(1);
        for at in 0..message1.len() {
            let mut mutated = message1.clone();
            mutated[at] ^= 0x10;
            assert!(pair.respond(&mutated).is_err(), "byte {at} of message 1");
            assert!(pair.respond(&message1[..at]).is_err(), "message 1 cut at {at}");
        }
        let response = pair.respond(&message1).unwrap();
        for at in 0..response.message.len() {
            let mut mutated = response.message.clone();
            mutated[at] ^= 0x10;
            assert!(initiation.finish(&mutated).is_err(), "byte {at} of message 2");
            assert!(initiation.finish(&response.message[..at]).is_err(), "message 2 cut at {at}");
        }
        let (keys, _) = initiation.finish(&response.message).unwrap();
        assert_agree(&keys, &response.keys);
        assert!(initiation.finish(&response.message).is_err(), "a handshake finishes once");
    }

    #[test]
    fn oversized_messages_are_refused_before_any_work() {
        let pair = Pair::new();
        let len = HANDSHAKE_PAYLOAD_LEN_MAX + INITIATION_OVERHEAD + 1;
        assert_eq!(pair.respond(&vec![0; len]).unwrap_err(), HandshakeError::Length(len));
    }
}
