// SPDX-License-Identifier: MIT OR Apache-2.0

//! Masking of interrupts on this CPU (PSTATE.DAIF).
//!
//! All accesses are compiler barriers: a write inside a masked section may not move below its end.
//! (With the `nomem` accessors of crate `aarch64-cpu` it does.)
//!
//! D and F stay masked, as boot left them: the kernel uses no debug exceptions and no FIQ.

use super::percpu;
use core::{arch::asm, marker::PhantomData};

/// Keeps IRQs masked until it is dropped. Dropping the last guard of a CPU restores the mask from
/// before the first.
///
/// Guards may overlap in any order, as the guards of two locks do. They are not `Send`, because the
/// mask belongs to a CPU.
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
    // SAFETY: the absence of an interrupt cannot break an invariant.
    unsafe { asm!("msr daifset, #2", options(nostack, preserves_flags)) };
}

/// Unmasks IRQs.
///
/// Each CPU calls it once, when its vectors and the interrupt controller are ready. Tests call it,
/// too.
pub fn unmask_irq() {
    // SAFETY: handlers follow the locking rules of all code, and code that must not be interrupted
    // holds a `Masked`.
    unsafe { asm!("msr daifclr, #2", options(nostack, preserves_flags)) };
}

/// Unmasks SError, so that an asynchronous abort is reported where it happens.
pub(crate) fn unmask_serror() {
    // SAFETY: an SError ends the kernel with a report and does not return.
    unsafe { asm!("msr daifclr, #4", options(nostack, preserves_flags)) };
}

/// Masks everything permanently, because the kernel is about to end.
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

/// Wakes all CPUs that wait in WFE. CPUs that wait on a spin table then read their word again.
///
/// A DSB must have completed the stores to such words before, because an event is not ordered with
/// stores.
pub fn send_event() {
    // SAFETY: code that waits for an event checks its condition again.
    unsafe { asm!("sev", options(nostack, preserves_flags)) };
}

#[inline(always)]
fn daif() -> u64 {
    let value: u64;
    // SAFETY: reads PSTATE.
    unsafe { asm!("mrs {}, daif", out(reg) value, options(nostack, preserves_flags)) };
    value
}
