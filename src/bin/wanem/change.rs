//! Changes to the path while it runs: the file that says what, and what became of it.

use std::io::Read;
use std::path::Path;

use clap::Parser;
use serde::Serialize;

use crate::values::Values;

/// More than any set of changes takes.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// Changes so far.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Changes {
    /// Carried out.
    pub applied: u64,
    /// Refused: nothing was changed.
    pub refused: u64,
    /// When the last one was carried out, seconds since the start.
    pub last_s: Option<f64>,
    /// Why the last one was refused; nothing if it was not.
    pub refusal: Option<String>,
}

/// The options that may stand in the file.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Options {
    #[command(flatten)]
    values: Values,
}

/// Reads a file of changes.
///
/// # Errors
/// In words, when it cannot be read or says something else.
pub fn read(path: &Path) -> Result<Values, String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text)
}

/// One option a line: its name without dashes, blanks, its value.
fn parse(text: &str) -> Result<Values, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let options = lines.map(|line| {
        let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        format!("--{name}={}", value.trim())
    });
    match Options::try_parse_from(options) {
        Ok(options) => Ok(options.values),
        Err(error) => {
            let said = error.to_string();
            Err(said.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use longhaul::units::BitRate;

    use super::*;

    #[test]
    fn each_line_is_an_option_without_its_dashes() {
        let values = parse("rate 500 Mbps\n\n  ab-loss  0.1%\nrtt 12ms\n").unwrap();
        assert_eq!(values.rate, Some(BitRate::from_mbps(500)));
        assert_eq!(values.ab_loss, Some("0.1%".parse().unwrap()));
        assert_eq!(values.rtt, Some(Duration::from_millis(12)));
        assert!(values.ba_rate.is_none() && values.queue.is_none());
        assert!(parse("").unwrap().rate.is_none());
    }

    #[test]
    fn what_is_no_change_is_refused_with_the_reason() {
        for text in ["rate", "rate fast", "mtu 1400", "rtt 5ms\ndelay 5ms", "seed 4", "rate 1 Gbps\nrate 2 Gbps"] {
            let refusal = parse(text).unwrap_err();
            assert!(!refusal.is_empty() && !refusal.contains('\n'), "{text}: {refusal}");
        }
        assert!(read(Path::new("/nonexistent/changes")).is_err());
    }
}
