//! Key files: reading, permissions, making.
//!
//! A key file holds one key in base64 and a line end, as `longhaul keygen` writes it. It is never printed.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rand::rngs::SysRng;
use rand::{SeedableRng as _, TryRng as _};
use rand_chacha::ChaCha20Rng;

use super::ChannelSettings;
use super::report::{Findings, Place};
use crate::crypto::{ParseKeyError, PresharedKey, PrivateKey, PublicKey};

/// More than any key file; keeps a wrong path from being read as a whole.
const FILE_LEN_MAX: u64 = 4096;

/// Something is wrong with a key file.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The operating system refused to open or read it.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not hold a key.
    #[error("{}: {source}", path.display())]
    NotAKey {
        /// As given.
        path: PathBuf,
        /// Why.
        source: ParseKeyError,
    },
    /// A new key was not written over an old one.
    #[error("{} exists and is left as it is; delete it first if its key shall be given up", .0.display())]
    Exists(PathBuf),
    /// The operating system refused to write it.
    #[error("cannot write {}: {source}", path.display())]
    Unwritable {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// The keys of one appliance.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    pub(super) private: PrivateKey,
    pub(super) preshared: Option<PresharedKey>,
}

/// Where the file speaks of keys.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyPlaces {
    pub(super) private_key_file: Place,
    pub(super) peer_public_key: Place,
    pub(super) preshared_key_file: Place,
}

/// What an absent key file means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Strictness {
    /// The appliance starts: an error.
    Run,
    /// The file is looked at, perhaps on another machine: a warning.
    Check,
}

/// Reads the private key from a file.
pub fn read_private_key(path: &Path) -> Result<PrivateKey, KeyFileError> {
    read_key(path).map(|(key, _)| key)
}

/// Makes a new private key in a new file that only its owner can read, and returns the public key. A missing
/// directory is made, its parents are not.
pub fn create_private_key(path: &Path) -> Result<PublicKey, KeyFileError> {
    let unwritable = |source: std::io::Error| match source.kind() {
        ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
        _ => KeyFileError::Unwritable { path: path.to_owned(), source },
    };
    let mut seed = [0; 32];
    SysRng.try_fill_bytes(&mut seed).map_err(|error| unwritable(std::io::Error::other(error)))?;
    let mut rng = ChaCha20Rng::from_seed(seed);
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
        std::fs::create_dir(parent).map_err(unwritable)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(unwritable)?;
    let key = PrivateKey::generate(&mut rng);
    let written = file.write_all(format!("{key}\n").as_bytes()).and_then(|()| file.sync_all());
    if let Err(source) = written {
        // Half a key must not stand in the way of the next attempt; that the removal fails too changes nothing.
        let _ = std::fs::remove_file(path);
        return Err(KeyFileError::Unwritable { path: path.to_owned(), source });
    }
    Ok(key.public_key())
}

/// The key and the file's permission bits.
fn read_key<K: FromStr<Err = ParseKeyError>>(path: &Path) -> Result<(K, u32), KeyFileError> {
    let unreadable = |source| KeyFileError::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode() & 0o777;
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    // What is not UTF-8 is not base64 either, and is refused as such.
    let key = String::from_utf8_lossy(&bytes).trim().parse();
    key.map(|key| (key, mode)).map_err(|source| KeyFileError::NotAKey { path: path.to_owned(), source })
}

/// Reads the keys the settings name; `None` when they are not all there and right.
pub(super) fn read(
    channel: &ChannelSettings,
    places: &KeyPlaces,
    strictness: Strictness,
    findings: &mut Findings,
) -> Option<Keys> {
    let keygen =
        &format!("make it there with `longhaul keygen --private-key-file {}`", channel.private_key_file.display());
    let private: Option<PrivateKey> =
        read_checked(&channel.private_key_file, &places.private_key_file, strictness, keygen, findings);
    if private.as_ref().is_some_and(|private| private.public_key() == channel.peer_public_key) {
        findings.error(
            &places.peer_public_key,
            "is this appliance's own public key; write the one that `longhaul keygen` printed on the other appliance",
        );
    }
    let preshared = match &channel.preshared_key_file {
        Some(path) => Some(read_checked(path, &places.preshared_key_file, strictness, COPY, findings)?),
        None => None,
    };
    Some(Keys { private: private?, preshared })
}

const COPY: &str = "put the same file on both appliances, for example from `head -c 32 /dev/urandom | base64`";

fn read_checked<K: FromStr<Err = ParseKeyError>>(
    path: &Path,
    place: &Place,
    strictness: Strictness,
    remedy: &str,
    findings: &mut Findings,
) -> Option<K> {
    match read_key(path) {
        Ok((key, mode)) => {
            if mode & 0o077 != 0 {
                let path = path.display();
                let message = format!("{path} is open to other users (mode {mode:04o}); run chmod 600 {path}");
                findings.warning(place, message);
            }
            Some(key)
        }
        Err(error @ KeyFileError::Unreadable { .. }) if strictness == Strictness::Check => {
            findings.warning(place, format_args!("{error}; {remedy}"));
            None
        }
        Err(error) => {
            findings.error(place, format_args!("{error}; {remedy}"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A fresh directory, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("longhaul-keys-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_new_key_is_private_readable_again_and_never_overwritten() {
        let scratch = Scratch::new("new");
        let path = scratch.0.join("private.key");
        let public = create_private_key(&path).unwrap();
        assert_eq!(read_private_key(&path).unwrap().public_key(), public);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(create_private_key(&path), Err(KeyFileError::Exists(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn two_new_keys_differ() {
        let scratch = Scratch::new("two");
        let keys = ["a", "b"].map(|name| create_private_key(&scratch.0.join(name)).unwrap());
        assert_ne!(keys[0], keys[1]);
    }

    #[test]
    fn what_is_not_a_key_is_refused_without_being_printed() {
        let scratch = Scratch::new("bad");
        let path = scratch.0.join("private.key");
        for text in ["", "hunter2-hunter2", "aHVudGVyMg==", "\u{1b}[2J"] {
            std::fs::write(&path, text).unwrap();
            let error = read_private_key(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::NotAKey { .. }), "{text}");
            assert!(text.is_empty() || !error.to_string().contains(text), "{error}");
        }
        assert!(matches!(read_private_key(&scratch.0), Err(KeyFileError::Unreadable { .. })), "a directory");
    }
}
