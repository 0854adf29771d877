// SPDX-License-Identifier: MIT OR Apache-2.0

//! The generic timer, and what there is of a cycle counter.
//!
//! Time is the virtual counter (CNTVCT_EL0, equal to the physical one, because boot writes
//! CNTVOFF_EL2 = 0), in ticks of [`frequency`] per second: 62.5 MHz under QEMU, 54 MHz on a
//! Raspberry Pi 4. EL1's virtual timer (CNTV) is the [scheduler's](crate::sched), the [physical] one is there
//! for tests; the device tree says which interrupts they have.

use super::{barrier, features::Features, relax::cpu_relax};
use aarch64_cpu::registers::CNTFRQ_EL0;
use core::{arch::asm, time::Duration};
use tock_registers::interfaces::Readable;

/// Ticks per second as firmware left it in CNTFRQ_EL0; 0 if it did not, and then the kernel does
/// not start.
#[must_use]
pub fn frequency() -> u64 {
    CNTFRQ_EL0.get()
}

/// Ticks since the counter started.
///
/// In program order with memory accesses for the compiler only: the CPU may read the counter early
/// (an ISB before it would prevent that, and would spoil the count of barriers in measured
/// windows).
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

/// Lets the timer fire when the counter reaches `deadline`; at once if it has. Replaces what was armed before.
#[inline(always)]
pub fn arm_at(deadline: u64) {
    // SAFETY: a timer interrupt is handled or masked like any other.
    unsafe {
        asm!("msr cntv_cval_el0, {}", "msr cntv_ctl_el0, {}", in(reg) deadline, in(reg) ENABLE,
             options(nostack, preserves_flags));
    }
    // In effect when this returns, and before an end-of-interrupt that follows (H23).
    barrier::isb();
}

/// Stops the timer; an interrupt that is pending goes away.
pub fn disarm() {
    // SAFETY: an interrupt that does not come cannot break an invariant.
    unsafe { asm!("msr cntv_ctl_el0, xzr", options(nostack, preserves_flags)) };
    // As in `arm_at` (H23): the level has fallen before the end of the interrupt.
    barrier::isb();
}

/// CNTx_CTL_EL0.
const ENABLE: u64 = 1;

/// EL1's other timer, the physical one (CNTP). The scheduler does not use it: tests do, to be interrupted
/// whenever they like.
pub mod physical {
    use super::{ENABLE, asm, barrier};

    /// Lets it fire once, `ticks` from now (at most 2^31 - 1); replaces what was armed before.
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

    /// Stops it; an interrupt that is pending goes away.
    pub fn disarm() {
        // SAFETY: an interrupt that does not come cannot break an invariant.
        unsafe { asm!("msr cntp_ctl_el0, xzr", options(nostack, preserves_flags)) };
        // As in `disarm` above (H23).
        barrier::isb();
    }
}

/// What the cycle counter of the PMU is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CycleCounter {
    /// ID_AA64DFR0_EL1 says that there is no PMUv3.
    Absent,
    /// There is one, and it stands still: something above EL1 holds it.
    Stopped,
    /// It counts. Whether it counts *cycles* is another matter: QEMU's follows the time of its
    /// own virtual clock (one per nanosecond), however many instructions a translated block
    /// takes, so under QEMU the number says nothing about the code.
    Counting,
}

impl CycleCounter {
    /// Starts the cycle counter and looks whether it moves.
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
        // Long enough for a clock of 1 MHz, short enough not to be noticed.
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

/// The cycle counter; meaningful after [`CycleCounter::start`] said [`CycleCounter::Counting`].
#[must_use]
pub fn cycles() -> u64 {
    let value: u64;
    // SAFETY: reads a register; without a PMU the caller has no reason to be here.
    unsafe { asm!("mrs {}, pmccntr_el0", out(reg) value, options(nostack, preserves_flags)) };
    value
}
