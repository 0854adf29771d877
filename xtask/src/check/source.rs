// SPDX-License-Identifier: MIT OR Apache-2.0

//! Files of the checkout as the house rules see them: by line, with Rust's code,
//! comments and strings told apart.
//!
//! The division is lexical and small: it knows comments (nested ones too),
//! strings (raw ones too) and characters, which is all that is needed to tell
//! `asm!` in code from `asm!` in a sentence.

use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Suffixes and names of the files that are looked at.
const SUFFIXES: [&str; 9] = [
    ".rs", ".toml", ".ld", ".s", ".S", ".sh", ".yml", ".gdbinit", ".md",
];
const NAMES: [&str; 1] = [".ci/run"];
/// Directories that hold nothing of ours, wherever they are.
const SKIPPED: [&str; 2] = ["target", ".git"];

/// One line of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// The code, with comments removed and strings emptied. All of the line in a
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
        let lines = if path.ends_with(".rs") {
            divide(text)
        } else {
            text.lines()
                .map(|text| Line {
                    code: text.to_owned(),
                    comment: text.to_owned(),
                    text: text.to_owned(),
                })
                .collect()
        };
        Self {
            path: path.to_owned(),
            lines,
        }
    }

    /// Reads every file below `root` that a rule may be about, in order of their paths.
    ///
    /// # Errors
    ///
    /// When a directory or file cannot be read.
    pub fn collect(root: &Path) -> Result<Vec<Self>> {
        let mut sources = Vec::new();
        let mut directories = vec![root.to_path_buf()];
        while let Some(directory) = directories.pop() {
            let unreadable = || format!("cannot read {}", directory.display());
            for entry in fs::read_dir(&directory).with_context(unreadable)? {
                let path = entry.with_context(unreadable)?.path();
                let shown = path
                    .strip_prefix(root)
                    .unwrap_or(&path)
                    .to_string_lossy()
                    .into_owned();
                if path.is_dir() {
                    if !SKIPPED.iter().any(|name| path.ends_with(name)) {
                        directories.push(path);
                    }
                } else if SUFFIXES.iter().any(|suffix| shown.ends_with(suffix))
                    || NAMES.contains(&shown.as_str())
                {
                    let text = fs::read_to_string(&path)
                        .with_context(|| format!("cannot read {shown}"))?;
                    sources.push(Self::new(&shown, &text));
                }
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
        self.lines
            .iter()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
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

/// What the division is in the middle of.
#[derive(Clone, Copy)]
enum Inside {
    Code,
    LineComment,
    /// With the depth of nesting.
    BlockComment(u32),
    Text,
    /// With the number of `#` that end it.
    RawText(usize),
}

/// Divides Rust text into code and comments.
fn divide(text: &str) -> Vec<Line> {
    let mut inside = Inside::Code;
    text.lines()
        .map(|line| divide_line(line, &mut inside))
        .collect()
}

fn divide_line(text: &str, inside: &mut Inside) -> Line {
    let mut line = Line {
        text: text.to_owned(),
        ..Line::default()
    };
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match *inside {
            Inside::Code => code(rest, first, inside, &mut line),
            Inside::LineComment => {
                line.comment.push_str(rest);
                rest.len()
            }
            Inside::BlockComment(depth) => {
                let (length, depth) = match rest.get(..2) {
                    Some("*/") => (2, depth - 1),
                    Some("/*") => (2, depth + 1),
                    _ => (first.len_utf8(), depth),
                };
                line.comment.push_str(&rest[..length]);
                *inside = if depth == 0 {
                    Inside::Code
                } else {
                    Inside::BlockComment(depth)
                };
                length
            }
            Inside::Text => match first {
                '\\' => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
                '"' => {
                    line.code.push('"');
                    *inside = Inside::Code;
                    1
                }
                _ => first.len_utf8(),
            },
            Inside::RawText(hashes) => {
                let ends = first == '"'
                    && rest[1..].bytes().take_while(|byte| *byte == b'#').count() >= hashes;
                if ends {
                    line.code.push('"');
                    *inside = Inside::Code;
                }
                if ends { 1 + hashes } else { first.len_utf8() }
            }
        };
        rest = &rest[length..];
    }
    if matches!(inside, Inside::LineComment) {
        *inside = Inside::Code;
    }
    line
}

/// Takes the next piece of code and returns its length in bytes.
fn code(rest: &str, first: char, inside: &mut Inside, line: &mut Line) -> usize {
    if rest.starts_with("//") {
        *inside = Inside::LineComment;
        return 0;
    }
    if rest.starts_with("/*") {
        *inside = Inside::BlockComment(1);
        line.comment.push_str("/*");
        return 2;
    }
    let in_word = line
        .code
        .ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let raw = rest
        .strip_prefix("br")
        .or_else(|| rest.strip_prefix('r'))
        .filter(|_| !in_word);
    if let Some(opening) = raw {
        let hashes = opening.bytes().take_while(|byte| *byte == b'#').count();
        if opening[hashes..].starts_with('"') {
            *inside = Inside::RawText(hashes);
            line.code.push('"');
            return rest.len() - opening.len() + hashes + 1;
        }
    }
    match first {
        '"' => *inside = Inside::Text,
        // A character, not a lifetime: 'x' or '\...'.
        '\'' => {
            let after = &rest[1..];
            let character = if after.starts_with('\\') {
                after
                    .get(2..)
                    .and_then(|rest| rest.find('\''))
                    .map(|at| at + 3)
            } else {
                let width = after.chars().next().map_or(0, char::len_utf8);
                after[width..].starts_with('\'').then_some(width + 1)
            };
            if let Some(length) = character {
                line.code.push_str("' '");
                return 1 + length;
            }
        }
        _ => {}
    }
    line.code.push(first);
    first.len_utf8()
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
        assert_eq!(code_of("f('\"', '\\'', '//') // x"), ["f(' ', ' ', '"]);
        assert_eq!(
            code_of("fn f<'a>(x: &'a str) {} // '"),
            ["fn f<'a>(x: &'a str) {} "]
        );
        assert_eq!(code_of("x('é', b'\"') y"), ["x(' ', b' ') y"]);
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
