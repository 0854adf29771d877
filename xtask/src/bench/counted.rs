// SPDX-License-Identifier: MIT OR Apache-2.0

//! One boot of the measuring kernel, counted from both sides: by the kernel and by the plugin.
//!
//! On the CPU `max` under `-icount` the kernel counts instructions itself (`mode=counts`); elsewhere it
//! counts its barriers only (`mode=bench`), and instructions are the plugin's. The windows are the same.

use crate::build::Artifacts;
use crate::counts::{Cost, Counter, EVENTS, EventCost, Measured, OPERATIONS, WAKES};
use crate::qemu::boot::Watch;
use crate::qemu::machine::{Clock, Memory};
use crate::qemu::{Boot, Input, Machine, Plugin, Qemu, Verdict};
use crate::run::again;
use crate::scratch;
use crate::test::soak::tasks::BACKENDS;
use crate::windows::{Window, Windows};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// The CPU models: the Raspberry Pi 4's, and one that has everything.
pub const CPUS: [&str; 2] = ["cortex-a72", MAX];
/// The CPU with FEAT_ETS2, and whose timer can be made to count instructions.
const MAX: &str = "max";
/// `policy=` of the kernel.
pub const POLICIES: [&str; 2] = [CLASSIC, ETS2];
/// The one that every CPU can have.
const CLASSIC: &str = "classic";
/// The one that needs FEAT_ETS2.
pub const ETS2: &str = "ets2";

/// The window of nothing.
const EMPTY: u64 = 0;
/// Windows that are subtracted from events, kernel/src/bench/scheduler.rs.
const AROUND_EVENTS: [u64; 2] = [137, 138];
/// From the kernel's first instruction to `kernel_main`.
pub const TO_KERNEL_MAIN: u8 = 140;
/// The linear map; its pages are the map's.
pub const LINEAR_MAP: u8 = 141;
/// From the kernel's first instruction to what it was booted for, such as the first self-test.
pub const TO_SELF_TEST: u8 = 142;
/// Pages of the largest windows that the kernel has, which need more memory than the usual machine has.
pub const MOST_PAGES: u64 = 1_048_576;
/// Pages of the largest windows that it has otherwise, and of the largest in which each page is a call of its own.
pub const MOST_OF_USUAL: u64 = 65_536;
/// MiB of memory that it is given for the largest: 4 GiB in one aligned piece, and tables.
pub const LARGE: u32 = 8 * 1024;
/// Seconds that a boot may take; half of it without a line.
const TIMEOUT: u64 = 600;

/// What a boot is told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Terms {
    /// QEMU's CPU model.
    pub cpu: String,
    /// `policy=`.
    pub policy: String,
    /// `lazy=`.
    pub backend: String,
}

impl Terms {
    /// Every combination that there is.
    pub fn all() -> impl Iterator<Item = Self> {
        CPUS.into_iter().flat_map(|cpu| {
            let policies = POLICIES
                .into_iter()
                .filter(move |policy| *policy != ETS2 || cpu == MAX);
            policies.flat_map(move |policy| BACKENDS.map(|backend| Self::new(cpu, policy, backend)))
        })
    }

    /// These.
    pub fn new(cpu: &str, policy: &str, backend: &str) -> Self {
        Self {
            cpu: cpu.to_owned(),
            policy: policy.to_owned(),
            backend: backend.to_owned(),
        }
    }

    /// Those of a boot without a word about them, with which the linear map is built.
    pub fn of_a_boot(cpu: &str) -> Self {
        Self::new(
            cpu,
            if cpu == MAX { ETS2 } else { CLASSIC },
            "defer-barriers",
        )
    }

    /// Those under which waking a task is counted.
    pub fn of_waking(cpu: &str) -> Self {
        Self::new(cpu, CLASSIC, "defer-barriers")
    }

    /// As part of a test's name.
    pub fn name(&self) -> String {
        let Self {
            cpu,
            policy,
            backend,
        } = self;
        format!("{cpu}.{backend}.{policy}").replace('-', "_")
    }

    /// As the kernel says it.
    pub fn said(&self) -> String {
        format!("backend={} policy={}", self.backend, self.policy)
    }

    /// The features of TLB invalidation, as the machine model names them (kernel/tests/windows.rs).
    pub fn tlb(&self) -> &'static str {
        if self.cpu == MAX { "ttl,range" } else { "none" }
    }

    /// Who counts instructions beside the plugin.
    pub fn counter(&self) -> Counter {
        if self.cpu == MAX {
            Counter::Inside
        } else {
            Counter::Outside
        }
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.cpu, self.policy, self.backend)
    }
}

