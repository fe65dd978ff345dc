//! What sealing and compressing cost on this machine. Measurements, not checks:
//! `cargo test --release --test speed -- --ignored --nocapture --test-threads 1`.

use std::time::{Duration, Instant as Wall};

use longhaul::codec::{BLOCK_LEN_MAX, Compressor, Method, Workspace, decompress, parse_header};
use longhaul::crypto::{Initiation, Mac1Key, PROLOGUE, PrivateKey, ReplayWindow, SessionKeys, TAG_LEN, respond};
use longhaul::units::Instant;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use rand_pcg::Pcg64;

const PAGE: usize = 4096;

/// Memory of a busy guest: 30 % zero pages, 35 % program code and data (this very program), 23 % pointer tables,
/// 12 % noise, page by page at random.
fn guest_memory(len: usize) -> Vec<u8> {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let mut rng = Pcg64::seed_from_u64(1);
    let mut memory = Vec::with_capacity(len);
    while memory.len() < len {
        match rng.next_u32() % 100 {
            0..30 => memory.extend([0; PAGE]),
            30..65 => {
                let at = rng.next_u64() as usize % (program.len() - PAGE);
                memory.extend(&program[at..at + PAGE]);
            }
            65..88 => {
                let base = 0x7f00_0000_0000 | u64::from(rng.next_u32() & 0xffff_0000);
                memory.extend((0..PAGE / 8).flat_map(|_| {
                    let value = if rng.next_u32() % 3 == 0 { 0 } else { base + u64::from(rng.next_u32() & 0xfff8) };
                    value.to_le_bytes()
                }));
            }
            _ => {
                let at = memory.len();
                memory.resize(at + PAGE, 0);
                rng.fill_bytes(&mut memory[at..]);
            }
        }
    }
    memory
}

fn gb_per_s(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / 1e9
}

fn keys() -> (SessionKeys, SessionKeys) {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let (a, b) = (PrivateKey::generate(&mut rng), PrivateKey::generate(&mut rng));
    let (mut initiation, message) = Initiation::new(&a, &b.public_key(), None, [1; 32], PROLOGUE, b"");
    let response = respond(&b, &[a.public_key()], None, [2; 32], PROLOGUE, &message, |_| Some(Vec::new())).unwrap();
    (initiation.finish(&response.message).unwrap().0, response.keys)
}

#[test]
#[ignore = "a measurement"]
fn compression_by_method_and_block_length() {
    let memory = guest_memory(256 << 20);
    let mut workspace = Workspace::default();
    println!("guest memory, 256 MiB             ratio  compress GB/s  decompress GB/s");
    for method in [Method::Lz4, Method::Zstd, Method::ZstdDense] {
        for block_len in [4 << 10, 16 << 10, 32 << 10, BLOCK_LEN_MAX] {
            let mut compressor = Compressor::new(true);
            let mut stream = Vec::with_capacity(memory.len());
            let began = Wall::now();
            for block in memory.chunks(block_len) {
                let encoded = compressor.compress(Instant::ZERO, method, block, &mut workspace);
                stream.extend_from_slice(encoded.header());
                stream.extend_from_slice(encoded.body());
            }
            let compressing = began.elapsed();
            let mut out = vec![0; BLOCK_LEN_MAX];
            let (mut rest, mut at) = (&stream[..], 0);
            let began = Wall::now();
            while let Some(header) = parse_header(rest).unwrap() {
                decompress(&rest[..header.encoded_len], &mut out, &mut workspace).unwrap();
                at += header.decoded_len;
                rest = &rest[header.encoded_len..];
            }
            let decompressing = began.elapsed();
            assert_eq!(at, memory.len());
            println!(
                "{:10} blocks of {:2} KiB       {:.3}  {:13.2}  {:15.2}",
                method.name(),
                block_len >> 10,
                memory.len() as f64 / stream.len() as f64,
                gb_per_s(memory.len(), compressing),
                gb_per_s(memory.len(), decompressing),
            );
        }
    }
    let mut noise = vec![0; 256 << 20];
    Pcg64::seed_from_u64(2).fill_bytes(&mut noise);
    let mut compressor = Compressor::new(true);
    let began = Wall::now();
    for block in noise.chunks(BLOCK_LEN_MAX) {
        compressor.compress(Instant::ZERO, Method::Lz4, block, &mut workspace);
    }
    println!("noise, mostly given up, not copied       {:13.2}", gb_per_s(noise.len(), began.elapsed()));
    assert!(compressor.stats().given_up);
}

#[test]
#[ignore = "a measurement"]
fn sealing_and_opening() {
    let (ours, theirs) = keys();
    println!("datagram   seal GB/s   open GB/s (with replay check)");
    for len in [200, 1400, 8900] {
        let count = (1 << 30) / len;
        let mut ring: Vec<Vec<u8>> = (0..64).map(|_| vec![7; len + TAG_LEN]).collect();
        let mut window = ReplayWindow::new();
        let (mut sealing, mut opening) = (Duration::ZERO, Duration::ZERO);
        for batch in 0..count / 64 {
            let began = Wall::now();
            for (at, datagram) in ring.iter_mut().enumerate() {
                ours.seal.seal((batch * 64 + at) as u64, b"13 byte header", datagram);
            }
            sealing += began.elapsed();
            let began = Wall::now();
            for (at, datagram) in ring.iter_mut().enumerate() {
                let counter = (batch * 64 + at) as u64;
                theirs.open.open(counter, b"13 byte header", datagram).unwrap();
                assert!(window.check_and_set(counter));
            }
            opening += began.elapsed();
        }
        println!("{len:8}   {:9.2}   {:9.2}", gb_per_s(count * len, sealing), gb_per_s(count * len, opening));
    }
}

#[test]
#[ignore = "a measurement"]
fn handshakes_and_floods() {
    const COUNT: u32 = 300;
    let began = Wall::now();
    for _ in 0..COUNT {
        keys();
    }
    println!("handshake, both ends and both keys: {:?}", began.elapsed() / COUNT);
    let mac1 = Mac1Key::new(&PrivateKey([1; 32]).public_key());
    let message = [0; 300];
    let began = Wall::now();
    for _ in 0..COUNT * 1000 {
        assert!(!mac1.verify(&message, &[0; 16]));
    }
    println!("turning a flood's message away:     {:?}", began.elapsed() / (COUNT * 1000));
}
