//! The virtio-net header in front of each frame of a TAP: checksum and segmentation offload.

/// Length of the virtio-net header a TAP puts in front of each frame (virtio 1.2 section 5.1.6, legacy
/// `struct virtio_net_hdr`, without `num_buffers`).
pub const VNET_HEADER_LEN: usize = 10;

/// The virtio-net header (virtio 1.2 section 5.1.6). A TAP uses the host's byte order unless told otherwise
/// (`TUNSETVNETLE`, `TUNSETVNETBE`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHeader {
    /// [`VnetHeader::NEEDS_CSUM`], [`VnetHeader::DATA_VALID`].
    pub flags: u8,
    /// One of the `GSO_` values, possibly with [`VnetHeader::GSO_ECN`].
    pub gso_type: u8,
    /// Length of the headers that each segment repeats, from the Ethernet header on.
    pub hdr_len: u16,
    /// Payload bytes of each segment: the MSS.
    pub gso_size: u16,
    /// Where the checksummed region starts, from the Ethernet header on.
    pub csum_start: u16,
    /// Where the checksum belongs, from `csum_start` on.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Flag: the checksum is not there yet, its field holds the sum of the pseudo-header.
    pub const NEEDS_CSUM: u8 = 1;
    /// Flag: somebody below has verified the checksum.
    pub const DATA_VALID: u8 = 2;
    /// Segmentation: none.
    pub const GSO_NONE: u8 = 0;
    /// Segmentation: TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// Segmentation: UDP fragmentation over IPv4.
    pub const GSO_UDP: u8 = 3;
    /// Segmentation: TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// Segmentation: UDP datagrams.
    pub const GSO_UDP_L4: u8 = 5;
    /// Added to the TCP types: the segment has CWR set.
    pub const GSO_ECN: u8 = 0x80;

    /// Reads the header in front of `frame`; `None` if it is not whole.
    pub fn parse(frame: &[u8]) -> Option<VnetHeader> {
        let bytes = frame.first_chunk::<VNET_HEADER_LEN>()?;
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Some(VnetHeader {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: word(2),
            gso_size: word(4),
            csum_start: word(6),
            csum_offset: word(8),
        })
    }

    /// The header as a TAP reads it.
    pub fn to_bytes(self) -> [u8; VNET_HEADER_LEN] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        for (at, word) in [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset].into_iter().enumerate() {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    /// The segmentation without the ECN bit: one of the `GSO_` values.
    pub const fn segmentation(self) -> u8 {
        self.gso_type & !Self::GSO_ECN
    }

    /// Whether the checksum of the TCP segment that starts `tcp_offset` bytes after the Ethernet header's start needs
    /// no verification: it was never on a wire, or somebody verified it.
    pub fn vouches_for_tcp(self, tcp_offset: usize) -> bool {
        if self.flags & Self::NEEDS_CSUM != 0 {
            return usize::from(self.csum_start) == tcp_offset && self.csum_offset == 16;
        }
        self.flags & Self::DATA_VALID != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_round_trip() {
        let header = VnetHeader {
            flags: VnetHeader::NEEDS_CSUM,
            gso_type: VnetHeader::GSO_TCPV6 | VnetHeader::GSO_ECN,
            hdr_len: 74,
            gso_size: 1440,
            csum_start: 54,
            csum_offset: 16,
        };
        let bytes = header.to_bytes();
        assert_eq!(VnetHeader::parse(&bytes), Some(header));
        assert_eq!(header.segmentation(), VnetHeader::GSO_TCPV6);
        assert_eq!(VnetHeader::parse(&bytes[..9]), None);
        assert_eq!(u16::from_ne_bytes([bytes[4], bytes[5]]), 1440);
    }

    #[test]
    fn a_checksum_to_be_completed_elsewhere_vouches_for_nothing() {
        let header = VnetHeader { flags: 1, csum_start: 34, csum_offset: 16, ..VnetHeader::default() };
        assert!(header.vouches_for_tcp(34));
        assert!(!header.vouches_for_tcp(54), "an inner header of a tunnel");
        assert!(VnetHeader { flags: 2, ..VnetHeader::default() }.vouches_for_tcp(34));
        assert!(!VnetHeader::default().vouches_for_tcp(34));
    }
}
