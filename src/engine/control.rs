//! What the channel says, and the turn that each flow gets.

use crate::channel::{DownReason, Event, ReadState, StreamId};
use crate::rules::Action;
use crate::tcp::EndpointState;
use crate::units::Instant;

use rand_chacha::rand_core::Rng;

use super::Engine;
use super::bypass::BypassReason;
use super::ending::{Ending, FAULT};
use super::flow::{FlowId, Stage};
use super::message::{MESSAGE_LEN_MAX, Message, MessageError, Orphan, RefuseReason};
use super::relay::Progress;
use super::timers::Timer;

use std::time::Duration;

/// How long flows are held while the peer is silent; then both hosts get a reset. ESX gives a switchover 100 s, and must
/// hear of the failure before, to resume the VM where it was.
pub(super) const OUTAGE_MAX: Duration = Duration::from_secs(90);

/// Streams whose first message has not come; more are reset. One datagram carries message and opening.
const UNREAD_MAX: usize = 1024;

/// Who has to do with a stream.
#[derive(Debug)]
pub(super) enum Owner {
    /// The peer opened it and has not said what for.
    Unread,
    /// A flow.
    Flow(FlowId),
    /// The peer lists orphans through it.
    OrphanList,
    /// Bytes that the channel has not taken; then our direction is finished.
    Tail(Vec<u8>),
    /// Our direction is finished; what the peer still sends is of no interest.
    Drain,
    /// Our host is done, the peer has not confirmed that its host is: the connection as that host has it.
    Unconfirmed(Orphan),
}

impl Engine {
    pub(super) fn drain_channel_events(&mut self, now: Instant) {
        while let Some(event) = self.channel.as_mut().and_then(|channel| channel.poll_event()) {
            match event {
                Event::Up => self.handle_up(),
                Event::Down(DownReason::Silent) => {
                    self.withdraw_opens(now);
                    self.timers.set(Timer::Outage, &mut self.outage, Some(now + OUTAGE_MAX));
                }
                Event::Down(reason) => {
                    self.timers.set(Timer::Outage, &mut self.outage, None);
                    self.handle_peer_gone(now, reason == DownReason::PeerRestarted);
                }
                Event::Opened(stream) => self.handle_opened(now, stream),
                Event::Readable(stream) | Event::Writable(stream) => self.handle_ready(now, stream),
                Event::Reset(stream, _) => self.handle_reset(now, stream),
            }
        }
    }

    fn handle_up(&mut self) {
        self.timers.set(Timer::Outage, &mut self.outage, None);
        self.mark_all_dirty();
        let lost = std::mem::take(&mut self.lost);
        if lost.is_empty() {
            return;
        }
        let Some(stream) = self.channel.as_mut().and_then(|channel| channel.open()) else {
            self.lost = lost;
            return;
        };
        let mut list = Vec::new();
        for orphan in lost {
            Message::Orphan(orphan).encode(&mut list);
        }
        self.write_tail(stream, list);
    }

    fn handle_opened(&mut self, now: Instant, stream: StreamId) {
        let unread = self.streams.values().filter(|owner| matches!(owner, Owner::Unread)).count();
        if unread >= UNREAD_MAX {
            self.reset_stream(stream);
            return;
        }
        self.streams.insert(stream, Owner::Unread);
        self.handle_ready(now, stream);
    }

    fn handle_ready(&mut self, now: Instant, stream: StreamId) {
        match self.streams.get_mut(&stream) {
            None => {}
            Some(Owner::Flow(id)) => {
                let id = *id;
                self.mark_dirty(id);
            }
            Some(Owner::Unread | Owner::OrphanList) => self.read_first(now, stream),
            Some(Owner::Tail(bytes)) => {
                let bytes = std::mem::take(bytes);
                self.write_tail(stream, bytes);
            }
            Some(Owner::Drain | Owner::Unconfirmed(_)) => {
                let Some(channel) = &mut self.channel else { return };
                if channel.consume(stream, channel.readable(stream)) == ReadState::Finished {
                    self.streams.remove(&stream);
                }
            }
        }
    }

    fn handle_reset(&mut self, now: Instant, stream: StreamId) {
        if let Some(Owner::Flow(id)) = self.streams.remove(&stream) {
            match self.flows.flow(id).map(|flow| &flow.stage) {
                Some(Stage::Held(_)) => self.release(now, id, BypassReason::PeerReset),
                _ => {
                    self.end(now, id, Ending::PeerReset);
                }
            }
        }
    }

    fn reset_stream(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
        if let Some(channel) = &mut self.channel {
            channel.reset(stream, FAULT);
        }
    }

    /// Takes the next message off a stream, if it has come whole.
    fn read_message(&mut self, stream: StreamId) -> Result<Option<Message>, MessageError> {
        let Some(channel) = &mut self.channel else { return Ok(None) };
        let mut bytes = [0; MESSAGE_LEN_MAX];
        let present = channel.peek(stream, &mut bytes);
        let Some((message, len)) = Message::decode(&bytes[..present])? else { return Ok(None) };
        channel.consume(stream, len);
        Ok(Some(message))
    }

