//! Whole files: what is read from valid ones, and that no file makes the reader panic.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::crypto::PrivateKey;
use crate::rules::{Action, Compression};
use crate::units::{BitRate, ByteCount, Weight};

const EXAMPLES: [&str; 2] =
    [include_str!("../../netconf/vmotion.yaml"), include_str!("../../netconf/replication.yaml")];

/// A fresh directory, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("longhaul-config-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn settings(text: &str) -> Settings {
    let (checked, _) = inspect(Path::new("/etc/longhaul/x.yaml"), text.as_bytes(), keys::Strictness::Check);
    checked.settings.unwrap_or_else(|| panic!("{}", checked.report))
}

fn warnings(text: &str) -> Vec<String> {
    let (checked, _) = inspect(Path::new("x.yaml"), text.as_bytes(), keys::Strictness::Check);
    assert!(checked.settings.is_some(), "{}", checked.report);
    checked.report.findings.into_iter().map(|finding| format!("{}: {}", finding.field, finding.message)).collect()
}

#[test]
fn the_replication_example_says_what_its_comments_say() {
    let settings = settings(EXAMPLES[1]);
    assert_eq!((settings.lan.mtu, settings.wan.mtu), (9000, 1500));
    assert_eq!((settings.lan.tap.as_str(), settings.wan.tap.as_str()), ("tap-lan", "tap-wan"));
    let channel = settings.channel.unwrap();
    assert_eq!(channel.listen, "[::]:47000".parse().unwrap());
    assert_eq!(channel.peer_address, Some("[2001:db8:2::2]:47000".parse().unwrap()));
    assert_eq!(channel.rate, RateMode::Fair { cap: Some(BitRate::from_mbps(400)) });
    assert_eq!(channel.path_mtu, PathMtu::Discover { max: 1500 });
    assert_eq!(channel.preshared_key_file, Some(PathBuf::from("/etc/longhaul/preshared.key")));
    assert_eq!((settings.limits.flows, settings.limits.memory), (2000, ByteCount::from_mib(512)));
    let actions: Vec<Action> = settings.rules.list().iter().map(|rule| rule.action).collect();
    let accelerate =
        |compression, weight| Action::Accelerate { compression, weight: Weight::new(weight).expect("1 to 100") };
    assert_eq!(actions, [Action::Bypass, accelerate(Compression::Auto, 10), accelerate(Compression::Off, 40)]);
    let told = settings.rules.list()[2].to_string();
    assert!(told.ends_with("; never compress; weight 40"), "{told}");
    assert_eq!(settings.rules.list()[2].vlan, Some(80));
    assert_eq!(
        settings.rules.list()[1].to_string(),
        "accelerate TCP from 10.1.30.0/24, fd00:1:30::/64 to 10.2.30.0/24, fd00:2:30::/64, ports 31031, 44046; \
         compress while it pays"
    );
}

#[test]
fn what_is_left_out_has_its_documented_default() {
    let settings = settings("name: x\nlan: { tap: a }\nwan: { tap: b }\nrules: []\n");
    assert_eq!((settings.lan.mtu, settings.wan.mtu), (1500, 1500));
    assert!(settings.channel.is_none() && settings.rules.list().is_empty());
    assert_eq!((settings.limits.flows, settings.limits.memory), (10_000, ByteCount::from_mib(1024)));
    assert_eq!(settings.status_socket, Path::new(STATUS_SOCKET_DEFAULT));
}

#[test]
fn the_path_mtu_is_searched_for_up_to_the_wans_unless_it_is_fixed() {
    for max in [9000, 1400] {
        let text = EXAMPLES[0].replace("tap-wan, mtu: 1500", &format!("tap-wan, mtu: {max}"));
        assert_eq!(settings(&text).channel.unwrap().path_mtu, PathMtu::Discover { max });
        let text = text.replace("# path_mtu: 1500", "path_mtu: 1300");
        assert_eq!(settings(&text).channel.unwrap().path_mtu, PathMtu::Fixed(1300));
    }
}

#[test]
fn the_rate_is_a_cap_unless_the_mode_is_fixed() {
    let (cap, rate) = (BitRate::from_mbps(950), BitRate::from_mbps(950));
    for (written, expected, words) in [
        ("", RateMode::Fair { cap: None }, "sends what the path carries,"),
        ("rate_mode: fair", RateMode::Fair { cap: None }, "sends what the path carries,"),
        ("rate: 950 Mbps", RateMode::Fair { cap: Some(cap) }, "sends what the path carries, at most 950 Mbps,"),
        ("{ rate: 950 Mbps, rate_mode: fair }", RateMode::Fair { cap: Some(cap) }, "at most 950 Mbps,"),
        (
            "{ rate: 950 Mbps, rate_mode: fixed }",
            RateMode::Fixed { rate },
            "sends at 950 Mbps whatever the path loses,",
        ),
    ] {
        let lines = written.trim_matches(['{', '}', ' ']).replace(", ", "\n  ");
        let settings = settings(&EXAMPLES[0].replace("# rate: 1 Gbps", &lines));
        assert_eq!(settings.channel.as_ref().unwrap().rate, expected, "{written}");
        assert!(settings.to_string().contains(words), "{written}: {settings}");
    }
}

#[test]
fn relative_file_names_are_relative_to_the_yaml_file() {
    let text = EXAMPLES[0].replace("/etc/longhaul/private.key", "keys/own.key") + "\nstatus_socket: s.sock\n";
    let settings = settings(&text);
    assert_eq!(settings.channel.unwrap().private_key_file, Path::new("/etc/longhaul/keys/own.key"));
    assert_eq!(settings.status_socket, Path::new("/etc/longhaul/s.sock"));
}

