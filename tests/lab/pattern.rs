//! Bytes that tell where they belong: a transfer that loses, repeats or exchanges some is noticed at the first.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;

/// The byte at `offset` of stream `seed`. Every other 32 KiB compress well.
fn byte(seed: u64, offset: u64) -> u8 {
    let cell = if offset & 0x8000 == 0 { offset / 8 } else { offset / 1024 };
    let mut mixed = (cell ^ seed.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^= mixed >> 29;
    mixed = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed.to_le_bytes()[(offset % 8) as usize]
}

/// `len` bytes of stream `seed` from `offset` on.
pub fn bytes(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|offset| byte(seed, offset)).collect()
}

/// Writes the first `len` bytes of stream `seed` to a file.
pub fn write_file(path: &Path, seed: u64, len: usize) {
    std::fs::write(path, bytes(seed, 0, len)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

const PIECE: usize = 256 * 1024;

/// Sends the first `len` bytes of stream `seed`. How many were taken, and the error that ended it early.
pub fn send(stream: &mut TcpStream, seed: u64, len: u64) -> (u64, Option<io::Error>) {
    let mut sent = 0;
    while sent < len {
        let piece = bytes(seed, sent, PIECE.min((len - sent) as usize));
        let mut rest = &piece[..];
        while !rest.is_empty() {
            match stream.write(rest) {
                Ok(count) => {
                    rest = &rest[count..];
                    sent += count as u64;
                }
                Err(error) => return (sent, Some(error)),
            }
        }
    }
    (sent, None)
}

/// Reads to the end. How many bytes came, and the error that ended it instead of an orderly end.
///
/// # Panics
/// At the first byte that is not stream `seed`'s at this place, counted from `offset`.
pub fn receive(stream: &mut TcpStream, seed: u64, offset: u64) -> (u64, Option<io::Error>) {
    let mut buffer = vec![0; PIECE];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (received, None),
            Ok(count) => {
                let expected = bytes(seed, offset + received, count);
                assert!(buffer[..count] == expected[..], "bytes {received} to +{count} are not what was sent");
                received += count as u64;
            }
            Err(error) => return (received, Some(error)),
        }
    }
}
