// SPDX-License-Identifier: MIT OR Apache-2.0

//! Boots of the measuring kernel, each counted from both sides: by the kernel and by the plugin.
//!
//! On the CPU `max` under `-icount` the kernel counts instructions itself (`mode=counts`); elsewhere it
//! counts its barriers only (`mode=bench`), and instructions are the plugin's. The windows are the same.

use super::costs::{Cost, Costs};
use super::lines;
use super::outside;
use super::subjects::{Group, LINEAR_MAP, Subject};
use super::windows::Windows;
use crate::build::Artifacts;
use crate::qemu::boot::{Watch, again};
use crate::qemu::machine::{Clock, Memory};
use crate::qemu::{Boot, Input, Machine, Plugin, Qemu, Verdict};
use crate::scratch;
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

/// The CPU models: the Raspberry Pi 4's, and one that has everything.
pub const CPUS: [&str; 2] = ["cortex-a72", MAX];
/// The CPU with FEAT_ETS2, and whose timer can be made to count instructions.
pub const MAX: &str = "max";
/// `policy=` of the kernel.
pub const POLICIES: [&str; 2] = [CLASSIC, ETS2];
/// The one that every CPU can have.
pub const CLASSIC: &str = "classic";
/// The one that needs FEAT_ETS2.
pub const ETS2: &str = "ets2";
/// `lazy=` of the kernel.
pub const BACKENDS: [&str; 5] = [
    DEFER_BARRIERS,
    "defer-stores",
    "batch-invalidations",
    "multicall",
    "eager",
];
/// The one that the kernel takes by default.
pub const DEFER_BARRIERS: &str = "defer-barriers";

/// Pages of the largest windows that the kernel has, which need more memory than the usual machine has.
pub const MOST_PAGES: u64 = 1_048_576;
/// Pages of the largest windows that it has otherwise, and of the largest in which each page is a call of its own.
pub const MOST_OF_USUAL: u64 = 65_536;
/// MiB of memory that it is given for the largest: 4 GiB in one aligned piece, and tables.
pub const LARGE: u32 = 8 * 1024;
/// Seconds that a boot may take; half of it without a line.
const TIMEOUT: u64 = 600;

/// What the kernel is told, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

    /// Those of a boot without arguments about them, with which the linear map is built.
    pub fn of_a_boot(cpu: &str) -> Self {
        let policy = if cpu == MAX { ETS2 } else { CLASSIC };
        Self::new(cpu, policy, DEFER_BARRIERS)
    }

    /// Those under which waking a task is counted.
    pub fn of_waking(cpu: &str) -> Self {
        Self::new(cpu, CLASSIC, DEFER_BARRIERS)
    }

    /// As the kernel says it.
    pub fn said(&self) -> String {
        format!("backend={} policy={}", self.backend, self.policy)
    }

    /// The features of TLB invalidation, as the machine model names them (kernel/tests/windows.rs).
    pub fn tlb(&self) -> &'static str {
        if self.cpu == MAX { "ttl,range" } else { "none" }
    }

    /// Whether the kernel counts instructions itself, beside the plugin.
    pub fn counted_inside(&self) -> bool {
        self.cpu == MAX
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.cpu, self.policy, self.backend)
    }
}

/// What is measured at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Measurement {
    /// The operations and the scheduler's events under these terms.
    Windows(Terms),
    /// The boot of this CPU, and waking a task on another CPU of its kind.
    Boot {
        /// QEMU's CPU model.
        cpu: String,
    },
}

impl Measurement {
    /// Every measurement that there is.
    pub fn all() -> impl Iterator<Item = Self> {
        let boots = CPUS.into_iter().map(Self::boot);
        Terms::all().map(Self::Windows).chain(boots)
    }

    /// The boot of this CPU.
    pub fn boot(cpu: &str) -> Self {
        let cpu = cpu.to_owned();
        Self::Boot { cpu }
    }

    /// The CPU model.
    pub fn cpu(&self) -> &str {
        match self {
            Self::Windows(terms) => &terms.cpu,
            Self::Boot { cpu } => cpu,
        }
    }

