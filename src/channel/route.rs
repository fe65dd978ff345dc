//! Where the peer is: the address its newest authentic datagram came from.
//!
//! A datagram proves who made it, not who sent it on: somebody on the path can repeat one from a false address, faster
//! than the original. So a new IP address is on probation first (as in RFC 9000 section 9.3): until something that we
//! sent there has been acknowledged it gets no stream bytes, and no more than [`AMPLIFICATION_MAX`] times what came from
//! there. Another port of the same address (a NAT that forgot) is taken at once, as in WireGuard: whoever could be
//! flooded that way is the peer's own NAT.

use std::net::SocketAddr;
use std::time::Duration;

use crate::units::Instant;

/// A new address gets this many times the bytes it sent, until it is proven (RFC 9000 section 8).
const AMPLIFICATION_MAX: u64 = 3;
/// A new address that has not been proven after this long, or three probe timeouts, is given up.
const PROBATION_MIN: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
struct Probation {
    previous: SocketAddr,
    /// The first packet number that was sent to the new address.
    first: u64,
    received: u64,
    sent: u64,
    since: Instant,
    until: Instant,
}

/// What a datagram's origin means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Move {
    /// The peer is where it was, or behind another port of it.
    None,
    /// It may be elsewhere; to be proven.
    Probation,
}

/// The peer's address.
#[derive(Debug)]
pub(super) struct Route {
    configured: Option<SocketAddr>,
    current: Option<SocketAddr>,
    probation: Option<Probation>,
    moves: u64,
}

impl Route {
    pub(super) fn new(configured: Option<SocketAddr>) -> Self {
        Route { configured, current: configured, probation: None, moves: 0 }
    }

