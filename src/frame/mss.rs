//! Rewriting the MSS option of a SYN or SYN-ACK, its checksum kept right.

use super::checksum::update;
use super::segment::TcpSegment;

/// What the checksum field of a segment holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChecksumField {
    /// The checksum: it changes with the option.
    Complete,
    /// The sum of the pseudo-header, the rest is left to the kernel ([`super::VnetHeader::NEEDS_CSUM`]), or nothing
    /// yet: it stays.
    Partial,
}

/// Sets the MSS option (RFC 9293 section 3.7.1) of the SYN or SYN-ACK in `ip_packet` and returns the value it had.
/// `None`, and no change, when it is no such segment or has no such option.
pub fn rewrite_mss(ip_packet: &mut [u8], mss: u16, field: ChecksumField) -> Option<u16> {
    let segment = TcpSegment::parse(ip_packet).ok().filter(|segment| segment.flags.syn())?;
    let old = segment.options.mss?;
    let tcp_offset = segment.tcp_offset;
    let header_len = segment.ip_packet.len() - tcp_offset - segment.payload.len();
    let tcp = &mut ip_packet[tcp_offset..tcp_offset + header_len];
    let mut at = super::TCP_HEADER_LEN;
    // The last one counts where an option is repeated, as in the parser; all are set alike.
    while let Some(&kind) = tcp.get(at) {
        match kind {
            0 => break,
            1 => at += 1,
            _ => {
                let len = usize::from(*tcp.get(at + 1)?);
                if kind == 2 && len == 4 {
                    let (before, after) = ([tcp[at + 2], tcp[at + 3]], mss.to_be_bytes());
                    tcp[at + 2..at + 4].copy_from_slice(&after);
                    if field == ChecksumField::Complete {
                        let checksum = update(u16::from_be_bytes([tcp[16], tcp[17]]), at + 2, &before, &after);
                        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
                    }
                }
                at += len;
            }
        }
    }
    Some(old)
}

/// Lowers the MSS option to `limit` where it is above. Returns the value it had, as [`rewrite_mss`].
pub fn clamp_mss(ip_packet: &mut [u8], limit: u16, field: ChecksumField) -> Option<u16> {
    let announced = TcpSegment::parse(ip_packet).ok()?.options.mss?;
    if announced <= limit {
        return Some(announced);
    }
    rewrite_mss(ip_packet, limit, field)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN as Linux sends it, 10.0.0.1:40000 > 10.0.0.2:8000, except that a NOP puts the MSS at an odd offset
    /// when `odd`.
    fn syn(odd: bool) -> Vec<u8> {
        let mut packet = vec![
            0x45, 0, 0, 48, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
            0x9c, 0x40, 0x1f, 0x40, 1, 2, 3, 4, 0, 0, 0, 0, 0x70, 2, 0xfa, 0xf0, 0, 0, 0, 0, // TCP
        ];
        packet.extend(if odd { [1, 2, 4, 5, 0xb4, 4, 2, 1] } else { [2, 4, 5, 0xb4, 1, 1, 4, 2] });
        super::super::checksum::fill_ipv4_header(&mut packet[..20]);
        let segment = TcpSegment::parse(&packet).unwrap();
        let (src, dst) = (segment.key.src.ip(), segment.key.dst.ip());
        let sum = super::super::checksum::pseudo_header(src, dst, 6, 28).add_slice(&packet[20..]);
        packet[36..38].copy_from_slice(&super::super::checksum::complement(&sum));
        packet
    }

    #[test]
    fn a_rewritten_option_keeps_the_checksum_good_at_any_alignment() {
        for odd in [false, true] {
            for mss in [0, 536, 1459, 1460, 8960, 0xffff] {
                let mut packet = syn(odd);
                assert_eq!(rewrite_mss(&mut packet, mss, ChecksumField::Complete), Some(1460));
                let segment = TcpSegment::parse(&packet).unwrap();
                assert_eq!(segment.options.mss, Some(mss));
                assert!(segment.verify_checksums(), "odd {odd} mss {mss}");
            }
        }
    }

    #[test]
    fn a_partial_checksum_is_left_alone() {
        let mut packet = syn(false);
        packet[36..38].copy_from_slice(&[0xab, 0xcd]);
        assert_eq!(rewrite_mss(&mut packet, 900, ChecksumField::Partial), Some(1460));
        assert_eq!(packet[36..38], [0xab, 0xcd]);
    }

    #[test]
    fn a_clamp_only_lowers_and_other_segments_stay_as_they_are() {
        let mut packet = syn(false);
        let before = packet.clone();
        assert_eq!(clamp_mss(&mut packet, 8960, ChecksumField::Complete), Some(1460));
        assert_eq!(packet, before);
        assert_eq!(clamp_mss(&mut packet, 1220, ChecksumField::Complete), Some(1460));
        assert_eq!(TcpSegment::parse(&packet).unwrap().options.mss, Some(1220));
        packet[33] = 0x10;
        let ack = packet.clone();
        assert_eq!(rewrite_mss(&mut packet, 900, ChecksumField::Complete), None);
        assert_eq!(packet, ack);
    }
}
