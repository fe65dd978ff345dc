//! The status document for a person: one screen.

use std::fmt::{self, Write as _};

use super::status::{ChannelStatus, FlowStatus, Status, StatusVerdict};
use crate::units::{BitRate, ByteCount, Weight};

/// Flows shown; all of them are in the JSON document.
const FLOWS_SHOWN_MAX: usize = 12;
/// Reasons shown, most frequent first.
const REASONS_SHOWN_MAX: usize = 8;
/// Counters shown on one line.
const COUNTERS_PER_LINE: usize = 3;
/// Counters shown.
const COUNTERS_SHOWN_MAX: usize = 12;

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: longhaul {}, up {}", self.name, self.version, duration(self.uptime_s))?;
        match &self.channel {
            Some(channel) => write_channel(f, channel)?,
            None => writeln!(f, "channel: none, a plain bridge")?,
        }
        write_flows(f, &self.flows)?;
        self.write_reasons(f)?;
        self.write_counters(f)
    }
}

impl Status {
    fn write_reasons(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons: Vec<_> = self.reasons.iter().filter(|reason| reason.count > 0).collect();
        reasons.sort_by_key(|reason| (std::cmp::Reverse(reason.count), reason.number));
        if reasons.is_empty() {
            return Ok(());
        }
        writeln!(f, "flows passed through, by reason")?;
        let rows = reasons.iter().take(REASONS_SHOWN_MAX);
        let rows = rows.map(|reason| vec![reason.count.to_string(), format!("({}) {}", reason.number, reason.name)]);
        write_table(f, &[Align::Right, Align::Left], rows)?;
        write_rest(f, reasons.len(), REASONS_SHOWN_MAX)
    }

    fn write_counters(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters: Vec<_> = self.counters.iter().filter(|(_, value)| **value > 0).collect();
        if counters.is_empty() {
            return Ok(());
        }
        writeln!(f, "counters")?;
        let shown = &counters[..counters.len().min(COUNTERS_SHOWN_MAX)];
        let rows = shown.chunks(COUNTERS_PER_LINE).map(|row| {
            let cells = row.iter().flat_map(|(name, value)| [value.to_string(), name.replace('_', " ")]);
            cells.collect::<Vec<_>>()
        });
        write_table(f, &[Align::Right, Align::Left].repeat(COUNTERS_PER_LINE), rows)?;
        write_rest(f, counters.len(), COUNTERS_SHOWN_MAX)
    }
}

fn write_channel(f: &mut fmt::Formatter<'_>, channel: &ChannelStatus) -> fmt::Result {
    write!(f, "channel: {}", channel.state)?;
    match channel.peer_address {
        Some(peer) => writeln!(f, ", peer {peer}")?,
        None => writeln!(f, ", peer not heard yet")?,
    }
    if let Some(version) = channel.peer_version {
        writeln!(
            f,
            "  the peer speaks protocol version {version}, which this appliance does not: update the older of the two"
        )?;
    }
    let time = |micros: Option<u64>| micros.map_or("unknown".to_owned(), |us| format!("{:.2} ms", us as f64 / 1e3));
    let rate = BitRate::from_bps;
    let bytes = ByteCount::new;
    let loss = channel.loss_ppm() as f64 / 1e4;
    let rows = [
        ["RTT".to_owned(), format!("{} (smallest {})", time(channel.srtt_us), time(channel.min_rtt_us))],
        [
            "rate".to_owned(),
            format!(
                "{}, pacing {}, path delivers {}",
                channel.rate_mode,
                rate(channel.pacing_rate_bps),
                rate(channel.delivery_rate_bps)
            ),
        ],
        [
            "path MTU".to_owned(),
            format!(
                "{} bytes; probes {}, black holes {}",
                channel.path_mtu, channel.path_mtu_probes, channel.path_mtu_black_holes
            ),
        ],
        [
            "sent".to_owned(),
            format!(
                "{} in {} datagrams, {} lost ({loss:.3} %), {} falsely, {} sent again",
                bytes(channel.bytes_sent),
                channel.datagrams_sent,
                channel.datagrams_lost,
                channel.datagrams_lost_spuriously,
                bytes(channel.bytes_retransmitted)
            ),
        ],
        [
            "received".to_owned(),
            format!(
                "{} in {} datagrams, {} refused",
                bytes(channel.bytes_received),
                channel.datagrams_received,
                channel.datagrams_refused
            ),
        ],
        [
            "repair".to_owned(),
            format!(
                "{} of tails copied, {} symbols of {}, {} given back by the peer's",
                bytes(channel.bytes_copied),
                channel.repair_symbols,
                bytes(channel.bytes_repair),
                bytes(channel.bytes_recovered)
            ),
        ],
        [
            "peer".to_owned(),
            format!(
                "moved {} times, {} handshakes, {} cookies",
                channel.peer_moves, channel.initiations, channel.cookies_sent
            ),
        ],
        [
            "waiting".to_owned(),
            format!("{} in flight, {} undelivered", bytes(channel.bytes_in_flight), bytes(channel.backlog_bytes)),
        ],
    ];
    write_table(f, &[Align::Left, Align::Left], rows.into_iter().map(Vec::from))
}

