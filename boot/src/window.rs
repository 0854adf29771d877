// SPDX-License-Identifier: MIT OR Apache-2.0

//! The boot window: 512 slots of 2 MiB at [`WINDOW`], filled in order while the early tables are
//! live.
//!
//! The kernel reads the device tree through it, and it can map an early console there. The window
//! exists as long as the early tables; after [`replace_ttbr1`](crate::replace_ttbr1) its addresses
//! fault.
//!
//! A slot is filled once and never changed. Therefore only invalid-to-valid transitions occur, and
//! break-before-make never applies.

use crate::{BLOCK_SIZE, registers::block, tables::offset};
use core::{
    arch::asm,
    sync::atomic::{AtomicU64, Ordering},
};

/// First address of the boot window.
pub const WINDOW: u64 = 0xffff_ff00_0000_0000;

/// Number of 2 MiB slots in the window.
const SLOTS: usize = 512;

/// End of the physical addresses that the tables can express, in bytes.
const PHYS_END: u64 = 1 << 48;

unsafe extern "C" {
    /// The early tables; only their address is used.
    static _boot_tables_start: [AtomicU64; 0];
}

/// Maps the 2 MiB block around `phys` as Device-nGnRE in the boot window and returns the address of
/// `phys` in it.
///
/// It is meant for an early console, which must print a message about a broken device tree before
/// the kernel has tables of its own. Mapping the same block again returns the same address.
///
/// Returns `None` if the window is full or `phys` is 2^48 or more.
///
/// # Safety
///
/// The early tables must be live (before [`replace_ttbr1`](crate::replace_ttbr1)), `phys` must be
/// the address of a device, and no other memory that is accessed as Normal may lie in the same 2
/// MiB block.
pub unsafe fn map_early_device(phys: u64) -> Option<u64> {
    map(phys, block::DEVICE_MMIO)
}

/// Maps the block around `phys` as read-only Normal memory, and also the next block if the `size`
/// bytes extend into it. The second block lies directly above the first.
///
/// Only for data that firmware has written.
pub(crate) fn map_read_only(phys: u64, size: u64) -> Option<u64> {
    let virt = map(phys, block::READ_ONLY_DATA)?;
    let last = phys.checked_add(size.max(1) - 1)?;
    if last / BLOCK_SIZE != phys / BLOCK_SIZE {
        let second = map(last, block::READ_ONLY_DATA)?;
        let expected = (virt & !(BLOCK_SIZE - 1)) + BLOCK_SIZE;
        if second & !(BLOCK_SIZE - 1) != expected {
            return None;
        }
    }
    Some(virt)
}

/// Finds or fills a slot for the block around `phys`.
fn map(phys: u64, attributes: u64) -> Option<u64> {
    if phys >= PHYS_END {
        return None;
    }
    let wanted = (phys & !(BLOCK_SIZE - 1)) | attributes;
    for (index, entry) in slots().iter().enumerate() {
        let current = entry.load(Ordering::Relaxed);
        if current == 0 {
            entry.store(wanted, Ordering::Relaxed);
            publish();
        } else if current != wanted {
            continue;
        }
        return Some(WINDOW + index as u64 * BLOCK_SIZE + phys % BLOCK_SIZE);
    }
    None
}

/// The window's level 2 table.
fn slots() -> &'static [AtomicU64; SLOTS] {
    let tables = &raw const _boot_tables_start;
    let table = tables.cast::<u8>().wrapping_add(offset::WINDOW_L2 as usize);
    // SAFETY: linker.ld reserves `offset::END` bytes at `_boot_tables_start`, 4 KiB aligned, and
    // the early tables map them; the table is 4 KiB of plain integers and only ever accessed as
    // these atomics.
    unsafe { &*table.cast::<[AtomicU64; SLOTS]>() }
}

/// Makes new entries usable by this CPU.
///
/// Rule: invalid to valid needs `DSB ISHST; ISB` before the first use (R_SPVBD; verdict M5).
/// Witness: none in QEMU.
pub(crate) fn publish() {
    // SAFETY: barriers change no state that Rust can see. The asm is not `nomem`, so that the store
    // above is not moved below it.
    unsafe { asm!("dsb ishst", "isb", options(nostack, preserves_flags)) };
}