    /// As part of a test's name.
    pub fn name(&self) -> String {
        let name = match self {
            Self::Windows(terms) => format!("{}.{}.{}", terms.cpu, terms.backend, terms.policy),
            Self::Boot { cpu } => format!("{cpu}.boot_and_wake_up"),
        };
        name.replace('-', "_")
    }

    /// What it measures.
    pub fn subjects(&self) -> impl Iterator<Item = &'static Subject> {
        let groups = match self {
            Self::Windows(_) => [Group::Operation, Group::Scheduler],
            Self::Boot { .. } => [Group::Boot, Group::WakeUp],
        };
        groups.into_iter().flat_map(Subject::all)
    }
}

impl fmt::Display for Measurement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Windows(terms) => terms.fmt(f),
            Self::Boot { cpu } => write!(f, "{cpu}, boot"),
        }
    }
}

/// What all boots need.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    pub workspace: &'a Workspace,
    pub qemu: &'a Qemu,
    pub artifacts: &'a Artifacts,
    /// The counter outside; without it the kernel counts alone.
    pub plugin: Option<&'a Plugin>,
}

/// What both sides have counted in one measurement.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// By the kernel.
    pub inside: Costs,
    /// By the plugin.
    pub outside: Costs,
    /// What is wrong with the plugin's windows.
    pub problems: Vec<String>,
    pub log: String,
}

