//! What a responder checks before it spends a Diffie-Hellman: `mac1` always, a cookie when it is under load.
//!
//! After WireGuard (Donenfeld, 2017, section 5.4.4 and 5.4.7): `mac1` is keyed with the responder's public key, so a
//! sender that does not know whom it talks to costs one hash. Under load the responder answers with a [`Cookie`], made
//! from the sender's address and a secret; only who receives at that address can authenticate the next message with it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ring::digest::{self, SHA256};
use ring::hmac::{self, HMAC_SHA256};

use super::keys::PublicKey;
use crate::units::Instant;

/// Bytes of a `mac1`, of a cookie and of a message's authentication with a cookie: HMAC-SHA-256, cut.
pub const MAC_LEN: usize = 16;

/// A cookie is accepted for at least this long, and at most for twice as long.
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(120);

/// Separates this use of the public key from any other.
const MAC1_LABEL: &[u8] = b"longhaul mac1 v1";
/// Separates the hiding of a cookie from the authentication of messages.
const MASK_LABEL: &[u8] = b"longhaul cookie mask v1";

fn mac(key: &hmac::Key, parts: &[&[u8]]) -> [u8; MAC_LEN] {
    let mut context = hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    let tag = context.sign();
    tag.as_ref()[..MAC_LEN].try_into().expect("invariant: SHA-256 is longer than MAC_LEN")
}

/// Takes the same time wherever they differ. The fold has no early exit, and `black_box` keeps it so.
fn equal(one: &[u8; MAC_LEN], other: &[u8]) -> bool {
    other.len() == MAC_LEN && {
        let difference = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

/// The key of `mac1` towards one responder.
#[derive(Clone, Debug)]
pub struct Mac1Key(hmac::Key);

impl Mac1Key {
    /// The initiator makes it from the peer's public key, the responder from its own.
    pub fn new(responder: &PublicKey) -> Self {
        let mut context = digest::Context::new(&SHA256);
        context.update(MAC1_LABEL);
        context.update(&responder.0);
        Mac1Key(hmac::Key::new(HMAC_SHA256, context.finish().as_ref()))
    }

    /// The `mac1` of `message`.
    pub fn tag(&self, message: &[u8]) -> [u8; MAC_LEN] {
        mac(&self.0, &[message])
    }

    /// Whether `tag` is the `mac1` of `message`.
    pub fn verify(&self, message: &[u8], tag: &[u8]) -> bool {
        equal(&self.tag(message), tag)
    }

    /// Hides a cookie on its way to whoever sent the request with this `mac1`, or uncovers it again: for a bystander
    /// who does not know the responder it is noise.
    pub fn mask(&self, cookie: Cookie, mac1: &[u8]) -> Cookie {
        let mask = mac(&self.0, &[MASK_LABEL, mac1]);
        Cookie(std::array::from_fn(|at| cookie.0[at] ^ mask[at]))
    }

    /// The tag of an answer to the request with this `mac1`: nobody who has not seen the request can make it.
    pub fn answer_tag(&self, answer: &[u8], mac1: &[u8]) -> [u8; MAC_LEN] {
        mac(&self.0, &[answer, mac1])
    }

    /// Whether `tag` is [`Mac1Key::answer_tag`] of `answer`.
    pub fn verify_answer(&self, answer: &[u8], mac1: &[u8], tag: &[u8]) -> bool {
        equal(&self.answer_tag(answer, mac1), tag)
    }
}

/// Proof that its holder receives at the address it was made for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cookie(pub [u8; MAC_LEN]);

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(redacted)")
    }
}

impl Cookie {
    /// Authenticates `message` without showing the cookie (WireGuard's `mac2`).
    pub fn tag(&self, message: &[u8]) -> [u8; MAC_LEN] {
        mac(&hmac::Key::new(HMAC_SHA256, &self.0), &[message])
    }
}

/// Makes and checks cookies without remembering any of them.
///
/// The secret of each period of [`COOKIE_LIFETIME`] is derived from one seed, so rotation needs no timer; a cookie is
/// good in the period it was made in and in the next.
#[derive(Clone, Debug)]
pub struct CookieSecret {
    key: hmac::Key,
}

