// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where the kernel's counts, the model's prediction and the plugin's counts are not the same.
//!
//! The three have nothing in common. Inside, instructions are ticks of a timer (on `max`), and barriers are what
//! the library says that it executes; the model executes the windows on the host; and outside, QEMU looks
//! at each instruction. What surrounds the window's body is the same in the empty window, and is subtracted on
//! both sides of the CPU.

use super::baseline;
use super::counted::{Counted, Terms};
use super::prediction::Prediction;
use crate::counts::{Counter, EVENTS, Measured, OPERATIONS};
use std::collections::BTreeSet;

/// What the library does not count, because it is not its own: ISBs of the timer's driver in a tick.
const ISB_OF_DRIVERS: [(&str, u64); 1] = [("tick", 1)];

/// Counts of one kind: the kernel's, the model's if it makes one, the plugin's.
type Three = (&'static str, u64, Option<u64>, u64);

/// One line for each window in which they differ, with what differs and the three counts, or the two where the
/// model was not asked. It is asked for the windows of the baseline.
pub fn differences(
    terms: &Terms,
    counted: &Counted,
    prediction: Option<&Prediction>,
) -> Vec<String> {
    let mut problems = counted.problems.clone();
    let (inside, outside) = (&counted.inside, &counted.outside);
    let instructions = terms.counter() == Counter::Inside;
    let of_operations = |measured: &Measured| -> BTreeSet<(u8, u64)> {
        let known = |op| OPERATIONS.iter().any(|operation| operation.op == op);
        measured
            .costs
            .keys()
            .copied()
            .filter(|(op, _)| known(*op))
            .collect()
    };
    let mut windows = &of_operations(inside) | &of_operations(outside);
    if let Some(prediction) = prediction {
        windows.extend(prediction.windows(terms, baseline::PAGES));
    }
    for (op, pages) in windows {
        let name = OPERATIONS.iter().find(|operation| operation.op == op);
        let name = name.map_or("nobody knows what", |operation| operation.name);
        let at = format!("window op={op} pages={pages} ({name})");
        let [kernel, plugin] = [inside, outside].map(|side| side.costs.get(&(op, pages)));
        let model = prediction.map(|prediction| prediction.of(terms, op, pages));
        let (Some(kernel), Some(plugin), None | Some(Some(_))) = (kernel, plugin, model) else {
            let unpredicted = model.is_some_and(|model| model.is_none());
            let sides = [
                ("kernel", kernel.is_none()),
                ("model", unpredicted),
                ("plugin", plugin.is_none()),
            ];
            let missing: Vec<&str> = sides
                .iter()
                .filter(|(_, gone)| *gone)
                .map(|(side, _)| *side)
                .collect();
            problems.push(format!(
                "{at}: unknown to the {}",
                missing.join(" and the ")
            ));
            continue;
        };
        let [dsb, isb, tlbi, ish] = model
            .flatten()
            .map_or([None; 4], |barriers| barriers.map(Some));
        let mut numbers = vec![
            ("DSB", kernel.dsb, dsb, plugin.dsb),
            ("ISB", kernel.isb, isb, plugin.isb),
            ("TLBI", kernel.tlbi, tlbi, plugin.tlbi),
            ("DSB ISH", kernel.ish, ish, plugin.ish),
            ("DMB", kernel.dmb, None, plugin.dmb),
        ];
        if instructions {
            numbers.push((
                "instructions",
                kernel.instructions,
                None,
                plugin.instructions,
            ));
            numbers.push(("spread", kernel.spread, None, plugin.spread));
        }
        problems.extend(differing(&at, &numbers));
    }
    for event in &EVENTS {
        let at = format!("event op={} ({})", event.op, event.name);
        let sides = [inside, outside].map(|side| side.events.get(event.name));
        let [Some(kernel), Some(plugin)] = sides else {
            problems.push(format!(
                "{at}: only one of kernel and plugin has seen it, or none"
            ));
            continue;
        };
        let driver = ISB_OF_DRIVERS.iter().find(|(name, _)| *name == event.name);
        let driver = driver.map_or(0, |(_, isb)| *isb);
        let mut numbers = vec![
            ("DSB", kernel.dsb, None, plugin.dsb),
            ("ISB", kernel.isb + driver, None, plugin.isb),
        ];
        if instructions {
            numbers.push((
                "instructions",
                kernel.instructions,
                None,
                plugin.instructions,
            ));
        }
        problems.extend(differing(&at, &numbers));
    }
    problems
}

/// What to say of a window whose counts are not the same.
fn differing(at: &str, numbers: &[Three]) -> Option<String> {
    let differing: Vec<String> = numbers
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
mod tests {
    use super::*;
    use crate::bench::prediction::tests::prediction;

    const SAID: &str = "\
counts backend=eager policy=classic
count op=8 pages=4 instructions=90 spread=2 ptes=4 dsb=4 isb=4 tlbi=0 ish=0 dmb=0
event name=switch instructions=23 spread=0 dsb=0 isb=0
event name=schedule instructions=194 spread=0 dsb=1 isb=0
event name=yield instructions=251 spread=0 dsb=1 isb=0
event name=tick instructions=238 spread=0 dsb=0 isb=0
event name=switch_out instructions=16 spread=0 dsb=1 isb=0
";
    const PREDICTED: &str =
        "predicted backend=eager policy=classic tlb=TLB op=8 pages=4 dsb=4 isb=4 tlbi=0 ish=0\n";

    /// What is said when the plugin's counts are the kernel's, a tick's ISB added, with `from` become `to`, and the
    /// model predicts `predicted`.
    fn compared(cpu: &str, from: &str, to: &str, predicted: &str) -> Vec<String> {
        let terms = Terms::new(cpu, "classic", "eager");
        let tick = "tick instructions=238 spread=0 dsb=0 isb=";
        let outside = SAID
            .replace(&format!("{tick}0"), &format!("{tick}1"))
            .replace(from, to);
        let counted = Counted {
            inside: Measured::parse(SAID).unwrap(),
            outside: Measured::parse(&outside).unwrap(),
            ..Counted::default()
        };
        let prediction =
            (!predicted.is_empty()).then(|| prediction(&predicted.replace("TLB", terms.tlb())));
        differences(&terms, &counted, prediction.as_ref())
    }

    #[test]
    fn the_same_counts_agree() {
        for cpu in ["max", "cortex-a72"] {
            assert_eq!(compared(cpu, "", "", PREDICTED), [""; 0]);
        }
    }

    #[test]
    fn a_difference_names_the_window_and_the_three_counts() {
        let outside = "spread=2 ptes=4 dsb=4";
        assert_eq!(
            compared("max", outside, "spread=3 ptes=4 dsb=5", PREDICTED),
            [
                "window op=8 pages=4 (map_scattered): DSB: the kernel counts 4, the model 4, the plugin 5; \
              spread: the kernel counts 2, the plugin 3"
            ]
        );
        assert_eq!(
            compared(
                "cortex-a72",
                "=90",
                "=91",
                &PREDICTED.replace("tlbi=0", "tlbi=1")
            ),
            [
                "window op=8 pages=4 (map_scattered): TLBI: the kernel counts 0, the model 1, the plugin 0"
            ]
        );
        assert_eq!(compared("max", "=90", "=91", PREDICTED).len(), 1);
    }

    #[test]
    fn events_are_compared_without_the_model() {
        assert_eq!(
            compared(
                "max",
                "=251 spread=0 dsb=1",
                "=250 spread=0 dsb=2",
                PREDICTED
            ),
            [
                "event op=132 (yield): DSB: the kernel counts 1, the plugin 2; \
              instructions: the kernel counts 251, the plugin 250"
            ]
        );
        assert_eq!(compared("cortex-a72", "=251", "=250", PREDICTED), [""; 0]);
        assert_eq!(
            compared("cortex-a72", "event name=tick", "no", PREDICTED),
            ["event op=133 (tick): only one of kernel and plugin has seen it, or none"]
        );
    }

    #[test]
    fn a_window_that_not_all_know_is_a_difference() {
        let line = SAID
            .lines()
            .find(|line| line.starts_with("count "))
            .unwrap();
        let more = format!("{line}\n{}", line.replace("op=8", "op=9"));
        assert_eq!(
            compared("max", line, &more, PREDICTED),
            ["window op=9 pages=4 (unmap): unknown to the kernel and the model"]
        );
        assert_eq!(
            compared("max", "", "", ""),
            [""; 0],
            "the model was not asked"
        );
        let predicted = PREDICTED.to_owned() + &PREDICTED.replace("op=8", "op=11");
        assert_eq!(
            compared("max", "", "", &predicted),
            ["window op=11 pages=4 (apply_set): unknown to the kernel and the plugin"]
        );
    }
}
