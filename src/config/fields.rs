//! Sections and their known keys; one value to one type.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::node::Node;
use super::report::{Findings, Place, quoted};

/// A key that a section knows, and how it is written: the remedy where it is missing or misspelt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) example: &'static str,
}

/// A kind of section: what the user calls it, and its keys.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) keys: &'static [Key],
}

/// One value of the file.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) node: &'a Node,
    pub(super) place: Place,
    /// How such a field is written.
    pub(super) example: &'static str,
}

impl<'a> Field<'a> {
    /// The whole file.
    pub(super) fn root(node: &'a Node) -> Self {
        Field { node, place: Place::default(), example: "name: site-a" }
    }

    /// Reports that something else should stand here.
    fn expected(&self, what: &str, findings: &mut Findings) {
        let example = self.example;
        match self.node {
            Node::Null => {
                findings.error(&self.place.clone().key(), format_args!("nothing is written here; write {example}"))
            }
            node => {
                findings.error(&self.place, format_args!("expected {what}, found {}; write {example}", node.kind()))
            }
        }
    }

    /// A text that is not empty.
    pub(super) fn text(&self, findings: &mut Findings) -> Option<&'a str> {
        match self.node {
            Node::Text(text) if text.trim().is_empty() => {
                findings.error(&self.place, format_args!("is empty; write {}", self.example));
                None
            }
            Node::Text(text) => Some(text),
            _ => {
                self.expected("a text", findings);
                None
            }
        }
    }

    /// A whole number within `range`.
    pub(super) fn whole(&self, range: RangeInclusive<i128>, findings: &mut Findings) -> Option<usize> {
        match *self.node {
            Node::Int(number) if range.contains(&number) => usize::try_from(number).ok(),
            Node::Int(number) => {
                let (low, high) = range.into_inner();
                let nearest = number.clamp(low, high);
                findings
                    .error(&self.place, format_args!("{number} is outside {low} to {high}; the nearest is {nearest}"));
                None
            }
            _ => {
                self.expected("a whole number", findings);
                None
            }
        }
    }

    /// One of a few words; the nearest is suggested.
    pub(super) fn word<T: Copy>(&self, words: &[(&'static str, T)], findings: &mut Findings) -> Option<T> {
        let text = self.text(findings)?;
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*meaning);
        }
        let known = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
        findings.error(&self.place, format_args!("{} is not known here; write {known}", quoted(text)));
        None
    }

    /// The items of a list of at most `len_max`; a single value stands for a list of one.
    pub(super) fn items(&self, len_max: usize, findings: &mut Findings) -> Option<Vec<Field<'a>>> {
        let field = |node, place| Field { node, place, example: self.example };
        match self.node {
            Node::List(list) if list.is_empty() => {
                findings.error(&self.place, format_args!("the list is empty; write {}", self.example));
                None
            }
            Node::List(list) if list.len() > len_max => {
                findings.error(&self.place, format_args!("{} entries; at most {len_max} are allowed", list.len()));
                None
            }
            Node::List(list) => {
                Some(list.iter().enumerate().map(|(index, item)| field(item, self.place.item(index))).collect())
            }
            Node::Null | Node::Map(_) => {
                self.expected("a list", findings);
                None
            }
            single => Some(vec![field(single, self.place.clone())]),
        }
    }

    /// The section that stands here; unknown and repeated keys are reported.
    pub(super) fn section(
        &self,
        kind: &'static Kind,
        all: &[&'static Kind],
        findings: &mut Findings,
    ) -> Option<Section<'a>> {
        let Node::Map(entries) = self.node else {
            self.expected("a section (key: value)", findings);
            return None;
        };
        for (index, (key, _)) in entries.iter().enumerate() {
            let Node::Text(name) = key else {
                let place = self.place.value(index, "?").key();
                findings.error(&place, format_args!("a key must be a word, found {}; {}", key.kind(), known(kind)));
                continue;
            };
            let place = self.place.value(index, &shortened(name)).key();
            if entries[..index].iter().any(|(earlier, _)| earlier == key) {
                findings.error(&place, "is given twice; keep one of the two");
            } else if !kind.keys.iter().any(|key| key.name == name) {
                findings.error(&place, format_args!("unknown key; {}", suggestion(name, kind, all)));
            }
        }
        Some(Section { entries, place: self.place.clone(), kind })
    }
}

