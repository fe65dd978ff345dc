//! Why a TCP connection passes through instead of being accelerated: numbered reasons, counters, recent connections.

use std::fmt;

use crate::frame::{FlowKey, Reason as FrameReason};
use crate::units::Instant;

use super::lru::{Lru, SeededState};

/// Why a connection is not accelerated. The numbers are part of the status interface: never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum BypassReason {
    /// The rules say so, or none matches.
    Rule = 1,
    /// Its beginning was not seen: older than the appliance, or routed past it in the other direction.
    MidStream = 2,
    /// The channel to the peer is down, or went down while the open was under way.
    PeerDown = 3,
    /// The far appliance does not know how to reach the far host on its LAN side.
    NoL2Address = 4,
    /// [`super::Limits::flows`] is reached here.
    TableFull = 5,
    /// [`super::Limits::memory`] is reached here.
    Memory = 6,
    /// TCP MD5 or TCP-AO protects the connection end to end, or it is Multipath TCP.
    TcpOption = 7,
    /// Fragments cannot be terminated.
    Fragment = 8,
    /// IPv4 options or IPv6 extension headers.
    IpOptions = 9,
    /// Opened from the WAN side, where the appliance of the opener's side decides, and let it pass.
    WanInitiated = 10,
    /// The far appliance's own rules do not accelerate it: the rules are not mirrored.
    RefusedByPolicy = 11,
    /// As many opens are under way as may be.
    GateFull = 12,
    /// The far appliance's tables or memory are full.
    PeerFull = 13,
    /// The far appliance did not answer the open in time.
    Unanswered = 14,
    /// Addresses or ports that no ordinary connection has.
    Address = 15,
    /// Both hosts open the same connection at once, or the far appliance has one with these addresses.
    Conflict = 16,
    /// The far appliance speaks another version of the open request.
    PeerVersion = 17,
    /// Lengths, flags, options or checksums that contradict each other.
    Malformed = 18,
    /// More VLAN tags than are understood.
    VlanDepth = 19,
    /// No peer is configured: a plain bridge.
    NoPeer = 20,
    /// The far appliance reset the stream while the open was under way.
    PeerReset = 21,
    /// Its destination is on the LAN side too: it does not cross the WAN.
    LanLocal = 22,
}

impl BypassReason {
    /// All reasons, by number.
    pub const ALL: [BypassReason; 22] = {
        use BypassReason::*;
        [
            Rule,
            MidStream,
            PeerDown,
            NoL2Address,
            TableFull,
            Memory,
            TcpOption,
            Fragment,
            IpOptions,
            WanInitiated,
            RefusedByPolicy,
            GateFull,
            PeerFull,
            Unanswered,
            Address,
            Conflict,
            PeerVersion,
            Malformed,
            VlanDepth,
            NoPeer,
            PeerReset,
            LanLocal,
        ]
    };

    /// Its stable number.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Its stable name, as in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            BypassReason::Rule => "rule",
            BypassReason::MidStream => "mid_stream",
            BypassReason::PeerDown => "peer_down",
            BypassReason::NoL2Address => "no_l2_address",
            BypassReason::TableFull => "table_full",
            BypassReason::Memory => "memory",
            BypassReason::TcpOption => "tcp_option",
            BypassReason::Fragment => "fragment",
            BypassReason::IpOptions => "ip_options",
            BypassReason::WanInitiated => "wan_initiated",
            BypassReason::RefusedByPolicy => "refused_by_policy",
            BypassReason::GateFull => "gate_full",
            BypassReason::PeerFull => "peer_full",
            BypassReason::Unanswered => "unanswered",
            BypassReason::Address => "address",
            BypassReason::Conflict => "conflict",
            BypassReason::PeerVersion => "peer_version",
            BypassReason::Malformed => "malformed",
            BypassReason::VlanDepth => "vlan_depth",
            BypassReason::NoPeer => "no_peer",
            BypassReason::PeerReset => "peer_reset",
            BypassReason::LanLocal => "lan_local",
        }
    }
}

impl fmt::Display for BypassReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<FrameReason> for BypassReason {
    fn from(reason: FrameReason) -> Self {
        match reason {
            FrameReason::Fragment => BypassReason::Fragment,
            FrameReason::IpOptions | FrameReason::ExtensionHeaders => BypassReason::IpOptions,
            FrameReason::VlanDepth => BypassReason::VlanDepth,
            FrameReason::Address => BypassReason::Address,
            FrameReason::Malformed | FrameReason::NotTcp => BypassReason::Malformed,
        }
    }
}