fn write_flows(f: &mut fmt::Formatter<'_>, flows: &[FlowStatus]) -> fmt::Result {
    let accelerated = flows.iter().filter(|flow| flow.verdict == StatusVerdict::Accelerate).count();
    writeln!(f, "flows: {accelerated} accelerated, {} passing through", flows.len() - accelerated)?;
    if flows.is_empty() {
        return Ok(());
    }
    // The accelerated ones first, then those with most to tell.
    let mut shown: Vec<&FlowStatus> = flows.iter().collect();
    shown.sort_by_key(|flow| (flow.verdict, std::cmp::Reverse(flow.bytes_in.saturating_add(flow.bytes_out))));
    let head =
        ["FROM", "TO", "VLAN", "VERDICT", "AGE", "LAN IN", "LAN OUT", "RATIO", "WHY"].map(str::to_owned).to_vec();
    let rows = shown.iter().take(FLOWS_SHOWN_MAX).map(|flow| flow_row(flow));
    use Align::{Left, Right};
    let aligns = [Left, Left, Left, Left, Right, Right, Right, Right, Left];
    write_table(f, &aligns, std::iter::once(head).chain(rows))?;
    write_rest(f, flows.len(), FLOWS_SHOWN_MAX)
}

fn flow_row(flow: &FlowStatus) -> Vec<String> {
    let vlans = flow.vlans.iter().map(u16::to_string).collect::<Vec<_>>().join("/");
    let verdict = match flow.verdict {
        StatusVerdict::Accelerate => "accelerate",
        StatusVerdict::Bypass => "bypass",
    };
    let ratio =
        flow.ratio_percent().map_or("-".to_owned(), |percent| format!("{}.{:02}", percent / 100, percent % 100));
    let mut why = String::new();
    if let Some(number) = flow.reason {
        // Writing to a String cannot fail.
        let _ = write!(why, "({number}) {}", flow.reason_name.as_deref().unwrap_or("?"));
    } else if let Some(rule) = &flow.rule {
        let _ = write!(why, "rule {rule}");
    }
    if let Some(weight) = flow.weight.filter(|weight| *weight != Weight::default().as_u8()) {
        let _ = write!(why, ", weight {weight}");
    }
    if flow.compression_given_up {
        why.push_str(", compression does not pay");
    } else if let Some(method) = &flow.compression_method {
        let _ = write!(why, ", {method}");
    }
    vec![
        flow.src.to_string(),
        flow.dst.to_string(),
        if vlans.is_empty() { "-".to_owned() } else { vlans },
        format!("{verdict} {}", flow.state),
        duration(flow.age_ms / 1000),
        ByteCount::new(flow.bytes_in).to_string(),
        ByteCount::new(flow.bytes_out).to_string(),
        ratio,
        why,
    ]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// Columns as wide as their widest cell, indented by two; no blanks at the line's end.
fn write_table(
    f: &mut fmt::Formatter<'_>,
    aligns: &[Align],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> fmt::Result {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..aligns.len()).map(|column| width(column).unwrap_or(0)).collect();
    for row in &rows {
        let mut line = String::new();
        for ((cell, &width), align) in row.iter().zip(&widths).zip(aligns) {
            line.push_str("  ");
            // Writing to a String cannot fail.
            let _ = match align {
                Align::Left => write!(line, "{cell:<width$}"),
                Align::Right => write!(line, "{cell:>width$}"),
            };
        }
        writeln!(f, "{}", line.trim_end())?;
    }
    Ok(())
}

fn write_rest(f: &mut fmt::Formatter<'_>, count: usize, shown_max: usize) -> fmt::Result {
    match count.saturating_sub(shown_max) {
        0 => Ok(()),
        more => writeln!(f, "  … and {more} more (--json tells all)"),
    }
}

/// The two largest units: `3 h 2 min`.
fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::example;
    use super::*;

    #[test]
    fn a_person_reads_aligned_tables() {
        let expected = "\
site-a: longhaul 0.1.0, up 3 h 2 min
channel: up, peer 198.51.100.2:47000
  RTT       12.35 ms (smallest 12.00 ms)
  rate      fair, pacing 940 Mbps, path delivers 951 Mbps
  path MTU  1500 bytes; probes 2, black holes 1
  sent      1.4 GB in 1000000 datagrams, 1012 lost (0.100 %), 12 falsely, 1.4 MB sent again
  received  1.5 MB in 20000 datagrams, 2 refused
  repair    24.0 kB of tails copied, 16 symbols of 23.1 kB, 8.6 kB given back by the peer's
  peer      moved 1 times, 5 handshakes, 0 cookies
  waiting   1.4 MB in flight, 2.0 MB undelivered
flows: 1 accelerated, 1 passing through
  FROM                   TO                    VLAN  VERDICT           AGE  LAN IN  LAN OUT  RATIO  WHY
  10.1.8.1:50000         10.2.8.1:8000         80    accelerate open  12 s  1.0 GB  40.0 kB   2.12  rule vmotion, weight 40, lz4
  [2001:db8:1::1]:50001  [2001:db8:2::1]:8000  -     bypass passing   12 s  1.0 GB  40.0 kB      -  (3) mid-stream
flows passed through, by reason
  250  (1) no rule
    1  (3) mid-stream
counters
  1234  frames forwarded
";
        assert_eq!(example().to_string(), expected);
    }

    #[test]
    fn a_peer_of_another_version_is_named_with_the_remedy() {
        let mut status = example();
        status.channel.as_mut().unwrap().peer_version = Some(3);
        let text = status.to_string();
        assert!(text.contains("speaks protocol version 3") && text.contains("update the older"), "{text}");
    }

    #[test]
    fn a_busy_appliance_still_fits_on_a_screen() {
        let mut status = example();
        status.flows = vec![status.flows[0].clone(); 10_000];
        status.counters = (0..100).map(|n| (format!("counter_{n}"), n)).collect();
        let text = status.to_string();
        assert!(text.lines().count() <= 40, "{text}");
        assert!(text.contains("… and 9988 more (--json tells all)"), "{text}");
    }

    #[test]
    fn a_plain_bridge_at_rest_is_three_lines() {
        let status = Status { name: "x".to_owned(), version: "1".to_owned(), ..Status::default() };
        let expected =
            "x: longhaul 1, up 0 s\nchannel: none, a plain bridge\nflows: 0 accelerated, 0 passing through\n";
        assert_eq!(status.to_string(), expected);
    }

    #[test]
    fn durations_show_two_units() {
        for (seconds, text) in [(59, "59 s"), (61, "1 min 1 s"), (7_260, "2 h 1 min"), (90_000, "1 d 1 h")] {
            assert_eq!(duration(seconds), text);
        }
    }
}
