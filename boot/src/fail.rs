// SPDX-License-Identifier: MIT OR Apache-2.0

//! Reports errors until the kernel has its vectors and a console. The message goes to each channel
//! in turn, and then the CPU [`park`]s.
//!
//! The channels, in this order:
//!
//! 1. the UART of the board that the load address implies ([`implied_uart`]), with the line
//!    settings that firmware left;
//! 2. the host of an emulator or debugger, by semihosting, which also ends the run. Where no host
//!    listens, the semihosting instruction is undefined.
//!
//! Both channels may fault. All early vectors lead to [`exception`]: after a fault of the first
//! channel it continues with the second, and after a fault of the second it parks.
//!
//! The code runs at EL1, EL2 or EL3, on any CPU, without a stack and with the MMU off, so H2 to H5
//! hold for it. At EL1 it turns the MMU off itself. It cannot do so while it runs at a link
//! address. Only a secondary CPU has these vectors there: its exception parks it without a message,
//! and the boot CPU reports that this CPU did not start.

use crate::{
    park::{EXCEPTION, park},
    secondary::{ROOT, SHARED},
};
use core::arch::{global_asm, naked_asm};

/// Load address on a Raspberry Pi 4, and its PL011.
const PI: (u64, u64) = (0x8_0000, 0xfe20_1000);

/// Bits 63:28 of load addresses on QEMU's `virt`, and its PL011.
const VIRT: (u64, u64) = (0x4, 0x0900_0000);

/// Physical address and size in bytes of the PL011 that the image address `image` implies: that of
/// a Raspberry Pi 4 for 0x8_0000, that of QEMU's `virt` for 0x4000_0000 to 0x4fff_ffff, and `None`
/// for all other addresses.
#[must_use]
pub const fn implied_uart(image: u64) -> Option<(u64, u64)> {
    if image == PI.0 {
        Some((PI.1, 0x200))
    } else if image >> 28 == VIRT.0 {
        Some((VIRT.1, 0x1000))
    } else {
        None
    }
}

/// How often UARTFR is read before a byte is written anyway. This takes at least some milliseconds.
const PATIENCE: u64 = 0x10_0000;

/// SYS_WRITEC: prints the byte at x1.
const SYS_WRITEC: u64 = 0x03;
/// SYS_EXIT: ends the run; x1 is the address of reason and status.
const SYS_EXIT: u64 = 0x18;
/// The reason: the application ends.
const APPLICATION_EXIT: u64 = 0x2_0026;

// A text of two parts. The second part is printed only if the run ends. `%` means the next value,
// in hexadecimal.
macro_rules! text {
    ($name:literal, $text:literal, $end:literal) => {
        global_asm!(
            ".pushsection .text.boot, \"ax\"",
            concat!(".globl ", $name),
            concat!($name, ":"),
            concat!(".asciz \"", $text, "\\r\\n\""),
            concat!(".asciz \"lazymmu: exit ", $end, "\\r\\n\""),
            ".balign 4",
            ".popsection",
        );
    };
}

text!(
    "boot_text_misaligned",
    "error: the image lies at 0x%, and runs only 0x80000 bytes above a multiple of 2 MiB: load it where its header says",
    "1"
);
text!(
    "boot_text_no_boot_cpu",
    "error: CPU 0x% (MPIDR_EL1) has entered at EL3, where the boot CPU has affinity 0.0.0.0, and that one has not: enter there, or below EL3",
    "1"
);
text!(
    "boot_text_no_4k_granule",
    "error: this CPU has no 4 KiB translation granule, which the kernel needs: ID_AA64MMFR0_EL1 is 0x%",
    "1"
);
text!(
    "boot_text_exception",
    "exception: vector 0x% of EL%, where nothing handles it: elr 0x%, esr 0x%, far 0x%",
    "3"
);