/// One connection that passes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BypassedFlow {
    /// Why.
    pub reason: BypassReason,
    /// Index of the rule that matched, if the rules were asked and one did.
    pub rule: Option<usize>,
    /// ISN of the SYN that was let pass; `None` if it began otherwise. A retransmission of that SYN passes too.
    pub isn: Option<u32>,
    /// When it was first seen.
    pub first_seen: Instant,
    /// When a frame of it was last seen.
    pub last_seen: Instant,
    /// Frames seen, in the direction of its key.
    pub frames: u64,
    /// IP bytes seen, in the direction of its key.
    pub bytes: u64,
}

/// Connections of which a record is kept; the longest silent one is forgotten.
const RECENT_MAX: usize = 4096;

/// How long a record says more than a fresh look at the rules would.
const RECENT_TIME: std::time::Duration = std::time::Duration::from_secs(300);

/// Bypassed connections by direction, and how many there were for each reason.
#[derive(Debug)]
pub(super) struct BypassTable {
    recent: Lru<FlowKey, BypassedFlow>,
    counters: [u64; BypassReason::ALL.len()],
}

impl BypassTable {
    pub(super) fn new(state: SeededState) -> Self {
        BypassTable { recent: Lru::new(RECENT_MAX, state), counters: [0; BypassReason::ALL.len()] }
    }

    /// Records that the connection which `key` is a direction of passes, and counts the reason.
    pub(super) fn note(
        &mut self,
        now: Instant,
        key: FlowKey,
        reason: BypassReason,
        rule: Option<usize>,
        isn: Option<u32>,
    ) {
        self.count(reason);
        self.record(now, key, reason, rule, isn);
    }

    /// Records without counting: the reason was counted when the other direction began.
    pub(super) fn record(
        &mut self,
        now: Instant,
        key: FlowKey,
        reason: BypassReason,
        rule: Option<usize>,
        isn: Option<u32>,
    ) {
        let (first_seen, last_seen) = (now, now);
        self.recent.insert(key, BypassedFlow { reason, rule, isn, first_seen, last_seen, frames: 0, bytes: 0 });
    }

    /// Forgets the record: the connection is accelerated now.
    pub(super) fn forget(&mut self, key: &FlowKey) {
        self.recent.remove(key);
    }

    /// Counts a reason without a key to record.
    pub(super) fn count(&mut self, reason: BypassReason) {
        self.counters[usize::from(reason.number()) - 1] += 1;
    }

    /// Counts one frame of a connection known to pass. Says which, or `None` when it is not known (any more).
    pub(super) fn seen(&mut self, now: Instant, key: &FlowKey, ip_len: usize) -> Option<&BypassedFlow> {
        if now.saturating_since(self.recent.touch(key)?.last_seen) > RECENT_TIME {
            self.recent.remove(key);
            return None;
        }
        let entry = self.recent.newest_mut()?;
        entry.last_seen = now;
        entry.frames += 1;
        entry.bytes += ip_len as u64;
        Some(entry)
    }

    /// How many connections passed for `reason`.
    pub(super) fn counter(&self, reason: BypassReason) -> u64 {
        self.counters[usize::from(reason.number()) - 1]
    }

    /// Recent ones, the last seen first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&FlowKey, &BypassedFlow)> {
        self.recent.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::VlanIds;

    fn key(port: u16) -> FlowKey {
        let src = ([10, 0, 0, 1], port).into();
        FlowKey { vlans: VlanIds::default(), src, dst: ([10, 0, 0, 2], 8000).into() }
    }

    #[test]
    fn numbers_and_names_are_stable_and_unique() {
        for (index, reason) in BypassReason::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(reason.number()), index + 1);
            assert!(BypassReason::ALL.iter().filter(|other| other.name() == reason.name()).count() == 1);
        }
        assert_eq!((BypassReason::Rule.number(), BypassReason::Rule.name()), (1, "rule"));
        assert_eq!((BypassReason::PeerReset.number(), BypassReason::PeerReset.name()), (21, "peer_reset"));
    }

    #[test]
    fn records_are_bounded_and_expire() {
        let mut table = BypassTable::new(SeededState::new([0, 0]));
        for port in 0..RECENT_MAX as u16 + 10 {
            table.note(Instant::ZERO, key(port), BypassReason::Rule, Some(1), None);
        }
        assert_eq!(table.iter().count(), RECENT_MAX);
        assert_eq!(table.counter(BypassReason::Rule), RECENT_MAX as u64 + 10);
        assert!(table.seen(Instant::ZERO, &key(0), 40).is_none());
        assert_eq!(table.seen(Instant::ZERO, &key(10), 40).unwrap().bytes, 40);
        assert!(table.seen(Instant::ZERO + 2 * RECENT_TIME, &key(10), 40).is_none());
    }
}
