// SPDX-License-Identifier: MIT OR Apache-2.0

//! Statements that the results must confirm: counts repeat, kernel and plugin agree, and a section
//! executes at every size the barriers that it should.

use crate::measure::baseline;
use crate::measure::boots::{ETS2, Measurement};
use crate::measure::changes::changes;
use crate::measure::costs::{Costs, instructions};
use crate::measure::prediction::LARGEST;
use crate::measure::results::Results;
use crate::measure::subjects::{Group, LINEAR_MAP, Subject};

/// Percent that a page may cost more in a larger window.
const FLAT: f64 = 5.0;
/// From this size on the cost of a call itself does not show.
const FROM: u64 = 512;
/// In windows of so many pages and more, which have several tables, a page must not cost less either. The next size
/// behind [`FROM`].
const EITHER_WAY: u64 = 4096;
/// Operations that are one section at every size.
const SECTIONS: [&str; 6] = [
    "map_scattered_and_build_tables",
    "map_contiguous_and_build_tables",
    "map_scattered",
    "apply_set",
    "map_each_in_a_section",
    "map_contiguous",
];
/// The backend in which each write pays for itself.
const NO_SECTION: &str = "eager";

/// Something that is true of the results or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What is claimed.
    pub claim: String,
    /// What contradicts it.
    pub against: Vec<String>,
    /// What is worth knowing beside.
    pub notes: Vec<String>,
}

impl Statement {
    /// Whether nothing contradicts it.
    pub fn holds(&self) -> bool {
        self.against.is_empty()
    }

    /// What contradicts it and what is worth knowing, in lines.
    pub fn details(&self) -> impl Iterator<Item = String> {
        let against = self.against.iter();
        let against = against.map(|line| format!("against it: {line}"));
        against.chain(self.notes.iter().map(|line| format!("cheaper: {line}")))
    }
}

/// That two rounds have counted the same.
pub fn repeats(first: &Results, second: &Results) -> Statement {
    // With the host's clock nothing repeats exactly; the best of several is taken there.
    let [first, second] = [first, second].map(|results| {
        let mut results = results.clone();
        for (measurement, costs) in &mut results.measured {
            if let Measurement::Boot { .. } = measurement {
                costs.0.retain(|(op, _), _| {
                    Subject::of(*op).is_some_and(|subject| subject.group == Group::Boot)
                });
            }
        }
        results
    });
    let found = changes(&first, &second, |_, _| true);
    Statement {
        claim: format!(
            "Counts repeat: {} windows have the same ones in two boots under -icount",
            found.same
        ),
        against: found.lines,
        notes: Vec::new(),
    }
}

/// That kernel and plugin have counted the same, and what the model has predicted; `differing` is where they have not.
pub fn agree(results: &Results, pages: u64, differing: Vec<String>) -> Statement {
    // Of the boot the kernel says its linear map only.
    let windows = results
        .windows()
        .filter(|((_, subject, _), _)| subject.group != Group::Boot || subject.op == LINEAR_MAP);
    Statement {
        claim: format!(
            "Kernel, model and plugin agree in {} windows: DSB and ISB everywhere, TLBI in those of operations, \
             kernel and plugin in their DMB, and in instructions of operations and the scheduler's events on max; \
             the model is asked up to {} pages",
            windows.count(),
            pages.min(LARGEST)
        ),
        against: differing,
        notes: Vec::new(),
    }
}

/// That no count is worse than the committed one.
pub fn not_worse(committed: &Results, results: &Results) -> Statement {
    let worse = results.measured.iter().flat_map(|(measurement, costs)| {
        let found = baseline::worse(committed, measurement, costs).into_iter();
        found.map(move |what| format!("{measurement}: {what}"))
    });
    Statement {
        claim: format!(
            "No count is worse than in {} ({} again, if it is meant to be)",
            baseline::FILE,
            baseline::WRITE
        ),
        against: worse.collect(),
        notes: Vec::new(),
    }
}

