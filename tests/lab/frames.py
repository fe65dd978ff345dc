"""Odd Ethernet frames, sent raw on one host and caught on the other, byte for byte.

`send IF LARGEST` sends the list below, with frames of up to LARGEST bytes, and prints each as a line of hex digits;
`receive IF LARGEST SECONDS` prints "ready", then every frame of `send`'s, until it has as many or SECONDS have passed.
"""

import itertools
import socket
import struct
import sys
import time

SOURCE = bytes.fromhex("024c48000001")
# Unicast that nobody has: bridges flood it, and no host's kernel answers.
NOBODY = bytes.fromhex("024c48000002")
BROADCAST = b"\xff" * 6
HEADER_MAX = 14
ETH_P_ALL = 3
SOL_PACKET = 263
PACKET_AUXDATA = 8
TP_STATUS_VLAN_VALID = 1 << 4
TP_STATUS_VLAN_TPID_VALID = 1 << 6


def checksum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(protocol, payload, fragment=0, options=b"", length=None, good=True):
    words = 5 + len(options) // 4
    length = words * 4 + len(payload) if length is None else length
    header = struct.pack("!BBHHHBBH", 0x40 | words, 0, length, 7, fragment, 64, protocol, 0)
    header += socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + options
    total = checksum(header) if good else 0xDEAD
    return header[:10] + struct.pack("!H", total) + header[12:] + payload


def ipv6(following, payload):
    addresses = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    return struct.pack("!IHBB", 6 << 28, len(payload), following, 64) + addresses + payload


# Every connection another one, or appliances would know all but the first.
source_port = itertools.count(40000)


def tcp(flags, payload=b"", good=True, options=b"", port=8000):
    """From 192.0.2.1, at a port that the lab accelerates."""
    words = 5 + len(options) // 4
    segment = struct.pack("!HHIIBBHHH", next(source_port), port, 1000, 2000, words << 4, flags, 1024, 0, 0) + options + payload
    pseudo = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2") + struct.pack("!HH", 6, len(segment))
    total = checksum(pseudo + segment) if good else 0xBEEF
    return segment[:16] + struct.pack("!H", total) + segment[18:]


def udp(payload):
    # Checksum zero: none.
    return struct.pack("!HHHH", 40000, 902, 8 + len(payload), 0) + payload


