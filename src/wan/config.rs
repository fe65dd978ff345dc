//! What one direction of a path is made of, and which settings make no sense.

use std::time::Duration;

use super::{Jitter, Loss, Probability};
use crate::units::{BitRate, ByteCount, Instant};

/// Ethernet header in front of each IP packet; counted by rate and queue.
pub const ETHERNET_HEADER_LEN: u32 = 14;

/// Bytes of VLAN tags (two of them) that may come on top of MTU and Ethernet header.
pub const MAX_VLAN_LEN: u32 = 8;

/// Segments held back so that later ones overtake them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reorder {
    /// Share of segments held back.
    pub probability: Probability,
    /// For how long, on top of the delay.
    pub hold: Duration,
}

/// A time in which the link is dead: what is offered, or leaves the line, at `from` or later but before `until` is gone.
/// What is on its way already arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outage {
    /// First dead moment.
    pub from: Instant,
    /// First live moment after it.
    pub until: Instant,
}

impl Outage {
    pub(super) fn covers(self, moment: Instant) -> bool {
        self.from <= moment && moment < self.until
    }
}

/// One direction of a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkConfig {
    /// Line rate, of segments with their Ethernet headers.
    pub rate: BitRate,
    /// Propagation delay, one way.
    pub delay: Duration,
    /// Variation of the delay.
    pub jitter: Jitter,
    /// Random loss.
    pub loss: Loss,
    /// Segments held back.
    pub reorder: Reorder,
    /// Drop-tail queue, counted as the rate is.
    pub queue: ByteCount,
    /// Largest IP packet; longer ones are dropped and counted, nothing is said to the sender.
    pub mtu: u32,
    /// Dead times, in any order.
    pub outages: Vec<Outage>,
}

impl LinkConfig {
    /// The least queue [`LinkConfig::new`] gives: room for four super-segments of 64 KiB. A host's NIC would have spread
    /// these at its own line rate, whereas they reach the emulator at one moment; less would drop on a link without fault.
    pub const MIN_DEFAULT_QUEUE: ByteCount = ByteCount::from_kib(256);

    /// A clean link of 1500 bytes MTU and [`LinkConfig::default_queue`].
    pub fn new(rate: BitRate, delay: Duration) -> Self {
        LinkConfig {
            rate,
            delay,
            jitter: Jitter::NONE,
            loss: Loss::None,
            reorder: Reorder::default(),
            queue: Self::default_queue(rate, delay * 2),
            mtu: 1500,
            outages: Vec::new(),
        }
    }

    /// One bandwidth-delay product, but at least [`LinkConfig::MIN_DEFAULT_QUEUE`].
    pub fn default_queue(rate: BitRate, rtt: Duration) -> ByteCount {
        rate.bytes_in(rtt).max(Self::MIN_DEFAULT_QUEUE)
    }

    /// Bytes of the longest frame that fits.
    pub fn max_wire_len(&self) -> u32 {
        self.mtu.saturating_add(ETHERNET_HEADER_LEN + MAX_VLAN_LEN)
    }

    /// Refuses what no link can be.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), LinkConfigError> {
        if self.rate == BitRate::ZERO {
            return Err(LinkConfigError::NoRate);
        }
        if self.queue.as_u64() < u64::from(self.max_wire_len()) {
            return Err(LinkConfigError::QueueBelowOneFrame { queue: self.queue, frame: self.max_wire_len() });
        }
        self.loss.check()
    }
}

/// Why a [`LinkConfig`] describes no link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkConfigError {
    /// Nothing would ever be delivered.
    #[error("the rate is zero; a dead link is an outage")]
    NoRate,
    /// Full-sized frames would never be admitted.
    #[error("a queue of {queue} admits no frame of {frame} bytes; give it at least that")]
    QueueBelowOneFrame {
        /// As configured.
        queue: ByteCount,
        /// Longest frame, bytes.
        frame: u32,
    },
    /// A burst is at least one segment long.
    #[error("the mean burst length is below one segment")]
    BurstBelowOne,
    /// The pauses between bursts would have to be shorter than one segment.
    #[error("bursts of that mean length cannot make up so much loss; lengthen the bursts or lower the loss")]
    BurstsTooDense,
}