// The parameter blocks of SYS_EXIT: the reason and the status.
global_asm!(
    ".pushsection .text.boot, \"ax\"",
    ".balign 8",
    ".globl boot_exit_1, boot_exit_3, boot_digits",
    "boot_exit_1: .quad {APPLICATION_EXIT}, 1",
    "boot_exit_3: .quad {APPLICATION_EXIT}, 3",
    "boot_digits: .ascii \"0123456789abcdef\"",
    ".popsection",
    APPLICATION_EXIT = const APPLICATION_EXIT,
);

/// Reports an error of the image or the CPU and parks.
///
/// In: x0, x1 = code and detail for [`park`], x22 = the text, x9 = its value. The MMU is off, and
/// the vectors of the current level lead to [`exception`].
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
pub(crate) extern "C" fn fail() -> ! {
    naked_asm!(
        "adr x25, boot_exit_1",
        "b {report}",
        report = sym report,
    )
}

/// Reports an exception that nothing handles, and parks. In: x0 = the number of the vector.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
pub(crate) extern "C" fn exception() -> ! {
    naked_asm!(
        // x1 to x4 := level, ELR, ESR, FAR. The registers of a report that this exception may have
        // interrupted are not changed.
        "mrs x1, CurrentEL",
        "lsr x1, x1, #2",
        "cmp x1, #2",
        "b.hi 3f",
        "b.eq 2f",
        "mrs x2, elr_el1",
        "mrs x3, esr_el1",
        "mrs x4, far_el1",
        "b 4f",
        "2:",
        "mrs x2, elr_el2",
        "mrs x3, esr_el2",
        "mrs x4, far_el2",
        "b 4f",
        "3:",
        "mrs x2, elr_el3",
        "mrs x3, esr_el3",
        "mrs x4, far_el3",
        "4:",
        // Did one of the channels fault?
        "adr x5, boot_channel_uart",
        "cmp x2, x5",
        "b.lo 5f",
        "adr x5, boot_channel_host",
        "cmp x2, x5",
        "b.lo {to_host}",
        "b.eq {end}",
        "adr x5, boot_channel_exit",
        "cmp x2, x5",
        "b.eq {end}",
        // Did the load at `boot_look_at_root` fault, because the image's data lies beyond the end
        // of memory? Then the kernel has not prepared anything.
        "adr x5, boot_look_at_root",
        "cmp x2, x5",
        "b.eq 8f",
        "5:",
        "ldr w5, ={EXCEPTION}",
        "mov x9, x0",
        "add x0, x0, x5",
        "mov x10, x1",
        "mov x1, x2",
        "mov x11, x2",
        "mov x12, x3",
        "mov x13, x4",
        "cmp x10, #1",
        "b.ne 6f",
        "adr x2, .",
        "tbnz x2, #63, 7f",
        "mrs x2, sctlr_el1",
        "mov x3, #0x1005",       // M, C, I
        "bic x2, x2, x3",
        "msr sctlr_el1, x2",
        "isb",
        "6:",
        "adr x22, boot_text_exception",
        // If the kernel has prepared the start of other CPUs, it continues without this CPU.
        "adr x25, boot_exit_3",
        "adrp x2, {SHARED}",
        "add x2, x2, :lo12:{SHARED}",
        ".globl boot_look_at_root",
        "boot_look_at_root:",
        "ldr x2, [x2, #{ROOT}]",
        "cmp x2, #0",
        "csel x25, x25, xzr, eq",
        "b {report}",
        "7:",
        "b {park}",
        "8:",
        "ldr w5, ={EXCEPTION}",
        "add x0, x9, x5",
        "mov x1, x11",
        "b {report}",
        EXCEPTION = const EXCEPTION,
        SHARED = sym SHARED,
        ROOT = const ROOT,
        to_host = sym report_to_host,
        end = sym end,
        report = sym report,
        park = sym park,
    )
}

