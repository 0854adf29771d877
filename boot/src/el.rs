// SPDX-License-Identifier: MIT OR Apache-2.0

//! The drop from EL3 or EL2 to EL1.
//!
//! Most controls of EL2 and EL3 reset to an architecturally UNKNOWN value (D24.2). Therefore this
//! code writes each control that can trap EL1 or change what EL1 sees, even where QEMU resets it to
//! a good value (H6, H7). If the CPU enters at EL3 and has EL2, EL2 is configured from EL3, so that
//! one ERET is enough.
//!
//! Traps stay on for extensions that the kernel does not use (SVE, SME, MTE, pointer
//! authentication, MPAM, SPE, trace). An accidental use then [parks](crate::park) the CPU.

use crate::{
    el3,
    registers::{SCTLR_EL2_OFF, SCTLR_MMU_OFF, SPSR_EL1H_MASKED},
};
use core::arch::naked_asm;

/// Continues at its return address at EL1. After an ERET, SP_EL1 is selected and DAIF is masked.
///
/// In: x20 = the current level; MMU off at that level. Clobbers x0-x3, x16, x17. Leaves SCTLR_EL1
/// with MMU and caches off. It needs no stack and writes no memory, so secondary CPUs use it, too.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
pub(crate) extern "C" fn drop_to_el1() {
    naked_asm!(
        "mov x17, x30",
        "cmp x20, #2",
        "b.eq 2f",
        "b.hi 3f",
        "ret", // at EL1 already
        // EL3
        "3:",
        "bl {init_el3}",
        "mrs x0, id_aa64pfr0_el1",
        "ubfx x0, x0, #8, #4",         // EL2 implemented?
        "cbz x0, 4f",
        "bl {init_el2}",               // accessible from EL3
        "4:",
        "ldr x0, ={SCTLR_MMU_OFF}",    // UNKNOWN at reset; the ERET below enters EL1 with it
        "msr sctlr_el1, x0",
        "mov x0, #{SPSR}",
        "msr spsr_el3, x0",
        "msr elr_el3, x17",
        "eret",                        // synchronizes the context: all writes above take effect
        // EL2
        "2:",
        "bl {init_el2}",
        "mov x0, #{SPSR}",
        "msr spsr_el2, x0",
        "msr elr_el2, x17",
        "eret",
        init_el3 = sym init_el3,
        init_el2 = sym init_el2,
        SCTLR_MMU_OFF = const SCTLR_MMU_OFF,
        SPSR = const SPSR_EL1H_MASKED,
    )
}

/// Writes EL3's controls: lower levels run non-secure and in AArch64, and EL3 traps nothing of
/// them.
///
/// This is what the Raspberry Pi's stub does (`armstub8.S`), except that SMC stays enabled, because
/// [`el3`] serves one call. CNTFRQ_EL0 is not written (H22): only the board knows the frequency,
/// and the kernel refuses 0.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn init_el3() {
    naked_asm!(
        // SCR_EL3: NS, RES1[5:4], HCE, RW. IRQ, FIQ and EA are not routed to EL3.
        "mov x0, #0x531",
        // FGTEn: without it, accesses to EL2's fine-grained trap registers below trap to EL3
        // (FEAT_FGT).
        "mrs x1, id_aa64mmfr0_el1",
        "ubfx x1, x1, #56, #4",
        "cbz x1, 1f",
        "orr x0, x0, #(1 << 27)",
        "1:",
        // HXEn does the same for HCRX_EL2 (FEAT_HCX).
        "mrs x1, id_aa64mmfr1_el1",
        "ubfx x1, x1, #40, #4",
        "cbz x1, 2f",
        "orr x0, x0, #(1 << 38)",
        "2:",
        "msr scr_el3, x0",
        "isb",                          // NS selects the bank of the GIC registers below
        "msr cptr_el3, xzr",            // no trap of CPACR_EL1, CPTR_EL2 or FP
        "msr mdcr_el3, xzr",            // no trap of debug and PMU registers
        // SMPEN on Cortex-A53/A57/A72/A73: without it the core takes no part in coherency, and must
        // not enable its caches (Cortex-A72 TRM, CPUECTLR_EL1). Firmware that starts the image at
        // EL2 or EL1 has set it (H8).
        "mrs x0, midr_el1",
        "ubfx x1, x0, #24, #8",
        "cmp x1, #0x41",                // implementer Arm
        "b.ne 4f",
        "ubfx x1, x0, #4, #12",         // part number
        "sub x1, x1, #0xd03",           // A53 0xd03, A57 0xd07, A72 0xd08, A73 0xd09
        "cbz x1, 3f",
        "sub x1, x1, #4",
        "cmp x1, #2",
        "b.hi 4f",
        "3:",
        "mrs x0, s3_1_c15_c2_1",        // CPUECTLR_EL1
        "orr x0, x0, #(1 << 6)",        // SMPEN
        "msr s3_1_c15_c2_1, x0",
        "isb",
        "4:",
        // If the CPU has GIC system registers: SRE, DFB, DIB, and Enable for the levels below.
        "mrs x0, id_aa64pfr0_el1",
        "ubfx x0, x0, #24, #4",
        "cbz x0, 5f",
        "mrs x0, s3_6_c12_c12_5",       // ICC_SRE_EL3
        "orr x0, x0, #0xf",
        "msr s3_6_c12_c12_5, x0",
        "isb",
        "5:",
        // The one service that stays at EL3; see el3.rs.
        "adrp x0, {vectors}",
        "add x0, x0, :lo12:{vectors}",
        "msr vbar_el3, x0",
        "ret",
        vectors = sym el3::boot_el3_vectors,
    )
}

