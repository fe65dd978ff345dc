//! The far side of an open: check our own rules, find the Ethernet header, connect to the host as the opener.

use std::net::IpAddr;
use std::time::Duration;

use rand_chacha::rand_core::Rng;

use crate::channel::StreamId;
use crate::frame::{FlowKey, Port, VlanStack, arp_probe, neighbor_solicitation};
use crate::rules::{Action, Compression};
use crate::tcp::{Endpoint, EndpointConfig, EndpointState};
use crate::units::Instant;

use super::Engine;
use super::ending::Ending;
use super::flow::{Flow, FlowId, Resolving, Role, Stage};
use super::gate::{CONNECT_TIME, HELD_MAX, KEEP_ALIVE, port_mss};
use super::limits::{buffer_size, flow_memory};
use super::message::{Message, Open, RefuseReason};
use super::relay::Relay;

/// Probes for the address of a host, and how long each may take: together below the second in which a host repeats its
/// first SYN (RFC 6298 section 2).
const PROBES_MAX: u32 = 3;
const PROBE_TIME: Duration = Duration::from_millis(300);

impl Engine {
    /// The peer asks for a connection to a host of ours.
    pub(super) fn handle_open(&mut self, now: Instant, stream: StreamId, open: Open) {
        if let Err(reason) = self.admit_open(now, stream, open) {
            self.refuse_stream(stream, reason);
        }
    }

    fn admit_open(&mut self, now: Instant, stream: StreamId, open: Open) -> Result<(), RefuseReason> {
        let verdict = self.rules.verdict(&open.key);
        let Action::Accelerate { compression, weight } = verdict.action else { return Err(RefuseReason::Policy) };
        if let Some(id) = self.flows.by_host_key(&open.key.reversed()) {
            match self.flows.flow(id).map(|flow| flow.role) {
                // Both hosts open at once: let them sort it out between themselves (RFC 9293 figure 7).
                Some(Role::Near) => return Err(RefuseReason::Conflict),
                // The opener has a new SYN for it, and its appliance no flow: what we have is a leftover.
                _ => {
                    self.end(now, id, Ending::Superseded);
                }
            }
        }
        let buffer = buffer_size(self.channel.as_ref().map(|channel| channel.delivery_rate()).unwrap_or_default());
        let memory = flow_memory(buffer);
        let has_room = self.flows.len() < self.limits.flows
            && self.flows.held < HELD_MAX
            && self.flows.memory() + memory <= self.limits.memory;
        if !has_room {
            return Err(RefuseReason::Full);
        }
        let mut relay = Relay::new(open.compress && compression == Compression::Auto);
        Message::Trying.encode(relay.message_buffer());
        let begun = self.begin(Flow {
            role: Role::Far,
            open,
            key: open.key,
            l2: open.l2,
            // What reaches the opener is the reverse of what it sent.
            peer_l2: Some(open.l2.reversed()),
            stream,
            rule: verdict.rule,
            weight,
            stage: Stage::Resolving(Resolving { probes: 0, next: now }),
            endpoint: None,
            relay,
            memory,
            buffer,
            opened_at: now,
            timer: None,
            is_dirty: false,
            host_l2: None,
        });
        begun.map(|_| ()).ok_or(RefuseReason::Conflict)
    }

    /// The turn of a flow whose host's Ethernet address is wanted.
    pub(super) fn pump_resolving(&mut self, now: Instant, id: FlowId) {
        let (Some(flow), Some(channel)) = (self.flows.flow_mut(id), &mut self.channel) else { return };
        flow.relay.flush(channel, flow.stream);
        let Stage::Resolving(resolving) = &mut flow.stage else { return };
        let host = flow.key.dst.ip();
        if let Some(l2) = self.learning.resolve(now, host, &flow.open.l2, self.own_mac) {
            let key = FlowKey { vlans: l2.vlans.ids(), ..flow.key };
            flow.l2 = l2;
            self.forget_resolving(id, host);
            if self.flows.rekey(id, key) {
                self.connect(now, id);
            } else {
                self.refuse(now, id, RefuseReason::Conflict);
            }
            return;
        }
        if resolving.next > now {
            return;
        }
        if resolving.probes >= PROBES_MAX {
            self.refuse(now, id, RefuseReason::NoL2Address);
            return;
        }
        resolving.probes += 1;
        resolving.next = now + PROBE_TIME;
        let opener_vlans = flow.open.l2.vlans;
        self.resolving.entry(host).or_default().insert(id);
        self.probe(host, opener_vlans);
        if opener_vlans != VlanStack::default() {
            // Routed, the VLANs of the other site mean nothing here, and most ports are untagged.
            self.probe(host, VlanStack::default());
        }
    }

