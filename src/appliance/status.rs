//! The status document and who asks for it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};

use super::counters::LoopCounters;
use crate::engine::{self, BypassStatus, EngineStatus, FlowStage, Role};
use crate::telemetry::{self, ChannelStatus, FlowStatus, ReasonCount, Status, StatusVerdict};
use crate::units::Instant;

/// Clients served at the same time; more are turned away.
const CLIENTS_MAX: usize = 8;

/// A client that does not read is dropped after this long.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);

/// How long no connection is taken after one could not be (no descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Bypassed connections listed at most: the last seen.
pub(super) const BYPASSED_MAX: usize = 256;

/// The status document: one line of JSON. Counters count from the start of the appliance.
pub(super) fn document(
    (name, rules): (&str, &[String]),
    (started, now): (Instant, Instant),
    engine: Option<EngineStatus>,
    counters: &LoopCounters,
) -> Status {
    let mut status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        name: name.to_owned(),
        uptime_s: (now - started).as_secs(),
        counters: counters.by_name(),
        ..Status::default()
    };
    let Some(engine) = engine else { return status };
    status.channel = engine.channel.as_ref().map(ChannelStatus::from);
    status.counters.extend(engine_counters(&engine).map(|(name, value)| (name.to_owned(), value)));
    status.reasons = engine
        .bypass_counters
        .iter()
        .map(|&(reason, count)| ReasonCount { number: reason.number().into(), name: reason.name().to_owned(), count })
        .collect();
    let rule_name = |rule: Option<usize>| rule.and_then(|index| rules.get(index).cloned());
    let accelerated = engine.flows.iter().map(|flow| accelerated(flow, now, rule_name(flow.rule)));
    let bypassed = engine.bypassed.iter().map(|passing| bypassed(passing, now, rule_name(passing.flow.rule)));
    status.flows = accelerated.chain(bypassed).collect();
    status
}

fn engine_counters(engine: &EngineStatus) -> [(&'static str, u64); 20] {
    let counters = &engine.counters;
    let live = |bytes: fn(&engine::FlowStatus) -> u64| engine.flows.iter().map(bytes).sum::<u64>();
    [
        ("frames_forwarded", counters.frames_forwarded),
        ("frames_taken", counters.frames_taken),
        ("dropped_bad_checksum", counters.bad_checksum),
        ("dropped_stray_segments", counters.stray_segments),
        ("dropped_late_segments", counters.late_segments),
        ("flows_opened", counters.flows_opened),
        ("flows_finished", counters.flows_finished),
        ("flows_reset", counters.flows_reset),
        ("opens_refused", counters.opens_refused),
        ("opens_declined", counters.opens_declined),
        ("probes_sent", counters.probes_sent),
        ("orphans_reset", counters.orphans_reset),
        ("orphans", engine.orphans as u64),
        ("lan_retransmissions", counters.lan_retransmissions + live(|flow| flow.lan_retransmissions)),
        ("tcp_panics", counters.panics),
        ("peer_faults", counters.peer_faults),
        ("memory_bytes", engine.memory.as_u64()),
        ("flows", engine.flows.len() as u64),
        ("relayed_source_bytes", counters.relayed_source + live(|flow| flow.codec.source.as_u64())),
        ("relayed_encoded_bytes", counters.relayed_encoded + live(|flow| flow.codec.encoded.as_u64())),
    ]
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn accelerated(flow: &engine::FlowStatus, now: Instant, rule: Option<String>) -> FlowStatus {
    let state = match (flow.stage, flow.role) {
        (FlowStage::Opening, _) => "opening",
        (FlowStage::Resolving, _) => "resolving",
        (FlowStage::Connecting, _) => "connecting",
        (FlowStage::Relaying, Role::Near) => "near",
        (FlowStage::Relaying, Role::Far) => "far",
    };
    FlowStatus {
        vlans: flow.key.vlans.0.into_iter().flatten().collect(),
        src: flow.key.src,
        dst: flow.key.dst,
        verdict: StatusVerdict::Accelerate,
        reason: None,
        reason_name: None,
        rule,
        weight: Some(flow.weight.as_u8()),
        state: state.to_owned(),
        age_ms: millis(now - flow.opened_at),
        bytes_in: flow.from_host.as_u64(),
        bytes_out: flow.to_host.as_u64(),
        channel_bytes_out: flow.codec.encoded.as_u64(),
        channel_bytes_in: flow.from_peer_encoded.as_u64(),
        compression_given_up: flow.codec.given_up,
        compression_method: flow.codec.method.map(|method| method.name().to_owned()),
    }
}

fn bypassed(passing: &BypassStatus, now: Instant, rule: Option<String>) -> FlowStatus {
    FlowStatus {
        vlans: passing.key.vlans.0.into_iter().flatten().collect(),
        src: passing.key.src,
        dst: passing.key.dst,
        verdict: StatusVerdict::Bypass,
        reason: Some(passing.flow.reason.number().into()),
        reason_name: Some(passing.flow.reason.name().to_owned()),
        rule,
        weight: None,
        state: "passing".to_owned(),
        age_ms: millis(now - passing.flow.first_seen),
        bytes_in: passing.flow.bytes,
        bytes_out: 0,
        channel_bytes_out: 0,
        channel_bytes_in: 0,
        compression_given_up: false,
        compression_method: None,
    }
}

/// The local socket that hands the document out: connect, read to the end.
pub(super) struct StatusPort {
    listener: UnixListener,
    path: PathBuf,
    clients: Arc<()>,
    paused_until: Option<Instant>,
}

impl StatusPort {
    /// Listens; takes the place of a socket that an appliance left behind when it died.
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::from_std(telemetry::bind_status_socket(path)?)?;
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
