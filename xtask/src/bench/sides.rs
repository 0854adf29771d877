// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where the kernel's counts, the model's prediction and the plugin's counts are not the same.
//!
//! The three have nothing in common. Inside, instructions are ticks of a timer (on `max`), and barriers are what
//! the library says that it executes; the model executes the windows on the host; and outside, QEMU looks
//! at each instruction. What surrounds the window's body is the same in the empty window, and is subtracted on
//! both sides of the CPU.

use super::counted::{Counted, LINEAR_MAP, Terms};
use super::prediction::Prediction;
use super::results::name_of;
use crate::counts::{Counter, EVENTS, Event, Measured, OPERATIONS, WAKES};
use std::collections::BTreeSet;

/// What drivers execute in an event, DSB and ISB: neither the library's counters nor the model know of it.
const DRIVERS: [(&str, [u64; 2]); 2] = [
    // The timer's synchronizes what it has set.
    ("tick", [0, 1]),
    // Before the interrupt controller's interrupts another CPU, it lets that CPU see what was stored.
    ("wake", [1, 0]),
];
/// What the counters do not know of, because they are those of the task that asks: the switch back is one of the task
/// that idles.
const OTHER_TASKS: [(&str, [u64; 2]); 1] = [("woken", [1, 0])];

/// A section that builds tables and maps frames that follow one another, as the linear map does: the window by which the
/// model predicts it, its smallest one, because the number of pages changes nothing.
const LIKE_THE_LINEAR_MAP: (u8, u64) = (4, 1);

/// Counts of one kind: the kernel's, the model's if it makes one, the plugin's.
type Three = (&'static str, u64, Option<u64>, u64);

/// One line for each window in which they differ, with what differs and the three counts, or the two where the
/// model was not asked, as in windows that are too large for it.
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
        windows.extend(prediction.windows(terms));
    }
    for (op, pages) in windows {
        let name = OPERATIONS.iter().find(|operation| operation.op == op);
        let name = name.map_or("nobody knows what", |operation| operation.name);
        let at = format!("window op={op} pages={pages} ({name})");
        let [kernel, plugin] = [inside, outside].map(|side| side.costs.get(&(op, pages)));
        let model = prediction
            .filter(|prediction| prediction.covers(pages))
            .map(|prediction| prediction.of(terms, op, pages));
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
            numbers.push(executed(kernel.instructions, plugin.instructions));
            numbers.push(("spread", kernel.spread, None, plugin.spread));
        }
        problems.extend(differing(&at, &numbers));
    }
    problems.extend(
        EVENTS
            .iter()
            .filter_map(|event| of_event(terms, event, counted, prediction, instructions)),
    );
    problems
}

/// The same of a boot of `cpu` and of waking a task there, as far as the kernel counts: barriers of the linear map, and
/// those of the events.
pub fn differences_of_boot(
    cpu: &str,
    counted: &Counted,
    prediction: Option<&Prediction>,
) -> Vec<String> {
    let mut problems = counted.problems.clone();
    let name = name_of(LINEAR_MAP);
    let one = |side: &Measured| {
        side.of(LINEAR_MAP)
            .map(|(pages, cost)| (pages, *cost))
            .next()
    };
    match (one(&counted.inside), one(&counted.outside)) {
        (Some((mapped, kernel)), Some((pages, plugin))) => {
            let at = format!("window op={LINEAR_MAP} pages={pages} ({name})");
            let terms = Terms::of_a_boot(cpu);
            let (like, smallest) = LIKE_THE_LINEAR_MAP;
            let model = prediction.map(|known| known.of(&terms, like, smallest));
            if model == Some(None) {
                problems.push(format!("{at}: unknown to the model"));
            }
            let model = model.flatten();
            let numbers = [
                ("pages", mapped, None, pages),
                ("DSB", kernel.dsb, model.map(|model| model[0]), plugin.dsb),
                ("ISB", kernel.isb, model.map(|model| model[1]), plugin.isb),
            ];
            problems.extend(differing(&at, &numbers));
        }
        _ => problems.push(format!("window op={LINEAR_MAP} ({name}): {ONE_SIDE}")),
    }
    let terms = Terms::of_waking(cpu);
    let wakes = WAKES.iter();
    problems.extend(wakes.filter_map(|event| of_event(&terms, event, counted, prediction, false)));
    problems
}

