//! Where log lines go and which.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// What is logged unless `--log` or `RUST_LOG` says otherwise.
const FILTER_DEFAULT: &str = "info";

/// The filter is not one.
#[derive(Debug, thiserror::Error)]
#[error("{filter:?} is not a log filter ({source}); write info, debug, or longhaul::channel=debug,info")]
pub struct FilterError {
    filter: String,
    source: ParseError,
}

/// Starts logging to standard error: `filter`, else `RUST_LOG`, else `info`. Colours only on a terminal; no times
/// where the journal adds its own (systemd.exec(5), `JOURNAL_STREAM`). A second call changes nothing.
pub fn init_logging(filter: Option<&str>) -> Result<(), FilterError> {
    let from_environment = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let text = filter.or(from_environment.as_deref()).unwrap_or(FILTER_DEFAULT);
    let env_filter =
        EnvFilter::builder().parse(text).map_err(|source| FilterError { filter: text.to_owned(), source })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(env_filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // Fails only where a logger is installed already: a test, or a second call.
    let _ = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => builder.without_time().try_init(),
        None => builder.try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_filter_is_answered_with_right_ones() {
        let error = init_logging(Some("longhaul=loud")).unwrap_err().to_string();
        assert!(error.contains("longhaul=loud") && error.contains("write info"), "{error}");
    }

    #[test]
    fn starting_twice_is_harmless() {
        init_logging(Some("off")).unwrap();
        init_logging(Some("off")).unwrap();
    }
}
