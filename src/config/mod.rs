//! YAML to typed configuration.
//!
//! [`Settings`] is what one YAML file says; [`Config`] is that together with the keys it points to, ready to run.
//! Every problem names file, line, column, field and what would be right, and as many as possible are found in one
//! go. Nothing here panics on any file.
//!
//! | file | one job |
//! |---|---|
//! | `node` | YAML text to a tree, and where in the text a part of it stands |
//! | `fields` | sections and their known keys; one value to one type |
//! | `schema` | the tree to [`Settings`]: every field, its default and its limits |
//! | `keys` | key files: reading, permissions, making |
//! | `report` | findings and how they are told |
//! | `summary` | what a valid file will do, in words |

mod fields;
mod keys;
mod node;
mod report;
mod schema;
mod summary;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::channel::{ChannelConfig, PathMtu};
use crate::crypto::PublicKey;
use crate::engine::{EngineConfig, Limits};
use crate::rate::RateMode;
use crate::rules::Rules;

pub use keys::{KeyFileError, create_private_key, read_private_key};
pub use report::{Finding, Report, Severity};

/// Largest YAML file read; a thousand rules are a tenth of it.
pub const FILE_LEN_MAX: u64 = 1024 * 1024;

/// Where `longhaul status` finds the appliance unless told otherwise.
pub const STATUS_SOCKET_DEFAULT: &str = "/run/longhaul/status.sock";

/// One side of the bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortSettings {
    /// Name of the TAP interface.
    pub tap: String,
    /// Largest IP packet on that side.
    pub mtu: usize,
}

/// The channel to the peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChannelSettings {
    /// Our private key.
    pub private_key_file: PathBuf,
    /// The UDP address to receive on.
    pub listen: SocketAddr,
    /// Where the peer listens; `None`: wait until it calls.
    pub peer_address: Option<SocketAddr>,
    /// Who the peer is.
    pub peer_public_key: PublicKey,
    /// The key the peer is about to change to, accepted as well.
    pub peer_next_public_key: Option<PublicKey>,
    /// A second secret shared with the peer.
    pub preshared_key_file: Option<PathBuf>,
    /// Who says how fast to send: `rate` and `rate_mode`.
    pub rate: RateMode,
    /// Largest IP packet the WAN carries from site to site: found, unless the operator fixes it.
    pub path_mtu: PathMtu,
}

/// What the YAML file says, checked; relative file names are made relative to the YAML file's directory.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What this appliance is called in status and logs.
    pub name: String,
    /// Towards the hosts.
    pub lan: PortSettings,
    /// Towards the router and the peer.
    pub wan: PortSettings,
    /// The peer; `None`: a plain bridge.
    pub channel: Option<ChannelSettings>,
    /// Which flows to accelerate.
    pub rules: Rules,
    /// Named limits.
    pub limits: Limits,
    /// Where `longhaul status` asks.
    pub status_socket: PathBuf,
}

/// Settings and keys: everything `longhaul run` needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the YAML file says.
    pub settings: Settings,
    /// The engine's share of it, keys included.
    pub engine: EngineConfig,
}

/// The configuration file itself could not be read: a matter of the command line or of permissions, not of YAML.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// As given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// More than [`FILE_LEN_MAX`].
    #[error("{} is larger than {FILE_LEN_MAX} bytes; is it really a longhaul configuration?", .0.display())]
    TooLarge(PathBuf),
}

/// Why [`Config::load`] gave no configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The YAML file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// It was read and has errors.
    #[error("{0}")]
    Invalid(Report),
}

/// What [`check`] found: settings if there are no errors, and the report either way.
#[derive(Debug)]
pub struct Checked {
    /// The settings, if they can be used.
    pub settings: Option<Settings>,
    /// Errors and warnings.
    pub report: Report,
}

impl Config {
    /// Reads the YAML file and the keys it names. The report holds warnings only.
    pub fn load(path: &Path) -> Result<(Config, Report), LoadError> {
        let text = read_file(path)?;
        let (checked, keys) = inspect(path, &text, keys::Strictness::Run);
        let (Some(settings), Some(keys)) = (checked.settings, keys) else {
            return Err(LoadError::Invalid(checked.report));
        };
        let channel = settings.channel.as_ref().zip(keys).map(|(channel, keys)| ChannelConfig {
            private_key: keys.private.0,
            peer_public_key: channel.peer_public_key.0,
            peer_next_public_key: channel.peer_next_public_key.map(|key| key.0),
            preshared_key: keys.preshared.map(|key| key.0),
            peer_address: channel.peer_address,
            path_mtu: channel.path_mtu,
            tail_copies: true,
            repair_symbols: true,
            rate: channel.rate,
        });
        let engine =
            EngineConfig { rules: settings.rules.clone(), channel, lan_mtu: settings.lan.mtu, limits: settings.limits };
        Ok((Config { settings, engine }, checked.report))
    }
}

/// Checks the YAML file, and the key files as far as they are there: a file may be checked on another machine.
pub fn check(path: &Path) -> Result<Checked, FileError> {
    let text = read_file(path)?;
    Ok(inspect(path, &text, keys::Strictness::Check).0)
}

/// `None` for the keys when there are errors; `Some(None)` when the settings need no keys.
fn inspect(path: &Path, text: &[u8], strictness: keys::Strictness) -> (Checked, Option<Option<keys::Keys>>) {
    let directory = path.parent().unwrap_or(Path::new(""));
    let mut findings = report::Findings::default();
    let settings = schema::read(text, directory, &mut findings);
    let mut channel_keys = Some(None);
    if let Some((settings, places)) = &settings
        && let Some(channel) = &settings.channel
    {
        channel_keys = keys::read(channel, places, strictness, &mut findings).map(Some);
    }
    let report = findings.into_report(path, text);
    if report.has_errors() {
        return (Checked { settings: None, report }, None);
    }
    (Checked { settings: settings.map(|(settings, _)| settings), report }, channel_keys)
}

fn read_file(path: &Path) -> Result<Vec<u8>, FileError> {
    let unreadable = |source| FileError::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = Vec::new();
    file.take(FILE_LEN_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_LEN_MAX {
        return Err(FileError::TooLarge(path.to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
