// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine, as far as the kernel needs it, as the device tree describes it.
//!
//! Everything is copied out of the blob, because the boot window through which the blob is read
//! does not exist any more once the kernel's own tables are in use.

use core::fmt;

use arrayvec::ArrayVec;

use super::error::{DeviceTreeError, NodePath, Quoted};
use crate::machine::MAX_CPUS;
use crate::platform::phys_range::PhysRange;
use crate::text::Text;

/// The greatest number of banks of RAM, after neighbors are merged.
pub const MAX_BANKS: usize = 16;
/// The greatest number of reserved ranges, after neighbors are joined: those of /reserved-memory,
/// of the memory reservation block and of /chosen together. The trees of Debian's Linux 6.12 have
/// up to 15.
pub const MAX_RESERVATIONS: usize = 32;
/// The greatest number of redistributor regions of a GICv3.
pub const MAX_REDISTRIBUTOR_REGIONS: usize = 8;
/// The greatest length of /chosen/bootargs in bytes, without the NUL.
pub const MAX_BOOT_ARGUMENTS: usize = 1024;
/// The greatest number of notes. Further ones are dropped, because each is only a warning.
pub const MAX_NOTES: usize = 8;

/// The machine that a device tree describes.
#[derive(Clone, Debug)]
pub struct MachineDescription {
    /// `model` of the root, for messages.
    pub model: Text<64>,
    /// First (most specific) entry of the root's `compatible`.
    pub compatible: Text<64>,
    /// RAM: sorted by address, disjoint, neighbors merged, never empty.
    pub memory: ArrayVec<PhysRange, MAX_BANKS>,
    /// Memory that must not be used, sorted by start. Reservations may overlap and may lie outside
    /// of RAM.
    pub reservations: ArrayVec<Reservation, MAX_RESERVATIONS>,
    /// The UART for text output, if the tree has one of a known kind.
    pub console: Option<Console>,
    /// The interrupt controller.
    pub interrupt_controller: InterruptController,
    /// The generic timer's interrupts.
    pub timer: TimerInterrupts,
    /// CPUs in the order of the tree; may be empty.
    pub cpus: ArrayVec<Cpu, MAX_CPUS>,
    /// The instruction that calls the firmware's power interface (PSCI 0.2 or later), if there is
    /// one.
    pub psci: Option<Conduit>,
    /// `/chosen/bootargs`, empty if there is none.
    pub boot_arguments: Text<MAX_BOOT_ARGUMENTS>,
    /// Unusual facts that are not wrong enough to refuse the tree.
    pub notes: ArrayVec<Note, MAX_NOTES>,
}

impl MachineDescription {
    /// Leaves out each CPU that waits for a word if `obstacle` finds an obstacle there. The text
    /// that `obstacle` returns is part of a message.
    pub fn leave_out_cpus(&mut self, obstacle: impl Fn(PhysRange) -> Option<&'static str>) {
        let notes = &mut self.notes;
        self.cpus.retain(|cpu| {
            let EnableMethod::SpinTable { release_address } = cpu.enable_method else {
                return true;
            };
            let word = PhysRange::new(release_address, 8);
            let Some(what) = word.map_or(Some("no memory is"), &obstacle) else {
                return true;
            };
            let error = DeviceTreeError::BadReleaseAddress {
                mpidr: cpu.mpidr,
                release_address,
                what,
            };
            let _ = notes.try_push(Note::CpuUnusable { error });
            false
        });
    }
}

/// Memory that the frame allocator must not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The bytes.
    pub range: PhysRange,
    /// Whether they may be mapped.
    pub mapping: Mapping,
}

/// Whether reserved memory may appear in the linear map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// It may be mapped, but must not be allocated.
    Allowed,
    /// `no-map`: not even speculative reads may reach it.
    Forbidden,
}

/// A PL011 UART for text output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Console {
    /// Its registers, as the CPU addresses them.
    pub registers: PhysRange,
    /// How it was chosen.
    pub source: ConsoleSource,
}

/// How the console was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsoleSource {
    /// `/chosen/stdout-path` leads to it.
    StdoutPath,
    /// It is the first enabled PL011 of the tree.
    FirstUart,
}