/// What all boots need.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The checkout.
    pub workspace: &'a Workspace,
    /// The emulator.
    pub qemu: &'a Qemu,
    /// The kernel.
    pub artifacts: &'a Artifacts,
    /// Who counts.
    pub plugin: &'a Plugin,
}

/// What both sides have counted in one boot.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// The kernel.
    pub inside: Measured,
    /// The plugin.
    pub outside: Measured,
    /// What the plugin found wrong.
    pub problems: Vec<String>,
    /// The console.
    pub log: String,
}

impl Setup<'_> {
    /// Measures everything on one CPU, with windows of up to `pages` pages.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started, the kernel does not end well, or what was counted cannot be read.
    pub fn count(&self, terms: &Terms, pages: u64) -> Result<Counted> {
        let mut machine = machine(&terms.cpu);
        if pages >= MOST_PAGES {
            machine.memory = Memory::mebibytes(LARGE);
        }
        let mode = match terms.counter() {
            Counter::Inside => "counts",
            Counter::Outside => "bench",
        };
        let (backend, policy) = (&terms.backend, &terms.policy);
        let bootargs = format!("mode={mode} lazy={backend} policy={policy} pages={pages}");
        let (log, windows) = self.boot(&machine, &bootargs)?;
        let inside =
            Measured::read(&log, terms.counter()).context("the kernel's counts cannot be read")?;
        let (outside, problems) = outside(&windows, terms.said());
        Ok(Counted {
            inside,
            outside,
            problems,
            log,
        })
    }

    /// What `cpu` executes up to `kernel_main`, in the linear map, and up to the first self-test; and as events, with
    /// a second CPU and the host's clock, what it takes to wake a task there. The kernel says of the boot what its
    /// linear map took.
    ///
    /// # Errors
    ///
    /// Those of [`count`](Self::count).
    pub fn count_boot(&self, cpu: &str) -> Result<Counted> {
        // A suite that needs next to nothing.
        let (mut log, windows) = self.boot(&machine(cpu), "mode=selftest filter=boot-arguments")?;
        let mut inside = Measured {
            terms: "boot".to_owned(),
            ..Measured::default()
        };
        inside.costs.extend(linear_map(&log));
        let (mut measured, mut problems) = outside(&windows, "boot".to_owned());
        measured
            .costs
            .retain(|(op, _), _| (TO_KERNEL_MAIN..=TO_SELF_TEST).contains(op));
        let pair = Machine {
            smp: NonZeroU32::MIN.saturating_add(1),
            clock: Clock::Host,
            ..machine(cpu)
        };
        let (more, windows) = self.boot(&pair, "mode=bench policy=classic pages=1")?;
        log.push_str(&more);
        inside.events = Measured::read(&more, Counter::Outside)
            .context("the kernel's counts cannot be read")?
            .events;
        let (both, more) = outside(&windows, String::new());
        problems.extend(more);
        measured.events = both.events;
        for side in [&mut inside, &mut measured] {
            side.events
                .retain(|name, _| WAKES.iter().any(|event| event.name == *name));
        }
        for event in &WAKES {
            if !measured.events.contains_key(event.name) {
                problems.push(format!("{}: the plugin has not seen it", event.title));
            }
        }
        for op in TO_KERNEL_MAIN..=TO_SELF_TEST {
            if measured.of(op).next().is_none() {
                problems.push(format!("window op={op}: the plugin has not seen it"));
            }
        }
        Ok(Counted {
            inside,
            outside: measured,
            problems,
            log,
        })
    }

    /// Boots, and comes back with the console and the windows.
    fn boot(&self, machine: &Machine, bootargs: &str) -> Result<(String, Windows)> {
        let scratch = scratch::folder(self.workspace)?;
        let out = scratch.path().join("windows");
        let boot = Boot {
            machine,
            bootargs,
            artifacts: self.artifacts,
            input: Input::Usual,
            watch: Watch::Timeout(Duration::from_secs(TIMEOUT)),
            again: again(
                &format!("{} --plugin windows.jsonl", machine.options()),
                bootargs,
            ),
        };
        let mut log = String::new();
        let outcome = boot.run(
            self.workspace,
            &self.plugin.given_to(self.qemu, &out),
            |line| {
                log.push_str(line);
                log.push('\n');
            },
        )?;
        match outcome.verdict {
            Verdict::Success => Ok((log, Windows::read(&out)?)),
            Verdict::Failed(failure) | Verdict::Broken(failure) => Err(failure.into()),
        }
    }
}

