//! What the guest's memory contains: made from a seed, page by page, the same on every run.
//!
//! Three fills, named after what they stand for. Shares are of pages, drawn in extents of 16 pages (64 KiB) as allocators
//! leave them; the ratios are LZ4's with 64 KiB blocks.
//!
//! | fill | what it stands for | near-empty | text | heap | code | random | repeated | LZ4 |
//! |---|---|---|---|---|---|---|---|---|
//! | `report` | a mostly idle server, as the 2009 report implies | 75 % | 8 % | 14 % | - | 3 % | 15 % | 7.1:1 |
//! | `dense` | a busy server's page cache and heap | 16 % | 22 % | 48 % | 11 % | 3 % | - | 2.3:1 |
//! | `encrypted` | what an encrypted migration looks like | - | - | - | - | 100 % | - | 1:1 |
//!
//! Near-empty pages hold 8 bytes, so that QEMU does not send them as "zero page" (9 bytes instead of 4096): the migration of
//! 2009 sent such pages whole. Repeated pages, a share of those not near-empty, are copies of any earlier such page.

/// A page of x86.
pub const PAGE: usize = 4096;
/// Pages of one kind in a row.
const EXTENT: usize = 16;

/// xorshift64*, seeded through splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Random((mixed ^ (mixed >> 31)) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 33) % limit.max(1)
    }
}

/// What one page looks like.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Zeros but for a tag of 8 bytes.
    NearEmpty,
    /// Words of a made-up language, frequent ones more often.
    Text,
    /// Records of 64 bytes: pointers into one region, small counters, flags, padding.
    Heap,
    /// Short instructions, few opcodes, near displacements.
    Code,
    /// Incompressible.
    Random,
}

/// One of the three documented contents.
#[derive(Clone, Copy)]
pub enum Fill {
    Report,
    Dense,
    Encrypted,
}

impl Fill {
    pub fn named(name: &str) -> Option<Fill> {
        match name {
            "report" => Some(Fill::Report),
            "dense" => Some(Fill::Dense),
            "encrypted" => Some(Fill::Encrypted),
            _ => None,
        }
    }

    /// Kinds with their share of pages in tenths of a percent.
    fn shares(self) -> &'static [(Kind, u64)] {
        match self {
            Fill::Report => &[(Kind::NearEmpty, 753), (Kind::Text, 80), (Kind::Heap, 135), (Kind::Random, 32)],
            Fill::Dense => {
                &[(Kind::NearEmpty, 160), (Kind::Text, 220), (Kind::Heap, 480), (Kind::Code, 110), (Kind::Random, 30)]
            }
            Fill::Encrypted => &[(Kind::Random, 1000)],
        }
    }

    /// Share of pages that repeat an earlier one, in tenths of a percent of those not near-empty.
    fn repeated(self) -> u64 {
        match self {
            Fill::Report => 150,
            Fill::Dense | Fill::Encrypted => 0,
        }
    }

    /// Fills whole pages of `memory`.
    pub fn fill(self, seed: u64, memory: &mut [u8]) {
        let words = vocabulary(seed);
        let mut sources: Vec<usize> = Vec::new();
        let mut kind = Kind::NearEmpty;
        for page in 0..memory.len() / PAGE {
            let mut random = Random::new(seed.wrapping_mul(0x1_0000_0001).wrapping_add(page as u64));
            if page % EXTENT == 0 {
                kind = self.draw(&mut random);
            }
            let at = page * PAGE;
            if kind != Kind::NearEmpty {
                if random.below(1000) < self.repeated() && !sources.is_empty() {
                    let source = sources[random.below(sources.len() as u64) as usize] * PAGE;
                    memory.copy_within(source..source + PAGE, at);
                    continue;
                }
                sources.push(page);
            }
            write_page(kind, &words, page as u64, &mut random, &mut memory[at..at + PAGE]);
        }
    }

    fn draw(self, random: &mut Random) -> Kind {
        let mut left = random.below(1000);
        for &(kind, share) in self.shares() {
            if left < share {
                return kind;
            }
            left -= share;
        }
        Kind::Random
    }

    /// A page of the working set after its `version`-th write.
    pub fn write_dirty(self, page: u64, version: u64, bytes: &mut [u8]) {
        let mut random = Random::new(page.wrapping_mul(0x1_0001).wrapping_add(version << 32));
        let kind = if matches!(self, Fill::Encrypted) { Kind::Random } else { Kind::Heap };
        write_page(kind, &[], page, &mut random, bytes);
    }
}

