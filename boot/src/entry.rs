// SPDX-License-Identifier: MIT OR Apache-2.0

//! The Image header and the first instructions.
//!
//! The header is the one of Linux's `Documentation/arch/arm64/booting.rst`: QEMU and the Raspberry
//! Pi firmware load a flat file with it [`IMAGE_OFFSET`] above a 2 MiB boundary and jump to its
//! first byte with the physical address of the device tree in x0, MMU off, D-cache off or coherent
//! with the image, DAIF masked (H1 of docs/hardware.md, like all such numbers).
//!
//! Register plan of the whole path until `kernel_main`'s stack exists (nothing is saved in memory
//! before that):
//!
//! | register | holds |
//! |---|---|
//! | x19 | x0 as the firmware gave it |
//! | x20 | exception level of the entry: 1, 2 or 3 |
//! | x21 | physical address of `_image_start` |
//! | x0-x17 | scratch of the routines |
//! | x30 | return address; no routine nests deeper than one call |

use crate::{
    IMAGE_OFFSET, IMAGE_VIRT, el,
    fail::fail,
    handoff,
    mmu_on::{enable_mmu, init_el1},
    park::{self, park},
    tables,
};
use core::arch::{global_asm, naked_asm};

global_asm!(
    ".pushsection .text.boot.header, \"ax\"",
    ".globl _start",
    ".type _start, @function",
    "_start:",
    "b {entry}",               // code0: the firmware jumps here
    ".long 0",                 // code1
    ".quad {IMAGE_OFFSET}",    // text_offset from a 2 MiB boundary
    ".quad _image_size",       // image_size: memory that must be free, .bss included
    ".quad 0xa",               // flags: little-endian, 4 KiB pages, any 2 MiB boundary
    ".quad 0, 0, 0",           // reserved
    ".ascii \"ARM\\x64\"",     // magic
    ".long 0",                 // no PE header
    ".size _start, . - _start",
    ".popsection",
    entry = sym entry,
    IMAGE_OFFSET = const IMAGE_OFFSET,
);

/// Looks for the word of the boot CPU at EL3 before a CPU of another affinity reports that it is missing: a
/// second at least.
const PATIENCE: u64 = 0x2000_0000;

// Not 0 once the boot CPU has entered at EL3. Beside the code, as all of this may be reached by ADR only.
global_asm!(
    ".pushsection .text.boot, \"ax\"",
    ".balign 4",
    "boot_cpu_entered: .word 0",
    ".popsection",
);

