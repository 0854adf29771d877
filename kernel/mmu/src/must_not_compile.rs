// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that the compiler must refuse. `cargo test --doc` compiles each, and fails if it can.
//!
//! That a type is not `Send` or not `Sync` is in `tests/tokens.rs`.
//!
//! What belongs to a task is freed with it, so safe code gets no reference to it:
//!
//! ```compile_fail,E0133
//! fn keep(mmu: &'static lazymmu::Mmu<impl lazymmu::Kernel>) -> &'static lazymmu::LazyMmuState {
//!     mmu.kernel().lazy()
//! }
//! ```
//! ```compile_fail,E0133
//! fn keep(mmu: &'static lazymmu::Mmu<impl lazymmu::Kernel>) -> &'static lazymmu::Counters {
//!     mmu.kernel().counters()
//! }
//! ```
//! ```compile_fail,E0133
//! fn keep(mmu: &'static lazymmu::Mmu<impl lazymmu::Kernel>) -> Option<&'static lazymmu::Counters> {
//!     mmu.kernel().task_counters()
//! }
//! ```
//! ```compile_fail,E0308
//! fn keep(mmu: &'static lazymmu::Mmu<impl lazymmu::Kernel>) -> &'static lazymmu::LazyMmuState {
//!     mmu.lazy().state()
//! }
//! ```
//!
//! A change of the strategy or of the features concerns what other tasks have deferred:
//!
//! ```compile_fail,E0133
//! fn change(mmu: &lazymmu::Mmu<impl lazymmu::Kernel>) {
//!     let _ = mmu.set_backend(lazymmu::Backend::Eager);
//! }
//! ```
//! ```compile_fail,E0133
//! fn change(mmu: &lazymmu::Mmu<impl lazymmu::Kernel>) {
//!     mmu.set_features(lazymmu::Features::default());
//! }
//! ```
