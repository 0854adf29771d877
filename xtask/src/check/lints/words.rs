// SPDX-License-Identifier: MIT OR Apache-2.0

//! Words that do not stand in a finished file: marks of unfinished work, and
//! British spellings. What a string says counts for the spelling only.

use super::Finding;
use crate::check::source::{Line, Source};

/// Marks of unfinished work, as whole words.
const MARKS: [&str; 7] = [
    "TODO",
    "FIXME",
    "XXX",
    "HACK",
    "todo!",
    "unimplemented!",
    "for now",
];

/// British spellings and the letters that replace their end. The hyphen keeps
/// this list from finding itself; any ending may follow.
const BRITISH: [(&str, &str); 14] = [
    ("behavi-our", "or"),
    ("col-our", "or"),
    ("fav-our", "or"),
    ("neighb-our", "or"),
    ("cent-re", "er"),
    ("arte-fact", "artifact"),
    ("initial-is", "iz"),
    ("optim-is", "iz"),
    ("organ-is", "iz"),
    ("recogn-is", "iz"),
    ("serial-is", "iz"),
    ("summar-is", "iz"),
    ("symbol-is", "iz"),
    ("synchron-is", "iz"),
];

/// Finds marks of unfinished work.
pub fn unfinished(source: &Source) -> Vec<Finding> {
    find(source, |line| {
        let text = if source.is_rust() {
            format!("{} {}", line.code, line.comment)
        } else {
            line.text.clone()
        };
        let mark = MARKS.iter().find(|mark| contains_word(&text, mark))?;
        Some(format!(
            "`{mark}` marks unfinished work; finish it, or open an issue"
        ))
    })
}

/// Finds British spellings.
pub fn spelling(source: &Source) -> Vec<Finding> {
    find(source, |line| {
        let text = line.text.to_lowercase();
        BRITISH.iter().find_map(|(word, american)| {
            let (stem, end) = word.split_once('-')?;
            let british = format!("{stem}{end}");
            let at = text.find(&british)?;
            // `optimistic` and `synchronism` are right everywhere.
            let after = &text[at + british.len()..];
            if end == "is" && (after.starts_with('t') || after.starts_with('m')) {
                return None;
            }
            let right = if american.len() > 2 {
                (*american).to_owned()
            } else {
                format!("{stem}{american}")
            };
            Some(format!("`{british}` is `{right}` in American English"))
        })
    })
}

fn find(source: &Source, message: impl Fn(&Line) -> Option<String>) -> Vec<Finding> {
    source
        .numbered()
        .filter_map(|(number, line)| Some(Finding::error(number, message(line)?)))
        .collect()
}

fn contains_word(text: &str, word: &str) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let begins_inside = text[..at].ends_with(is_letter);
        let goes_on = word.ends_with(is_letter) && text[at + word.len()..].starts_with(is_letter);
        !begins_inside && !goes_on
    })
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::*;

    #[test]
    fn marks_are_whole_words_outside_of_strings() {
        let mark = ["TO", "DO"].concat();
        let text = format!(
            "// {mark}: x\nlet a = \"{mark}\";\nlet {mark}_LIST = 1;\n{}!();\n",
            mark.to_lowercase()
        );
        assert_eq!(lines(unfinished, "a.rs", &text), [1, 4]);
        assert_eq!(lines(unfinished, "a.toml", &format!("# {mark}\n")), [1]);
    }

    #[test]
    fn british_spellings_are_found_with_any_ending() {
        for (word, _) in BRITISH {
            let word = word.replace('-', "");
            assert_eq!(
                lines(spelling, "a.rs", &format!("// A{word}es\n")),
                [1],
                "{word}"
            );
        }
    }

    #[test]
    fn words_that_only_look_british_stay() {
        let text = "// optimistic synchronism\n// behavior, center, initialize\n";
        assert_eq!(lines(spelling, "a.rs", text), [0; 0]);
    }
}
