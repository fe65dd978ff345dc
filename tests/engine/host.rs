//! A host that knows nothing of appliances: it answers ARP, accepts, refuses or ignores connections, and moves bytes.

use std::net::{IpAddr, SocketAddr};

use longhaul::buffer::{FrameBuf, FramePool};
use longhaul::frame::{
    Classified, FlowKey, L2Header, MacAddr, TcpFlags, TcpSegment, VNET_HEADER_LEN, VlanStack, bare_rst, classify,
};
use longhaul::tcp::{Endpoint, EndpointConfig, EndpointState};
use longhaul::units::{ByteCount, Instant};

/// What a host does with a SYN to a port without a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnSyn {
    Accept,
    Refuse,
    Ignore,
}

/// One connection of a host, and the program behind it.
pub struct Connection {
    /// Direction host to other end.
    pub key: FlowKey,
    pub endpoint: Endpoint,
    /// What the program has to send.
    pub outbox: Vec<u8>,
    pub sent: usize,
    /// Close our direction after the outbox.
    pub finish: bool,
    /// Close our direction once the other end has closed its.
    pub finish_after_peer: bool,
    /// What the program has read.
    pub inbox: Vec<u8>,
    /// The program does not read.
    pub is_paused: bool,
}

impl Connection {
    pub fn state(&self) -> EndpointState {
        self.endpoint.state()
    }

    pub fn received_all(&self) -> bool {
        self.endpoint.is_recv_finished()
    }
}

/// One host on a LAN.
pub struct Host {
    pub ip: IpAddr,
    pub mac: MacAddr,
    /// Where frames for other hosts go.
    pub next_hop: MacAddr,
    pub vlans: VlanStack,
    pub on_syn: OnSyn,
    pub answers_arp: bool,
    pub is_dead: bool,
    /// Outbox of accepted connections.
    pub greeting: Vec<u8>,
    pub pauses_accepted: bool,
    pub connections: Vec<Connection>,
    /// Frames received.
    pub log: Vec<Vec<u8>>,
    outgoing: Vec<FrameBuf>,
    pool: FramePool,
    seed: u64,
}

const BUFFER: ByteCount = ByteCount::from_kib(256);

impl Host {
    pub fn new(ip: IpAddr, mac: MacAddr, next_hop: MacAddr) -> Self {
        Host {
            ip,
            mac,
            next_hop,
            vlans: VlanStack::default(),
            on_syn: OnSyn::Accept,
            answers_arp: true,
            is_dead: false,
            greeting: Vec::new(),
            pauses_accepted: false,
            connections: Vec::new(),
            log: Vec::new(),
            outgoing: Vec::new(),
            pool: FramePool::default(),
            seed: u64::from(mac.0[5]),
        }
    }

    pub fn l2(&self) -> L2Header {
        L2Header { dst: self.next_hop, src: self.mac, vlans: self.vlans }
    }

    fn config(&mut self, key: FlowKey, l2: L2Header) -> EndpointConfig {
        self.seed += 1;
        EndpointConfig {
            local: key.src,
            remote: key.dst,
            mss: 1460,
            l2,
            receive_buffer: BUFFER,
            send_buffer: BUFFER,
            seed: self.seed,
        }
    }

    fn add(&mut self, key: FlowKey, endpoint: Endpoint, outbox: Vec<u8>, is_paused: bool) -> usize {
        self.connections.push(Connection {
            key,
            endpoint,
            outbox,
            sent: 0,
            finish: false,
            finish_after_peer: true,
            inbox: Vec::new(),
            is_paused,
        });
        self.connections.len() - 1
    }

    /// Connects; the program sends `outbox` and finishes.
    pub fn connect(&mut self, now: Instant, port: u16, to: SocketAddr, outbox: Vec<u8>) -> usize {
        let key = FlowKey { vlans: self.vlans.ids(), src: (self.ip, port).into(), dst: to };
        let l2 = self.l2();
        let config = self.config(key, l2);
        let endpoint = Endpoint::connect(config, now);
        let at = self.add(key, endpoint, outbox, false);
        self.connections[at].finish = true;
        at
    }

    /// Announces the host's address to everybody.
    pub fn announce(&mut self) {
        let IpAddr::V4(ip) = self.ip else { return };
        let mut packet = [0, 1, 8, 0, 6, 4, 0, 1].to_vec();
        packet.extend_from_slice(&self.mac.0);
        packet.extend_from_slice(&ip.octets());
        packet.extend_from_slice(&[0; 6]);
        packet.extend_from_slice(&ip.octets());
        self.send_ethernet(MacAddr::BROADCAST, 0x0806, &packet);
    }