/// A section whose keys have been checked.
#[derive(Clone, Debug)]
pub(super) struct Section<'a> {
    entries: &'a [(Node, Node)],
    pub(super) place: Place,
    kind: &'static Kind,
}

impl<'a> Section<'a> {
    /// The value of `key`, if it is given.
    pub(super) fn optional(&self, key: &'static str) -> Option<Field<'a>> {
        let example = self.kind.keys.iter().find(|known| known.name == key).map_or("", |key| key.example);
        let is_it = |(name, _): &(Node, Node)| matches!(name, Node::Text(name) if name == key);
        let index = self.entries.iter().position(is_it)?;
        Some(Field { node: &self.entries[index].1, place: self.place.value(index, key), example })
    }

    /// The value of `key`; reported if missing.
    pub(super) fn required(&self, key: &'static str, findings: &mut Findings) -> Option<Field<'a>> {
        let field = self.optional(key);
        if field.is_none() {
            let example = self.kind.keys.iter().find(|known| known.name == key).map_or("", |key| key.example);
            self.missing(key, format_args!("add {example}"), findings);
        }
        field
    }

    /// Reports that `key` is missing, at the head of the section.
    pub(super) fn missing(&self, key: &'static str, remedy: impl Display, findings: &mut Findings) {
        let mut place = self.place.clone().key();
        let dot = if place.field.is_empty() { "" } else { "." };
        place.field.push_str(&format!("{dot}{key}"));
        findings.error(&place, format_args!("is missing; {remedy}"));
    }
}

/// A key's name for a field path: short and printable whatever the file holds.
fn shortened(name: &str) -> String {
    let quoted = quoted(name);
    let is_plain = !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || "_-".contains(c));
    if is_plain { quoted.trim_matches('"').to_owned() } else { quoted }
}

fn known(kind: &Kind) -> String {
    let names: Vec<_> = kind.keys.iter().map(|key| key.name).collect();
    format!("{} knows {}", kind.name, names.join(", "))
}

/// What an unknown key was probably meant to be.
fn suggestion(name: &str, kind: &'static Kind, all: &[&'static Kind]) -> String {
    let near = |key: &&Key| {
        let (written, known) = (folded(name), folded(key.name));
        written == known || distance(&written, &known) <= known.chars().count().div_ceil(4).min(2)
    };
    if let Some(key) = kind.keys.iter().filter(near).min_by_key(|key| distance(name, key.name)) {
        return format!("did you mean \"{}\"?", key.name);
    }
    let holds = |other: &&&Kind| other.keys.iter().any(|key| key.name == name);
    match all.iter().find(holds) {
        Some(other) => format!("\"{name}\" belongs in {}; here, {}", other.name, known(kind)),
        None => known(kind),
    }
}

/// Without what people vary: `privateKey-File` is `private_key_file`.
fn folded(name: &str) -> String {
    name.chars().filter(|c| !"-_ ".contains(*c)).flat_map(char::to_lowercase).collect()
}

/// Levenshtein distance, of the first 64 characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Kind = Kind {
        name: "the section \"a\"",
        keys: &[Key { name: "private_key_file", example: "" }, Key { name: "rate", example: "" }],
    };
    const B: Kind = Kind { name: "the section \"b\"", keys: &[Key { name: "address", example: "" }] };

    #[test]
    fn distances_are_levenshteins() {
        for (a, b, expected) in [("", "", 0), ("rate", "rate", 0), ("rat", "rate", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest_known_one() {
        for (name, expected) in [
            ("privatekeyfile", "did you mean \"private_key_file\"?"),
            ("private-key-file", "did you mean \"private_key_file\"?"),
            ("Rate", "did you mean \"rate\"?"),
            ("rates", "did you mean \"rate\"?"),
            (
                "address",
                "\"address\" belongs in the section \"b\"; here, the section \"a\" knows private_key_file, rate",
            ),
            ("colour", "the section \"a\" knows private_key_file, rate"),
        ] {
            assert_eq!(suggestion(name, &A, &[&A, &B]), expected, "{name}");
        }
    }
}
