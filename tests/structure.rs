//! Holds the level table of src/lib.rs by reading the sources.
//!
//! The table is the truth: rooms, levels and third-party owners are read from it. Held are: imports run downward and
//! siblings never import each other; a third-party crate with an owner is used by no other room; no clock, no files,
//! sockets, threads or printing below level 4; `unsafe` only at the system-call edge; every file opens with `//!` and
//! is of a readable length. Unit tests inside src/ may look wherever they like, but are held to the rule on `unsafe`.

mod structure {
    pub mod source;
    pub mod table;
}

use std::fs;
use std::path::{Path, PathBuf};

use structure::source::{Source, UsedPath};
use structure::table::{Room, Table};

/// The level from which on rooms may know clocks, files, sockets and threads.
const IO_LEVEL: u32 = 4;
/// Longer than this, a file has more than one job.
const FILE_LINES_MAX: usize = 700;
/// Where system calls are made.
const UNSAFE_ROOMS: [&str; 2] = ["io", "bin/wanem"];
/// Third-party crates without an owner: vocabulary that any room may speak.
const COMMON_CRATES: [&str; 6] = ["rand", "rand_chacha", "serde", "smallvec", "thiserror", "tracing"];
/// Third-party crates without a single owner that still belong to the edge.
const EDGE_CRATES: [&str; 2] = ["serde_json", "socket2"];
/// The binaries' level has many crates in common with the rooms they drive: arguments and a small shell of their own.
const BINARY_LEVEL: u32 = 6;

/// Of these modules of std, only these items are pure; `None` stands for nothing.
const PURE_STD: [(&str, &[&str]); 8] = [
    ("time", &["Duration"]),
    ("net", &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6", "AddrParseError"]),
    ("io", &["Error", "ErrorKind", "Result", "Read", "Write", "Cursor"]),
    ("fs", &[]),
    ("thread", &[]),
    ("process", &[]),
    ("env", &[]),
    ("os", &[]),
];

/// The violations of one file, each `path:line: what`.
fn violations(path: &str, text: &str, table: &Table) -> Vec<String> {
    let source = Source::new(text);
    let mut found = Vec::new();
    if !text.starts_with("//!") {
        found.push(format!("{path}:1: does not open with `//!` and its one job"));
    }
    let lines = text.lines().count();
    if lines > FILE_LINES_MAX {
        found.push(format!("{path}:{lines}: longer than {FILE_LINES_MAX} lines; split it by job"));
    }
    if path == "src/lib.rs" {
        return found;
    }
    let Some(room) = table.room_of(path) else {
        found.push(format!("{path}:1: its room is not in the level table of src/lib.rs"));
        return found;
    };
    if !UNSAFE_ROOMS.contains(&room.name.as_str()) {
        let lines = source.lines_with_word("unsafe");
        found.extend(lines.into_iter().map(|line| format!("{path}:{line}: `unsafe` outside the system-call edge")));
    }
    if is_test_file(path) {
        return found;
    }
    for used in source.without_tests().paths() {
        let what = foreign_room(path, room, &used, table)
            .or_else(|| foreign_crate(room, &used, table))
            .or_else(|| impure_std(room, &used));
        found.extend(what.map(|what| format!("{path}:{}: {what}", used.line)));
    }
    found.dedup();
    found
}

/// `src/rules/tests.rs` and below: declared under `#[cfg(test)]`.
fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn foreign_room(path: &str, room: &Room, used: &UsedPath, table: &Table) -> Option<String> {
    let target = used.room(path)?;
    let target = table.rooms.iter().find(|room| room.name == target)?;
    if target.name == room.name || target.level < room.level {
        return None;
    }
    let relation = if target.level == room.level { "a sibling" } else { "above it" };
    Some(format!(
        "{} (level {}) looks into {} (level {}), {relation}",
        room.name, room.level, target.name, target.level
    ))
}

fn foreign_crate(room: &Room, used: &UsedPath, table: &Table) -> Option<String> {
    let name = used.segments.first().filter(|_| used.imported || used.segments.len() > 1)?;
    if EDGE_CRATES.contains(&name.as_str()) && room.level < IO_LEVEL {
        return Some(format!("{} uses {name}, which belongs to level {IO_LEVEL} and up", room.name));
    }
    if room.level == BINARY_LEVEL && table.owners_of(name).all(|owner| owner.level >= IO_LEVEL) {
        return None;
    }
    let owners: Vec<&str> = table.owners_of(name).map(|owner| owner.name.as_str()).collect();
    (!owners.is_empty() && !owners.contains(&room.name.as_str()))
        .then(|| format!("{} uses {name}, whose only user is {}", room.name, owners.join(" and ")))
}

fn impure_std(room: &Room, used: &UsedPath) -> Option<String> {
    if room.level >= IO_LEVEL {
        return None;
    }
    let segments: Vec<&str> = used.segments.iter().map(String::as_str).collect();
    if let ["println" | "print" | "eprintln" | "eprint" | "dbg", "!"] = segments.as_slice() {
        return Some(format!("{} prints; below level {IO_LEVEL} nothing does I/O", room.name));
    }
    let ["std", module, rest @ ..] = segments.as_slice() else {
        return None;
    };
    let (_, pure) = PURE_STD.iter().find(|(name, _)| name == module)?;
    (!rest.first().is_some_and(|item| pure.contains(item))).then(|| {
        format!("{} uses {}; below level {IO_LEVEL} time and bytes are arguments", room.name, segments.join("::"))
    })
}

fn rust_files(directory: &Path, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// The crate. Cargo says it at run time too, so a built test can be pointed at another checkout.
fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn table() -> Table {
    let root = root();
    Table::parse(&fs::read_to_string(root.join("src/lib.rs")).unwrap())
}

#[test]
fn the_sources_hold_the_level_table() {
    let root = root();
    let table = table();
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    assert!(files.len() > 20, "only {} files found", files.len());
    let found: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
            violations(path, &fs::read_to_string(file).unwrap(), &table)
        })
        .collect();
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn test_files_are_readable_too() {
    let root = root();
    let mut files = Vec::new();
    rust_files(&root.join("tests"), &mut files);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//!"), "{} does not open with `//!`", file.display());
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines", file.display());
    }
}

