//! A subnet as a rule names it: strict CIDR, IPv4 or IPv6.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// An IPv4 or IPv6 subnet without host bits. A bare address is a subnet of one (`/32`, `/128`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Subnet(IpNet);

impl Subnet {
    /// Every IPv4 address.
    pub const ANY_IPV4: Subnet = Subnet(IpNet::V4(match ipnet::Ipv4Net::new(std::net::Ipv4Addr::UNSPECIFIED, 0) {
        Ok(net) => net,
        Err(_) => unreachable!(),
    }));

    /// Every IPv6 address.
    pub const ANY_IPV6: Subnet = Subnet(IpNet::V6(match ipnet::Ipv6Net::new(std::net::Ipv6Addr::UNSPECIFIED, 0) {
        Ok(net) => net,
        Err(_) => unreachable!(),
    }));

    /// Whether the address lies in the subnet; never across families (an IPv4-mapped IPv6 address is IPv6).
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether every address of `other` lies in this subnet.
    pub fn covers(&self, other: &Subnet) -> bool {
        self.0.contains(&other.0)
    }

    /// Whether it holds IPv6 addresses.
    pub fn is_ipv6(&self) -> bool {
        matches!(self.0, IpNet::V6(_))
    }

    /// First and last address as numbers of their family.
    pub(super) fn bounds(&self) -> (u128, u128) {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => u128::from(address),
        };
        (number(self.0.network()), number(self.0.broadcast()))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The text is not a subnet; the message says which subnet was probably meant.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseSubnetError {
    /// Neither an address nor address/prefix.
    #[error("{0:?} is not a subnet; write address/prefix length: 10.1.8.0/24 or fd00:8::/64")]
    Form(String),
    /// The prefix is longer than the address.
    #[error(
        "\"{text}\" has a prefix length outside 0 to {prefix_len_max}; write for example {address}/{prefix_len_max}"
    )]
    PrefixLen {
        /// As written.
        text: String,
        /// Its address.
        address: IpAddr,
        /// 32 or 128.
        prefix_len_max: u8,
    },
    /// Bits behind the prefix are set: an address inside the subnet was written, or the prefix is too short.
    #[error("{text:?} has host bits set; write {network} for the subnet or {host} for the one host")]
    HostBits {
        /// As written.
        text: String,
        /// The subnet the address lies in.
        network: Subnet,
        /// The address alone.
        host: Subnet,
    },
}

impl FromStr for Subnet {
    type Err = ParseSubnetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || ParseSubnetError::Form(text.to_owned());
        let (address, prefix_len) = match text.split_once('/') {
            Some((address, prefix_len)) => (address, Some(prefix_len)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| form())?;
        let host = Subnet(IpNet::from(address));
        let prefix_len_max = host.0.max_prefix_len();
        let Some(prefix_len) = prefix_len else {
            return Ok(host);
        };
        if prefix_len.is_empty() || !prefix_len.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(form());
        }
        let net = prefix_len.parse().ok().and_then(|prefix_len: u8| IpNet::new(address, prefix_len).ok());
        let Some(net) = net else {
            return Err(ParseSubnetError::PrefixLen { text: text.to_owned(), address, prefix_len_max });
        };
        let network = Subnet(net.trunc());
        if network.0 != net {
            return Err(ParseSubnetError::HostBits { text: text.to_owned(), network, host });
        }
        Ok(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_reads_what_it_prints() {
        for text in ["10.1.8.0/24", "0.0.0.0/0", "192.0.2.7/32", "fd00:8::/64", "::/0", "2001:db8::1/128"] {
            assert_eq!(text.parse::<Subnet>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.7".parse::<Subnet>().unwrap().to_string(), "192.0.2.7/32");
        assert_eq!("0.0.0.0/0".parse(), Ok(Subnet::ANY_IPV4));
        assert_eq!("::/0".parse(), Ok(Subnet::ANY_IPV6));
    }

    #[test]
    fn host_bits_name_the_subnet_that_was_meant() {
        let error = "10.1.8.5/24".parse::<Subnet>().unwrap_err().to_string();
        assert_eq!(
            error,
            "\"10.1.8.5/24\" has host bits set; write 10.1.8.0/24 for the subnet or 10.1.8.5/32 for the one host"
        );
    }

    #[test]
    fn nonsense_is_refused_with_a_remedy() {
        for text in ["", "/", "10.1.8/24", "10.1.8.0/", "10.1.8.0/-1", "10.1.8.0/+8", "a/8", "10.1.8.0/255.255.255.0"] {
            assert!(matches!(text.parse::<Subnet>(), Err(ParseSubnetError::Form(_))), "{text}");
        }
        for text in ["10.1.8.0/33", "fd00::/129", "10.0.0.0/999"] {
            assert!(matches!(text.parse::<Subnet>(), Err(ParseSubnetError::PrefixLen { .. })), "{text}");
        }
    }
}
