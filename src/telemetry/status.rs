//! The status document: plain numbers, as JSON.
//!
//! Numbers carry their unit as suffix. Counters count from the appliance's start.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::channel::{ChannelState, ChannelStats};

/// Everything `longhaul status` tells.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    /// Of the running binary.
    pub version: String,
    /// `name` of the configuration.
    pub name: String,
    /// Seconds since the appliance started.
    pub uptime_s: u64,
    /// The channel; `None` for a plain bridge.
    pub channel: Option<ChannelStatus>,
    /// Counters and gauges by name (`frames_forwarded`, `loop_gap_us_max`); sorted, so that two documents compare.
    pub counters: BTreeMap<String, u64>,
    /// Why flows were not accelerated.
    pub reasons: Vec<ReasonCount>,
    /// The flows in the table.
    pub flows: Vec<FlowStatus>,
}

/// How often one reason kept a flow from being accelerated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReasonCount {
    /// The reason's fixed number.
    pub number: u16,
    /// Its name.
    pub name: String,
    /// Flows.
    pub count: u64,
}

/// The channel's state, counters and gauges: [`ChannelStats`] in plain numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// `connecting`, `up` or `silent`.
    pub state: String,
    /// Where the peer was last heard.
    pub peer_address: Option<SocketAddr>,
    /// Smoothed RTT.
    pub srtt_us: Option<u64>,
    /// Smallest RTT of the current window.
    pub min_rtt_us: Option<u64>,
    /// `fair` (the path says how fast) or `fixed` (the operator does).
    #[serde(default)]
    pub rate_mode: String,
    /// What the path delivers, wire bits.
    pub delivery_rate_bps: u64,
    /// What we pace at.
    pub pacing_rate_bps: u64,
    /// Sent, neither acknowledged nor lost.
    pub bytes_in_flight: u64,
    /// Stream bytes that the far appliance has not consumed.
    pub backlog_bytes: u64,
    /// Datagrams of all kinds.
    pub datagrams_sent: u64,
    /// Authentic ones.
    pub datagrams_received: u64,
    /// Wire bytes.
    pub bytes_sent: u64,
    /// Wire bytes.
    pub bytes_received: u64,
    /// Declared lost.
    pub datagrams_lost: u64,
    /// Of those, acknowledged after all.
    pub datagrams_lost_spuriously: u64,
    /// Stream bytes sent again.
    pub bytes_retransmitted: u64,
    /// Malformed, forged, replayed or of another version.
    pub datagrams_refused: u64,
    /// Longest IP packet that a datagram makes.
    #[serde(default)]
    pub path_mtu: u64,
    /// Probes sent to find it.
    #[serde(default)]
    pub path_mtu_probes: u64,
    /// Times the path stopped carrying what it had carried.
    #[serde(default)]
    pub path_mtu_black_holes: u64,
    /// Of `bytes_retransmitted`, sent before they were missed: a burst's end on a long and lossy path.
    #[serde(default)]
    pub bytes_copied: u64,
    /// Repair symbols sent after the ends of bursts, where the path is long and lossy.
    #[serde(default)]
    pub repair_symbols: u64,
    /// Bytes of these, with what describes them. With `bytes_copied` at most 2 % of the stream bytes sent.
    #[serde(default)]
    pub bytes_repair: u64,
    /// Stream bytes that the peer's repair symbols gave back.
    #[serde(default)]
    pub bytes_recovered: u64,
    /// Times the peer has moved to another IP address.
    #[serde(default)]
    pub peer_moves: u64,
    /// Handshakes begun by somebody who knows our public key.
    #[serde(default)]
    pub initiations: u64,
    /// Of those, answered with a cookie because there were so many.
    #[serde(default)]
    pub cookies_sent: u64,
    /// Of those, of a protocol version that we do not speak.
    #[serde(default)]
    pub other_version: u64,
    /// That version, while there is no session.
    #[serde(default)]
    pub peer_version: Option<u8>,
}

impl ChannelStatus {
    /// The share of sent datagrams that was really lost, in 1/1,000,000.
    pub fn loss_ppm(&self) -> u64 {
        let lost = u128::from(self.datagrams_lost.saturating_sub(self.datagrams_lost_spuriously));
        let ppm = (lost * 1_000_000).checked_div(u128::from(self.datagrams_sent)).unwrap_or(0);
        u64::try_from(ppm).unwrap_or(u64::MAX)
    }
}

