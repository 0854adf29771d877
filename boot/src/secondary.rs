// SPDX-License-Identifier: MIT OR Apache-2.0

//! The code that a secondary CPU executes from its physical entry to `secondary_main`.
//!
//! Firmware starts the CPU at [`entry_phys`] (PSCI CPU_ON, or a spin table), at EL1, EL2 or EL3,
//! with MMU and caches off. The contents of its registers depend on the method (PSCI passes a
//! context id, a spin table does not). Therefore no register is used, and the CPU identifies itself
//! by MPIDR_EL1.
//!
//! # The order, and why
//!
//! 1. [`el`] and [`mmu_on`](crate::mmu_on) run as on the boot CPU, because each CPU has its own
//!    controls that reset to UNKNOWN values. TTBR0 is the identity map of the early tables, which
//!    still lie where boot built them, and TTBR1 is the kernel's final root.
//! 2. The CPU jumps to the upper half. It does not need the identity map any more and ends it as
//!    [`drop_identity_map`](crate::drop_identity_map) does.
//! 3. The table of [`Slot`]s says which stack belongs to this CPU. The CPU reads it with the caches
//!    on, like everything else that the kernel has written.
//!
//! # Caches
//!
//! A CPU with its caches off reads memory, not what another CPU's cache holds, and its stores
//! bypass lines that other CPUs may hold. Therefore it stores nothing until its caches are on, and
//! it reads three things only:
//!
//! - instructions and literals of `.text.boot`, which firmware put into memory and nothing writes;
//! - the early tables, through the walker, which is coherent (TCR_EL1.IRGN, ORGN and SH), and only
//!   once the MMU is on;
//! - the kernel's root, a word that [`prepare`] cleans to the point of coherency (H16).
//!
//! QEMU has no caches and cannot show the loss of any of this. `cargo xtask check` examines
//! [`prepare`], and the loads and stores of this path.

use crate::{
    el,
    mmu_on::{enable_mmu, init_el1},
    park::{self, park},
    registers::TCR_EPD0,
    switch,
    tables::offset,
};
use core::{
    arch::{asm, naked_asm},
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering},
};

/// The stack of one secondary CPU, and the affinity by which that CPU finds it.
#[repr(C)]
#[derive(Debug)]
pub struct Slot {
    /// Affinity fields of its MPIDR_EL1, all other bits 0; [`Slot::NOBODY`] if the slot is free.
    mpidr: AtomicU64,
    /// Address of the end of its stack, 16-byte aligned.
    stack_top: AtomicU64,
}

impl Slot {
    /// No CPU has this affinity: the bits above Aff3 are never part of one.
    pub const NOBODY: u64 = u64::MAX;

    /// A free slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            mpidr: AtomicU64::new(Self::NOBODY),
            stack_top: AtomicU64::new(0),
        }
    }

    /// Assigns the slot to the CPU with affinity `mpidr`, which has not been started yet and will
    /// run on the stack below `stack_top`.
    ///
    /// # Safety
    ///
    /// - `stack_top` is 16-byte aligned; the memory below it is mapped writable by the kernel's
    ///   root, and nothing else uses it from now on;
    /// - the slot has not been assigned before.
    pub unsafe fn give(&self, mpidr: u64, stack_top: u64) {
        self.stack_top.store(stack_top, Ordering::Relaxed);
        // A CPU that finds its affinity also finds its stack. `Relaxed` would be enough, because
        // that CPU is started after these stores and a DSB.
        self.mpidr.store(mpidr, Ordering::Release);
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

/// The data that a secondary CPU reads before it has a stack.
#[repr(C)]
pub(crate) struct Shared {
    /// Physical address of the upper half's root: read with the caches off.
    root: AtomicU64,
    /// The slots: read with the caches on.
    slots: AtomicU64,
    count: AtomicU64,
}

/// Offset of the root.
pub(crate) const ROOT: usize = offset_of!(Shared, root);

pub(crate) static SHARED: Shared = Shared {
    root: AtomicU64::new(0),
    slots: AtomicU64::new(0),
    count: AtomicU64::new(0),
};

/// The affinity fields of MPIDR_EL1: Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0.
pub const AFFINITY: u64 = 0xff_00ff_ffff;

unsafe extern "C" {
    /// The kernel's entry for secondary CPUs, defined by the crate that links this one: EL1, MMU
    /// and caches on, all of DAIF masked, on the stack of `slot`, with no per-CPU block and the
    /// vectors of [`mod@park`]; the lower half translates nothing.
    safe fn secondary_main(slot: u64) -> !;
}

/// Publishes the upper half's root and the slots for secondary CPUs.
///
/// Call it before the first secondary CPU is started. Each CPU is started after its slot is
/// [assigned](Slot::give) and a `DSB SY`, so that it sees these stores.
///
/// # Safety
///
/// - `root_phys` is the root of the upper half that is in use, and it stays in use;
/// - the early tables are as boot left them ([`crate::drop_identity_map`] does not change them).
// Checked by its name in the machine code (`cargo xtask check`).
#[inline(never)]
pub unsafe fn prepare(root_phys: u64, slots: &'static [Slot]) {
    let first = slots.as_ptr().expose_provenance() as u64;
    SHARED.slots.store(first, Ordering::Relaxed);
    SHARED.count.store(slots.len() as u64, Ordering::Relaxed);
    SHARED.root.store(root_phys, Ordering::Relaxed);
    // Rule: H16. Witness: `cargo xtask check`; QEMU has no caches.
    // SAFETY: cache maintenance changes nothing that Rust can see. When the DSB completes, the word
    // is in memory, where a CPU with its caches off reads it. Later stores to neighbors in the same
    // line write back this same word.
    unsafe {
        asm!(
            "dc cvac, {word}",
            "dsb sy",
            word = in(reg) &raw const SHARED.root,
            options(nostack, preserves_flags),
        );
    }
}

/// Physical address at which firmware must start a secondary CPU.
#[must_use]
pub fn entry_phys() -> u64 {
    switch::image_phys(entry as *const () as u64)
}

/// The entry, at its physical address, at EL1, EL2 or EL3. Every reference is PC-relative.
///
/// The registers are used as in [`crate::entry`], but x21 holds the physical address of the early
/// tables.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn entry() -> ! {
    naked_asm!(
        "mrs x1, id_aa64mmfr0_el1",
        "tbz x1, #31, 1f",             // TGran4: a negative value means no 4 KiB granule
        "ldr w0, ={NO_4K_GRANULE}",
        "b {park}",
        "1:",
        "mrs x20, CurrentEL",
        "lsr x20, x20, #2",            // CurrentEL[3:2]
        "bl {drop_to_el1}",
        "bl {init_el1}",
        "adrp x21, _boot_tables_start", // 4 KiB aligned
        "adrp x2, {SHARED}",
        "add x2, x2, :lo12:{SHARED}",
        "ldr x1, [x2, #{ROOT}]",       // TTBR1; the only data read with the caches off
        "add x0, x21, #{IDENTITY_L0}", // TTBR0
        "bl {enable_mmu}",
        "ldr x8, ={upper_half}",       // an absolute address: the link address
        "br x8",
        drop_to_el1 = sym el::drop_to_el1,
        init_el1 = sym init_el1,
        enable_mmu = sym enable_mmu,
        upper_half = sym upper_half,
        park = sym park,
        NO_4K_GRANULE = const park::NO_4K_GRANULE,
        SHARED = sym SHARED,
        ROOT = const ROOT,
        IDENTITY_L0 = const offset::IDENTITY_L0,
    )
}