def frames(largest):
    syn, ack, fin, rst = 0x02, 0x10, 0x01, 0x04
    ethertype = lambda number, payload: struct.pack("!H", number) + payload
    tag = lambda tpid, tci: struct.pack("!HH", tpid, tci)
    text = bytes(range(256)) * 40

    bodies = [
        # Unknown EtherTypes, from hardly anything to as long as may be.
        *(ethertype(0x88B5, text[:length]) for length in (1, 2, 46, 47, 777, 1499, 1500)),
        *(ethertype(number, text[:100]) for number in (0x0600, 0x8847, 0x8864, 0x8870, 0x9000, 0xFFFF)),
        ethertype(0x88B6, b""),
        # 802.3 with LLC and SNAP: the field is a length.
        ethertype(0, b""),
        ethertype(43, b"\x42\x42\x03" + text[:40]),
        ethertype(1500, b"\xaa\xaa\x03\x00\x00\x0c" + text[:1494]),
        # The length and the frame disagree.
        ethertype(20, text[:300]),
        # Tags: priority only, one, QinQ of both kinds, three, eight (a tag cut off does not get past a host's kernel).
        tag(0x8100, 0xE000) + ethertype(0x88B5, text[:200]),
        tag(0x8100, 0x0050) + ethertype(0x0800, ipv4(6, tcp(ack, b"mid-stream in a VLAN"))),
        tag(0x8100, 0x7FFF) + ethertype(0x0806, text[:28]),
        tag(0x88A8, 0x2064) + tag(0x8100, 0x00C8) + ethertype(0x0800, ipv4(17, udp(text[:99]))),
        tag(0x8100, 0x0064) + tag(0x8100, 0x00C8) + ethertype(0x86DD, ipv6(17, udp(text[:98]))),
        tag(0x9100, 0x0064) + tag(0x8100, 0x00C8) + ethertype(0x88B5, text[:97]),
        tag(0x88A8, 1) + tag(0x8100, 2) + tag(0x8100, 3) + ethertype(0x0800, ipv4(6, tcp(syn))),
        *([b"".join(tag(0x8100, number) for number in range(1, 9)) + ethertype(0x88B5, text[:96])]),
        # A full payload below two tags: longer than an untagged frame may be, as trunks carry them.
        tag(0x88A8, 0x0064) + ethertype(0x88B5, text[:1496]),
        # ARP of strangers, gratuitous and odd.
        ethertype(0x0806, bytes.fromhex("0001080006040001") + SOURCE + b"\xc0\0\2\1" + b"\0" * 6 + b"\xc0\0\2\1"),
        ethertype(0x0806, bytes.fromhex("0001080006040009") + text[:50]),
        # IP that no appliance may touch: fragments, options, other protocols, what contradicts itself.
        ethertype(0x0800, ipv4(6, tcp(syn)[:8], fragment=0x2000)),
        ethertype(0x0800, ipv4(6, text[:64], fragment=0x0001)),
        ethertype(0x0800, ipv4(6, tcp(syn), options=b"\x94\x04\0\0")),
        ethertype(0x0800, ipv4(47, text[:300])),
        ethertype(0x0800, ipv4(50, text[:300])),
        ethertype(0x0800, ipv4(1, b"\x08\0\0\0" + text[:60])),
        ethertype(0x0800, ipv4(6, tcp(syn), good=False)),
        ethertype(0x0800, ipv4(6, tcp(syn), length=2000)),
        ethertype(0x0800, ipv4(6, tcp(syn), length=12)),
        ethertype(0x0800, ipv4(6, tcp(ack)) + b"trailer behind the packet"),
        ethertype(0x0800, b"\x45"),
        ethertype(0x0800, b"\x4f" + text[:19]),
        ethertype(0x86DD, ipv6(0, b"\x06\0\x01\x04\0\0\0\0" + tcp(ack))),
        ethertype(0x86DD, ipv6(44, b"\x06\0\0\x01\0\0\0\7" + tcp(syn)[:8])),
        ethertype(0x86DD, b"\x60" + text[:20]),
        # TCP that cannot be accelerated: no beginning, wrong checksums, impossible flags, MD5, AO, Multipath TCP.
        *(ethertype(0x0800, ipv4(6, tcp(flags, b"x" * 33))) for flags in (0, ack, fin | ack, rst, rst | ack, syn | fin, 0xFF)),
        ethertype(0x0800, ipv4(6, tcp(syn, good=False))),
        ethertype(0x0800, ipv4(6, tcp(ack, text[:1460], good=False))),
        ethertype(0x0800, ipv4(6, tcp(syn, options=b"\x13\x12" + text[:16] + b"\1\1"))),
        ethertype(0x0800, ipv4(6, tcp(syn, options=b"\x1d\x10" + text[:14]))),
        ethertype(0x0800, ipv4(6, tcp(syn, options=b"\x1e\x0c" + text[:10]))),
        ethertype(0x0800, ipv4(6, tcp(syn, port=0))),
        ethertype(0x0800, ipv4(6, tcp(syn)[:10])),
        ethertype(0x0800, ipv4(6, tcp(syn)[:12] + b"\x10" + tcp(syn)[13:])),
    ]
    numbered = [NOBODY + SOURCE + body for body in bodies]
    for address in ("ffffffffffff", "01005e000012", "333300000001", "01000ccccccc", "0180c200000e", "0180c2000021"):
        numbered.append(bytes.fromhex(address) + SOURCE + ethertype(0x88B5, text[:80]))
    # A run of frames of all lengths: order shows.
    for number in range(300):
        length = 46 + number * 331 % (largest - HEADER_MAX - 45)
        numbered.append(NOBODY + SOURCE + ethertype(0x88B5, struct.pack("!H", number) + text[: length - 2]))
    return numbered


def send(interface, largest):
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    port.bind((interface, 0))
    for frame in frames(largest):
        port.send(frame)
        # Slowly enough for any queue on the way.
        time.sleep(0.0005)
        print(frame.hex())


def receive(interface, largest, seconds):
    count = len(frames(largest))
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    port.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    port.bind((interface, ETH_P_ALL))
    print("ready", flush=True)
    deadline = time.monotonic() + seconds
    while count > 0 and deadline > time.monotonic():
        port.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            frame, ancillary, _, _ = port.recvmsg(65536, 256)
        except socket.timeout:
            break
        if frame[6:12] != SOURCE:
            continue
        # The kernel takes the outermost tag off, and tells of it beside the frame.
        for _, kind, value in ancillary:
            if kind == PACKET_AUXDATA:
                status, _, _, _, _, tci, tpid = struct.unpack("=IIIHHHH", value[:20])
                if status & TP_STATUS_VLAN_VALID:
                    tpid = tpid if status & TP_STATUS_VLAN_TPID_VALID else 0x8100
                    frame = frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
        print(frame.hex())
        count -= 1


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(sys.argv[2], int(sys.argv[3]))
    else:
        receive(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
