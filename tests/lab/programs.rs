//! Ordinary servers on a host: nginx, sshd, iperf3.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::hosts::Host;
use crate::support::netns::{Daemon, run};

/// nginx over a directory.
pub struct Nginx {
    /// What it serves.
    pub root: PathBuf,
    _daemon: Daemon,
}

impl Nginx {
    /// Serves `files`/www on `port` of all addresses of `host`.
    pub fn start(host: &Host, files: &Path, port: u16) -> Self {
        let root = files.join("www");
        let dir = files.join("nginx");
        for path in [&root, &dir] {
            std::fs::create_dir_all(path).unwrap();
        }
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {0}/{kind};\n", dir.display()))
            .concat();
        let [v4, v6] = host.addresses;
        let config = format!(
            "daemon off;\nuser root;\nworker_processes 1;\npid {dir}/pid;\nerror_log {dir}/error.log;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n{temporary}access_log off;\nserver {{ listen {v4}:{port}; listen [{v6}]:{port}; root {root}; }}\n}}\n",
            dir = dir.display(),
            root = root.display(),
        );
        let path = dir.join("nginx.conf");
        std::fs::write(&path, config).unwrap();
        let daemon = host.start(&format!("nginx -e {0}/error.log -p {0} -c {1}", dir.display(), path.display()));
        Host::wait_until_served(host, (v4, port).into());
        Nginx { root, _daemon: daemon }
    }
}

/// Fetches `path` of the nginx at `server` to `file`.
pub fn curl(client: &Host, limit: Duration, server: SocketAddr, path: &str, file: &Path) {
    let url = format!("http://{server}/{path}");
    client.succeed(limit, &format!("curl -sS --fail --globoff -o {} {url}", file.display()));
}

/// An OpenSSH server with keys of its own; root may log in with one of them.
pub struct Sshd {
    dir: PathBuf,
    port: u16,
    _daemon: Daemon,
}

impl Sshd {
    pub fn start(host: &Host, files: &Path, port: u16) -> Self {
        let dir = files.join("ssh");
        std::fs::create_dir_all(&dir).unwrap();
        for key in ["host", "user"] {
            let path = dir.join(key);
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path));
        }
        let shown = dir.display();
        let config = format!(
            "HostKey {shown}/host\nAuthorizedKeysFile {shown}/user.pub\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
        );
        std::fs::write(dir.join("sshd_config"), config).unwrap();
        // sshd insists on /run/sshd. `ip netns exec` has a mount namespace of its own, where we may make one.
        let script = format!(
            "mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec /usr/sbin/sshd -D -p {port} -f {shown}/sshd_config"
        );
        let mut command = host.command("sh");
        let daemon = Daemon::start(command.args(["-c", &script]).stderr(std::process::Stdio::null()));
        Host::wait_until_served(host, host.v4(port));
        Sshd { dir, port, _daemon: daemon }
    }

    fn options(&self) -> String {
        format!(
            "-F none -i {} -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR",
            self.dir.join("user").display()
        )
    }

    /// Runs `command` through ssh; what it printed.
    pub fn ssh(&self, client: &Host, limit: Duration, server: IpAddr, command: &str) -> String {
        client.succeed(limit, &format!("ssh {} -p {} root@{server} {command}", self.options(), self.port))
    }

    /// Copies `from` to `to`, a file on the server.
    pub fn scp(&self, client: &Host, limit: Duration, from: &Path, server: IpAddr, to: &Path) {
        let server = if server.is_ipv6() { format!("[{server}]") } else { server.to_string() };
        let words =
            format!("scp -q {} -P {} {} root@{server}:{}", self.options(), self.port, from.display(), to.display());
        client.succeed(limit, &words);
    }
}

/// An iperf3 server.
pub struct Iperf {
    address: SocketAddr,
    _daemon: Daemon,
}

impl Iperf {
    pub fn start(host: &Host, port: u16) -> Self {
        let daemon = host.start(&format!("iperf3 -s -p {port}"));
        // A connection that says nothing would occupy it: look for the listener instead.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !host.succeed(Duration::from_secs(5), "ss -Hltn").contains(&format!(":{port} ")) {
            assert!(std::time::Instant::now() < deadline, "iperf3 does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Iperf { address: host.v4(port), _daemon: daemon }
    }

    /// One run with these options; bytes that reached the receiver.
    pub fn run(&self, client: &Host, options: &str) -> u64 {
        let (ip, port) = (self.address.ip(), self.address.port());
        let report = client.succeed(Duration::from_secs(20), &format!("iperf3 -c {ip} -p {port} -J {options}"));
        let report: Value = serde_json::from_str(&report).expect("iperf3 -J prints JSON");
        let end = &report["end"];
        let sum = if end["sum_received"].is_null() { &end["sum"] } else { &end["sum_received"] };
        sum["bytes"].as_u64().unwrap_or_else(|| panic!("no bytes in {end}"))
    }
}
