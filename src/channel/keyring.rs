//! Epochs: handshakes under way, the keys in force, and the ones just replaced.
//!
//! Either side may initiate; when both do at once both epochs work, and each side sends on the one it learned of last.
//! An epoch made as responder is used for sending only after something opened with it: until then its initiation may
//! have been a replay. The packet numbers of a session run on across its epochs.

use std::time::Duration;

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::ChannelConfig;
use super::wire::{self, INDEX_MASK, InitiationDatagram, VERSIONS};
use crate::crypto::{
    CONFIDENTIALITY_LIMIT, COOKIE_LIFETIME, Cookie, Initiation, MAC_LEN, Mac1Key, OpeningKey, PROLOGUE, PresharedKey,
    PrivateKey, PublicKey, ReplayWindow, SealingKey, respond,
};
use crate::units::Instant;

/// Epochs kept for opening: what is in flight during a rekey, and simultaneous handshakes.
const EPOCHS_MAX: usize = 4;
/// An epoch is replaced after this long …
const REKEY_AFTER: Duration = Duration::from_secs(120);
/// … or after sealing this many datagrams, half of what the cipher allows (RFC 9001 section 6.6).
const REKEY_PACKETS: u64 = CONFIDENTIALITY_LIMIT / 2;
/// The responder takes over when the initiator has missed its turn by this much.
const REKEY_GRACE: Duration = Duration::from_secs(20);

#[derive(Debug)]
struct Epoch {
    local_index: u32,
    remote_index: u32,
    seal: SealingKey,
    open: OpeningKey,
    replay: ReplayWindow,
    expected: u64,
    established: Instant,
    sealed: u64,
    initiator: bool,
    peer_instance: u64,
    peer_abilities: u8,
    /// Which of the peer's keys it was agreed with.
    peer: usize,
}

#[derive(Debug)]
struct Pending {
    initiation: Initiation,
    index: u32,
    version: u8,
    peer: usize,
    mac1: [u8; MAC_LEN],
    with_cookie: bool,
}

/// Handshake payload, both ways: who starts (`instance`), which index datagrams to it carry, what the sender is able to
/// do, and a counter that makes old initiations of the same instance recognisable.
///
/// Abilities are the first byte of what was a counter of 8 bytes: those that know of none send 0 there, and to them the
/// counter begins higher.
struct Payload {
    instance: u64,
    index: u32,
    abilities: u8,
    counter: u64,
}

/// In [`Payload::abilities`]: takes repair symbols.
const TAKES_REPAIR: u8 = 1;
/// The same: takes symbols over retransmissions.
const TAKES_PARITY: u8 = 2;

impl Payload {
    const LEN: usize = 20;
    const COUNTER_MAX: u64 = u64::MAX >> 8;

    fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.instance.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.index.to_be_bytes());
        bytes[12..].copy_from_slice(&(u64::from(self.abilities) << 56 | self.counter).to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        // Longer payloads are of later minor versions.
        let bytes = bytes.first_chunk::<{ Self::LEN }>()?;
        let index = u32::from_be_bytes(bytes[8..12].try_into().ok()?);
        (index <= INDEX_MASK).then_some(Payload {
            instance: u64::from_be_bytes(bytes[..8].try_into().ok()?),
            index,
            abilities: bytes[12],
            counter: u64::from_be_bytes(bytes[12..].try_into().ok()?) & Self::COUNTER_MAX,
        })
    }
}

/// What an opened datagram or a finished handshake says about the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Continuity {
    /// The session we have goes on.
    Same,
    /// The peer is new to us, or started anew: a new session begins.
    New,
}

/// All keys shared with one peer.
#[derive(Debug)]
pub(super) struct Keyring {
    local: PrivateKey,
    /// The peer's key, and while it is being changed its next one as well.
    peers: Vec<PublicKey>,
    /// Which of them the session was agreed with.
    peer: usize,
    psk: Option<PresharedKey>,
    mac_in: Mac1Key,
    /// Initiations since the last one that was answered.
    attempts: usize,
    /// The responder's cookie for our address, and since when we have it.
    cookie: Option<(Instant, Cookie)>,
    rng: ChaCha20Rng,
    instance: u64,
    /// What we tell the peer that we take.
    abilities: u8,
    counter: u64,
    peer_counter: Option<(u64, u64)>,
    pending: Option<Pending>,
    /// Oldest first; unconfirmed ones included.
    epochs: Vec<Epoch>,
    /// `local_index` of the epoch we seal with.
    sending: Option<u32>,
    peer_instance: Option<u64>,
}

