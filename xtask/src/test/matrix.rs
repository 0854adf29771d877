// SPDX-License-Identifier: MIT OR Apache-2.0

//! The machines that the in-kernel suite runs on.
//!
//! Every combination of CPU, interrupt controller and entry level once, because each changes what
//! boot and exceptions do; then what changes only one thing. The page-table library does not
//! depend on interrupt controller and entry level, so its backends and policies are spread over
//! these combinations: each of them on `max`, one that queues on a CPU without range operations of
//! the TLB as well, and the default on both CPUs elsewhere.

use crate::qemu::machine::Clock::{self, Host, Instructions};
use crate::qemu::machine::ExceptionLevel::{self, El1, El2, El3};
use crate::qemu::machine::Gic::{self, V2, V3};
use crate::qemu::machine::{Board, Memory};
use crate::qemu::{Machine, MachineOptions};
use anyhow::Result;
use std::num::NonZeroU32;

/// One boot of the matrix.
struct Entry {
    cpu: &'static str,
    gic: Gic,
    el: ExceptionLevel,
    mebibytes: u32,
    smp: u32,
    clock: Clock,
    bootargs: &'static str,
}

#[rustfmt::skip]
const MATRIX: [Entry; 25] = [
    Entry { cpu: "cortex-a72", gic: V2, el: El1, mebibytes: 1024, smp: 1, clock: Host, bootargs: "" },
    Entry { cpu: "cortex-a72", gic: V2, el: El2, mebibytes: 1024, smp: 1, clock: Host, bootargs: "" },
    Entry { cpu: "cortex-a72", gic: V2, el: El3, mebibytes: 1024, smp: 1, clock: Host, bootargs: "" },
    Entry { cpu: "cortex-a72", gic: V3, el: El1, mebibytes: 1024, smp: 1, clock: Host, bootargs: "lazy=multicall" },
    Entry { cpu: "cortex-a72", gic: V3, el: El2, mebibytes: 1024, smp: 1, clock: Host, bootargs: "" },
    Entry { cpu: "cortex-a72", gic: V3, el: El3, mebibytes: 1024, smp: 1, clock: Host, bootargs: "" },
    Entry { cpu: "max",        gic: V2, el: El1, mebibytes: 1024, smp: 1, clock: Host, bootargs: "" },
    Entry { cpu: "max",        gic: V2, el: El2, mebibytes: 1024, smp: 1, clock: Host, bootargs: "lazy=eager" },
    Entry { cpu: "max",        gic: V2, el: El3, mebibytes: 1024, smp: 1, clock: Host, bootargs: "policy=classic" },
    Entry { cpu: "max",        gic: V3, el: El1, mebibytes: 1024, smp: 1, clock: Host, bootargs: "lazy=defer-stores" },
    Entry { cpu: "max",        gic: V3, el: El2, mebibytes: 1024, smp: 1, clock: Host, bootargs: "lazy=batch-invalidations" },
    Entry { cpu: "max",        gic: V3, el: El3, mebibytes: 1024, smp: 1, clock: Host, bootargs: "lazy=multicall" },
    // A CPU that repeats TLB invalidations (R34).
    Entry { cpu: "neoverse-n1", gic: V3, el: El2, mebibytes: 1024, smp: 1, clock: Host, bootargs: "" },
    // Little and much memory.
    Entry { cpu: "cortex-a72", gic: V2, el: El1, mebibytes:  128, smp: 1, clock: Host, bootargs: "" },
    Entry { cpu: "cortex-a72", gic: V3, el: El2, mebibytes: 8192, smp: 1, clock: Host, bootargs: "" },
    // CPUs that are not started must stay out of the way.
    Entry { cpu: "cortex-a72", gic: V3, el: El3, mebibytes: 1024, smp: 4, clock: Host, bootargs: "" },
    Entry { cpu: "cortex-a72", gic: V2, el: El1, mebibytes: 1024, smp: 4, clock: Host, bootargs: "cpus=2" },
    // More than one CPU: PSCI by HVC at EL1, by SMC at EL2.
    Entry { cpu: "cortex-a72", gic: V2, el: El1, mebibytes: 1024, smp: 2, clock: Host, bootargs: "" },
    Entry { cpu: "cortex-a72", gic: V2, el: El2, mebibytes: 1024, smp: 4, clock: Host, bootargs: "" },
    Entry { cpu: "cortex-a72", gic: V2, el: El2, mebibytes: 1024, smp: 8, clock: Host, bootargs: "" },
    Entry { cpu: "max",        gic: V3, el: El2, mebibytes: 1024, smp: 2, clock: Host, bootargs: "" },
    Entry { cpu: "cortex-a72", gic: V3, el: El1, mebibytes: 1024, smp: 4, clock: Host, bootargs: "" },
    Entry { cpu: "max",        gic: V3, el: El1, mebibytes: 1024, smp: 8, clock: Host, bootargs: "" },
    // Preemption at each instruction (suite sweep): the timer has to count them. All else but
    // counts is the same as with the host's clock, so it is shown with one interrupt controller
    // only.
    Entry { cpu: "max",        gic: V2, el: El1, mebibytes: 1024, smp: 1, clock: Instructions, bootargs: "filter=sweep*" },
    Entry { cpu: "max",        gic: V3, el: El1, mebibytes: 1024, smp: 1, clock: Instructions, bootargs: "" },
];