const ONE_SIDE: &str = "only one of kernel and plugin has seen it, or none";

fn of_event(
    terms: &Terms,
    event: &Event,
    counted: &Counted,
    prediction: Option<&Prediction>,
    instructions: bool,
) -> Option<String> {
    let at = format!("event op={} ({})", event.op, event.name);
    let sides = [&counted.inside, &counted.outside].map(|side| side.events.get(event.name));
    let [Some(kernel), Some(plugin)] = sides else {
        return Some(format!("{at}: {ONE_SIDE}"));
    };
    let model = match prediction.map(|prediction| prediction.of_event(terms, event.op)) {
        Some(None) => return Some(format!("{at}: unknown to the model")),
        asked => asked.flatten(),
    };
    let more = |of: &[(&str, [u64; 2])]| {
        let found = of.iter().find(|(name, _)| *name == event.name);
        found.map_or([0; 2], |(_, barriers)| *barriers)
    };
    let (drivers, others) = (more(&DRIVERS), more(&OTHER_TASKS));
    let three = |name, i: usize, kernel: u64, plugin: u64| -> Three {
        let model = model.map(|model| model[i] + drivers[i]);
        (name, kernel + drivers[i] + others[i], model, plugin)
    };
    let mut numbers = vec![
        three("DSB", 0, kernel.dsb, plugin.dsb),
        three("ISB", 1, kernel.isb, plugin.isb),
    ];
    if instructions {
        numbers.push(executed(kernel.instructions, plugin.instructions));
    }
    differing(&at, &numbers)
}

