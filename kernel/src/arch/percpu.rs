// SPDX-License-Identifier: MIT OR Apache-2.0

//! What a CPU knows about itself: one block per CPU, found through TPIDR_EL1.
//!
//! The vectors use it before they have a stack to save anything on: the first fields are at fixed
//! offsets, which `exceptions::vectors` takes from here. A stack that is not
//! within the bounds named here counts as overflowed, so whoever switches stacks changes the
//! bounds ([`PerCpu::set_stack`]) with interrupts masked.

use super::{backtrace::Stack, barrier, sysreg};
use core::{
    arch::asm,
    mem::offset_of,
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};
use mmu::Batch;

/// A CPU's block. The vectors know the layout up to `emergency_top`.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct PerCpu {
    /// x1, x2, x3 of an exception that has no frame yet. Only the vectors use it, and no second
    /// exception can come in between: everything is masked and nothing accessed can fault.
    scratch: [AtomicU64; 4],
    /// Bounds of the stack in use: `bottom <= SP <= top`.
    stack_bottom: AtomicU64,
    stack_top: AtomicU64,
    /// Bounds of the emergency stack.
    emergency_bottom: AtomicU64,
    emergency_top: AtomicU64,
    /// Number of the CPU, 0 for the boot CPU.
    index: u32,
    /// How many interrupts deep this CPU is; 0 outside of handlers.
    irq_depth: AtomicU32,
    /// How many times this CPU has begun to report its end.
    ending: AtomicU32,
    /// How many [`Masked`](super::interrupts::Masked) there are, and
    masked: AtomicU32,
    /// whether IRQs came through before the first of them.
    unmask: AtomicBool,
    /// What lazy MMU mode defers on this CPU.
    batch: Batch,
}

/// Offset of the scratch words, for the vectors.
pub(crate) const SCRATCH: usize = offset_of!(PerCpu, scratch);
/// Offset of the stack's bounds, bottom then top.
pub(crate) const STACK: usize = offset_of!(PerCpu, stack_bottom);
/// Offset of the emergency stack's bounds, bottom then top.
pub(crate) const EMERGENCY: usize = offset_of!(PerCpu, emergency_bottom);

impl PerCpu {
    const fn new(index: u32) -> Self {
        Self {
            scratch: [const { AtomicU64::new(0) }; 4],
            stack_bottom: AtomicU64::new(0),
            stack_top: AtomicU64::new(0),
            emergency_bottom: AtomicU64::new(0),
            emergency_top: AtomicU64::new(0),
            index,
            irq_depth: AtomicU32::new(0),
            ending: AtomicU32::new(0),
            masked: AtomicU32::new(0),
            unmask: AtomicBool::new(false),
            // SAFETY: `batch` is called by the CPU of this block, whose current task is alone
            // with it: the library does not use it in interrupts.
            batch: unsafe { Batch::new() },
        }
    }

    /// Number of the CPU, 0 for the boot CPU.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// How many interrupts deep this CPU is.
    #[must_use]
    pub fn irq_depth(&self) -> u32 {
        self.irq_depth.load(Ordering::Relaxed)
    }

    /// What lazy MMU mode defers on this CPU, for the current task.
    #[must_use]
    pub const fn batch(&self) -> &Batch {
        &self.batch
    }

    /// Whether this CPU runs an interrupt handler (Linux's `in_hardirq()`).
    #[must_use]
    pub fn in_interrupt(&self) -> bool {
        self.irq_depth() != 0
    }

    /// An interrupt begins. Relaxed everywhere: only this CPU reads and writes.
    pub(crate) fn enter_irq(&self) {
        self.irq_depth.fetch_add(1, Ordering::Relaxed);
    }

    /// An interrupt ends.
    pub(crate) fn leave_irq(&self) {
        let before = self.irq_depth.fetch_sub(1, Ordering::Relaxed);
        assert!(
            before != 0,
            "interrupt depth of CPU {} fell below 0",
            self.index
        );
    }

    /// A masked section begins; IRQs are masked already, and `unmask` says whether they came
    /// through before. Plain loads and stores will do: nothing on this CPU can come in between.
    pub(crate) fn begin_masked(&self, unmask: bool) {
        let depth = self.masked.load(Ordering::Relaxed);
        if depth == 0 {
            self.unmask.store(unmask, Ordering::Relaxed);
        }
        self.masked.store(depth + 1, Ordering::Relaxed);
    }

