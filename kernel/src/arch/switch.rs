// SPDX-License-Identifier: MIT OR Apache-2.0

//! The context switch, from the registers and the stack of one task to those of another.
//!
//! A task switches by a function call. Therefore only the registers that the procedure call
//! standard preserves across a call are saved: x19 to x30 and SP (AAPCS64 6.1.1). Floating point is
//! not used. SP_EL0 holds the current task's address; it has no other use at EL1 with SP_EL1
//! selected.
//!
//! This file executes no barrier. The stores of the task that leaves have completed before
//! ([`Lazy::switch_out`](lazymmu::Lazy::switch_out), R17), and a task that comes from another CPU
//! synchronizes its context afterwards (`sched::run`).

use core::arch::naked_asm;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

/// The SP at which a task continues, with its saved registers above. 0 while the task runs.
pub struct Context {
    sp: AtomicU64,
}

/// Bytes of the saved registers: x19 to x30.
const SAVED: usize = 12 * 8;

impl Context {
    /// The context of a task that runs.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            sp: AtomicU64::new(0),
        }
    }

    /// Prepares the first switch to a task: `start` is called with `argument`, on a stack that ends
    /// at `top`, which is 16-byte aligned. Backtraces end there.
    ///
    /// # Safety
    /// `top - SAVED .. top` is writable memory that nothing else uses, and everything below it is
    /// the task's stack.
    pub unsafe fn prepare(&self, top: u64, start: extern "C" fn(u64) -> !, argument: u64) {
        let mut registers = [0_u64; SAVED / 8];
        registers[0] = argument;
        registers[1] = start as usize as u64;
        registers[11] = enter as *const () as u64;
        let sp = top - SAVED as u64;
        let place = core::ptr::with_exposed_provenance_mut::<[u64; SAVED / 8]>(sp as usize);
        // SAFETY: this function's contract.
        unsafe { place.write(registers) };
        self.sp.store(sp, Ordering::Relaxed);
    }
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context(SP {:#x})", self.sp.load(Ordering::Relaxed))
    }
}

/// The first instructions of a task. In: x19 = its argument, x20 = the function to call.
#[unsafe(naked)]
extern "C" fn enter() -> ! {
    naked_asm!("mov x0, x19", "mov x29, xzr", "mov x30, xzr", "br x20",)
}

/// Saves the caller's registers in `from`, and continues where `to` was left, as the current task
/// `task`. Returns when a task switches back to `from`, on any CPU.
///
/// # Safety
/// Interrupts are masked. `from` belongs to the current task and `to` to `task`, which is switched
/// out (or new); no other CPU uses either. The stack bounds of this CPU are those of `task`.
#[unsafe(naked)]
pub unsafe extern "C" fn switch(from: &Context, to: &Context, task: u64) {
    naked_asm!(
        "stp x19, x20, [sp, #-96]!",
        "stp x21, x22, [sp, #16]",
        "stp x23, x24, [sp, #32]",
        "stp x25, x26, [sp, #48]",
        "stp x27, x28, [sp, #64]",
        "stp x29, x30, [sp, #80]",
        "mov x9, sp",
        "str x9, [x0]",
        "ldr x9, [x1]",
        "mov sp, x9",
        "msr sp_el0, x2",
        "ldp x29, x30, [sp, #80]",
        "ldp x27, x28, [sp, #64]",
        "ldp x25, x26, [sp, #48]",
        "ldp x23, x24, [sp, #32]",
        "ldp x21, x22, [sp, #16]",
        "ldp x19, x20, [sp], #96",
        "ret",
    )
}

/// Calls `call` with x19 to x28 set to `seed` and the nine numbers after it, and returns 0 if they
/// are the same afterwards. Every function guarantees this, so a function that switches to other
/// tasks and back must, too. For the self-tests.
#[unsafe(naked)]
pub extern "C" fn keeps_registers(call: extern "C" fn(), seed: u64) -> u64 {
    naked_asm!(
        "stp x29, x30, [sp, #-112]!",
        "mov x29, sp",
        "stp x19, x20, [sp, #16]",
        "stp x21, x22, [sp, #32]",
        "stp x23, x24, [sp, #48]",
        "stp x25, x26, [sp, #64]",
        "stp x27, x28, [sp, #80]",
        "str x1, [sp, #96]",
        "mov x19, x1",
        "add x20, x1, #1",
        "add x21, x1, #2",
        "add x22, x1, #3",
        "add x23, x1, #4",
        "add x24, x1, #5",
        "add x25, x1, #6",
        "add x26, x1, #7",
        "add x27, x1, #8",
        "add x28, x1, #9",
        "blr x0",
        // Subtract the original value from each register: either all ten results are 0, or one
        // of them shows the change.
        "ldr x1, [sp, #96]",
        "sub x0, x19, x1",
        ".irp number, 20, 21, 22, 23, 24, 25, 26, 27, 28",
        "add x1, x1, #1",
        "sub x2, x\\number, x1",
        "orr x0, x0, x2",
        ".endr",
        "ldp x27, x28, [sp, #80]",
        "ldp x25, x26, [sp, #64]",
        "ldp x23, x24, [sp, #48]",
        "ldp x21, x22, [sp, #32]",
        "ldp x19, x20, [sp, #16]",
        "ldp x29, x30, [sp], #112",
        "ret",
    )
}