/// Instructions, of which the model says nothing.
fn executed(kernel: u64, plugin: u64) -> Three {
    ("instructions", kernel, None, plugin)
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
    const PREDICTED: &str = "\
predicted backend=eager policy=classic tlb=TLB op=8 pages=4 dsb=4 isb=4 tlbi=0 ish=0
predicted backend=eager policy=classic tlb=TLB op=130 dsb=0 isb=0 tlbi=0 ish=0
predicted backend=eager policy=classic tlb=TLB op=131 dsb=1 isb=0 tlbi=0 ish=1
predicted backend=eager policy=classic tlb=TLB op=132 dsb=1 isb=0 tlbi=0 ish=1
predicted backend=eager policy=classic tlb=TLB op=133 dsb=0 isb=0 tlbi=0 ish=0
predicted backend=eager policy=classic tlb=TLB op=134 dsb=1 isb=0 tlbi=0 ish=1
";

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
    fn events_are_compared_like_windows() {
        assert_eq!(
            compared(
                "max",
                "=251 spread=0 dsb=1",
                "=250 spread=0 dsb=2",
                PREDICTED
            ),
            [
                "event op=132 (yield): DSB: the kernel counts 1, the model 1, the plugin 2; \
              instructions: the kernel counts 251, the plugin 250"
            ]
        );
        assert_eq!(compared("cortex-a72", "=251", "=250", PREDICTED), [""; 0]);
        let other = PREDICTED.replace("op=133 dsb=0 isb=0", "op=133 dsb=1 isb=0");
        assert_eq!(
            compared("max", "", "", &other),
            ["event op=133 (tick): DSB: the kernel counts 0, the model 1, the plugin 0"]
        );
        let fewer = PREDICTED.replace("op=134 ", "op=135 ");
        assert_eq!(
            compared("max", "", "", &fewer),
            ["event op=134 (switch_out): unknown to the model"]
        );
        assert_eq!(
            compared("cortex-a72", "event name=tick", "no", PREDICTED),
            ["event op=133 (tick): only one of kernel and plugin has seen it, or none"]
        );
    }

    const BOOT: &str = "\
counts boot
count op=141 pages=8 instructions=0 spread=0 ptes=8 dsb=1 isb=1 tlbi=0 ish=0 dmb=0
event name=wake instructions=0 spread=0 dsb=0 isb=0
event name=woken instructions=0 spread=0 dsb=1 isb=0
";

    const PREDICTED_OF_A_BOOT: &str = "\
predicted backend=defer-barriers policy=classic tlb=none op=4 pages=1 dsb=1 isb=1 tlbi=0 ish=0
predicted backend=defer-barriers policy=classic tlb=none op=135 dsb=0 isb=0 tlbi=0 ish=0
predicted backend=defer-barriers policy=classic tlb=none op=136 dsb=2 isb=0 tlbi=0 ish=2
";

    /// What is said of a boot when the plugin's counts are the kernel's, with the barriers of others added, and
    /// `from` in them has become `to`.
    fn booted(from: &str, to: &str) -> Vec<String> {
        booted_and_predicted(from, to, Some(PREDICTED_OF_A_BOOT))
    }

    /// The same with a prediction, or without.
    fn booted_and_predicted(from: &str, to: &str, predicted: Option<&str>) -> Vec<String> {
        let outside = BOOT
            .replace("=0 spread=0", "=9 spread=0")
            .replace(
                "woken instructions=9 spread=0 dsb=1",
                "woken instructions=9 spread=0 dsb=2",
            )
            .replace(
                "wake instructions=9 spread=0 dsb=0",
                "wake instructions=9 spread=0 dsb=1",
            )
            .replace(from, to);
        let counted = Counted {
            inside: Measured::parse(BOOT).unwrap(),
            outside: Measured::parse(&outside).unwrap(),
            ..Counted::default()
        };
        let prediction = predicted.map(prediction);
        differences_of_boot("cortex-a72", &counted, prediction.as_ref())
    }

    #[test]
    fn a_boot_is_compared_as_far_as_the_kernel_counts() {
        assert_eq!(booted("", ""), [""; 0]);
        assert_eq!(
            booted("dsb=1 isb=1", "dsb=2 isb=1"),
            [
                "window op=141 pages=8 (linear_map): DSB: the kernel counts 1, the model 1, the plugin 2"
            ]
        );
        assert_eq!(
            booted(
                "pages=8 instructions=9 spread=0 ptes=8",
                "pages=9 instructions=9 spread=0 ptes=9"
            )[0],
            "window op=141 pages=9 (linear_map): pages: the kernel counts 8, the plugin 9"
        );
        assert_eq!(
            booted("dsb=2 isb=0", "dsb=1 isb=1"),
            [
                "event op=136 (woken): DSB: the kernel counts 2, the model 2, the plugin 1; \
              ISB: the kernel counts 0, the model 0, the plugin 1"
            ]
        );
        let other = PREDICTED_OF_A_BOOT.replace("op=4 pages=1 dsb=1", "op=4 pages=1 dsb=2");
        assert_eq!(
            booted_and_predicted("", "", Some(&other)),
            [
                "window op=141 pages=8 (linear_map): DSB: the kernel counts 1, the model 2, the plugin 1"
            ]
        );
        let other = PREDICTED_OF_A_BOOT
            .replace("op=4 ", "op=5 ")
            .replace("op=135 ", "op=134 ");
        assert_eq!(
            booted_and_predicted("", "", Some(&other)),
            [
                "window op=141 pages=8 (linear_map): unknown to the model",
                "event op=135 (wake): unknown to the model"
            ]
        );
        assert_eq!(booted_and_predicted("", "", None), [""; 0]);
        let gone = booted("name=wake ", "name=tick ");
        assert_eq!(gone, [format!("event op=135 (wake): {ONE_SIDE}")]);
        assert_eq!(
            booted("op=141", "op=142"),
            [format!("window op=141 (linear_map): {ONE_SIDE}")]
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
        let first = PREDICTED.lines().next().unwrap();
        let predicted = PREDICTED.to_owned() + &first.replace("op=8", "op=11");
        assert_eq!(
            compared("max", "", "", &predicted),
            ["window op=11 pages=4 (apply_set): unknown to the kernel and the plugin"]
        );
    }
}
