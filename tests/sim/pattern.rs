//! Stream contents that depend on their position, so that a lost, doubled or exchanged byte is seen where it happens.

/// Mixes a word (the finaliser of SplitMix64: every input bit reaches every output bit, so the bytes do not compress).
fn mix(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// What a stream carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Bytes that no codec can shorten.
    Random,
    /// Near-empty memory pages: 4096 zero bytes, the first 8 of which name the page.
    ZeroPages,
    /// Runs of either kind in turn, 32 KiB each.
    Mixed,
}

/// The bytes of one stream as a function of position.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    key: u64,
    content: Content,
}

impl Pattern {
    /// The pattern of stream `key`.
    pub fn new(key: u64, content: Content) -> Self {
        Pattern { key: mix(key), content }
    }

    fn word(&self, index: u64) -> u64 {
        let random = match self.content {
            Content::Random => true,
            Content::ZeroPages => false,
            Content::Mixed => (index >> 12) & 1 == 0,
        };
        if random || index.is_multiple_of(512) { mix(self.key ^ index) } else { 0 }
    }

    /// Writes the bytes from `position` on to `out`.
    pub fn fill(&self, position: u64, out: &mut [u8]) {
        self.each_piece(position, out.len(), |at, piece| out[at..at + piece.len()].copy_from_slice(piece));
    }

    /// The position of the first of `bytes`, which begin at `position`, that is not the pattern's.
    pub fn first_difference(&self, position: u64, bytes: &[u8]) -> Option<u64> {
        let mut wrong = None;
        self.each_piece(position, bytes.len(), |at, piece| {
            let got = &bytes[at..at + piece.len()];
            if wrong.is_none() && got != piece {
                let offset = got.iter().zip(piece).position(|(a, b)| a != b).unwrap_or(0);
                wrong = Some(position + (at + offset) as u64);
            }
        });
        wrong
    }

    /// Calls `visit` with each piece of a word and its offset from `position`.
    fn each_piece(&self, position: u64, len: usize, mut visit: impl FnMut(usize, &[u8])) {
        let mut at = 0;
        while at < len {
            let absolute = position + at as u64;
            let skip = (absolute % 8) as usize;
            let take = (8 - skip).min(len - at);
            let word = self.word(absolute / 8).to_le_bytes();
            visit(at, &word[skip..skip + take]);
            at += take;
        }
    }
}

#[test]
fn a_pattern_is_the_same_however_it_is_cut() {
    for content in [Content::Random, Content::ZeroPages, Content::Mixed] {
        let pattern = Pattern::new(7, content);
        let mut whole = vec![0; 70_000];
        pattern.fill(0, &mut whole);
        let mut part = vec![0; 40_001];
        pattern.fill(12_345, &mut part);
        assert_eq!(part, whole[12_345..52_346]);
        assert_eq!(pattern.first_difference(12_345, &part), None);
    }
}

#[test]
fn a_pattern_tells_where_it_was_violated() {
    let pattern = Pattern::new(7, Content::Random);
    let mut bytes = vec![0; 1000];
    pattern.fill(3, &mut bytes);
    bytes[501] ^= 1;
    assert_eq!(pattern.first_difference(3, &bytes), Some(504));
    assert_eq!(Pattern::new(8, Content::Random).first_difference(3, &bytes[..8]), Some(3));
}
