//! Which initiations are worth a Diffie-Hellman: version, load, cookies.
//!
//! After WireGuard (Donenfeld, 2017, section 5.3): a wrong `mac1` gets silence. While initiations come faster than
//! [`CALM_PER_SECOND`], only a sender that has shown with a cookie that it receives at its address is answered in full;
//! the others get a cookie, which is shorter than what they sent, so nothing is amplified. The address where the peer
//! is known to be has a budget of its own, so that a flood from elsewhere, cookies and all, cannot keep it out.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::wire::{self, InitiationDatagram, VERSIONS};
use crate::crypto::{CookieSecret, Mac1Key, PublicKey};
use crate::units::Instant;

/// Initiations per second, of all senders together, up to which each is answered without a cookie. Two appliances that
/// cannot reach each other well send four.
const CALM_PER_SECOND: u32 = 10;
/// Answers per second at most, for the peer's known address and again for all others: each costs two Diffie-Hellman
/// operations, about 0.1 ms together.
const ANSWERS_PER_SECOND: u32 = 20;
/// Cookies waiting to leave at most; beyond, none is made.
const COOKIES_QUEUED_MAX: usize = 64;
const SECOND: Duration = Duration::from_secs(1);

/// Events counted per second.
#[derive(Debug)]
struct PerSecond {
    began: Instant,
    count: u32,
    last: u32,
}

impl PerSecond {
    fn new(now: Instant) -> Self {
        PerSecond { began: now, count: 0, last: 0 }
    }

    fn advance(&mut self, now: Instant) {
        let elapsed = now - self.began;
        if elapsed >= SECOND {
            self.last = if elapsed < SECOND * 2 { self.count } else { 0 };
            (self.began, self.count) = (now, 0);
        }
    }
}

/// What admission has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct AdmissionCounters {
    /// Initiations by somebody who knows our public key, of any version.
    pub(super) initiations: u64,
    /// Answered with a cookie.
    pub(super) cookies_sent: u64,
    /// Of a version we do not speak.
    pub(super) other_version: u64,
    /// Which version that was, the last time.
    pub(super) version_seen: Option<u8>,
}

/// What to do about an initiation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    /// Worth the Diffie-Hellman.
    Answer,
    /// Silence, or a cookie that waits in [`Doorkeeper::poll_cookie`].
    Refuse,
}

/// Judges initiations.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    mac: Mac1Key,
    cookies: CookieSecret,
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    arrived: PerSecond,
    answered_known: PerSecond,
    answered_others: PerSecond,
    counters: AdmissionCounters,
}

impl Doorkeeper {
    /// `own`: our public key; `seed`: secret, new with each start.
    pub(super) fn new(now: Instant, own: &PublicKey, seed: [u8; 32]) -> Self {
        Doorkeeper {
            mac: Mac1Key::new(own),
            cookies: CookieSecret::new(seed),
            waiting: VecDeque::new(),
            arrived: PerSecond::new(now),
            answered_known: PerSecond::new(now),
            answered_others: PerSecond::new(now),
            counters: AdmissionCounters::default(),
        }
    }

    pub(super) fn counters(&self) -> AdmissionCounters {
        self.counters
    }