/// First instructions after the header: installs vectors and refuses what cannot work, then walks through
/// the steps of the crate's head.
///
/// Runs at any of EL1, EL2, EL3 with the MMU off, at whatever address the image was loaded; every
/// reference is PC-relative.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
pub(crate) extern "C" fn entry() -> ! {
    naked_asm!(
        "mov x19, x0",
        // Two measured windows begin, for a counter outside of the machine; other CPUs and counters
        // take the hints for NOPs (kernel/src/arch/window.rs).
        "mov x0, #{TO_KERNEL_MAIN}",
        "hint #0x60",
        "mov x0, #{TO_THE_END_OF_BOOT}",
        "hint #0x60",
        "mrs x20, CurrentEL",
        "lsr x20, x20, #2",           // CurrentEL[3:2]
        // Below EL3 the one CPU that enters is the boot CPU, whatever its affinity: that is the boot
        // protocol. At EL3 there is none, and QEMU lets all CPUs enter an ELF file at once. Electing one
        // would take exclusives, which Device memory does not support (B2.12.2, H4), so there it is the
        // CPU with affinity 0.0.0.0. It leaves a word for the others, and one that waits for this word in
        // vain reports that the wrong CPU has entered.
        "mov x23, #0",
        "cmp x20, #3",
        "b.ne 1f",
        "mrs x1, mpidr_el1",
        "and x2, x1, #0xffffff",      // Aff2, Aff1, Aff0
        "ubfx x3, x1, #32, #8",       // Aff3
        "orr x2, x2, x3",
        "adr x3, boot_cpu_entered",
        "cbz x2, 9f",
        "mov w4, #{PATIENCE}",
        "8:",
        "ldr w2, [x3]",
        "cbnz w2, 12f",
        "subs w4, w4, #1",
        "b.ne 8b",
        "mov x23, x1",                // reported below, when a fault can be told
        "b 1f",
        "12:",
        "ldr w0, ={SECONDARY}",
        "b {park}",
        "9:",
        "mov w2, #1",
        "str w2, [x3]",               // others see it in finite time, without a barrier
        "1:",
        // 2 MiB blocks map the image at its link address only if both have the same offset in a
        // block. ADR is exact for any load address, ADRP only for one that is page aligned.
        "adr x21, _image_start",
        "adr x0, boot_park_vectors",
        "and x2, x21, #0x1fffff",
        "cmp x2, #{IMAGE_OFFSET}",
        "b.eq 2f",
        // The vectors may not be aligned as VBAR_ELx wants it, so there is a table for the faults of this
        // level in the text behind the boot, which is not going to run: B to the vector that reports.
        "adr x3, _text_boot_end",
        "add x3, x3, #1, lsl #12",
        "and x3, x3, #~0x7ff",
        "add x0, x0, #0x200",
        "sub x2, x0, x3",
        "lsr x2, x2, #2",
        "mov w4, #0x14000000",
        "bfxil w4, w2, #0, #26",
        "str w4, [x3]",               // on SP_EL0
        "sub x2, x2, #(0x200 / 4)",
        "bfxil w4, w2, #0, #26",
        "str w4, [x3, #0x200]",       // on SP_ELx
        // With the MMU off the stores reach memory; older copies in the instruction cache go, and the ISB
        // fetches anew. No witness: QEMU has no such cache.
        "dsb sy",
        "ic iallu",
        "dsb sy",
        "isb",
        "mov x0, x3",
        "2:",
        // From here on a fault is told.
        "cmp x20, #2",
        "b.hi 4f",
        "b.eq 3f",
        "msr vbar_el1, x0",
        "b 5f",
        "3:",
        "msr vbar_el2, x0",
        "b 5f",
        "4:",
        "msr vbar_el3, x0",
        "5:",
        "isb",
        "cbz x23, 13f",
        "adr x22, boot_text_no_boot_cpu",
        "mov x9, x23",
        "mov x1, x23",
        "ldr w0, ={SECONDARY}",
        "b {fail}",
        "13:",
        "and x2, x21, #0x1fffff",
        "cmp x2, #{IMAGE_OFFSET}",
        "b.eq 6f",
        "adr x22, boot_text_misaligned",
        "mov x9, x21",
        "mov x1, x21",
        "ldr w0, ={MISALIGNED}",
        "b {fail}",
        "6:",
        "mrs x1, id_aa64mmfr0_el1",
        "tbz x1, #31, 7f",            // TGran4: negative means no 4 KiB granule
        "adr x22, boot_text_no_4k_granule",
        "mov x9, x1",
        "ldr w0, ={NO_4K_GRANULE}",
        "b {fail}",
        "7:",
        "bl {drop_to_el1}",
        "bl {init_el1}",
        "bl {build}",                 // x0, x1 := TTBR0, TTBR1
        "bl {enable_mmu}",
        // Still at the physical address, through the identity map. A literal holds the link
        // address: the first absolute reference of the image, and the last instruction that runs
        // here (H2).
        "ldr x8, ={upper_half}",
        "br x8",
        drop_to_el1 = sym el::drop_to_el1,
        init_el1 = sym init_el1,
        build = sym tables::build,
        enable_mmu = sym enable_mmu,
        upper_half = sym upper_half,
        park = sym park,
        fail = sym fail,
        NO_4K_GRANULE = const park::NO_4K_GRANULE,
        PATIENCE = const PATIENCE,
        SECONDARY = const park::SECONDARY,
        MISALIGNED = const park::MISALIGNED,
        IMAGE_OFFSET = const IMAGE_OFFSET,
        TO_KERNEL_MAIN = const (crate::TO_KERNEL_MAIN as u64) << 24,
        TO_THE_END_OF_BOOT = const (crate::TO_THE_END_OF_BOOT as u64) << 24,
    )
}

/// First instructions at the link address: stack, zeroed `.bss`, then Rust.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn upper_half() -> ! {
    naked_asm!(
        "adrp x0, _boot_stack_top",
        "add x0, x0, :lo12:_boot_stack_top",
        "mov sp, x0",
        // Backtraces end at a frame record of zeros (AAPCS64 6.4.6).
        "mov x29, #0",
        "mov x30, #0",
        // .bss is not in the file. Cleared now, with the caches on, it needs no maintenance:
        // whatever the caches held of it is simply overwritten. The early tables and this stack lie
        // outside of the range (linker.ld); both ends are 16-byte aligned.
        "adrp x0, _bss_zero_start",
        "add x0, x0, :lo12:_bss_zero_start",
        "adrp x1, _bss_zero_end",
        "add x1, x1, :lo12:_bss_zero_end",
        "1:",
        "cmp x0, x1",
        "b.hs 2f",
        "stp xzr, xzr, [x0], #16",
        "b 1b",
        "2:",
        "mov x0, x19",
        "mov x1, x21",
        "mov x2, x20",
        "bl {first_rust}",
        "brk #0", // it does not return
        first_rust = sym handoff::first_rust,
    )
}

const _: () = assert!(
    IMAGE_VIRT % crate::BLOCK_SIZE == IMAGE_OFFSET,
    "link and load address must have the same offset in a block"
);
