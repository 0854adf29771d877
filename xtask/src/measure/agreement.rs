// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where the kernel's counts, the model's prediction and the plugin's counts are not the same.
//!
//! The three have nothing in common. Inside, instructions are ticks of a timer (on `max`), and barriers are what
//! the library says that it executes; the model executes the windows on the host; and outside, QEMU looks
//! at each instruction. The empty window, which has all that surrounds a window's body, is subtracted on both sides.

use super::boots::{Counted, Measurement, Terms};
use super::prediction::{Barriers, Prediction};
use super::subjects::{Group, LINEAR_MAP, Subject};
use std::collections::BTreeSet;

/// A section that builds tables and maps frames that follow one another, as the linear map does: the window by which the
/// model predicts it, its smallest one, because the number of pages changes nothing.
const LIKE_THE_LINEAR_MAP: (u8, u64) = (4, 1);

/// Counts of one kind: the kernel's, the model's if it makes one, the plugin's.
type Three = (&'static str, u64, Option<u64>, u64);

/// What a measurement is compared with: nothing, or what the model says of the windows that it was asked for.
type Model<'a> = Option<&'a Prediction>;

/// One line for each window in which they differ, with what differs and the three counts, or the two where the
/// model was not asked, as in windows that are too large for it.
pub fn differences(measurement: &Measurement, counted: &Counted, model: Model<'_>) -> Vec<String> {
    let mut problems = counted.problems.clone();
    problems.extend(
        windows(measurement, counted, model)
            .into_iter()
            .filter_map(|(op, pages)| of_window(measurement, op, pages, counted, model)),
    );
    problems
}

/// The windows that a side knows, or should know.
fn windows(measurement: &Measurement, counted: &Counted, model: Model<'_>) -> BTreeSet<(u8, u64)> {
    let sides = [&counted.inside, &counted.outside];
    let mut windows: BTreeSet<(u8, u64)> = sides
        .into_iter()
        .flat_map(|side| side.0.keys().copied())
        .collect();
    if let (Measurement::Windows(terms), Some(model)) = (measurement, model) {
        windows.extend(model.windows(terms));
    }
    for subject in measurement.subjects() {
        let known = sides
            .iter()
            .any(|side| side.of(subject.op).next().is_some());
        if !known && subject.group != Group::Operation {
            windows.insert((subject.op, 0));
        }
    }
    windows
}

fn of_window(
    measurement: &Measurement,
    op: u8,
    pages: u64,
    counted: &Counted,
    model: Model<'_>,
) -> Option<String> {
    let subject = Subject::of(op)?;
    let at = match subject.group {
        Group::Operation | Group::Boot => {
            format!("window op={op} pages={pages} ({})", subject.name)
        }
        Group::Scheduler | Group::WakeUp => format!("event op={op} ({})", subject.name),
    };
    let [kernel, plugin] = [&counted.inside, &counted.outside].map(|side| side.get(op, pages));
    // Of the boot the kernel speaks of its linear map only.
    let kernel_speaks = subject.group != Group::Boot || op == LINEAR_MAP;
    let asked = model.filter(|model| kernel_speaks && (op == LINEAR_MAP || model.covers(pages)));
    let predicted = asked.map(|model| predicted(measurement, subject, pages, model));
    let missing: Vec<&str> = [
        ("kernel", kernel_speaks && kernel.is_none()),
        ("model", predicted == Some(None)),
        ("plugin", plugin.is_none()),
    ]
    .iter()
    .filter_map(|(side, missing)| missing.then_some(*side))
    .collect();
    if !missing.is_empty() {
        return Some(format!(
            "{at}: unknown to the {}",
            missing.join(" and the ")
        ));
    }
    let (kernel, plugin) = (kernel?, plugin?);
    let model = predicted.flatten();
    let mut counts: Vec<Three> = vec![
        ("DSB", kernel.dsb, model.map(|it| it[0]), plugin.dsb),
        ("ISB", kernel.isb, model.map(|it| it[1]), plugin.isb),
    ];
    if subject.group == Group::Operation {
        counts.extend([
            ("TLBI", kernel.tlbi, model.map(|it| it[2]), plugin.tlbi),
            ("DSB ISH", kernel.ish, model.map(|it| it[3]), plugin.ish),
            ("DMB", kernel.dmb, None, plugin.dmb),
        ]);
    }
    if let Measurement::Windows(terms) = measurement
        && terms.counted_inside()
    {
        counts.push((
            "instructions",
            kernel.instructions,
            None,
            plugin.instructions,
        ));
        if subject.group == Group::Operation {
            counts.push(("spread", kernel.spread, None, plugin.spread));
        }
    }
    differing(&at, &counts)
}

/// What the model predicts, with the barriers of drivers.
fn predicted(
    measurement: &Measurement,
    subject: &Subject,
    pages: u64,
    model: &Prediction,
) -> Option<Barriers> {
    let [mut dsb, mut isb, tlbi, ish] = match (measurement, subject.group) {
        (Measurement::Windows(terms), _) => model.of(terms, subject.op, pages),
        (Measurement::Boot { cpu }, Group::Boot) => {
            let (op, pages) = LIKE_THE_LINEAR_MAP;
            model.of(&Terms::of_a_boot(cpu), op, pages)
        }
        (Measurement::Boot { cpu }, _) => model.of(&Terms::of_waking(cpu), subject.op, pages),
    }?;
    dsb += subject.drivers[0];
    isb += subject.drivers[1];
    Some([dsb, isb, tlbi, ish])
}

/// What to say of a window whose counts are not the same.
fn differing(at: &str, counts: &[Three]) -> Option<String> {
    let differing: Vec<String> = counts
        .iter()
        .filter(|(_, kernel, model, plugin)| {
            kernel != plugin || model.is_some_and(|model| model != *kernel)
        })
        .map(|(what, kernel, model, plugin)| {
            let model = model.map_or(String::new(), |model| format!(", the model {model}"));
            format!("{what}: the kernel counts {kernel}{model}, the plugin {plugin}")
        })
        .collect();
    (!differing.is_empty()).then(|| format!("{at}: {}", differing.join("; ")))
}

#[cfg(test)]
mod tests;