impl Keyring {
    pub(super) fn new(config: &ChannelConfig, seed: [u8; 32]) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let local = PrivateKey(config.private_key);
        let peers = std::iter::once(config.peer_public_key).chain(config.peer_next_public_key).map(PublicKey);
        Keyring {
            mac_in: Mac1Key::new(&local.public_key()),
            peers: peers.collect(),
            peer: 0,
            attempts: 0,
            cookie: None,
            psk: config.preshared_key.map(PresharedKey),
            instance: rng.next_u64(),
            abilities: if config.repair_symbols { TAKES_REPAIR | TAKES_PARITY } else { 0 },
            counter: 0,
            peer_counter: None,
            pending: None,
            epochs: Vec::new(),
            sending: None,
            peer_instance: None,
            local,
            rng,
        }
    }

    /// Whether streams we open have even numbers: fixed by the keys, so that both sides agree without a word.
    pub(super) fn opens_even(&self) -> bool {
        self.local.public_key().0 < self.peers[self.peer].0
    }

    pub(super) fn rng(&mut self) -> &mut ChaCha20Rng {
        &mut self.rng
    }

    pub(super) fn can_seal(&self) -> bool {
        self.sending.is_some()
    }

    /// Whether the peer takes repair symbols, as it said in the handshake.
    pub(super) fn peer_takes_repair(&self) -> bool {
        self.peer_is_able(TAKES_REPAIR)
    }

    /// Whether it takes those over retransmissions as well.
    pub(super) fn peer_takes_parity(&self) -> bool {
        self.peer_is_able(TAKES_PARITY)
    }

    fn peer_is_able(&self, ability: u8) -> bool {
        let used = self.epochs.iter().find(|epoch| Some(epoch.local_index) == self.sending);
        used.is_some_and(|epoch| epoch.peer_abilities & ability != 0)
    }

    fn fresh_index(&mut self) -> u32 {
        loop {
            let index = self.rng.next_u32() & INDEX_MASK;
            let taken = self.epochs.iter().any(|epoch| epoch.local_index == index);
            if !taken && self.pending.as_ref().is_none_or(|pending| pending.index != index) {
                return index;
            }
        }
    }

    fn fresh_seed(&mut self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        seed
    }

    /// Appends an initiation; it replaces one still unanswered. In turn, until one is answered, they are to each key
    /// that the peer may have, in each version that it may speak.
    pub(super) fn initiate(&mut self, now: Instant, out: &mut Vec<u8>) {
        let peer = (self.peer + self.attempts) % self.peers.len();
        let version = VERSIONS[self.attempts / self.peers.len() % VERSIONS.len()];
        self.attempts += 1;
        let index = self.fresh_index();
        self.counter += 1;
        let (instance, abilities, counter) = (self.instance, self.abilities, self.counter);
        let payload = Payload { instance, index, abilities, counter }.encode();
        let seed = self.fresh_seed();
        let (initiation, noise) =
            Initiation::new(&self.local, &self.peers[peer], self.psk.as_ref(), seed, PROLOGUE, &payload);
        let start = out.len();
        wire::encode_initiation(version, &noise, out);
        let mac1 = Mac1Key::new(&self.peers[peer]).tag(&out[start..]);
        out.extend_from_slice(&mac1);
        let cookie = self.cookie.filter(|(since, _)| now - *since < COOKIE_LIFETIME);
        let mac2 = cookie.map_or([0; MAC_LEN], |(_, cookie)| cookie.tag(&out[start..]));
        out.extend_from_slice(&mac2);
        self.pending = Some(Pending { initiation, index, version, peer, mac1, with_cookie: cookie.is_some() });
    }

    /// Takes the responder's cookie: `None` where it is not an answer to our initiation, else whether the initiation
    /// should be repeated with it at once.
    pub(super) fn on_cookie(
        &mut self,
        now: Instant,
        masked: [u8; MAC_LEN],
        covered: &[u8],
        mac: &[u8],
    ) -> Option<bool> {
        let pending = self.pending.as_ref()?;
        let key = Mac1Key::new(&self.peers[pending.peer]);
        if !key.verify_answer(covered, &pending.mac1, mac) {
            return None;
        }
        // Once: a responder whose cookie does not help it must not have us send initiations in a circle.
        let at_once = !pending.with_cookie;
        self.cookie = Some((now, key.mask(Cookie(masked), &pending.mac1)));
        // The same key and version again.
        self.attempts = self.attempts.saturating_sub(1);
        Some(at_once)
    }

    /// Answers an initiation that was admitted: appends the response. False where it is not authentic or old.
    pub(super) fn on_initiation(
        &mut self,
        now: Instant,
        initiation: &InitiationDatagram<'_>,
        session_expects: u64,
        out: &mut Vec<u8>,
    ) -> bool {
        let index = self.fresh_index();
        let (instance, abilities) = (self.instance, self.abilities);
        let reply = Payload { instance, index, abilities, counter: 0 }.encode();
        let seed = self.fresh_seed();
        let peer_counter = self.peer_counter;
        let mut theirs = None;
        let noise = initiation.noise;
        let answer = respond(&self.local, &self.peers, self.psk.as_ref(), seed, PROLOGUE, noise, |payload| {
            let payload = Payload::decode(payload)?;
            if peer_counter
                .is_some_and(|(instance, counter)| instance == payload.instance && counter >= payload.counter)
            {
                return None;
            }
            theirs = Some(payload);
            Some(reply.to_vec())
        });
        let (Ok(answer), Some(theirs)) = (answer, theirs) else { return false };
        self.peer_counter = Some((theirs.instance, theirs.counter));
        let expected = if self.peer_instance == Some(theirs.instance) { session_expects } else { 0 };
        self.insert(Epoch {
            local_index: index,
            remote_index: theirs.index,
            seal: answer.keys.seal,
            open: answer.keys.open,
            replay: ReplayWindow::new(),
            expected,
            established: now,
            sealed: 0,
            initiator: false,
            peer_instance: theirs.instance,
            peer_abilities: theirs.abilities,
            peer: answer.peer,
        });
        let start = out.len();
        wire::encode_response(initiation.version, theirs.index, &answer.message, out);
        let mac1 = Mac1Key::new(&self.peers[answer.peer]).tag(&out[start..]);
        out.extend_from_slice(&mac1);
        true
    }

    /// Finishes our handshake: from now on we seal with the new epoch. `None` where it is not authentic.
    pub(super) fn on_response(
        &mut self,
        now: Instant,
        (version, receiver): (u8, u32),
        (noise, covered, mac1): (&[u8], &[u8], &[u8]),
        session_expects: u64,
    ) -> Option<Continuity> {
        let pending =
            self.pending.as_mut().filter(|pending| pending.index == receiver && pending.version == version)?;
        if !self.mac_in.verify(covered, mac1) {
            return None;
        }
        let (keys, payload) = pending.initiation.finish(noise).ok()?;
        let theirs = Payload::decode(&payload)?;
        let peer = pending.peer;
        self.pending = None;
        self.attempts = 0;
        let same = self.peer_instance == Some(theirs.instance);
        self.insert(Epoch {
            local_index: receiver,
            remote_index: theirs.index,
            seal: keys.seal,
            open: keys.open,
            replay: ReplayWindow::new(),
            expected: if same { session_expects } else { 0 },
            established: now,
            sealed: 0,
            initiator: true,
            peer_instance: theirs.instance,
            peer_abilities: theirs.abilities,
            peer,
        });
        Some(self.use_epoch(receiver, theirs.instance))
    }

    fn insert(&mut self, epoch: Epoch) {
        if self.epochs.len() >= EPOCHS_MAX {
            // The one in use stays, whatever an attacker replays.
            let sending = self.sending;
            let victim = self.epochs.iter().position(|old| Some(old.local_index) != sending).unwrap_or(0);
            self.epochs.remove(victim);
        }
        self.epochs.push(epoch);
    }

    fn use_epoch(&mut self, local_index: u32, peer_instance: u64) -> Continuity {
        self.sending = Some(local_index);
        let used = self.epochs.iter().find(|epoch| epoch.local_index == local_index);
        self.peer = used.map_or(self.peer, |epoch| epoch.peer);
        if self.peer_instance.replace(peer_instance) == Some(peer_instance) {
            return Continuity::Same;
        }
        self.epochs.retain(|epoch| epoch.peer_instance == peer_instance);
        Continuity::New
    }

    /// Opens a sealed datagram in place: its packet number, plaintext, and whether a new session begins with it.
    pub(super) fn open<'buf>(
        &mut self,
        receiver: u32,
        number: u32,
        header: [u8; wire::SEALED_HEADER_LEN],
        body: &'buf mut [u8],
    ) -> Option<(u64, &'buf mut [u8], Continuity)> {
        let epoch = self.epochs.iter_mut().find(|epoch| epoch.local_index == receiver)?;
        let number = wire::expand(number, epoch.expected);
        if !epoch.replay.is_new(number) {
            return None;
        }
        let plaintext = epoch.open.open(number, &header, body).ok()?;
        if !epoch.replay.check_and_set(number) {
            return None;
        }
        epoch.expected = epoch.expected.max(number + 1);
        let (index, instance, confirmed) = (epoch.local_index, epoch.peer_instance, epoch.initiator);
        let newer = self.is_newer(index);
        let continuity = if !confirmed && newer { self.use_epoch(index, instance) } else { Continuity::Same };
        Some((number, plaintext, continuity))
    }

    /// Whether an epoch was made after the one we seal with.
    fn is_newer(&self, local_index: u32) -> bool {
        let place = |index: u32| self.epochs.iter().position(|epoch| epoch.local_index == index);
        match self.sending.and_then(place) {
            Some(sending) => place(local_index).is_some_and(|this| this > sending),
            None => true,
        }
    }

    /// Seals a datagram that stands at `start` in `out`: header room, plaintext, tag room.
    pub(super) fn seal(&mut self, number: u64, datagram: &mut [u8]) {
        let sending = self.sending;
        let Some(epoch) = self.epochs.iter_mut().find(|epoch| Some(epoch.local_index) == sending) else { return };
        epoch.sealed += 1;
        let header = wire::sealed_header(epoch.remote_index, number);
        let (room, body) = datagram.split_at_mut(wire::SEALED_HEADER_LEN);
        room.copy_from_slice(&header);
        epoch.seal.seal(number, &header, body);
    }

    /// When the epoch in use should be replaced by us.
    pub(super) fn rekey_at(&self) -> Option<Instant> {
        let epoch = self.epochs.iter().find(|epoch| Some(epoch.local_index) == self.sending)?;
        let (after, packets) = if epoch.initiator {
            (REKEY_AFTER, REKEY_PACKETS)
        } else {
            (REKEY_AFTER + REKEY_GRACE, REKEY_PACKETS + REKEY_PACKETS / 4)
        };
        Some(if epoch.sealed >= packets { epoch.established } else { epoch.established + after })
    }

    /// Forgets everything shared: the peer said goodbye.
    pub(super) fn forget(&mut self) {
        self.pending = None;
        self.epochs.clear();
        self.sending = None;
        self.peer_instance = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_of_before_there_were_abilities_has_none_and_ours_counts_for_it() {
        // Instance, index and a counter of 8 bytes, as the first appliances wrote and read them.
        let of_before = |instance: u64, index: u32, counter: u64| {
            [&instance.to_be_bytes()[..], &index.to_be_bytes(), &counter.to_be_bytes()].concat()
        };
        let read = Payload::decode(&of_before(7, 9, 12)).unwrap();
        assert_eq!((read.instance, read.index, read.abilities, read.counter), (7, 9, 0, 12));
        let counters = [1, 2, 300].map(|counter| {
            let ours = Payload { instance: 7, index: 9, abilities: TAKES_REPAIR, counter }.encode();
            let read = Payload::decode(&ours).unwrap();
            assert_eq!((read.abilities, read.counter), (TAKES_REPAIR, counter));
            assert_eq!(ours[..12], of_before(7, 9, 0)[..12]);
            u64::from_be_bytes(ours[12..].try_into().unwrap())
        });
        assert!(counters.is_sorted(), "{counters:?}");
        assert!(Payload::decode(&of_before(7, INDEX_MASK + 1, 1)).is_none());
        assert!(Payload::decode(&of_before(7, 9, 1)[..19]).is_none());
        assert!(Payload::decode(&[of_before(7, 9, 1), vec![1]].concat()).is_some(), "of later");
    }
}