#[test]
fn every_room_of_the_table_exists_and_is_public() {
    let root = root();
    let lib = fs::read_to_string(root.join("src/lib.rs")).unwrap();
    let rooms: Vec<String> =
        table().rooms.iter().filter(|room| room.level < BINARY_LEVEL).map(|r| r.name.clone()).collect();
    assert!(rooms.len() >= 14, "{rooms:?}");
    for room in &rooms {
        assert!(lib.contains(&format!("pub mod {room};")), "{room} is in the table, but not in src/lib.rs");
    }
    let declared = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    for module in declared {
        assert!(rooms.iter().any(|room| room == module), "{module} is declared, but not in the table");
    }
}

#[test]
fn every_dependency_has_an_owner_or_is_common() {
    let root = root();
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let table = table();
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let names = section.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
    let names: Vec<String> = names.map(|line| line.split([' ', '=']).next().unwrap().replace('-', "_")).collect();
    assert!(names.len() > 10, "{names:?}");
    for name in &names {
        let known = COMMON_CRATES.contains(&name.as_str()) || EDGE_CRATES.contains(&name.as_str());
        assert!(
            known || table.owners_of(name).next().is_some(),
            "{name}: say in src/lib.rs which room is its only user"
        );
    }
}

#[cfg(test)]
mod on_bad_snippets {
    use super::*;

    const LIB: &str = "\
//! | level | room | one job | only user of |
//! |---|---|---|---|
//! | 0 | [`units`] | numbers | |
//! | 1 | [`codec`] | blocks | lz4_flex |
//! | 1 | [`rate`] | rates | |
//! | 3 | [`engine`] | all | |
//! | 4 | [`io`] | TAP | tun, quinn-udp |
//! | 6 | `main`, `bin/wanem` | arguments | clap |
";

    /// What is found in a file of these lines (after a proper head).
    fn found(path: &str, body: &str) -> Vec<String> {
        violations(path, &format!("//! One job.\n{body}"), &Table::parse(LIB))
    }

    #[track_caller]
    fn assert_found(path: &str, body: &str, words: &str) {
        let found = found(path, body);
        assert!(found.len() == 1 && found[0].contains(words), "{body}: {found:?}");
    }

    #[test]
    fn clean_code_is_left_alone() {
        let body = "
            use std::{fmt, net::{IpAddr, SocketAddr}, time::Duration};
            use crate::units::{BitRate, ByteCount};
            // use crate::engine::Engine; std::fs; unsafe
            /* use std::thread; /* nested */ unsafe */
            /// See [`crate::engine`] and `std::time::Instant::now`.
            const TEXT: &str = \"crate::engine::x \\\" unsafe std::fs::read\";
            const RAW: &str = r#\"unsafe \"crate::engine\" \"#;
            fn f<'a>(c: char) -> bool { c == '\"' || c == '\\'' || c == 'x' }
            fn g() { let codec = lz4_flex::compress(&[]); self::h(); super::codec::h(); }
        ";
        assert_eq!(found("src/codec/mod.rs", body), Vec::<String>::new());
    }

