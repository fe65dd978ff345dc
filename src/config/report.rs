//! Findings and how they are told.

use std::fmt;
use std::path::{Path, PathBuf};

use super::node::{self, Position, Step};

/// Findings shown in full; a file with more is repaired in rounds, and the screen keeps the first.
const SHOWN_MAX: usize = 10;

/// Findings of each severity kept; the rest is only counted. Looking up a position reads the file again.
const KEPT_MAX: usize = 100;

/// Whether a finding keeps the file from being used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but probably says more or less than was meant.
    Warning,
}

/// One thing wrong, where, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Error or warning.
    pub severity: Severity,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Path of the field: `rules[1].ports[0]`; empty for the file as a whole.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Everything found in one file, in the file's order, errors and warnings mixed.
///
/// Its `Display` is at most a screen: one line per finding, and a count of those left out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The file as the user named it.
    pub file: PathBuf,
    /// The findings, the first hundred of each severity.
    pub findings: Vec<Finding>,
    /// How many more there were.
    pub omitted: usize,
}

impl Report {
    /// Whether anything keeps the file from being used.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Errors first when not everything fits: they are what must be repaired.
        let mut shown: Vec<&Finding> = self.findings.iter().collect();
        if shown.len() > SHOWN_MAX {
            shown.sort_by_key(|finding| finding.severity);
        }
        for (index, finding) in shown.iter().take(SHOWN_MAX).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:{}:{}: ", self.file.display(), finding.line, finding.column)?;
            if finding.severity == Severity::Warning {
                f.write_str("warning: ")?;
            }
            if !finding.field.is_empty() {
                write!(f, "{}: ", finding.field)?;
            }
            f.write_str(&finding.message)?;
        }
        match shown.len().saturating_sub(SHOWN_MAX) + self.omitted {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

/// A field of the file: how to find it there, and what to call it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Place {
    pub(super) steps: Vec<Step>,
    pub(super) field: String,
}

impl Place {
    /// The value of the mapping's `index`-th entry, whose key is `key`.
    pub(super) fn value(&self, index: usize, key: &str) -> Place {
        let dot = if self.field.is_empty() { "" } else { "." };
        self.step(Step::Value(index), &format!("{dot}{key}"))
    }

    /// The list's `index`-th item.
    pub(super) fn item(&self, index: usize) -> Place {
        self.step(Step::Item(index), &format!("[{index}]"))
    }

    /// The key in front of this value; lists' items and the whole file stay as they are.
    pub(super) fn key(mut self) -> Place {
        if let Some(Step::Value(index)) = self.steps.last().copied() {
            self.steps.pop();
            self.steps.push(Step::Key(index));
        }
        self
    }

    fn step(&self, step: Step, name: &str) -> Place {
        let mut place = self.clone();
        place.steps.push(step);
        place.field.push_str(name);
        place
    }
}

/// Collects findings while the file is read; positions are looked up at the end.
#[derive(Debug, Default)]
pub(super) struct Findings {
    at_places: Vec<(Severity, Place, String)>,
    at_positions: Vec<(Position, String)>,
    omitted: usize,
}

impl Findings {
    pub(super) fn error(&mut self, place: &Place, message: impl fmt::Display) {
        self.push(Severity::Error, place, message.to_string());
    }

    pub(super) fn warning(&mut self, place: &Place, message: impl fmt::Display) {
        self.push(Severity::Warning, place, message.to_string());
    }

    fn push(&mut self, severity: Severity, place: &Place, message: String) {
        if self.at_places.iter().filter(|(other, ..)| *other == severity).count() < KEPT_MAX {
            self.at_places.push((severity, place.clone(), message));
        } else {
            self.omitted += 1;
        }
    }

    /// The text as a whole cannot be read, from `position` on.
    pub(super) fn syntax(&mut self, position: Position, message: String) {
        self.at_positions.push((position, message));
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.at_positions.is_empty() || self.at_places.iter().any(|(severity, ..)| *severity == Severity::Error)
    }

    pub(super) fn into_report(self, file: &Path, text: &[u8]) -> Report {
        let text = String::from_utf8_lossy(text);
        let mut findings: Vec<Finding> = Vec::new();
        for ((line, column), message) in self.at_positions {
            findings.push(Finding { severity: Severity::Error, line, column, field: String::new(), message });
        }
        for (severity, place, message) in self.at_places {
            let (line, column) = node::locate(&text, &place.steps);
            findings.push(Finding { severity, line, column, field: place.field, message });
        }
        findings.sort_by_key(|finding| (finding.line, finding.column));
        Report { file: file.to_owned(), findings, omitted: self.omitted }
    }
}

/// Text from the file for a message: in quotes, cut where it would fill the screen, control characters made visible.
pub(super) fn quoted(text: &str) -> String {
    const LEN_MAX: usize = 40;
    let cut: String = text.chars().take(LEN_MAX).flat_map(char::escape_debug).collect();
    if text.chars().nth(LEN_MAX).is_some() { format!("\"{cut}…\"") } else { format!("\"{cut}\"") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_one_line_per_finding_in_the_files_order() {
        let mut findings = Findings::default();
        findings.warning(&Place::default().value(1, "b").item(0), "odd");
        findings.error(&Place::default().value(0, "a").key(), "wrong; write 1");
        let report = findings.into_report(Path::new("x.yaml"), b"a: 0\nb: [7]\n");
        assert!(report.has_errors());
        assert_eq!(report.to_string(), "x.yaml:1:1: a: wrong; write 1\nx.yaml:2:5: warning: b[0]: odd");
    }

    #[test]
    fn a_long_report_keeps_the_errors_and_counts_the_rest() {
        let mut findings = Findings::default();
        for _ in 0..130 {
            findings.warning(&Place::default(), "odd");
        }
        findings.error(&Place::default(), "wrong");
        let text = findings.into_report(Path::new("x.yaml"), b"").to_string();
        assert_eq!(text.lines().count(), SHOWN_MAX + 1);
        assert!(text.contains("wrong") && text.ends_with("… and 121 more"), "{text}");
    }

    #[test]
    fn quoted_text_cannot_fill_or_confuse_the_screen() {
        assert_eq!(quoted("a\u{1b}[2J\n"), "\"a\\u{1b}[2J\\n\"");
        assert_eq!(quoted(&"x".repeat(1000)).chars().count(), 43);
    }
}