#[test]
fn a_single_value_stands_for_a_list_of_one() {
    let text = EXAMPLES[0].replace("ports: [8000]", "ports: 8000");
    assert_eq!(settings(&text).rules, settings(EXAMPLES[0]).rules);
}

#[test]
fn load_puts_the_keys_into_the_engines_configuration() {
    let scratch = Scratch::new("load");
    let own = create_private_key(&scratch.0.join("private.key")).unwrap();
    let preshared = PrivateKey([7; 32]).to_string();
    std::fs::write(scratch.0.join("preshared.key"), preshared).unwrap();
    let path = scratch.write("x.yaml", EXAMPLES[1].replace("/etc/longhaul/", ""));
    let (config, report) = Config::load(&path).unwrap();
    // The pre-shared key was written with the usual umask.
    assert!(report.findings.iter().all(|finding| finding.field == "channel.peer.preshared_key_file"), "{report}");
    let channel = config.engine.channel.unwrap();
    assert_eq!(PrivateKey(channel.private_key).public_key(), own);
    assert_eq!(channel.preshared_key, Some([7; 32]));
    assert_eq!(channel.peer_public_key, config.settings.channel.as_ref().unwrap().peer_public_key.0);
    assert_eq!(channel.rate, config.settings.channel.as_ref().unwrap().rate);
    assert_eq!(channel.path_mtu, PathMtu::Discover { max: 1500 });
    assert_eq!((config.engine.lan_mtu, config.engine.limits.flows), (9000, 2000));
    assert_eq!(config.engine.rules, config.settings.rules);
}

#[test]
fn load_without_keys_is_an_error_that_names_the_remedy() {
    let scratch = Scratch::new("nokeys");
    let path = scratch.write("x.yaml", EXAMPLES[0].replace("/etc/longhaul/", ""));
    let error = Config::load(&path).unwrap_err();
    assert!(matches!(error, LoadError::Invalid(_)));
    assert!(error.to_string().contains("longhaul keygen --private-key-file"), "{error}");
}

#[test]
fn a_plain_bridge_needs_no_keys() {
    let scratch = Scratch::new("bridge");
    let path = scratch.write("x.yaml", "name: x\nlan: { tap: a }\nwan: { tap: b }\nrules: []\n");
    let (config, report) = Config::load(&path).unwrap();
    assert!(config.engine.channel.is_none() && report.findings.is_empty());
}

#[test]
fn entries_that_add_nothing_are_warned_of() {
    let key_warning = "channel.private_key_file";
    let warned = |from: &str, to: &str| -> Vec<String> {
        let warnings = warnings(&EXAMPLES[0].replace(from, to));
        warnings.into_iter().filter(|warning| !warning.starts_with(key_warning)).collect()
    };
    assert_eq!(warned("", ""), [""; 0]);
    assert_eq!(
        warned("ports: [8000]", "ports: [8000, 8000-8010, 902, 902]"),
        [
            "rules[0].ports[0]: 8000 is already part of 8000-8010 in the same list; delete one",
            "rules[0].ports[3]: 902 is already part of 902 in the same list; delete one",
        ]
    );
    assert_eq!(
        warned("between: [10.1.8.0/24,", "between: [[10.1.8.0/24, \"fd00:1::/64\"],"),
        ["rules[0].between[0][1]: fd00:1::/64 never matches: the other side has no IPv6 subnet; add one there"]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Lines lost, doubled, moved and changed by a character: what editors and people do to files.
    #[test]
    fn no_damage_to_a_file_makes_the_reader_panic(
        example in 0usize..2,
        edits in prop::collection::vec((0usize..4, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<char>()), 0..6),
    ) {
        let mut lines: Vec<String> = EXAMPLES[example].lines().map(str::to_owned).collect();
        for (kind, at, to, c) in edits {
            let (at, to) = (at.index(lines.len()), to.index(lines.len()));
            match kind {
                0 if lines.len() > 1 => { lines.remove(at); }
                1 => { let line = lines[at].clone(); lines.insert(to, line); }
                2 => { lines.swap(at, to); }
                _ => {
                    let mut chars: Vec<char> = lines[at].chars().collect();
                    let place = if chars.is_empty() { 0 } else { to % chars.len() };
                    chars.insert(place, c);
                    lines[at] = chars.into_iter().collect();
                }
            }
        }
        let text = lines.join("\n");
        let (checked, _) = inspect(Path::new("x.yaml"), text.as_bytes(), keys::Strictness::Check);
        prop_assert_eq!(checked.settings.is_none(), checked.report.has_errors());
        prop_assert!(checked.report.to_string().lines().count() <= 24);
        for finding in &checked.report.findings {
            prop_assert!(finding.line >= 1 && finding.line <= text.lines().count().max(1) + 1, "{:?}", finding);
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (checked, _) = inspect(Path::new("x.yaml"), &bytes, keys::Strictness::Check);
        prop_assert!(checked.settings.is_none());
    }
}

#[test]
fn a_large_file_full_of_faults_is_answered_soon() {
    let rule = "  - { name: x, between: [10.0.0.1/8, 10.0.0.0/40], ports: [0, x, 9-1], action: go, colour: red }\n";
    let text = format!("name: x\nlan: {{ tap: a }}\nwan: {{ tap: b }}\nrules:\n{}", rule.repeat(1_000));
    let started = std::time::Instant::now();
    let (checked, _) = inspect(Path::new("x.yaml"), text.as_bytes(), keys::Strictness::Check);
    assert!(checked.settings.is_none());
    assert!(checked.report.to_string().ends_with("more"), "{}", checked.report);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}
