// SPDX-License-Identifier: MIT OR Apache-2.0

//! What differs between two results.

use super::boots::Measurement;
use super::costs::Cost;
use super::results::Results;
use std::collections::BTreeMap;

/// What differs, and how much does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// One line for each window in which they differ.
    pub lines: Vec<String>,
    /// Windows that are the same.
    pub same: usize,
    /// Windows of the old results that the new ones were not asked for.
    pub unasked: usize,
}

/// What has changed from `old` to `new` of the measurements and pages that the new results were `asked` for.
pub fn changes(old: &Results, new: &Results, asked: impl Fn(&Measurement, u64) -> bool) -> Changes {
    let [before, now] = [old, new].map(|results| -> BTreeMap<_, _> {
        let windows = results.windows();
        windows
            .map(|((measurement, subject, pages), cost)| {
                ((measurement, subject.op, pages), (subject, cost))
            })
            .collect()
    });
    let mut found = Changes::default();
    for (window, (subject, cost)) in &before {
        let (measurement, _, pages) = *window;
        let what = match now.get(window) {
            Some((_, now)) if now == cost => {
                found.same += 1;
                continue;
            }
            None if !asked(measurement, pages) => {
                found.unasked += 1;
                continue;
            }
            Some((_, now)) => differing(cost, now),
            None => "only in the old results".to_owned(),
        };
        found
            .lines
            .push(line(measurement, subject.name, pages, &what));
    }
    for (window, (subject, _)) in now
        .iter()
        .filter(|(window, _)| !before.contains_key(window))
    {
        let (measurement, _, pages) = *window;
        let what = "only in the new results";
        found
            .lines
            .push(line(measurement, subject.name, pages, what));
    }
    found
}

fn line(measurement: &Measurement, name: &str, pages: u64, what: &str) -> String {
    match pages {
        0 => format!("{measurement}: {name}: {what}"),
        _ => format!("{measurement}: {name} pages={pages}: {what}"),
    }
}

/// `instructions 100 -> 90 (-10.0 %), DSB 0 -> 1`.
fn differing(before: &Cost, now: &Cost) -> String {
    let both = before.counts().into_iter().zip(now.counts());
    let words = both
        .filter(|(before, now)| before != now)
        .map(|((name, before), (_, now))| {
            let percent = match name {
                "instructions" if before > 0 => {
                    let percent = (now as f64 / before as f64 - 1.0) * 100.0;
                    format!(" ({percent:+.1} %)")
                }
                _ => String::new(),
            };
            format!("{name} {before} -> {now}{percent}")
        });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::boots::Terms;
    use super::super::results::tests::{cost, results};
    use super::*;

    #[test]
    fn the_same_is_no_change() {
        let results = results(&[1]);
        // What was counted is compared, asked for or not.
        for asked in [true, false] {
            let found = changes(&results, &results, |_, _| asked);
            let expected = Changes {
                same: results.windows().count(),
                ..Changes::default()
            };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_was_not_asked_for_is_not_missing() {
        let old = results(&[1, 16]);
        let mut new = results(&[1]);
        new.measured
            .retain(|measurement, _| measurement.cpu() == "max");
        let lost = Measurement::Windows(Terms::new("max", "classic", "eager"));
        new.measured.remove(&lost);
        let found = changes(&old, &new, |measurement, pages| {
            measurement.cpu() == "max" && pages != 16
        });
        assert!(!found.lines.is_empty());
        for line in &found.lines {
            assert!(line.starts_with(&format!("{lost}: ")), "{line}");
        }
        assert_eq!(
            found.unasked + found.lines.len() + found.same,
            old.windows().count()
        );
    }

    #[test]
    fn a_change_tells_both_counts() {
        const TERMS: [&str; 3] = ["max", "classic", "eager"];
        let old = results(&[512]);
        let mut new = old.clone();
        let changed = cost(&mut new, TERMS, "map_scattered", 512);
        (changed.instructions, changed.isb) = (2354, 0);
        let [cpu, policy, backend] = TERMS;
        let measurement = Measurement::Windows(Terms::new(cpu, policy, backend));
        new.measured
            .get_mut(&measurement)
            .unwrap()
            .0
            .remove(&(133, 0));
        let said = |old, new| changes(old, new, |_, _| true).lines;
        assert_eq!(
            said(&old, &new),
            [
                "max, classic, eager: map_scattered pages=512: instructions 4708 -> 2354 (-50.0 %), ISB 512 -> 0",
                "max, classic, eager: tick: only in the old results",
            ]
        );
        assert_eq!(
            said(&new, &old)[1],
            "max, classic, eager: tick: only in the new results"
        );
    }
}
