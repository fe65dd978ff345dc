//! What a channel tells about itself: counters and gauges.

use std::net::SocketAddr;
use std::time::Duration;

use super::session::Session;
use super::{Channel, ChannelState};
use crate::rate::{Phase, RateMode};
use crate::units::{BitRate, ByteCount};

/// Counters and gauges of one channel.
#[derive(Clone, Debug)]
pub struct ChannelStats {
    /// Its state.
    pub state: ChannelState,
    /// Where the peer was last heard.
    pub peer_address: Option<SocketAddr>,
    /// Smoothed RTT (RFC 9002 section 5.3).
    pub srtt: Option<Duration>,
    /// Smallest RTT of the current window: propagation delay.
    pub min_rtt: Option<Duration>,
    /// Who says how fast to send.
    pub rate_mode: RateMode,
    /// What the path delivers, wire bytes.
    pub delivery_rate: BitRate,
    /// What we pace at.
    pub pacing_rate: BitRate,
    /// Sent and not yet acknowledged or lost.
    pub bytes_in_flight: ByteCount,
    /// Datagrams sent, all kinds.
    pub datagrams_sent: u64,
    /// Authentic datagrams received.
    pub datagrams_received: u64,
    /// Wire bytes sent (UDP payload + IP + UDP headers).
    pub bytes_sent: ByteCount,
    /// Wire bytes received.
    pub bytes_received: ByteCount,
    /// Datagrams declared lost.
    pub datagrams_lost: u64,
    /// Of those, acknowledged later after all (spurious).
    pub datagrams_lost_spuriously: u64,
    /// Stream bytes sent a second time or more.
    pub bytes_retransmitted: ByteCount,
    /// Of those, sent again before they were missed, because they were a burst's end on a long and lossy path.
    pub bytes_copied: ByteCount,
    /// Repair symbols sent.
    pub repair_symbols: u64,
    /// Bytes of these, with what describes them.
    pub bytes_repair: ByteCount,
    /// Stream bytes that the peer's repair symbols gave back.
    pub bytes_recovered: ByteCount,
    /// Datagrams dropped because they were malformed, forged, replayed or of another version.
    pub datagrams_refused: u64,
    /// Pacing credit lost because the appliance came too late for it, although there was something to send.
    pub pacing_credit_unused: ByteCount,
    /// What the model of the path is doing; `None` without a session, or where the operator has set the rate.
    pub phase: Option<Phase>,
    /// Queueing delay on the path, as the last round showed it.
    pub queue: Duration,
    /// Loss that the path has whatever we do, in permille.
    pub own_loss_permille: u64,
    /// Datagrams are cut to this: an IP packet's length in bytes.
    pub path_mtu: usize,
    /// Probes sent to find it.
    pub path_mtu_probes: u64,
    /// Times the path stopped carrying what it had carried.
    pub path_mtu_black_holes: u64,
    /// Times the peer has moved to another IP address.
    pub peer_moves: u64,
    /// Handshake initiations from somebody who knows our public key.
    pub initiations: u64,
    /// Of those, answered with a cookie because there were so many.
    pub cookies_sent: u64,
    /// Of those, of a version that we do not speak.
    pub other_version: u64,
    /// That version, the last time; `None` while the session is up, or where all spoke ours.
    pub peer_version: Option<u8>,
    /// Streams open.
    pub streams: usize,
    /// Memory of stream buffers and of the record of datagrams under way.
    pub memory: ByteCount,
    /// Undelivered stream bytes: written, and not yet consumed by the far appliance.
    pub backlog: ByteCount,
}

impl Channel {
    /// Counters and gauges.
    pub fn stats(&self) -> ChannelStats {
        let session = self.session.as_ref();
        let counters = &self.counters;
        let mut all = counters.ended;
        all += session.map(Session::counters).unwrap_or_default();
        let law = session.map(Session::law);
        let rtt = session.map(Session::rtt).filter(|rtt| rtt.is_measured());
        let admission = self.doorkeeper.counters();
        let (path_mtu, mtu_counters) = session.map(Session::path_mtu).unwrap_or_default();
        ChannelStats {
            state: self.state(),
            peer_address: self.route.address(),
            srtt: rtt.map(|rtt| rtt.srtt()),
            min_rtt: rtt.and_then(|rtt| rtt.min_rtt()),
            rate_mode: self.config.rate,
            delivery_rate: law.map_or(BitRate::ZERO, |law| law.delivery_rate()),
            pacing_rate: self.pacing_rate(),
            bytes_in_flight: session.map_or(ByteCount::ZERO, Session::in_flight),
            datagrams_sent: counters.datagrams_sent,
            datagrams_received: counters.datagrams_received,
            bytes_sent: ByteCount::new(counters.bytes_sent),
            bytes_received: ByteCount::new(counters.bytes_received),
            datagrams_lost: all.datagrams_lost,
            datagrams_lost_spuriously: all.datagrams_lost_spuriously,
            bytes_retransmitted: ByteCount::new(all.bytes_retransmitted),
            bytes_copied: ByteCount::new(all.bytes_copied),
            repair_symbols: all.repair_symbols,
            bytes_repair: ByteCount::new(all.bytes_repair),
            bytes_recovered: ByteCount::new(all.bytes_recovered),
            datagrams_refused: counters.datagrams_refused,
            pacing_credit_unused: session.map_or(ByteCount::ZERO, Session::unused_credit),
            phase: law.and_then(|law| law.phase()),
            queue: law.map_or(Duration::ZERO, |law| law.queue()),
            own_loss_permille: law.map_or(0, |law| law.own_loss_permille()),
            path_mtu,
            path_mtu_probes: counters.mtu_ended.probes + mtu_counters.probes,
            path_mtu_black_holes: counters.mtu_ended.black_holes + mtu_counters.black_holes,
            peer_moves: self.route.moves(),
            initiations: admission.initiations,
            cookies_sent: admission.cookies_sent,
            other_version: admission.other_version,
            peer_version: admission.version_seen.filter(|_| !self.is_up()),
            streams: session.map_or(0, |session| session.streams.len()),
            memory: session.map_or(ByteCount::ZERO, Session::memory),
            backlog: ByteCount::new(session.map_or(0, |session| session.streams.backlog())),
        }
    }
}
