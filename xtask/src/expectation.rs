// SPDX-License-Identifier: MIT OR Apache-2.0

//! Adds the text of an expectation that did not hold.
//!
//! The kernel prints its place and its values (`EXPECTATION FAILED at FILE:LINE`), because the text of
//! hundreds of expectations would be a twentieth of its image. The text is in the sources.

use std::fs;
use std::path::Path;

const MARK: &str = "EXPECTATION FAILED at ";
/// Lines of the sources that are shown at most: a closure may be part of an expectation.
const SHOWN: usize = 8;

/// `line` with the text of the expectation whose failure it reports below it; `root` is the checkout.
/// Any other line, and one whose place is not in the checkout, stays as it is.
pub fn annotate(line: String, root: &Path) -> String {
    let Some(text) = text_at(&line, root) else {
        return line;
    };
    // Below a diagnostic line of KTAP, as one more of it: `    # test: EXPECTATION ...`.
    let indent = line.len() - line.trim_start().len();
    let lead = match line[indent..].starts_with('#') {
        true => format!("{}#   ", " ".repeat(indent)),
        false => " ".repeat(indent + 2),
    };
    let text = text.iter().map(|text| format!("\n{lead}> {text}"));
    line + &text.collect::<String>()
}

/// The lines of the expectation, without the indentation of the first.
fn text_at(line: &str, root: &Path) -> Option<Vec<String>> {
    let (_, place) = line.split_once(MARK)?;
    let (file, number) = place.trim_end().rsplit_once(':')?;
    let first = number.parse::<usize>().ok()?.checked_sub(1)?;
    // What the guest says is no path to leave the checkout by.
    let file = root.join(file).canonicalize().ok()?;
    if !file.starts_with(root.canonicalize().ok()?) {
        return None;
    }
    let source = fs::read_to_string(file).ok()?;
    let lines = source.lines().skip(first).take(SHOWN);
    let mut open = 0_i32;
    let mut text = Vec::new();
    let mut indent = None;
    for line in lines {
        let own = line.len() - line.trim_start().len();
        let indent = *indent.get_or_insert(own);
        text.push(line[own.min(indent)..].to_owned());
        // Brackets in strings count as well: a line more or less is shown then.
        for byte in line.bytes() {
            open += i32::from(b"([{".contains(&byte)) - i32::from(b")]}".contains(&byte));
        }
        if open <= 0 {
            break;
        }
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "fn test() {\n    expect_eq!(pages(3), 4);\n    expect_eq!(\n        one(|| {\n            2\n        }),\n        3\n    );\n}\n";

    fn annotated(line: &str) -> String {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("suites")).expect("a folder in it");
        fs::write(root.path().join("suites/a.rs"), SOURCE).expect("a file in it");
        annotate(line.to_owned(), root.path())
    }

    #[test]
    fn an_expectation_is_shown_as_it_is_written() {
        assert_eq!(
            annotated("    # maps: EXPECTATION FAILED at suites/a.rs:2"),
            "    # maps: EXPECTATION FAILED at suites/a.rs:2\n    #   > expect_eq!(pages(3), 4);"
        );
        assert_eq!(
            annotated("EXPECTATION FAILED at suites/a.rs:3"),
            "EXPECTATION FAILED at suites/a.rs:3\n  > expect_eq!(\n  >     one(|| {\n  >         2\n  >     \
             }),\n  >     3\n  > );"
        );
    }

    #[test]
    fn what_is_not_in_the_sources_stays_as_it_is() {
        for line in [
            "# maps: EXPECTATION FAILED at suites/b.rs:2",
            "# maps: EXPECTATION FAILED at suites/a.rs:200",
            "# maps: EXPECTATION FAILED at suites/a.rs:0",
            "# maps: EXPECTATION FAILED at suites/a.rs",
            "# maps: EXPECTATION FAILED at /etc/hosts:1",
            "ok 1 maps",
        ] {
            assert_eq!(annotated(line), line);
        }
    }
}
