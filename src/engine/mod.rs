//! The whole appliance without I/O: flow table, learning, bypass, relay tcp <-> codec <-> channel, limits.
//!
//! # How to drive it
//! After every input, or every batch of inputs, (`handle_frame`, `handle_datagram`, `handle_timeout`) drain
//! [`Engine::poll_frame`] and [`Engine::poll_transmit`], then wait for the next input or until [`Engine::poll_timeout`].
//! Draining once per batch gives fuller blocks and fewer acknowledgements.
//!
//! # What happens to a frame
//! It is forwarded, at once and untouched, unless it is TCP that belongs to an accelerated flow or opens one
//! (`gate`). The near appliance holds the SYN and asks the far one, which connects to the real host as the first host
//! (`connect`); when that host has accepted, both relay (`relay`). Whatever cannot be accelerated passes, with a
//! numbered reason (`bypass`).
//!
//! Of a live flow, only segments of our own host that come in by the LAN port reach its endpoint. The same key on the
//! other port, or its reverse on either, is a duplicate (promiscuous mode), a reflection of what we emitted, or a host
//! that answers past us: dropped and counted, since to let it through would show one end segments of the other's
//! sequence space. Fragments and ICMP pass.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::buffer::FrameBuf;
use crate::channel::{Arrival, Channel, ChannelConfig, ChannelStats, StreamId, Transmit};
use crate::frame::{MacAddr, Port};
use crate::rules::Rules;
use crate::units::Instant;

mod backlog;
mod bypass;
mod closed;
mod connect;
mod contradiction;
mod control;
mod ending;
mod flow;
mod gate;
mod input;
mod learning;
mod limits;
mod lru;
mod message;
mod orphan;
mod output;
mod prefilter;
mod relay;
mod status;
mod timers;

pub use bypass::{BypassReason, BypassedFlow};
pub use flow::{FlowId, Role};
pub use limits::Limits;
pub use status::{BypassStatus, Counters, EngineStatus, FlowStage, FlowStatus};

use bypass::BypassTable;
use closed::ClosedFlows;
use contradiction::Contradictions;
use control::Owner;
use flow::{Flow, FlowTable};
use learning::Learning;
use lru::SeededState;
use message::Orphan;
use orphan::Orphans;
use output::Output;
use prefilter::Prefilter;
use relay::Scratch;
use timers::{Timer, Timers};

/// Everything the engine is built from.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Which flows to accelerate.
    pub rules: Rules,
    /// The peer; `None`: a plain bridge.
    pub channel: Option<ChannelConfig>,
    /// Largest IP packet on the LAN side.
    pub lan_mtu: usize,
    /// Limits.
    pub limits: Limits,
}

/// What the shell does with the frame it just handed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Write the same bytes, virtio-net header included, to the other port.
    Forward,
    /// The engine took it (or dropped and counted it).
    Taken,
}

/// Frames that have not been needed for this long are freed.
const RELEASE_AFTER: Duration = Duration::from_secs(1);

/// The appliance.
#[derive(Debug)]
pub struct Engine {
    rules: Rules,
    prefilter: Prefilter,
    lan_mtu: usize,
    limits: Limits,
    channel: Option<Channel>,
    flows: FlowTable,
    /// Who has to hear of a stream's events.
    streams: BTreeMap<StreamId, Owner>,
    /// Far flows that wait for the Ethernet address of a host.
    resolving: BTreeMap<IpAddr, BTreeSet<FlowId>>,
    learning: Learning,
    bypass: BypassTable,
    closed: ClosedFlows,
    orphans: Orphans,
    contradictions: Contradictions,
    /// Connections that the restarted peer has to reset at its hosts, to be told once it is up.
    lost: Vec<Orphan>,
    timers: Timers,
    /// When flows are given up because the peer stays silent; set while it is.
    outage: Option<Instant>,
    /// Flows with something to do, first come first served.
    dirty: VecDeque<FlowId>,
    output: Output,
    released_at: Instant,
    scratch: Scratch,
    random: ChaCha12Rng,
    own_mac: MacAddr,
    counters: Counters,
    /// The latest time heard.
    now: Instant,
    /// Whether the dirty flows have had their turn since the last input.
    is_settled: bool,
}

impl Engine {
    /// An engine at rest; `seed` from the OS, fixed in the simulator.
    pub fn new(config: EngineConfig, now: Instant, seed: [u8; 32]) -> Self {
        let mut random = ChaCha12Rng::from_seed(seed);
        let state = SeededState::new([random.next_u64(), random.next_u64()]);
        let mut channel_seed = [0; 32];
        random.fill_bytes(&mut channel_seed);
        Engine {
            prefilter: Prefilter::new(&config.rules),
            rules: config.rules,
            lan_mtu: config.lan_mtu,
            limits: config.limits,
            channel: config.channel.map(|channel| Channel::new(channel, now, channel_seed)),
            flows: FlowTable::new(state),
            streams: BTreeMap::new(),
            resolving: BTreeMap::new(),
            learning: Learning::new(state),
            bypass: BypassTable::new(state),
            closed: ClosedFlows::new(state),
            orphans: Orphans::default(),
            contradictions: Contradictions::new(now, state),
            lost: Vec::new(),
            timers: Timers::default(),
            outage: None,
            dirty: VecDeque::new(),
            output: Output::default(),
            released_at: now,
            scratch: Scratch::default(),
            own_mac: flow::own_mac(random.next_u64()),
            random,
            counters: Counters::default(),
            now,
            is_settled: true,
        }
    }