/// The interrupt controller and its registers, as the CPU addresses them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InterruptController {
    /// Generic Interrupt Controller version 2.
    GicV2 {
        /// GICD.
        distributor: PhysRange,
        /// GICC.
        cpu_interface: PhysRange,
    },
    /// Generic Interrupt Controller version 3.
    GicV3 {
        /// GICD.
        distributor: PhysRange,
        /// GICR, one or more regions with one redistributor per CPU.
        redistributors: ArrayVec<PhysRange, MAX_REDISTRIBUTOR_REGIONS>,
        /// Distance in bytes between two redistributors, if the tree states it.
        stride: Option<u64>,
    },
}

/// Private interrupts of the generic timer, as INTIDs (16..32).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimerInterrupts {
    /// The interrupt of the EL1 physical timer, `CNTP`.
    pub physical_timer: Option<u32>,
    /// The interrupt of the EL1 virtual timer, `CNTV`.
    pub virtual_timer: Option<u32>,
}

/// A CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Affinity fields, at their positions in MPIDR_EL1.
    pub mpidr: u64,
    /// How it is started.
    pub enable_method: EnableMethod,
}

/// How a secondary CPU is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnableMethod {
    /// PSCI CPU_ON.
    Psci,
    /// It waits until the word at `release_address` is its entry point.
    SpinTable {
        /// Physical address of the 64-bit word.
        release_address: u64,
    },
    /// The tree does not say, or the kernel does not know the method. Only the boot CPU can be of
    /// this kind.
    Unknown,
}

/// The instruction that calls firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// `hvc #0`.
    Hvc,
    /// `smc #0`.
    Smc,
}

/// An unusual fact in the tree that does not prevent the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// `/chosen/stdout-path` is missing.
    NoStdoutPath,
    /// `/chosen/stdout-path` leads to no usable PL011.
    StdoutPathUnusable {
        /// Its value.
        path: Quoted,
    },
    /// The tree has no PL011.
    NoConsole,
    /// Two memory banks overlap.
    OverlappingMemory {
        /// The start of the upper bank, in bytes.
        at: u64,
    },
    /// A reservation without an address, for a driver that the kernel does not have.
    ReservationWithoutAddress {
        /// Path of the node.
        node: NodePath,
    },
    /// `linux,initrd-start` and `linux,initrd-end` of `/chosen` do not form a range.
    InitrdWithoutRange,
    /// There are more CPUs than the kernel supports.
    CpusIgnored {
        /// How many are left out.
        count: usize,
    },
    /// A CPU node is wrong.
    CpuUnusable {
        /// What is wrong.
        error: DeviceTreeError,
    },
    /// There is no CPU node, or none that can be used.
    NoCpus,
    /// A CPU's `enable-method` is unknown.
    UnknownEnableMethod {
        /// Path of the CPU node.
        node: NodePath,
        /// The method's name.
        method: Quoted,
    },
    /// There is no timer node.
    NoTimer,
    /// PSCI 0.1 has no standard function numbers and is not used.
    OldPsci,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStdoutPath => f.write_str(
                "/chosen has no stdout-path: the first enabled PL011, if there is one, is the console",
            ),
            Self::StdoutPathUnusable { path } => write!(
                f,
                "/chosen/stdout-path {path} leads to no enabled PL011: the first one in the tree, if \
                 there is one, is the console"
            ),
            Self::NoConsole => f.write_str("the device tree has no enabled PL011: no console"),
            Self::OverlappingMemory { at } => write!(
                f,
                "memory banks overlap at {at:#x}: they are treated as one bank"
            ),
            Self::ReservationWithoutAddress { node } => write!(
                f,
                "{node} reserves memory without saying where, for a driver this kernel does not \
                 have: ignored"
            ),
            Self::InitrdWithoutRange => f.write_str(
                "/chosen: linux,initrd-start and linux,initrd-end are not the start and the end of anything: \
                 ignored",
            ),
            Self::CpusIgnored { count } => write!(
                f,
                "the kernel keeps {MAX_CPUS} CPUs: {count} more are ignored"
            ),
            Self::CpuUnusable { error } => write!(f, "a CPU is not started: {error}"),
            Self::NoCpus => f.write_str(
                "the device tree has no CPU node that can be used: only this CPU is used",
            ),
            Self::UnknownEnableMethod { node, method } => write!(
                f,
                "{node}: enable-method {method} is not known (psci and spin-table are): it stays off"
            ),
            Self::NoTimer => f.write_str(
                "the device tree has no arm,armv8-timer node: timer interrupts are not known",
            ),
            Self::OldPsci => f.write_str(
                "the device tree offers PSCI 0.1 only, which has no standard function numbers: not used",
            ),
        }
    }
}
