//! The format of one block, both ways. Decoding is bounded by the declared length, which is bounded itself: no bombs.

use super::workspace::Workspace;
use super::{BLOCK_LEN_MAX, Method};

/// Kind and body length.
const HEADER_LEN: usize = 4;
/// The decompressed length in front of a compressed body.
pub(super) const DECODED_LEN_LEN: usize = 3;

/// Where the kind of a block would stand, never one: free for the users of a stream to mark its end.
pub const NO_BLOCK: u8 = 0;
const KIND_STORED: u8 = 1;
const KIND_LZ4: u8 = 2;
const KIND_ZSTD: u8 = 3;

/// Longest header of a block.
pub const BLOCK_HEADER_LEN_MAX: usize = HEADER_LEN + DECODED_LEN_LEN;

/// The peer sent a block that no compressor of ours makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// Neither stored nor of a known method.
    #[error("unknown block kind {0}")]
    Kind(u8),
    /// Declares an empty block or one above [`BLOCK_LEN_MAX`], before or after decompression.
    #[error("block declares {0} bytes")]
    Length(usize),
    /// The body is not what its kind says or does not give the declared length.
    #[error("block body is corrupt")]
    Corrupt,
}

/// A decoded block header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockHeader {
    /// Header and body: what to consume from the stream.
    pub encoded_len: usize,
    /// Bytes the block gives.
    pub decoded_len: usize,
}

fn put_u24(out: &mut [u8], value: usize) {
    debug_assert!(value < 1 << 24);
    out.copy_from_slice(&(value as u32).to_be_bytes()[1..]);
}

fn read_u24(bytes: &[u8]) -> Option<usize> {
    let [a, b, c] = bytes.get(..3)?.try_into().ok()?;
    Some(u32::from_be_bytes([0, a, b, c]) as usize)
}

/// One encoded block: a header of its own, and a body that stands elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct EncodedBlock<'a> {
    header: [u8; BLOCK_HEADER_LEN_MAX],
    header_len: usize,
    body: &'a [u8],
}

impl<'a> EncodedBlock<'a> {
    /// `block` as it is.
    pub(super) fn stored(block: &'a [u8]) -> Self {
        let mut header = [KIND_STORED, 0, 0, 0, 0, 0, 0];
        put_u24(&mut header[1..HEADER_LEN], block.len());
        EncodedBlock { header, header_len: HEADER_LEN, body: block }
    }

    /// A block of `decoded_len` bytes that `method` has made into `body`.
    pub(super) fn compressed(method: Method, decoded_len: usize, body: &'a [u8]) -> Self {
        let kind = match method {
            Method::Lz4 => KIND_LZ4,
            Method::Zstd | Method::ZstdDense => KIND_ZSTD,
        };
        let mut header = [kind, 0, 0, 0, 0, 0, 0];
        put_u24(&mut header[1..HEADER_LEN], DECODED_LEN_LEN + body.len());
        put_u24(&mut header[HEADER_LEN..], decoded_len);
        EncodedBlock { header, header_len: BLOCK_HEADER_LEN_MAX, body }
    }

    /// What comes first on the stream.
    pub fn header(&self) -> &[u8] {
        &self.header[..self.header_len]
    }

    /// What follows the header.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// Header and body.
    pub fn encoded_len(&self) -> usize {
        self.header_len + self.body.len()
    }
}

/// Reads the header at the start of `bytes`; `None` while it is incomplete.
///
/// An error shows with the first byte that makes it one; the stream is of no use after it.
pub fn parse_header(bytes: &[u8]) -> Result<Option<BlockHeader>, BlockError> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if !(KIND_STORED..=KIND_ZSTD).contains(&kind) {
        return Err(BlockError::Kind(kind));
    }
    let Some(body_len) = read_u24(&bytes[1..]) else { return Ok(None) };
    let body_len_min = if kind == KIND_STORED { 1 } else { DECODED_LEN_LEN + 1 };
    if !(body_len_min..=BLOCK_LEN_MAX).contains(&body_len) {
        return Err(BlockError::Length(body_len));
    }
    let decoded_len = match kind {
        KIND_STORED => body_len,
        _ => {
            let Some(decoded_len) = read_u24(&bytes[HEADER_LEN..]) else { return Ok(None) };
            if !(1..=BLOCK_LEN_MAX).contains(&decoded_len) {
                return Err(BlockError::Length(decoded_len));
            }
            decoded_len
        }
    };
    Ok(Some(BlockHeader { encoded_len: HEADER_LEN + body_len, decoded_len }))
}