impl From<&ChannelStats> for ChannelStatus {
    fn from(stats: &ChannelStats) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let state = match stats.state {
            ChannelState::Connecting => "connecting",
            ChannelState::Up => "up",
            ChannelState::Silent => "silent",
        };
        ChannelStatus {
            state: state.to_owned(),
            peer_address: stats.peer_address,
            srtt_us: stats.srtt.map(micros),
            min_rtt_us: stats.min_rtt.map(micros),
            rate_mode: stats.rate_mode.name().to_owned(),
            delivery_rate_bps: stats.delivery_rate.as_bps(),
            pacing_rate_bps: stats.pacing_rate.as_bps(),
            bytes_in_flight: stats.bytes_in_flight.as_u64(),
            backlog_bytes: stats.backlog.as_u64(),
            datagrams_sent: stats.datagrams_sent,
            datagrams_received: stats.datagrams_received,
            bytes_sent: stats.bytes_sent.as_u64(),
            bytes_received: stats.bytes_received.as_u64(),
            datagrams_lost: stats.datagrams_lost,
            datagrams_lost_spuriously: stats.datagrams_lost_spuriously,
            bytes_retransmitted: stats.bytes_retransmitted.as_u64(),
            datagrams_refused: stats.datagrams_refused,
            path_mtu: stats.path_mtu as u64,
            path_mtu_probes: stats.path_mtu_probes,
            path_mtu_black_holes: stats.path_mtu_black_holes,
            bytes_copied: stats.bytes_copied.as_u64(),
            repair_symbols: stats.repair_symbols,
            bytes_repair: stats.bytes_repair.as_u64(),
            bytes_recovered: stats.bytes_recovered.as_u64(),
            peer_moves: stats.peer_moves,
            initiations: stats.initiations,
            cookies_sent: stats.cookies_sent,
            other_version: stats.other_version,
            peer_version: stats.peer_version,
        }
    }
}

/// What became of a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusVerdict {
    /// Split, and relayed through the channel.
    Accelerate,
    /// Forwarded untouched.
    Bypass,
}

/// One flow of the table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowStatus {
    /// VLAN identifiers, outermost first.
    pub vlans: Vec<u16>,
    /// The host that opened the connection.
    pub src: SocketAddr,
    /// The server.
    pub dst: SocketAddr,
    /// What became of it.
    pub verdict: StatusVerdict,
    /// Number of the reason it is not accelerated.
    pub reason: Option<u16>,
    /// That reason's name.
    pub reason_name: Option<String>,
    /// Name of the rule that matched first.
    pub rule: Option<String>,
    /// How much of the line it gets, in the direction that leaves here, while others want it too; absent where it passes.
    #[serde(default)]
    pub weight: Option<u8>,
    /// `opening`, `open`, `closing`, … as the engine calls it.
    pub state: String,
    /// Milliseconds since it was first seen.
    pub age_ms: u64,
    /// Host bytes taken from our LAN side.
    pub bytes_in: u64,
    /// Host bytes given to our LAN side.
    pub bytes_out: u64,
    /// What `bytes_in` became on the channel; less, where compression pays.
    pub channel_bytes_out: u64,
    /// What `bytes_out` was on the channel.
    pub channel_bytes_in: u64,
    /// Whether compression is switched off at the moment because it did not pay.
    pub compression_given_up: bool,
    /// How what leaves was last compressed: `lz4`, `zstd` or `zstd-dense`; absent before.
    #[serde(default)]
    pub compression_method: Option<String>,
}

impl FlowStatus {
    /// Host bytes per channel byte, both directions, in 1/100; `None` before anything crossed the channel.
    pub fn ratio_percent(&self) -> Option<u64> {
        let host = u128::from(self.bytes_in) + u128::from(self.bytes_out);
        let channel = u128::from(self.channel_bytes_in) + u128::from(self.channel_bytes_out);
        let percent = (host * 100).checked_div(channel)?;
        Some(u64::try_from(percent).unwrap_or(u64::MAX))
    }
}

