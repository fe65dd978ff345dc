//! Static keys and pre-shared keys, and their text form: 32 bytes in base64, as WireGuard writes them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::CryptoRng;
use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};

/// Bytes of every key: X25519 (RFC 7748 section 5) and pre-shared.
pub const KEY_LEN: usize = 32;

/// The text is not a key.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseKeyError {
    /// Not base64 (RFC 4648 section 4, with padding).
    #[error("a key is 44 characters of base64, as `longhaul keygen` prints it; this is not base64")]
    NotBase64,
    /// Base64, but not of [`KEY_LEN`] bytes.
    #[error("a key is 32 bytes in base64 (44 characters); this one has {0} bytes")]
    Length(usize),
}

/// The text itself stays out of the error: it may be most of a secret.
fn parse_key(text: &str) -> Result<[u8; KEY_LEN], ParseKeyError> {
    let bytes = STANDARD.decode(text.trim()).map_err(|_| ParseKeyError::NotBase64)?;
    bytes.try_into().map_err(|bytes: Vec<u8>| ParseKeyError::Length(bytes.len()))
}

/// An appliance's static secret (X25519). Its `Display` is the secret text; its `Debug` is not.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(pub [u8; KEY_LEN]);

impl PrivateKey {
    /// A new key, clamped as RFC 7748 section 5 wants it before use.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; KEY_LEN];
        rng.fill_bytes(&mut bytes);
        bytes[0] &= 0b1111_1000;
        bytes[31] = (bytes[31] & 0b0111_1111) | 0b0100_0000;
        PrivateKey(bytes)
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> PublicKey {
        let mut dh = DefaultResolver.resolve_dh(&DHChoice::Curve25519).expect("invariant: snow is built with X25519");
        dh.set(&self.0);
        PublicKey(dh.pubkey().try_into().expect("invariant: X25519 public keys are 32 bytes"))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

impl fmt::Display for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl FromStr for PrivateKey {
    type Err = ParseKeyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_key(text).map(PrivateKey)
    }
}

/// An appliance's static public key: its identity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; KEY_LEN]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl FromStr for PublicKey {
    type Err = ParseKeyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_key(text).map(PublicKey)
    }
}

/// A secret both appliances share besides their static keys; the default is 32 zero bytes, as in WireGuard.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PresharedKey(pub [u8; KEY_LEN]);

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(redacted)")
    }
}

impl fmt::Display for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl FromStr for PresharedKey {
    type Err = ParseKeyError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_key(text).map(PresharedKey)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;

    fn unhex(text: &str) -> [u8; KEY_LEN] {
        std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
    }

    /// Both pairs of RFC 7748 section 6.1.
    #[test]
    fn public_keys_are_those_of_the_rfc() {
        for (private, public) in [
            (
                "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            ),
            (
                "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
                "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            ),
        ] {
            assert_eq!(PrivateKey(unhex(private)).public_key(), PublicKey(unhex(public)));
        }
    }

    #[test]
    fn a_key_reads_what_it_prints() {
        let private = PrivateKey::generate(&mut ChaCha20Rng::seed_from_u64(1));
        assert_eq!(private.to_string().parse(), Ok(private.clone()));
        assert_eq!(private.public_key().to_string().parse(), Ok(private.public_key()));
        let shared = PresharedKey([7; KEY_LEN]);
        assert_eq!(format!(" {shared}\n").parse(), Ok(shared));
    }

    #[test]
    fn what_is_not_a_key_is_refused_with_the_reason() {
        assert_eq!("".parse::<PublicKey>(), Err(ParseKeyError::Length(0)));
        assert_eq!("AAAA".parse::<PublicKey>(), Err(ParseKeyError::Length(3)));
        assert_eq!("not a key!".parse::<PublicKey>(), Err(ParseKeyError::NotBase64));
        let unpadded = PublicKey([1; KEY_LEN]).to_string().replace('=', "");
        assert_eq!(unpadded.parse::<PublicKey>(), Err(ParseKeyError::NotBase64));
        assert_eq!(STANDARD.encode([0; 33]).parse::<PrivateKey>(), Err(ParseKeyError::Length(33)));
    }

    #[test]
    fn secrets_stay_out_of_debug_output() {
        let private = PrivateKey([0x5a; KEY_LEN]);
        assert_eq!(format!("{private:?}"), "PrivateKey(redacted)");
        assert_eq!(format!("{:?}", PresharedKey([0x5a; KEY_LEN])), "PresharedKey(redacted)");
    }

    #[test]
    fn generated_keys_differ_and_are_clamped() {
        let mut rng = ChaCha20Rng::seed_from_u64(2);
        let (one, two) = (PrivateKey::generate(&mut rng), PrivateKey::generate(&mut rng));
        assert_ne!(one, two);
        for key in [one, two] {
            assert_eq!((key.0[0] & 7, key.0[31] >> 6), (0, 1));
        }
    }
}
