//! Just enough of Rust's grammar to know which paths a file uses: comments and literals are blanked, `use` trees and
//! paths in expressions are expanded.

/// A file whose comments, strings and characters are blanked; lines stay where they were.
pub struct Source {
    code: String,
}

/// One path as used: `crate::units::BitRate`, `std::fs`, or a macro call as `[println, !]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedPath {
    pub line: usize,
    pub segments: Vec<String>,
    /// Directly behind `use`: there one word alone is a path, elsewhere it is any name.
    pub imported: bool,
}

impl UsedPath {
    /// The room (or first module) the path leads to when it starts at the crate's root.
    pub fn room(&self, file: &str) -> Option<&str> {
        let segments: Vec<&str> = self.segments.iter().map(String::as_str).collect();
        match segments.as_slice() {
            ["crate" | "longhaul", room, ..] => Some(room),
            ["super", ..] => {
                let supers = segments.iter().take_while(|segment| **segment == "super").count();
                (supers >= module_depth(file)).then(|| segments.get(supers).copied())?
            }
            _ => None,
        }
    }
}

/// How many `super` lead from the file's module to the crate's root.
fn module_depth(file: &str) -> usize {
    let inside = file.trim_start_matches("src/").trim_end_matches(".rs").trim_end_matches("/mod");
    inside.split('/').count()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    PathSeparator,
    Sign(char),
}

impl Source {
    pub fn new(text: &str) -> Source {
        Source { code: blanked(text) }
    }

    /// The same without what stands under `#[cfg(test)]`.
    pub fn without_tests(&self) -> Source {
        const MARK: &str = "#[cfg(test)]";
        let mut code = self.code.clone();
        while let Some(start) = code.find(MARK) {
            let item = start + MARK.len();
            let end = item_end(&code[item..]).map_or(code.len(), |len| item + len);
            let blank: String = code[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
            code.replace_range(start..end, &blank);
        }
        Source { code }
    }

    /// The lines on which this word stands in code.
    pub fn lines_with_word(&self, word: &str) -> Vec<usize> {
        self.tokens()
            .into_iter()
            .filter(|(_, token)| *token == Token::Word(word.to_owned()))
            .map(|(line, _)| line)
            .collect()
    }

    /// Every path that starts in this file, groups expanded.
    pub fn paths(&self) -> Vec<UsedPath> {
        let tokens = self.tokens();
        let mut paths = Vec::new();
        let mut at = 0;
        while at < tokens.len() {
            let continues = at > 0
                && match &tokens[at - 1].1 {
                    Token::Sign('.') => true,
                    // `::std::fs` starts a path, `a::b` continues one.
                    Token::PathSeparator => at > 1 && matches!(tokens[at - 2].1, Token::Word(_) | Token::Sign('>')),
                    _ => false,
                };
            if matches!(tokens[at].1, Token::Word(_)) && !continues {
                at = expand(&tokens, at, &[], &mut paths);
            } else {
                at += 1;
            }
        }
        paths
    }

    fn tokens(&self) -> Vec<(usize, Token)> {
        let mut tokens = Vec::new();
        let mut line = 1;
        let mut rest = self.code.chars().peekable();
        while let Some(c) = rest.next() {
            if c == '\n' {
                line += 1;
            } else if c.is_alphanumeric() || c == '_' {
                let mut word = String::from(c);
                while let Some(c) = rest.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    word.push(c);
                }
                tokens.push((line, Token::Word(word)));
            } else if c == ':' && rest.next_if_eq(&':').is_some() {
                tokens.push((line, Token::PathSeparator));
            } else if !c.is_whitespace() {
                tokens.push((line, Token::Sign(c)));
            }
        }
        tokens
    }
}

