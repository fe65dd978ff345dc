//! What the appliances tell each other at the start of a stream, before its blocks.
//!
//! A message is `kind (1) | length of the body (2) | body`, big endian. The opener of a stream begins it with
//! [`Message::Open`] or [`Message::Orphan`]; the other end answers an open with [`Message::Trying`] at once and with
//! [`Message::Opened`] or [`Message::Refused`] when it knows. Blocks (see [`crate::codec`]) and an end
//! mark follow an accepted open in both directions; the end of the stream says that the host is done (see
//! [`super::relay`]).

use crate::frame::{DecodeError, FlowKey, L2Header};

use super::bypass::BypassReason;

/// Version of the messages; a peer that reads another one refuses the open.
pub(super) const VERSION: u8 = 1;

/// Kind and length.
const HEADER_LEN: usize = 3;

/// Longest message: what is read before anything is known.
pub(super) const MESSAGE_LEN_MAX: usize = HEADER_LEN + 2 + FlowKey::ENCODED_LEN_MAX + L2Header::ENCODED_LEN_MAX + 8;

const KIND_OPEN: u8 = 1;
const KIND_TRYING: u8 = 2;
const KIND_OPENED: u8 = 3;
const KIND_REFUSED: u8 = 4;
const KIND_ORPHAN: u8 = 5;

/// A host asked for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Open {
    /// The connection in its opener's direction, with the VLANs of the opener's side.
    pub(super) key: FlowKey,
    /// The Ethernet header of the SYN.
    pub(super) l2: L2Header,
    /// MSS that the SYN announced; 0: none.
    pub(super) mss: u16,
    /// Whether the payload may be compressed.
    pub(super) compress: bool,
}

/// Why an open is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum RefuseReason {
    /// The far host reset the SYN.
    ConnectionRefused = 1,
    /// The far host did not answer.
    TimedOut = 2,
    /// The far rules do not accelerate it.
    Policy = 3,
    /// The far host's Ethernet address is not known.
    NoL2Address = 4,
    /// No room for another flow.
    Full = 5,
    /// The open is of another version.
    Version = 6,
    /// The far appliance has a connection with these addresses.
    Conflict = 7,
}

impl RefuseReason {
    fn from_number(number: u8) -> Option<Self> {
        use RefuseReason::*;
        [ConnectionRefused, TimedOut, Policy, NoL2Address, Full, Version, Conflict]
            .into_iter()
            .find(|reason| *reason as u8 == number)
    }

    /// As what the connection passes through; `None` when the host gets the far host's answer (or silence) instead.
    pub(super) const fn bypass(self) -> Option<BypassReason> {
        match self {
            RefuseReason::ConnectionRefused | RefuseReason::TimedOut => None,
            RefuseReason::Policy => Some(BypassReason::RefusedByPolicy),
            RefuseReason::NoL2Address => Some(BypassReason::NoL2Address),
            RefuseReason::Full => Some(BypassReason::PeerFull),
            RefuseReason::Version => Some(BypassReason::PeerVersion),
            RefuseReason::Conflict => Some(BypassReason::Conflict),
        }
    }
}

/// The receiver of this restarted and lost a connection; its host must hear of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Orphan {
    /// The connection in its opener's direction, with the VLANs of the receiver's side.
    pub(super) key: FlowKey,
    /// Whether the receiver's host is the one that was connected to (else the opener).
    pub(super) host_is_server: bool,
    /// The Ethernet header that the receiver reached its host with.
    pub(super) l2: L2Header,
}

/// One message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Message {
    /// Opener's first: connect.
    Open(Open),
    /// The open has arrived and is being worked on.
    Trying,
    /// The far host has accepted; blocks follow.
    Opened {
        /// MSS of the far leg.
        mss: u16,
        /// The Ethernet header that reaches the far host.
        l2: L2Header,
    },
    /// There will be no connection through this stream.
    Refused(RefuseReason),
    /// Opener's only one: reset this connection at your host.
    Orphan(Orphan),
}

/// The peer sent what is no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum MessageError {
    /// Another kind than any above.
    #[error("unknown message kind {0}")]
    Kind(u8),
    /// An open or orphan message of another version.
    #[error("message version {0}")]
    Version(u8),
    /// A length or field that no encoder writes.
    #[error("malformed message")]
    Malformed,
}

impl From<DecodeError> for MessageError {
    fn from(_: DecodeError) -> Self {
        MessageError::Malformed
    }
}