/// Writes EL2's controls: EL1 is 64-bit, EL2 traps nothing of it, stage 2 is off, and EL1 sees the
/// real timers and IDs.
///
/// Runs at EL2 or EL3. Clobbers x0-x3.
#[unsafe(naked)]
#[unsafe(link_section = ".text.boot")]
extern "C" fn init_el2() {
    naked_asm!(
        "ldr x0, ={SCTLR_EL2_OFF}",
        "msr sctlr_el2, x0",
        // HCR_EL2: only RW: no stage 2, no trap, and E2H = 0 where it can be cleared.
        "mov x0, #(1 << 31)",
        "msr hcr_el2, x0",
        "isb",                          // E2H decides what the names and layouts below mean
        // A CPU without FEAT_E2H0 keeps E2H = 1. EL1's SCTLR is then accessed as SCTLR_EL12, and
        // CNTHCTL_EL2 and CPTR_EL2 have other layouts (D24.2).
        "mrs x3, hcr_el2",
        "ldr x0, ={SCTLR_MMU_OFF}",     // EL1's SCTLR is UNKNOWN; the ERET enters EL1 with it
        "tbnz x3, #34, 1f",
        "msr sctlr_el1, x0",
        "mov x1, #3",                   // CNTHCTL_EL2: EL1PCEN, EL1PCTEN: physical timer, counter
        "mov x2, #0x33ff",              // CPTR_EL2: RES1 bits; FP not trapped to EL2
        "b 2f",
        "1:",
        "msr s3_5_c1_c0_0, x0",         // SCTLR_EL12
        "mov x1, #(3 << 10)",           // CNTHCTL_EL2 with E2H: EL1PTEN, EL1PCTEN
        "mov x2, #(3 << 20)",           // CPTR_EL2 with E2H: FPEN, FP not trapped to EL2
        "2:",
        "msr cnthctl_el2, x1",
        "msr cptr_el2, x2",
        "msr cntvoff_el2, xzr",         // virtual counter = physical counter
        "msr hstr_el2, xzr",
        "msr vttbr_el2, xzr",           // VMID 0: it tags TLB entries even without stage 2
        // EL1 reads these values from MIDR_EL1 and MPIDR_EL1.
        "mrs x0, midr_el1",
        "msr vpidr_el2, x0",
        "mrs x0, mpidr_el1",
        "msr vmpidr_el2, x0",
        // MDCR_EL2: no traps, and all event counters belong to EL1 (HPMN = PMCR_EL0.N). PMUVer
        // values 0 and 0xf mean that there is no PMU.
        "mov x1, xzr",
        "mrs x0, id_aa64dfr0_el1",
        "ubfx x0, x0, #8, #4",
        "cbz x0, 3f",
        "cmp x0, #0xf",
        "b.eq 3f",
        "mrs x0, pmcr_el0",
        "ubfx x1, x0, #11, #5",
        "3:",
        "msr mdcr_el2, x1",
        // Fine-grained traps (FEAT_FGT): none.
        "mrs x0, id_aa64mmfr0_el1",
        "ubfx x0, x0, #56, #4",
        "cbz x0, 4f",
        "msr s3_4_c1_c1_4, xzr",        // HFGRTR_EL2
        "msr s3_4_c1_c1_5, xzr",        // HFGWTR_EL2
        "msr s3_4_c1_c1_6, xzr",        // HFGITR_EL2
        "msr s3_4_c3_c1_4, xzr",        // HDFGRTR_EL2
        "msr s3_4_c3_c1_5, xzr",        // HDFGWTR_EL2
        "4:",
        // HCRX_EL2 (FEAT_HCX): nothing beyond what HCR_EL2 allows.
        "mrs x0, id_aa64mmfr1_el1",
        "ubfx x0, x0, #40, #4",
        "cbz x0, 5f",
        "msr s3_4_c1_c2_2, xzr",        // HCRX_EL2
        "5:",
        // GICv3: let EL1 use the system registers. If SRE stays 0, a higher level forbids it or the
        // machine has a GICv2; the ICH registers must then not be accessed.
        "mrs x0, id_aa64pfr0_el1",
        "ubfx x0, x0, #24, #4",
        "cbz x0, 6f",
        "mrs x0, s3_4_c12_c9_5",        // ICC_SRE_EL2
        "mov x1, #0x9",                 // SRE, Enable
        "orr x0, x0, x1",
        "msr s3_4_c12_c9_5, x0",
        "isb",
        "mrs x0, s3_4_c12_c9_5",
        "tbz x0, #0, 6f",
        "msr s3_4_c12_c11_0, xzr",      // ICH_HCR_EL2: no virtual interrupts
        "6:",
        // An exception that still comes to EL2 parks the CPU.
        "adrp x0, boot_park_vectors",
        "add x0, x0, :lo12:boot_park_vectors",
        "msr vbar_el2, x0",
        "ret",
        SCTLR_EL2_OFF = const SCTLR_EL2_OFF,
        SCTLR_MMU_OFF = const SCTLR_MMU_OFF,
    )
}