    fn probe(&mut self, host: IpAddr, vlans: VlanStack) {
        self.counters.probes_sent += 1;
        let own_mac = self.own_mac;
        self.output.build(Port::Lan, |frame| match host {
            IpAddr::V4(host) => arp_probe(frame, own_mac, vlans, host),
            IpAddr::V6(host) => neighbor_solicitation(frame, own_mac, vlans, host),
        });
    }

    /// A host has told its address: whoever waited for it gets a turn.
    pub(super) fn retry_resolving(&mut self, ip: IpAddr) {
        for id in self.resolving.get(&ip).cloned().unwrap_or_default() {
            self.mark_dirty(id);
            self.is_settled = false;
        }
    }

    pub(super) fn forget_resolving(&mut self, id: FlowId, host: IpAddr) {
        if let Some(waiting) = self.resolving.get_mut(&host) {
            waiting.remove(&id);
            if waiting.is_empty() {
                self.resolving.remove(&host);
            }
        }
    }

    fn connect(&mut self, now: Instant, id: FlowId) {
        let seed = self.random.next_u64();
        let lan_mtu = self.lan_mtu;
        let Some(flow) = self.flows.flow_mut(id) else { return };
        let key = flow.key;
        let config = EndpointConfig {
            local: key.src,
            remote: key.dst,
            mss: port_mss(lan_mtu, key.dst.is_ipv6()),
            l2: flow.l2,
            receive_buffer: flow.buffer,
            send_buffer: flow.buffer,
            seed,
        };
        let mut endpoint = Endpoint::connect(config, now);
        endpoint.set_keep_alive(Some(KEEP_ALIVE));
        flow.endpoint = Some(endpoint);
        flow.stage = Stage::Connecting { give_up: now + CONNECT_TIME };
        self.flows.held -= 1;
        self.closed.forget(&key.reversed());
        self.bypass.forget(&key.reversed());
        self.mark_dirty(id);
    }

    /// The turn of a flow whose host has not answered our SYN.
    pub(super) fn pump_connecting(&mut self, now: Instant, id: FlowId) {
        let (Some(flow), Some(channel)) = (self.flows.flow_mut(id), &mut self.channel) else { return };
        flow.relay.flush(channel, flow.stream);
        let Stage::Connecting { give_up } = flow.stage else { return };
        let Some(endpoint) = &mut flow.endpoint else { return };
        self.output.poll_endpoint(now, endpoint);
        match endpoint.state() {
            EndpointState::Opening if give_up <= now => self.refuse(now, id, RefuseReason::TimedOut),
            EndpointState::Opening => {}
            EndpointState::Open | EndpointState::Closed => {
                let mss = endpoint.mss();
                let l2 = flow.host_l2.map_or(flow.l2, |seen| seen.reversed());
                flow.stage = Stage::Relaying;
                Message::Opened { mss, l2 }.encode(flow.relay.message_buffer());
                self.mark_dirty(id);
            }
            EndpointState::Reset => {
                self.counters.opens_refused += 1;
                self.refuse(now, id, RefuseReason::ConnectionRefused);
            }
            EndpointState::TimedOut => self.refuse(now, id, RefuseReason::TimedOut),
        }
    }

    /// The opener's SYN came by the WAN port although we connect for it: its appliance has let it go.
    pub(super) fn abandon(&mut self, now: Instant, id: FlowId) {
        self.end(now, id, Ending::Superseded);
        self.is_settled = false;
    }
}
