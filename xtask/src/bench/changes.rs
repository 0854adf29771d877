// SPDX-License-Identifier: MIT OR Apache-2.0

//! What differs between two results.

use super::results::{Numbers, Results, Subject, name_of};
use std::fmt;

/// What differs, and how much does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// One line for each entry in which they differ.
    pub lines: Vec<String>,
    /// Entries that are the same.
    pub same: usize,
}

/// What has changed from `old` to `new`.
pub fn changes(old: &Results, new: &Results) -> Changes {
    let (old, new) = (old.entries(), new.entries());
    let mut found = Changes::default();
    for (subject, before) in &old {
        match new.get(subject) {
            Some(now) if now == before => found.same += 1,
            Some(now) => found
                .lines
                .push(format!("{subject}: {}", differing(before, now))),
            None => found
                .lines
                .push(format!("{subject}: only in the old results")),
        }
    }
    let added = new.keys().filter(|subject| !old.contains_key(subject));
    found
        .lines
        .extend(added.map(|subject| format!("{subject}: only in the new results")));
    found
}

/// `instructions 100 -> 90 (-10.0 %), dsb 0 -> 1`.
fn differing(before: &Numbers, now: &Numbers) -> String {
    let both = before.iter().zip(now).filter(|(before, now)| before != now);
    let words = both.map(|((name, before), (_, now))| {
        let percent = match *name {
            "instructions" if *before > 0 => {
                let percent = (*now as f64 / *before as f64 - 1.0) * 100.0;
                format!(" ({percent:+.1} %)")
            }
            _ => String::new(),
        };
        format!("{name} {before} -> {now}{percent}")
    });
    words.collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Window(terms, op, pages) => {
                write!(f, "{terms}: {} pages={pages}", name_of(*op))
            }
            Self::Event(terms, name) => write!(f, "{terms}: {name}"),
            Self::Boot(cpu, op, _) => write!(f, "{cpu}: {}", name_of(*op)),
            Self::Wake(cpu, name) => write!(f, "{cpu}: {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::counted::Terms;
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn the_same_is_no_change() {
        let results = results(&[1]);
        let found = changes(&results, &results);
        assert_eq!(
            (found.lines.len(), found.same),
            (0, results.entries().len())
        );
    }

    #[test]
    fn a_change_tells_both_counts() {
        let old = results(&[512]);
        let mut new = old.clone();
        let terms = Terms::new("max", "classic", "eager");
        if let Some(measured) = new.counted.get_mut(&terms) {
            measured.costs.entry((8, 512)).and_modify(|cost| {
                cost.instructions = 2354;
                cost.isb = 0;
            });
            measured.events.remove("tick");
        }
        assert_eq!(
            changes(&old, &new).lines,
            [
                "max, classic, eager: map_scattered pages=512: instructions 4708 -> 2354 (-50.0 %), isb 512 -> 0",
                "max, classic, eager: tick: only in the old results",
            ]
        );
        assert_eq!(
            changes(&new, &old).lines[1],
            "max, classic, eager: tick: only in the new results"
        );
    }
}
