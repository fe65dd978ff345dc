//! What the loop knows about itself: how much passed, what was lost on this machine, how late it was.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::frame::Port;
use crate::io::UdpCounters;

/// A round that takes longer keeps a paced sender from its deadlines: it is counted as a gap.
pub(super) const GAP: Duration = Duration::from_millis(5);

/// One TAP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortCounters {
    /// Frames read.
    pub frames_read: u64,
    /// Frames written, forwarded or our own.
    pub frames_written: u64,
    /// Forwarded frames dropped because the kernel's queue was full.
    pub dropped_busy: u64,
    /// Frames dropped because the interface was down or gone.
    pub dropped_down: u64,
    /// Frames the kernel refused (malformed, or a header that does not fit).
    pub dropped_refused: u64,
    /// Frames of our own that had to wait for the kernel's queue.
    pub deferred: u64,
    /// Times the interface was found down or gone.
    pub outages: u64,
}

/// The loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoopCounters {
    /// Rounds.
    pub rounds: u64,
    /// Rounds that began without waiting because work was left over.
    pub rounds_busy: u64,
    /// Rounds longer than 5 ms.
    pub gaps: u64,
    /// The longest round.
    pub round_max: Duration,
    /// Deadlines met by the timer.
    pub timer_fired: u64,
    /// How late the timer was noticed, all of them together.
    pub timer_late_total: Duration,
    /// The latest.
    pub timer_late_max: Duration,
    /// Status documents handed out.
    pub status_served: u64,
    /// Status connections that could not be taken or served.
    pub status_failed: u64,
    /// The LAN port.
    pub lan: PortCounters,
    /// The WAN port.
    pub wan: PortCounters,
    /// The channel's socket.
    pub udp: UdpCounters,
}

impl LoopCounters {
    pub(super) fn on_round(&mut self, took: Duration) {
        self.rounds += 1;
        self.round_max = self.round_max.max(took);
        if took > GAP {
            self.gaps += 1;
        }
    }

    pub(super) fn on_timer(&mut self, late: Duration) {
        self.timer_fired += 1;
        self.timer_late_total += late;
        self.timer_late_max = self.timer_late_max.max(late);
    }

    /// Every counter by name, as the status document lists them.
    pub fn by_name(&self) -> BTreeMap<String, u64> {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let mut named: BTreeMap<String, u64> = [
            ("loop_rounds", self.rounds),
            ("loop_rounds_busy", self.rounds_busy),
            ("loop_gaps", self.gaps),
            ("loop_round_us_max", micros(self.round_max)),
            ("timer_fired", self.timer_fired),
            ("timer_late_us_total", micros(self.timer_late_total)),
            ("timer_late_us_max", micros(self.timer_late_max)),
            ("status_served", self.status_served),
            ("status_failed", self.status_failed),
            ("udp_datagrams_sent", self.udp.datagrams_sent),
            ("udp_datagrams_received", self.udp.datagrams_received),
            ("udp_send_blocked", self.udp.send_blocked),
            ("udp_send_refused", self.udp.send_refused),
            ("udp_send_oversized", self.udp.send_oversized),
            ("udp_gso_failed", self.udp.gso_failed),
            ("udp_receive_dropped", self.udp.receive_dropped),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        for (port, counters) in [(Port::Lan, &self.lan), (Port::Wan, &self.wan)] {
            let port = if port == Port::Lan { "lan" } else { "wan" };
            for (name, value) in [
                ("frames_read", counters.frames_read),
                ("frames_written", counters.frames_written),
                ("dropped_busy", counters.dropped_busy),
                ("dropped_down", counters.dropped_down),
                ("dropped_refused", counters.dropped_refused),
                ("deferred", counters.deferred),
                ("outages", counters.outages),
            ] {
                named.insert(format!("{port}_{name}"), value);
            }
        }
        named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_rounds_are_gaps_and_the_longest_is_kept() {
        let mut counters = LoopCounters::default();
        for millis in [1, 5, 6, 2] {
            counters.on_round(Duration::from_millis(millis));
        }
        assert_eq!((counters.rounds, counters.gaps, counters.round_max), (4, 1, Duration::from_millis(6)));
    }

    #[test]
    fn both_ports_are_named_apart() {
        let counters =
            LoopCounters { wan: PortCounters { frames_read: 3, ..Default::default() }, ..Default::default() };
        let named = counters.by_name();
        assert_eq!((named["lan_frames_read"], named["wan_frames_read"]), (0, 3));
        assert_eq!(named.len(), 16 + 14);
    }
}
