//! What the environment asks of a run: one seed to replay, cells of a table to print.

use std::str::FromStr;

/// The values of a comma-separated variable, or `default`.
///
/// # Panics
/// When a value does not parse: a table of something else than was asked for would mislead.
pub fn list<T: FromStr + Clone>(name: &str, default: &[T]) -> Vec<T> {
    match std::env::var(name) {
        Err(_) => default.to_vec(),
        Ok(text) => text
            .split(',')
            .map(|part| part.trim().parse().unwrap_or_else(|_| panic!("{name}: `{part}` is not a value")))
            .collect(),
    }
}

/// The value of a variable, or `default`.
///
/// # Panics
/// As [`list`].
pub fn value<T: FromStr + Clone>(name: &str, default: T) -> T {
    list(name, &[default]).remove(0)
}
