// SPDX-License-Identifier: MIT OR Apache-2.0

//! The per-CPU block: the data that a CPU finds through TPIDR_EL1.
//!
//! The vectors use the block before they have a stack. Therefore its first fields are at fixed
//! offsets, which `exceptions::vectors` takes from here. A stack outside of the bounds in the block
//! counts as overflowed, so code that switches stacks also changes the bounds
//! ([`PerCpu::set_stack`]), with interrupts masked.
//!
//! The boot CPU's block is a static. The other blocks are allocated when their CPUs are started,
//! and they stay forever. [`of`] finds a block by its number, and [`online`] iterates over the CPUs
//! that are online. Their numbers are 0 to [`online_count`] - 1, unless a CPU was lost in the last
//! step of its start (see [`smp`](crate::smp)).

use super::sysreg;
use core::{
    arch::asm,
    mem::offset_of,
    ptr,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering},
};
use lazymmu::{Batch, Counters};

use crate::{machine::MAX_CPUS, stack::Stack};

/// The block of a CPU. The vectors know the layout up to `emergency_top`.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct PerCpu {
    /// x1, x2, x3 of an exception that has no frame yet. Only the vectors use it, and no second
    /// exception can overwrite it: everything is masked and nothing accessed can fault.
    scratch: [AtomicU64; 4],
    /// Bounds of the stack in use: `bottom <= SP <= top`.
    stack_bottom: AtomicU64,
    stack_top: AtomicU64,
    /// Bounds of the emergency stack.
    emergency_bottom: AtomicU64,
    emergency_top: AtomicU64,
    /// Number of the CPU, 0 for the boot CPU.
    index: u32,
    /// Affinity fields of its MPIDR_EL1; 0 in the boot CPU's block until [`init_boot_cpu`].
    affinity: AtomicU64,
    /// Whether the CPU takes interrupts and may be given work.
    online: AtomicBool,
    /// Whether the CPU has stopped forever, because the kernel ends.
    stopped: AtomicBool,
    /// How many times this CPU has begun to report the end of the kernel.
    ending: AtomicU32,
    /// How many [`Masked`](super::interrupts::Masked) guards exist on this CPU.
    masked: AtomicU32,
    /// Whether IRQs were unmasked before the first of these guards.
    unmask: AtomicBool,
    /// Counts what this CPU's interrupts execute.
    interrupt_counters: Counters,
    /// Stores and invalidations that lazy MMU mode defers on this CPU.
    batch: Batch,
}

/// Offset of the scratch words, for the vectors.
pub(crate) const SCRATCH: usize = offset_of!(PerCpu, scratch);
/// Offset of the stack's bounds, bottom then top.
pub(crate) const STACK: usize = offset_of!(PerCpu, stack_bottom);
/// Offset of the emergency stack's bounds, bottom then top.
pub(crate) const EMERGENCY: usize = offset_of!(PerCpu, emergency_bottom);

impl PerCpu {
    /// A block for CPU `index`, which has the affinity fields `affinity` in its MPIDR_EL1.
    ///
    /// Both stacks belong to that CPU alone and are mapped writable, each above an unmapped page.
    #[must_use]
    pub const fn new(index: u32, affinity: u64, stack: Stack, emergency: Stack) -> Self {
        Self {
            scratch: [const { AtomicU64::new(0) }; 4],
            stack_bottom: AtomicU64::new(stack.bottom),
            stack_top: AtomicU64::new(stack.top),
            emergency_bottom: AtomicU64::new(emergency.bottom),
            emergency_top: AtomicU64::new(emergency.top),
            index,
            affinity: AtomicU64::new(affinity),
            online: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            ending: AtomicU32::new(0),
            masked: AtomicU32::new(0),
            unmask: AtomicBool::new(false),
            interrupt_counters: Counters::new(),
            // SAFETY: only the CPU of this block calls `batch`, and only its current task uses it:
            // the library does not use it in interrupts.
            batch: unsafe { Batch::new() },
        }
    }

    /// Number of the CPU, 0 for the boot CPU.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Affinity fields of its MPIDR_EL1 (Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0).
    #[must_use]
    pub fn affinity(&self) -> u64 {
        self.affinity.load(Ordering::Relaxed)
    }