    /// Takes one frame as read from a TAP: virtio-net header, then Ethernet.
    pub fn handle_frame(&mut self, now: Instant, port: Port, frame: &[u8]) -> Fate {
        self.advance(now);
        let fate = self.dispatch_frame(now, port, frame);
        match fate {
            Fate::Forward => self.counters.frames_forwarded += 1,
            Fate::Taken => {
                self.counters.frames_taken += 1;
                self.is_settled = false;
            }
        }
        fate
    }

    /// Takes one datagram of the channel's socket; it is opened in place.
    pub fn handle_datagram(&mut self, now: Instant, arrival: Arrival, datagram: &mut [u8]) {
        self.advance(now);
        if let Some(channel) = &mut self.channel {
            channel.handle_datagram(now, arrival, datagram);
            self.is_settled = false;
            // At once: a frame that follows in the same batch must not meet flows of a session that is over.
            self.drain_channel_events(now);
        }
    }

    /// Does what was due at or before `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.advance(now);
        self.is_settled = false;
        if now.saturating_since(self.released_at) >= RELEASE_AFTER {
            self.released_at = now;
            self.output.pool.release_idle();
        }
        if let Some(channel) = &mut self.channel {
            channel.handle_timeout(now);
        }
        self.drain_channel_events(now);
        while let Some(timer) = self.timers.pop(now) {
            match timer {
                Timer::Flow(id) => {
                    if let Some(flow) = self.flows.flow_mut(id) {
                        flow.timer = None;
                    }
                    self.mark_dirty(id);
                }
                Timer::Orphan(id) => self.orphans.handle_timeout(now, id, &mut self.timers, &mut self.output),
                Timer::Outage => {
                    self.outage = None;
                    self.give_up_outage(now);
                }
            }
        }
    }

    /// The next deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if !self.is_settled || !self.dirty.is_empty() {
            return Some(self.now);
        }
        let channel = self.channel.as_ref().and_then(Channel::poll_timeout);
        [channel, self.timers.first()].into_iter().flatten().min()
    }

    /// The next frame to write, and to which port. Give it back with [`Engine::recycle`].
    pub fn poll_frame(&mut self) -> Option<(Port, FrameBuf)> {
        self.settle(self.now);
        self.output.pop()
    }

    /// Appends the next datagrams that may leave now to `out`.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        self.advance(now);
        self.settle(now);
        self.channel.as_mut()?.poll_transmit(now, out)
    }

    /// Takes a written frame back for reuse.
    pub fn recycle(&mut self, frame: FrameBuf) {
        self.output.pool.put(frame);
    }

    /// Ends every accelerated flow with a reset on this side and says goodbye to the peer.
    pub fn shutdown(&mut self, now: Instant) {
        self.advance(now);
        self.end_all(now, ending::Ending::Shutdown);
        if let Some(channel) = &mut self.channel {
            channel.close();
        }
    }

    /// The channel's counters; `None` for a plain bridge.
    pub fn channel_stats(&self) -> Option<ChannelStats> {
        self.channel.as_ref().map(Channel::stats)
    }

    fn advance(&mut self, now: Instant) {
        self.now = self.now.max(now);
    }

    /// Gives every flow that has something to do one turn, once after each input.
    ///
    /// One turn only: what is left makes [`Engine::poll_timeout`] say "now", so that the sockets get theirs.
    fn settle(&mut self, now: Instant) {
        if self.is_settled {
            return;
        }
        self.is_settled = true;
        self.drain_channel_events(now);
        for _ in 0..self.dirty.len() {
            if self.output.is_full() {
                break;
            }
            let Some(id) = self.dirty.pop_front() else { break };
            self.pump(now, id);
        }
    }

    /// Enters a flow whose other side is still to be asked or found. `None` if its host has one with these addresses already.
    fn begin(&mut self, flow: Flow) -> Option<FlowId> {
        let (stream, weight) = (flow.stream, flow.weight);
        let id = self.flows.insert(flow)?;
        self.flows.held += 1;
        self.streams.insert(stream, Owner::Flow(id));
        if let Some(channel) = &mut self.channel {
            channel.set_weight(stream, weight);
        }
        self.counters.flows_opened += 1;
        self.mark_dirty(id);
        Some(id)
    }

    /// Puts a flow on the list of those that get a turn.
    fn mark_dirty(&mut self, id: FlowId) {
        if let Some(flow) = self.flows.flow_mut(id)
            && !flow.is_dirty
        {
            flow.is_dirty = true;
            self.dirty.push_back(id);
        }
    }

    fn mark_all_dirty(&mut self) {
        for id in self.flows.ids() {
            self.mark_dirty(id);
        }
    }
}
