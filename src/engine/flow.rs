//! The flow table: one entry per accelerated connection, found by id, by the host's segments, or by stream.

use std::collections::{BTreeMap, HashMap};

use crate::buffer::FrameBuf;
use crate::channel::StreamId;
use crate::frame::{FlowKey, L2Header, MacAddr};
use crate::tcp::Endpoint;
use crate::units::{ByteCount, Instant, Weight};

use super::lru::SeededState;
use super::message::Open;
use super::relay::Relay;

/// One accelerated connection at this appliance; ascending in the order of opening, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FlowId(pub u64);

/// Which side of the connection this appliance is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Its host opens the connection.
    Near,
    /// Its host is connected to.
    Far,
}

/// Where a flow is on its way.
#[derive(Debug)]
pub(super) enum Stage {
    /// Near: the host's SYN is held until the far appliance answers.
    Held(Held),
    /// Far: the Ethernet address of the host is being asked for.
    Resolving(Resolving),
    /// Far: the host has not answered our SYN yet; until when it may.
    Connecting {
        /// When to give up.
        give_up: Instant,
    },
    /// Bytes may flow.
    Relaying,
}

/// A held SYN.
#[derive(Debug)]
pub(super) struct Held {
    /// The frame as it came; the latest if the host repeated itself.
    pub(super) syn: FrameBuf,
    /// Its sequence number.
    pub(super) isn: u32,
    /// When to let it go if the far appliance says nothing at all, or, once it tries, when to forget it.
    pub(super) until: Instant,
    /// Whether the far appliance has said that it is trying.
    pub(super) trying: bool,
}

/// A far flow without an Ethernet address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolving {
    /// Probes sent.
    pub(super) probes: u32,
    /// When to send the next one or give up.
    pub(super) next: Instant,
}

/// One accelerated connection.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) role: Role,
    /// The open request; its key has the VLANs of the opener's side.
    pub(super) open: Open,
    /// The connection in its opener's direction, with the VLANs of our side.
    pub(super) key: FlowKey,
    /// The header that reaches our host, as at the open (later ones follow the host's frames in the endpoint).
    pub(super) l2: L2Header,
    /// The header with which the peer reaches its host, for an orphan message; known once opened.
    pub(super) peer_l2: Option<L2Header>,
    pub(super) stream: StreamId,
    /// Index of the rule that matched here.
    pub(super) rule: Option<usize>,
    /// Of its stream, in the direction that leaves here.
    pub(super) weight: Weight,
    pub(super) stage: Stage,
    pub(super) endpoint: Option<Endpoint>,
    pub(super) relay: Relay,
    /// What it counts against the memory limit.
    pub(super) memory: ByteCount,
    /// Size of its receive and of its send buffer.
    pub(super) buffer: ByteCount,
    pub(super) opened_at: Instant,
    /// The deadline that its timer is set to.
    pub(super) timer: Option<Instant>,
    /// Whether it waits in the list of flows to be pumped.
    pub(super) is_dirty: bool,
    /// Source and VLANs of the last frame of the host, so that only a change is passed on.
    pub(super) host_l2: Option<L2Header>,
}

impl Flow {
    /// The key of the segments that our host sends.
    pub(super) fn host_key(&self) -> FlowKey {
        match self.role {
            Role::Near => self.key,
            Role::Far => self.key.reversed(),
        }
    }
}

/// All flows.
#[derive(Debug)]
pub(super) struct FlowTable {
    flows: BTreeMap<FlowId, Flow>,
    /// By the key of the host's segments. Never iterated.
    by_host_key: HashMap<FlowKey, FlowId, SeededState>,
    next: u64,
    memory: ByteCount,
    /// Flows in [`Stage::Held`] or [`Stage::Resolving`].
    pub(super) held: usize,
}

impl FlowTable {
    pub(super) fn new(state: SeededState) -> Self {
        FlowTable {
            flows: BTreeMap::new(),
            by_host_key: HashMap::with_hasher(state),
            next: 0,
            memory: ByteCount::ZERO,
            held: 0,
        }
    }

    /// Enters a flow. `None` if its host has one with these addresses already.
    pub(super) fn insert(&mut self, flow: Flow) -> Option<FlowId> {
        let host_key = flow.host_key();
        if self.by_host_key.contains_key(&host_key) {
            return None;
        }
        let id = FlowId(self.next);
        self.next += 1;
        self.by_host_key.insert(host_key, id);
        self.memory += flow.memory;
        self.flows.insert(id, flow);
        Some(id)
    }

