//! Internet checksums (RFC 1071, RFC 1624).

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;

/// Protocol number of TCP in the pseudo-header.
pub(super) const PROTOCOL_TCP: u8 = 6;

/// Protocol number of ICMPv6 in the pseudo-header.
pub(super) const PROTOCOL_ICMPV6: u8 = 58;

/// The sum over the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) for `len` bytes of header and payload.
pub(super) fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Sum16BitWords {
    let mut sum = Sum16BitWords::new();
    for ip in [src, dst] {
        sum = match ip {
            IpAddr::V4(ip) => sum.add_4bytes(ip.octets()),
            IpAddr::V6(ip) => sum.add_16bytes(ip.octets()),
        };
    }
    sum.add_2bytes([0, protocol]).add_4bytes((len as u32).to_be_bytes())
}

/// What a checksum field holds for `sum`: its complement, big endian.
pub(super) fn complement(sum: &Sum16BitWords) -> [u8; 2] {
    sum.ones_complement().to_ne_bytes()
}

/// What a checksum field holds while the checksum is left to the kernel: the folded sum itself, big endian.
pub(super) fn partial(sum: &Sum16BitWords) -> [u8; 2] {
    (!sum.ones_complement()).to_ne_bytes()
}

/// Whether a region that includes its own checksum is intact, `sum` being that of all of it.
pub(super) fn is_intact(sum: &Sum16BitWords) -> bool {
    sum.ones_complement() == 0
}

/// Writes the checksum of an IPv4 header (20 bytes or more) into it.
pub(super) fn fill_ipv4_header(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = complement(&Sum16BitWords::new().add_slice(header));
    header[10..12].copy_from_slice(&checksum);
}

/// The checksum field after bytes of its region changed from `old` to `new`, `at` bytes from the region's start
/// (RFC 1624, equation 3).
pub(super) fn update(checksum: u16, at: usize, old: &[u8], new: &[u8]) -> u16 {
    let weight = |offset: usize, byte: u8| u32::from(byte) << if (at + offset).is_multiple_of(2) { 8 } else { 0 };
    let fold = |sum: u32| {
        let once = (sum & 0xffff) + (sum >> 16);
        ((once & 0xffff) + (once >> 16)) as u16
    };
    let old_sum: u32 = old.iter().enumerate().map(|(offset, &byte)| weight(offset, byte)).sum();
    let new_sum: u32 = new.iter().enumerate().map(|(offset, &byte)| weight(offset, byte)).sum();
    !fold(u32::from(!checksum) + u32::from(!fold(old_sum)) + u32::from(fold(new_sum)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        let sum = Sum16BitWords::new().add_slice(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(partial(&sum), [0xdd, 0xf2]);
        assert_eq!(complement(&sum), [0x22, 0x0d]);
    }

    #[test]
    fn a_known_ipv4_header_gets_its_known_checksum() {
        let mut header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xff, 0xff, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
            0x00, 0xc7,
        ];
        fill_ipv4_header(&mut header);
        assert_eq!(header[10..12], [0xb8, 0x61]);
        assert!(is_intact(&Sum16BitWords::new().add_slice(&header)));
    }

    proptest! {
        #[test]
        fn an_update_keeps_a_region_intact(
            mut bytes in proptest::collection::vec(any::<u8>(), 8..64), at in 2usize..6, new in any::<[u8; 2]>(),
        ) {
            bytes[..2].fill(0);
            let checksum = complement(&Sum16BitWords::new().add_slice(&bytes));
            bytes[..2].copy_from_slice(&checksum);
            let old = [bytes[at], bytes[at + 1]];
            let updated = update(u16::from_be_bytes(checksum), at, &old, &new);
            bytes[at..at + 2].copy_from_slice(&new);
            bytes[..2].copy_from_slice(&updated.to_be_bytes());
            prop_assert!(is_intact(&Sum16BitWords::new().add_slice(&bytes)));
        }
    }
}
