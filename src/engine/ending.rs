//! How a flow ends, and who has to hear of it.

use crate::channel::{ReadState, ResetCode};
use crate::tcp::EndpointState;
use crate::units::Instant;

use super::Engine;
use super::bypass::BypassReason;
use super::closed::Closed;
use super::control::Owner;
use super::flow::{Flow, FlowId, Role, Stage};
use super::message::{Message, Orphan, RefuseReason};

/// The host reset the connection.
const HOST_RESET: ResetCode = ResetCode(1);
/// The host has vanished.
const HOST_TIMED_OUT: ResetCode = ResetCode(2);
/// What came through the stream is not what we write.
pub(super) const FAULT: ResetCode = ResetCode(3);
/// The open is not wanted any more.
const ABANDONED: ResetCode = ResetCode(4);
/// The appliance stops.
const SHUTDOWN: ResetCode = ResetCode(5);
/// The outage was longer than flows can be held.
const OUTAGE: ResetCode = ResetCode(6);
/// Another connection has taken the addresses.
const SUPERSEDED: ResetCode = ResetCode(7);

/// Connections of which a restarted peer is told. More would take longer than the hosts' own patience.
const LOST_MAX: usize = 4096;

/// Why a flow ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ending {
    /// Both directions in order.
    Done,
    /// The host's doing: it reset the connection.
    HostReset,
    /// The host vanished.
    HostTimedOut,
    /// The peer reset the stream.
    PeerReset,
    /// The session is gone, and the stream with it.
    PeerGone,
    /// The peer was silent for too long.
    Outage,
    /// The peer or the codec is broken.
    Fault,
    /// The open is withdrawn; the host hears of it otherwise or not at all.
    Abandoned,
    /// The far flow is a leftover.
    Superseded,
    /// We stop.
    Shutdown,
    /// The peer has been refused; the stream goes on for the refusal.
    Refused,
}

impl Ending {
    /// What the peer is told, if it has to be told.
    const fn reset_code(self) -> Option<ResetCode> {
        match self {
            Ending::Done | Ending::PeerReset | Ending::PeerGone | Ending::Refused => None,
            Ending::HostReset => Some(HOST_RESET),
            Ending::HostTimedOut => Some(HOST_TIMED_OUT),
            Ending::Outage => Some(OUTAGE),
            Ending::Fault => Some(FAULT),
            Ending::Abandoned => Some(ABANDONED),
            Ending::Superseded => Some(SUPERSEDED),
            Ending::Shutdown => Some(SHUTDOWN),
        }
    }
}

impl Engine {
    /// Takes the flow out of all tables, resets the host and the stream where they do not know yet, and remembers the
    /// connection for its late segments.
    pub(super) fn end(&mut self, now: Instant, id: FlowId, ending: Ending) -> Option<Flow> {
        let mut flow = self.flows.remove(id)?;
        self.timers.set(super::Timer::Flow(id), &mut flow.timer, None);
        // A stream that nobody owns any more went with its session: its number may be in use again.
        let had_stream = self.streams.remove(&flow.stream).is_some();
        if matches!(flow.stage, Stage::Held(_) | Stage::Resolving(_)) {
            self.flows.held -= 1;
            self.forget_resolving(id, flow.key.dst.ip());
        }
        if let (Some(channel), Some(code)) = (&mut self.channel, ending.reset_code())
            && had_stream
        {
            channel.reset(flow.stream, code);
        }
        let codec = flow.relay.codec();
        self.counters.relayed_source += codec.source.as_u64();
        self.counters.relayed_encoded += codec.encoded.as_u64();
        if let Some(endpoint) = &mut flow.endpoint {
            let is_alive = matches!(endpoint.state(), EndpointState::Opening | EndpointState::Open);
            if is_alive {
                endpoint.abort();
                self.output.poll_endpoint(now, endpoint);
            }
            self.counters.lan_retransmissions += endpoint.stats().retransmissions;
            if endpoint.stats().panics > 0 {
                // The default hook has said where; this says whom it hit, once: the endpoint has had no stack since.
                tracing::error!(flow = %flow.key, role = ?flow.role, "the TCP stack panicked; only this flow is reset");
                self.counters.panics += 1;
            }
            let l2 = flow.host_l2.map_or(flow.l2, |seen| seen.reversed());
            let closed = match ending {
                Ending::Done => Closed::in_order(now, l2),
                _ => Closed::reset(now, l2),
            };
            // A refused or unanswered SYN of ours leaves nothing to remember.
            if !matches!(flow.stage, Stage::Connecting { .. }) || is_alive {
                self.closed.remember(flow.host_key(), closed);
            }
        }
        match ending {
            Ending::Done => {
                self.counters.flows_finished += 1;
                if had_stream {
                    self.confirm(&flow);
                }
            }
            Ending::Abandoned | Ending::Refused => {}
            _ => self.counters.flows_reset += 1,
        }
        Some(flow)
    }

