// SPDX-License-Identifier: MIT OR Apache-2.0

//! One measurement in short: what one page more costs in each operation, and what the scheduler costs, beside the
//! targets. `bench --no-plugin` prints it, and docs/instruction-counts.md shows it of the baseline.

use super::tables::Titled;
use crate::measure::baseline::TOLERANCE;
use crate::measure::boots::{CLASSIC, DEFER_BARRIERS, MAX, Measurement, Terms};
use crate::measure::costs::{Costs, few, instructions};
use crate::measure::linux::{self, Linux};
use crate::measure::results::Results;
use crate::measure::subjects::{Group, Subject};
use anyhow::{Context, Result};

/// For the terminal.
///
/// # Errors
///
/// When an operation or event was not measured.
pub fn shown(measurement: &Measurement, costs: &Costs) -> Result<String> {
    let mut text = format!(
        "{}\n\n{}\n\n{}\n\n{}",
        of_operations(measurement, costs)?.shown(),
        total(Group::Operation, costs),
        of_scheduler(costs)?.shown(),
        total(Group::Scheduler, costs)
    );
    for ((op, pages), cost) in costs.0.iter().filter(|(_, cost)| cost.spread > 0) {
        let name = Subject::of(*op).map_or("a window", |subject| subject.name);
        let of = match pages {
            0 => name.to_owned(),
            _ => format!("{name} with pages={pages}"),
        };
        text.push_str(&format!(
            "\nrepetitions of {of} differ by up to {} instructions",
            cost.spread
        ));
    }
    Ok(text)
}

/// The document, of what was measured on the CPU max.
///
/// # Errors
///
/// When this, or an operation or event of it, was not measured.
pub fn document(results: &Results) -> Result<String> {
    let terms = Terms::new(MAX, CLASSIC, DEFER_BARRIERS);
    let costs = results
        .under(&terms)
        .with_context(|| format!("{terms} was not measured"))?;
    let said = terms.said();
    let measurement = Measurement::Windows(terms);
    let pages = of_operations(&measurement, costs)?.markdown();
    let events = of_scheduler(costs)?.markdown();
    let [pages_total, events_total] =
        [Group::Operation, Group::Scheduler].map(|group| total(group, costs));
    let newest = linux::NEWEST;
    Ok(format!(
        "<!-- Written by `cargo xtask bench --write`. `cargo xtask test` compares. -->\n\
         # Executed instructions\n\n\
         `cargo xtask counts` prints both tables: QEMU `virt`, `-cpu max -icount shift=0,sleep=off`,\n\
         `{said}`. The counts are those of `xtask/src/measure/baseline.json`, which has every\n\
         window of every size, and those of the other CPUs, policies and backends.\n\
         `cargo xtask test` fails if a count there grows by more than {TOLERANCE} %, if a barrier or TLBI is\n\
         added, or if a target that is met is missed. A target that is missed is no failure.\n\n\
         ## Per page\n\n\
         What one page more costs from 512 to 4096 pages: instructions, DSB, ISB and TLBI that\n\
         the library executes as compiled into this kernel, in the cheapest of three repetitions. What is\n\
         measured is in `kernel/src/bench/windows.rs`.\n\
         Linux is {newest} (Debian's), counted from outside on cortex-a72: instructions / DSB / ISB / TLBI.\n\n\
         {pages}\n\n\
         {pages_total}\n\n\
         \"Tables built\" counts the allocation and the zeroing of the page tables. In the loops over\n\
         known slots each table is a section of its own, which pays one pair.\n\n\
         ## What the scheduler costs\n\n\
         Two tasks on one CPU, the cheapest of eight repetitions, without what the measuring itself costs\n\
         (`kernel/src/bench/scheduler.rs`).\n\n\
         {events}\n\n\
         {events_total}\n\n\
         A switch and a yield go from the last word of the task that leaves to the first of the one that\n\
         comes. A tick finds the time slice not over: entry, interrupt controller, the look at the queue,\n\
         the timer armed anew, which its driver synchronizes by an ISB, and return. The library's part of a\n\
         switch, which is contained in both ways, is a load, a test and a branch on the task's lazy state, and\n\
         the DSB (R17) with its counting; it has no target of its own.\n"
    ))
}

