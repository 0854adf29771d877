// SPDX-License-Identifier: MIT OR Apache-2.0
//! The system registers as boot must leave them. The values are written out again here, so that a
//! bit missing in the constant that boot uses is noticed.
//!
//! Each of these fields changes what QEMU does, but not each in a way that a test could survive.
//! Without SA a misaligned SP does not fault, and with FPEN a stray FP instruction works by luck.

use aarch64_cpu::registers::{
    CPACR_EL1, CurrentEL, DAIF, MAIR_EL1, SCTLR_EL1, SPSel, TCR_EL1, TTBR1_EL1,
};
use lazymmu::MemoryType;
use tock_registers::interfaces::Readable;

use crate::mm::kernel_space;
use crate::selftest::prelude::*;

// The descriptors' indices and boot's MAIR must mean the same types.
const _: () = assert!(boot::registers::MAIR == MemoryType::MAIR_EL1);

suite! {
    name: "registers",
    order: 3,
    tests: [
        case!(QemuVisible, sctlr_turns_mmu_caches_and_stack_checks_on),
        case!(QemuVisible, cpacr_traps_fp),
        case!(QemuVisible, mair_has_each_type_at_its_index),
        case!(QemuVisible, tcr_leaves_flags_to_software_and_the_lower_half_empty),
        case!(QemuVisible, ttbr1_is_the_root_of_the_kernel_space),
        case!(QemuVisible, el1_on_its_own_stack_pointer_with_irqs_and_serror_unmasked),
    ],
}

fn sctlr_turns_mmu_caches_and_stack_checks_on() -> TestResult {
    /// M, C, SA, SA0, I.
    const ON: u64 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 12;
    /// A: alignment is not checked. EE: data and walks are little-endian. WXN would hide a writable
    /// executable entry.
    const OFF: u64 = 1 << 1 | 1 << 19 | 1 << 25;
    expect_eq!(SCTLR_EL1.get() & (ON | OFF), ON);
    Ok(())
}

fn cpacr_traps_fp() -> TestResult {
    // FPEN, bits [21:20]: FP and SIMD trap at EL1 and EL0. The kernel is built without them.
    expect_eq!(CPACR_EL1.get() >> 20 & 0b11, 0b00);
    Ok(())
}

fn mair_has_each_type_at_its_index() -> TestResult {
    for (memory, attributes) in [
        (MemoryType::Normal, 0xff),
        (MemoryType::DeviceNGnRE, 0x04),
        (MemoryType::NormalNonCacheable, 0x44),
        (MemoryType::DeviceNGnRnE, 0x00),
    ] {
        let found = MAIR_EL1.get() >> (memory as u32 * 8) & 0xff;
        expect_eq!(found, attributes, "{memory:?}");
    }
    Ok(())
}

fn tcr_leaves_flags_to_software_and_the_lower_half_empty() -> TestResult {
    /// T0SZ and T1SZ, EPD0, IRGN1, ORGN1, SH1, TG1, HA, HD.
    const FIELDS: u64 = 0x3f | 0x3f << 16 | 1 << 7 | 0b11_1111 << 24 | 0b11 << 30 | 0b11 << 39;
    /// 48 bits in both halves, no walks of the lower one; walks of the upper one Normal
    /// write-back, inner shareable, 4 KiB granule; no flag is written by hardware.
    const WANTED: u64 = 16 | 16 << 16 | 1 << 7 | 0b11_01_01 << 24 | 0b10 << 30;
    expect_eq!(TCR_EL1.get() & FIELDS, WANTED);
    Ok(())
}

fn ttbr1_is_the_root_of_the_kernel_space() -> TestResult {
    let address = TTBR1_EL1.get() & lazymmu::bits::ADDRESS;
    expect_eq!(address, kernel_space::lock().root().as_u64());
    Ok(())
}

fn el1_on_its_own_stack_pointer_with_irqs_and_serror_unmasked() -> TestResult {
    expect_eq!(CurrentEL.get() >> 2 & 0b11, 1);
    expect_eq!(SPSel.get() & 1, 1);
    // D and F are masked, A and I are not.
    expect_eq!(DAIF.get() >> 6 & 0b1111, 0b1001);
    Ok(())
}
