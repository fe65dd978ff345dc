//! The tree to [`Settings`]: every field but the rules, its default and its limits.

mod rules;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::fields::{Field, Key, Kind, Section};
use super::keys::KeyPlaces;
use super::node::{self, Node};
use super::report::{Findings, quoted};
use super::{ChannelSettings, PortSettings, STATUS_SOCKET_DEFAULT, Settings};
use crate::channel::PathMtu;
use crate::crypto::PublicKey;
use crate::engine::Limits;
use crate::rate::RateMode;
use crate::units::{BitRate, ByteCount};

/// Bytes of an IP packet: what every IPv4 host takes (RFC 791 section 3.1) to the largest jumbo frames in use.
const MTU_RANGE: std::ops::RangeInclusive<i128> = 576..=9216;
/// The MTU of an Ethernet that nobody changed (RFC 894).
const MTU_DEFAULT: usize = 1500;
/// The smallest link MTU of IPv6 (RFC 8200 section 5).
const IPV6_MTU_MIN: usize = 1280;
/// A rate below a modem's or above any port's is a slip of the unit.
const RATE_RANGE: (BitRate, BitRate) = (BitRate::from_kbps(64), BitRate::from_mbps(400_000));
/// 64 hosts with 8 migrations of 8 connections each are 4,096.
const FLOWS_DEFAULT: usize = 10_000;
const FLOWS_RANGE: std::ops::RangeInclusive<i128> = 1..=1_000_000;
const MEMORY_DEFAULT: ByteCount = ByteCount::from_mib(1024);
/// Less would refuse the first flow of a fast link.
const MEMORY_MIN: ByteCount = ByteCount::from_mib(16);
/// Linux's IFNAMSIZ without its end (netdevice(7)).
const INTERFACE_NAME_LEN_MAX: usize = 15;
/// Linux's sun_path without its end (unix(7)).
const SOCKET_PATH_LEN_MAX: usize = 107;
const NAME_LEN_MAX: usize = 63;

static ROOT: Kind = Kind {
    name: "the file",
    keys: &[
        Key { name: "name", example: "name: site-a" },
        Key { name: "lan", example: "lan: { tap: tap-lan, mtu: 1500 }" },
        Key { name: "wan", example: "wan: { tap: tap-wan, mtu: 1500 }" },
        Key { name: "channel", example: "channel: with private_key_file, listen and peer below it" },
        Key { name: "rules", example: "rules: [] to forward everything untouched, or the first \"- name: vmotion\"" },
        Key { name: "limits", example: "limits: { flows: 10000, memory: 1 GiB }" },
        Key { name: "status_socket", example: "status_socket: /run/longhaul/status.sock" },
    ],
};
static PORT: Kind = Kind {
    name: "a port (lan, wan)",
    keys: &[Key { name: "tap", example: "tap: tap-lan" }, Key { name: "mtu", example: "mtu: 1500" }],
};
static CHANNEL: Kind = Kind {
    name: "the section \"channel\"",
    keys: &[
        Key { name: "private_key_file", example: "private_key_file: /etc/longhaul/private.key" },
        Key { name: "listen", example: "listen: 0.0.0.0:47000" },
        Key { name: "peer", example: "peer: with address and public_key below it" },
        Key { name: "rate", example: "rate: 100 Mbps" },
        Key { name: "rate_mode", example: "rate_mode: fair or rate_mode: fixed" },
        Key { name: "path_mtu", example: "path_mtu: 1500" },
    ],
};
static PEER: Kind = Kind {
    name: "the section \"channel.peer\"",
    keys: &[
        Key { name: "address", example: "address: 192.0.2.2:47000" },
        Key {
            name: "public_key",
            example: "public_key: and the line that `longhaul keygen` printed on the other appliance",
        },
        Key { name: "next_public_key", example: "next_public_key: and the key that the peer is about to change to" },
        Key { name: "preshared_key_file", example: "preshared_key_file: /etc/longhaul/preshared.key" },
    ],
};
static LIMITS: Kind = Kind {
    name: "the section \"limits\"",
    keys: &[Key { name: "flows", example: "flows: 10000" }, Key { name: "memory", example: "memory: 1 GiB" }],
};
static KINDS: &[&Kind] = &[&ROOT, &PORT, &CHANNEL, &PEER, &LIMITS, &rules::RULE];

/// Reads a whole file; `None` when there are errors. `directory` is what relative file names are relative to.
pub(super) fn read(text: &[u8], directory: &Path, findings: &mut Findings) -> Option<(Settings, KeyPlaces)> {
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let line = text[..error.valid_up_to()].iter().filter(|&&byte| byte == b'\n').count() + 1;
            findings.syntax((line, 1), "this line is not UTF-8 text; save the file as UTF-8".to_owned());
            return None;
        }
    };
    let root = match node::parse(text) {
        Ok(Node::Null) => {
            let message = "the file is empty; start from the example vmotion.yaml".to_owned();
            findings.syntax((1, 1), message);
            return None;
        }
        Ok(root) => root,
        Err(error) => {
            findings.syntax(error.position, error.message);
            return None;
        }
    };
    Reader { directory, findings }.settings(&Field::root(&root))
}

