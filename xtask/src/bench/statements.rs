// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the results are held against: that they repeat, that both sides agree, that a section costs what it should at
//! any size, and the targets.

use super::changes::changes;
use super::counted::ETS2;
use super::prediction::LARGEST;
use super::results::{HEADLINE, Results, name_of};
use crate::counts::{EVENTS, Measured, OPERATIONS, Standing, instructions};

/// Percent that a page may cost more in a larger window.
const FLAT: f64 = 5.0;
/// From this size on the cost of a call itself does not show.
const FROM: u64 = 512;
/// In windows of so many pages and more, which have several tables, a page must not cost less either. The next size
/// behind [`FROM`].
const EITHER_WAY: u64 = 4096;
/// Operations that are one section, whatever their size.
const SECTIONS: [u8; 6] = [1, 4, 8, 11, 128, 129];
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
}

/// That two rounds have counted the same.
pub fn repeats(first: &Results, second: &Results) -> Statement {
    // With the host's clock nothing repeats exactly; the best of several is taken there.
    let exact = |results: &Results| {
        let mut results = results.clone();
        results
            .boots
            .values_mut()
            .for_each(|boot| boot.events.clear());
        results
    };
    let found = changes(&exact(first), &exact(second));
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
pub fn agree(windows: usize, pages: u64, differing: Vec<String>) -> Statement {
    Statement {
        claim: format!(
            "Kernel, model and plugin agree in {windows} windows: DSB and ISB everywhere, TLBI in those of operations, \
             kernel and plugin in their DMB, and in instructions of operations and the scheduler's events on max; \
             the model is asked up to {} pages",
            pages.min(LARGEST)
        ),
        against: differing,
        notes: Vec::new(),
    }
}

/// That a section pays one pair of barriers, or none under Ets2, at any size; nothing without any section.
pub fn sections(results: &Results) -> Option<Statement> {
    let mut against = Vec::new();
    let mut most = 0;
    let mut pairs = Vec::new();
    for (terms, measured) in &results.counted {
        let pair = match (terms.policy.as_str(), terms.backend.as_str()) {
            (ETS2, _) => 0,
            (_, NO_SECTION) => continue,
            _ => 1,
        };
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
        for op in SECTIONS {
            if measured.of(op).next().is_none() {
                against.push(format!("{terms}: {} was not measured", name_of(op)));
            }
            for (pages, cost) in measured.of(op) {
                most = most.max(pages);
                if (cost.dsb, cost.isb, cost.tlbi) != (pair, pair, 0) {
                    let name = name_of(op);
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

fn slopes(measured: &Measured, op: u8) -> Vec<Slope> {
    let sizes: Vec<_> = measured
        .of(op)
        .filter(|(pages, _)| *pages >= FROM)
        .collect();
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
    for (terms, measured) in &results.counted {
        for operation in &OPERATIONS {
            let slopes = slopes(measured, operation.op);
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

/// A target, and how it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Aimed {
    /// Of what.
    pub title: &'static str,
    /// The target in words.
    pub target: String,
    /// What was measured.
    pub measured: String,
    /// Met or missed.
    pub standing: Standing,
    /// By how much.
    pub by: String,
}

/// All targets under the terms under which they are meant; none if these were not measured.
pub fn targets(results: &Results) -> Vec<Aimed> {
    let Some((_, measured)) = results.headline() else {
        return Vec::new();
    };
    let operations = OPERATIONS.iter().filter_map(|operation| {
        let (target, page) = (operation.target?, measured.per_page(operation.op)?);
        Some(aimed(
            operation.title,
            target.to_string(),
            page.instructions,
            target.instructions(),
            operation.standing(measured),
        ))
    });
    let events = EVENTS.iter().filter_map(|event| {
        let (target, cost) = (event.target?, measured.events.get(event.name)?);
        Some(aimed(
            event.title,
            format!("<= {target}"),
            cost.instructions as f64,
            target as f64,
            event.standing(measured),
        ))
    });
    operations.chain(events).collect()
}

/// That nobody has judged the targets, and who would, if they were not measured.
pub fn not_judged(results: &Results) -> Option<String> {
    let [cpu, policy, backend] = HEADLINE;
    results.headline().is_none().then(|| {
        format!(
            "The targets were not judged, because they are meant for {cpu}, {policy}, {backend}: \
             --cpu {cpu} --policy {policy} --backend {backend} judges them."
        )
    })
}

fn aimed(
    title: &'static str,
    target: String,
    measured: f64,
    most: f64,
    standing: Standing,
) -> Aimed {
    let percent = (measured / most - 1.0) * 100.0;
    let by = match standing {
        Standing::Missed if measured <= most => "barriers".to_owned(),
        _ => format!("{percent:+.0} %"),
    };
    let shown = match measured.fract() == 0.0 {
        true => measured.to_string(),
        false => instructions(measured),
    };
    Aimed {
        title,
        target,
        measured: shown,
        standing,
        by,
    }
}

#[cfg(test)]
mod tests {
    use super::super::counted::Terms;
    use super::super::results::tests::results;
    use super::*;

    const SIZES: [u64; 4] = [1, 512, 4096, 65_536];

    #[test]
    fn who_judges_the_targets_is_told_where_nobody_does() {
        let mut results = results(&SIZES);
        assert_eq!(not_judged(&results), None);
        results.counted.retain(|terms, _| terms.cpu != "cortex-a72");
        assert_eq!(
            not_judged(&results).unwrap(),
            "The targets were not judged, because they are meant for cortex-a72, classic, defer-barriers: \
             --cpu cortex-a72 --policy classic --backend defer-barriers judges them."
        );
    }

    fn changed(op: u8, pages: u64, change: impl Fn(&mut crate::counts::Cost)) -> Results {
        let mut results = results(&SIZES);
        let terms = Terms::new("max", "ets2", "multicall");
        if let Some(measured) = results.counted.get_mut(&terms) {
            measured.costs.entry((op, pages)).and_modify(change);
        }
        results
    }

    #[test]
    fn nothing_is_claimed_of_what_was_not_measured() {
        let mut some = results(&SIZES);
        some.counted
            .retain(|terms, _| terms.backend == NO_SECTION && terms.policy != ETS2);
        assert!(sections(&some).is_none());
        let mut some = results(&SIZES);
        some.counted.retain(|terms, _| terms.policy != ETS2);
        assert!(!sections(&some).unwrap().claim.contains("ets2"));
        for measured in some.counted.values_mut() {
            measured.costs.retain(|(op, _), _| *op != 128);
        }
        assert!(sections(&some).unwrap().against[0].ends_with("was not measured"));
    }

    #[test]
    fn results_that_are_as_they_should_be_hold() {
        let results = results(&SIZES);
        for statement in [
            repeats(&results, &results),
            sections(&results).unwrap(),
            flat(&results).unwrap(),
            agree(1, 4096, Vec::new()),
        ] {
            assert!(statement.holds(), "{statement:?}");
            assert_eq!(statement.notes, [""; 0]);
        }
        assert!(
            sections(&results)
                .unwrap()
                .claim
                .contains("1 to 65536 pages")
        );
        assert!(flat(&results).unwrap().claim.contains("up to 65536 pages"));
        assert_eq!(
            flat(&super::super::results::tests::results(&[512, 4096])),
            None
        );
    }

    #[test]
    fn a_count_that_differs_in_the_second_round_is_named() {
        let mut other = changed(8, 512, |cost| cost.spread = 1);
        // With the host's clock it may.
        other
            .boots
            .values_mut()
            .for_each(|boot| boot.events.clear());
        assert_eq!(
            repeats(&results(&SIZES), &other).against,
            ["max, ets2, multicall: map_scattered pages=512: spread 0 -> 1"]
        );
    }

    #[test]
    fn a_barrier_in_a_section_is_named() {
        let statement = sections(&changed(128, 4096, |cost| cost.isb = 1)).unwrap();
        assert_eq!(
            statement.against,
            ["max, ets2, multicall: map_each_in_a_section pages=4096: 0 DSB, 1 ISB, 0 TLBI"]
        );
        assert!(
            sections(&changed(13, 4096, |cost| cost.isb = 1))
                .unwrap()
                .holds(),
            "no section"
        );
    }

    #[test]
    fn a_page_that_costs_more_in_a_large_window_is_named() {
        // 10 instructions a page, and half of one more.
        let dearer = flat(&changed(9, 65_536, |cost| {
            cost.instructions += 61_440 / 2 + 61_440 / 100
        }))
        .unwrap();
        assert_eq!(
            dearer.against,
            [
                "max, ets2, multicall: unmap up to pages=65536: 10.5 instead of 10.0 instructions per page (+5.1 %)"
            ]
        );
        assert!(
            flat(&changed(9, 65_536, |cost| cost.instructions += 61_440 / 2 - 1))
                .unwrap()
                .holds()
        );
        let range = dearer.claim.split_once("found: ").unwrap().1;
        assert_eq!(range, "from +0.0 % to +5.1 %");
        let cheaper = flat(&changed(9, 65_536, |cost| cost.instructions -= 61_440)).unwrap();
        assert!(cheaper.holds());
        let range = cheaper.claim.split_once("found: ").unwrap().1;
        assert_eq!(range, "from -10.0 % to +0.0 %");
        assert_eq!(cheaper.notes.len(), 1);
    }

    #[test]
    fn a_page_costs_the_same_either_way_among_large_windows() {
        let sizes = [1, 512, 4096, 65_536, 1_048_576];
        let changed = |by: i64| {
            let mut results = results(&sizes);
            let measured = results
                .counted
                .get_mut(&Terms::new("max", "ets2", "multicall"))
                .expect("of all terms");
            measured
                .costs
                .entry((9, 1_048_576))
                .and_modify(|cost| cost.instructions = cost.instructions.wrapping_add_signed(by));
            flat(&results).expect("there are several sizes")
        };
        let more = 1_048_576 - 65_536;
        let good = changed(0);
        assert!(good.holds());
        let said = "; from 4096 on within 5 % either way, found: from +0.0 % to +0.0 %";
        assert!(good.claim.ends_with(said), "{}", good.claim);
        for (by, percent) in [(-more, "-10.0 %"), (more, "+10.0 %")] {
            let bad = changed(by);
            let last = bad.against.last().expect("it contradicts");
            assert!(last.ends_with(&format!("({percent})")), "{last}");
        }
        // Downwards to the first difference is no contradiction, and is told.
        assert_eq!(
            (changed(-more).against.len(), changed(-more).notes.len()),
            (1, 1)
        );
        let little = flat(&results(&[1, 512, 4096, 65_536])).expect("there are several sizes");
        assert!(!little.claim.contains("either way"), "{}", little.claim);
    }

    #[test]
    fn targets_are_met_or_missed_by_percents() {
        let mut results = results(&SIZES);
        let aims = targets(&results);
        assert_eq!(aims.len(), 15);
        let of = |aims: &[Aimed], title: &str| {
            let aim = aims.iter().find(|aim| aim.title.contains(title)).unwrap();
            (aim.measured.clone(), aim.standing, aim.by.clone())
        };
        // 1 + op instructions a page.
        assert_eq!(
            of(&aims, "map scattered frames, tables built"),
            ("2".to_owned(), Standing::Met, "-50 %".to_owned())
        );
        assert_eq!(
            of(&aims, "map scattered frames, tables there").1,
            Standing::Missed
        );
        assert_eq!(of(&aims, "yield").2, "-56 %");
        if let Some(measured) =
            results
                .counted
                .get_mut(&Terms::new("cortex-a72", "classic", "defer-barriers"))
        {
            measured
                .costs
                .entry((1, 4096))
                .and_modify(|cost| cost.dsb = 2);
        }
        assert_eq!(of(&targets(&results), "tables built").2, "barriers");
        assert!(targets(&Results::default()).is_empty());
    }
}
