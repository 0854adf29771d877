// SPDX-License-Identifier: MIT OR Apache-2.0

//! Locks. This module defines [`IrqLock`]. The other locks need tasks and belong to the scheduler.
//!
//! | lock | while it is held | protects |
//! |---|---|---|
//! | [`IrqLock`] | interrupts are masked | data that interrupt handlers use as well |
//! | [`sched::RawSpinLock`](crate::sched::RawSpinLock) | the holder is not preempted | data that only tasks use, namely the kernel's address space; a handler that takes it panics |
//! | [`sched::Mutex`](crate::sched::Mutex) | the holder may be preempted, and it may sleep | data that is held for long |
//!
//! If the holder of a spin lock lost its CPU, all other CPUs would spin for a time slice. They
//! would spin forever if the next task cannot be preempted either (a section of a strategy that
//! keeps its CPU). Therefore the holder of either spin lock keeps its CPU.
//!
//! # Order
//!
//! The holder of a lock takes only locks that are further down in this list:
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
//! No code logs while it holds a run queue's lock, or allocates while it holds one.

mod irq;

pub use self::irq::{IrqLock, IrqLockGuard};
