// SPDX-License-Identifier: MIT OR Apache-2.0

//! Files of the checkout as the house rules see them: by line, with Rust's code and comments told
//! apart by rustc's own lexer.

use anyhow::{Context, Result};
use ra_ap_rustc_lexer::{FrontmatterAllowed, LiteralKind, TokenKind, tokenize};
use std::fs;
use std::path::Path;

/// How the names of the files end that the rules are about.
const ENDS: [&str; 10] = [
    ".rs", ".toml", ".ld", ".s", ".S", ".sh", ".yml", ".gdbinit", ".md", ".ci/run",
];
/// Directories that hold no source, at any depth.
const SKIPPED: [&str; 2] = ["target", ".git"];

/// One line of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The code, without comments and with strings and characters emptied. All of the line in a
    /// file that is not Rust.
    pub code: String,
    /// The text of comments, with their slashes.
    pub comment: String,
    /// The whole line.
    pub text: String,
}

/// One file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path from the root, with slashes.
    pub path: String,
    /// Its lines, the first one at index 0.
    pub lines: Vec<Line>,
}

impl Source {
    /// Reads a file's text.
    pub fn new(path: &str, text: &str) -> Self {
        let whole = |text: &str| Line {
            code: text.to_owned(),
            comment: text.to_owned(),
            text: text.to_owned(),
        };
        let path = path.to_owned();
        let lines = match path.ends_with(".rs") {
            true => divide(text),
            false => text.lines().map(whole).collect(),
        };
        Self { path, lines }
    }

    /// Reads every file below `root` that a rule may be about, in order of their paths.
    ///
    /// # Errors
    ///
    /// When a directory or file cannot be read.
    pub fn collect(root: &Path) -> Result<Vec<Self>> {
        let mut sources = Vec::new();
        let mut open = vec![root.to_path_buf()];
        while let Some(path) = open.pop() {
            let unreadable = || format!("cannot read {}", path.display());
            let below = path.strip_prefix(root).unwrap_or(&path);
            let shown = below.to_string_lossy();
            if path.is_dir() {
                if !SKIPPED.iter().any(|name| below.ends_with(name)) {
                    for entry in fs::read_dir(&path).with_context(unreadable)? {
                        open.push(entry.with_context(unreadable)?.path());
                    }
                }
            } else if ENDS.iter().any(|end| shown.ends_with(end)) {
                let text = fs::read_to_string(&path).with_context(unreadable)?;
                sources.push(Self::new(&shown, &text));
            }
        }
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(sources)
    }

    /// Tells whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// The lines with their numbers, counted from 1.
    pub fn numbered(&self) -> impl Iterator<Item = (usize, &Line)> {
        (1..).zip(&self.lines)
    }

    /// Number of lines before the unit tests at the end.
    pub fn without_tests(&self) -> usize {
        self.lines
            .windows(2)
            .position(|pair| {
                pair[0].code.trim() == "#[cfg(test)]"
                    && pair[1].code.contains("mod ")
                    && pair[1].code.ends_with('{')
            })
            .unwrap_or(self.lines.len())
    }

    /// The comment and attribute lines directly above line `number` (counted from 1), nearest first.
    pub fn above(&self, number: usize) -> impl Iterator<Item = &Line> {
        self.lines[..number - 1].iter().rev().take_while(|line| {
            let code = line.code.trim();
            !line.text.trim().is_empty() && (code.is_empty() || code.starts_with("#["))
        })
    }
}

/// Divides Rust text into code and comments.
fn divide(text: &str) -> Vec<Line> {
    let whole = |text: &str| Line {
        text: text.to_owned(),
        ..Line::default()
    };
    let mut lines: Vec<Line> = text.lines().map(whole).collect();
    let (mut at, mut number) = (0, 0);
    for token in tokenize(text, FrontmatterAllowed::No) {
        let token_text = &text[at..at + token.len as usize];
        at += token_text.len();
        let emptied;
        let (is_comment, shown) = match token.kind {
            TokenKind::LineComment { .. } | TokenKind::BlockComment { .. } => (true, token_text),
            TokenKind::Literal { kind, .. } => {
                emptied = empty(kind, token_text);
                (false, emptied.as_str())
            }
            _ => (false, token_text),
        };
        for (breaks, part) in shown.split('\n').enumerate() {
            number += usize::from(breaks > 0);
            // The last line break of a file begins no line.
            let Some(line) = lines.get_mut(number) else {
                continue;
            };
            match is_comment {
                true => line.comment.push_str(part),
                false => line.code.push_str(part),
            }
        }
    }
    lines
}

/// A literal without what it says, and with its line breaks.
fn empty(kind: LiteralKind, text: &str) -> String {
    match kind {
        LiteralKind::Int { .. } | LiteralKind::Float { .. } => text.to_owned(),
        LiteralKind::Char { .. } | LiteralKind::Byte { .. } => "' '".to_owned(),
        _ => format!("\"{}\"", "\n".repeat(text.matches('\n').count())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(text: &str) -> Vec<String> {
        divide(text).into_iter().map(|line| line.code).collect()
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        assert_eq!(code_of("a(); // asm!"), ["a(); "]);
        assert_eq!(code_of("a(\"asm! // no\\\" more\"); b()"), ["a(\"\"); b()"]);
        assert_eq!(code_of("/* one /* two */ asm! */ c"), [" c"]);
        assert_eq!(
            code_of("let x = \"two\nlines asm!\"; d"),
            ["let x = \"", "\"; d"]
        );
    }

    #[test]
    fn raw_strings_end_at_their_hashes() {
        assert_eq!(
            code_of("r#\"say \"asm!\" \"# e"),
            ["\" e".replacen('"', "\"\"", 1)]
        );
        assert_eq!(code_of("br\"\\\" f"), ["\"\" f"]);
        assert_eq!(code_of("for_r\"x\" g"), ["for_r\"\" g"]);
    }

    #[test]
    fn characters_and_lifetimes_are_told_apart() {
        assert_eq!(code_of("f('\"', '\\'', '/') // x"), ["f(' ', ' ', ' ') "]);
        assert_eq!(
            code_of("fn f<'a>(x: &'a str) {} // '"),
            ["fn f<'a>(x: &'a str) {} "]
        );
        assert_eq!(code_of("x('é', b'\"') y"), ["x(' ', ' ') y"]);
    }

    #[test]
    fn comments_keep_their_text() {
        let lines = divide("a // one\n/* two\nthree */ b");
        let comments: Vec<&str> = lines.iter().map(|line| line.comment.as_str()).collect();
        assert_eq!(comments, ["// one", "/* two", "three */"]);
    }

    #[test]
    fn tests_at_the_end_are_found() {
        let source = Source::new("a.rs", "fn a() {}\n\n#[cfg(test)]\nmod tests {\n}\n");
        assert_eq!(source.without_tests(), 2);
        let source = Source::new("a.rs", "fn a() {}\n#[cfg(test)]\nmod tests;\n");
        assert_eq!(source.without_tests(), 3);
    }
}
