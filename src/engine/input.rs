//! What becomes of a frame: forward it, learn from it, or hand it to the flow it belongs to.

use crate::frame::{Classified, FlowKey, Port, TcpSegment, Untouchable, bare_rst, classify};
use crate::rules::Action;
use crate::units::{ByteCount, Instant};

use super::bypass::BypassReason;
use super::closed::Closed;
use super::flow::{FlowId, Role, Stage};
use super::{Engine, Fate};

impl Engine {
    pub(super) fn dispatch_frame(&mut self, now: Instant, port: Port, frame: &[u8]) -> Fate {
        match classify(frame) {
            Classified::Tcp(segment) => {
                let (src, dst) = (segment.key.src.ip(), segment.key.dst.ip());
                let fate = self.handle_segment(now, port, frame, &segment);
                if fate == Fate::Forward || port == Port::Lan {
                    self.learning.handle_ip(now, port, &segment.l2, src, dst);
                }
                fate
            }
            Classified::Untouchable(untouchable) => {
                self.note_untouchable(now, port, &untouchable, frame.len());
                if let Some(key) = untouchable.key {
                    self.learning.handle_ip(now, port, &untouchable.l2, key.src.ip(), key.dst.ip());
                }
                Fate::Forward
            }
            Classified::Neighbor(neighbor) => {
                self.learning.handle_neighbor(now, port, &neighbor);
                if port == Port::Lan {
                    self.retry_resolving(neighbor.ip);
                }
                // The answer to a probe of ours is nobody else's business.
                if neighbor.l2.dst == self.own_mac { Fate::Taken } else { Fate::Forward }
            }
            Classified::Ip(packet) => {
                self.learning.handle_ip(now, port, &packet.l2, packet.src, packet.dst);
                Fate::Forward
            }
            Classified::Other => Fate::Forward,
        }
    }

    fn handle_segment(&mut self, now: Instant, port: Port, frame: &[u8], segment: &TcpSegment<'_>) -> Fate {
        let key = segment.key;
        let is_candidate = self.prefilter.admits(&key);
        if is_candidate && let Some(id) = self.flows.by_host_key(&key) {
            if port == Port::Lan {
                return self.handle_host_segment(now, id, frame, segment);
            }
            return self.handle_stray(id);
        }
        if is_candidate && let Some(id) = self.flows.by_host_key(&key.reversed()) {
            if port == Port::Wan && segment.flags.opens() && self.is_withdrawn(id) {
                // The opener's appliance has let the SYN go after all: leave the connection to the hosts.
                self.abandon(now, id);
                self.expect_answer(&key);
                return Fate::Forward;
            }
            return self.handle_stray(id);
        }
        match port {
            Port::Wan => {
                if segment.flags.opens() {
                    self.contradictions.forget(&key.reversed());
                    self.bypass.count(BypassReason::WanInitiated);
                    self.expect_answer(&key);
                }
                if is_candidate { self.watch(now, port, segment) } else { Fate::Forward }
            }
            Port::Lan if segment.flags.opens() => {
                self.contradictions.forget(&key);
                self.handle_syn(now, frame, segment)
            }
            Port::Lan => self.handle_unknown(now, segment),
        }
    }

    /// A segment of the host of a flow, by the LAN port.
    fn handle_host_segment(&mut self, now: Instant, id: FlowId, frame: &[u8], segment: &TcpSegment<'_>) -> Fate {
        let Some(flow) = self.flows.flow_mut(id) else { return Fate::Forward };
        let Some(endpoint) = &mut flow.endpoint else { return self.handle_held_segment(now, id, frame, segment) };
        if !segment.verify_checksums() {
            self.counters.bad_checksum += 1;
            return Fate::Taken;
        }
        if flow.host_l2 != Some(segment.l2) && segment.l2.src.is_unicast() && segment.l2.dst.is_unicast() {
            flow.host_l2 = Some(segment.l2);
            endpoint.set_l2(segment.l2.reversed());
        }
        endpoint.handle_segment(now, segment.ip_packet);
        self.mark_dirty(id);
        Fate::Taken
    }