impl CookieSecret {
    /// `seed`: from the OS in the appliance, new with each start.
    pub fn new(seed: [u8; 32]) -> Self {
        CookieSecret { key: hmac::Key::new(HMAC_SHA256, &seed) }
    }

    /// The cookie for whoever receives at `address`.
    pub fn cookie(&self, now: Instant, address: SocketAddr) -> Cookie {
        self.of_period(period(now), address)
    }

    /// Whether `tag` was made over `message` with a cookie that is still good for `address`.
    pub fn verify(&self, now: Instant, address: SocketAddr, message: &[u8], tag: &[u8]) -> bool {
        let current = period(now);
        let previous = current.checked_sub(1);
        [Some(current), previous]
            .into_iter()
            .flatten()
            .any(|period| equal(&self.of_period(period, address).tag(message), tag))
    }

    fn of_period(&self, period: u64, address: SocketAddr) -> Cookie {
        // An IPv4 address and its mapped form are one place; flow label and scope are not the sender's identity.
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Cookie(mac(&self.key, &[&period.to_be_bytes(), &ip.octets(), &address.port().to_be_bytes()]))
    }
}

fn period(now: Instant) -> u64 {
    now.as_nanos() / COOKIE_LIFETIME.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac1_holds_for_its_message_and_responder_only() {
        let key = Mac1Key::new(&PublicKey([1; 32]));
        let tag = key.tag(b"message");
        assert!(key.verify(b"message", &tag));
        assert!(!key.verify(b"massage", &tag));
        assert!(!Mac1Key::new(&PublicKey([2; 32])).verify(b"message", &tag));
        for at in 0..MAC_LEN {
            let mut mutated = tag;
            mutated[at] ^= 0x80;
            assert!(!key.verify(b"message", &mutated));
            assert!(!key.verify(b"message", &tag[..at]));
        }
    }

    /// RFC 4231 test case 2.
    #[test]
    fn macs_are_hmac_sha_256_cut_to_sixteen_bytes() {
        let key = hmac::Key::new(HMAC_SHA256, b"Jefe");
        let expected = 0x5bdc_c146_bf60_754e_6a04_2426_0895_75c7_u128.to_be_bytes();
        assert_eq!(mac(&key, &[b"what do ya want ", b"for nothing?"]), expected);
    }

    #[test]
    fn a_masked_cookie_is_uncovered_by_who_knows_request_and_responder() {
        let (key, cookie) = (Mac1Key::new(&PublicKey([1; 32])), Cookie([7; MAC_LEN]));
        let masked = key.mask(cookie, b"mac1");
        assert_ne!(masked, cookie);
        assert_eq!(key.mask(masked, b"mac1"), cookie);
        assert_ne!(key.mask(masked, b"mac2"), cookie);
        assert_ne!(Mac1Key::new(&PublicKey([2; 32])).mask(masked, b"mac1"), cookie);
        let tag = key.answer_tag(b"answer", b"mac1");
        assert!(key.verify_answer(b"answer", b"mac1", &tag) && !key.verify_answer(b"answer", b"mac2", &tag));
    }

    #[test]
    fn a_cookie_is_good_for_one_address_and_for_its_lifetime() {
        let secret = CookieSecret::new([5; 32]);
        let address: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let made = Instant::from_millis(1000) + COOKIE_LIFETIME * 7;
        let tag = secret.cookie(made, address).tag(b"message");
        assert!(secret.verify(made, address, b"message", &tag));
        assert!(secret.verify(made + COOKIE_LIFETIME, address, b"message", &tag));
        assert!(!secret.verify(made + COOKIE_LIFETIME * 2, address, b"message", &tag));
        assert!(!secret.verify(made - COOKIE_LIFETIME, address, b"message", &tag));
        assert!(!secret.verify(made, "192.0.2.1:5001".parse().unwrap(), b"message", &tag));
        assert!(!secret.verify(made, "192.0.2.2:5000".parse().unwrap(), b"message", &tag));
        assert!(!secret.verify(made, address, b"another", &tag));
        assert!(!CookieSecret::new([6; 32]).verify(made, address, b"message", &tag));
        assert!(secret.verify(made, "[::ffff:192.0.2.1]:5000".parse().unwrap(), b"message", &tag));
    }
}