fn machine(cpu: &str) -> Machine {
    Machine {
        cpu: cpu.to_owned(),
        smp: NonZeroU32::MIN,
        clock: Clock::Instructions,
        ..Machine::default()
    }
}

/// What the kernel says of its linear map (kernel/src/start.rs): pages, DSB and ISB. Of the rest 0 stands there.
fn linear_map(log: &str) -> Option<((u8, u64), Cost)> {
    let number = |text: &str, before: &str| -> Option<u64> {
        let (_, behind) = text.split_once(before)?;
        behind.split(' ').next()?.parse().ok()
    };
    let line = log.lines().find(|line| line.contains(" linear map: "))?;
    let pages = number(line, " linear map: ")?;
    let cost = Cost {
        instructions: 0,
        spread: 0,
        ptes: pages,
        dsb: number(line, "built with ")?,
        isb: number(line, "DSB and ")?,
        tlbi: 0,
        ish: 0,
        dmb: 0,
    };
    Some(((LINEAR_MAP, pages), cost))
}

/// The windows of one id.
struct Executions<'a>(Vec<&'a Window>);

impl Executions<'_> {
    fn least(&self) -> u64 {
        self.0
            .iter()
            .map(|window| window.instructions)
            .min()
            .unwrap_or(0)
    }

    /// The first of the cheapest, as the kernel takes it, without what `empty` costs.
    fn cost(&self, pages: u64, empty: u64) -> Cost {
        let least = self.least();
        let most = self.0.iter().map(|window| window.instructions).max();
        let best = self.0.iter().find(|window| window.instructions == least);
        let of = |count: fn(&Window) -> u64| best.map_or(0, |window| count(window));
        Cost {
            instructions: least.saturating_sub(empty),
            spread: most.unwrap_or(least) - least,
            ptes: pages,
            dsb: of(Window::all_dsb),
            isb: of(|window| window.isb),
            tlbi: of(Window::all_tlbi),
            ish: of(Window::dsb_ish),
            dmb: of(Window::all_dmb),
        }
    }
}

