//! The `longhaul` command: arguments, exit codes and what is printed.

use std::fmt::Display;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use longhaul::appliance;
use longhaul::config::{self, Config, LoadError};
use longhaul::telemetry::{self, Status};

/// Where `keygen` puts the private key unless told otherwise; the example files name the same.
const PRIVATE_KEY_FILE_DEFAULT: &str = "/etc/longhaul/private.key";

/// What was asked for is wrong or absent: a configuration with errors, nobody on the status socket.
const EXIT_REFUSED: u8 = 1;
/// The command line is wrong, or a file it names cannot be read. clap uses the same code.
const EXIT_USAGE: u8 = 2;
/// The appliance could not start, or stopped by itself. Starting it again may help, unlike after 1 and 2.
const EXIT_FAILED: u8 = 3;

/// A WAN accelerator for moving running virtual machines between sites.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the appliance until it is stopped.
    Run {
        /// The YAML configuration.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// What to log: error, warn, info, debug, trace, or per part, as longhaul::channel=debug,info.
        #[arg(long, value_name = "FILTER")]
        log: Option<String>,
    },
    /// Say what a configuration does, or what is wrong with it. Exits 0 (valid), 1 (has errors) or 2 (unreadable).
    Check {
        /// The YAML configuration.
        #[arg(value_name = "FILE")]
        config: PathBuf,
    },
    /// Make this appliance's private key and print its public key for the other appliance.
    Keygen {
        /// The new file; one that exists is never overwritten.
        #[arg(long, value_name = "FILE", default_value = PRIVATE_KEY_FILE_DEFAULT)]
        private_key_file: PathBuf,
    },
    /// Print the public key that belongs to an existing private key.
    Pubkey {
        /// The file that `keygen` made.
        #[arg(long, value_name = "FILE", default_value = PRIVATE_KEY_FILE_DEFAULT)]
        private_key_file: PathBuf,
    },
    /// Ask the running appliance how it is.
    Status {
        /// The whole document as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        source: StatusSource,
    },
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct StatusSource {
    /// The appliance's status socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The appliance's configuration, which names the socket.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why a command ends without success, and with which code.
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn new(code: u8, message: impl Display) -> Self {
        Failure { code, message: message.to_string() }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        match &error {
            LoadError::File(_) => Failure::new(EXIT_USAGE, error),
            LoadError::Invalid(_) => Failure::new(EXIT_REFUSED, error),
        }
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run { config, log } => run(&config, log.as_deref()),
        Command::Check { config } => check(&config),
        Command::Keygen { private_key_file } => keygen(&private_key_file),
        Command::Pubkey { private_key_file } => pubkey(&private_key_file),
        Command::Status { json, source } => status(json, source),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Prints to standard output; a reader that has gone (`| head`) is no failure.
fn print(text: impl Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(EXIT_FAILED, format_args!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

fn run(path: &Path, log: Option<&str>) -> Result<(), Failure> {
    telemetry::init_logging(log).map_err(|error| Failure::new(EXIT_USAGE, error))?;
    let (config, warnings) = Config::load(path)?;
    for warning in &warnings.findings {
        tracing::warn!("{}:{}: {}: {}", path.display(), warning.line, warning.field, warning.message);
    }
    appliance::run(config.into()).map_err(|error| Failure::new(EXIT_FAILED, error))
}

fn check(path: &Path) -> Result<(), Failure> {
    let checked = config::check(path).map_err(|error| Failure::new(EXIT_USAGE, error))?;
    let Some(settings) = checked.settings else {
        return Err(Failure::new(EXIT_REFUSED, checked.report));
    };
    if !checked.report.findings.is_empty() {
        eprintln!("{}", checked.report);
    }
    print(format_args!("{} is valid.\n{settings}\n", path.display()))
}

fn keygen(path: &Path) -> Result<(), Failure> {
    let public = config::create_private_key(path).map_err(|error| Failure::new(EXIT_REFUSED, error))?;
    eprintln!("private key in {}; the public key, for the other appliance's configuration:", path.display());
    print(format_args!("{public}\n"))
}

fn pubkey(path: &Path) -> Result<(), Failure> {
    let private = config::read_private_key(path).map_err(|error| Failure::new(EXIT_USAGE, error))?;
    print(format_args!("{}\n", private.public_key()))
}

fn status(json: bool, source: StatusSource) -> Result<(), Failure> {
    let socket = match source {
        StatusSource { socket: Some(socket), .. } => socket,
        StatusSource { config: Some(path), .. } => {
            let checked = config::check(&path).map_err(|error| Failure::new(EXIT_USAGE, error))?;
            let report = checked.report;
            checked.settings.ok_or_else(|| Failure::new(EXIT_REFUSED, report))?.status_socket
        }
        _ => PathBuf::from(config::STATUS_SOCKET_DEFAULT),
    };
    let document = telemetry::fetch_document(&socket).map_err(|error| Failure::new(EXIT_REFUSED, error))?;
    if json {
        return print(document);
    }
    match Status::from_document(&document) {
        Ok(status) => print(status),
        Err(error) => {
            let hint = "the appliance runs another version; --json prints its document as it is";
            Err(Failure::new(EXIT_REFUSED, format_args!("{}: {hint} ({error})", socket.display())))
        }
    }
}
