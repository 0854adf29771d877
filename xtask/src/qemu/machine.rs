// SPDX-License-Identifier: MIT OR Apache-2.0

//! The emulated machine: what can be asked for on the command line, and what one
//! boot runs on.

pub use super::board::Board;
use crate::process::quoted;
use anyhow::Result;
use clap::{Args, ValueEnum};
use std::fmt;
use std::num::NonZeroU32;
use std::path::{self, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Options of `run` and `test` that say what to boot and how long it may take.
///
/// `run` fills what is missing with the defaults; `test` takes what is given as
/// a selection from its matrix.
#[derive(Args, Clone, Debug, Default)]
pub struct MachineOptions {
    /// Board to emulate; the defaults below are those of virt, raspi4b is what it is [default:
    /// virt]
    #[arg(long, value_enum)]
    pub machine: Option<Board>,

    /// CPU model: cortex-a72 is the Raspberry Pi 4's, max has every feature QEMU knows; any of
    /// QEMU's names [default: cortex-a72]
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,

    /// Number of CPUs [default: 2]
    #[arg(long, value_name = "COUNT")]
    pub smp: Option<NonZeroU32>,

    /// Memory, in MiB or with M or G, e.g. 128M or 8G [default: 1G]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Memory>,

    /// Version of the interrupt controller [default: 2]
    #[arg(long, value_enum)]
    pub gic: Option<Gic>,

    /// Exception level at which the kernel is entered [default: 1]
    #[arg(long, value_enum)]
    pub el: Option<ExceptionLevel>,

    /// Device tree for raspi4b in place of xtask's own: the bcm2711-rpi-4-b.dtb of the board's
    /// firmware or of Linux
    #[arg(long, value_name = "FILE")]
    pub dtb: Option<PathBuf>,

    /// Let a nanosecond of the guest's time pass with each instruction, instead of with the host's
    /// time; with --cpu max its timer then counts instructions
    #[arg(long)]
    pub icount: bool,

    /// Seconds that a boot may take; one that prints nothing for half of that counts as hung
    /// already [default: 60 for run, 120 for each boot of test]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<NonZeroU32>,

    /// Wait for a debugger before the first instruction, without a timeout; `cargo xtask gdb` in
    /// a second terminal attaches
    #[arg(long)]
    pub gdb: bool,

    /// Boot arguments for the kernel, key=value, e.g. -- lazy=eager log=debug
    #[arg(last = true, value_name = "BOOTARGS")]
    pub bootargs: Vec<String>,
}

/// The interrupt controller's architecture version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Gic {
    /// GICv2, as on the Raspberry Pi 4
    #[default]
    #[value(name = "2")]
    V2,
    /// GICv3, with system registers
    #[value(name = "3")]
    V3,
}

/// The exception level at which firmware enters the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ExceptionLevel {
    /// EL1, as a guest of a hypervisor
    #[default]
    #[value(name = "1")]
    El1,
    /// EL2, as most firmware does
    #[value(name = "2")]
    El2,
    /// EL3, as the first code after reset
    #[value(name = "3")]
    El3,
}

/// What makes the guest's time pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The host's time.
    #[default]
    Host,
    /// Each instruction takes a nanosecond, and a CPU that waits skips the wait.
    Instructions,
}

/// An amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    mebibytes: u32,
}

impl Memory {
    /// So many MiB.
    pub const fn mebibytes(mebibytes: u32) -> Self {
        Self { mebibytes }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::mebibytes(1024)
    }
}

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, scale) = match text.strip_suffix(['G', 'g']) {
            Some(digits) => (digits, 1024),
            None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
        };
        digits
            .parse::<u32>()
            .ok()
            .and_then(|number| number.checked_mul(scale))
            .filter(|mebibytes| *mebibytes > 0)
            .map(Self::mebibytes)
            .ok_or_else(|| {
                "give a whole number of MiB, or one with M or G: 128M, 1G, 8G".to_owned()
            })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mebibytes.is_multiple_of(1024) {
            write!(f, "{}G", self.mebibytes / 1024)
        } else {
            write!(f, "{}M", self.mebibytes)
        }
    }
}

/// Shows a value as it is typed on the command line.
fn typed(value: &impl ValueEnum) -> String {
    value
        .to_possible_value()
        .map_or_else(String::new, |value| value.get_name().to_owned())
}

impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Gic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&typed(self))
    }
}

impl fmt::Display for ExceptionLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&typed(self))
    }
}

/// The machine of one boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Board.
    pub board: Board,
    /// QEMU's name of the CPU model.
    pub cpu: String,
    /// Number of CPUs.
    pub smp: NonZeroU32,
    /// Memory.
    pub memory: Memory,
    /// Interrupt controller.
    pub gic: Gic,
    /// Entry level.
    pub el: ExceptionLevel,
    /// Clock.
    pub clock: Clock,
    /// A device tree in place of the board's usual one; absolute.
    pub dtb: Option<PathBuf>,
}

