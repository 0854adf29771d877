// SPDX-License-Identifier: MIT OR Apache-2.0

//! The generic timer, and the cycle counter of the PMU.
//!
//! Time is the virtual counter (CNTVCT_EL0) in ticks of [`frequency`] per second: 62.5 MHz under
//! QEMU, 54 MHz on a Raspberry Pi 4. It equals the physical counter, because boot writes
//! CNTVOFF_EL2 = 0. The [scheduler](crate::sched) uses EL1's virtual timer (CNTV), and tests use
//! the [physical] one. The device tree says which interrupts they have.

use super::{barrier, features::Features, relax::cpu_relax};
use aarch64_cpu::registers::CNTFRQ_EL0;
use core::{arch::asm, time::Duration};
use tock_registers::interfaces::Readable;

/// Ticks per second, as firmware wrote it to CNTFRQ_EL0. If firmware did not, it is 0 and the
/// kernel does not start.
#[must_use]
pub fn frequency() -> u64 {
    CNTFRQ_EL0.get()
}

/// Ticks since the counter started.
///
/// Only the compiler keeps this read in program order with memory accesses. The CPU may read the
/// counter earlier. An ISB before the read would prevent that, but it would change the count of
/// barriers in measured windows.
#[must_use]
pub fn ticks() -> u64 {
    let value: u64;
    // SAFETY: reads a register; EL1 is not trapped (crate `boot`).
    unsafe { asm!("mrs {}, cntvct_el0", out(reg) value, options(nostack, preserves_flags)) };
    value
}

/// Time since the counter started; zero without a [`frequency`].
#[must_use]
pub fn uptime() -> Duration {
    let (ticks, frequency) = (ticks(), frequency());
    if frequency == 0 {
        return Duration::ZERO;
    }
    let nanoseconds = ticks % frequency * 1_000_000_000 / frequency;
    Duration::from_secs(ticks / frequency) + Duration::from_nanos(nanoseconds)
}

/// Lets the timer fire when the counter reaches `deadline`, or at once if it already has. Replaces
/// the earlier deadline.
#[inline(always)]
pub fn arm_at(deadline: u64) {
    // SAFETY: a timer interrupt is handled or masked like any other.
    unsafe {
        asm!("msr cntv_cval_el0, {}", "msr cntv_ctl_el0, {}", in(reg) deadline, in(reg) ENABLE,
             options(nostack, preserves_flags));
    }
    // The write takes effect before this returns, and before an end of interrupt that follows
    // (H23).
    barrier::isb();
}

/// Stops the timer; a pending timer interrupt goes away.
pub fn disarm() {
    // SAFETY: the absence of an interrupt cannot break an invariant.
    unsafe { asm!("msr cntv_ctl_el0, xzr", options(nostack, preserves_flags)) };
    // As in `arm_at` (H23): the interrupt line falls before the end of the interrupt.
    barrier::isb();
}

/// CNTx_CTL_EL0.ENABLE; IMASK stays 0.
const ENABLE: u64 = 1;

/// EL1's physical timer (CNTP). The scheduler does not use it; tests use it to be interrupted at a
/// time of their choice.
pub mod physical {
    use super::{ENABLE, asm, barrier};

    /// Lets the timer fire once, `ticks` from now (at most 2^31 - 1). Replaces the earlier
    /// deadline.
    pub fn arm(ticks: u32) {
        // SAFETY: a timer interrupt is handled or masked like any other.
        unsafe {
            asm!("msr cntp_tval_el0, {}", "msr cntp_ctl_el0, {}",
                 in(reg) u64::from(ticks.min(i32::MAX as u32)), in(reg) ENABLE,
                 options(nostack, preserves_flags));
        }
        // As in `arm_at` (H23).
        barrier::isb();
    }

    /// Stops the timer; a pending interrupt goes away.
    pub fn disarm() {
        // SAFETY: the absence of an interrupt cannot break an invariant.
        unsafe { asm!("msr cntp_ctl_el0, xzr", options(nostack, preserves_flags)) };
        // As in `disarm` above (H23).
        barrier::isb();
    }
}

/// State of the PMU's cycle counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CycleCounter {
    /// ID_AA64DFR0_EL1 says that there is no PMUv3.
    Absent,
    /// There is a PMUv3, but the counter does not move: EL2 or EL3 stops it.
    Stopped,
    /// It counts. It may not count *cycles*: QEMU's counter follows the time of its virtual clock
    /// (one per nanosecond), for any number of instructions in a translated block. Under QEMU the
    /// number therefore says nothing about the code.
    Counting,
}

impl CycleCounter {
    /// Starts the cycle counter and checks whether it moves.
    #[must_use]
    pub fn start(features: &Features) -> Self {
        if features.pmu_version == 0 {
            return Self::Absent;
        }
        /// PMCR_EL0: enable, reset the cycle counter, 64-bit overflow.
        const E_C_LC: u64 = 1 << 0 | 1 << 2 | 1 << 6;
        /// PMCNTENSET_EL0: the cycle counter.
        const CYCLES: u64 = 1 << 31;
        // SAFETY: a counter that runs changes nothing else; EL1 is not trapped (crate `boot`).
        unsafe {
            asm!("msr pmccfiltr_el0, xzr", "msr pmcntenset_el0, {}", "msr pmcr_el0, {}", "isb",
                 in(reg) CYCLES, in(reg) E_C_LC, options(nostack, preserves_flags));
        }
        let start = cycles();
        // Long enough for a clock of 1 MHz, and too short to be noticed.
        let until = ticks().wrapping_add(frequency() / 50_000 + 1);
        while ticks() < until && cycles() == start {
            cpu_relax();
        }
        if cycles() == start {
            Self::Stopped
        } else {
            Self::Counting
        }
    }
}

/// The cycle counter. Valid after [`CycleCounter::start`] has returned [`CycleCounter::Counting`].
#[must_use]
pub fn cycles() -> u64 {
    let value: u64;
    // SAFETY: reads a register. Without a PMU the read is undefined, and the exception is reported.
    unsafe { asm!("mrs {}, pmccntr_el0", out(reg) value, options(nostack, preserves_flags)) };
    value
}
