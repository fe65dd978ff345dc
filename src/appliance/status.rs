//! The status document and who asks for it.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};

use super::counters::LoopCounters;
use super::driven::Driven;
use crate::units::Instant;

/// Clients served at the same time; more are turned away.
const CLIENTS_MAX: usize = 8;

/// A client that does not read is dropped after this long.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);

/// How long no connection is taken after one could not be (no descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// The status document: one line of JSON. Counters count from the start of the appliance.
pub fn status_json(name: &str, uptime: Duration, engine: &impl Driven, counters: &LoopCounters) -> String {
    let channel = engine.channel_stats().map(|stats| {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        json!({
            "state": format!("{:?}", stats.state).to_lowercase(),
            "peer_address": stats.peer_address,
            "srtt_us": stats.srtt.map(micros),
            "min_rtt_us": stats.min_rtt.map(micros),
            "delivery_rate_bps": stats.delivery_rate.as_bps(),
            "pacing_rate_bps": stats.pacing_rate.as_bps(),
            "backlog_bytes": stats.backlog.as_u64(),
            "datagrams_sent": stats.datagrams_sent,
            "datagrams_lost": stats.datagrams_lost,
        })
    });
    let document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "name": name,
        "uptime_s": uptime.as_secs(),
        "channel": channel,
        "counters": counters.by_name(),
    });
    format!("{document}\n")
}

/// The local socket that hands the document out: connect, read to the end.
pub(super) struct StatusPort {
    listener: UnixListener,
    path: PathBuf,
    clients: Arc<()>,
    paused_until: Option<Instant>,
}

impl StatusPort {
    /// Takes the place of a socket that an appliance left behind when it died.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        if std::os::unix::net::UnixStream::connect(path)
            .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        Ok(StatusPort { listener, path: path.to_owned(), clients: Arc::new(()), paused_until: None })
    }

    /// A client that asks; an error when it could not be taken (`now` starts the pause after it).
    pub(super) fn poll_client(&mut self, context: &mut Context<'_>, now: Instant) -> Option<io::Result<UnixStream>> {
        if self.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        self.paused_until = None;
        match self.listener.poll_accept(context) {
            Poll::Pending => None,
            Poll::Ready(Ok((stream, _))) => Some(Ok(stream)),
            Poll::Ready(Err(error)) => {
                self.paused_until = Some(now + ACCEPT_PAUSE);
                Some(Err(error))
            }
        }
    }

    /// When connections are taken again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Sends `document` in the background; false when too many are being served.
    pub(super) fn serve(&self, mut stream: UnixStream, document: String) -> bool {
        if Arc::strong_count(&self.clients) > CLIENTS_MAX {
            return false;
        }
        let client = Arc::clone(&self.clients);
        tokio::spawn(async move {
            // A client that went away, or does not read, has only itself to blame.
            let _ = tokio::time::timeout(CLIENT_PATIENCE, stream.write_all(document.as_bytes())).await;
            drop(client);
        });
        true
    }
}

impl Drop for StatusPort {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