/// 2048 words of 2 to 4 syllables.
fn vocabulary(seed: u64) -> Vec<String> {
    const SYLLABLES: [&str; 24] = [
        "an", "ber", "con", "de", "er", "fi", "gen", "ha", "in", "ka", "lo", "men", "no", "or", "pre", "qua", "ra", "ser", "ti", "un",
        "ver", "wo", "ya", "zu",
    ];
    let mut random = Random::new(seed ^ 0x77);
    let word = |_| (0..2 + random.below(3)).map(|_| SYLLABLES[random.below(24) as usize]).collect();
    (0..2048).map(word).collect()
}

fn write_page(kind: Kind, words: &[String], page: u64, random: &mut Random, bytes: &mut [u8]) {
    match kind {
        Kind::NearEmpty => {
            bytes.fill(0);
            bytes[..8].copy_from_slice(&(page | 1 << 63).to_le_bytes());
        }
        Kind::Text => write_text(words, random, bytes),
        Kind::Heap => write_heap(page, random, bytes),
        Kind::Code => write_code(random, bytes),
        Kind::Random => bytes.chunks_exact_mut(8).for_each(|word| word.copy_from_slice(&random.next().to_le_bytes())),
    }
}

fn write_text(words: &[String], random: &mut Random, bytes: &mut [u8]) {
    let mut at = 0;
    while at < bytes.len() {
        // The product of two draws prefers small indices, as languages prefer few words.
        let index = (random.below(2048) * random.below(2048)) >> 11;
        for &byte in words[index as usize].as_bytes().iter().chain(b" ") {
            if at < bytes.len() {
                bytes[at] = byte;
                at += 1;
            }
        }
    }
}

fn write_heap(page: u64, random: &mut Random, bytes: &mut [u8]) {
    let region = 0x7f3a_0000_0000 + ((page / 256) << 20);
    for record in bytes.chunks_exact_mut(64) {
        let drawn = random.next();
        let pointer = |bits: u64| region + ((bits & 0xffff) << 4);
        let fields = [
            0x5648_90ab_c0d0 + ((drawn & 7) << 6),
            pointer(drawn >> 8),
            pointer(drawn >> 24),
            drawn >> 40 & 0xff,
            (drawn >> 48 & 3) << 32 | 1,
            random.next() & 0xffff,
            0,
            0,
        ];
        for (field, value) in record.chunks_exact_mut(8).zip(fields) {
            field.copy_from_slice(&value.to_le_bytes());
        }
    }
}

fn write_code(random: &mut Random, bytes: &mut [u8]) {
    // Opcode bytes with the length of the operand that follows.
    const INSTRUCTIONS: [(&[u8], usize); 16] = [
        (&[0x48, 0x89], 1),
        (&[0x48, 0x8b], 1),
        (&[0x48, 0x8b, 0x45], 1),
        (&[0xe8], 4),
        (&[0x0f, 0x84], 4),
        (&[0x74], 1),
        (&[0x75], 1),
        (&[0x48, 0x8d, 0x3d], 4),
        (&[0x31, 0xc0], 0),
        (&[0x5b, 0x5d, 0xc3], 0),
        (&[0x55, 0x48, 0x89, 0xe5], 0),
        (&[0x48, 0x83, 0xec], 1),
        (&[0x85, 0xc0], 0),
        (&[0x41, 0x5c], 0),
        (&[0xb8], 4),
        (&[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00], 0),
    ];
    let mut at = 0;
    while at < bytes.len() {
        let (opcode, operand) = INSTRUCTIONS[(random.below(16) * random.below(16) >> 4) as usize];
        let value = random.next() & if operand == 4 { 0x0001_ffff } else { 0x3f };
        for &byte in opcode.iter().chain(&value.to_le_bytes()[..operand]) {
            if at < bytes.len() {
                bytes[at] = byte;
                at += 1;
            }
        }
    }
}
