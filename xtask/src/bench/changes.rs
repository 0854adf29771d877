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
    /// Entries of the old results that the new ones were not asked for.
    pub unasked: usize,
}

/// What has changed from `old` to `new`.
pub fn changes(old: &Results, new: &Results) -> Changes {
    changes_of(old, new, |_| true)
}

/// What has changed of what the new results were `asked` for.
pub fn changes_of(old: &Results, new: &Results, asked: impl Fn(&Subject) -> bool) -> Changes {
    let (old, new) = (old.entries(), new.entries());
    let mut found = Changes::default();
    for (subject, before) in &old {
        match new.get(subject) {
            None if !asked(subject) => found.unasked += 1,
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
    fn what_was_not_asked_for_is_not_missing() {
        let old = results(&[1, 16]);
        let mut new = results(&[1]);
        new.counted.retain(|terms, _| terms.cpu == "max");
        let lost = Terms::new("max", "classic", "eager");
        new.counted.remove(&lost);
        let found = changes_of(&old, &new, |subject| match subject {
            Subject::Window(terms, _, pages) => terms.cpu == "max" && *pages == 1,
            Subject::Event(terms, _) => terms.cpu == "max",
            Subject::Boot(..) | Subject::Wake(..) => true,
        });
        assert!(!found.lines.is_empty());
        for line in &found.lines {
            assert!(line.starts_with(&format!("{lost}: ")), "{line}");
        }
        assert_eq!(
            found.unasked + found.lines.len() + found.same,
            old.entries().len()
        );
        // What was counted is compared, asked for or not.
        assert_eq!(changes_of(&old, &old, |_| false).unasked, 0);
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
