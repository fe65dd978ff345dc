//! The format of one block, both ways. Decoding is bounded by the declared length, which is bounded itself: no bombs.

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

use super::BLOCK_LEN_MAX;

/// Kind and body length.
const HEADER_LEN: usize = 4;
/// The decompressed length in front of an LZ4 body.
const DECODED_LEN_LEN: usize = 3;

/// Where the kind of a block would stand, never one: free for the users of a stream to mark its end.
pub const NO_BLOCK: u8 = 0;
const KIND_STORED: u8 = 1;
const KIND_LZ4: u8 = 2;

/// Longest header of a block.
pub const BLOCK_HEADER_LEN_MAX: usize = HEADER_LEN + DECODED_LEN_LEN;

/// The peer sent a block that no compressor of ours makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlockError {
    /// Neither stored nor LZ4.
    #[error("unknown block kind {0}")]
    Kind(u8),
    /// Declares an empty block or one above [`BLOCK_LEN_MAX`], before or after decompression.
    #[error("block declares {0} bytes")]
    Length(usize),
    /// The body is not valid LZ4 or does not give the declared length.
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

/// Appends `block` as it is.
pub(super) fn store(block: &[u8], out: &mut Vec<u8>) {
    let mut header = [KIND_STORED, 0, 0, 0];
    put_u24(&mut header[1..], block.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(block);
}

/// Appends `block` compressed and returns true; leaves `out` alone and returns false if it would not get shorter.
pub(super) fn compress(block: &[u8], table: &mut CompressTable, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let body = start + BLOCK_HEADER_LEN_MAX;
    out.resize(body + get_maximum_output_size(block.len()), 0);
    let compressed = compress_into_with_table(block, &mut out[body..], table);
    let compressed_len = compressed.expect("invariant: the output has LZ4's maximum size");
    if compressed_len + DECODED_LEN_LEN >= block.len() {
        out.truncate(start);
        return false;
    }
    out.truncate(body + compressed_len);
    out[start] = KIND_LZ4;
    put_u24(&mut out[start + 1..start + HEADER_LEN], DECODED_LEN_LEN + compressed_len);
    put_u24(&mut out[start + HEADER_LEN..body], block.len());
    true
}

/// Reads the header at the start of `bytes`; `None` while it is incomplete.
///
/// An error shows with the first byte that makes it one; the stream is of no use after it.
pub fn parse_header(bytes: &[u8]) -> Result<Option<BlockHeader>, BlockError> {
    let Some(&kind) = bytes.first() else { return Ok(None) };
    if kind != KIND_STORED && kind != KIND_LZ4 {
        return Err(BlockError::Kind(kind));
    }
    let Some(body_len) = read_u24(&bytes[1..]) else { return Ok(None) };
    let body_len_min = if kind == KIND_LZ4 { DECODED_LEN_LEN + 1 } else { 1 };
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

/// Decodes one whole block (`header.encoded_len` bytes): what it holds, which stands in `scratch` unless the block was
/// stored as it is.
///
/// # Errors
/// Those of [`parse_header`]; [`BlockError::Corrupt`] if `block` is not whole or does not decode;
/// [`BlockError::Length`] if `scratch` is shorter than what it declares. After an error `scratch` holds nothing of use.
pub fn decode<'a>(block: &'a [u8], scratch: &'a mut [u8]) -> Result<&'a [u8], BlockError> {
    let header = parse_header(block)?.ok_or(BlockError::Corrupt)?;
    let body = block.get(HEADER_LEN..header.encoded_len).ok_or(BlockError::Corrupt)?;
    if block[0] == KIND_STORED {
        return Ok(body);
    }
    let out = scratch.get_mut(..header.decoded_len).ok_or(BlockError::Length(header.decoded_len))?;
    match decompress_into(&body[DECODED_LEN_LEN..], out) {
        Ok(len) if len == header.decoded_len => Ok(out),
        _ => Err(BlockError::Corrupt),
    }
}

/// Decodes one whole block into `out[..header.decoded_len]`.
///
/// # Errors
/// As [`decode`].
pub fn decompress(block: &[u8], out: &mut [u8]) -> Result<BlockHeader, BlockError> {
    let header = parse_header(block)?.ok_or(BlockError::Corrupt)?;
    if block[0] == KIND_STORED {
        let out = out.get_mut(..header.decoded_len).ok_or(BlockError::Length(header.decoded_len))?;
        out.copy_from_slice(decode(block, &mut [])?);
    } else {
        decode(block, out)?;
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lz4(source: &[u8]) -> Vec<u8> {
        let mut block = Vec::new();
        assert!(compress(source, &mut CompressTable::default(), &mut block));
        block
    }

    #[test]
    fn headers_are_as_the_format_says() {
        let mut stored = Vec::new();
        store(b"abc", &mut stored);
        assert_eq!(stored, b"\x01\0\0\x03abc");
        let block = lz4(&[5; 0x1234]);
        assert_eq!(block[0], 2);
        assert_eq!(read_u24(&block[1..]), Some(block.len() - 4));
        assert_eq!(block[4..7], [0, 0x12, 0x34]);
    }

    #[test]
    fn a_header_is_read_as_soon_as_it_is_complete_and_not_before() {
        let block = lz4(&[5; 0x1234]);
        for len in 0..BLOCK_HEADER_LEN_MAX {
            assert_eq!(parse_header(&block[..len]), Ok(None));
        }
        let header = BlockHeader { encoded_len: block.len(), decoded_len: 0x1234 };
        assert_eq!(parse_header(&block[..BLOCK_HEADER_LEN_MAX]), Ok(Some(header)));
        assert_eq!(parse_header(b"\x01\0\0"), Ok(None));
        assert_eq!(parse_header(b"\x01\0\0\x03"), Ok(Some(BlockHeader { encoded_len: 7, decoded_len: 3 })));
    }

    #[test]
    fn headers_no_compressor_makes_are_refused_at_once() {
        for (bytes, error) in [
            (&b"\x00"[..], BlockError::Kind(0)),
            (b"\x03\0\0\x01", BlockError::Kind(3)),
            (b"\xff", BlockError::Kind(255)),
            (b"\x01\0\0\0", BlockError::Length(0)),
            (b"\x01\x01\0\x01", BlockError::Length(0x10001)),
            (b"\x01\xff\xff\xff", BlockError::Length(0xff_ffff)),
            (b"\x02\0\0\x03", BlockError::Length(3)),
            (b"\x02\x01\0\x01", BlockError::Length(0x10001)),
            (b"\x02\0\0\x09\0\0\0", BlockError::Length(0)),
            (b"\x02\0\0\x09\x01\0\x01", BlockError::Length(0x10001)),
            (b"\x02\0\0\x09\xff\xff\xff", BlockError::Length(0xff_ffff)),
        ] {
            assert_eq!(parse_header(bytes), Err(error));
            assert_eq!(decompress(bytes, &mut [0; BLOCK_LEN_MAX]), Err(error));
        }
        assert!(parse_header(b"\x01\x01\0\0").unwrap().is_some(), "the largest stored block");
    }

    #[test]
    fn a_block_that_gives_another_length_than_declared_is_corrupt() {
        let block = lz4(&[5; 5000]);
        for declared in [4999, 5001, BLOCK_LEN_MAX] {
            let mut lying = block.clone();
            put_u24(&mut lying[4..7], declared);
            assert_eq!(decompress(&lying, &mut [0; BLOCK_LEN_MAX]), Err(BlockError::Corrupt), "{declared}");
        }
    }

    #[test]
    fn a_truncated_block_or_a_short_buffer_is_an_error() {
        let block = lz4(&[5; 5000]);
        for len in 0..block.len() {
            assert_eq!(decompress(&block[..len], &mut [0; 5000]), Err(BlockError::Corrupt), "{len}");
        }
        assert_eq!(decompress(&block, &mut [0; 4999]), Err(BlockError::Length(5000)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), decoded in 0..=BLOCK_LEN_MAX) {
            let mut out = vec![0; BLOCK_LEN_MAX];
            let _ = decompress(&bytes, &mut out);
            let mut block = vec![KIND_LZ4, 0, 0, 0, 0, 0, 0];
            put_u24(&mut block[1..4], DECODED_LEN_LEN + bytes.len());
            put_u24(&mut block[4..7], decoded);
            block.extend(bytes);
            let _ = decompress(&block, &mut out);
        }

        #[test]
        fn damaged_blocks_never_panic_and_never_write_past_their_length(
            source in proptest::collection::vec(0_u8..4, 64..3000),
            damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        ) {
            let mut block = lz4(&[&[9; 64], source.as_slice()].concat());
            for (at, value) in damage {
                let at = at.index(block.len());
                block[at] ^= value;
            }
            let mut out = vec![0xaa; BLOCK_LEN_MAX];
            if let Ok(header) = decompress(&block, &mut out) {
                prop_assert!(out[header.decoded_len..].iter().all(|byte| *byte == 0xaa));
            }
        }
    }
}