    /// The beginning of a stream that the peer opened.
    fn read_first(&mut self, now: Instant, stream: StreamId) {
        loop {
            match self.read_message(stream) {
                Ok(Some(Message::Open(open))) if matches!(self.streams.get(&stream), Some(Owner::Unread)) => {
                    self.handle_open(now, stream, open);
                    return;
                }
                Ok(Some(Message::Orphan(orphan))) => {
                    self.streams.insert(stream, Owner::OrphanList);
                    self.handle_orphan(now, &orphan);
                }
                Ok(None) => break,
                Err(MessageError::Version(_)) => {
                    self.refuse_stream(stream, RefuseReason::Version);
                    return;
                }
                Ok(Some(_)) | Err(_) => {
                    self.counters.peer_faults += 1;
                    self.reset_stream(stream);
                    return;
                }
            }
        }
        let Some(channel) = &mut self.channel else { return };
        if channel.consume(stream, 0) == ReadState::Finished {
            channel.finish(stream);
            self.streams.remove(&stream);
        }
    }

    /// We restarted, and the peer knows a connection that one of our hosts still believes in.
    fn handle_orphan(&mut self, now: Instant, orphan: &Orphan) {
        let host_key = if orphan.host_is_server { orphan.key.reversed() } else { orphan.key };
        // Only what could have been accelerated, and has not begun anew.
        let is_ours = matches!(self.rules.verdict(&orphan.key).action, Action::Accelerate { .. });
        if is_ours && self.flows.by_host_key(&host_key).is_none() {
            self.counters.orphans_reset += 1;
            let number = self.random.next_u32();
            self.bypass.forget(&host_key);
            self.orphans.start(now, orphan, number, &mut self.timers, &mut self.output);
        }
    }

    /// One flow's turn.
    pub(super) fn pump(&mut self, now: Instant, id: FlowId) {
        let Some(flow) = self.flows.flow_mut(id) else { return };
        flow.is_dirty = false;
        match flow.stage {
            Stage::Held(_) => {
                self.read_answers(now, id);
                self.pump_held(now, id);
            }
            Stage::Resolving(_) => self.pump_resolving(now, id),
            Stage::Connecting { .. } => self.pump_connecting(now, id),
            Stage::Relaying => self.pump_relaying(now, id),
        }
        self.arm(now, id);
    }

    fn read_answers(&mut self, now: Instant, id: FlowId) {
        while let Some(flow) = self.flows.flow(id)
            && matches!(flow.stage, Stage::Held(_))
        {
            let stream = flow.stream;
            match self.read_message(stream) {
                Ok(Some(message)) => self.handle_answer(now, id, message),
                Ok(None) => return,
                Err(_) => {
                    self.counters.peer_faults += 1;
                    self.release(now, id, BypassReason::PeerVersion);
                    return;
                }
            }
        }
    }

    fn pump_relaying(&mut self, now: Instant, id: FlowId) {
        let (Some(flow), Some(channel)) = (self.flows.flow_mut(id), &mut self.channel) else { return };
        let Some(endpoint) = &mut flow.endpoint else { return };
        let outbound = flow.relay.pump_outbound(now, endpoint, channel, flow.stream, &mut self.scratch);
        let inbound = flow.relay.pump_inbound(now, endpoint, channel, flow.stream, &mut self.scratch);
        self.output.poll_endpoint(now, endpoint);
        let ending = match (inbound, endpoint.state()) {
            (_, EndpointState::Reset) => Some(Ending::HostReset),
            (_, EndpointState::TimedOut) => Some(Ending::HostTimedOut),
            (Err(_), _) => {
                self.counters.peer_faults += 1;
                Some(Ending::Fault)
            }
            (_, EndpointState::Closed) if flow.relay.is_finished() => Some(Ending::Done),
            (Ok(inbound), _) => {
                if outbound == Progress::More || inbound == Progress::More {
                    self.mark_dirty(id);
                }
                None
            }
        };
        if let Some(ending) = ending {
            self.end(now, id, ending);
        }
    }

    /// Sets the flow's timer to what it waits for next.
    fn arm(&mut self, now: Instant, id: FlowId) {
        let Some(flow) = self.flows.flow_mut(id) else { return };
        let stage = match &flow.stage {
            Stage::Held(held) => Some(held.until),
            Stage::Resolving(resolving) => Some(resolving.next),
            Stage::Connecting { give_up } => Some(*give_up),
            Stage::Relaying => None,
        };
        let endpoint = flow.endpoint.as_mut().and_then(|endpoint| endpoint.poll_timeout(now));
        let at = [stage, endpoint].into_iter().flatten().min();
        self.timers.set(Timer::Flow(id), &mut flow.timer, at.filter(|&at| at > now));
        if at.is_some_and(|at| at <= now) {
            // The endpoint emits a bounded number of frames per turn.
            self.mark_dirty(id);
        }
    }
}
