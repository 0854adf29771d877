// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which frames of RAM may be mapped, and which may be allocated.
//!
//! Two lists are made from a [`MachineDescription`]. Both hold whole frames, sorted and disjoint:
//!
//! * `linear` is the RAM for the linear map: all banks except `no-map` memory, which not even a
//!   speculative read may reach. It includes the kernel image.
//! * `usable` is the RAM for the frame allocator: `linear` without reserved memory, the kernel
//!   image, the device tree blob, frame 0, and the pages of spin-table release words, which a
//!   waiting CPU reads until it is released.
//!
//! Partial pages at the edge of a bank belong to neither list. A reservation that touches a page
//! reserves the whole page.
//!
//! Addresses that the CPU (`PARange`), the descriptors (48 bits) or the linear map cannot reach are
//! left out with a note. The rest must be large enough ([`MINIMUM_MEMORY`]) and must hold the
//! kernel itself. If it does not, the tree describes another machine.

use core::fmt;

use arrayvec::ArrayVec;
use lazymmu::{Frame, PA_BITS, PAGE_SIZE};

use super::devicetree::{
    EnableMethod, InterruptController, MAX_BANKS, MAX_REDISTRIBUTOR_REGIONS, MAX_RESERVATIONS,
    MachineDescription, Mapping,
};
use super::phys_range::PhysRange;
use crate::machine::MAX_CPUS;

/// The usable RAM that the kernel needs, in bytes. Its tables take 1/512 of RAM. The heap and the
/// frames that the self-tests and the demonstration map take some 16 MiB. 64 MiB is enough for
/// both, and it is half of the smallest machine tested.
pub const MINIMUM_MEMORY: u64 = 64 << 20;

/// Each hole splits at most one range in two, so a list never has more ranges than there are banks
/// and holes.
const MAX_RANGES: usize = MAX_BANKS + MAX_RESERVATIONS + MAX_CPUS + BOOT_HOLES;
/// Frame 0, image, blob.
const BOOT_HOLES: usize = 3;

/// Frames that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRange {
    start: Frame,
    bytes: PhysRange,
}

impl FrameRange {
    /// The whole frames in `range`, or `None` if there is none or the range ends above 2^48.
    #[must_use]
    pub fn inside(range: PhysRange) -> Option<Self> {
        let range = range.shrunk_to_pages()?;
        if range.end() > 1 << PA_BITS {
            return None;
        }
        Some(Self {
            start: Frame::from_u64(range.start())?,
            bytes: range,
        })
    }

    /// The first frame.
    #[must_use]
    pub const fn start(self) -> Frame {
        self.start
    }

    /// Number of frames, at least 1.
    #[must_use]
    pub const fn frames(self) -> u64 {
        self.bytes.size() / PAGE_SIZE
    }

    /// The range in bytes; both bounds are multiples of the page size.
    #[must_use]
    pub const fn bytes(self) -> PhysRange {
        self.bytes
    }
}

impl fmt::Display for FrameRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.bytes, f)
    }
}

/// Memory that is in use when the kernel starts.
#[derive(Clone, Copy, Debug)]
pub struct BootMemory {
    /// The image from its first byte to the end of bss.
    pub image: PhysRange,
    /// The device tree blob, if there is one.
    pub device_tree: Option<PhysRange>,
}

/// The limits of the addresses that can be used.
#[derive(Clone, Copy, Debug)]
pub struct AddressLimits {
    /// Width of a physical address by ID_AA64MMFR0_EL1.PARange, in bits.
    pub physical_bits: u32,
    /// Size of the linear map in bytes; it starts at physical address 0.
    pub linear_map: u64,
}

impl AddressLimits {
    /// Exclusive end of the addresses that can be mapped, in bytes.
    fn end(self) -> u64 {
        (1 << self.physical_bits.min(PA_BITS)).min(self.linear_map)
    }
}

/// The RAM for the linear map and for the frame allocator.
#[derive(Clone, Debug)]
pub struct MemoryMap {
    linear: ArrayVec<FrameRange, MAX_RANGES>,
    usable: ArrayVec<FrameRange, MAX_RANGES>,
    unreachable: ArrayVec<PhysRange, MAX_BANKS>,
}

