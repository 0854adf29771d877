// SPDX-License-Identifier: MIT OR Apache-2.0
//! RAM and the parts of it that are reserved: `/memory`, `/reserved-memory`, the memory reservation
//! block (Devicetree Specification 3.4, 3.5, 5.3), and the ranges in `/chosen` where the loader has
//! put data.

use arrayvec::ArrayVec;

use super::Notes;
use super::description::{
    MAX_BANKS, MAX_RESERVATIONS, MachineDescription, Mapping, Note, Reservation,
};
use super::error::DeviceTreeError;
use super::place::Place;
use super::tree::Tree;
use crate::platform::phys_range::PhysRange;

/// In `/chosen`: the range in which a kernel that crashed and started this one has described its
/// memory.
const CORE_HEADER: &str = "linux,elfcorehdr";

/// RAM, sorted and merged.
pub fn banks(
    tree: Tree<'_>,
    notes: &mut Notes,
) -> Result<ArrayVec<PhysRange, MAX_BANKS>, DeviceTreeError> {
    /// Replaces `reg`: the memory that a kernel which started this one by kexec leaves to it.
    const USABLE: &str = "linux,usable-memory";
    let mut banks = ArrayVec::new();
    let mut without_reg = None;
    for node in tree.root().children() {
        // Disabled memory is not for this kernel: QEMU marks the secure world's RAM so.
        if node.text("device_type") != Some("memory") || !node.is_enabled() {
            continue;
        }
        let name = match (node.property(USABLE), node.property("reg")) {
            (Some(_), _) => USABLE,
            (None, Some(_)) => "reg",
            (None, None) => {
                without_reg.get_or_insert(node.path());
                continue;
            }
        };
        for (start, size) in node.pairs(name)? {
            // Firmware leaves the size of unused entries at zero.
            if let Some(bank) = clipped(start, size) {
                insert(&mut banks, bank, notes)?;
            }
        }
    }
    limit(tree, &mut banks)?;
    match without_reg {
        _ if !banks.is_empty() => Ok(banks),
        Some(node) => Err(DeviceTreeError::MissingProperty {
            node,
            property: "reg",
        }),
        None => Err(DeviceTreeError::NoMemory),
    }
}

/// The `size` bytes from `start`, without the part above 2^64; `None` if nothing is left.
fn clipped(start: u64, size: u64) -> Option<PhysRange> {
    PhysRange::from_bounds(start, start.saturating_add(size))
}

/// Restricts `banks` to `/chosen/linux,usable-memory-range`. The rest is the memory of the kernel
/// that crashed and started this one.
fn limit(
    tree: Tree<'_>,
    banks: &mut ArrayVec<PhysRange, MAX_BANKS>,
) -> Result<(), DeviceTreeError> {
    const NAME: &str = "linux,usable-memory-range";
    let chosen = tree.root().child("chosen");
    let Some(chosen) = chosen.filter(|chosen| chosen.property(NAME).is_some()) else {
        return Ok(());
    };
    let all = core::mem::take(banks);
    for (start, size) in chosen.pairs(NAME)? {
        for bank in &all {
            let end = start.saturating_add(size).min(bank.end());
            if let Some(part) = PhysRange::from_bounds(bank.start().max(start), end) {
                insert(banks, part, &mut Notes::default())?;
            }
        }
    }
    Ok(())
}

/// Inserts `new` into the sorted, disjoint `banks`, and joins it with every bank that it touches.
fn insert(
    banks: &mut ArrayVec<PhysRange, MAX_BANKS>,
    new: PhysRange,
    notes: &mut Notes,
) -> Result<(), DeviceTreeError> {
    let mut joined = new;
    banks.retain(|bank| {
        let both = bank.joined(joined);
        if both.is_some() && bank.overlaps(new) {
            notes.add(Note::OverlappingMemory {
                at: bank.start().max(new.start()),
            });
        }
        joined = both.unwrap_or(joined);
        both.is_none()
    });
    let place = banks
        .iter()
        .position(|bank| bank.start() > joined.start())
        .unwrap_or(banks.len());
    banks
        .try_insert(place, joined)
        .map_err(|_| DeviceTreeError::TooMany {
            what: "separate memory banks",
            limit: MAX_BANKS,
        })
}

/// All reservations, sorted by start.
pub fn reservations(
    tree: Tree<'_>,
    notes: &mut Notes,
) -> Result<ArrayVec<Reservation, MAX_RESERVATIONS>, DeviceTreeError> {
    let mut list = ArrayVec::new();
    for (start, size) in tree.memory_reservations() {
        push(&mut list, clipped(start, size), Mapping::Allowed)?;
    }
    if let Some(chosen) = tree.root().child("chosen") {
        push(&mut list, initrd(&chosen, notes)?, Mapping::Allowed)?;
        if chosen.property(CORE_HEADER).is_some() {
            for (start, size) in chosen.pairs(CORE_HEADER)? {
                push(&mut list, clipped(start, size), Mapping::Allowed)?;
            }
        }
    }
    let parent = tree.root().child("reserved-memory");
    for node in parent.iter().flat_map(Place::children) {
        if !node.is_enabled() {
            continue;
        }
        if node.property("reg").is_none() {
            notes.add(Note::ReservationWithoutAddress { node: node.path() });
            continue;
        }
        let mapping = match node.property("no-map") {
            Some(_) => Mapping::Forbidden,
            None => Mapping::Allowed,
        };
        for (start, size) in node.reg()? {
            push(&mut list, clipped(start, size), mapping)?;
        }
    }
    Ok(list)
}

/// The initial RAM disk. The kernel does not use it and does not overwrite it.
fn initrd(chosen: &Place<'_>, notes: &mut Notes) -> Result<Option<PhysRange>, DeviceTreeError> {
    let start = chosen.u64("linux,initrd-start")?;
    let end = chosen.u64("linux,initrd-end")?;
    match (start, end) {
        (None, None) => Ok(None),
        // Firmware states the same address twice if there is no RAM disk.
        (Some(start), Some(end)) if start <= end => Ok(PhysRange::from_bounds(start, end)),
        _ => {
            notes.add(Note::InitrdWithoutRange);
            Ok(None)
        }
    }
}

/// Adds `range`, unless it is empty.
fn push(
    list: &mut ArrayVec<Reservation, MAX_RESERVATIONS>,
    range: Option<PhysRange>,
    mapping: Mapping,
) -> Result<(), DeviceTreeError> {
    range.map_or(Ok(()), |range| reserve(list, range, mapping))
}

impl MachineDescription {
    /// Reserves memory that must not be accessed.
    ///
    /// # Errors
    /// [`DeviceTreeError::TooMany`].
    pub fn forbid(&mut self, range: PhysRange) -> Result<(), DeviceTreeError> {
        reserve(&mut self.reservations, range, Mapping::Forbidden)
    }
}

/// Adds `range`, joined with the reservations of the same mapping that it touches. Keeps the list
/// sorted by start.
fn reserve(
    list: &mut ArrayVec<Reservation, MAX_RESERVATIONS>,
    mut range: PhysRange,
    mapping: Mapping,
) -> Result<(), DeviceTreeError> {
    list.retain(|entry| {
        let same = entry.mapping == mapping;
        let joined = entry.range.joined(range).filter(|_| same);
        range = joined.unwrap_or(range);
        joined.is_none()
    });
    let place = list.partition_point(|entry| entry.range < range);
    list.try_insert(place, Reservation { range, mapping })
        .map_err(|_| DeviceTreeError::TooMany {
            what: "separate memory reservations",
            limit: MAX_RESERVATIONS,
        })
}