    /// Where datagrams go.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.current
    }

    /// Where the next initiation goes: where the peer was heard last, and where it is configured to be, in turn.
    pub(super) fn initiation_address(&self, attempt: usize) -> Option<SocketAddr> {
        let configured = if attempt % 2 == 1 { self.configured } else { None };
        configured.or(self.current).or(self.configured)
    }

    /// Whether the peer is known to be, or to listen, at this IP address.
    pub(super) fn knows(&self, from: SocketAddr) -> bool {
        let proven = self.probation.map_or(self.current, |probation| Some(probation.previous));
        [proven, self.configured].into_iter().flatten().any(|known| known.ip() == from.ip())
    }

    /// Times the peer has moved to another IP address.
    pub(super) fn moves(&self) -> u64 {
        self.moves
    }

    /// The peer has just answered from there: no probation. True when that is another IP address than before.
    pub(super) fn settle(&mut self, from: SocketAddr) -> bool {
        let proven = self.probation.take().map_or(self.current, |probation| Some(probation.previous));
        self.current = Some(from);
        let moved = proven.is_some_and(|proven| proven.ip() != from.ip());
        self.moves += u64::from(moved);
        moved
    }

    /// An authentic datagram of `len` bytes came from there; `newest`: none with a higher number has. `next`: the
    /// number of the next packet we send; `pto`: the probe timeout.
    pub(super) fn on_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        len: usize,
        newest: bool,
        (next, pto): (u64, Duration),
    ) -> Move {
        if let Some(probation) = &mut self.probation
            && self.current.is_some_and(|current| current.ip() == from.ip())
        {
            probation.received += len as u64;
        }
        let Some(current) = self.current.filter(|_| newest) else {
            self.current = self.current.or(Some(from));
            return Move::None;
        };
        if current.ip() == from.ip() {
            self.current = Some(from);
            return Move::None;
        }
        let previous = match self.probation.take() {
            // Back where it was: proven already.
            Some(probation) if probation.previous.ip() == from.ip() => {
                self.current = Some(from);
                return Move::None;
            }
            Some(probation) => probation.previous,
            None => current,
        };
        self.current = Some(from);
        let until = now + (pto * 3).max(PROBATION_MIN);
        self.probation = Some(Probation { previous, first: next, received: len as u64, sent: 0, since: now, until });
        Move::Probation
    }

    /// Our packets up to `largest` have been acknowledged, as far as we know: ends a probation that they prove, and says
    /// when it had begun.
    pub(super) fn on_acked(&mut self, largest: Option<u64>) -> Option<Instant> {
        let probation = self.probation.filter(|probation| largest.is_some_and(|largest| largest >= probation.first))?;
        self.probation = None;
        self.moves += 1;
        Some(probation.since)
    }

    /// Whether the peer's address is yet to be proven.
    pub(super) fn is_on_probation(&self) -> bool {
        self.probation.is_some()
    }

    /// Whether anything at all may leave.
    pub(super) fn may_send(&self) -> bool {
        self.probation.is_none_or(|probation| probation.sent < AMPLIFICATION_MAX * probation.received)
    }

    pub(super) fn on_sent(&mut self, len: usize) {
        if let Some(probation) = &mut self.probation {
            probation.sent += len as u64;
        }
    }

    /// Gives up an address that was not proven in time. True when it did.
    pub(super) fn on_timeout(&mut self, now: Instant) -> bool {
        let Some(probation) = self.probation.filter(|probation| probation.until <= now) else { return false };
        self.current = Some(probation.previous);
        self.probation = None;
        true
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.probation.map(|probation| probation.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PTO: Duration = Duration::from_millis(100);

    fn address(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([198, 51, 100, last], port))
    }

    fn route() -> Route {
        Route::new(Some(address(1, 1)))
    }

    fn hear(route: &mut Route, from: SocketAddr, newest: bool) -> Move {
        route.on_datagram(Instant::ZERO, from, 100, newest, (50, PTO))
    }

    #[test]
    fn another_port_is_taken_at_once_and_only_from_the_newest_datagram() {
        let mut route = route();
        assert_eq!(hear(&mut route, address(1, 2), false), Move::None);
        assert_eq!(route.address(), Some(address(1, 1)));
        assert_eq!(hear(&mut route, address(1, 2), true), Move::None);
        assert_eq!((route.address(), route.moves()), (Some(address(1, 2)), 0));
    }

    #[test]
    fn another_address_is_proven_by_an_acknowledgement_of_what_was_sent_there() {
        let mut route = route();
        assert_eq!(hear(&mut route, address(2, 1), true), Move::Probation);
        assert!(route.knows(address(1, 9)) && !route.knows(address(2, 1)));
        assert_eq!(route.on_acked(Some(49)), None);
        assert_eq!(route.on_acked(Some(50)), Some(Instant::ZERO));
        assert!(!route.is_on_probation() && route.knows(address(2, 1)));
        assert_eq!((route.address(), route.moves()), (Some(address(2, 1)), 1));
    }

    #[test]
    fn an_address_that_is_not_proven_gets_three_times_what_it_sent_and_is_given_up() {
        let mut route = route();
        hear(&mut route, address(2, 1), true);
        route.on_sent(290);
        assert!(route.may_send());
        route.on_sent(20);
        assert!(!route.may_send());
        hear(&mut route, address(2, 1), false);
        assert!(route.may_send(), "more has come from there");
        assert!(!route.on_timeout(Instant::from_millis(999)));
        assert!(route.on_timeout(route.poll_timeout().unwrap()));
        assert_eq!((route.address(), route.moves()), (Some(address(1, 1)), 0));
    }

    #[test]
    fn a_false_address_is_left_again_with_the_peer_s_next_datagram() {
        let mut route = route();
        hear(&mut route, address(66, 1), true);
        assert_eq!(hear(&mut route, address(1, 1), true), Move::None);
        assert_eq!((route.address(), route.is_on_probation()), (Some(address(1, 1)), false));
    }

    #[test]
    fn initiations_try_the_configured_address_too() {
        let mut route = route();
        assert!(route.settle(address(2, 1)));
        assert_eq!(route.initiation_address(0), Some(address(2, 1)));
        assert_eq!(route.initiation_address(1), Some(address(1, 1)));
        assert_eq!(Route::new(None).initiation_address(1), None);
    }
}
