//! Sealing and opening datagrams in place: AES-256-GCM under the keys of one epoch.
//!
//! The nonce is four zero bytes and the 64-bit packet counter, big endian (Noise section 12.3 for AESGCM). Each
//! direction has its own key, so a counter is used at most once per key as long as the caller never repeats one.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::keys::KEY_LEN;

/// Bytes the authentication tag adds at the end of each datagram.
pub const TAG_LEN: usize = 16;

/// Datagrams one key may seal: RFC 9001 section 6.6, AEAD_AES_256_GCM, any datagram size. Rekey well before.
pub const CONFIDENTIALITY_LIMIT: u64 = 1 << 23;

/// Forged datagrams one key may have refused before it must go: RFC 9001 section 6.6, AEAD_AES_256_GCM.
pub const INTEGRITY_LIMIT: u64 = 1 << 52;

/// The datagram was not sealed by the peer with this key, counter and header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the datagram is not authentic")]
pub struct NotAuthentic;

/// Both directions' keys of one epoch.
#[derive(Debug)]
pub struct SessionKeys {
    /// For what we send.
    pub seal: SealingKey,
    /// For what the peer sends.
    pub open: OpeningKey,
}

/// Seals our datagrams.
pub struct SealingKey(LessSafeKey);

/// Opens the peer's datagrams.
pub struct OpeningKey(LessSafeKey);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealingKey(redacted)")
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpeningKey(redacted)")
    }
}

fn key(bytes: &[u8; KEY_LEN]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).expect("invariant: AES-256 keys are 32 bytes"))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[NONCE_LEN - 8..].copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl SealingKey {
    pub(super) fn new(bytes: &[u8; KEY_LEN]) -> Self {
        SealingKey(key(bytes))
    }

    /// Seals `buf` in place: plaintext, then [`TAG_LEN`] bytes of room that the tag fills. `aad` is authenticated only.
    ///
    /// The caller never repeats a `counter` under one key: that would give away both plaintexts and the key's
    /// authentication secret.
    ///
    /// # Panics
    /// When `buf` has no room for the tag, the caller's bug.
    pub fn seal(&self, counter: u64, aad: &[u8], buf: &mut [u8]) {
        let plaintext_len = buf.len().checked_sub(TAG_LEN).expect("invariant: room for the tag");
        let (plaintext, room) = buf.split_at_mut(plaintext_len);
        let tag = self.0.seal_in_place_separate_tag(nonce(counter), Aad::from(aad), plaintext);
        room.copy_from_slice(tag.expect("invariant: a datagram is below AES-GCM's 64 GiB").as_ref());
    }
}

impl OpeningKey {
    pub(super) fn new(bytes: &[u8; KEY_LEN]) -> Self {
        OpeningKey(key(bytes))
    }

    /// Opens `buf` (ciphertext and tag) in place and returns the plaintext. On an error `buf` holds nothing of use.
    pub fn open<'buf>(&self, counter: u64, aad: &[u8], buf: &'buf mut [u8]) -> Result<&'buf mut [u8], NotAuthentic> {
        self.0.open_in_place(nonce(counter), Aad::from(aad), buf).map_err(|_| NotAuthentic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (SealingKey, OpeningKey) {
        (SealingKey::new(&[0; KEY_LEN]), OpeningKey::new(&[0; KEY_LEN]))
    }

    /// The Galois/Counter Mode of Operation (McGrew, Viega), test case 14: zero key, zero nonce, one zero block.
    #[test]
    fn the_cipher_is_aes_256_gcm_with_the_counter_as_nonce() {
        let (seal, _) = pair();
        let mut buf = [0; 32];
        seal.seal(0, b"", &mut buf);
        let expected = 0xcea7_403d_4d60_6b6e_074e_c5d3_baf3_9d18_u128.to_be_bytes();
        assert_eq!(buf[..16], expected);
        assert_eq!(buf[16..], 0xd0d1_c8a7_9999_6bf0_265b_98b5_d48a_b919_u128.to_be_bytes());
    }

    #[test]
    fn what_was_sealed_opens_only_with_the_same_counter_header_and_bytes() {
        let (seal, open) = pair();
        for len in [0, 1, 15, 16, 17, 1400, 9000] {
            let plain: Vec<u8> = (0..len).map(|at| at as u8).collect();
            let mut sealed = plain.clone();
            sealed.resize(len + TAG_LEN, 0);
            seal.seal(u64::MAX - 3, b"header", &mut sealed);
            assert_eq!(open.open(u64::MAX - 3, b"header", &mut sealed.clone()).unwrap(), plain);
            assert!(open.open(u64::MAX - 4, b"header", &mut sealed.clone()).is_err());
            assert!(open.open(u64::MAX - 3, b"Header", &mut sealed.clone()).is_err());
            for at in [0, sealed.len() / 2, sealed.len() - 1] {
                let mut mutated = sealed.clone();
                mutated[at] ^= 1;
                assert!(open.open(u64::MAX - 3, b"header", &mut mutated).is_err());
            }
            let cut = sealed.len() - 1;
            assert!(open.open(u64::MAX - 3, b"header", &mut sealed[..cut]).is_err());
        }
    }

    #[test]
    fn a_datagram_shorter_than_its_tag_is_refused() {
        let (_, open) = pair();
        for len in 0..TAG_LEN {
            assert_eq!(open.open(0, b"", &mut vec![0; len]), Err(NotAuthentic));
        }
    }

    #[test]
    fn keys_stay_out_of_debug_output() {
        let (seal, open) = pair();
        assert_eq!(
            format!("{:?}", SessionKeys { seal, open }),
            "SessionKeys { seal: SealingKey(redacted), open: OpeningKey(redacted) }"
        );
    }
}
