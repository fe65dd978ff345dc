//! A host of the lab: an ordinary kernel with ordinary programs.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::support::netns::{Daemon, enter};

/// How long an accept or a read may take before a test is considered stuck.
const STUCK: Duration = Duration::from_secs(30);

/// One host.
#[derive(Clone, Debug)]
pub struct Host {
    namespace: String,
    /// Its addresses: IPv4 and IPv6.
    pub addresses: [IpAddr; 2],
}

impl Host {
    pub fn new(lab: &str, role: &str, addresses: [&str; 2]) -> Self {
        let addresses = addresses.map(|address| address.parse().expect("an IP address"));
        Host { namespace: format!("lh-{lab}-{role}"), addresses }
    }

    /// A port at its IPv4 address.
    pub fn v4(&self, port: u16) -> SocketAddr {
        (self.addresses[0], port).into()
    }

    /// A port at its IPv6 address.
    pub fn v6(&self, port: u16) -> SocketAddr {
        (self.addresses[1], port).into()
    }

    /// A command that will run there.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// Runs a program to its end, for at most `limit`. Words are separated by spaces.
    pub fn run(&self, limit: Duration, words: &str) -> Output {
        let mut command = self.command("timeout");
        command.args(["-k", "1", &limit.as_secs().to_string()]).args(words.split_whitespace()).stdin(Stdio::null());
        command.output().unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    /// As [`Host::run`]; what it printed.
    ///
    /// # Panics
    /// When it fails or takes longer.
    pub fn succeed(&self, limit: Duration, words: &str) -> String {
        let output = self.run(limit, words);
        assert!(output.status.success(), "{words}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Starts a program that ends with the test. Words are separated by spaces.
    pub fn start(&self, words: &str) -> Daemon {
        let (program, arguments) = words.split_once(' ').unwrap_or((words, ""));
        let mut command = self.command(program);
        command.args(arguments.split_whitespace());
        Daemon::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Runs `work` on a thread there; its sockets stay there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        enter(&self.namespace, work)
    }

    /// Listens there.
    pub fn listen(&self, address: SocketAddr) -> TcpListener {
        self.enter(|| TcpListener::bind(address)).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    /// Connects from there; reading and writing fail when they are stuck.
    pub fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = self.enter(|| TcpStream::connect_timeout(&address, STUCK))?;
        bound(&stream);
        Ok(stream)
    }

    /// A connection from here to `server`, both ends.
    pub fn connection(&self, server: &Host, address: SocketAddr) -> (TcpStream, TcpStream) {
        let listener = server.listen(address);
        let near = self.connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        (near, accept(&listener))
    }

    /// Waits until something listens at `address` on `server`. Asked there, so that no appliance sees it.
    pub fn wait_until_served(server: &Host, address: SocketAddr) {
        let deadline = Instant::now() + STUCK;
        while server.enter(|| TcpStream::connect_timeout(&address, STUCK)).is_err() {
            assert!(Instant::now() < deadline, "nothing serves {address}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Accepts one connection.
///
/// # Panics
/// When none comes.
pub fn accept(listener: &TcpListener) -> TcpStream {
    // A receive timeout also bounds accept (socket(7)), and is not inherited.
    SockRef::from(listener).set_read_timeout(Some(STUCK)).expect("a valid time");
    let (stream, _) = listener.accept().expect("a connection comes");
    bound(&stream);
    stream
}

fn bound(stream: &TcpStream) {
    stream.set_read_timeout(Some(STUCK)).expect("a valid time");
    stream.set_write_timeout(Some(STUCK)).expect("a valid time");
    stream.set_nodelay(true).expect("TCP has it");
}
