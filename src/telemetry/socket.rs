//! The local socket that hands the status document out.
//!
//! A Unix stream socket. The client connects and sends nothing; the appliance writes one document
//! ([`super::Status::to_document`]) and closes.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Largest document a client takes; a full flow table is about 400 bytes x 10,000.
pub const DOCUMENT_LEN_MAX: u64 = 64 * 1024 * 1024;

/// How long a client waits for the appliance's next bytes.
pub const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Owner and group: the document names hosts, and nobody else needs it.
const SOCKET_MODE: u32 = 0o660;

/// Listens at `path`, non-blocking. A socket left behind by an appliance that ended is replaced; one that still
/// answers, or a file that is no socket, is an error.
pub fn bind_status_socket(path: &Path) -> io::Result<UnixListener> {
    let in_use = |what: &str| io::Error::new(ErrorKind::AddrInUse, format!("{}: {what}", path.display()));
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => return Err(in_use("exists and is not a socket")),
        Ok(_) => match UnixStream::connect(path) {
            Ok(_) => return Err(in_use("another longhaul answers there")),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path)?,
            Err(error) => return Err(error),
        },
        Err(_) => {
            if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty() && !parent.exists()) {
                fs::create_dir(parent)?;
            }
        }
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The status could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No socket there.
    #[error(
        "no appliance at {}: is `longhaul run` running? If its status_socket is another one, give --socket PATH or \
         --config FILE", .0.display()
    )]
    Absent(PathBuf),
    /// A socket without a listener.
    #[error("the appliance at {} has ended (nobody listens on its socket); start it with `longhaul run`", .0.display())]
    Ended(PathBuf),
    /// Not ours to ask.
    #[error("no permission to ask {}; run as root, or as a member of the socket's group", .0.display())]
    Denied(PathBuf),
    /// Connected, but nothing came.
    #[error("the appliance at {} does not answer within {} s; it hangs or is stopped", .0.display(), FETCH_TIMEOUT.as_secs())]
    Hung(PathBuf),
    /// It answered with something else.
    #[error("what answers at {} is not a longhaul appliance of this version ({source})", path.display())]
    NotADocument {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot ask {}: {source}", path.display())]
    Other {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Asks the appliance at `path` for its document.
pub fn fetch_document(path: &Path) -> Result<String, FetchError> {
    let owned = || path.to_owned();
    let mut stream = UnixStream::connect(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => FetchError::Absent(owned()),
        ErrorKind::ConnectionRefused => FetchError::Ended(owned()),
        ErrorKind::PermissionDenied => FetchError::Denied(owned()),
        _ => FetchError::Other { path: owned(), source },
    })?;
    let other = |source: io::Error| match source.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => FetchError::Hung(owned()),
        ErrorKind::InvalidData => FetchError::NotADocument { path: owned(), source },
        _ => FetchError::Other { path: owned(), source },
    };
    stream.set_read_timeout(Some(FETCH_TIMEOUT)).map_err(other)?;
    let mut document = String::new();
    stream.by_ref().take(DOCUMENT_LEN_MAX).read_to_string(&mut document).map_err(other)?;
    if !document.ends_with('\n') {
        return Err(other(io::Error::new(ErrorKind::InvalidData, "the document is cut off")));
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::super::Status;
    use super::super::status::tests::example;
    use super::*;

    /// A path for one test's socket, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            Scratch(std::env::temp_dir().join(format!("longhaul-status-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    fn answer(listener: &UnixListener, bytes: &[u8]) {
        listener.set_nonblocking(false).unwrap();
        listener.accept().unwrap().0.write_all(bytes).unwrap();
    }

    #[test]
    fn a_document_crosses_the_socket_whole() {
        let scratch = Scratch::new("whole");
        let listener = bind_status_socket(&scratch.0).unwrap();
        assert_eq!(fs::metadata(&scratch.0).unwrap().permissions().mode() & 0o777, 0o660);
        let mut status = example();
        status.flows = vec![status.flows[0].clone(); 5_000];
        let document = status.to_document();
        let fetched = std::thread::scope(|scope| {
            scope.spawn(|| answer(&listener, document.as_bytes()));
            fetch_document(&scratch.0).unwrap()
        });
        assert_eq!(Status::from_document(&fetched).unwrap(), status);
    }

    #[test]
    fn a_socket_left_behind_is_replaced_and_a_living_one_is_not() {
        let scratch = Scratch::new("stale");
        drop(bind_status_socket(&scratch.0).unwrap());
        assert!(matches!(fetch_document(&scratch.0), Err(FetchError::Ended(_))));
        let _living = bind_status_socket(&scratch.0).unwrap();
        assert_eq!(bind_status_socket(&scratch.0).unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let scratch = Scratch::new("file");
        fs::write(&scratch.0, "precious").unwrap();
        assert!(bind_status_socket(&scratch.0).is_err());
        assert_eq!(fs::read(&scratch.0).unwrap(), b"precious");
    }

    #[test]
    fn absence_and_strangers_are_named() {
        let scratch = Scratch::new("stranger");
        assert!(matches!(fetch_document(&scratch.0), Err(FetchError::Absent(_))));
        let listener = bind_status_socket(&scratch.0).unwrap();
        for bytes in [&b"{\"version\""[..], b"", b"\xff\xfe\n"] {
            let fetched = std::thread::scope(|scope| {
                scope.spawn(|| answer(&listener, bytes));
                fetch_document(&scratch.0)
            });
            assert!(matches!(fetched, Err(FetchError::NotADocument { .. })), "{bytes:?}: {fetched:?}");
        }
    }
}