    /// Takes a flow out.
    pub(super) fn remove(&mut self, id: FlowId) -> Option<Flow> {
        let flow = self.flows.remove(&id)?;
        self.by_host_key.remove(&flow.host_key());
        self.memory -= flow.memory;
        Some(flow)
    }

    /// Gives a flow the VLANs of our side. False, and no change, if another flow has that key.
    pub(super) fn rekey(&mut self, id: FlowId, key: FlowKey) -> bool {
        let Some(flow) = self.flows.get_mut(&id) else { return false };
        if flow.key == key {
            return true;
        }
        let old = flow.host_key();
        let new = match flow.role {
            Role::Near => key,
            Role::Far => key.reversed(),
        };
        if self.by_host_key.contains_key(&new) {
            return false;
        }
        flow.key = key;
        self.by_host_key.remove(&old);
        self.by_host_key.insert(new, id);
        true
    }

    /// The flow whose host sends segments with this key.
    pub(super) fn by_host_key(&self, key: &FlowKey) -> Option<FlowId> {
        self.by_host_key.get(key).copied()
    }

    pub(super) fn flow(&self, id: FlowId) -> Option<&Flow> {
        self.flows.get(&id)
    }

    pub(super) fn flow_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(&id)
    }

    /// All ids, in the order of opening.
    pub(super) fn ids(&self) -> Vec<FlowId> {
        self.flows.keys().copied().collect()
    }

    /// All flows, in the order of opening.
    pub(super) fn iter(&self) -> impl Iterator<Item = (FlowId, &Flow)> {
        self.flows.iter().map(|(&id, flow)| (id, flow))
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Buffer bytes of all flows.
    pub(super) fn memory(&self) -> ByteCount {
        self.memory
    }
}

/// How the appliance learns which probes of its own were answered: the address it sends them from.
///
/// Locally administered (IEEE 802 section 8.4), so that it collides with no host's.
pub(super) fn own_mac(random: u64) -> MacAddr {
    let [a, b, c, d, e, _, _, _] = random.to_be_bytes();
    MacAddr([0x02, a, b, c, d, e])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::VlanIds;

    fn flow(port: u16, role: Role) -> Flow {
        let key =
            FlowKey { vlans: VlanIds::default(), src: ([10, 0, 0, 1], port).into(), dst: ([10, 0, 0, 2], 8000).into() };
        Flow {
            role,
            open: Open { key, l2: L2Header::default(), mss: 1460, compress: false },
            key,
            l2: L2Header::default(),
            peer_l2: None,
            stream: StreamId(u32::from(port)),
            rule: None,
            weight: Weight::default(),
            stage: Stage::Relaying,
            endpoint: None,
            relay: Relay::new(false),
            memory: ByteCount::new(100),
            buffer: ByteCount::new(10),
            opened_at: Instant::ZERO,
            timer: None,
            is_dirty: false,
            host_l2: None,
        }
    }

    #[test]
    fn a_flow_is_found_by_the_segments_of_its_own_host_only() {
        let mut table = FlowTable::new(SeededState::new([1, 2]));
        let near = table.insert(flow(1, Role::Near)).unwrap();
        let far = table.insert(flow(2, Role::Far)).unwrap();
        let key = |id| table.flow(id).unwrap().key;
        assert_eq!(table.by_host_key(&key(near)), Some(near));
        assert_eq!(table.by_host_key(&key(near).reversed()), None);
        assert_eq!(table.by_host_key(&key(far).reversed()), Some(far));
        assert_eq!(table.by_host_key(&key(far)), None);
        assert!(table.insert(flow(1, Role::Near)).is_none());
        assert_eq!(table.memory(), ByteCount::new(200));
        table.remove(near).unwrap();
        assert_eq!((table.len(), table.memory()), (1, ByteCount::new(100)));
        assert_ne!(table.insert(flow(1, Role::Near)), Some(near));
    }

    #[test]
    fn another_vlan_is_another_key() {
        let mut table = FlowTable::new(SeededState::new([1, 2]));
        let id = table.insert(flow(1, Role::Far)).unwrap();
        let old = table.flow(id).unwrap().key;
        let new = FlowKey { vlans: VlanIds([Some(20), None]), ..old };
        assert!(table.rekey(id, new));
        assert_eq!(table.by_host_key(&old.reversed()), None);
        assert_eq!(table.by_host_key(&new.reversed()), Some(id));
        let other = table.insert(flow(1, Role::Far)).unwrap();
        assert!(!table.rekey(other, new));
        table.remove(id);
        assert!(table.rekey(other, new));
    }
}
