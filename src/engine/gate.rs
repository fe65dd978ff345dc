//! The near side of an open: which SYN is held, and what becomes of each.
//!
//! A held SYN is neither answered nor forwarded. Exactly one of these happens to it:
//! - the far host accepts: an endpoint is made from it, and the SYN-ACK leaves;
//! - the far host refuses: it is answered with the RST that the host would have sent;
//! - the far appliance cannot or may not, does not answer, or the channel goes down: it leaves by the WAN port as it came,
//!   and the connection is bypassed with the reason;
//! - the far host stays silent: it is forgotten, as a lost SYN would be; the host repeats it by its own clock.

use std::time::Duration;

use crate::buffer::FrameBuf;
use crate::frame::{Classified, Port, TcpSegment, bare_rst, classify};
use crate::rules::{Action, Compression};
use crate::tcp::{Endpoint, EndpointConfig};
use crate::units::Instant;

use super::bypass::BypassReason;
use super::ending::Ending;
use super::flow::{Flow, FlowId, Held, Role, Stage};
use super::limits::{buffer_size, flow_memory};
use super::message::{Message, Open, RefuseReason};
use super::relay::Relay;
use super::{Engine, Fate};

use rand_chacha::rand_core::Rng;

/// SYNs held, and far opens without an address, at most; beyond, new connections pass. A SYN flood gets no further.
pub(super) const HELD_MAX: usize = 1024;

/// How long the far appliance may take to say anything about an open. Beyond the dead-peer time nothing will come.
const ANSWER_TIME: Duration = Duration::from_secs(3);

/// How long the far host may take. A little more than hosts wait by themselves (RFC 9293 section 3.8.3: R2 for a SYN is at
/// least 3 minutes by the letter; ESX and BSD give up after 75 s), since a repeated SYN opens again.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(75);

/// How often an idle host is probed: three times before the endpoint's silence limit ends the flow, on both sides.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(30);

impl Engine {
    /// A SYN of a host by the LAN port, of no flow.
    pub(super) fn handle_syn(&mut self, now: Instant, frame: &[u8], segment: &TcpSegment<'_>) -> Fate {
        let key = segment.key;
        if let Some(known) = self.bypass.seen(now, &key, segment.ip_packet.len())
            && known.isn == Some(segment.seq)
        {
            return Fate::Forward;
        }
        // Whatever becomes of it, it begins a new connection.
        self.closed.forget(&key);
        self.orphans.forget(&key, &mut self.timers);
        match self.admit(now, frame, segment) {
            Ok(()) => {
                self.bypass.forget(&key);
                Fate::Taken
            }
            Err((reason, rule)) => {
                self.bypass.note(now, key, reason, rule, Some(segment.seq));
                Fate::Forward
            }
        }
    }

    fn admit(
        &mut self,
        now: Instant,
        frame: &[u8],
        segment: &TcpSegment<'_>,
    ) -> Result<(), (BypassReason, Option<usize>)> {
        let key = segment.key;
        let verdict = self.rules.verdict(&key);
        let Action::Accelerate { compression, weight } = verdict.action else {
            return Err((BypassReason::Rule, verdict.rule));
        };
        let refuse = |reason| Err((reason, verdict.rule));
        let options = segment.options;
        if options.md5 || options.ao || options.mptcp {
            return refuse(BypassReason::TcpOption);
        }
        if !segment.l2.src.is_unicast() || !segment.l2.dst.is_unicast() {
            return refuse(BypassReason::Address);
        }
        // A promiscuous port group shows us connections that stay on this side.
        if self.learning.side(now, segment.l2.dst, key.vlans) == Some(Port::Lan) {
            return refuse(BypassReason::LanLocal);
        }
        if !segment.verify_checksums() {
            return refuse(BypassReason::Malformed);
        }
        let Some(channel) = &mut self.channel else { return refuse(BypassReason::NoPeer) };
        if !channel.is_up() {
            return refuse(BypassReason::PeerDown);
        }
        if self.flows.len() >= self.limits.flows {
            return refuse(BypassReason::TableFull);
        }
        if self.flows.held >= HELD_MAX {
            return refuse(BypassReason::GateFull);
        }
        let buffer = buffer_size(channel.delivery_rate());
        let memory = flow_memory(buffer);
        if self.flows.memory() + memory > self.limits.memory {
            return refuse(BypassReason::Memory);
        }
        let Some(stream) = channel.open() else { return refuse(BypassReason::PeerDown) };

        let compress = compression == Compression::Auto;
        let open = Open { key, l2: segment.l2, mss: options.mss.unwrap_or(0), compress };
        let mut relay = Relay::new(compress);
        Message::Open(open).encode(relay.message_buffer());
        let mut syn = self.output.pool.take();
        syn.resize(frame.len()).copy_from_slice(frame);
        let begun = self.begin(Flow {
            role: Role::Near,
            open,
            key,
            l2: segment.l2.reversed(),
            peer_l2: None,
            stream,
            rule: verdict.rule,
            weight,
            stage: Stage::Held(Held { syn, isn: segment.seq, until: now + ANSWER_TIME, trying: false }),
            endpoint: None,
            relay,
            memory,
            buffer,
            opened_at: now,
            timer: None,
            is_dirty: false,
            host_l2: None,
        });
        begun.expect("invariant: the caller looked the key up");
        Ok(())
    }