    #[test]
    fn looking_up_or_aside_is_found_however_it_is_written() {
        assert_found("src/codec/mod.rs", "use crate::engine::Engine;", "above it");
        assert_found("src/codec/mod.rs", "use crate::rate::Pacer;", "a sibling");
        assert_found("src/codec/mod.rs", "use crate::{units::BitRate, rate::{self, Pacer}};", "a sibling");
        assert_found("src/codec/mod.rs", "fn f() { crate::engine::go() }", "above it");
        assert_found("src/codec/mod.rs", "use super::rate::Pacer;", "a sibling");
        assert_found("src/codec/deep/file.rs", "use super::super::super::rate;", "a sibling");
        assert_found("src/units.rs", "use super::codec;", "above it");
        assert_found("src/units.rs", "pub(crate) use {crate::codec};", "above it");
        assert_eq!(found("src/codec/deep/file.rs", "use super::super::rate;").len(), 0, "codec::rate, not crate::rate");
        assert_eq!(found("src/main.rs", "use longhaul::engine::Engine;").len(), 0);
    }

    #[test]
    fn the_line_is_named() {
        assert_eq!(
            found("src/codec/mod.rs", "\nuse std::fmt;\nuse crate::engine;"),
            ["src/codec/mod.rs:4: codec (level 1) looks into engine (level 3), above it"]
        );
    }

    #[test]
    fn foreign_third_party_is_found() {
        assert_found("src/rate/mod.rs", "use lz4_flex::block;", "only user is codec");
        assert_found("src/engine/mod.rs", "fn f() { tun::create(); }", "only user is io");
        assert_found("src/engine/mod.rs", "use quinn_udp as q;", "only user is io");
        assert_found("src/engine/mod.rs", "use serde_json::Value;", "level 4 and up");
        assert_found("src/main.rs", "use lz4_flex::block;", "only user is codec");
        assert_eq!(found("src/io/mod.rs", "use tun::Device; use serde_json::Value;").len(), 0);
        assert_eq!(found("src/engine/mod.rs", "fn f(tun: u8) { tun; x.tun(); a::tun::b(); }").len(), 0);
    }

    #[test]
    fn clocks_files_sockets_threads_and_printing_are_found() {
        for body in [
            "use std::time::Instant;",
            "use std::time;",
            "use std::time::{Duration, SystemTime};",
            "fn f() { std::time::Instant::now(); }",
            "use std::fs::File;",
            "use std::{fmt, fs};",
            "use std::net::UdpSocket;",
            "use std::net::*;",
            "use std::thread;",
            "use std::os::fd::OwnedFd;",
            "use std::io::stdout;",
            "use std::env;",
            "fn f() { println!(\"x\") }",
            "fn f() { dbg!(1); }",
        ] {
            assert_eq!(found("src/engine/mod.rs", body).len(), 1, "{body}");
            assert_eq!(found("src/io/mod.rs", body).len(), 0, "{body}");
        }
    }

    #[test]
    fn unsafe_is_found_even_in_tests() {
        assert_found("src/engine/mod.rs", "fn f() { unsafe { g() } }", "system-call edge");
        assert_found("src/engine/tests.rs", "unsafe fn f() {}", "system-call edge");
        assert_found("src/engine/mod.rs", "#[cfg(test)]\nmod tests { fn f() { unsafe { g() } } }", "system-call edge");
        assert_eq!(found("src/io/mod.rs", "fn f() { unsafe { g() } }").len(), 0);
        assert_eq!(found("src/bin/wanem.rs", "fn f() { unsafe { g() } }").len(), 0);
        assert_eq!(found("src/engine/mod.rs", "#![deny(unsafe_code)]").len(), 0);
    }

    #[test]
    fn unit_tests_may_look_around_and_what_follows_them_may_not() {
        let tests = "#[cfg(test)]\nmod tests { use crate::engine; fn f() { println!(\"{}\", '}') } }";
        assert_eq!(found("src/codec/mod.rs", tests).len(), 0);
        assert_eq!(found("src/codec/tests.rs", "use crate::engine;").len(), 0);
        assert_found("src/codec/mod.rs", &format!("{tests}\nuse crate::engine;"), "above it");
        assert_found("src/codec/mod.rs", "#[cfg(test)]\nmod tests;\nuse crate::engine;", "above it");
        assert_found("src/codec/mod.rs", "#[cfg(not(test))]\nuse crate::engine;", "above it");
    }

    #[test]
    fn a_file_without_head_of_a_strange_room_or_too_long_is_found() {
        let table = Table::parse(LIB);
        assert!(violations("src/codec/mod.rs", "use std::fmt;\n", &table)[0].contains("does not open"));
        assert_found("src/cellar/mod.rs", "", "not in the level table");
        assert_found("src/codec/mod.rs", &"\n".repeat(FILE_LINES_MAX), "split it");
    }
}
