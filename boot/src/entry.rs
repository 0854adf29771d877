// SPDX-License-Identifier: MIT OR Apache-2.0

//! The Image header and the first instructions.
//!
//! The header is that of Linux's `Documentation/arch/arm64/booting.rst`. QEMU and the Raspberry Pi
//! firmware load a flat file with this header [`IMAGE_OFFSET`] above a 2 MiB boundary and jump to
//! its first byte. At that point x0 holds the physical address of the device tree, the MMU is off,
//! the data cache is off or coherent with the image, and DAIF is masked (H1; docs/rules.md defines
//! all such numbers).
//!
//! Until the stack of `kernel_main` exists, nothing is saved in memory. All code up to there uses
//! the registers as follows:
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

/// How often a CPU with another affinity that has entered at EL3 looks at `boot_cpu_entered` before
/// it reports that the boot CPU is missing. This takes at least a second.
const PATIENCE: u64 = 0x2000_0000;

// Not 0 once the boot CPU has entered at EL3. It lies next to the code because the code can reach
// data by ADR only.
global_asm!(
    ".pushsection .text.boot, \"ax\"",
    ".balign 4",
    "boot_cpu_entered: .word 0",
    ".popsection",
);

/// The first instructions after the header: they install vectors, check the image and the CPU, and
/// then execute the steps that the head of the crate lists.
///
/// The code runs at EL1, EL2 or EL3 with the MMU off, at the address where the image was loaded.
/// Every reference is PC-relative.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
pub(crate) extern "C" fn entry() -> ! {
    naked_asm!(
        "mov x19, x0",
        // Two measured windows begin, for a counter outside of the machine. Elsewhere the hints
        // are NOPs (kernel/src/arch/window.rs).
        "mov x0, #{TO_KERNEL_MAIN}",
        "hint #0x60",
        "mov x0, #{TO_THE_END_OF_BOOT}",
        "hint #0x60",
        "mrs x20, CurrentEL",
        "lsr x20, x20, #2",           // CurrentEL[3:2]
        // Below EL3 the boot protocol lets one CPU enter, with any affinity: it is the boot CPU.
        // At EL3 there is no such protocol, and QEMU lets all CPUs enter an ELF file at once. An
        // election would need exclusives, which Device memory does not support (H4), so
        // the boot CPU is the one with affinity 0.0.0.0. It sets a word that the other CPUs poll.
        // A CPU that does not see the word set in time reports that the boot CPU is missing.
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
        "mov x23, x1",                // reported below, once the vectors are installed
        "b 1f",
        "12:",
        "ldr w0, ={SECONDARY}",
        "b {park}",
        "9:",
        "mov w2, #1",
        "str w2, [x3]",               // others see it in finite time without a barrier
        "1:",
        // 2 MiB blocks can map the image at its link address only if its physical and its virtual
        // address have the same offset in a block. ADR is exact for every load address, ADRP only
        // for one that is page aligned.
        "adr x21, _image_start",
        "adr x0, boot_park_vectors",
        "and x2, x21, #0x1fffff",
        "cmp x2, #{IMAGE_OFFSET}",
        "b.eq 2f",
        // The image is misaligned, so its vectors may not have the alignment that VBAR_ELx needs.
        // Build a table for the exceptions of this level in the text after the boot code, which
        // will not run: each of its two entries is a B to the vector that reports.
        "adr x3, _text_boot_end",
        "add x3, x3, #1, lsl #12",
        "and x3, x3, #~0x7ff",
        "add x0, x0, #0x200",
        "sub x2, x0, x3",
        "lsr x2, x2, #2",
        "mov w4, #0x14000000",
        "bfxil w4, w2, #0, #26",
        "str w4, [x3]",               // exceptions taken on SP_EL0
        "sub x2, x2, #(0x200 / 4)",
        "bfxil w4, w2, #0, #26",
        "str w4, [x3, #0x200]",       // exceptions taken on SP_ELx
        // With the MMU off the stores reach memory. IC IALLU removes older copies from the
        // instruction cache, and the ISB makes this CPU fetch again. No witness: QEMU has no
        // such cache.
        "dsb sy",
        "ic iallu",
        "dsb sy",
        "isb",
        "mov x0, x3",
        "2:",
        // From here on an exception is reported.
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
        "tbz x1, #31, 7f",            // TGran4: a negative value means no 4 KiB granule
        "adr x22, boot_text_no_4k_granule",
        "mov x9, x1",
        "ldr w0, ={NO_4K_GRANULE}",
        "b {fail}",
        "7:",
        "bl {drop_to_el1}",
        "bl {init_el1}",
        "bl {build}",                 // x0, x1 := TTBR0, TTBR1
        "bl {enable_mmu}",
        // The PC is still a physical address, through the identity map. A literal holds the link
        // address. It is the first absolute reference of the image, and the BR is the last
        // instruction at a physical address (H2).
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

/// First instructions at the link address: they set the stack, clear `.bss` and call Rust code.
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
        // .bss is not in the file. The caches are on, so clearing it needs no cache maintenance:
        // the stores overwrite what the caches hold of it. The early tables and this stack lie
        // outside of the range (linker.ld). Both ends are 16-byte aligned.
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
