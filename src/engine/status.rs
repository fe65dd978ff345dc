//! What the engine shows of itself: plain structs, for the status socket and for metrics.

use std::time::Duration;

use crate::channel::ChannelStats;
use crate::codec::CodecStats;
use crate::frame::FlowKey;
use crate::units::{ByteCount, Instant, Weight};

use super::Engine;
use super::bypass::{BypassReason, BypassedFlow};
use super::flow::{Flow, FlowId, Role, Stage};

/// Where a flow is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowStage {
    /// The host's SYN is held; the far side works on it.
    Opening,
    /// Far: the host's Ethernet address is being asked for.
    Resolving,
    /// Far: the host has not answered yet.
    Connecting,
    /// Bytes may flow.
    Relaying,
}

/// One accelerated flow.
#[derive(Clone, Debug)]
pub struct FlowStatus {
    /// Its number.
    pub id: FlowId,
    /// The connection in its opener's direction, with our side's VLANs.
    pub key: FlowKey,
    /// Which side of it is here.
    pub role: Role,
    /// Index of the rule that matched here.
    pub rule: Option<usize>,
    /// How much of the line it gets, in the direction that leaves here, while others want it too.
    pub weight: Weight,
    /// Where it is.
    pub stage: FlowStage,
    /// Since when.
    pub opened_at: Instant,
    /// Payload taken from our host.
    pub from_host: ByteCount,
    /// Payload given to our host.
    pub to_host: ByteCount,
    /// Encoded bytes that [`FlowStatus::to_host`] came in.
    pub from_peer_encoded: ByteCount,
    /// What compression did in the direction to the peer.
    pub codec: CodecStats,
    /// Acknowledged to our host and not known to have reached the far appliance, in the host's own bytes.
    pub backlog: ByteCount,
    /// Given to our host's endpoint and not yet acknowledged by the host.
    pub send_queue: ByteCount,
    /// Segments that had to be sent to our host again: on a LAN each one is an event.
    pub lan_retransmissions: u64,
    /// How long [`FlowStatus::backlog`] takes at the rate at which the far end takes it, or, while that is not what
    /// limits, at the path's.
    pub drain_time: Duration,
}

/// One connection that passes through.
#[derive(Clone, Copy, Debug)]
pub struct BypassStatus {
    /// The direction that was seen from the LAN side.
    pub key: FlowKey,
    /// Its record.
    pub flow: BypassedFlow,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames forwarded untouched.
    pub frames_forwarded: u64,
    /// Frames taken by the engine, or dropped.
    pub frames_taken: u64,
    /// Segments of accelerated flows dropped because a checksum was wrong.
    pub bad_checksum: u64,
    /// Segments dropped that have the addresses of an accelerated flow and cannot be of it.
    pub stray_segments: u64,
    /// Segments of ended or orphaned flows.
    pub late_segments: u64,
    /// Flows begun here, either role.
    pub flows_opened: u64,
    /// Flows that ended in order.
    pub flows_finished: u64,
    /// Flows that were reset.
    pub flows_reset: u64,
    /// Opens that the far host refused.
    pub opens_refused: u64,
    /// The peer's opens that we declined.
    pub opens_declined: u64,
    /// ARP and ND probes sent.
    pub probes_sent: u64,
    /// Connections reset at our hosts after our restart.
    pub orphans_reset: u64,
    /// Segments that had to be sent to our hosts again, of flows that have ended.
    pub lan_retransmissions: u64,
    /// Payload taken from hosts of flows that have ended, before compression.
    pub relayed_source: u64,
    /// The same as it went to the peer.
    pub relayed_encoded: u64,
    /// Panics of the TCP stack; each ended its flow.
    pub panics: u64,
    /// Messages or blocks of the peer that were not valid.
    pub peer_faults: u64,
}

/// Everything at once.
#[derive(Clone, Debug)]
pub struct EngineStatus {
    /// The channel; `None` for a plain bridge.
    pub channel: Option<ChannelStats>,
    /// Accelerated flows, oldest first.
    pub flows: Vec<FlowStatus>,
    /// Connections that passed recently, the last seen first.
    pub bypassed: Vec<BypassStatus>,
    /// How many connections passed, by reason; all reasons, by number.
    pub bypass_counters: Vec<(BypassReason, u64)>,
    /// Counters.
    pub counters: Counters,
    /// Buffer bytes set aside for flows.
    pub memory: ByteCount,
    /// Connections being reset after our restart.
    pub orphans: usize,
}

impl Engine {
    /// Counters, flows and recent bypassed connections. At most `bypassed_max` of the latter.
    pub fn status(&self, bypassed_max: usize) -> EngineStatus {
        let bypassed = self.bypass.iter().take(bypassed_max);
        EngineStatus {
            channel: self.channel_stats(),
            flows: self.flows.iter().map(|(id, flow)| self.flow_status(id, flow)).collect(),
            bypassed: bypassed.map(|(&key, &flow)| BypassStatus { key, flow }).collect(),
            bypass_counters: BypassReason::ALL.map(|reason| (reason, self.bypass.counter(reason))).to_vec(),
            counters: self.counters,
            memory: self.flows.memory(),
            orphans: self.orphans.len(),
        }
    }

    /// Counters alone.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn flow_status(&self, id: FlowId, flow: &Flow) -> FlowStatus {
        let path = self.channel.as_ref().map(|channel| channel.delivery_rate()).unwrap_or_default();
        let readable = flow.endpoint.as_ref().map_or(0, |endpoint| endpoint.readable());
        let (under_way, drain_rate) = flow.relay.backlog();
        let (backlog, rate) = (ByteCount::from(readable) + under_way, drain_rate.unwrap_or(path));
        FlowStatus {
            id,
            key: flow.key,
            role: flow.role,
            rule: flow.rule,
            weight: flow.weight,
            stage: match flow.stage {
                Stage::Held(_) => FlowStage::Opening,
                Stage::Resolving(_) => FlowStage::Resolving,
                Stage::Connecting { .. } => FlowStage::Connecting,
                Stage::Relaying => FlowStage::Relaying,
            },
            opened_at: flow.opened_at,
            from_host: flow.relay.taken_from_host(),
            to_host: flow.relay.given_to_host(),
            from_peer_encoded: flow.relay.taken_from_peer(),
            codec: flow.relay.codec(),
            backlog,
            send_queue: ByteCount::from(flow.endpoint.as_ref().map_or(0, |endpoint| endpoint.send_queue())),
            lan_retransmissions: flow.endpoint.as_ref().map_or(0, |endpoint| endpoint.stats().retransmissions),
            drain_time: if backlog == ByteCount::ZERO { Duration::ZERO } else { rate.time_for(backlog) },
        }
    }
}