/// The plugin's windows in the form of the kernel's, and what is wrong with them.
pub fn outside(windows: &Windows, terms: String) -> (Measured, Vec<String>) {
    let mut problems = windows.problems.clone();
    let mut by_id: BTreeMap<(u64, u64), Executions<'_>> = BTreeMap::new();
    for window in &windows.windows {
        let mut of_the_library = OPERATIONS.iter().map(|known| known.op).chain([LINEAR_MAP]);
        if of_the_library.any(|op| u64::from(op) == window.op) {
            let at = format!("window op={} pages={}", window.op, window.pages);
            problems.extend(window.strange().iter().map(|what| {
                format!("{at}: the plugin has seen {what}, which is not the library's")
            }));
        }
        let of_this = by_id.entry((window.op, window.pages));
        of_this
            .or_insert_with(|| Executions(Vec::new()))
            .0
            .push(window);
    }
    let mut measured = Measured {
        terms,
        ..Measured::default()
    };
    for ((op, pages), executions) in &by_id {
        let at = || format!("window op={op} pages={pages}");
        let known = u8::try_from(*op).ok();
        let event = EVENTS
            .iter()
            .chain(&WAKES)
            .find(|event| Some(event.op) == known);
        if let Some(event) = event {
            let empty = match event.without {
                None => Some(0),
                Some(op) => by_id.get(&(op.into(), 0)).map(Executions::least),
            };
            let Some(empty) = empty else {
                problems.push(format!(
                    "{}: the plugin has not seen what surrounds it",
                    at()
                ));
                continue;
            };
            let cost = executions.cost(0, empty);
            // The first turns are a task's first steps, so how much dearer one was says nothing.
            let cost = EventCost {
                instructions: cost.instructions,
                spread: 0,
                dsb: cost.dsb,
                isb: cost.isb,
            };
            measured.events.insert(event.name, cost);
        } else if let Some(op) = known.filter(|op| OPERATIONS.iter().any(|known| known.op == *op)) {
            let Some(empty) = by_id.get(&(EMPTY, *pages)).map(Executions::least) else {
                problems.push(format!("{}: the plugin has seen no empty one", at()));
                continue;
            };
            measured
                .costs
                .insert((op, *pages), executions.cost(*pages, empty));
        } else if let Some(op) = known.filter(|op| (TO_KERNEL_MAIN..=TO_SELF_TEST).contains(op)) {
            measured
                .costs
                .insert((op, *pages), executions.cost(*pages, 0));
        } else if *op != EMPTY && !AROUND_EVENTS.contains(op) {
            problems.push(format!(
                "{}: nobody knows what it measures; describe it in xtask/src/counts",
                at()
            ));
        }
    }
    (measured, problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(op: u64, pages: u64, instructions: u64, dsb: u64) -> Window {
        Window {
            op,
            pages,
            instructions,
            isb: 4,
            dsb: [
                ("ish".to_owned(), dsb / 2),
                ("ishst".to_owned(), dsb - dsb / 2),
            ]
            .into(),
            ..Window::default()
        }
    }

    fn of(windows: &[Window], problems: &[&str]) -> (Measured, Vec<String>) {
        let windows = Windows {
            windows: windows.to_vec(),
            problems: problems.iter().map(|what| (*what).to_owned()).collect(),
        };
        outside(&windows, "x".to_owned())
    }

    #[test]
    fn the_cheapest_execution_without_the_empty_window_is_taken() {
        let (measured, problems) = of(
            &[
                window(0, 4, 12, 0),
                window(0, 4, 10, 0),
                window(8, 4, 102, 6),
                window(8, 4, 100, 5),
            ],
            &[],
        );
        assert_eq!(problems, [""; 0]);
        let cost = measured.costs[&(8, 4)];
        assert_eq!(
            (cost.instructions, cost.spread, cost.dsb, cost.isb),
            (90, 2, 5, 4)
        );
        assert_eq!(measured.costs.len(), 1);
    }

    #[test]
    fn an_event_is_without_what_surrounds_it() {
        let (measured, problems) = of(
            &[
                window(0, 0, 8, 0),
                window(130, 0, 31, 0),
                window(133, 0, 4247, 0),
                window(137, 0, 4009, 0),
                window(135, 0, 290, 1),
                window(140, 0, 29_934, 5),
            ],
            &[],
        );
        assert_eq!(problems, [""; 0]);
        let event = |name| {
            measured
                .events
                .get(name)
                .map(|cost: &EventCost| cost.instructions)
        };
        assert_eq!(
            [event("switch"), event("tick"), event("wake")],
            [Some(23), Some(238), Some(290)]
        );
        assert_eq!(measured.costs[&(TO_KERNEL_MAIN, 0)].instructions, 29_934);
    }

    #[test]
    fn what_is_missing_or_unknown_is_told() {
        let (_, problems) = of(
            &[
                window(8, 4, 90, 4),
                window(133, 0, 5, 0),
                window(99, 1, 1, 0),
            ],
            &["window 0x8000001 (op 8, 1 pages) began here and did not end"],
        );
        assert_eq!(
            problems,
            [
                "window 0x8000001 (op 8, 1 pages) began here and did not end",
                "window op=8 pages=4: the plugin has seen no empty one",
                "window op=99 pages=1: nobody knows what it measures; describe it in xtask/src/counts",
                "window op=133 pages=0: the plugin has not seen what surrounds it",
            ]
        );
    }

    #[test]
    fn the_linear_map_is_as_the_kernel_says() {
        let line = "[    0.003869] info: linear map: 262144 pages in tables of 2084 KiB, built with 1 DSB and 2 ISB; 3 saved";
        let (key, cost) = linear_map(&format!("first\n{line}\nlast")).unwrap();
        assert_eq!((key, cost.dsb, cost.isb), ((LINEAR_MAP, 262_144), 1, 2));
        assert_eq!(linear_map(&line.replace("built", "made")), None);
        assert_eq!(linear_map("first\nlast"), None);
    }

    #[test]
    fn there_are_fifteen_combinations() {
        let all: Vec<Terms> = Terms::all().collect();
        assert_eq!(all.len(), 3 * BACKENDS.len());
        assert!(
            all.iter()
                .all(|terms| terms.policy != ETS2 || terms.cpu == MAX)
        );
        assert_eq!(all[0].name(), "cortex_a72.defer_barriers.classic");
        assert_eq!(all[0].said(), "backend=defer-barriers policy=classic");
    }
}