/// The boots of a Raspberry Pi 4, where only boot arguments can differ: its CPUs come by spin
/// table, its memory has a hole.
const RASPI4B: [&str; 2] = ["", "lazy=multicall"];

/// A machine to boot and what to tell the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The machine.
    pub machine: Machine,
    /// Boot arguments of this boot alone.
    pub bootargs: &'static str,
}

impl Planned {
    /// Name for tables, messages and log files.
    pub fn name(&self) -> String {
        format!("{} {}", self.machine, self.bootargs)
            .trim_end()
            .to_owned()
    }
}

/// The boots that have everything that was asked for; if there is none, the machine asked for.
///
/// # Errors
///
/// When what was asked for contradicts itself.
pub fn select(options: &MachineOptions) -> Result<Vec<Planned>> {
    let asked_for = options.machine()?;
    let on_virt = MATRIX.iter().map(|entry| Planned {
        machine: Machine {
            cpu: entry.cpu.to_owned(),
            smp: NonZeroU32::new(entry.smp).unwrap_or(NonZeroU32::MIN),
            memory: Memory::mebibytes(entry.mebibytes),
            gic: entry.gic,
            el: entry.el,
            clock: entry.clock,
            ..Board::Virt.usual()
        },
        bootargs: entry.bootargs,
    });
    let on_raspi4b = RASPI4B.iter().map(|bootargs| Planned {
        machine: Board::Raspi4b.usual(),
        bootargs,
    });
    let mut selected: Vec<Planned> = on_virt
        .chain(on_raspi4b)
        .filter(|planned| options.selects(&planned.machine))
        .collect();
    if selected.is_empty() {
        selected.push(Planned {
            machine: asked_for,
            bootargs: "",
        });
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(options: &MachineOptions) -> Vec<String> {
        let planned = select(options).expect("the options do not contradict each other");
        planned.iter().map(Planned::name).collect()
    }

    #[test]
    fn boots_have_different_names() {
        let mut all = names(&MachineOptions::default());
        all.sort();
        all.dedup();
        assert_eq!(all.len(), MATRIX.len() + RASPI4B.len());
    }

    #[test]
    fn options_narrow_the_matrix() {
        let small = MachineOptions {
            memory: Some(Memory::mebibytes(128)),
            ..MachineOptions::default()
        };
        assert_eq!(names(&small), ["virt cortex-a72 gic2 el1 128M"]);
        let max_at_el1 = MachineOptions {
            cpu: Some("max".to_owned()),
            el: Some(El1),
            ..MachineOptions::default()
        };
        assert_eq!(
            names(&max_at_el1),
            [
                "virt max gic2 el1 1G",
                "virt max gic3 el1 1G lazy=defer-stores",
                "virt max gic3 el1 1G smp8",
                "virt max gic2 el1 1G icount filter=sweep*",
                "virt max gic3 el1 1G icount",
            ]
        );
    }

    #[test]
    fn machine_outside_the_matrix_is_booted_once() {
        let other = MachineOptions {
            cpu: Some("cortex-a53".to_owned()),
            el: Some(El2),
            ..MachineOptions::default()
        };
        assert_eq!(names(&other), ["virt cortex-a53 gic2 el2 1G smp2"]);
        // A Raspberry Pi has as much, but the options ask for none.
        let large = MachineOptions {
            memory: Some(Memory::mebibytes(2048)),
            ..MachineOptions::default()
        };
        assert_eq!(names(&large), ["virt cortex-a72 gic2 el1 2G smp2"]);
    }

    #[test]
    fn a_pi_is_booted_as_planned_or_with_what_was_asked_for() {
        let pi = MachineOptions {
            machine: Some(Board::Raspi4b),
            ..MachineOptions::default()
        };
        assert_eq!(
            names(&pi),
            [
                "raspi4b cortex-a72 gic2 el2 2G smp4",
                "raspi4b cortex-a72 gic2 el2 2G smp4 lazy=multicall",
            ]
        );
        let counting = MachineOptions {
            icount: true,
            ..pi.clone()
        };
        assert_eq!(
            names(&counting),
            ["raspi4b cortex-a72 gic2 el2 2G smp4 icount"]
        );
        let impossible = MachineOptions {
            gic: Some(V3),
            ..pi
        };
        assert!(select(&impossible).is_err());
    }
}