    /// A segment with the addresses of a flow where none can come from.
    fn handle_stray(&mut self, id: FlowId) -> Fate {
        // Before there is an endpoint, nothing of the flow exists but a SYN that we hold.
        if self.flows.flow(id).is_some_and(|flow| flow.endpoint.is_none()) {
            return Fate::Forward;
        }
        self.counters.stray_segments += 1;
        Fate::Taken
    }

    /// A SYN passes: what is remembered of an earlier connection with its addresses must not meet the answer.
    fn expect_answer(&mut self, key: &FlowKey) {
        self.closed.forget(&key.reversed());
        self.orphans.forget(&key.reversed(), &mut self.timers);
    }

    /// Whether a SYN of the opener that came by the WAN port can be believed: it has let nothing through this flow yet,
    /// or its appliance cannot tell us otherwise. A flow in use is not ended by whoever can send a SYN.
    fn is_withdrawn(&self, id: FlowId) -> bool {
        let is_up = self.channel.as_ref().is_some_and(|channel| channel.is_up());
        self.flows.flow(id).is_some_and(|flow| match flow.stage {
            Stage::Connecting { .. } | Stage::Resolving(_) => true,
            Stage::Relaying => flow.role == Role::Far && (!is_up || flow.relay.given_to_host() == ByteCount::ZERO),
            Stage::Held(_) => false,
        })
    }

    /// A segment of a host that is neither a SYN nor of a flow.
    fn handle_unknown(&mut self, now: Instant, segment: &TcpSegment<'_>) -> Fate {
        let key = segment.key;
        if let Some(flow) = self.bypass.seen(now, &key, segment.ip_packet.len()) {
            let is_old = flow.reason == BypassReason::MidStream;
            return if is_old { self.watch(now, Port::Lan, segment) } else { Fate::Forward };
        }
        if self.closed.handle_segment(now, segment, &mut self.output)
            || self.orphans.handle_segment(segment, &mut self.timers, &mut self.output)
        {
            self.counters.late_segments += 1;
            return Fate::Taken;
        }
        if segment.flags.syn() {
            self.bypass.record(now, key, BypassReason::WanInitiated, None, None);
        } else {
            let verdict = self.rules.verdict(&key);
            let opposite = self.rules.verdict(&key.reversed());
            let is_wanted = |action| matches!(action, Action::Accelerate { .. });
            let reason = match is_wanted(verdict.action) || is_wanted(opposite.action) {
                true => BypassReason::MidStream,
                false => BypassReason::Rule,
            };
            self.bypass.note(now, key, reason, verdict.rule, None);
        }
        Fate::Forward
    }

    /// A segment of a connection that passes and may be older than this start of ours: if it was split when both appliances
    /// started anew, both hosts hear of it.
    fn watch(&mut self, now: Instant, port: Port, segment: &TcpSegment<'_>) -> Fate {
        if !self.contradictions.is_watching(now) {
            return Fate::Forward;
        }
        let Some(found) = self.contradictions.handle_segment(now, port, segment) else { return Fate::Forward };
        let host_key = if port == Port::Lan { segment.key } else { segment.key.reversed() };
        let (to_host, to_other) = (found.l2.reversed(), found.l2);
        self.output.build(Port::Lan, |frame| {
            bare_rst(frame, &to_host, &host_key.reversed(), found.lan_expects, None);
        });
        self.output.build(Port::Wan, |frame| bare_rst(frame, &to_other, &host_key, found.wan_expects, None));
        self.counters.orphans_reset += 1;
        self.bypass.forget(&host_key);
        self.closed.remember(host_key, Closed::reset(now, to_host));
        Fate::Taken
    }

    fn note_untouchable(&mut self, now: Instant, port: Port, untouchable: &Untouchable, frame_len: usize) {
        let reason = BypassReason::from(untouchable.reason);
        match untouchable.key {
            // Later fragments have no ports to tell connections apart: they are counted one by one.
            None => self.bypass.count(reason),
            Some(key) if port == Port::Lan && self.flows.by_host_key(&key).is_none() => {
                if self.bypass.seen(now, &key, frame_len).is_none() {
                    self.bypass.note(now, key, reason, None, None);
                }
            }
            Some(_) => self.bypass.count(reason),
        }
    }
}
