// SPDX-License-Identifier: MIT OR Apache-2.0

//! Masking of interrupts on this CPU (PSTATE.DAIF).
//!
//! All accesses are compiler barriers: nothing that was written inside a masked section may sink
//! below its end. (With the `nomem` accessors of crate `aarch64-cpu` it does.)
//!
//! D and F stay as boot left them, masked: the kernel uses no debug exceptions and no FIQ.

use super::percpu;
use core::{arch::asm, marker::PhantomData};

/// IRQs are masked until this is dropped; the last one on a CPU restores what was before the first.
///
/// They may overlap in any order, as the guards of two locks do. Not `Send`: the mask belongs to a
/// CPU.
#[must_use = "interrupts are unmasked again when this is dropped"]
#[derive(Debug)]
pub struct Masked {
    not_send: PhantomData<*const ()>,
}

impl Drop for Masked {
    fn drop(&mut self) {
        if percpu::current().end_masked() {
            unmask_irq();
        }
    }
}

/// Masks IRQs until the guard is dropped.
pub fn mask() -> Masked {
    let unmask = !are_masked();
    mask_irq();
    percpu::current().begin_masked(unmask);
    Masked {
        not_send: PhantomData,
    }
}

/// Runs `section` with IRQs masked.
pub fn without<R>(section: impl FnOnce() -> R) -> R {
    let _masked = mask();
    section()
}

/// Masks IRQs.
pub fn mask_irq() {
    // SAFETY: an interrupt that does not come cannot break an invariant.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Unmasks IRQs.
///
/// Called once per CPU when its vectors and the interrupt controller are ready, and in tests.
pub fn unmask_irq() {
    // SAFETY: handlers follow the same locking rules as everybody; whoever must not be
    // interrupted holds a `Masked`.
    unsafe { asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
}

/// Unmasks SError, so that an asynchronous abort is reported where it happens.
pub(crate) fn unmask_serror() {
    // SAFETY: an SError ends the kernel with a report and returns nowhere.
    unsafe { asm!("msr daifclr, #4", options(nostack, preserves_flags)) };
}

/// Masks everything, for good: the kernel is about to end.
pub(crate) fn mask_all() {
    // SAFETY: as in `mask_irq`.
    unsafe { asm!("msr daifset, #0xf", options(nostack, preserves_flags)) };
}

/// Whether IRQs are masked.
#[inline(always)]
#[must_use]
pub fn are_masked() -> bool {
    const I: u64 = 1 << 7;
    daif() & I != 0
}

/// Stops this CPU.
pub fn halt() -> ! {
    mask_all();
    loop {
        wait_for_interrupt();
    }
}

/// Waits until an interrupt is pending, masked or not; may return early.
pub fn wait_for_interrupt() {
    // SAFETY: waiting changes nothing.
    unsafe { asm!("wfi", options(nostack, preserves_flags)) };
}

/// Wakes all CPUs that wait in WFE: those of a spin table look at their word again.
///
/// What they are to find must have completed before, by a DSB: an event is not ordered with stores.
pub fn send_event() {
    // SAFETY: whoever waits for an event checks what it waits for.
    unsafe { asm!("sev", options(nostack, preserves_flags)) };
}

#[inline(always)]
fn daif() -> u64 {
    let value: u64;
    // SAFETY: reads PSTATE.
    unsafe { asm!("mrs {}, daif", out(reg) value, options(nostack, preserves_flags)) };
    value
}
