// SPDX-License-Identifier: MIT OR Apache-2.0
//! RAM and what of it is taken: `/memory`, `/reserved-memory` and the memory
//! reservation block (Devicetree Specification 3.4, 3.5, 5.3).

use arrayvec::ArrayVec;

use super::Notes;
use super::description::{MAX_BANKS, MAX_RESERVATIONS, Mapping, Note, Reservation};
use super::error::{DeviceTreeError, NodePath};
use super::place::{Place, Sizes};
use super::tree::Tree;
use crate::platform::phys_range::PhysRange;

/// RAM, sorted and merged.
pub fn banks(
    tree: Tree<'_>,
    notes: &mut Notes,
) -> Result<ArrayVec<PhysRange, MAX_BANKS>, DeviceTreeError> {
    let mut banks = ArrayVec::new();
    for node in tree.root().children() {
        // Disabled memory belongs to somebody else: QEMU marks the secure
        // world's RAM so.
        if !is_memory(&node) || !node.is_enabled() {
            continue;
        }
        for (start, size) in node.reg(Sizes::Bytes)? {
            // Firmware leaves slots it does not fill at size zero.
            if size > 0 {
                insert(&mut banks, node.range(start, size)?, notes)?;
            }
        }
    }
    if banks.is_empty() {
        return Err(DeviceTreeError::NoMemory);
    }
    Ok(banks)
}

fn is_memory(node: &Place<'_>) -> bool {
    match node.text("device_type") {
        Some(kind) => kind == "memory",
        None => node.base_name() == "memory",
    }
}

/// Inserts `new` into the sorted, disjoint `banks`, joining it with every bank
/// it touches.
fn insert(
    banks: &mut ArrayVec<PhysRange, MAX_BANKS>,
    new: PhysRange,
    notes: &mut Notes,
) -> Result<(), DeviceTreeError> {
    let mut joined = new;
    banks.retain(|bank| {
        let touches = bank.start() <= joined.end() && joined.start() <= bank.end();
        if touches {
            if bank.overlaps(new) {
                notes.add(Note::OverlappingMemory {
                    at: bank.start().max(new.start()),
                });
            }
            let start = bank.start().min(joined.start());
            let end = bank.end().max(joined.end());
            joined = PhysRange::from_bounds(start, end).unwrap_or(joined);
        }
        !touches
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

/// Everything reserved, sorted by start.
pub fn reservations(
    tree: Tree<'_>,
    notes: &mut Notes,
) -> Result<ArrayVec<Reservation, MAX_RESERVATIONS>, DeviceTreeError> {
    let mut list = ArrayVec::new();
    for (start, size) in tree.memory_reservations() {
        // An entry of size zero reserves nothing.
        if size == 0 {
            continue;
        }
        let range = PhysRange::new(start, size).ok_or_else(|| DeviceTreeError::BadRange {
            node: NodePath::from_text("memory reservation block"),
            start,
            size,
        })?;
        push(&mut list, range, Mapping::Allowed)?;
    }
    let Some(parent) = tree.root().child("reserved-memory") else {
        return finish(list);
    };
    for node in parent.children().filter(Place::is_enabled) {
        if node.property("reg").is_none() {
            notes.add(Note::ReservationWithoutAddress { node: node.path() });
            continue;
        }
        let mapping = match node.property("no-map") {
            Some(_) => Mapping::Forbidden,
            None => Mapping::Allowed,
        };
        for (start, size) in node.reg(Sizes::Bytes)? {
            if size > 0 {
                push(&mut list, node.range(start, size)?, mapping)?;
            }
        }
    }
    finish(list)
}

fn push(
    list: &mut ArrayVec<Reservation, MAX_RESERVATIONS>,
    range: PhysRange,
    mapping: Mapping,
) -> Result<(), DeviceTreeError> {
    list.try_push(Reservation { range, mapping })
        .map_err(|_| DeviceTreeError::TooMany {
            what: "memory reservations",
            limit: MAX_RESERVATIONS,
        })
}

fn finish(
    mut list: ArrayVec<Reservation, MAX_RESERVATIONS>,
) -> Result<ArrayVec<Reservation, MAX_RESERVATIONS>, DeviceTreeError> {
    list.sort_unstable_by_key(|entry| entry.range);
    Ok(list)
}
