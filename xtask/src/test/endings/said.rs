// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a boot has said, against what it should.

use crate::glob;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs;

/// Where the transcript of docs/demonstration.md begins.
const TRANSCRIPT: &str = "<!-- transcript: cargo xtask run -->\n```text\n";

/// The first of `wanted` that no line has after the lines of those before it.
pub fn first_missing<'w>(lines: &[&str], wanted: &[&'w str]) -> Option<&'w str> {
    let mut rest = lines.iter();
    wanted
        .iter()
        .find(|text| {
            let pattern = format!("*{text}*");
            !rest.any(|line| glob::matches(&pattern, line))
        })
        .copied()
}

/// The first line of a second report: reports of one CPU in another one say so. Before it has a
/// console, the kernel reports on the UART and to the host, in the same words.
pub fn second_report<'a>(lines: &[&'a str]) -> Option<&'a str> {
    let mut reports = lines
        .iter()
        .filter(|line| line.starts_with("panic: ") || line.starts_with("exception: "))
        .filter(|line| !line.ends_with("while reporting"));
    let first = reports.next()?;
    reports.find(|line| *line != first).copied()
}

/// Compares the demonstration with the transcript of docs/demonstration.md.
pub fn differs_from_the_book(workspace: &Workspace, lines: &[&str]) -> Result<Option<String>> {
    let path = workspace.root().join("docs/demonstration.md");
    let book =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(transcript) = book
        .split_once(TRANSCRIPT)
        .and_then(|(_, rest)| rest.split_once("\n```"))
    else {
        return Ok(Some("docs/demonstration.md has no transcript".to_owned()));
    };
    let mut shown = transcript.0.lines().map(comparable);
    let mut printed = lines.iter().map(|line| comparable(line));
    loop {
        match (shown.next(), printed.next()) {
            (None, None) => return Ok(None),
            (shown, printed) if shown == printed => {}
            (shown, printed) => {
                return Ok(Some(format!(
                    "docs/demonstration.md is not what `cargo xtask run` prints (scripts/update-demonstration.sh mends that):\n  there:   {}\n  printed: {}",
                    shown.unwrap_or_default(),
                    printed.unwrap_or_default()
                )));
            }
        }
    }
}

/// A line without what differs from build to build: the time in front of it, and addresses.
fn comparable(line: &str) -> String {
    let line = match line.split_once("] ") {
        Some((time, rest)) if time.starts_with('[') => rest,
        _ => line,
    };
    let mut words = line.split("0x");
    let mut result = words.next().unwrap_or_default().to_owned();
    for word in words {
        let end = word
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(word.len());
        result.push_str("0x*");
        result.push_str(&word[end..]);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_what_is_said_matters() {
        let lines = ["a b", "c", "d"];
        assert_eq!(first_missing(&lines, &["b", "c", "d"]), None);
        assert_eq!(first_missing(&lines, &["c", "b"]), Some("b"));
        assert_eq!(first_missing(&lines, &["e"]), Some("e"));
        assert_eq!(first_missing(&lines, &["a*b", "d"]), None);
        assert_eq!(first_missing(&lines, &["a*c"]), Some("a*c"));
    }

    #[test]
    fn one_report_is_enough() {
        let lines = [
            "panic: a",
            "  CPU 1",
            "exception: b, while reporting",
            "exception: c",
            "panic: d",
        ];
        assert_eq!(second_report(&lines), Some("exception: c"));
        assert_eq!(second_report(&lines[..3]), None);
    }

    #[test]
    fn times_and_addresses_do_not_count() {
        assert_eq!(
            comparable("[    0.013] info: at 0x40080000, 12 pages"),
            "info: at 0x*, 12 pages"
        );
        assert_eq!(comparable("  0x0060 -> 0xffff: x"), "  0x* -> 0x*: x");
        assert_ne!(comparable("12 DSB"), comparable("13 DSB"));
    }
}