impl Message {
    /// Appends the encoding to `out`.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_LEN]);
        let kind = match self {
            Message::Open(open) => {
                out.push(VERSION);
                open.key.encode(out);
                open.l2.encode(out);
                out.extend_from_slice(&open.mss.to_be_bytes());
                out.push(u8::from(open.compress));
                KIND_OPEN
            }
            Message::Trying => KIND_TRYING,
            Message::Opened { mss, l2 } => {
                out.extend_from_slice(&mss.to_be_bytes());
                l2.encode(out);
                KIND_OPENED
            }
            Message::Refused(reason) => {
                out.push(*reason as u8);
                KIND_REFUSED
            }
            Message::Orphan(orphan) => {
                out.push(VERSION);
                orphan.key.encode(out);
                out.push(u8::from(orphan.host_is_server));
                orphan.l2.encode(out);
                KIND_ORPHAN
            }
        };
        let len = (out.len() - start - HEADER_LEN) as u16;
        out[start] = kind;
        out[start + 1..start + HEADER_LEN].copy_from_slice(&len.to_be_bytes());
    }

    /// Reads the message at the start of `bytes` and its length; `None` while it is incomplete.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<(Message, usize)>, MessageError> {
        let Some((&[kind, high, low], rest)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if !(KIND_OPEN..=KIND_ORPHAN).contains(&kind) {
            return Err(MessageError::Kind(kind));
        }
        if HEADER_LEN + len > MESSAGE_LEN_MAX {
            return Err(MessageError::Malformed);
        }
        let Some(mut body) = rest.get(..len) else { return Ok(None) };
        let body = &mut body;
        let message = match kind {
            KIND_OPEN => {
                version(body)?;
                let key = terminable(FlowKey::decode(body)?)?;
                let l2 = L2Header::decode(body)?;
                let [high, low, compress] = fields(body)?;
                Message::Open(Open { key, l2, mss: u16::from_be_bytes([high, low]), compress: flag(compress)? })
            }
            KIND_TRYING => Message::Trying,
            KIND_OPENED => {
                let mss = u16::from_be_bytes(fields(body)?);
                Message::Opened { mss, l2: L2Header::decode(body)? }
            }
            KIND_REFUSED => {
                let [number] = fields(body)?;
                Message::Refused(RefuseReason::from_number(number).ok_or(MessageError::Malformed)?)
            }
            _ => {
                version(body)?;
                let key = terminable(FlowKey::decode(body)?)?;
                let [server] = fields(body)?;
                Message::Orphan(Orphan { key, host_is_server: flag(server)?, l2: L2Header::decode(body)? })
            }
        };
        if !body.is_empty() {
            return Err(MessageError::Malformed);
        }
        Ok(Some((message, HEADER_LEN + len)))
    }
}

fn fields<const N: usize>(body: &mut &[u8]) -> Result<[u8; N], MessageError> {
    let (head, rest) = body.split_first_chunk::<N>().ok_or(MessageError::Malformed)?;
    *body = rest;
    Ok(*head)
}

fn version(body: &mut &[u8]) -> Result<(), MessageError> {
    let [version] = fields(body)?;
    if version == VERSION { Ok(()) } else { Err(MessageError::Version(version)) }
}

fn flag(byte: u8) -> Result<bool, MessageError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(MessageError::Malformed),
    }
}

fn terminable(key: FlowKey) -> Result<FlowKey, MessageError> {
    if key.is_terminable() { Ok(key) } else { Err(MessageError::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{MacAddr, VlanIds, VlanStack, VlanTag};
    use proptest::prelude::*;

    fn samples() -> Vec<Message> {
        let tag = |tci| Some(VlanTag { tpid: 0x8100, tci });
        let l2 = L2Header {
            dst: MacAddr([2, 0, 0, 0, 0, 2]),
            src: MacAddr([2, 0, 0, 0, 0, 1]),
            vlans: VlanStack { tags: [tag(7), tag(8)] },
        };
        let src = "[fd00::1]:40000".parse().unwrap();
        let key = FlowKey { vlans: VlanIds([Some(7), Some(8)]), src, dst: "[fd00::2]:8000".parse().unwrap() };
        vec![
            Message::Open(Open { key, l2, mss: 8960, compress: true }),
            Message::Trying,
            Message::Opened { mss: 1460, l2 },
            Message::Refused(RefuseReason::ConnectionRefused),
            Message::Refused(RefuseReason::Conflict),
            Message::Orphan(Orphan { key, host_is_server: true, l2 }),
        ]
    }

    #[test]
    fn messages_round_trip_and_wait_for_their_end() {
        for message in samples() {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            assert!(bytes.len() <= MESSAGE_LEN_MAX, "{message:?}");
            for cut in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes[..cut]), Ok(None), "{message:?} cut at {cut}");
            }
            let len = bytes.len();
            bytes.extend_from_slice(b"blocks");
            assert_eq!(Message::decode(&bytes), Ok(Some((message, len))));
        }
    }

    #[test]
    fn another_version_is_told_apart_from_nonsense() {
        let mut bytes = Vec::new();
        samples()[0].encode(&mut bytes);
        bytes[HEADER_LEN] = VERSION + 1;
        assert_eq!(Message::decode(&bytes), Err(MessageError::Version(VERSION + 1)));
        assert_eq!(Message::decode(&[9, 0, 0]), Err(MessageError::Kind(9)));
        assert_eq!(Message::decode(&[KIND_OPEN, 0xff, 0xff]), Err(MessageError::Malformed));
        assert_eq!(Message::decode(&[KIND_TRYING, 0, 1, 0]), Err(MessageError::Malformed));
        assert_eq!(Message::decode(&[KIND_REFUSED, 0, 1, 99]), Err(MessageError::Malformed));
    }

    proptest! {
        #[test]
        fn random_bytes_decode_to_what_encodes_to_them_or_to_an_error(
            kind in 0u8..7, body in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut bytes = vec![kind, 0, body.len() as u8];
            bytes.extend(body);
            if let Ok(Some((message, len))) = Message::decode(&bytes) {
                let mut again = Vec::new();
                message.encode(&mut again);
                prop_assert_eq!(&bytes[..len], &again[..]);
            }
        }
    }
}
