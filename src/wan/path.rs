//! Both directions of a path.

use super::{Link, LinkConfig, LinkConfigError};

/// Which way a segment travels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// From end A to end B.
    AToB,
    /// From end B to end A.
    BToA,
}

impl Direction {
    /// Both, in a fixed order.
    pub const BOTH: [Direction; 2] = [Direction::AToB, Direction::BToA];

    /// The other way.
    pub const fn reversed(self) -> Direction {
        match self {
            Direction::AToB => Direction::BToA,
            Direction::BToA => Direction::AToB,
        }
    }
}

/// A path between two ends: one [`Link`] each way, with unrelated random draws from one seed.
#[derive(Clone, Debug)]
pub struct Path {
    a_to_b: Link,
    b_to_a: Link,
}

impl Path {
    /// A path with a configuration for each direction.
    ///
    /// # Errors
    /// When one of them describes no link.
    pub fn new(a_to_b: LinkConfig, b_to_a: LinkConfig, seed: u64) -> Result<Self, LinkConfigError> {
        // The golden ratio's bits: far apart for every pair of seeds that a person would choose.
        const OTHER_WAY: u64 = 0x9e37_79b9_7f4a_7c15;
        Ok(Path { a_to_b: Link::new(a_to_b, seed)?, b_to_a: Link::new(b_to_a, seed ^ OTHER_WAY)? })
    }

    /// A path that is the same both ways.
    ///
    /// # Errors
    /// When the configuration describes no link.
    pub fn symmetric(config: LinkConfig, seed: u64) -> Result<Self, LinkConfigError> {
        Path::new(config.clone(), config, seed)
    }

    /// One direction.
    pub fn link(&self, direction: Direction) -> &Link {
        match direction {
            Direction::AToB => &self.a_to_b,
            Direction::BToA => &self.b_to_a,
        }
    }

    /// One direction, to offer to it or to change it.
    pub fn link_mut(&mut self, direction: Direction) -> &mut Link {
        match direction {
            Direction::AToB => &mut self.a_to_b,
            Direction::BToA => &mut self.b_to_a,
        }
    }

    /// Its two links, A to B first.
    pub fn into_links(self) -> [Link; 2] {
        [self.a_to_b, self.b_to_a]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::units::{BitRate, Instant};
    use crate::wan::{Loss, Probability, Verdict};

    #[test]
    fn the_directions_of_a_path_lose_different_segments() {
        let mut config = LinkConfig::new(BitRate::from_mbps(1000), Duration::from_millis(1));
        config.loss = Loss::Random(Probability::from_ppm(100_000));
        let mut path = Path::symmetric(config, 5).unwrap();
        let [there, back] = Direction::BOTH.map(|direction| {
            let offer = |i| path.link_mut(direction).offer(Instant::from_millis(i), 100) == Verdict::Lost;
            (0..1_000).map(offer).collect::<Vec<_>>()
        });
        assert_ne!(there, back);
        assert_eq!(path.link(Direction::AToB).stats().offered, 1_000);
    }
}