impl MemoryMap {
    /// Makes the two lists from the RAM of `machine`.
    ///
    /// # Errors
    /// Too little RAM is left, or the kernel is not in it, or it overlaps registers.
    pub fn new(
        machine: &MachineDescription,
        boot: &BootMemory,
        limits: AddressLimits,
    ) -> Result<Self, MemoryMapError> {
        refuse_devices_in_memory(machine)?;
        let mut unreachable = ArrayVec::new();
        let mut ram = Ranges::new();
        for bank in &machine.memory {
            let end = limits.end();
            if let Some(high) = PhysRange::from_bounds(bank.start().max(end), bank.end()) {
                // There is room for as many as there are banks.
                let _ = unreachable.try_push(high);
            }
            let low = PhysRange::from_bounds(bank.start(), bank.end().min(end));
            if let Some(pages) = low.and_then(PhysRange::shrunk_to_pages) {
                ram.push(pages);
            }
        }
        for entry in &machine.reservations {
            if entry.mapping == Mapping::Forbidden {
                remove(&mut ram, entry.range);
            }
        }
        let linear = frames(&ram);
        if !ram.iter().any(|range| range.contains(boot.image)) {
            return Err(MemoryMapError::ImageOutsideMemory { image: boot.image });
        }
        for entry in &machine.reservations {
            remove(&mut ram, entry.range);
        }
        // Frame 0 is never allocated (H19). It holds the spin table of a Raspberry Pi's firmware,
        // and the address 0 is easily mistaken for "none".
        if let Some(first) = PhysRange::new(0, PAGE_SIZE) {
            remove(&mut ram, first);
        }
        remove(&mut ram, boot.image);
        if let Some(blob) = boot.device_tree {
            remove(&mut ram, blob);
        }
        for cpu in &machine.cpus {
            if let EnableMethod::SpinTable { release_address } = cpu.enable_method
                && let Some(word) = PhysRange::new(release_address, 8)
            {
                remove(&mut ram, word);
            }
        }
        let map = Self {
            linear,
            usable: frames(&ram),
            unreachable,
        };
        let usable = map.usable_bytes();
        if usable < MINIMUM_MEMORY {
            return Err(MemoryMapError::TooLittle { usable });
        }
        Ok(map)
    }

    /// RAM for the linear map: sorted, disjoint.
    #[must_use]
    pub fn linear(&self) -> &[FrameRange] {
        &self.linear
    }

    /// RAM for the frame allocator: sorted, disjoint, part of [`linear`](Self::linear).
    #[must_use]
    pub fn usable(&self) -> &[FrameRange] {
        &self.usable
    }

    /// Sum of [`usable`](Self::usable) in bytes.
    #[must_use]
    pub fn usable_bytes(&self) -> u64 {
        self.usable.iter().map(|range| range.bytes().size()).sum()
    }

    /// RAM above the highest address that can be used. It is left out; print a warning.
    #[must_use]
    pub fn unreachable(&self) -> &[PhysRange] {
        &self.unreachable
    }
}

impl MemoryMap {
    /// The end of the first usable range that has no memory at its end: it begins with the first
    /// page that does not answer.
    ///
    /// A tree may state more memory than there is. `answers` tests the page at a physical address,
    /// where the access may fault. Memory is assumed to end only once in a range of
    /// [`linear`](Self::linear). Therefore only the last usable range in each of them is tested.
    /// When that range is reserved, the one before it becomes the last.
    pub fn silent(&self, mut answers: impl FnMut(u64) -> bool) -> Option<PhysRange> {
        self.linear.iter().find_map(|ram| {
            let mut usable = self.usable.iter().rev();
            let range = usable.find(|range| ram.bytes.contains(range.bytes))?;
            let page = |number: u64| range.bytes.start() + number * PAGE_SIZE;
            let (mut there, mut silent) = (0, range.frames());
            if answers(page(silent - 1)) {
                return None;
            }
            // All pages before `there` answer, and no page from `silent` on does.
            while there < silent {
                let middle = there + (silent - there) / 2;
                match answers(page(middle)) {
                    true => there = middle + 1,
                    false => silent = middle,
                }
            }
            PhysRange::from_bounds(page(there), range.bytes.end())
        })
    }
}