    /// A segment of a host whose SYN is held, or that we do not know how to reach yet.
    pub(super) fn handle_held_segment(
        &mut self,
        now: Instant,
        id: FlowId,
        frame: &[u8],
        segment: &TcpSegment<'_>,
    ) -> Fate {
        let Some(flow) = self.flows.flow_mut(id) else { return Fate::Forward };
        let Stage::Held(held) = &mut flow.stage else { return Fate::Forward };
        if !segment.verify_checksums() {
            self.counters.bad_checksum += 1;
            return Fate::Taken;
        }
        if segment.flags.opens() {
            // A repetition, maybe with another ISN: the latest is the one to answer.
            held.isn = segment.seq;
            held.syn.resize(frame.len()).copy_from_slice(frame);
            flow.l2 = segment.l2.reversed();
            return Fate::Taken;
        }
        if segment.flags.rst() {
            // The host gave up; nobody else has heard of this connection.
            self.end(now, id, Ending::Abandoned);
            return Fate::Taken;
        }
        Fate::Forward
    }

    /// The held SYN leaves as it came, and the connection passes from now on.
    pub(super) fn release(&mut self, now: Instant, id: FlowId, reason: BypassReason) {
        let Some(flow) = self.end(now, id, Ending::Abandoned) else { return };
        let Stage::Held(held) = flow.stage else { return };
        self.bypass.note(now, flow.key, reason, flow.rule, Some(held.isn));
        self.output.push(Port::Wan, held.syn);
    }

    /// The turn of a flow whose SYN is held.
    pub(super) fn pump_held(&mut self, now: Instant, id: FlowId) {
        let (Some(flow), Some(channel)) = (self.flows.flow_mut(id), &mut self.channel) else { return };
        flow.relay.flush(channel, flow.stream);
        let Stage::Held(held) = &flow.stage else { return };
        if held.until <= now {
            if held.trying {
                self.end(now, id, Ending::Abandoned);
            } else {
                self.release(now, id, BypassReason::Unanswered);
            }
        }
    }

    /// The far appliance's answer to an open.
    pub(super) fn handle_answer(&mut self, now: Instant, id: FlowId, message: Message) {
        let Some(flow) = self.flows.flow_mut(id) else { return };
        let Stage::Held(held) = &mut flow.stage else {
            self.end(now, id, Ending::Fault);
            return;
        };
        match message {
            Message::Trying => {
                held.trying = true;
                held.until = flow.opened_at + CONNECT_TIME;
                self.mark_dirty(id);
            }
            Message::Opened { l2, .. } => {
                flow.peer_l2 = Some(l2);
                self.accept(now, id);
            }
            Message::Refused(RefuseReason::ConnectionRefused) => self.answer_with_reset(now, id),
            Message::Refused(reason) => match reason.bypass() {
                Some(reason) => self.release(now, id, reason),
                None => {
                    self.end(now, id, Ending::Abandoned);
                }
            },
            Message::Open(_) | Message::Orphan(_) => {
                self.release(now, id, BypassReason::PeerReset);
            }
        }
    }

    /// The far host has accepted: so do we.
    fn accept(&mut self, now: Instant, id: FlowId) {
        let seed = self.random.next_u64();
        let Some(flow) = self.flows.flow_mut(id) else { return };
        let Stage::Held(held) = &flow.stage else { return };
        let Classified::Tcp(syn) = classify(&held.syn) else {
            unreachable!("invariant: only classified SYNs are held")
        };
        let config = EndpointConfig {
            local: flow.key.dst,
            remote: flow.key.src,
            mss: port_mss(self.lan_mtu, flow.key.src.is_ipv6()),
            l2: flow.l2,
            receive_buffer: flow.buffer,
            send_buffer: flow.buffer,
            seed,
        };
        let mut endpoint = Endpoint::accept(config, now, syn.ip_packet);
        endpoint.set_keep_alive(Some(KEEP_ALIVE));
        flow.endpoint = Some(endpoint);
        if let Stage::Held(held) = std::mem::replace(&mut flow.stage, Stage::Relaying) {
            self.flows.held -= 1;
            self.output.pool.put(held.syn);
        }
        self.mark_dirty(id);
    }

    /// The far host refused: its RST, as it would have reached our host (RFC 9293 section 3.10.7.1).
    fn answer_with_reset(&mut self, now: Instant, id: FlowId) {
        self.counters.opens_refused += 1;
        let Some(flow) = self.end(now, id, Ending::Abandoned) else { return };
        let Stage::Held(held) = flow.stage else { return };
        if let Classified::Tcp(syn) = classify(&held.syn) {
            let ack = syn.seq.wrapping_add(syn.seq_len());
            self.output
                .build(Port::Lan, |frame: &mut FrameBuf| bare_rst(frame, &flow.l2, &flow.key.reversed(), 0, Some(ack)));
        }
    }
}

/// The MSS that our LAN port can take (RFC 9293 section 3.7.1).
pub(super) fn port_mss(lan_mtu: usize, is_ipv6: bool) -> u16 {
    let headers = if is_ipv6 { 60 } else { 40 };
    u16::try_from(lan_mtu.saturating_sub(headers)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mss_of_the_port_leaves_room_for_the_headers() {
        assert_eq!(port_mss(1500, false), 1460);
        assert_eq!(port_mss(9000, true), 8940);
        assert_eq!(port_mss(0, false), 0);
    }
}