impl Default for Machine {
    fn default() -> Self {
        Board::default().usual()
    }
}

impl Machine {
    /// The options that select this machine again, without those at their default.
    pub fn options(&self) -> String {
        let board = match self.board == Board::default() {
            true => String::new(),
            false => format!(" --machine {}", self.board),
        };
        board + &self.differences(&self.board.usual())
    }

    /// The options that make this machine of `other`, which is on the same board.
    pub fn differences(&self, other: &Self) -> String {
        let mut options = String::new();
        let mut add = |name: &str, differs: bool, value: &dyn fmt::Display| {
            if differs {
                options.push_str(&format!(" --{name} {}", quoted(&value.to_string())));
            }
        };
        add("cpu", self.cpu != other.cpu, &self.cpu);
        add("smp", self.smp != other.smp, &self.smp);
        add("memory", self.memory != other.memory, &self.memory);
        add("gic", self.gic != other.gic, &self.gic);
        add("el", self.el != other.el, &self.el);
        if let Some(path) = &self.dtb {
            add("dtb", self.dtb != other.dtb, &path.display());
        }
        if self.clock != other.clock && self.clock == Clock::Instructions {
            options.push_str(" --icount");
        }
        options
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            board,
            cpu,
            smp,
            memory,
            gic,
            el,
            clock,
            dtb,
        } = self;
        write!(f, "{board} {cpu} gic{gic} el{el} {memory}")?;
        if smp.get() > 1 {
            write!(f, " smp{smp}")?;
        }
        if *clock == Clock::Instructions {
            f.write_str(" icount")?;
        }
        if dtb.is_some() {
            f.write_str(" dtb")?;
        }
        Ok(())
    }
}

impl MachineOptions {
    /// The machine asked for, with the board's defaults for what was not given.
    ///
    /// # Errors
    ///
    /// One line about options that contradict the board, or a device tree that is none.
    pub fn machine(&self) -> Result<Machine> {
        let usual = self.machine.unwrap_or_default().usual();
        let machine = Machine {
            board: usual.board,
            cpu: self.cpu.clone().unwrap_or(usual.cpu),
            smp: self.smp.unwrap_or(usual.smp),
            memory: self.memory.unwrap_or(usual.memory),
            gic: self.gic.unwrap_or(usual.gic),
            el: self.el.unwrap_or(usual.el),
            clock: if self.icount {
                Clock::Instructions
            } else {
                usual.clock
            },
            // QEMU is started elsewhere.
            dtb: self.dtb.as_ref().map(path::absolute).transpose()?,
        };
        machine.board.check(&machine)?;
        Ok(machine)
    }

    /// Tells whether any option that describes a machine was given.
    pub fn any_machine(&self) -> bool {
        self.machine.is_some()
            || self.cpu.is_some()
            || self.smp.is_some()
            || self.memory.is_some()
            || self.gic.is_some()
            || self.el.is_some()
            || self.dtb.is_some()
            || self.icount
    }

    /// Tells whether `machine` has everything that was asked for.
    pub fn selects(&self, machine: &Machine) -> bool {
        // A description without a board is of the usual board.
        let board = match self.machine {
            None if self.any_machine() => Some(Board::default()),
            given => given,
        };
        board.is_none_or(|board| board == machine.board)
            && self.cpu.as_ref().is_none_or(|cpu| *cpu == machine.cpu)
            && self.smp.is_none_or(|smp| smp == machine.smp)
            && self.memory.is_none_or(|memory| memory == machine.memory)
            && self.gic.is_none_or(|gic| gic == machine.gic)
            && self.el.is_none_or(|el| el == machine.el)
            // What is booted by plan has the board's usual one.
            && self.dtb.is_none()
            && (!self.icount || machine.clock == Clock::Instructions)
    }

    /// The time a boot may take, `default` seconds unless one was given.
    pub fn timeout(&self, default: u32) -> Duration {
        Duration::from_secs(self.timeout.map_or(default, NonZeroU32::get).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_sizes_are_read_and_shown() {
        for (text, shown) in [
            ("128M", "128M"),
            ("8G", "8G"),
            ("1024", "1G"),
            ("1536m", "1536M"),
        ] {
            assert_eq!(
                text.parse::<Memory>().map(|memory| memory.to_string()),
                Ok(shown.to_owned())
            );
        }
        for text in ["", "G", "0", "-1G", "1.5G", "1T", "9999999G"] {
            assert!(text.parse::<Memory>().is_err(), "{text}");
        }
    }

    #[test]
    fn options_select_the_machine_again() {
        assert_eq!(Machine::default().options(), "");
        let machine = Machine {
            cpu: "max".to_owned(),
            el: ExceptionLevel::El3,
            memory: Memory::mebibytes(128),
            clock: Clock::Instructions,
            ..Machine::default()
        };
        assert_eq!(
            machine.options(),
            " --cpu max --memory 128M --el 3 --icount"
        );
        assert_eq!(machine.to_string(), "virt max gic2 el3 128M smp2 icount");
    }
}