    /// Judges an initiation; `known`: it is from where the peer is, or is configured to be.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        from: SocketAddr,
        known: bool,
        initiation: &InitiationDatagram<'_>,
    ) -> Admission {
        if !self.mac.verify(initiation.covered, initiation.mac1) {
            return Admission::Refuse;
        }
        self.counters.initiations += 1;
        if !VERSIONS.contains(&initiation.version) {
            self.note_version(initiation.version);
            return Admission::Refuse;
        }
        self.arrived.advance(now);
        self.arrived.count += 1;
        let under_load = self.arrived.count.max(self.arrived.last) > CALM_PER_SECOND;
        if under_load && !self.cookies.verify(now, from, initiation.covered2, initiation.mac2) {
            self.put_cookie(now, from, initiation);
            return Admission::Refuse;
        }
        let answered = if known { &mut self.answered_known } else { &mut self.answered_others };
        answered.advance(now);
        if answered.count >= ANSWERS_PER_SECOND {
            return Admission::Refuse;
        }
        answered.count += 1;
        Admission::Answer
    }

    fn note_version(&mut self, version: u8) {
        self.counters.other_version += 1;
        // Once, not with every attempt: the sender repeats itself twice a second.
        if self.counters.version_seen.replace(version) != Some(version) {
            tracing::warn!(
                theirs = version,
                ours = VERSIONS[0],
                "the peer speaks another version of the channel's protocol; update the older of the two appliances"
            );
        }
    }

    fn put_cookie(&mut self, now: Instant, from: SocketAddr, initiation: &InitiationDatagram<'_>) {
        if self.waiting.len() >= COOKIES_QUEUED_MAX {
            return;
        }
        let masked = self.mac.mask(self.cookies.cookie(now, from), initiation.mac1);
        let mut datagram = Vec::with_capacity(wire::COOKIE_LEN);
        wire::encode_cookie(initiation.version, &masked.0, &mut datagram);
        let tag = self.mac.answer_tag(&datagram, initiation.mac1);
        datagram.extend_from_slice(&tag);
        self.counters.cookies_sent += 1;
        self.waiting.push_back((from, datagram));
    }

    /// The next cookie to send, and where.
    pub(super) fn poll_cookie(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.waiting.pop_front()
    }

    pub(super) fn has_cookies(&self) -> bool {
        !self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::wire::Datagram;
    use crate::crypto::{Cookie, MAC_LEN};

    const OWN: PublicKey = PublicKey([3; 32]);

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, last], 4600))
    }

    fn keeper() -> Doorkeeper {
        Doorkeeper::new(Instant::ZERO, &OWN, [9; 32])
    }

    /// An initiation that only its macs make credible.
    fn initiation(version: u8, cookie: Option<Cookie>) -> Vec<u8> {
        let mut bytes = Vec::new();
        wire::encode_initiation(version, &[5; 116], &mut bytes);
        let mac1 = Mac1Key::new(&OWN).tag(&bytes);
        bytes.extend_from_slice(&mac1);
        let mac2 = cookie.map_or([0; MAC_LEN], |cookie| cookie.tag(&bytes));
        bytes.extend_from_slice(&mac2);
        bytes
    }

    fn judge(keeper: &mut Doorkeeper, now: Instant, from: SocketAddr, known: bool, bytes: &[u8]) -> Admission {
        let mut bytes = bytes.to_vec();
        let Some(Datagram::Initiation(parsed)) = wire::parse_datagram(&mut bytes) else { panic!("an initiation") };
        keeper.judge(now, from, known, &parsed)
    }

    fn flood(keeper: &mut Doorkeeper, now: Instant, count: u32) -> usize {
        let answered = |_| judge(keeper, now, address(66), false, &initiation(1, None)) == Admission::Answer;
        (0..count).map(answered).filter(|answered| *answered).count()
    }

    #[test]
    fn a_calm_appliance_asks_for_no_cookie_and_a_wrong_mac1_gets_silence() {
        let mut keeper = keeper();
        assert_eq!(flood(&mut keeper, Instant::ZERO, CALM_PER_SECOND), CALM_PER_SECOND as usize);
        let mut forged = initiation(1, None);
        forged[40] ^= 1;
        for _ in 0..1000 {
            assert_eq!(judge(&mut keeper, Instant::ZERO, address(1), true, &forged), Admission::Refuse);
        }
        assert!(!keeper.has_cookies());
        assert_eq!(keeper.counters().initiations, u64::from(CALM_PER_SECOND), "forged ones are no load");
    }

    #[test]
    fn under_load_only_a_sender_with_a_cookie_for_its_address_is_answered() {
        let (mut keeper, now) = (keeper(), Instant::from_millis(10));
        flood(&mut keeper, now, 1000);
        while keeper.poll_cookie().is_some() {}
        let bare = initiation(1, None);
        assert_eq!(judge(&mut keeper, now, address(1), true, &bare), Admission::Refuse);
        let (to, answer) = keeper.poll_cookie().expect("a cookie");
        assert!(to == address(1) && answer.len() < bare.len() / 4, "{} bytes for {}", answer.len(), bare.len());
        let mut answer = answer;
        let Some(Datagram::Cookie { masked, covered, mac }) = wire::parse_datagram(&mut answer) else {
            panic!("a cookie")
        };
        let (key, mac1) = (Mac1Key::new(&OWN), &bare[bare.len() - 2 * MAC_LEN..][..MAC_LEN]);
        assert!(key.verify_answer(covered, mac1, mac));
        let cookie = key.mask(Cookie(masked), mac1);
        let with = initiation(1, Some(cookie));
        assert_eq!(judge(&mut keeper, now, address(2), true, &with), Admission::Refuse, "another address");
        assert_eq!(judge(&mut keeper, now, address(1), true, &with), Admission::Answer);
    }

    #[test]
    fn a_flood_with_cookies_does_not_use_up_the_budget_of_the_peer_s_address() {
        let (mut keeper, now) = (keeper(), Instant::from_millis(10));
        let with = |keeper: &Doorkeeper, from| initiation(1, Some(keeper.cookies.cookie(now, from)));
        let bytes = with(&keeper, address(66));
        let answered =
            (0..1000).filter(|_| judge(&mut keeper, now, address(66), false, &bytes) == Admission::Answer).count();
        assert_eq!(answered, ANSWERS_PER_SECOND as usize);
        let bytes = with(&keeper, address(1));
        assert_eq!(judge(&mut keeper, now, address(1), true, &bytes), Admission::Answer);
    }

    #[test]
    fn load_passes_and_cookies_waiting_are_bounded() {
        let mut keeper = keeper();
        flood(&mut keeper, Instant::ZERO, 10_000);
        assert_eq!(keeper.waiting.len(), COOKIES_QUEUED_MAX);
        let later = Instant::from_millis(1500);
        assert_eq!(flood(&mut keeper, later, 1), 0, "the second before was a flood");
        assert_eq!(flood(&mut keeper, Instant::from_millis(3000), 1), 1);
    }

    #[test]
    fn another_version_is_counted_and_gets_silence() {
        let mut keeper = keeper();
        for _ in 0..100 {
            let bytes = initiation(VERSIONS[0] + 1, None);
            assert_eq!(judge(&mut keeper, Instant::ZERO, address(1), true, &bytes), Admission::Refuse);
        }
        let counters = keeper.counters();
        assert_eq!((counters.other_version, counters.version_seen), (100, Some(VERSIONS[0] + 1)));
        assert!(!keeper.has_cookies());
        let mut forged = initiation(VERSIONS[0] + 2, None);
        forged[40] ^= 1;
        judge(&mut keeper, Instant::ZERO, address(1), true, &forged);
        assert_eq!(keeper.counters().version_seen, Some(VERSIONS[0] + 1), "anybody could have sent that");
    }
}
