// SPDX-License-Identifier: MIT OR Apache-2.0

//! RAM in the early tables, at the addresses of the kernel's linear map.
//!
//! The kernel builds its own tables in RAM, and it accesses a table through its linear map. That
//! map does not exist while the kernel builds it. Therefore the early tables map the RAM for these
//! tables at the same addresses, by 2 MiB blocks. These entries exist as long as the early tables.
//! The kernel's own map of the same addresses takes effect with
//! [`replace_ttbr1`](crate::replace_ttbr1), which invalidates between the two
//! (break-before-make, R29).

use crate::{BLOCK_SIZE, registers::block, switch::image_phys, tables::offset, window::publish};
use core::sync::atomic::{AtomicU64, Ordering};

/// Entries of a table.
const ENTRIES: u64 = 512;

/// Bytes that one level 2 table maps.
const L2_SPAN: u64 = ENTRIES * BLOCK_SIZE;

unsafe extern "C" {
    /// The early tables; only their address is used.
    static _boot_tables_start: [AtomicU64; 0];
}

/// Maps the RAM from `start` on, up to `end` at most, at `linear + start`: read-write, Normal,
/// never executable.
///
/// Returns the end of what is mapped, or `start` if there is nothing to map. At least 1 GiB is
/// mapped unless `end` or the end of a level 1 table (512 GiB) comes first.
///
/// # Safety
///
/// - Called once, by the boot CPU, with the early tables live (before
///   [`replace_ttbr1`](crate::replace_ttbr1));
/// - `linear` is the start of a level 0 entry that, with the entries after it, maps the physical
///   addresses from 0 on, apart from image and boot window;
/// - `start..end` is RAM that may be read and written as Normal memory; its bounds are multiples of
///   [`BLOCK_SIZE`].
pub unsafe fn show_ram(linear: u64, start: u64, end: u64) -> u64 {
    let virt = linear + start;
    let base = start / L2_SPAN * L2_SPAN;
    let (root, upper) = (virt >> 39, virt >> 30);
    let mut mapped = start;
    for (number, table) in [offset::LINEAR_L2, offset::LINEAR_L2 + 0x1000]
        .into_iter()
        .enumerate()
    {
        let span = base + number as u64 * L2_SPAN;
        // Beyond this address another level 1 table would be needed, and there is none.
        if (linear + span) >> 39 != root {
            break;
        }
        while mapped < end.min(span + L2_SPAN) {
            store(table, mapped / BLOCK_SIZE, mapped | block::DATA);
            mapped += BLOCK_SIZE;
        }
        store(
            offset::LINEAR_L1,
            upper + number as u64,
            address(table) | block::TABLE,
        );
    }
    store(
        offset::KERNEL_L0,
        root,
        address(offset::LINEAR_L1) | block::TABLE,
    );
    publish();
    mapped
}

/// Physical address of an early table.
fn address(table: u64) -> u64 {
    image_phys((&raw const _boot_tables_start) as u64) + table
}

/// Sets entry `index`, modulo the size of a table, of the early table at `table`.
///
/// The order of the calls does not matter. No walk reaches these tables until the entry of level 0
/// is stored, and walks are guaranteed to see the stores only after [`publish`].
fn store(table: u64, index: u64, value: u64) {
    let tables = (&raw const _boot_tables_start).cast::<AtomicU64>();
    let entry = tables.wrapping_add((table / 8 + index % ENTRIES) as usize);
    // SAFETY: linker.ld reserves `offset::END` bytes at `_boot_tables_start`, 4 KiB aligned, and
    // the early tables map them; the entry lies in them and is only ever accessed as this atomic.
    let entry = unsafe { &*entry };
    entry.store(value, Ordering::Relaxed);
}
