// SPDX-License-Identifier: MIT OR Apache-2.0
//! Programs that the compiler must refuse. `cargo test --doc` compiles each of them, and fails if
//! one compiles. (`tests/library/tokens.rs` checks which types are not `Send` or not `Sync`.)
//!
//! The state and the counters of a task are freed with it, so safe code gets no reference to them:
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
//! Changing the strategy or the features affects what other tasks have deferred, so it is `unsafe`:
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
