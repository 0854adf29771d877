// SPDX-License-Identifier: MIT OR Apache-2.0
//! The measured windows: how many instructions and barriers the library's hot paths execute, as
//! compiled into this kernel. `mode=counts` runs them, and `cargo xtask counts` reads the result.
//!
//! Instructions are counted as ticks of the generic timer. This is right only under QEMU with
//! `-cpu max` (a counter of 1 GHz) and `-icount shift=0,sleep=off` (an instruction takes a
//! nanosecond). Anywhere else the kernel says so and refuses. Barriers and TLBIs are the library's
//! own counts.
//!
//! Each window is executed three times with IRQs masked, and the cheapest repetition counts. An
//! empty window shows the cost of measuring, which is subtracted. The output has one line for each
//! size and operation:
//!
//! ```text
//! counts backend=defer-barriers policy=classic
//! count op=8 pages=512 instructions=1234 spread=0 ptes=512 dsb=1 isb=1 tlbi=0 ish=0 dmb=0
//! ```
//!
//! `spread` is the difference between the most expensive and the cheapest repetition. `ish` is the
//! number of those DSB that are `DSB ISH`; the others are `DSB ISHST`, and all `DMB` are
//! `DMB ISHST`.
//!
//! With `mode=bench` a QEMU plugin outside of the machine counts, on any CPU. It knows the marks of
//! the windows ([`crate::arch::window`]). The lines then have no `instructions` and no `spread`.

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