    pub fn send_ethernet(&mut self, dst: MacAddr, ether_type: u16, payload: &[u8]) {
        let l2 = L2Header { dst, src: self.mac, vlans: self.vlans };
        let mut frame = FrameBuf::with_headroom();
        frame.resize(payload.len()).copy_from_slice(payload);
        l2.write(ether_type, frame.prepend(l2.header_len()));
        frame.prepend(VNET_HEADER_LEN);
        self.outgoing.push(frame);
    }

    pub fn handle_frame(&mut self, now: Instant, frame: &[u8]) {
        self.log.push(frame.to_vec());
        if self.is_dead {
            return;
        }
        match classify(frame) {
            Classified::Tcp(segment) if segment.key.dst.ip() == self.ip => self.handle_segment(now, &segment),
            Classified::Other => self.handle_arp(frame),
            _ => {}
        }
    }

    /// A probe (RFC 5227): who has our address?
    fn handle_arp(&mut self, frame: &[u8]) {
        let IpAddr::V4(ip) = self.ip else { return };
        let at = VNET_HEADER_LEN + L2Header { vlans: self.vlans, ..L2Header::default() }.header_len();
        if frame.len() < at + 28 || frame[at - 2..at] != [8, 6] || frame[at + 24..at + 28] != ip.octets() {
            return;
        }
        let mut asker = MacAddr::default();
        asker.0.copy_from_slice(&frame[at + 8..at + 14]);
        if frame[at + 7] == 1 && self.answers_arp {
            let mut packet = [0, 1, 8, 0, 6, 4, 0, 2].to_vec();
            packet.extend_from_slice(&self.mac.0);
            packet.extend_from_slice(&ip.octets());
            packet.extend_from_slice(&asker.0);
            packet.extend_from_slice(&frame[at + 14..at + 18]);
            self.send_ethernet(asker, 0x0806, &packet);
        }
    }

    fn handle_segment(&mut self, now: Instant, segment: &TcpSegment<'_>) {
        let key = segment.key.reversed();
        let is_same = |connection: &&mut Connection| (connection.key.src, connection.key.dst) == (key.src, key.dst);
        let is_alive = |connection: &Connection| {
            matches!(connection.state(), EndpointState::Opening | EndpointState::Open)
                || (connection.state() == EndpointState::Closed && !segment.flags.opens())
        };
        if let Some(connection) = self.connections.iter_mut().rev().find(is_same)
            && is_alive(connection)
        {
            connection.endpoint.handle_segment(now, segment.ip_packet);
            return;
        }
        match self.on_syn {
            _ if segment.flags.rst() => {}
            OnSyn::Accept if segment.flags.opens() => {
                let config = self.config(key, segment.l2.reversed());
                let endpoint = Endpoint::accept(config, now, segment.ip_packet);
                self.add(key, endpoint, self.greeting.clone(), self.pauses_accepted);
            }
            OnSyn::Ignore if segment.flags.opens() => {}
            _ => {
                let mut frame = FrameBuf::with_headroom();
                let l2 = segment.l2.reversed();
                if segment.flags.contains(TcpFlags::ACK) {
                    bare_rst(&mut frame, &l2, &key, segment.ack, None);
                } else {
                    bare_rst(&mut frame, &l2, &key, 0, Some(segment.seq.wrapping_add(segment.seq_len())));
                }
                self.outgoing.push(frame);
            }
        }
    }

    /// Lets the programs run and takes what leaves.
    pub fn tick(&mut self, now: Instant) -> Vec<FrameBuf> {
        let mut outgoing = std::mem::take(&mut self.outgoing);
        if self.is_dead {
            return Vec::new();
        }
        for connection in &mut self.connections {
            while !connection.is_paused
                && let Some(taken) = connection.endpoint.recv(|bytes| {
                    connection.inbox.extend_from_slice(bytes);
                    (bytes.len(), bytes.len())
                })
                && taken > 0
            {}
            connection.sent += connection.endpoint.send(&connection.outbox[connection.sent..]);
            let is_sent = connection.sent == connection.outbox.len();
            let peer_is_done = connection.finish_after_peer && connection.endpoint.is_recv_finished();
            if is_sent && (connection.finish || peer_is_done) {
                connection.endpoint.finish();
                connection.finish = false;
                connection.finish_after_peer = false;
            }
            connection.endpoint.poll(now, &mut self.pool, &mut |frame| outgoing.push(frame));
        }
        outgoing
    }

    pub fn poll_timeout(&mut self, now: Instant) -> Option<Instant> {
        if self.is_dead {
            return None;
        }
        if !self.outgoing.is_empty() {
            return Some(now);
        }
        self.connections.iter_mut().filter_map(|connection| connection.endpoint.poll_timeout(now)).min()
    }
}
