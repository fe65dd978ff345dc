//! Frames as Linux 6.18 sent them over a veth pair, for the tests of this room.

/// ARP request of 10.1.0.1 for 10.1.0.2.
pub(super) const ARP_REQUEST: &str =
    "ffffffffffff02000000000a0806000108000604000102000000000a0a0100010000000000000a010002";
/// SYN 10.1.0.1:40000 > 10.1.0.2:8000 with MSS, SACK permitted, timestamps and window scale.
pub(super) const SYN_V4: &str = "02000000000b02000000000a08004500003c9aa7400040068c100a0100010a0100029c401f40ed724e34\
    00000000a002faf094290000020405b40402080a23828a34000000000103030a";
/// The refusal of [`SYN_V4`].
pub(super) const RST_V4: &str = "02000000000a02000000000b08004500002800004000400626cc0a0100020a0100011f409c4000000000\
    ed724e3550140000a4a30000";
/// Neighbour solicitation of fd00::1 for fd00::2.
pub(super) const SOLICITATION: &str = "3333ff00000202000000000a86dd6000000000203afffd000000000000000000000000000001ff02\
    00000000000000000001ff00000287007d8e00000000fd000000000000000000000000000002010102000000000a";
/// The answer to [`SOLICITATION`].
pub(super) const ADVERTISEMENT: &str = "02000000000a02000000000b86dd6000000000203afffd000000000000000000000000000002fd00\
    000000000000000000000000000188001c9160000000fd000000000000000000000000000002020102000000000b";
/// SYN fd00::1:40000 > fd00::2:8000.
pub(super) const SYN_V6: &str = "02000000000b02000000000a86dd60059e1200280640fd000000000000000000000000000001fd000000\
    0000000000000000000000029c401f40e1a08f0900000000a002fd201d200000020405a00402080ab4a152ff000000000103030a";
/// Multicast listener report behind a hop-by-hop header.
pub(super) const LISTENER_REPORT: &str = "33330000001602000000000a86dd6000000000380001fe80000000000000000000fffe00000aff02\
    00000000000000000000000000163a000502000001008f006fda0000000204000000ff0200000000000000000001ff00000a04000000ff02\
    00000000000000000001ff000001";

/// The bytes of `hex` behind an empty virtio-net header.
pub(super) fn frame(hex: &str) -> Vec<u8> {
    let mut frame = vec![0; super::VNET_HEADER_LEN];
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    frame.extend(digits.chunks(2).map(|pair| {
        let text = std::str::from_utf8(pair).unwrap();
        u8::from_str_radix(text, 16).unwrap()
    }));
    frame
}

/// `frame` with these tags (TPID, TCI) behind its addresses.
pub(super) fn tagged(mut frame: Vec<u8>, tags: &[(u16, u16)]) -> Vec<u8> {
    let at = super::VNET_HEADER_LEN + 12;
    let bytes: Vec<u8> = tags.iter().flat_map(|(tpid, tci)| [tpid.to_be_bytes(), tci.to_be_bytes()].concat()).collect();
    frame.splice(at..at, bytes);
    frame
}
