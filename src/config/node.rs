//! YAML text to a tree, and where in the text a part of it stands.
//!
//! The YAML library knows positions only of its errors. So the place of a node is found by reading the text once
//! more and failing on purpose at that node: no second parser, and only paid for when there is something to report.

use std::fmt;

use serde::de::{DeserializeSeed, EnumAccess, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// One value of a YAML document, with mappings as they were written: in order, duplicates kept.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Node {
    /// Nothing, `~` or `null`.
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// What it is, for "found a list".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Node::Null => "nothing",
            Node::Bool(_) => "true/false",
            Node::Int(_) | Node::Float(_) => "a number",
            Node::Text(_) => "a text",
            Node::List(_) => "a list",
            Node::Map(_) => "a section",
        }
    }
}

/// One step from a node down to a part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// The n-th item of a list.
    Item(usize),
    /// The key of the n-th entry of a mapping.
    Key(usize),
    /// The value of the n-th entry of a mapping.
    Value(usize),
}

/// Line and column, both counted from 1.
pub(super) type Position = (usize, usize);

/// The text is not YAML, or not the part of YAML that a configuration needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SyntaxError {
    pub(super) position: Position,
    pub(super) message: String,
}

/// Reads a document. An empty one is [`Node::Null`].
pub(super) fn parse(text: &str) -> Result<Node, SyntaxError> {
    Node::deserialize(serde_yaml::Deserializer::from_str(text)).map_err(|error| explain(text, &error))
}

/// Where the node at the end of `steps` stands; the nearest known place when it stands nowhere.
pub(super) fn locate(text: &str, steps: &[Step]) -> Position {
    let outcome = Seek { steps }.deserialize(serde_yaml::Deserializer::from_str(text));
    match outcome.err().and_then(|error| error.location()) {
        Some(location) => (location.line(), location.column()),
        None => (1, 1),
    }
}

const TAGS_UNWANTED: &str = "tags (words that start with \"!\") mean nothing here; put the text in quotes";

/// The library's complaint in an administrator's words: tabs, unquoted colons and the like by name.
fn explain(text: &str, error: &serde_yaml::Error) -> SyntaxError {
    let (line, column) = error.location().map_or((1, 1), |location| (location.line(), location.column()));
    let indent = |line: &str| line.len() - line.trim_start_matches([' ', '\t']).len();
    let tab = text.lines().enumerate().take(line).find_map(|(index, line)| {
        line[..indent(line)].find('\t').map(|tab| (index + 1, tab + 1)).filter(|_| !line.trim().starts_with('#'))
    });
    if let Some(position) = tab {
        let message = "a tab in the indentation, which YAML forbids; use spaces".to_owned();
        return SyntaxError { position, message };
    }
    let original = error.to_string();
    // The position is told in front; the library adds it at the end, and then where the construct began.
    let (original, rest) = original.split_once(" at line ").unwrap_or((&original, ""));
    let original = original.trim_start_matches(". ");
    let begun = rest.split_once("while parsing ").and_then(|(_, begun)| begun.split_once(" column "));
    let begun =
        begun.map(|(begun, _)| format!(" in {}", begun.replace(" at line ", " begun on line "))).unwrap_or_default();
    let unquoted_ipv6 = text.lines().nth(line - 1).is_some_and(|line| line.contains("[") && line.contains("]:"));
    let message = if unquoted_ipv6 {
        "an IPv6 address with a port needs quotes; write \"[::]:47000\"".to_owned()
    } else if original.contains("more than one document") {
        // The library does not say where.
        let marks = text.lines().enumerate().filter(|(index, line)| *index > 0 && line.starts_with("---"));
        let line = marks.last().map_or(1, |(index, _)| index + 1);
        let message = "more than one document (\"---\"); keep one per file".to_owned();
        return SyntaxError { position: (line, 1), message };
    } else if original.contains("mapping values are not allowed") {
        "a \": \" where no key can stand; put a text that contains \": \" in quotes, or check the indentation above"
            .to_owned()
    } else if original.contains("unknown anchor") {
        "\"*\" in front of a text means a YAML anchor, and there is none of this name; put the text in quotes"
            .to_owned()
    } else if original.ends_with(TAGS_UNWANTED) {
        TAGS_UNWANTED.to_owned()
    } else if original.contains("repetition limit") || original.contains("recursion limit") {
        format!("{original}; a configuration needs no deep nesting and no anchors: write it out")
    } else {
        format!(
            "not valid YAML: {original}{begun}; check indentation, brackets and quotes on this line and the one above"
        )
    };
    SyntaxError { position: (line, column), message }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Int(value.into()))
    }
    fn visit_i128<E>(self, value: i128) -> Result<Node, E> {
        Ok(Node::Int(value))
    }
    fn visit_u128<E>(self, value: u128) -> Result<Node, E> {
        Ok(i128::try_from(value).map_or(Node::Float(value as f64), Node::Int))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Node::Map(map))
    }
    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Node, A::Error> {
        Err(A::Error::custom(TAGS_UNWANTED))
    }
}