    /// Tells the peer that our host has everything and has said everything, and remembers the connection until the peer
    /// says the same: if it restarts before, its host would wait for bytes or an end that never come.
    fn confirm(&mut self, flow: &Flow) {
        let Some(channel) = &mut self.channel else { return };
        channel.finish(flow.stream);
        if channel.consume(flow.stream, 0) == ReadState::Open {
            self.streams.insert(flow.stream, lost_at_peer(flow).map_or(Owner::Drain, Owner::Unconfirmed));
        }
    }

    /// Ends all flows; SYNs that are held go on to the far host.
    pub(super) fn end_all(&mut self, now: Instant, ending: Ending) {
        for id in self.flows.ids() {
            match self.flows.flow(id).map(|flow| &flow.stage) {
                Some(Stage::Held(_)) => self.release(now, id, BypassReason::PeerDown),
                _ => {
                    self.end(now, id, ending);
                }
            }
        }
    }

    /// The peer is silent: opens under way are withdrawn on both sides, other flows are held.
    pub(super) fn withdraw_opens(&mut self, now: Instant) {
        for id in self.flows.ids() {
            match self.flows.flow(id).map(|flow| &flow.stage) {
                Some(Stage::Held(_)) => self.release(now, id, BypassReason::PeerDown),
                Some(Stage::Resolving(_) | Stage::Connecting { .. }) => {
                    self.end(now, id, Ending::Abandoned);
                }
                _ => {}
            }
        }
    }

    /// The outage was too long: hosts get an error while they can still act on it.
    pub(super) fn give_up_outage(&mut self, now: Instant) {
        self.end_all(now, Ending::Outage);
    }

    /// The session is gone. Connections that the peer's hosts still believe in are noted, to be told when it is back.
    pub(super) fn handle_peer_gone(&mut self, now: Instant, remember: bool) {
        let streams = std::mem::take(&mut self.streams);
        if remember {
            let room = LOST_MAX.saturating_sub(self.lost.len());
            let live = self.flows.iter().filter_map(|(_, flow)| lost_at_peer(flow));
            let unconfirmed = streams.into_values().filter_map(|owner| match owner {
                Owner::Unconfirmed(orphan) => Some(orphan),
                _ => None,
            });
            self.lost.extend(live.chain(unconfirmed).take(room));
        }
        self.end_all(now, Ending::PeerGone);
    }

    /// Refuses the open of a far flow.
    pub(super) fn refuse(&mut self, now: Instant, id: FlowId, reason: RefuseReason) {
        let Some(mut flow) = self.end(now, id, Ending::Refused) else { return };
        // Trying may still wait there, in front.
        Message::Refused(reason).encode(flow.relay.message_buffer());
        let message = flow.relay.take_waiting();
        self.write_tail(flow.stream, message);
    }

    /// Refuses an open of which no flow was made.
    pub(super) fn refuse_stream(&mut self, stream: crate::channel::StreamId, reason: RefuseReason) {
        self.counters.opens_declined += 1;
        let mut message = Vec::new();
        Message::Refused(reason).encode(&mut message);
        self.write_tail(stream, message);
    }

    /// Writes the last bytes of our direction of a stream.
    pub(super) fn write_tail(&mut self, stream: crate::channel::StreamId, mut bytes: Vec<u8>) {
        let Some(channel) = &mut self.channel else { return };
        let taken = channel.write(stream, &bytes);
        bytes.drain(..taken);
        if bytes.is_empty() {
            channel.finish(stream);
            self.streams.insert(stream, Owner::Drain);
        } else {
            self.streams.insert(stream, Owner::Tail(bytes));
        }
    }
}

/// The connection as the peer's host has it, if it got that far.
fn lost_at_peer(flow: &Flow) -> Option<Orphan> {
    let l2 = flow.peer_l2.filter(|_| matches!(flow.stage, Stage::Relaying))?;
    let key = crate::frame::FlowKey { vlans: l2.vlans.ids(), ..flow.key };
    Some(Orphan { key, host_is_server: flow.role == Role::Near, l2 })
}
