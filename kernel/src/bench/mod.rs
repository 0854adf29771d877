// SPDX-License-Identifier: MIT OR Apache-2.0
//! The measured windows: how many instructions and barriers the library's hot paths execute,
//! as compiled into this kernel. What `mode=counts` does; `cargo xtask counts` reads it.
//!
//! Instructions are ticks of the generic timer, which is true in one place only: under QEMU
//! with `-cpu max` (a counter of 1 GHz) and `-icount shift=0,sleep=off` (an instruction takes a
//! nanosecond). Anywhere else the kernel says so and refuses. Barriers and
//! TLBIs are the library's own counts.
//!
//! Each window is executed three times with IRQs masked, and the cheapest is taken; an
//! empty window, which is subtracted, is what the measuring itself costs. One line for each
//! size and operation comes out:
//!
//! ```text
//! counts backend=defer-barriers policy=classic
//! count op=8 pages=512 instructions=1234 spread=0 ptes=512 dsb=1 isb=1 tlbi=0 ish=0 dmb=0
//! ```
//!
//! `spread` is by how much the dearest repetition was dearer; `ish` are those of the DSB that are `DSB ISH`, the others
//! are `DSB ISHST`, as are all `DMB`.
//!
//! With `mode=bench` the counter is outside of the machine, a QEMU plugin that knows the marks of the
//! windows ([`crate::arch::window`]), on any CPU; the lines have no `instructions` and no `spread` then.

#[cfg(target_os = "none")]
mod best;
#[cfg(target_os = "none")]
mod ground;
#[cfg(target_os = "none")]
mod measure;
#[cfg(target_os = "none")]
mod scheduler;
pub mod windows;

#[cfg(target_os = "none")]
pub use best::{BenchError, Counter};
#[cfg(target_os = "none")]
pub use measure::{check_clock, main};