/// That a section pays one pair of barriers, or none under Ets2, at any size; nothing without any section.
pub fn sections(results: &Results) -> Option<Statement> {
    let mut against = Vec::new();
    let mut most = 0;
    let mut pairs = Vec::new();
    for (terms, costs) in results.terms() {
        let pair = match (terms.policy.as_str(), terms.backend.as_str()) {
            (ETS2, _) => 0,
            (_, NO_SECTION) => continue,
            _ => 1,
        };
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
        for name in SECTIONS {
            let windows = Subject::named(name).map(|subject| costs.of(subject.op));
            let mut windows = windows.into_iter().flatten().peekable();
            if windows.peek().is_none() {
                against.push(format!("{terms}: {name} was not measured"));
            }
            for (pages, cost) in windows {
                most = most.max(pages);
                if (cost.dsb, cost.isb, cost.tlbi) != (pair, pair, 0) {
                    against.push(format!(
                        "{terms}: {name} pages={pages}: {} DSB, {} ISB, {} TLBI",
                        cost.dsb, cost.isb, cost.tlbi
                    ));
                }
            }
        }
    }
    let classic = "1 DSB and 1 ISB with the policy classic";
    let ets2 = "0 and 0 with ets2";
    let what = match pairs[..] {
        [] => return None,
        [0] => ets2.to_owned(),
        [_] => classic.to_owned(),
        _ => format!("{classic}, {ets2}"),
    };
    Some(Statement {
        claim: format!(
            "A section of 1 to {most} pages executes {what}, whatever backend that has sections"
        ),
        against,
        notes: Vec::new(),
    })
}

/// Instructions per page that are none: the rest of a call, spread over its pages.
const NOTHING: f64 = 0.01;

/// What one page more costs between neighboring sizes.
#[derive(Clone, Copy)]
struct Slope {
    few: u64,
    many: u64,
    instructions: f64,
}

fn slopes(costs: &Costs, op: u8) -> Vec<Slope> {
    let sizes: Vec<_> = costs.of(op).filter(|(pages, _)| *pages >= FROM).collect();
    sizes
        .windows(2)
        .map(|pair| {
            let [(few, less), (many, more)] = [pair[0], pair[1]];
            let difference = more.instructions as f64 - less.instructions as f64;
            Slope {
                few,
                many,
                instructions: difference / (many - few) as f64,
            }
        })
        .collect()
}

/// That a page costs the same in large windows; nothing without any.
///
/// Among windows of [`EITHER_WAY`] pages and more it must be the same either way. To the difference from
/// 512 pages to 4096 that is compared upwards only: 512 pages are one table, for which there are shorter ways, so that
/// difference has what begins with a second table in it; `multicall` has no queue up to one table. How much less a
/// page costs in the larger windows is said all the same.
pub fn flat(results: &Results) -> Option<Statement> {
    let (mut against, mut notes) = (Vec::new(), Vec::new());
    let mut largest = 0;
    // To the first difference, and between the others.
    let mut found = [[f64::INFINITY, f64::NEG_INFINITY]; 2];
    for (terms, costs) in results.terms() {
        for operation in Subject::all(Group::Operation) {
            let slopes = slopes(costs, operation.op);
            let mut compare = |to: Slope, of: Slope, either_way: bool| {
                let (to, slope, pages) = (to.instructions, of.instructions, of.many);
                if to.abs() < NOTHING && slope.abs() < NOTHING {
                    // What has no cost per page has none to compare.
                    return;
                }
                largest = largest.max(pages);
                let percent = (slope - to) / to.abs().max(NOTHING) * 100.0;
                let [least, most] = &mut found[usize::from(either_way)];
                (*least, *most) = (least.min(percent), most.max(percent));
                let line = format!(
                    "{terms}: {} up to pages={pages}: {} instead of {} instructions per page ({percent:+.1} %)",
                    operation.name,
                    instructions(slope),
                    instructions(to),
                );
                if percent > FLAT || either_way && percent < -FLAT {
                    against.push(line);
                } else if percent < -FLAT {
                    notes.push(line);
                }
            };
            let from = |least: u64| slopes.iter().filter(move |slope| slope.few >= least);
            for (least, either_way) in [(FROM, false), (EITHER_WAY, true)] {
                let mut slopes = from(least);
                if let Some(first) = slopes.next() {
                    slopes.for_each(|larger| compare(*first, *larger, either_way));
                }
            }
        }
    }
    let [to_first, between] =
        found.map(|[least, most]| format!("from {least:+.1} % to {most:+.1} %"));
    let between = match found[1][0].is_finite() {
        true => format!("; from {EITHER_WAY} on within {FLAT} % either way, found: {between}"),
        false => String::new(),
    };
    (largest > 0).then(|| Statement {
        claim: format!(
            "The cost of a page is flat: up to {largest} pages one more costs at most {FLAT} % more instructions than \
             from {FROM} to {EITHER_WAY}, found: {to_first}{between}"
        ),
        against,
        notes,
    })
}

#[cfg(test)]
mod tests;