/// The section `channel.peer`.
struct Peer {
    address: Option<SocketAddr>,
    public_key: PublicKey,
    next_public_key: Option<PublicKey>,
    preshared_key_file: Option<PathBuf>,
}

struct Reader<'a> {
    directory: &'a Path,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn settings(&mut self, root: &Field<'_>) -> Option<(Settings, KeyPlaces)> {
        let root = root.section(&ROOT, KINDS, self.findings)?;
        let name = root.required("name", self.findings).and_then(|field| self.name(&field));
        let lan = root.required("lan", self.findings).and_then(|field| self.port(&field));
        let wan = root.required("wan", self.findings).and_then(|field| self.port(&field));
        if let (Some(lan), Some(wan), Some(field)) = (&lan, &wan, root.optional("wan"))
            && lan.tap == wan.tap
        {
            self.findings.error(&field.place, format_args!("lan and wan both use {}; they need one TAP each", lan.tap));
        }
        let wan_mtu = wan.as_ref().map_or(MTU_DEFAULT, |wan| wan.mtu);
        let mut places = KeyPlaces::default();
        let channel = root.optional("channel").map(|field| self.channel(&field, wan_mtu, &mut places));
        let rules = root.required("rules", self.findings).and_then(|field| rules::read(&field, KINDS, self.findings));
        if let (Some(rules), None) = (&rules, &channel)
            && rules.accelerates()
        {
            let remedy = "rules accelerate, so add channel: with private_key_file, listen and peer below it";
            root.missing("channel", remedy, self.findings);
        }
        let limits = root.optional("limits").map(|field| self.limits(&field));
        let limits = limits.unwrap_or(Some(Limits { flows: FLOWS_DEFAULT, memory: MEMORY_DEFAULT }));
        let status_socket = root.optional("status_socket").map(|field| self.socket(&field));
        let status_socket = status_socket.unwrap_or(Some(PathBuf::from(STATUS_SOCKET_DEFAULT)));
        if self.findings.has_errors() {
            return None;
        }
        let settings = Settings {
            name: name?,
            lan: lan?,
            wan: wan?,
            channel: match channel {
                Some(channel) => Some(channel?),
                None => None,
            },
            rules: rules?,
            limits: limits?,
            status_socket: status_socket?,
        };
        Some((settings, places))
    }

    fn name(&mut self, field: &Field<'_>) -> Option<String> {
        let text = field.text(self.findings)?;
        let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if text.len() > NAME_LEN_MAX || !is_plain {
            let message = "is not a name; write 1 to 63 letters, digits, \".\", \"_\" or \"-\", as name: site-a";
            self.findings.error(&field.place, format_args!("{} {message}", quoted(text)));
            return None;
        }
        Some(text.to_owned())
    }

    fn port(&mut self, field: &Field<'_>) -> Option<PortSettings> {
        let port = field.section(&PORT, KINDS, self.findings)?;
        let tap = port.required("tap", self.findings).and_then(|field| self.interface(&field));
        let mtu = match port.optional("mtu") {
            Some(field) => field.whole(MTU_RANGE, self.findings),
            None => Some(MTU_DEFAULT),
        };
        Some(PortSettings { tap: tap?, mtu: mtu? })
    }

    /// An interface name as the kernel takes it (`dev_valid_name`).
    fn interface(&mut self, field: &Field<'_>) -> Option<String> {
        let text = field.text(self.findings)?;
        let is_plain = text.chars().all(|c| c.is_ascii_graphic() && !"/:".contains(c)) && text != "." && text != "..";
        if text.len() > INTERFACE_NAME_LEN_MAX || !is_plain {
            let message = "is not an interface name; Linux allows 1 to 15 characters without space, / or :, as tap-lan";
            self.findings.error(&field.place, format_args!("{} {message}", quoted(text)));
            return None;
        }
        Some(text.to_owned())
    }

    fn channel(&mut self, field: &Field<'_>, wan_mtu: usize, places: &mut KeyPlaces) -> Option<ChannelSettings> {
        let channel = field.section(&CHANNEL, KINDS, self.findings)?;
        let private_key_file = channel.required("private_key_file", self.findings).and_then(|field| {
            places.private_key_file = field.place.clone();
            self.file(&field)
        });
        let listen = channel.required("listen", self.findings).and_then(|field| self.address(&field));
        let peer_section = channel.required("peer", self.findings);
        let peer_section = peer_section.and_then(|field| field.section(&PEER, KINDS, self.findings));
        let peer = peer_section.and_then(|peer| self.peer(&peer, listen, places));
        let rate = self.rate_mode(&channel);
        let path_mtu = match channel.optional("path_mtu") {
            Some(field) => self.path_mtu(&field, wan_mtu, listen),
            None => Some(PathMtu::Discover { max: wan_mtu }),
        };
        let peer = peer?;
        Some(ChannelSettings {
            private_key_file: private_key_file?,
            listen: listen?,
            peer_address: peer.address,
            peer_public_key: peer.public_key,
            peer_next_public_key: peer.next_public_key,
            preshared_key_file: peer.preshared_key_file,
            rate: rate?,
            path_mtu: path_mtu?,
        })
    }

    fn peer(&mut self, peer: &Section<'_>, listen: Option<SocketAddr>, places: &mut KeyPlaces) -> Option<Peer> {
        let address = peer.optional("address").map(|field| self.peer_address(&field, listen));
        let public_key = peer.required("public_key", self.findings).and_then(|field| {
            places.peer_public_key = field.place.clone();
            self.public_key(&field)
        });
        let next = peer.optional("next_public_key").map(|field| {
            let key = self.public_key(&field)?;
            if Some(&key) == public_key.as_ref() {
                let message = "is public_key once more; leave it out unless the peer is about to change its key";
                self.findings.error(&field.place, message);
                return None;
            }
            Some(key)
        });
        let preshared_key_file = peer.optional("preshared_key_file").map(|field| {
            places.preshared_key_file = field.place.clone();
            self.file(&field)
        });
        let address = match address {
            Some(address) => Some(address?),
            None => None,
        };
        let preshared_key_file = match preshared_key_file {
            Some(path) => Some(path?),
            None => None,
        };
        let next_public_key = match next {
            Some(key) => Some(key?),
            None => None,
        };
        Some(Peer { address, public_key: public_key?, next_public_key, preshared_key_file })
    }

    fn public_key(&mut self, field: &Field<'_>) -> Option<PublicKey> {
        // The text is not repeated: it may be a private key in the wrong place.
        match field.text(self.findings)?.parse() {
            Ok(PublicKey(bytes)) if bytes == [0; 32] => {
                let message = "is all zeros, which is nobody's key; write what `longhaul keygen` printed over there";
                self.findings.error(&field.place, message);
                None
            }
            Ok(key) => Some(key),
            Err(error) => {
                self.findings.error(&field.place, error);
                None
            }
        }
    }

    /// An IP address with a port.
    fn address(&mut self, field: &Field<'_>) -> Option<SocketAddr> {
        if let Node::Int(port) = field.node {
            let message = "is only a port; write address:port, as 0.0.0.0:47000 for every address of this machine";
            self.findings.error(&field.place, format_args!("{port} {message}"));
            return None;
        }
        let text = field.text(self.findings)?;
        let shown = quoted(text);
        let refuse = |reader: &mut Self, message: String| {
            reader.findings.error(&field.place, message);
            None
        };
        match (text.parse(), text.parse()) {
            (Ok(address), _) if SocketAddr::port(&address) == 0 => {
                refuse(self, format!("{shown} has port 0; write the port the other appliance calls, as 47000"))
            }
            (Ok(address), _) => Some(address),
            (Err(_), Ok(IpAddr::V4(_))) => refuse(self, format!("{shown} has no port; write {text}:47000")),
            (Err(_), Ok(IpAddr::V6(_))) => {
                refuse(self, format!("{shown} is an IPv6 address without a port; write \"[{text}]:47000\" in quotes"))
            }
            _ => refuse(
                self,
                format!("{shown} is not an IP address and port; write 192.0.2.2:47000 or \"[2001:db8::2]:47000\""),
            ),
        }
    }

    fn peer_address(&mut self, field: &Field<'_>, listen: Option<SocketAddr>) -> Option<SocketAddr> {
        let address = self.address(field)?;
        if address.ip().is_unspecified() || address.ip().is_multicast() {
            let message = "is not the address of one machine; write where the other appliance listens, or leave it out";
            self.findings.error(&field.place, format_args!("{address} {message}"));
            return None;
        }
        let listen = listen?;
        if listen.is_ipv4() != address.is_ipv4() {
            let family = |address: SocketAddr| if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let any = if address.is_ipv4() { "0.0.0.0" } else { "[::]" };
            self.findings.error(
                &field.place,
                format_args!(
                    "{address} is {}, but listen {listen} is {}; write listen: \"{any}:{}\"",
                    family(address),
                    family(listen),
                    listen.port()
                ),
            );
            return None;
        }
        if listen == address {
            let message = "is our own listen address; write where the other appliance listens";
            self.findings.error(&field.place, format_args!("{address} {message}"));
            return None;
        }
        Some(address)
    }

    /// `rate` and `rate_mode` together: a cap on what the path would allow, or the pace itself.
    fn rate_mode(&mut self, channel: &Section<'_>) -> Option<RateMode> {
        let rate = channel.optional("rate").map(|field| self.rate(&field));
        let mode = channel.optional("rate_mode");
        let is_fixed = match &mode {
            Some(field) => field.word(&[("fair", false), ("fixed", true)], self.findings),
            None => Some(false),
        };
        let rate = match rate {
            Some(rate) => Some(rate?),
            None => None,
        };
        match (is_fixed?, rate) {
            (false, cap) => Some(RateMode::Fair { cap }),
            (true, Some(rate)) => Some(RateMode::Fixed { rate }),
            (true, None) => {
                let message = "fixed sends at the rate that you set, and there is none; add rate: and a little less than \
                               the line carries, as rate: 950 Mbps";
                self.findings.error(&mode?.place, message);
                None
            }
        }
    }

    fn rate(&mut self, field: &Field<'_>) -> Option<BitRate> {
        if let Node::Int(number) = field.node {
            let message = format_args!("{number} has no unit; write {number} Mbps or {number} Gbps");
            self.findings.error(&field.place, message);
            return None;
        }
        let text = field.text(self.findings)?;
        let (low, high) = RATE_RANGE;
        let problem = match text.parse::<BitRate>() {
            Ok(rate) if low <= rate && rate <= high => return Some(rate),
            Ok(rate) => format!("{rate} is outside {low} to {high}; check the unit, as in 100 Mbps"),
            Err(_) => format!("{} is not a rate; write a number and a unit: 100 Mbps, 2.5 Gbps", quoted(text)),
        };
        self.findings.error(&field.place, problem);
        None
    }

    fn path_mtu(&mut self, field: &Field<'_>, wan_mtu: usize, listen: Option<SocketAddr>) -> Option<PathMtu> {
        let mtu = field.whole(MTU_RANGE, self.findings)?;
        if mtu > wan_mtu {
            let message = format_args!("{mtu} is more than wan.mtu; write {wan_mtu} or less, or raise wan.mtu");
            self.findings.error(&field.place, message);
            return None;
        }
        if listen.is_some_and(|listen| listen.is_ipv6()) && mtu < IPV6_MTU_MIN {
            let message = format_args!("{mtu} is less than IPv6 allows; write {IPV6_MTU_MIN} or more");
            self.findings.error(&field.place, message);
            return None;
        }
        Some(PathMtu::Fixed(mtu))
    }

    fn limits(&mut self, field: &Field<'_>) -> Option<Limits> {
        let limits = field.section(&LIMITS, KINDS, self.findings)?;
        let flows = match limits.optional("flows") {
            Some(field) => field.whole(FLOWS_RANGE, self.findings),
            None => Some(FLOWS_DEFAULT),
        };
        let memory = match limits.optional("memory") {
            Some(field) => self.memory(&field),
            None => Some(MEMORY_DEFAULT),
        };
        Some(Limits { flows: flows?, memory: memory? })
    }

    fn memory(&mut self, field: &Field<'_>) -> Option<ByteCount> {
        let text = match field.node {
            Node::Int(number) => &number.to_string(),
            _ => field.text(self.findings)?,
        };
        let problem = match parse_size(text) {
            Some(size) if size >= MEMORY_MIN => return Some(size),
            Some(_) => format!("{} is too little to hold one fast flow; write 16 MiB or more, as 1 GiB", quoted(text)),
            None => format!("{} is not an amount of memory; write a number and a unit: 512 MiB, 1 GiB", quoted(text)),
        };
        self.findings.error(&field.place, problem);
        None
    }

    fn file(&mut self, field: &Field<'_>) -> Option<PathBuf> {
        let text = field.text(self.findings)?;
        Some(self.directory.join(text))
    }

    fn socket(&mut self, field: &Field<'_>) -> Option<PathBuf> {
        let path = self.file(field)?;
        if path.as_os_str().len() > SOCKET_PATH_LEN_MAX {
            let message = format_args!("is longer than the {SOCKET_PATH_LEN_MAX} characters Linux allows for a socket");
            self.findings.error(&field.place, format_args!("{message}; write {STATUS_SOCKET_DEFAULT}"));
            return None;
        }
        Some(path)
    }
}

/// `512 MiB`, `1 GiB`, `2 GB`: a whole number and a unit; `None` for anything else.
fn parse_size(text: &str) -> Option<ByteCount> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(split);
    let scale: u64 = match unit.trim() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(scale).map(ByteCount::new)
}