impl Setup<'_> {
    /// Measures, with windows of up to `pages` pages.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started, the kernel does not end well, or what was counted cannot be read.
    pub fn count(&self, measurement: &Measurement, pages: u64) -> Result<Counted> {
        let mut counted = match measurement {
            Measurement::Windows(terms) => self.count_windows(terms, pages),
            Measurement::Boot { cpu } => self.count_boot(cpu),
        }?;
        // Each boot has passed the windows of the others on its way.
        for side in [&mut counted.inside, &mut counted.outside] {
            side.0
                .retain(|(op, _), _| measurement.subjects().any(|subject| subject.op == *op));
        }
        Ok(counted)
    }

    fn count_windows(&self, terms: &Terms, pages: u64) -> Result<Counted> {
        let mut machine = machine(&terms.cpu);
        if pages >= MOST_PAGES {
            machine.memory = Memory::mebibytes(LARGE);
        }
        let mode = match terms.counted_inside() {
            true => "counts",
            false => "bench",
        };
        let (backend, policy) = (&terms.backend, &terms.policy);
        let bootargs = format!("mode={mode} lazy={backend} policy={policy} pages={pages}");
        let (log, windows) = self.boot(&machine, &bootargs)?;
        let inside = said(&log, terms)?;
        ensure!(
            !terms.counted_inside() || inside.0.values().all(|cost| cost.instructions > 0),
            "the kernel has not counted its instructions"
        );
        let (outside, problems) = outside::costs(&windows);
        Ok(Counted {
            inside,
            outside,
            problems,
            log,
        })
    }

    /// The boot with one CPU; of it the kernel says what its linear map took. Then, with a second CPU and the host's
    /// clock, waking a task.
    fn count_boot(&self, cpu: &str) -> Result<Counted> {
        // A suite that needs next to nothing.
        let (log, windows) = self.boot(&machine(cpu), "mode=selftest filter=boot-arguments")?;
        let (mut outside, mut problems) = outside::costs(&windows);
        let pair = Machine {
            smp: NonZeroU32::MIN.saturating_add(1),
            clock: Clock::Host,
            ..machine(cpu)
        };
        let (more, windows) = self.boot(&pair, "mode=bench policy=classic pages=1")?;
        let mut inside = said(&more, &Terms::of_waking(cpu))?;
        inside.0.extend(linear_map(&log));
        let (both, found) = outside::costs(&windows);
        problems.extend(found);
        // The boot of the second machine counts two CPUs.
        outside.0.extend(both.0.into_iter().filter(|((op, _), _)| {
            Subject::of(*op).is_some_and(|subject| subject.group == Group::WakeUp)
        }));
        Ok(Counted {
            inside,
            outside,
            problems,
            log: log + &more,
        })
    }

    /// Boots, and returns the console and the windows.
    fn boot(&self, machine: &Machine, bootargs: &str) -> Result<(String, Windows)> {
        let scratch = scratch::folder(self.workspace)?;
        let out = scratch.path().join("windows");
        let (qemu, option) = match self.plugin {
            Some(plugin) => (&plugin.given_to(self.qemu, &out), " --plugin windows.jsonl"),
            None => (self.qemu, ""),
        };
        let boot = Boot {
            machine,
            bootargs,
            artifacts: self.artifacts,
            input: Input::Usual,
            watch: Watch::Timeout(Duration::from_secs(TIMEOUT)),
            again: again(&format!("{}{option}", machine.options()), bootargs),
        };
        let mut log = String::new();
        let outcome = boot.run(self.workspace, qemu, |line| {
            log.push_str(line);
            log.push('\n');
        })?;
        match outcome.verdict {
            Verdict::Success if self.plugin.is_none() => Ok((log, Windows::default())),
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

/// What the kernel says, under the terms that it was told.
fn said(log: &str, terms: &Terms) -> Result<Costs> {
    let said = lines::read(log).context("the kernel's counts cannot be read")?;
    ensure!(
        said.terms == terms.said(),
        "the kernel was told {} and counted with {}",
        terms.said(),
        said.terms
    );
    Ok(said.costs)
}

/// What the kernel says of its linear map (kernel/src/start.rs): pages, DSB and ISB.
fn linear_map(log: &str) -> Option<((u8, u64), Cost)> {
    let number = |text: &str, before: &str| -> Option<u64> {
        let (_, behind) = text.split_once(before)?;
        behind.split(' ').next()?.parse().ok()
    };
    let line = log.lines().find(|line| line.contains(" linear map: "))?;
    let cost = Cost {
        dsb: number(line, "built with ")?,
        isb: number(line, "DSB and ")?,
        ..Cost::default()
    };
    Some(((LINEAR_MAP, number(line, " linear map: ")?), cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linear_map_is_as_the_kernel_says() {
        let line = "[    0.003869] info: linear map: 262144 pages in tables of 2084 KiB, built with 1 DSB and 2 ISB; 3 saved";
        let (key, cost) = linear_map(&format!("first\n{line}\nlast")).unwrap();
        assert_eq!((key, cost.dsb, cost.isb), ((LINEAR_MAP, 262_144), 1, 2));
        assert_eq!(linear_map(&line.replace("built", "made")), None);
        assert_eq!(linear_map("first\nlast"), None);
    }

    #[test]
    fn counts_under_other_terms_are_refused() {
        let log = "counts backend=eager policy=classic\nevent name=yield dsb=1 isb=0\n";
        let read = |backend| {
            let terms = Terms::new("cortex-a72", CLASSIC, backend);
            said(log, &terms)
        };
        assert_eq!(read("eager").unwrap().0.len(), 1);
        let error = read("multicall").unwrap_err().to_string();
        assert!(
            error.ends_with("and counted with backend=eager policy=classic"),
            "{error}"
        );
    }

    #[test]
    fn there_are_fifteen_combinations_and_two_boots() {
        let all: Vec<Terms> = Terms::all().collect();
        assert_eq!(all.len(), 3 * BACKENDS.len());
        assert!(
            all.iter()
                .all(|terms| terms.policy != ETS2 || terms.cpu == MAX)
        );
        let all: Vec<Measurement> = Measurement::all().collect();
        assert_eq!(all.len(), 3 * BACKENDS.len() + CPUS.len());
        assert_eq!(all[0].name(), "cortex_a72.defer_barriers.classic");
        assert_eq!(all[15].name(), "cortex_a72.boot_and_wake_up");
        assert_eq!(all[15].to_string(), "cortex-a72, boot");
        // Every subject is measured somewhere.
        let measured = all[0].subjects().count() + all[15].subjects().count();
        assert_eq!(measured, super::super::subjects::SUBJECTS.len());
    }
}
