//! `longhaul check` on broken files, on the example files, and on key files: what an administrator sees.
//!
//! Every file in tests/broken has one fault or a few, and says in its last lines what must be told:
//! `# expect LINE[:COLUMN] TEXT`, where TEXT is part of the message.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use longhaul::telemetry::Status;

/// A message longer than this scrolls its beginning away on a console of 25 lines.
const SCREEN_LINES: usize = 24;

fn longhaul(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_longhaul")).args(args).output().expect("the binary runs")
}

fn check(path: &Path) -> (Option<i32>, String, String) {
    let output = longhaul(&["check", path.to_str().expect("test paths are UTF-8")]);
    let text = |bytes| String::from_utf8(bytes).expect("messages are UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn yaml_files(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// A fresh directory, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("longhaul-check-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn keygen(&self, name: &str) -> String {
        let path = self.0.join(name);
        let output = longhaul(&["keygen", "--private-key-file", path.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A valid file with this public key for the peer, next to the key files.
    fn config(&self, peer_public_key: &str) -> PathBuf {
        let text = format!(
            "name: site-a\nlan: {{ tap: tap-lan }}\nwan: {{ tap: tap-wan }}\nchannel:\n  private_key_file: private.key\n  \
             listen: 0.0.0.0:47000\n  peer:\n    address: 192.0.2.2:47000\n    public_key: {peer_public_key}\nrules: []\n"
        );
        self.write("site-a.yaml", text)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a broken file expects: where (`14:13` or `14:`), and words of the message.
fn expectations(text: &str) -> Vec<(String, String)> {
    let expected = text.lines().filter_map(|line| line.strip_prefix("# expect "));
    let split = |line: &str| {
        let (place, words) = line.split_once(' ').expect("`# expect PLACE TEXT`");
        (place.to_owned(), words.to_owned())
    };
    expected.map(split).collect()
}

/// What is wrong with the answer to one broken file; empty when all is well.
fn faults(path: &Path) -> Vec<String> {
    let expected = expectations(&fs::read_to_string(path).unwrap());
    let (code, stdout, stderr) = check(path);
    let mut faults = Vec::new();
    if expected.is_empty() {
        faults.push("says nothing of what to expect".to_owned());
    }
    if code != Some(1) || !stdout.is_empty() {
        faults.push(format!("exit {code:?}, stdout {stdout:?}"));
    }
    if stderr.lines().count() > SCREEN_LINES || stderr.lines().any(|line| line.chars().count() > 300) {
        faults.push("more than a screen".to_owned());
    }
    for (place, words) in expected {
        let start = format!("{}:{place}{}", path.display(), if place.ends_with(':') { "" } else { ":" });
        let told = stderr.lines().any(|line| {
            // A count of what was left out has no place.
            (line.starts_with(&start) || line.starts_with('…')) && line.contains(&words)
        });
        if !told {
            faults.push(format!("not told: {place} {words}"));
        }
    }
    if !faults.is_empty() {
        faults.push(format!("it said:\n{stderr}"));
    }
    faults
}

#[test]
fn every_broken_file_is_answered_with_line_and_remedy() {
    let files = yaml_files("tests/broken");
    assert!(files.len() >= 20, "{} files", files.len());
    let faults: Vec<String> = files
        .iter()
        .flat_map(|path| faults(path).into_iter().map(move |fault| format!("{}: {fault}", path.display())))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_expectation_that_is_not_met_is_noticed() {
    let scratch = Scratch::new("meta");
    let broken = scratch.write("x.yaml", "name: site-a\n# expect 1:1 lan: is missing\n# expect 9:9 nonsense\n");
    let noticed = faults(&broken);
    assert!(noticed.iter().any(|fault| fault.contains("9:9 nonsense")), "{noticed:?}");
    assert!(!noticed.iter().any(|fault| fault.contains("not told: 1:1")), "{noticed:?}");
    let valid = scratch.write("y.yaml", "name: a\nlan: { tap: a }\nwan: { tap: b }\nrules: []\n");
    assert!(faults(&valid).iter().any(|fault| fault.contains("exit Some(0)")));
}

#[test]
fn every_example_file_is_valid_and_summed_up() {
    let files = yaml_files("netconf");
    assert!(files.len() >= 2);
    for path in files {
        let (code, stdout, stderr) = check(&path);
        assert_eq!(code, Some(0), "{stderr}");
        let only_absent_keys =
            stderr.lines().all(|line| line.contains("warning: channel.") && line.contains("cannot read"));
        assert!(only_absent_keys, "{stderr}");
        assert!(stdout.contains("is valid") && stdout.contains("accelerate TCP between"), "{stdout}");
        assert!(stdout.lines().count() <= SCREEN_LINES, "{stdout}");
    }
}

#[test]
fn a_file_that_cannot_be_read_exits_with_2() {
    let scratch = Scratch::new("unreadable");
    for path in [scratch.0.join("absent.yaml"), scratch.0.clone(), scratch.write("huge.yaml", vec![b'#'; 2 << 20])] {
        let (code, _, stderr) = check(&path);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(path.to_str().unwrap()) && stderr.lines().count() == 1, "{stderr}");
    }
    assert_eq!(longhaul(&["check"]).status.code(), Some(2));
}

#[test]
fn text_that_is_not_utf8_names_the_line() {
    let scratch = Scratch::new("latin1");
    let path = scratch.write("x.yaml", b"name: site-a\n# K\xf6ln\n");
    let (code, _, stderr) = check(&path);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("x.yaml:2:1: this line is not UTF-8 text"), "{stderr}");
}

#[test]
fn keys_that_are_right_give_no_warning() {
    let scratch = Scratch::new("keys");
    scratch.keygen("private.key");
    let peer = scratch.keygen("peer.key");
    let (code, stdout, stderr) = check(&scratch.config(&peer));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.contains("calls the peer at 192.0.2.2:47000"), "{stdout}");
    assert!(stdout.contains("everything else: forwarded untouched"), "{stdout}");
}

#[test]
fn a_world_readable_private_key_is_warned_of() {
    let scratch = Scratch::new("mode");
    scratch.keygen("private.key");
    let key = scratch.0.join("private.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let peer = scratch.keygen("peer.key");
    let (code, _, stderr) = check(&scratch.config(&peer));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains(":5:21: warning: channel.private_key_file: "), "{stderr}");
    assert!(stderr.contains(&format!("(mode 0644); run chmod 600 {}", key.display())), "{stderr}");
}

#[test]
fn our_own_public_key_for_the_peer_is_refused() {
    let scratch = Scratch::new("own");
    let own = scratch.keygen("private.key");
    let (code, _, stderr) = check(&scratch.config(&own));
    assert_eq!(code, Some(1));
    assert!(stderr.contains(":9:17: channel.peer.public_key: is this appliance's own public key"), "{stderr}");
}

#[test]
fn a_private_key_file_without_a_key_is_refused_and_not_printed() {
    let scratch = Scratch::new("notakey");
    let peer = scratch.keygen("peer.key");
    scratch.write("private.key", "correct horse battery staple");
    let (code, _, stderr) = check(&scratch.config(&peer));
    assert_eq!(code, Some(1));
    assert!(stderr.contains(":5:21: channel.private_key_file: ") && !stderr.contains("horse"), "{stderr}");
}

#[test]
fn run_refuses_what_check_only_warns_of() {
    let scratch = Scratch::new("run");
    let peer = scratch.keygen("peer.key");
    let config = scratch.config(&peer);
    let (code, _, stderr) = check(&config);
    assert_eq!(code, Some(0), "absent keys: {stderr}");
    let output = longhaul(&["run", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("cannot read") && stderr.contains("longhaul keygen"), "{stderr}");
}

#[test]
fn a_public_key_can_be_printed_again_and_a_private_key_is_never_overwritten() {
    let scratch = Scratch::new("keygen");
    let public = scratch.keygen("private.key");
    let path = scratch.0.join("private.key");
    let path = path.to_str().unwrap();
    let again = longhaul(&["pubkey", "--private-key-file", path]);
    assert_eq!(String::from_utf8(again.stdout).unwrap().trim(), public);
    assert_eq!(longhaul(&["keygen", "--private-key-file", path]).status.code(), Some(1));
}

#[test]
fn status_without_an_appliance_says_what_to_do() {
    let scratch = Scratch::new("status");
    let socket = scratch.0.join("status.sock");
    let output = longhaul(&["status", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("is `longhaul run` running?") && stderr.contains("--socket"), "{stderr}");
}

#[test]
fn status_is_told_as_tables_and_as_json() {
    let scratch = Scratch::new("answer");
    let peer = scratch.keygen("peer.key");
    let mut text = fs::read_to_string(scratch.config(&peer)).unwrap();
    text.push_str("status_socket: status.sock\n");
    let config = scratch.write("site-a.yaml", text);
    let socket = scratch.0.join("status.sock");
    let listener = longhaul::telemetry::bind_status_socket(&socket).unwrap();
    listener.set_nonblocking(false).unwrap();
    let status = Status { name: "site-a".to_owned(), version: "9".to_owned(), ..Status::default() };
    let (socket, config) = (socket.to_str().unwrap(), config.to_str().unwrap());
    for (args, expected) in [
        (["--socket", socket].as_slice(), status.to_string()),
        (["--config", config].as_slice(), status.to_string()),
        (["--json", "--socket", socket].as_slice(), status.to_document()),
    ] {
        let output = std::thread::scope(|scope| {
            scope.spawn(|| listener.accept().unwrap().0.write_all(status.to_document().as_bytes()).unwrap());
            longhaul(&[&["status"], args].concat())
        });
        assert_eq!(String::from_utf8(output.stdout).unwrap(), expected, "{args:?}");
        assert!(output.status.success());
    }
}
