//! What a session counts, and what sessions come to together.

use std::ops::AddAssign;

use super::Session;

/// Counters of a session, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct SessionCounters {
    pub(in super::super) datagrams_lost: u64,
    pub(in super::super) datagrams_lost_spuriously: u64,
    pub(in super::super) bytes_retransmitted: u64,
    /// Of those, sent once more before they were missed.
    pub(in super::super) bytes_copied: u64,
    /// Repair symbols sent, and their bytes with what describes them.
    pub(in super::super) repair_symbols: u64,
    pub(in super::super) bytes_repair: u64,
    /// Stream bytes that the peer's repair symbols gave back.
    pub(in super::super) bytes_recovered: u64,
}

impl AddAssign for SessionCounters {
    fn add_assign(&mut self, other: Self) {
        self.datagrams_lost += other.datagrams_lost;
        self.datagrams_lost_spuriously += other.datagrams_lost_spuriously;
        self.bytes_retransmitted += other.bytes_retransmitted;
        self.bytes_copied += other.bytes_copied;
        self.repair_symbols += other.repair_symbols;
        self.bytes_repair += other.bytes_repair;
        self.bytes_recovered += other.bytes_recovered;
    }
}

impl Session {
    /// What it has counted so far.
    pub(in super::super) fn counters(&self) -> SessionCounters {
        let ((at_ends, end_bytes), (over_resent, resent_bytes)) = (self.repair.sent(), self.parity.sent());
        SessionCounters {
            bytes_copied: self.tail.copied(),
            repair_symbols: at_ends + over_resent,
            bytes_repair: end_bytes + resent_bytes,
            bytes_recovered: self.counters.bytes_recovered + self.streams.recovered(),
            ..self.counters
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_counters_are_added() {
        let one = SessionCounters {
            datagrams_lost: 1,
            datagrams_lost_spuriously: 2,
            bytes_retransmitted: 3,
            bytes_copied: 4,
            repair_symbols: 5,
            bytes_repair: 6,
            bytes_recovered: 7,
        };
        let mut all = SessionCounters::default();
        all += one;
        assert_eq!(all, one);
        all += one;
        assert_eq!((all.datagrams_lost, all.bytes_recovered), (2, 14));
    }
}
