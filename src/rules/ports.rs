//! TCP ports as a rule names them: one port or a range.

use std::fmt;
use std::str::FromStr;

/// An inclusive range of TCP ports; a single port is a range of one. Port 0 is never in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Every port.
    pub const ANY: PortRange = PortRange { first: 1, last: u16::MAX };

    /// Only `port`; `None` for port 0.
    pub const fn single(port: u16) -> Option<PortRange> {
        if port == 0 { None } else { Some(PortRange { first: port, last: port }) }
    }

    /// The lowest port.
    pub const fn first(&self) -> u16 {
        self.first
    }

    /// The highest port.
    pub const fn last(&self) -> u16 {
        self.last
    }

    /// Whether `port` is one of them.
    pub const fn contains(&self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// The text is neither a port nor a range of ports.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParsePortsError {
    /// Neither a number nor two with a hyphen.
    #[error("{0:?} is not a port or range; write 8000 or 8000-8010")]
    Form(String),
    /// A number that TCP does not have.
    #[error("{0:?} is not a TCP port; ports run from 1 to 65535")]
    Number(String),
    /// The higher port comes first.
    #[error("range {last}-{first} runs backwards; write {first}-{last}")]
    Reversed {
        /// The lower port.
        first: u16,
        /// The higher port.
        last: u16,
    },
}

impl FromStr for PortRange {
    type Err = ParsePortsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let port = |digits: &str| {
            let digits = digits.trim();
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(ParsePortsError::Form(text.to_owned()));
            }
            match digits.parse() {
                Ok(port @ 1..) => Ok(port),
                _ => Err(ParsePortsError::Number(digits.to_owned())),
            }
        };
        let (first, last) = match text.split_once('-') {
            Some((first, last)) => (port(first)?, port(last)?),
            None => (port(text)?, port(text)?),
        };
        if first > last {
            return Err(ParsePortsError::Reversed { first: last, last: first });
        }
        Ok(PortRange { first, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_read_what_they_print() {
        for text in ["1", "8000", "65535", "8000-8010"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        assert_eq!("8000 - 8010".parse::<PortRange>().unwrap().to_string(), "8000-8010");
        assert_eq!("8000-8000".parse::<PortRange>().unwrap().to_string(), "8000");
        assert_eq!("1-65535".parse(), Ok(PortRange::ANY));
    }

    #[test]
    fn nonsense_is_refused_with_a_remedy() {
        for text in ["", "-", "8000-", "-8000", "http", "8000-8010-8020", "8e3", "+80", "80,81"] {
            assert!(matches!(text.parse::<PortRange>(), Err(ParsePortsError::Form(_))), "{text}");
        }
        for text in ["0", "65536", "0-80", "99999999999999999999"] {
            assert!(matches!(text.parse::<PortRange>(), Err(ParsePortsError::Number(_))), "{text}");
        }
        let error = "8010-8000".parse::<PortRange>().unwrap_err().to_string();
        assert_eq!(error, "range 8010-8000 runs backwards; write 8000-8010");
    }
}