    /// A masked section ends; returns whether IRQs are to come through again.
    pub(crate) fn end_masked(&self) -> bool {
        let depth = self.masked.load(Ordering::Relaxed) - 1;
        self.masked.store(depth, Ordering::Relaxed);
        depth == 0 && self.unmask.load(Ordering::Relaxed)
    }

    /// Takes note of another attempt to report the end; returns how many there were before.
    pub(crate) fn begin_ending(&self) -> u32 {
        self.ending.fetch_add(1, Ordering::Relaxed)
    }

    /// Calls `end` on the emergency stack: from its top, or from where SP is if that is the stack
    /// in use. What `subject` leads to stays where it is.
    pub(crate) fn on_emergency_stack<T>(&self, end: extern "C" fn(&T) -> !, subject: &T) -> ! {
        let stack = self.emergency_stack();
        let here: u64;
        // SAFETY: reads SP.
        unsafe { asm!("mov {}, sp", out(reg) here, options(nomem, nostack, preserves_flags)) };
        let sp = if (stack.bottom..stack.top).contains(&here) {
            here
        } else {
            stack.top
        };
        // SAFETY: `sp` is on a mapped stack of this CPU with nothing in use below it, and nothing
        // returns to the one that is left: its contents stay, `subject` too. x29 still leads there,
        // for backtraces.
        unsafe {
            asm!(
                "mov sp, {sp}",
                "blr {end}",
                "brk #0", // it does not return
                sp = in(reg) sp,
                end = in(reg) end,
                in("x0") ptr::from_ref(subject),
                options(noreturn)
            );
        }
    }

    /// The stack in use.
    #[must_use]
    pub fn stack(&self) -> Stack {
        Stack {
            bottom: self.stack_bottom.load(Ordering::Relaxed),
            top: self.stack_top.load(Ordering::Relaxed),
        }
    }

    /// The stack for reports.
    #[must_use]
    pub fn emergency_stack(&self) -> Stack {
        Stack {
            bottom: self.emergency_bottom.load(Ordering::Relaxed),
            top: self.emergency_top.load(Ordering::Relaxed),
        }
    }

    /// Declares the stack that this CPU is about to run on.
    ///
    /// To be called with interrupts masked, together with the switch of SP: an exception in
    /// between takes the stack for overflowed.
    pub fn set_stack(&self, stack: Stack) {
        self.stack_bottom.store(stack.bottom, Ordering::Relaxed);
        self.stack_top.store(stack.top, Ordering::Relaxed);
    }
}

static BOOT_CPU: PerCpu = PerCpu::new(0);

unsafe extern "C" {
    /// Bounds of the boot CPU's stacks (linker.ld); only their addresses are used.
    static _boot_stack_bottom: [u8; 0];
    static _boot_stack_top: [u8; 0];
    static _emergency_stack_bottom: [u8; 0];
    static _emergency_stack_top: [u8; 0];
}

/// Gives the boot CPU its block. The first thing `kernel_main` does; everything is still masked.
pub fn init_boot_cpu() {
    BOOT_CPU.emergency_bottom.store(
        (&raw const _emergency_stack_bottom) as u64,
        Ordering::Relaxed,
    );
    BOOT_CPU
        .emergency_top
        .store((&raw const _emergency_stack_top) as u64, Ordering::Relaxed);
    BOOT_CPU.set_stack(Stack {
        bottom: (&raw const _boot_stack_bottom) as u64,
        top: (&raw const _boot_stack_top) as u64,
    });
    // SAFETY: the block is a static, and this is the only CPU.
    unsafe { sysreg::set_tpidr(&raw const BOOT_CPU as u64) };
    barrier::isb();
}

/// The calling CPU's block.
///
/// The caller may be moved to another CPU as soon as interrupts are unmasked; what it reads then
/// belongs to the old one.
///
/// # Panics
///
/// Before [`init_boot_cpu`], which is the first thing that `kernel_main` does.
#[must_use]
#[inline(always)]
pub fn current() -> &'static PerCpu {
    match try_current() {
        Some(cpu) => cpu,
        None => missing(),
    }
}

/// The same, or `None` before [`init_boot_cpu`].
#[must_use]
#[inline(always)]
pub fn try_current() -> Option<&'static PerCpu> {
    let address = sysreg::tpidr();
    // SAFETY: `boot` clears the register, and `set_tpidr`'s contract is that otherwise it holds the
    // address of a `PerCpu` that lives for ever; all of its fields are atomics or constant.
    unsafe { ptr::with_exposed_provenance::<PerCpu>(address as usize).as_ref() }
}

#[cold]
fn missing() -> ! {
    panic!("percpu::init_boot_cpu() comes before any use of the per-CPU block")
}