impl Status {
    /// The document as it leaves the status socket: one JSON object and a line end.
    pub fn to_document(&self) -> String {
        let json = serde_json::to_string(self).expect("invariant: every map key of a status document is a text");
        json + "\n"
    }

    /// Reads a document.
    pub fn from_document(document: &str) -> Result<Status, serde_json::Error> {
        serde_json::from_str(document)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A document with something in every field.
    pub(in crate::telemetry) fn example() -> Status {
        let flow = FlowStatus {
            vlans: vec![80],
            src: "10.1.8.1:50000".parse().unwrap(),
            dst: "10.2.8.1:8000".parse().unwrap(),
            verdict: StatusVerdict::Accelerate,
            reason: None,
            reason_name: None,
            rule: Some("vmotion".to_owned()),
            weight: Some(40),
            state: "open".to_owned(),
            age_ms: 12_000,
            bytes_in: 1_000_000_000,
            bytes_out: 40_000,
            channel_bytes_out: 470_000_000,
            channel_bytes_in: 40_100,
            compression_given_up: false,
            compression_method: Some("lz4".to_owned()),
        };
        let passing = FlowStatus {
            vlans: vec![],
            src: "[2001:db8:1::1]:50001".parse().unwrap(),
            dst: "[2001:db8:2::1]:8000".parse().unwrap(),
            verdict: StatusVerdict::Bypass,
            reason: Some(3),
            reason_name: Some("mid-stream".to_owned()),
            rule: None,
            weight: None,
            state: "passing".to_owned(),
            channel_bytes_out: 0,
            channel_bytes_in: 0,
            compression_method: None,
            ..flow.clone()
        };
        Status {
            version: "0.1.0".to_owned(),
            name: "site-a".to_owned(),
            uptime_s: 3 * 3600 + 125,
            channel: Some(ChannelStatus {
                state: "up".to_owned(),
                peer_address: Some("198.51.100.2:47000".parse().unwrap()),
                srtt_us: Some(12_345),
                min_rtt_us: Some(12_000),
                rate_mode: "fair".to_owned(),
                delivery_rate_bps: 951_000_000,
                pacing_rate_bps: 940_000_000,
                bytes_in_flight: 1_400_000,
                backlog_bytes: 2_000_000,
                datagrams_sent: 1_000_000,
                datagrams_received: 20_000,
                bytes_sent: 1_450_000_000,
                bytes_received: 1_500_000,
                datagrams_lost: 1_012,
                datagrams_lost_spuriously: 12,
                bytes_retransmitted: 1_400_000,
                datagrams_refused: 2,
                path_mtu: 1500,
                path_mtu_probes: 2,
                path_mtu_black_holes: 1,
                bytes_copied: 24_000,
                repair_symbols: 16,
                bytes_repair: 23_100,
                bytes_recovered: 8_600,
                peer_moves: 1,
                initiations: 5,
                cookies_sent: 0,
                other_version: 0,
                peer_version: None,
            }),
            counters: [("frames_forwarded".to_owned(), 1234), ("frames_dropped".to_owned(), 0)].into(),
            reasons: vec![
                ReasonCount { number: 1, name: "no rule".to_owned(), count: 250 },
                ReasonCount { number: 3, name: "mid-stream".to_owned(), count: 1 },
                ReasonCount { number: 4, name: "peer down".to_owned(), count: 0 },
            ],
            flows: vec![flow, passing],
        }
    }

    #[test]
    fn a_document_reads_what_it_writes() {
        let status = example();
        let document = status.to_document();
        assert!(document.ends_with("}\n") && document.lines().count() == 1);
        assert_eq!(Status::from_document(&document).unwrap(), status);
        let empty = Status::default();
        assert_eq!(Status::from_document(&empty.to_document()).unwrap(), empty);
    }

    #[test]
    fn shares_are_exact_and_never_divide_by_nothing() {
        let status = example();
        assert_eq!(status.channel.clone().unwrap().loss_ppm(), 1_000);
        assert_eq!(ChannelStatus { datagrams_sent: 0, ..status.channel.unwrap() }.loss_ppm(), 0);
        assert_eq!(status.flows[0].ratio_percent(), Some(212));
        assert_eq!(status.flows[1].ratio_percent(), None);
    }
}
