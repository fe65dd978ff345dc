//! What the applications on the hosts do: connections, how much each end sends, how each reads, how it ends.

use std::time::Duration;

use longhaul::units::BitRate;

use crate::identity::End;
use crate::pattern::Content;

/// A reader that rests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pause {
    /// Who stops reading.
    pub end: End,
    /// After this many bytes.
    pub after: u64,
    /// For this long.
    pub lasts: Duration,
}

/// One TCP connection between the hosts. Each end closes its direction after its last byte; an end that sends nothing
/// closes when the other has.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who opens it.
    pub client: End,
    /// The server's port.
    pub port: u16,
    /// When the client opens it.
    pub opens_at: Duration,
    /// Bytes that A and B send.
    pub bytes: [u64; 2],
    /// What they are.
    pub content: Content,
    /// The server sends only after the client's direction has ended.
    pub reply_after_end: bool,
    /// An end that sends nothing closes its direction at once.
    pub closes_early: bool,
    /// Resting readers.
    pub pauses: Vec<Pause>,
    /// This end reads no faster than this.
    pub reads_at: Option<(End, BitRate)>,
    /// This end resets the connection after it has sent so many bytes.
    pub abort: Option<(End, u64)>,
    /// Somebody listens on the port.
    pub listening: bool,
}

impl Connection {
    /// A transfer of `bytes` incompressible bytes from A, who opens it, to B on port 8000.
    pub fn transfer(bytes: u64) -> Self {
        Connection {
            client: End::A,
            port: 8000,
            opens_at: Duration::ZERO,
            bytes: [bytes, 0],
            content: Content::Random,
            reply_after_end: false,
            closes_early: false,
            pauses: Vec::new(),
            reads_at: None,
            abort: None,
            listening: true,
        }
    }

    /// Bytes of both directions at once.
    pub fn both_ways(a_to_b: u64, b_to_a: u64) -> Self {
        Connection { bytes: [a_to_b, b_to_a], ..Connection::transfer(0) }
    }

    /// Opened at this time.
    pub fn opens_at(mut self, at: Duration) -> Self {
        self.opens_at = at;
        self
    }

    /// With this content.
    pub fn content(mut self, content: Content) -> Self {
        self.content = content;
        self
    }
}

/// What one end of a connection has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// The handshake was complete.
    pub connected_at: Option<Duration>,
    /// Payload bytes handed to TCP.
    pub sent: u64,
    /// Payload bytes received, all checked.
    pub received: u64,
    /// The other TCP has acknowledged everything to be sent.
    pub acked_at: Option<Duration>,
    /// The last byte was received.
    pub last_received_at: Option<Duration>,
    /// The end of the other direction was read.
    pub ended_at: Option<Duration>,
    /// The connection was refused or reset.
    pub reset_at: Option<Duration>,
    /// We closed our direction.
    pub closed: bool,
}

impl Seen {
    /// Nothing more happens at this end.
    pub fn is_over(&self) -> bool {
        self.reset_at.is_some() || (self.closed && self.acked_at.is_some() && self.ended_at.is_some())
    }
}