/// Reads the path at `at` behind `prefix`; returns where reading goes on.
fn expand(tokens: &[(usize, Token)], mut at: usize, prefix: &[String], paths: &mut Vec<UsedPath>) -> usize {
    let line = tokens[at].0;
    let imported = at > 0 && tokens[at - 1].1 == Token::Word("use".to_owned());
    let mut segments = prefix.to_vec();
    loop {
        match tokens.get(at).map(|(_, token)| token) {
            Some(Token::Word(word)) => {
                if word != "self" || segments.is_empty() {
                    segments.push(word.clone());
                }
                at += 1;
            }
            Some(Token::Sign('*')) => {
                segments.push("*".to_owned());
                at += 1;
            }
            _ => break,
        }
        let is_separator = matches!(tokens.get(at), Some((_, Token::PathSeparator)));
        match (is_separator, tokens.get(at + 1).map(|(_, token)| token)) {
            (true, Some(Token::Word(_) | Token::Sign('*'))) => at += 1,
            (true, Some(Token::Sign('{'))) => return expand_group(tokens, at + 2, &segments, paths),
            (false, _) if matches!(tokens.get(at), Some((_, Token::Sign('!')))) && segments.len() == 1 => {
                segments.push("!".to_owned());
                at += 1;
                break;
            }
            _ => break,
        }
    }
    paths.push(UsedPath { line, segments, imported });
    at
}

/// Reads `a, b::{c, d}, self }` behind `prefix`.
fn expand_group(tokens: &[(usize, Token)], mut at: usize, prefix: &[String], paths: &mut Vec<UsedPath>) -> usize {
    while let Some((_, token)) = tokens.get(at) {
        match token {
            Token::Sign('}') => return at + 1,
            // The word after `as` is a new name, not a path.
            Token::Word(word) if word == "as" => at += 2,
            Token::Word(_) | Token::Sign('*') => at = expand(tokens, at, prefix, paths),
            _ => at += 1,
        }
    }
    at
}

/// Length of the item at the start: to its closing brace, or to its semicolon.
fn item_end(code: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (index, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(index + 1);
                }
            }
            ';' if depth == 0 => return Some(index + 1),
            _ => {}
        }
    }
    None
}

/// Blanks comments, strings and characters.
fn blanked(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let after_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
        let len = comment_len(&chars[at..])
            .or_else(|| if after_word { None } else { raw_string_len(&chars[at..]) })
            .or_else(|| string_len(&chars[at..]))
            .or_else(|| char_len(&chars[at..]));
        match len {
            Some(len) => {
                let end = (at + len).min(chars.len());
                code.extend(chars[at..end].iter().map(|&c| if c == '\n' { c } else { ' ' }));
                at = end;
            }
            None => {
                code.push(chars[at]);
                at += 1;
            }
        }
    }
    code
}

fn comment_len(chars: &[char]) -> Option<usize> {
    match chars {
        ['/', '/', ..] => Some(chars.iter().position(|&c| c == '\n').unwrap_or(chars.len())),
        ['/', '*', ..] => {
            let mut depth = 0usize;
            let mut at = 0;
            while at + 1 < chars.len() {
                match (chars[at], chars[at + 1]) {
                    ('/', '*') => (depth, at) = (depth + 1, at + 2),
                    ('*', '/') => (depth, at) = (depth - 1, at + 2),
                    _ => at += 1,
                }
                if depth == 0 {
                    return Some(at);
                }
            }
            Some(chars.len())
        }
        _ => None,
    }
}

/// `r"…"`, `r#"…"#`, `br"…"`.
fn raw_string_len(chars: &[char]) -> Option<usize> {
    let start = match chars {
        ['r', ..] => 1,
        ['b' | 'c', 'r', ..] => 2,
        _ => return None,
    };
    let hashes = chars[start..].iter().take_while(|&&c| c == '#').count();
    if chars.get(start + hashes) != Some(&'"') {
        return None;
    }
    let body = start + hashes + 1;
    let ends = |at: usize| chars[at] == '"' && chars[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes;
    Some((body..chars.len()).find(|&at| ends(at)).map_or(chars.len(), |at| at + 1 + hashes))
}

fn string_len(chars: &[char]) -> Option<usize> {
    if chars.first() != Some(&'"') {
        return None;
    }
    let mut at = 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return Some(at + 1),
            _ => at += 1,
        }
    }
    Some(chars.len())
}

/// A character, not a lifetime.
fn char_len(chars: &[char]) -> Option<usize> {
    match chars {
        ['\'', '\\', _, rest @ ..] => rest.iter().position(|&c| c == '\'').map(|len| len + 4),
        ['\'', _, '\'', ..] => Some(3),
        _ => None,
    }
}
