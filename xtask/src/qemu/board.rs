// SPDX-License-Identifier: MIT OR Apache-2.0

//! The boards that QEMU emulates, and what each of them leaves open.
//!
//! `virt` is QEMU's own and takes every option. `raspi4b` is the Raspberry Pi 4 Model B with all
//! that is soldered to it, so an option that says otherwise is refused: QEMU would refuse some
//! (`-m`, `-smp`) and the rest has no meaning there. Only the way in is open: the flat image is
//! entered at EL2, as by the board's firmware, and the ELF file at EL3.

use super::machine::{Clock, ExceptionLevel, Gic, Machine, Memory};
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroU32;
use std::path::Path;

/// A board that QEMU emulates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Board {
    /// QEMU's own board
    #[default]
    Virt,
    /// Raspberry Pi 4 Model B: four cortex-a72, 2G, GICv2, entered at EL2 (needs QEMU 9.0)
    Raspi4b,
}

/// CPUs of the usual `virt`: enough for a task to move to another one.
const CPUS: NonZeroU32 = NonZeroU32::new(2).expect("2 is not 0");
/// CPUs that a GICv2 serves: GICD_ITARGETSR has a bit for each (ARM IHI 0048B, 4.3.12).
const CPUS_OF_GICV2: NonZeroU32 = NonZeroU32::new(8).expect("8 is not 0");
/// CPUs of a BCM2711.
const CPUS_OF_A_PI: NonZeroU32 = NonZeroU32::new(4).expect("4 is not 0");

/// First bytes of a device tree blob (Devicetree Specification 5.2).
const MAGIC: [u8; 4] = [0xd0, 0x0d, 0xfe, 0xed];

impl Board {
    /// The name, for QEMU and for `--machine`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Virt => "virt",
            Self::Raspi4b => "raspi4b",
        }
    }

    /// The machine on this board that no option has changed.
    pub fn usual(self) -> Machine {
        let virt = Machine {
            board: self,
            cpu: "cortex-a72".to_owned(),
            smp: CPUS,
            memory: Memory::mebibytes(1024),
            gic: Gic::V2,
            el: ExceptionLevel::El1,
            clock: Clock::Host,
            dtb: None,
        };
        match self {
            Self::Virt => virt,
            Self::Raspi4b => Machine {
                smp: CPUS_OF_A_PI,
                memory: Memory::mebibytes(2048),
                el: ExceptionLevel::El2,
                ..virt
            },
        }
    }

    /// Refuses a machine that cannot be built on this board.
    ///
    /// # Errors
    ///
    /// One line with the options that contradict the board, and what the board has.
    pub fn check(self, machine: &Machine) -> Result<()> {
        match self {
            Self::Virt => {
                ensure!(
                    machine.dtb.is_none(),
                    "--dtb needs --machine raspi4b: the device tree of virt is QEMU's own, which knows \
                     what the other options chose"
                );
                ensure!(
                    machine.gic != Gic::V2 || machine.smp <= CPUS_OF_GICV2,
                    "--smp {}: a GICv2 serves {CPUS_OF_GICV2} CPUs at most; add --gic 3, or leave out --smp",
                    machine.smp
                );
            }
            Self::Raspi4b => {
                let mut fixed = self.usual();
                // What is open: the clock, the tree, and of the levels the two that QEMU enters at.
                fixed.clock = machine.clock;
                fixed.dtb.clone_from(&machine.dtb);
                if machine.el != ExceptionLevel::El1 {
                    fixed.el = machine.el;
                }
                let contradictions = machine.differences(&fixed);
                ensure!(
                    contradictions.is_empty(),
                    "--machine raspi4b is four cortex-a72 with 2G and a GICv2, entered at EL2 (at EL3 \
                     with --el 3): leave out{contradictions}"
                );
                ensure!(
                    machine.dtb.is_none() || machine.el == ExceptionLevel::El2,
                    "--dtb goes with the entry at EL2 only: QEMU passes no device tree to the ELF file \
                     that it enters at EL3; leave out --dtb or --el 3"
                );
            }
        }
        machine.dtb.as_deref().map_or(Ok(()), check_tree)
    }
}

