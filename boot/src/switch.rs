// SPDX-License-Identifier: MIT OR Apache-2.0

//! The two changes of a live translation root that the kernel makes while it starts.
//!
//! A root cannot be replaced while its half is in use: with old and new entries both reachable, a
//! TLB may hold two different translations of one address (Arm ARM, "Using break-before-make when
//! updating translation table entries"). Therefore the code that replaces it runs from the *other*
//! half: [`replace_ttbr1`] runs from the identity map, while the upper half translates nothing
//! (H14).

use crate::{IMAGE_VIRT, handoff, registers::TCR_EPD0, tables::offset};
use core::arch::{asm, naked_asm};

unsafe extern "C" {
    /// The early tables; only their address is used.
    static _boot_tables_start: [u8; 0];
}

/// Physical address of an object in the image, from its virtual address.
pub(crate) fn image_phys(virt: u64) -> u64 {
    virt - IMAGE_VIRT + handoff::image_phys()
}

/// Physical address of a table that translates nothing.
fn empty_table() -> u64 {
    image_phys((&raw const _boot_tables_start) as u64) + offset::EMPTY
}

/// Makes `new_root_phys` the root of the upper half. The kernel calls it once, when its own tables
/// are complete.
///
/// Masks all of DAIF during the switch and restores it. The boot window does not exist afterwards.
///
/// # Safety
///
/// - `new_root_phys` is a 4 KiB aligned level 0 table that maps everything that is still accessed;
///   this includes the image and the stack in use, with at least the permissions that the following
///   code needs;
/// - the identity map still exists ([`drop_identity_map`] has not been called), and no other CPU
///   uses the early tables.
pub unsafe fn replace_ttbr1(new_root_phys: u64) {
    let identity = image_phys(switch_ttbr1 as *const () as u64);
    // SAFETY: `identity` is the address at which the identity map maps `switch_ttbr1` (.text.boot
    // lies in its block); the caller vouches for the new root. The function has the C calling
    // convention.
    let switch = unsafe { core::mem::transmute::<u64, unsafe extern "C" fn(u64, u64)>(identity) };
    // SAFETY: as above; the arguments are a complete root and an empty one.
    unsafe { switch(new_root_phys, empty_table()) };
}

/// The switch itself. In: x0 = new root, x1 = empty root. Called at its physical address.
///
/// The stack is unreachable between the two writes of TTBR1, so everything stays in registers.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
unsafe extern "C" fn switch_ttbr1(new_root: u64, empty: u64) {
    naked_asm!(
        "mrs x2, daif",
        "msr daifset, #0xf", // vectors and stack are unreachable for a moment
        // The stores to the new tables are visible to walks (R_SPVBD), and all accesses through
        // the old tables have completed.
        "dsb ish",
        "msr ttbr1_el1, x1",
        "isb",          // from here on no walk starts at the old root
        "tlbi vmalle1", // local: no other CPU is running
        "dsb nsh",      // the invalidation is complete (R_YNJCP)
        "isb",
        "msr ttbr1_el1, x0",
        "isb",
        "msr daif, x2",
        "ret",
    )
}

/// Ends the identity map: TTBR0 points to an empty table and is not walked (TCR_EL1.EPD0 = 1).
///
/// Afterwards every lower-half access faults, until a user address space clears EPD0. Secondary
/// CPUs use the identity map later, with their own TTBR0 and TCR, so its tables stay in memory.
///
/// # Safety
///
/// Nothing may use a lower-half address any more: the vectors are the kernel's own, and
/// [`replace_ttbr1`] has been called.
// Checked by its name in the machine code (`cargo xtask check`).
#[inline(never)]
pub unsafe fn drop_identity_map() {
    // SAFETY: the caller vouches that nothing uses the lower half; the upper half is not touched.
    // Order: the empty root takes effect, then EPD0 takes effect, then the TLB is invalidated, and
    // the invalidation completes (R_YNJCP, U2).
    unsafe {
        asm!(
            "msr ttbr0_el1, {empty}",
            "isb",
            "mrs {tcr}, tcr_el1",
            "orr {tcr}, {tcr}, #{EPD0}",
            "msr tcr_el1, {tcr}",
            "isb",
            "tlbi vmalle1",
            "dsb nsh",
            "isb",
            empty = in(reg) empty_table(),
            tcr = out(reg) _,
            EPD0 = const TCR_EPD0,
            options(nostack, preserves_flags),
        );
    }
}