/// The body of a whole block that was stored as it is, where it lies: `head` begins with the block's header, `tail` follows
/// it, and one of them may be empty. `None` for any other kind, if it is not whole, or if `head` is not even a header.
pub fn stored_body<'a>(head: &'a [u8], tail: &'a [u8]) -> Option<[&'a [u8]; 2]> {
    let header = parse_header(head).ok()??;
    if head[0] != KIND_STORED {
        return None;
    }
    let first = head.len().min(header.encoded_len);
    Some([&head[HEADER_LEN..first], tail.get(..header.encoded_len - first)?])
}

/// Decodes one whole block (`header.encoded_len` bytes) into `out[..header.decoded_len]`.
///
/// # Errors
/// Those of [`parse_header`]; [`BlockError::Corrupt`] if `block` is not whole or does not decode;
/// [`BlockError::Length`] if `out` is shorter than what it declares. After an error `out` holds nothing of use.
pub fn decompress(block: &[u8], out: &mut [u8], workspace: &mut Workspace) -> Result<BlockHeader, BlockError> {
    let header = parse_header(block)?.ok_or(BlockError::Corrupt)?;
    let body = block.get(HEADER_LEN..header.encoded_len).ok_or(BlockError::Corrupt)?;
    let out = out.get_mut(..header.decoded_len).ok_or(BlockError::Length(header.decoded_len))?;
    let is_whole = match block[0] {
        KIND_STORED => {
            out.copy_from_slice(body);
            true
        }
        KIND_LZ4 => Workspace::decompress_lz4(&body[DECODED_LEN_LEN..], out),
        _ => workspace.decompress_zstd(&body[DECODED_LEN_LEN..], out),
    };
    if is_whole { Ok(header) } else { Err(BlockError::Corrupt) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const METHODS: [Method; 3] = [Method::Lz4, Method::Zstd, Method::ZstdDense];

    fn pack(method: Method, source: &[u8]) -> Vec<u8> {
        let mut workspace = Workspace::default();
        let len = workspace.compress(method, source).unwrap();
        let block = EncodedBlock::compressed(method, source.len(), workspace.output(len));
        [block.header(), block.body()].concat()
    }

    fn unpack(block: &[u8], out: &mut [u8]) -> Result<BlockHeader, BlockError> {
        decompress(block, out, &mut Workspace::default())
    }

    #[test]
    fn headers_are_as_the_format_says() {
        let stored = EncodedBlock::stored(b"abc");
        assert_eq!([stored.header(), stored.body()].concat(), b"\x01\0\0\x03abc");
        let block = b"\x01\0\0\x03abcand more";
        for cut in 4..=block.len() {
            let (head, tail) = block.split_at(cut);
            assert_eq!(stored_body(head, tail).map(|parts| parts.concat()), Some(b"abc".to_vec()), "{cut}");
        }
        assert_eq!(stored_body(b"\x01\0\0", b"\x03abc"), None);
        assert_eq!(stored_body(b"\x01\0\0\x03a", b"b"), None);
        for (method, kind) in [(Method::Lz4, 2), (Method::Zstd, 3), (Method::ZstdDense, 3)] {
            let block = pack(method, &[5; 0x1234]);
            assert_eq!(block[0], kind);
            assert_eq!(read_u24(&block[1..]), Some(block.len() - 4));
            assert_eq!(block[4..7], [0, 0x12, 0x34]);
            assert_eq!(stored_body(&block, b""), None);
        }
    }

    #[test]
    fn a_header_is_read_as_soon_as_it_is_complete_and_not_before() {
        for method in METHODS {
            let block = pack(method, &[5; 0x1234]);
            for len in 0..BLOCK_HEADER_LEN_MAX {
                assert_eq!(parse_header(&block[..len]), Ok(None));
            }
            let header = BlockHeader { encoded_len: block.len(), decoded_len: 0x1234 };
            assert_eq!(parse_header(&block[..BLOCK_HEADER_LEN_MAX]), Ok(Some(header)));
        }
        assert_eq!(parse_header(b"\x01\0\0"), Ok(None));
        assert_eq!(parse_header(b"\x01\0\0\x03"), Ok(Some(BlockHeader { encoded_len: 7, decoded_len: 3 })));
    }

    #[test]
    fn headers_no_compressor_makes_are_refused_at_once() {
        for (bytes, error) in [
            (&b"\x00"[..], BlockError::Kind(0)),
            (b"\x04\0\0\x01", BlockError::Kind(4)),
            (b"\xff", BlockError::Kind(255)),
            (b"\x01\0\0\0", BlockError::Length(0)),
            (b"\x01\x01\0\x01", BlockError::Length(0x10001)),
            (b"\x01\xff\xff\xff", BlockError::Length(0xff_ffff)),
            (b"\x02\0\0\x03", BlockError::Length(3)),
            (b"\x02\x01\0\x01", BlockError::Length(0x10001)),
            (b"\x02\0\0\x09\0\0\0", BlockError::Length(0)),
            (b"\x02\0\0\x09\x01\0\x01", BlockError::Length(0x10001)),
            (b"\x02\0\0\x09\xff\xff\xff", BlockError::Length(0xff_ffff)),
            (b"\x03\0\0\x03", BlockError::Length(3)),
            (b"\x03\0\0\x09\x01\0\x01", BlockError::Length(0x10001)),
        ] {
            assert_eq!(parse_header(bytes), Err(error));
            assert_eq!(unpack(bytes, &mut [0; BLOCK_LEN_MAX]), Err(error));
        }
        assert!(parse_header(b"\x01\x01\0\0").unwrap().is_some(), "the largest stored block");
    }

    #[test]
    fn a_block_that_gives_another_length_than_declared_is_corrupt() {
        for method in METHODS {
            let block = pack(method, &[5; 5000]);
            for declared in [4999, 5001, BLOCK_LEN_MAX] {
                let mut lying = block.clone();
                put_u24(&mut lying[4..7], declared);
                assert_eq!(unpack(&lying, &mut [0; BLOCK_LEN_MAX]), Err(BlockError::Corrupt), "{method:?} {declared}");
            }
        }
    }

    #[test]
    fn a_zstd_body_of_another_maker_that_holds_more_than_declared_or_asks_for_a_huge_window_costs_nothing() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 19).unwrap();
        assert!(bomb.len() < 10_000);
        let mut block = vec![KIND_ZSTD, 0, 0, 0, 0, 0, 0];
        put_u24(&mut block[1..4], DECODED_LEN_LEN + bomb.len());
        put_u24(&mut block[4..7], BLOCK_LEN_MAX);
        block.extend(bomb);
        assert_eq!(unpack(&block, &mut [0; BLOCK_LEN_MAX]), Err(BlockError::Corrupt));
        // A frame that declares a window of 2 GiB (descriptor 0xa8) and one raw block of 4 bytes.
        let body = b"\x28\xb5\x2f\xfd\x00\xa8\x21\0\0wide";
        let mut block = vec![KIND_ZSTD, 0, 0, 0, 0, 0, 4];
        put_u24(&mut block[1..4], DECODED_LEN_LEN + body.len());
        block.extend(body);
        let mut out = [0; 4];
        match unpack(&block, &mut out) {
            Ok(_) => assert_eq!(&out, b"wide"),
            Err(error) => assert_eq!(error, BlockError::Corrupt),
        }
    }

    #[test]
    fn a_truncated_block_or_a_short_buffer_is_an_error() {
        for method in METHODS {
            let block = pack(method, &[5; 5000]);
            for len in 0..block.len() {
                assert_eq!(unpack(&block[..len], &mut [0; 5000]), Err(BlockError::Corrupt), "{method:?} {len}");
            }
            assert_eq!(unpack(&block, &mut [0; 4999]), Err(BlockError::Length(5000)));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), decoded in 0..=BLOCK_LEN_MAX) {
            let mut out = vec![0; BLOCK_LEN_MAX];
            let _ = unpack(&bytes, &mut out);
            for kind in [KIND_LZ4, KIND_ZSTD] {
                let mut block = vec![kind, 0, 0, 0, 0, 0, 0];
                put_u24(&mut block[1..4], DECODED_LEN_LEN + bytes.len());
                put_u24(&mut block[4..7], decoded);
                block.extend(&bytes);
                let _ = unpack(&block, &mut out);
            }
        }

        #[test]
        fn damaged_blocks_never_panic_and_never_write_past_their_length(
            source in proptest::collection::vec(0_u8..4, 64..3000),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
            method in proptest::sample::select(&METHODS[..]),
        ) {
            let mut block = pack(method, &[&[9; 64], source.as_slice()].concat());
            for (at, value) in damage {
                let at = at.index(block.len());
                block[at] ^= value;
            }
            let mut out = vec![0xaa; BLOCK_LEN_MAX];
            if let Ok(header) = unpack(&block, &mut out) {
                prop_assert!(out[header.decoded_len..].iter().all(|byte| *byte == 0xaa));
            }
        }
    }
}