fn of_operations(measurement: &Measurement, costs: &Costs) -> Result<Titled> {
    let linux = format!("Linux {}", linux::NEWEST);
    let header = [
        "operation",
        "instructions",
        "DSB",
        "ISB",
        "TLBI",
        "target",
        &linux,
        "",
    ];
    let row = |operation: &Subject| {
        let page = costs
            .per_page(operation.op)
            .with_context(|| format!("operation {} was not measured", operation.name))?;
        let [dsb, isb, tlbi] = page.barriers.map(few);
        let linux = Linux::get().page(operation.op, linux::NEWEST);
        Ok(vec![
            operation.title.to_owned(),
            instructions(page.instructions),
            dsb,
            isb,
            tlbi,
            target(operation),
            linux.map(|figure| figure.to_string()).unwrap_or_default(),
            verdict(operation, costs),
        ])
    };
    let rows: Result<_> = Subject::all(Group::Operation).map(row).collect();
    let title = format!("What one page more costs, from 512 to 4096 pages ({measurement}):\n");
    Ok(Titled::new(title, &header, rows?))
}

fn of_scheduler(costs: &Costs) -> Result<Titled> {
    let header = ["event", "instructions", "DSB", "ISB", "target", ""];
    let row = |event: &Subject| {
        let cost = costs
            .get(event.op, 0)
            .with_context(|| format!("event {} was not measured", event.name))?;
        Ok(vec![
            event.title.to_owned(),
            cost.instructions.to_string(),
            cost.dsb.to_string(),
            cost.isb.to_string(),
            target(event),
            verdict(event, costs),
        ])
    };
    let rows: Result<_> = Subject::all(Group::Scheduler).map(row).collect();
    Ok(Titled::new("What the scheduler costs:\n", &header, rows?))
}

fn target(subject: &Subject) -> String {
    let target = subject.target.map(|target| target.to_string());
    target.unwrap_or_default()
}

fn total(group: Group, costs: &Costs) -> String {
    let [met, missed] = [true, false].map(|met| {
        let such = Subject::all(group).filter(|subject| subject.met(costs) == Some(met));
        such.count()
    });
    format!("{met} targets met, {missed} missed.")
}

fn verdict(subject: &Subject, costs: &Costs) -> String {
    let met = subject.met(costs);
    met.map_or("", |met| if met { "met" } else { "missed" })
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::DOCUMENT;
    use super::*;
    use crate::measure::baseline;
    use crate::measure::results::tests::{cost, results};
    use crate::workspace::Workspace;
    use std::fs;

    const TERMS: [&str; 3] = ["max", "classic", "defer-barriers"];

    fn measured(change: impl FnOnce(&mut Results)) -> Result<String> {
        let mut results = results(&[512, 4096]);
        change(&mut results);
        let [cpu, policy, backend] = TERMS;
        let terms = Terms::new(cpu, policy, backend);
        let measurement = Measurement::Windows(terms.clone());
        shown(&measurement, results.under(&terms).unwrap())
    }

    #[test]
    fn the_document_shows_the_baseline() {
        let workspace = Workspace::find();
        let text = fs::read_to_string(workspace.root().join(DOCUMENT)).unwrap();
        let committed = baseline::read(&workspace).unwrap();
        let same = document(&committed).unwrap() == text;
        assert!(same, "{DOCUMENT} shows other counts ({})", baseline::WRITE);
    }

    #[test]
    fn targets_and_differing_repetitions_are_told() {
        let text = measured(|results| {
            cost(results, TERMS, "map_each", 512).spread = 7;
            cost(results, TERMS, "tick", 0).spread = 9;
        })
        .unwrap();
        // Instructions per page are one more than the operation's number: those of 1, 8 and 11 are low enough.
        assert!(text.contains("2 targets met, 10 missed."), "{text}");
        assert!(
            text.contains("repetitions of map_each with pages=512 differ by up to 7"),
            "{text}"
        );
        // Instructions of events are their numbers.
        assert!(text.contains("3 targets met, 0 missed."), "{text}");
        assert!(text.contains("repetitions of tick differ by up to 9"));
        assert_eq!(text.matches("differ").count(), 2);
    }

    #[test]
    fn nothing_is_left_out_in_silence() {
        let [cpu, policy, backend] = TERMS;
        let error_without = |window| {
            let mut error = None;
            let measurement = Measurement::Windows(Terms::new(cpu, policy, backend));
            let result = measured(|results| {
                let costs = results.measured.get_mut(&measurement);
                error = costs.and_then(|costs| costs.0.remove(&window));
            });
            assert!(error.is_some(), "it was there");
            result.unwrap_err().to_string()
        };
        assert_eq!(
            error_without((18, 512)),
            "operation set_slots was not measured"
        );
        assert_eq!(error_without((133, 0)), "event tick was not measured");
        let nothing = document(&Results::default()).unwrap_err().to_string();
        assert_eq!(nothing, "max, classic, defer-barriers was not measured");
    }
}
