// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the plugin counted in all measurements, and its form as JSON: one line for each window, sorted, so that two
//! files can be compared by eye and by `diff`.

use super::boots::{CLASSIC, DEFER_BARRIERS, Measurement, Terms};
use super::costs::{Cost, Costs};
use super::subjects::Subject;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The terms under which targets are meant, and with which Linux is compared: what Linux was measured on.
pub const HEADLINE: [&str; 3] = ["cortex-a72", CLASSIC, DEFER_BARRIERS];

/// What the file says that it is.
const FORMAT: &str = "lazymmu bench";
/// Version of the format; one more when a reader of the old one would misunderstand.
const VERSION: u64 = 3;

/// What the plugin counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// QEMU's version.
    pub qemu: String,
    /// By measurement.
    pub measured: BTreeMap<Measurement, Costs>,
}

impl Results {
    /// What was counted under the terms of the targets, if it was.
    pub fn headline(&self) -> Option<&Costs> {
        let [cpu, policy, backend] = HEADLINE;
        self.under(&Terms::new(cpu, policy, backend))
    }

    /// What was counted under `terms`.
    pub fn under(&self, terms: &Terms) -> Option<&Costs> {
        self.measured.get(&Measurement::Windows(terms.clone()))
    }

    /// All terms, and what was counted under each.
    pub fn terms(&self) -> impl Iterator<Item = (&Terms, &Costs)> {
        let all = self.measured.iter();
        all.filter_map(|(measurement, costs)| match measurement {
            Measurement::Windows(terms) => Some((terms, costs)),
            Measurement::Boot { .. } => None,
        })
    }

    /// Every window, in an order that does not change.
    pub fn windows(&self) -> impl Iterator<Item = ((&Measurement, &'static Subject, u64), &Cost)> {
        self.measured.iter().flat_map(|(measurement, costs)| {
            let known = costs.0.iter();
            known.filter_map(move |((op, pages), cost)| {
                Some(((measurement, Subject::of(*op)?, *pages), cost))
            })
        })
    }

    /// As JSON.
    ///
    /// # Errors
    ///
    /// Those of the writer, which has none for these types.
    pub fn to_json(&self) -> Result<String> {
        let mut lines = Vec::new();
        for ((measurement, subject, pages), cost) in self.windows() {
            lines.push(serde_json::to_string(&Line {
                measurement: measurement.clone(),
                name: subject.name.to_owned(),
                pages,
                cost: *cost,
            })?);
        }
        let head = serde_json::to_string(&Head {
            format: FORMAT.to_owned(),
            version: VERSION,
            qemu: self.qemu.clone(),
        })?;
        // The file is one object; its list is opened here, because each line of it is written by itself.
        let head = head.trim_end_matches('}');
        Ok(format!(
            "{head},\"windows\":[\n{}\n]}}\n",
            lines.join(",\n")
        ))
    }

    /// Reads such a text.
    ///
    /// # Errors
    ///
    /// When it is no JSON, of another version, or lacks something.
    pub fn from_json(text: &str) -> Result<Self> {
        let head: Head = serde_json::from_str(text)?;
        ensure!(
            head.format == FORMAT,
            "it is no result of `cargo xtask bench`"
        );
        ensure!(
            head.version == VERSION,
            "it has version {}, and this xtask reads {VERSION}: measure again",
            head.version
        );
        let mut results = Self {
            qemu: head.qemu,
            ..Self::default()
        };
        let file: File = serde_json::from_str(text)?;
        for line in file.windows {
            let subject = Subject::named(&line.name)
                .with_context(|| format!("window {} is not known", line.name))?;
            let (measurement, name) = (line.measurement, subject.name);
            ensure!(
                measurement.subjects().any(|known| known.op == subject.op),
                "{measurement}: {name} is no part of this measurement"
            );
            let at = format!("{measurement}: {name} pages={}", line.pages);
            let costs = results.measured.entry(measurement).or_default();
            let before = costs.0.insert((subject.op, line.pages), line.cost);
            ensure!(before.is_none(), "{at} is there twice");
        }
        Ok(results)
    }
}

/// The beginning of the file.
#[derive(Serialize, Deserialize)]
struct Head {
    format: String,
    version: u64,
    qemu: String,
}

/// The rest of the file.
#[derive(Deserialize)]
struct File {
    windows: Vec<Line>,
}

/// A window.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    measurement: Measurement,
    name: String,
    pages: u64,
    #[serde(flatten)]
    cost: Cost,
}

#[cfg(test)]
pub mod tests {
    use super::super::subjects::{Group, SUBJECTS};
    use super::*;

