// SPDX-License-Identifier: MIT OR Apache-2.0

//! Locks. [`IrqLock`] is the one of this floor; the others need tasks, and are the scheduler's.
//!
//! | lock | while it is held | for what |
//! |---|---|---|
//! | [`IrqLock`] | interrupts are masked | what interrupt handlers use as well |
//! | [`sched::RawSpinLock`](crate::sched::RawSpinLock) | the holder is not preempted | what only tasks use, which is the kernel's address space; a handler that asks for it panics |
//! | [`sched::Mutex`](crate::sched::Mutex) | anything goes, the holder may sleep | what is held for long |
//!
//! A holder of a spin lock that lost its CPU would let everybody else spin for a time slice, and for ever if the
//! next task may not be preempted either (a section of a backend that keeps its CPU). So both spin
//! locks keep the CPU.
//!
//! # Order
//!
//! Who holds one takes only those further down:
//!
//! 1. a sleeping [`Mutex`](crate::sched::Mutex);
//! 2. the kernel's address space ([`mm::kernel_space`](crate::mm::kernel_space));
//! 3. the list of vmap areas;
//! 4. a wait queue's list ([`sched::WaitQueue`](crate::sched::WaitQueue));
//! 5. run queues, in the order of their CPUs ([`sched::Cpus`](crate::sched::Cpus));
//! 6. the heap;
//! 7. the frame allocator;
//! 8. the interrupt controller;
//! 9. the console.
//!
//! Nothing logs while it holds a run queue, and nothing allocates.

mod irq;

pub use self::irq::{IrqLock, IrqLockGuard};