    /// Whether the CPU takes interrupts and may be given work. An online CPU stays online.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.online.load(Ordering::Acquire)
    }

    /// Whether the CPU has stopped forever.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Records that this CPU will only halt from now on, and that its output is complete.
    pub(crate) fn set_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Stores and invalidations that lazy MMU mode defers on this CPU, for the current task.
    #[must_use]
    pub const fn batch(&self) -> &Batch {
        &self.batch
    }

    /// The counters of what the interrupts of this CPU execute.
    #[inline(always)]
    #[must_use]
    pub const fn interrupt_counters(&self) -> &Counters {
        &self.interrupt_counters
    }

    /// Begins a masked section. IRQs are masked already, and `unmask` says whether they were
    /// unmasked before. Plain loads and stores are enough, because nothing on this CPU can
    /// interrupt them.
    pub(crate) fn begin_masked(&self, unmask: bool) {
        let depth = self.masked.load(Ordering::Relaxed);
        if depth == 0 {
            self.unmask.store(unmask, Ordering::Relaxed);
        }
        self.masked.store(depth + 1, Ordering::Relaxed);
    }

    /// Ends a masked section. Returns whether IRQs must be unmasked.
    pub(crate) fn end_masked(&self) -> bool {
        let depth = self.masked.load(Ordering::Relaxed) - 1;
        self.masked.store(depth, Ordering::Relaxed);
        depth == 0 && self.unmask.load(Ordering::Relaxed)
    }

    /// Counts another attempt to report the end. Returns how many there were before.
    pub(crate) fn begin_ending(&self) -> u32 {
        self.ending.fetch_add(1, Ordering::Relaxed)
    }

    /// Calls `end` on the emergency stack: from its top, or from the current SP if that stack is
    /// already in use. References in `subject` stay valid.
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
        // SAFETY: `sp` is on a mapped stack of this CPU with nothing in use below it. Nothing
        // returns to the old stack, so its contents and `subject` stay. x29 still points to the old
        // stack, for backtraces.
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

    /// The stack for reports about exceptions and panics.
    #[must_use]
    pub fn emergency_stack(&self) -> Stack {
        Stack {
            bottom: self.emergency_bottom.load(Ordering::Relaxed),
            top: self.emergency_top.load(Ordering::Relaxed),
        }
    }

    /// Sets the bounds of the stack to which this CPU is about to switch.
    ///
    /// Call it with interrupts masked, together with the switch of SP: an exception between the two
    /// would treat the stack as overflowed.
    pub fn set_stack(&self, stack: Stack) {
        self.stack_bottom.store(stack.bottom, Ordering::Relaxed);
        self.stack_top.store(stack.top, Ordering::Relaxed);
    }
}

/// Before `init_boot_cpu`, because the compiler does not know the linker's symbols.
const UNKNOWN: Stack = Stack { bottom: 0, top: 0 };

static BOOT_CPU: PerCpu = PerCpu::new(0, 0, UNKNOWN, UNKNOWN);

/// Blocks by number; null where there is none.
static BLOCKS: [AtomicPtr<PerCpu>; MAX_CPUS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS];

unsafe extern "C" {
    /// Bounds of the boot CPU's stacks (linker.ld); only their addresses are used.
    static _boot_stack_bottom: [u8; 0];
    static _boot_stack_top: [u8; 0];
    static _emergency_stack_bottom: [u8; 0];
    static _emergency_stack_top: [u8; 0];
}

/// Gives the boot CPU its block. `kernel_main` calls this first, while everything is masked.
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
    BOOT_CPU
        .affinity
        .store(this_cpu_affinity(), Ordering::Relaxed);
    // SAFETY: the block is a static, and this is the only CPU.
    unsafe { sysreg::set_tpidr(&raw const BOOT_CPU as u64) };
    set_online(&BOOT_CPU);
}

/// Gives a secondary CPU its block. The CPU calls this first, while everything is masked. Other
/// CPUs do not find the block before [`set_online`].
///
/// # Safety
///
/// `block` was made for this CPU and the stack that it runs on, and no other CPU uses it.
pub unsafe fn init_secondary(block: &'static PerCpu) {
    // SAFETY: the block lives forever, and the caller vouches that it belongs to this CPU alone.
    unsafe { sysreg::set_tpidr(ptr::from_ref(block).expose_provenance() as u64) };
}

/// Lets all CPUs find the block, and lets its CPU be given work.
///
/// # Panics
///
/// If the number is taken, or is [`MAX_CPUS`] or more.
pub fn set_online(block: &'static PerCpu) {
    let place = &BLOCKS[block.index as usize];
    let taken = place.swap(ptr::from_ref(block).cast_mut(), Ordering::Release);
    assert!(taken.is_null(), "CPU {} already has a block", block.index);
    block.online.store(true, Ordering::Release);
}

/// The block of CPU `index`, if that CPU is online.
#[must_use]
pub fn of(index: u32) -> Option<&'static PerCpu> {
    let block = BLOCKS.get(index as usize)?.load(Ordering::Acquire);
    // SAFETY: null, or set from a `&'static PerCpu`.
    let block = unsafe { block.as_ref() }?;
    block.is_online().then_some(block)
}

/// The blocks of all CPUs that are online, in ascending order of their numbers.
pub fn online() -> impl Iterator<Item = &'static PerCpu> {
    (0..MAX_CPUS as u32).filter_map(of)
}

/// How many CPUs are online.
#[must_use]
pub fn online_count() -> usize {
    online().count()
}

/// Affinity fields of this CPU's MPIDR_EL1.
#[must_use]
pub fn this_cpu_affinity() -> u64 {
    sysreg::mpidr() & boot::secondary::AFFINITY
}

/// The calling CPU's block.
///
/// Once interrupts are unmasked, the caller may move to another CPU. The block then still belongs
/// to the old one.
///
/// # Panics
///
/// If [`init_boot_cpu`] has not run yet; `kernel_main` calls it first.
#[must_use]
#[inline(always)]
pub fn current() -> &'static PerCpu {
    match try_current() {
        Some(cpu) => cpu,
        None => missing(),
    }
}

/// The calling CPU's block, or `None` before [`init_boot_cpu`].
#[must_use]
#[inline(always)]
pub fn try_current() -> Option<&'static PerCpu> {
    let address = sysreg::tpidr();
    // SAFETY: `boot` clears the register. Otherwise it holds the address of a `PerCpu` that lives
    // forever, by the contract of `set_tpidr`; all of its fields are atomics or constant.
    unsafe { ptr::with_exposed_provenance::<PerCpu>(address as usize).as_ref() }
}

#[cold]
fn missing() -> ! {
    panic!("the per-CPU block was used before percpu::init_boot_cpu()")
}
