// SPDX-License-Identifier: MIT OR Apache-2.0
//! Test support of [`lazymmu`]: two simulated machines, random programs that run on them, and
//! checks for the traits that a kernel implements.
//!
//! The library's own tests use it. It is a crate of its own so that a kernel that uses the library
//! can test its implementation of [`lazymmu::Hardware`], [`lazymmu::TableFrames`] and
//! [`lazymmu::Context`] on the same machines (see below).
//!
//! # What each part finds
//!
//! * [`fake`] records every effect in its order and checks each store at once: it finds a live
//!   entry that is replaced without a break (R29), a table that is linked too early (R18) or freed
//!   too early (R32), and a contiguous group of which only a part has changed. It compares the
//!   library's counters with what was executed. It does not compute what another CPU may observe.
//! * [`model`] computes everything that the architecture allows each CPU to observe. A missing
//!   barrier or TLBI shows, in every run, as an outcome that the contract forbids. It does not
//!   model the sizes of TLB entries and the contents of pages.
//! * [`programs`] finds sequences of calls that no test spells out. [`programs::run`] executes them
//!   on the model and compares every outcome with the contract; [`programs::oracle`] executes them
//!   on the fake machine and compares every page with a map from page to entry.
//! * [`conformance`] checks that the methods of a kernel's own traits do what they document, for
//!   every length of a run. It does not check their order.
//!
//! All of them run on the host; no Arm instruction is executed.
//!
//! # How another kernel uses it
//!
//! There are three steps, and each of them finds other mistakes.
//!
//! 1. [`conformance::hardware`], [`conformance::table_frames`] and [`conformance::context`] check
//!    the kernel's own types as they are, as far as they can run on a host.
//! 2. [`fake::Watched`] takes the kernel's allocator of tables, and implements the rest of the
//!    kernel itself. Every test that is written for [`fake::Fake`] can be written for it.
//! 3. [`model::Modelled`] takes a kernel that reports its instructions to a [`model::Sim`]. Where
//!    the kernel would execute `DSB ISH`, its implementation for tests calls `dsb_ish` of the
//!    `Sim`, and so on. The kernel keeps its own code around the instructions: a workaround for an
//!    erratum, a choice between instructions, the selection of the task's state.
//!    [`conformance::on_the_model`] then runs every scenario on it, and [`programs::run`] random
//!    programs.
//!
//! Here is a kernel with a [`lazymmu::Context`] and a [`lazymmu::Hardware`] of its own. It passes.
//!
//! ```
//! use lazymmu::{
//!     Batch, Context, Counters, Desc, Frame, Hardware, LazyMmuError, LazyMmuState, Pte, Table,
//!     TableFrames, TlbiOp,
//! };
//! use lazymmu_testkit::model::{CPUS, Executed, Modelled, Sim};
//! use lazymmu_testkit::{conformance, programs};
//! use std::ptr::NonNull;
//!
//! /// What the kernel keeps for each of its tasks.
//! #[derive(Default)]
//! struct Task {
//!     lazy: LazyMmuState,
//! }
//!
//! struct MyKernel {
//!     sim: Sim,
//!     tasks: Vec<Task>,
//!     counters: Counters,
//!     batches: [Batch; CPUS],
//! }
//!
//! impl MyKernel {
//!     fn new(sim: Sim) -> Self {
//!         Self {
//!             tasks: (0..sim.tasks()).map(|_| Task::default()).collect(),
//!             sim,
//!             counters: Counters::new(),
//!             // SAFETY: `batch` returns each only for the CPU of its number.
//!             batches: std::array::from_fn(|_| unsafe { Batch::new() }),
//!         }
//!     }
//! }
//!
//! // SAFETY: each method calls that of the `Sim`, which has the documented effect.
//! unsafe impl Hardware for MyKernel {
//!     // Entries live in the machine's memory.
//!     fn load(&self, pte: &Pte) -> Desc {
//!         self.sim.load(pte)
//!     }
//!     fn store(&self, pte: &Pte, desc: Desc) {
//!         self.sim.store(pte, desc);
//!     }
//!     fn swap(&self, pte: &Pte, desc: Desc) -> Desc {
//!         self.sim.swap(pte, desc)
//!     }
//!     fn compare_exchange(&self, pte: &Pte, old: Desc, new: Desc) -> Result<Desc, Desc> {
//!         self.sim.compare_exchange(pte, old, new)
//!     }
//!     fn dmb_ishst(&self) {
//!         self.sim.dmb_ishst();
//!     }
//!     fn dsb_ishst(&self) {
//!         self.sim.dsb_ishst();
//!     }
//!     fn dsb_ish(&self) {
//!         self.sim.dsb_ish();
//!     }
//!     fn isb(&self) {
//!         self.sim.isb();
//!     }
//!     fn tlbi(&self, op: TlbiOp, operand: u64) {
//!         self.sim.tlbi(op, operand);
//!     }
//! }
//!
//! // SAFETY: each method calls that of the `Sim`, which has made the same promise.
//! unsafe impl TableFrames for MyKernel {
//!     fn alloc_table(&self) -> Option<Frame> {
//!         self.sim.alloc_table()
//!     }
//!     unsafe fn free_table(&self, frame: Frame) {
//!         // SAFETY: this function has the contract of the one that it calls.
//!         unsafe { self.sim.free_table(frame) };
//!     }
//!     fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
//!         self.sim.table_ptr(frame)
//!     }
//! }
//!
//! // The states of tasks, the counters and the batches are the kernel's own.
//! //
//! // SAFETY: state and batch are those of the current CPU and of the task that runs on it. The
//! // `Sim` lets one CPU at a time call, so the counters have one writer.
//! unsafe impl Context for MyKernel {
//!     unsafe fn lazy(&self) -> &LazyMmuState {
//!         self.lazy_of(self.sim.running(self.sim.cpu()))
//!     }
//!     fn in_interrupt(&self) -> bool {
//!         self.sim.in_interrupt()
//!     }
//!     unsafe fn counters(&self) -> &Counters {
//!         &self.counters
//!     }
//!     fn batch(&self) -> Option<&Batch> {
//!         Some(&self.batches[self.sim.cpu()])
//!     }
//!     fn report(&self, error: LazyMmuError) {
//!         self.sim.report(error);
//!     }
//! }
//!
//! // The model has no states and counters of its own for this kernel, so the kernel returns them.
//! impl Modelled for MyKernel {
//!     fn sim(&self) -> &Sim {
//!         &self.sim
//!     }
//!     fn lazy_of(&self, task: usize) -> &LazyMmuState {
//!         &self.tasks[task].lazy
//!     }
//!     fn counted(&self) -> Executed {
//!         self.counters.read().into()
//!     }
//! }
//!
//! assert_eq!(conformance::on_the_model(MyKernel::new), Ok(()));
//!
//! // Random programs pass as well.
//! let mut rng = lazymmu_testkit::rng::Rng(1);
//! for backend in lazymmu::Backend::ALL {
//!     let setup = lazymmu_testkit::model::world::Setup::classic(backend);
//!     for _ in 0..10 {
//!         let program = programs::Program::random(&programs::Universe::MODEL, &mut rng, 28);
//!         assert_eq!(programs::run(setup, &program, MyKernel::new), Ok(()), "{program:?}");
//!     }
//! }
//! ```
//!
//! A kernel whose `dsb_ish` does nothing is found, and not by counting barriers: after a page was
//! unmapped, the model computes that a CPU may still reach it.
//!
//! ```
//! use lazymmu::{
//!     Batch, Context, Counters, Desc, Frame, Hardware, LazyMmuError, LazyMmuState, Pte, Table,
//!     TableFrames, TlbiOp,
//! };
//! use lazymmu_testkit::conformance;
//! use lazymmu_testkit::model::{Modelled, Sim};
//! use std::ptr::NonNull;
//!
//! struct NoDsb(Sim);
//!
//! // SAFETY: it breaks the promise on purpose. Only the model walks its tables.
//! unsafe impl Hardware for NoDsb {
//!     fn dsb_ish(&self) {
//!         // The mistake.
//!     }
//!     // The rest is as above.
//! #   fn load(&self, pte: &Pte) -> Desc { self.0.load(pte) }
//! #   fn store(&self, pte: &Pte, desc: Desc) { self.0.store(pte, desc); }
//! #   fn swap(&self, pte: &Pte, desc: Desc) -> Desc { self.0.swap(pte, desc) }
//! #   fn compare_exchange(&self, pte: &Pte, old: Desc, new: Desc) -> Result<Desc, Desc> {
//! #       self.0.compare_exchange(pte, old, new)
//! #   }
//! #   fn dmb_ishst(&self) { self.0.dmb_ishst(); }
//! #   fn dsb_ishst(&self) { self.0.dsb_ishst(); }
//! #   fn isb(&self) { self.0.isb(); }
//! #   fn tlbi(&self, op: TlbiOp, operand: u64) { self.0.tlbi(op, operand); }
//! }
//! #
//! # // SAFETY: each method calls that of the `Sim`, which has made the same promise.
//! # unsafe impl TableFrames for NoDsb {
//! #   fn alloc_table(&self) -> Option<Frame> { self.0.alloc_table() }
//! #   unsafe fn free_table(&self, frame: Frame) {
//! #       // SAFETY: this function has the contract of the one that it calls.
//! #       unsafe { self.0.free_table(frame) };
//! #   }
//! #   fn table_ptr(&self, frame: Frame) -> NonNull<Table> { self.0.table_ptr(frame) }
//! # }
//! #
//! # // SAFETY: each method calls that of the `Sim`, which has made the same promise.
//! # unsafe impl Context for NoDsb {
//! #   unsafe fn lazy(&self) -> &LazyMmuState { unsafe { self.0.lazy() } }
//! #   fn in_interrupt(&self) -> bool { self.0.in_interrupt() }
//! #   unsafe fn counters(&self) -> &Counters { unsafe { self.0.counters() } }
//! #   fn batch(&self) -> Option<&Batch> { self.0.batch() }
//! #   fn report(&self, error: LazyMmuError) { self.0.report(error); }
//! # }
//!
//! impl Modelled for NoDsb {
//!     fn sim(&self) -> &Sim {
//!         &self.0
//!     }
//! }
//!
//! let caught = conformance::on_the_model(NoDsb).expect_err("a barrier is missing");
//! assert_eq!(
//!     caught,
//!     "unmap_a_page, eager: CPU 0, Read of 0xffff800000000000: \
//!      {page 0x5000 (0x300), translation fault, level 3} instead of a translation fault"
//! );
//! ```

pub mod conformance;
pub mod fake;
pub mod model;
pub mod programs;
pub mod rng;

pub use fake::ForOneTask;