    /// Every subject of every measurement, operations with windows of these sizes and 1 + `op` instructions a page, and
    /// with a pair of barriers for each page with `eager` and for each call otherwise.
    pub fn results(sizes: &[u64]) -> Results {
        let mut results = Results {
            qemu: "10.0".to_owned(),
            ..Results::default()
        };
        for measurement in Measurement::all() {
            let mut costs = Costs::default();
            for subject in measurement.subjects() {
                let op = u64::from(subject.op);
                let windows = match (subject.group, &measurement) {
                    (Group::Operation, Measurement::Windows(terms)) => sizes
                        .iter()
                        .map(|pages| {
                            let pair = match (terms.policy.as_str(), terms.backend.as_str()) {
                                ("ets2", _) => 0,
                                (_, "eager") => *pages,
                                _ => 1,
                            };
                            (*pages, 100 + (op + 1) * pages, [pair, pair, 0])
                        })
                        .collect(),
                    (Group::Boot, _) => {
                        let pages = if subject.name == "linear_map" {
                            262_144
                        } else {
                            0
                        };
                        vec![(pages, op * 1000, [5, 7, 1])]
                    }
                    _ => vec![(0, op, [1, 0, 0])],
                };
                for (pages, instructions, [dsb, isb, tlbi]) in windows {
                    let cost = Cost {
                        instructions,
                        dsb,
                        isb,
                        tlbi,
                        ..Cost::default()
                    };
                    costs.0.insert((subject.op, pages), cost);
                }
            }
            results.measured.insert(measurement, costs);
        }
        results
    }

    /// A window of these results, to be changed.
    pub fn cost<'a>(
        results: &'a mut Results,
        [cpu, policy, backend]: [&str; 3],
        name: &str,
        pages: u64,
    ) -> &'a mut Cost {
        let measurement = match policy {
            "" => Measurement::boot(cpu),
            _ => Measurement::Windows(Terms::new(cpu, policy, backend)),
        };
        let op = Subject::named(name).expect("it is known").op;
        let costs = results.measured.get_mut(&measurement);
        let cost = costs.and_then(|costs| costs.0.get_mut(&(op, pages)));
        cost.expect("it was measured")
    }

    /// Keeps what was counted under such terms, and the boots.
    pub fn retain(results: &mut Results, of: impl Fn(&Terms) -> bool) {
        results.measured.retain(|measurement, _| match measurement {
            Measurement::Windows(terms) => of(terms),
            Measurement::Boot { .. } => true,
        });
    }

    #[test]
    fn what_is_written_is_read_again() {
        let results = results(&[1, 512, 4096]);
        let file = results.to_json().unwrap();
        assert_eq!(Results::from_json(&file).unwrap(), results);
        let operations = SUBJECTS
            .iter()
            .filter(|subject| subject.group == Group::Operation);
        let (operations, boots) = (operations.count(), 2 * (2 + 3));
        assert_eq!(results.windows().count(), 15 * (3 * operations + 5) + boots);
        // One line for each window, and the first and the last one.
        assert_eq!(file.lines().count(), results.windows().count() + 2);
    }

    #[test]
    fn a_window_is_a_line() {
        let file = results(&[512]).to_json().unwrap();
        for line in [
            "{\"cpu\":\"cortex-a72\",\"policy\":\"classic\",\"backend\":\"eager\",\"name\":\"map_scattered\",\
             \"pages\":512,\"instructions\":4708,\"spread\":0,\"dsb\":512,\"isb\":512,\"tlbi\":0,\"ish\":0,\"dmb\":0},",
            "{\"cpu\":\"cortex-a72\",\"name\":\"to_self_test\",\
             \"pages\":0,\"instructions\":142000,\"spread\":0,\"dsb\":5,\"isb\":7,\"tlbi\":1,\"ish\":0,\"dmb\":0},",
        ] {
            assert!(file.lines().any(|known| known == line), "{line} in {file}");
        }
    }

    #[test]
    fn what_is_something_else_is_refused() {
        let file = results(&[512]).to_json().unwrap();
        let first = file.lines().nth(1).unwrap();
        for (from, to, expected) in [
            ("lazymmu bench", "x", "it is no result"),
            ("\"version\":3", "\"version\":2", "this xtask reads 3"),
            ("\"windows\"", "\"doors\"", "missing field `windows`"),
            ("\"dsb\":1", "\"dsb\":-1", "expected u64"),
            ("\"dsb\":1,", "", "missing field `dsb`"),
            ("\"yield\"", "\"field\"", "window field is not known"),
            ("\"policy\":\"ets2\",", "", "is no part of this measurement"),
            (first, &format!("{first}\n{first}"), "is there twice"),
        ] {
            let error = Results::from_json(&file.replace(from, to)).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{to}: {error:#}");
        }
        assert!(Results::from_json("{").is_err());
    }
}