/// First instructions at the link address: they end the identity map, find the slot and set the
/// stack.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn upper_half() -> ! {
    naked_asm!(
        // From here on an exception parks at an address that is valid without the identity map.
        "adrp x0, boot_park_vectors",
        "add x0, x0, :lo12:boot_park_vectors",
        "msr vbar_el1, x0",
        // As in `drop_identity_map`: the empty root takes effect, then EPD0 takes effect, then this
        // CPU's TLB is invalidated, and the invalidation completes (R_YNJCP, U2; H12 says NSH, and
        // `cargo xtask check` sees it). The scope is local: another CPU's TLB holds the identity
        // map only while that CPU is on this path, and then it executes the same instructions.
        "mov x0, #{EMPTY}",
        "add x0, x0, x21",
        "msr ttbr0_el1, x0",
        "isb",
        "mrs x0, tcr_el1",
        "orr x0, x0, #{EPD0}",
        "msr tcr_el1, x0",
        "isb",
        "tlbi vmalle1",
        "dsb nsh",
        "isb",
        // Find the slot with this CPU's affinity.
        "mrs x1, mpidr_el1",
        "ldr x2, ={AFFINITY}",
        "and x1, x1, x2",
        "adrp x2, {SHARED}",
        "add x2, x2, :lo12:{SHARED}",
        "ldr x3, [x2, #{SLOTS}]",
        "ldr x4, [x2, #{COUNT}]",
        "mov x0, #0",
        "1:",
        "cmp x0, x4",
        "b.hs 3f",
        "ldr x5, [x3, #{MPIDR}]",
        "cmp x5, x1",
        "b.eq 2f",
        "add x3, x3, #{SLOT_SIZE}",
        "add x0, x0, #1",
        "b 1b",
        "2:",
        "ldr x5, [x3, #{STACK_TOP}]",
        "mov sp, x5",
        // Backtraces end at a frame record of zeros (AAPCS64 6.4.6).
        "mov x29, #0",
        "mov x30, #0",
        "bl {secondary_main}",
        "brk #0",                      // it does not return
        "3:",
        "ldr w0, ={NO_SLOT}",
        "b {park}",
        EMPTY = const offset::EMPTY,
        EPD0 = const TCR_EPD0,
        AFFINITY = const AFFINITY,
        SHARED = sym SHARED,
        SLOTS = const offset_of!(Shared, slots),
        COUNT = const offset_of!(Shared, count),
        MPIDR = const offset_of!(Slot, mpidr),
        STACK_TOP = const offset_of!(Slot, stack_top),
        SLOT_SIZE = const size_of::<Slot>(),
        secondary_main = sym secondary_main,
        NO_SLOT = const park::NO_SLOT,
        park = sym park,
    )
}
