//! Reads this repository's Rust sources well enough for rules about them.
//!
//! Comments, strings and character literals are blanked first, so that prose may name anything.
#![allow(dead_code, reason = "each test program uses a part")]

use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

// ---- reading the tree --------------------------------------------------------------------------

/// A Rust file; positions in one of its texts hold in the others.
pub(crate) struct Source {
    /// Path from the root, with `/`.
    pub(crate) name: String,
    pub(crate) text: String,
    /// The text with comments, strings and character literals blanked.
    pub(crate) code: String,
    /// The code without what only tests compile, which is blanked too.
    pub(crate) shipped: String,
    /// Where the text has what only tests compile.
    pub(crate) tests: Vec<Range<usize>>,
}

impl Source {
    pub(crate) fn new(name: String, text: String) -> Self {
        let code = blank_prose(&text);
        let is_test = name.ends_with("tests.rs") || name.contains("tests/");
        let tests =
            if is_test { std::iter::once(0..code.len()).collect() } else { test_items(&code) };
        let shipped = tests.iter().fold(code.clone(), |code, item| blank(&code, item.clone()));
        Self { name, text, code, shipped, tests }
    }

    /// Whether this is the module file `stem.rs` or lies in the folder `stem/`.
    pub(crate) fn is_module(&self, stem: &str) -> bool {
        self.name.strip_prefix(stem).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }

    /// Whether a position is in what only tests compile.
    pub(crate) fn is_in_tests(&self, at: usize) -> bool {
        self.tests.iter().any(|item| item.contains(&at))
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Every Rust file below a folder of the root, in order; none if there is no such folder.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(&root().join(folder), &mut paths);
    paths.sort();
    let sources: Vec<Source> = paths
        .iter()
        .map(|path| {
            let name = path.strip_prefix(root()).expect("walked from the root");
            let name = name.to_str().expect("file names are UTF-8").replace('\\', "/");
            let text = read(&name);
            Source::new(name, text)
        })
        .collect();
    assert!(folder != "src" || !sources.is_empty(), "no source was found");
    sources
}

pub(crate) fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                walk(&path, paths);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

pub(crate) fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[track_caller]
pub(crate) fn expect_none(found: &[String]) {
    let mut list = String::new();
    for one in found {
        write!(list, "\n  {one}").expect("a string takes all");
    }
    assert!(found.is_empty(), "{list}\n");
}

// ---- a little of Rust's grammar ----------------------------------------------------------------

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

pub(crate) fn word_at(code: &str, at: usize) -> String {
    code[at..].chars().take_while(|c| is_word(*c)).collect()
}

pub(crate) fn has_word(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        !code[..at].ends_with(is_word) && !code[at + word.len()..].starts_with(is_word)
    })
}

pub(crate) fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// The text with everything in a range blanked but its line ends; byte positions stay.
pub(crate) fn blank(text: &str, range: Range<usize>) -> String {
    let (before, after) = (&text[..range.start], &text[range.end..]);
    let spaces = text[range].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' });
    before.chars().chain(spaces).chain(after.chars()).collect()
}

/// Blanks comments, strings and character literals.
pub(crate) fn blank_prose(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let after_word = code.ends_with(is_word);
        let prose = prose_length(rest, after_word);
        if prose == 0 {
            let c = rest.chars().next().expect("there is more");
            code.push(c);
            rest = &rest[c.len_utf8()..];
        } else {
            code.push_str(&blank(&rest[..prose], 0..prose));
            rest = &rest[prose..];
        }
    }
    code
}

/// The length of the comment or literal that `rest` starts with; 0 if it starts with code.
pub(crate) fn prose_length(rest: &str, after_word: bool) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    if !after_word {
        let raw = rest.trim_start_matches(['b', 'c']);
        let prefix = rest.len() - raw.len();
        if prefix <= 1 && raw.starts_with('r') {
            let hashes = raw[1..].len() - raw[1..].trim_start_matches('#').len();
            if raw[1 + hashes..].starts_with('"') {
                let end = format!("\"{}", "#".repeat(hashes));
                let start = prefix + hashes + 2;
                let inside = rest[start..].find(&end);
                return inside.map_or(rest.len(), |length| start + length + end.len());
            }
        }
    }
    if rest.starts_with('"') {
        return quoted_length(rest, b'"');
    }
    if let Some(inside) = rest.strip_prefix('\'') {
        let mut characters = inside.chars();
        let is_literal = match characters.next() {
            Some('\\') => true,
            // A lifetime has no quote after its first character.
            Some(_) => characters.next() == Some('\''),
            None => false,
        };
        if is_literal {
            return quoted_length(rest, b'\'');
        }
    }
    0
}

pub(crate) fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest.as_bytes()[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.as_bytes()[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a literal from its opening quote to its closing one, escapes skipped.
pub(crate) fn quoted_length(rest: &str, quote: u8) -> usize {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The items that only tests compile, attribute included.
pub(crate) fn test_items(code: &str) -> Vec<Range<usize>> {
    let mut items = Vec::new();
    let mut from = 0;
    while let Some(offset) = code[from..].find("#[cfg(") {
        let start = from + offset;
        let condition = &code[start + "#[cfg(".len()..];
        from = start + 1;
        if condition.starts_with("test)") || condition.starts_with("all(test,") {
            from = item_end(code, start);
            items.push(start..from);
        }
    }
    items
}

/// Where the item ends whose attributes start at `start`: at its `;`, its closing brace, or, for a
/// field or an arm, the comma or the brace that ends it.
pub(crate) fn item_end(code: &str, start: usize) -> usize {
    let (mut depth, mut angles) = (0_usize, 0_usize);
    let mut before = ' ';
    for (offset, c) in code[start..].char_indices() {
        let at = start + offset;
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' if depth == 0 => return at,
            '}' if depth == 1 => return at + 1,
            '}' | ')' | ']' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            ',' if depth == 0 && angles == 0 => return at + 1,
            '<' => angles += 1,
            // Not the head of an arrow.
            '>' if before != '-' && before != '=' => angles = angles.saturating_sub(1),
            _ => {}
        }
        before = c;
    }
    code.len()
}