/// The first channel. In: x0, x1 = code and detail for [`park`], x22 = the text, x9 to x13 = its
/// values, x25 = the parameter block with which SYS_EXIT ends the run, or 0 if the run continues.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn report() -> ! {
    naked_asm!(
        "msr daifset, #0xf",
        "mov x26, x0",
        "mov x27, x1",
        // ADR is exact even for an image that is not page aligned; ADRP would not be.
        "adr x2, _image_start",
        "ldr w24, ={PI_UART}",   // 32 bits: aligned wherever the image can run
        "cmp x2, #{PI_IMAGE}",
        "b.eq 1f",
        "lsr x2, x2, #28",
        "mov w24, #{VIRT_UART}",
        "cmp x2, #{VIRT_IMAGE}",
        "b.ne {to_host}",
        "1:",
        "bl {say}",
        "b {to_host}",
        PI_IMAGE = const PI.0,
        PI_UART = const PI.1,
        VIRT_IMAGE = const VIRT.0,
        VIRT_UART = const VIRT.1,
        say = sym say,
        to_host = sym report_to_host,
    )
}

/// The second channel; then ends the run or parks.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn report_to_host() -> ! {
    naked_asm!(
        "mov x24, #0",
        "bl {say}",
        "cbz x25, 1f",
        "mov x0, #{SYS_EXIT}",
        "mov x1, x25",
        ".globl boot_channel_exit",
        "boot_channel_exit:",
        "hlt #0xf000",
        "1:",
        "b {end}",
        say = sym say,
        SYS_EXIT = const SYS_EXIT,
        end = sym end,
    )
}

/// Parks with the code and detail that [`report`] has saved.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn end() -> ! {
    naked_asm!(
        "mov x0, x26",
        "mov x1, x27",
        "b {park}",
        park = sym park,
    )
}

/// Prints the text on the channel in x24: the address of a UART, or 0 for the host.
///
/// Preserves x9 to x13, x22 and x24 to x27; clobbers the other registers up to x23.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn say() {
    naked_asm!(
        "mov x23, x30",
        "mov x3, x22",
        "mov x4, x9",
        "mov x5, x10",
        "mov x6, x11",
        "mov x7, x12",
        "mov x8, x13",
        "mov x17, x25",          // not 0: the second part follows
        "1:",
        "ldrb w0, [x3]",
        "cbz w0, 4f",
        "cmp w0, #0x25",         // '%'
        "b.eq 2f",
        "mov x1, x3",
        "bl {put}",
        "add x3, x3, #1",
        "b 1b",
        // Print a value without leading zeros: x14 = the digits, from bit 63 down, x15 = four times
        // their number.
        "2:",
        "orr x14, x4, #1",
        "clz x14, x14",
        "and x14, x14, #~3",
        "mov x15, #64",
        "sub x15, x15, x14",
        "lsl x14, x4, x14",
        "3:",
        "adr x1, boot_digits",
        "add x1, x1, x14, lsr #60",
        "bl {put}",
        "lsl x14, x14, #4",
        "subs x15, x15, #4",
        "b.ne 3b",
        "mov x4, x5",
        "mov x5, x6",
        "mov x6, x7",
        "mov x7, x8",
        "add x3, x3, #1",
        "b 1b",
        "4:",
        "cbz x17, 5f",
        "mov x17, #0",
        "add x3, x3, #1",
        "b 1b",
        "5:",
        "ret x23",
        put = sym put,
    )
}

/// Prints the byte at x1 on the channel in x24. Clobbers x0 and x2.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn put() {
    naked_asm!(
        "cbz x24, 3f",
        ".globl boot_channel_uart",
        "boot_channel_uart:",
        "mov w2, #{PATIENCE}",
        "1:",
        "ldr w0, [x24, #0x18]",  // UARTFR
        "tbz w0, #5, 2f",        // TXFF
        "subs w2, w2, #1",
        "b.ne 1b",
        "2:",
        "ldrb w0, [x1]",
        "str w0, [x24]",         // UARTDR
        "ret",
        "3:",
        "mov w0, #{SYS_WRITEC}",
        ".globl boot_channel_host",
        "boot_channel_host:",
        "hlt #0xf000",
        "ret",
        PATIENCE = const PATIENCE,
        SYS_WRITEC = const SYS_WRITEC,
    )
}