/// Walks along `steps` and fails there, so that the error carries the position.
#[derive(Clone, Copy)]
struct Seek<'a> {
    steps: &'a [Step],
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every scalar ends here, by serde's default methods: the error is the purpose.
        f.write_str("the place looked for")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((&Step::Item(index), steps)) = self.steps.split_first() else {
            return Err(A::Error::custom("here"));
        };
        for _ in 0..index {
            items.next_element::<IgnoredAny>()?;
        }
        items.next_element_seed(Seek { steps })?;
        Err(A::Error::custom("here"))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let (index, is_key, steps) = match self.steps.split_first() {
            Some((&Step::Key(index), steps)) => (index, true, steps),
            Some((&Step::Value(index), steps)) => (index, false, steps),
            _ => return Err(A::Error::custom("here")),
        };
        for _ in 0..index {
            entries.next_entry::<IgnoredAny, IgnoredAny>()?;
        }
        if is_key {
            entries.next_key_seed(Seek { steps })?;
        } else if entries.next_key::<IgnoredAny>()?.is_some() {
            entries.next_value_seed(Seek { steps })?;
        }
        Err(A::Error::custom("here"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str =
        "name: site-a\nlan: { tap: t0, mtu: 1500 }\nrules:\n  - name: x\n    ports: [8000, 1-2]\n  - {}\n";

    #[test]
    fn every_node_has_its_place() {
        for (steps, expected) in [
            (&[][..], (1, 1)),
            (&[Step::Value(0)], (1, 7)),
            (&[Step::Key(1)], (2, 1)),
            (&[Step::Value(1)], (2, 6)),
            (&[Step::Value(1), Step::Key(1)], (2, 17)),
            (&[Step::Value(1), Step::Value(1)], (2, 22)),
            (&[Step::Value(2), Step::Item(0), Step::Value(1), Step::Item(1)], (5, 19)),
            (&[Step::Value(2), Step::Item(1)], (6, 5)),
        ] {
            assert_eq!(locate(TEXT, steps), expected, "{steps:?}");
        }
    }

    #[test]
    fn a_place_that_does_not_exist_is_answered_by_a_near_one() {
        assert_eq!(locate(TEXT, &[Step::Value(9)]).0, 1);
        assert_eq!(locate("", &[Step::Value(0)]), (1, 1));
    }

    #[test]
    fn duplicates_and_order_survive() {
        let text = |text: &str| Node::Text(text.to_owned());
        let expected = Node::Map(vec![(text("b"), Node::Int(1)), (text("a"), Node::Null), (text("b"), text("2x"))]);
        assert_eq!(parse("b: 1\na:\nb: 2x\n"), Ok(expected));
        assert_eq!(parse(""), Ok(Node::Null));
    }

    #[test]
    fn syntax_errors_name_place_and_remedy() {
        for (text, position, words) in [
            ("a: 1\n\tb: 2\n", (2, 1), "use spaces"),
            ("a:\n  b: 1\n \tc: 2\n", (3, 2), "use spaces"),
            ("a: 1\n---\nb: 2\n", (2, 1), "one per file"),
            ("a: b: c\n", (1, 5), "in quotes"),
            ("a: [1, 2\nb: 3\n", (2, 2), "brackets"),
            ("a: 'x\n", (2, 1), "quotes"),
            ("a: !x 1\n", (1, 4), "tags"),
            ("a: *x\n", (1, 4), "in quotes"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.message.contains(words), "{text:?}: {error:?}");
            assert_eq!(error.position, position, "{text:?}: {error:?}");
        }
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let items = vec![format!("*a{}", level - 1); 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{items}]\n"));
        }
        assert!(parse(&text).unwrap_err().message.contains("write it out"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "[ \t\n:\\-\\[\\]{}&*!|>'\"#a-c,~?%@0-2]{0,60}", steps in prop::collection::vec(0usize..9, 0..5)) {
            let _ = parse(&text);
            let steps: Vec<Step> = steps.iter().map(|n| [Step::Item(n / 3), Step::Key(n / 3), Step::Value(n / 3)][n % 3]).collect();
            let (line, column) = locate(&text, &steps);
            prop_assert!(line >= 1 && column >= 1);
        }
    }
}