/// Refuses registers that would be mapped as Device memory while the same address is RAM that is
/// mapped as Normal: two memory types for one address (H13).
fn refuse_devices_in_memory(machine: &MachineDescription) -> Result<(), MemoryMapError> {
    let console = machine.console.as_ref().map(|found| found.registers);
    let gic: ArrayVec<PhysRange, { 2 + MAX_REDISTRIBUTOR_REGIONS }> =
        match &machine.interrupt_controller {
            InterruptController::GicV2 {
                distributor,
                cpu_interface,
            } => [*distributor, *cpu_interface].into_iter().collect(),
            InterruptController::GicV3 {
                distributor,
                redistributors,
                ..
            } => [*distributor]
                .into_iter()
                .chain(redistributors.iter().copied())
                .collect(),
        };
    let devices = console
        .into_iter()
        .map(|registers| ("console", registers))
        .chain(
            gic.into_iter()
                .map(|registers| ("interrupt controller", registers)),
        );
    for (device, registers) in devices {
        if let Some(bank) = machine.memory.iter().find(|bank| bank.overlaps(registers)) {
            return Err(MemoryMapError::DeviceInMemory {
                device,
                registers,
                bank: *bank,
            });
        }
    }
    Ok(())
}

type Ranges = ArrayVec<PhysRange, MAX_RANGES>;

/// Removes every page that `hole` touches from the sorted, disjoint, page-aligned `ranges`.
fn remove(ranges: &mut Ranges, hole: PhysRange) {
    let hole = hole.grown_to_pages();
    let mut index = 0;
    while index < ranges.len() {
        let range = ranges[index];
        if !range.overlaps(hole) {
            index += 1;
            continue;
        }
        let below = PhysRange::from_bounds(range.start(), hole.start().min(range.end()));
        let above = PhysRange::from_bounds(hole.end().max(range.start()), range.end());
        ranges.remove(index);
        for rest in [below, above].into_iter().flatten() {
            // Capacity: see MAX_RANGES.
            ranges.insert(index, rest);
            index += 1;
        }
    }
}

fn frames(ranges: &Ranges) -> ArrayVec<FrameRange, MAX_RANGES> {
    ranges
        .iter()
        .filter_map(|range| FrameRange::inside(*range))
        .collect()
}

/// Why the kernel cannot run in this machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryMapError {
    /// Less than [`MINIMUM_MEMORY`] is usable.
    TooLittle {
        /// Bytes that are usable.
        usable: u64,
    },
    /// Registers lie in RAM.
    DeviceInMemory {
        /// The device to which the registers belong.
        device: &'static str,
        /// Their addresses by the tree.
        registers: PhysRange,
        /// The RAM there.
        bank: PhysRange,
    },
    /// The image is not (entirely) in RAM that may be mapped.
    ImageOutsideMemory {
        /// Where the image is.
        image: PhysRange,
    },
}

impl fmt::Display for MemoryMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLittle { usable } => write!(
                f,
                "{} KiB of memory are usable, the kernel needs {} KiB: give the machine more, for \
                 example `cargo xtask run --memory 128M`, or reserve less in the device tree",
                usable >> 10,
                MINIMUM_MEMORY >> 10
            ),
            Self::DeviceInMemory {
                device,
                registers,
                bank,
            } => write!(
                f,
                "the device tree puts the registers of the {device}, {registers}, into memory, \
                 {bank}: one of the two is wrong; correct its `reg`"
            ),
            Self::ImageOutsideMemory { image } => write!(
                f,
                "the kernel runs at {image}, which the device tree does not list as memory that may \
                 be mapped: the tree belongs to another machine, or a no-map reservation covers \
                 the kernel; check the -dtb file and the load address"
            ),
        }
    }
}

impl core::error::Error for MemoryMapError {}

#[cfg(test)]
mod tests;