/// Refuses a file that is no device tree blob, before QEMU says so in its own words.
fn check_tree(path: &Path) -> Result<()> {
    let mut start = [0; MAGIC.len()];
    let length = File::open(path)
        .and_then(|file| file.take(MAGIC.len() as u64).read(&mut start))
        .with_context(|| format!("--dtb {} cannot be read", path.display()))?;
    if start[..length] != MAGIC {
        bail!(
            "--dtb {} is no device tree blob, which starts with d0 0d fe ed: give a .dtb file; \
             `dtc -I dts -O dtb` makes one of a .dts",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::MachineOptions;
    use super::*;
    use clap::Parser;
    use std::fs;

    #[derive(Debug, Parser)]
    #[command(no_binary_name = true)]
    struct Line {
        #[command(flatten)]
        options: MachineOptions,
    }

    fn machine(line: &str) -> Result<Machine> {
        let line = Line::try_parse_from(line.split_whitespace()).expect("the line is well-formed");
        line.options.machine()
    }

    fn refusal(line: &str) -> String {
        let text = format!("{:#}", machine(line).expect_err(line));
        assert!(!text.contains('\n') && !text.contains("  "), "{text}");
        text
    }

    #[test]
    fn a_pi_is_what_it_is() {
        let pi = machine("--machine raspi4b").expect("it needs no other option");
        assert_eq!(pi.to_string(), "raspi4b cortex-a72 gic2 el2 2G smp4");
        assert_eq!(pi.options(), " --machine raspi4b");
        let same = "--machine raspi4b --cpu cortex-a72 --smp 4 --memory 2048 --gic 2 --el 2";
        assert_eq!(machine(same).expect("nothing differs"), pi);
        let open = machine("--machine raspi4b --el 3 --icount").expect("both are open");
        assert_eq!(open.options(), " --machine raspi4b --el 3 --icount");
    }

    #[test]
    fn more_cpus_than_the_interrupt_controller_serves_are_refused_with_the_way_out() {
        let text = refusal("--smp 9");
        assert!(
            text.starts_with("--smp 9: ") && text.contains("--gic 3"),
            "{text}"
        );
        for line in ["--smp 8", "--smp 9 --gic 3"] {
            machine(line).expect(line);
        }
    }

    #[test]
    fn contradictions_are_refused_by_name() {
        for one in [
            "--cpu max",
            "--smp 2",
            "--memory 1G",
            "--gic 3",
            "--el 1",
            "--cpu cortex-a53 --memory 512M",
        ] {
            let text = refusal(&format!("--machine raspi4b {one}"));
            assert!(text.ends_with(&format!("leave out {one}")), "{text}");
            assert!(text.contains("four cortex-a72 with 2G and a GICv2"));
        }
    }

    #[test]
    fn a_tree_must_be_one_and_have_its_place() {
        let scratch = tempfile::tempdir().expect("there is room for a file");
        let path = |name: &str| scratch.path().join(name);
        fs::write(path("good"), [MAGIC, [0; 4]].concat()).expect("it can be written");
        fs::write(path("short"), [0xd0]).expect("it can be written");
        let with = |name: &str, more: &str| format!("--dtb {} {more}", path(name).display());
        let pi = machine(&with("good", "--machine raspi4b")).expect("it has the magic");
        assert_eq!(pi.dtb, Some(path("good")));
        assert!(pi.options().ends_with(with("good", "").trim_end()));
        assert!(pi.to_string().ends_with(" smp4 dtb"));
        assert!(refusal(&with("good", "")).starts_with("--dtb needs --machine raspi4b"));
        let at_el3 = refusal(&with("good", "--machine raspi4b --el 3"));
        assert!(at_el3.contains("EL2 only"), "{at_el3}");
        assert!(refusal(&with("none", "--machine raspi4b")).contains("none cannot be read: "));
        assert!(refusal(&with("short", "--machine raspi4b")).contains("is no device tree blob"));
    }
}
