//! The event loop: one thread, one [`Engine`], two TAPs, one UDP socket, one timer.
//!
//! | file | one job |
//! |---|---|
//! | `event_loop` | what happens in one round, and how the next one is awaited |
//! | `moderation` | under bulk load: one wake-up per pause instead of one per arrival |
//! | `bridge_port` | one TAP: reading, writing, what to do when it is full, down or gone |
//! | `channel_port` | the UDP socket: sending what the engine has, what to do when it is full |
//! | `driven` | what the loop asks of the engine |
//! | `counters` | what the loop knows about itself |
//! | `status` | the status document and who asks for it |
//! | `watch` | a descriptor in the runtime's event queue |

mod bridge_port;
mod channel_port;
mod counters;
mod driven;
mod event_loop;
mod moderation;
mod status;
mod watch;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::task::Poll;

use rand::TryRng as _;
use rand::rngs::SysRng;
use tokio::signal::unix::{SignalKind, signal};

pub use counters::{LoopCounters, PortCounters};
pub use driven::Driven;

use crate::config::Config;
use crate::engine::{Engine, EngineConfig};
use crate::io::{Clock, TapError};
use event_loop::EventLoop;

/// Everything one appliance is built from.
#[derive(Clone, Debug)]
pub struct ApplianceConfig {
    /// What it does.
    pub engine: EngineConfig,
    /// What it is attached to.
    pub shell: ShellConfig,
}

impl From<Config> for ApplianceConfig {
    fn from(config: Config) -> Self {
        let Config { settings, engine } = config;
        ApplianceConfig {
            shell: ShellConfig {
                lan_tap: settings.lan.tap,
                wan_tap: settings.wan.tap,
                listen: settings.channel.map(|channel| channel.listen),
                status_socket: Some(settings.status_socket),
                name: settings.name,
                rules: engine.rules.list().iter().map(|rule| rule.name.clone()).collect(),
            },
            engine,
        }
    }
}

/// Where an appliance reaches the world.
#[derive(Clone, Debug)]
pub struct ShellConfig {
    /// The TAP towards the hosts.
    pub lan_tap: String,
    /// The TAP towards the router.
    pub wan_tap: String,
    /// Where the channel listens; `None` for a plain bridge.
    pub listen: Option<SocketAddr>,
    /// Where the status document is handed out.
    pub status_socket: Option<PathBuf>,
    /// The appliance's name in status and logs.
    pub name: String,
    /// Names of the engine's rules, in their order.
    pub rules: Vec<String>,
}

/// The appliance could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A TAP could not be opened.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The channel's socket could not be bound.
    #[error("channel address {address}: {source}")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The status socket could not be bound.
    #[error("status socket {}: {source}", path.display())]
    StatusSocket {
        /// As configured.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No descriptors, no signals or no randomness to be had.
    #[error("the system refuses {what}: {source}")]
    System {
        /// What was asked for.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    fn system(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::System { what, source }
    }
}

/// Runs one appliance until SIGTERM or SIGINT.
///
/// # Errors
/// Only at the start: whatever happens later is counted, logged once per change, and ridden out.
pub fn run(config: ApplianceConfig) -> Result<(), Error> {
    let mut seed = [0; 32];
    SysRng
        .try_fill_bytes(&mut seed)
        .map_err(|error| Error::System { what: "randomness", source: io::Error::other(error.to_string()) })?;
    let engine = Engine::new(config.engine, Clock.now(), seed);
    drive(config.shell, engine, terminated())
}

/// Runs the loop around any engine until `stop` completes; [`run`] is this with the real engine and signals.
///
/// # Errors
/// As [`run`].
pub fn drive<D: Driven>(shell: ShellConfig, engine: D, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::system("an event queue"))?;
    runtime.block_on(async { EventLoop::new(shell, engine)?.run(stop).await })
}

/// Completes at the first SIGTERM or SIGINT; never, if the system refuses handlers (the signals then end the process).
async fn terminated() {
    let handlers = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = handlers else {
        tracing::warn!("no signal handlers to be had: a signal will end the appliance without a goodbye");
        return std::future::pending().await;
    };
    poll_fn(|context| match (terminate.poll_recv(context), interrupt.poll_recv(context)) {
        (Poll::Pending, Poll::Pending) => Poll::Pending,
        _ => Poll::Ready(()),
    })
    .await;
}
