// SPDX-License-Identifier: MIT OR Apache-2.0
//! A fake kernel that records, counts and checks every effect.
//!
//! [`Watched`] implements [`lazymmu::Kernel`]. It executes no instruction. It knows the table to
//! which each store goes, and [`order`] checks the store at once. When it is dropped, it compares
//! its own counts with the library's counters, so a test need not mention counters to check them.
//!
//! Its tables come from an allocator that the test chooses. [`Fake`] has an allocator of its own,
//! and most tests use it. [`Watched::new`] takes the allocator of another kernel: it serves the
//! library, and every store to its tables is recorded and checked.

mod groups;
mod heap;
mod hypervisor;
pub mod interrupts;
mod kernel;
pub mod order;
mod walker;
mod world;

pub use heap::Heap;
pub use world::*;

use groups::{GROUP, Groups};
use interrupts::Interrupts;
use lazymmu::tlbi::MAX_DVM_OPS;
use lazymmu::{
    Batch, Call, Counters, Counts, Desc, ENTRIES, Frame, LazyMmuError, LazyMmuSnapshot,
    LazyMmuState, Mmu, PAGE_SIZE, Pte, Table, TableFrames, TlbiOp, bits,
};
use order::{Order, Role};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use walker::Walker;

/// One effect on the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A store to an entry.
    Store {
        /// The kind of the entry.
        role: Role,
        /// The physical address of its table.
        table: u64,
        /// Its index in the table.
        index: usize,
        /// The value that was stored.
        value: u64,
    },
    /// `DMB ISHST`.
    DmbIshst,
    /// `DSB ISHST`.
    DsbIshst,
    /// `DSB ISH`.
    DsbIsh,
    /// `ISB`.
    Isb,
    /// A TLBI with its operand.
    Tlbi(TlbiOp, u64),
    /// The allocation of a table at this physical address.
    Alloc(u64),
    /// The freeing of the table at this physical address.
    Free(u64),
    /// A mark that a test has added with [`Watched::note`].
    Note(u64),
}

use Effect::{DsbIsh, DsbIshst, Isb};

/// The fake's own counts of what was executed, in the units of [`Counts`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    ptes: u64,
    links: u64,
    dmb_ishst: u64,
    dsb_ishst: u64,
    dsb_ish: u64,
    isb: u64,
    tlbi: u64,
    requested: u64,
    dsb_paid: u64,
    isb_paid: u64,
}

/// The effects that an announced range must not increase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Executed {
    /// Stores to leaf entries and stores of links. A store that changes only the population in a
    /// link is not counted.
    pub stores: u64,
    /// Executed `DSB`, both `ISH` and `ISHST`.
    pub dsb: u64,
    /// Executed `ISB`.
    pub isb: u64,
    /// Executed TLBI of any kind.
    pub tlbi: u64,
    /// The pages that these TLBI name. A TLBI that invalidates everything counts as the smallest
    /// number of pages for which it is used.
    pub pages: u64,
}

impl Executed {
    /// Whether no number is larger than in `other`. Of `tlbi` and `pages` only one must not be
    /// larger: fewer pages may take more TLBI (63 pages take two ranged ones and 64 take one), and
    /// fewer TLBI may invalidate everything.
    pub const fn is_at_most(self, other: Self) -> bool {
        self.stores <= other.stores
            && self.dsb <= other.dsb
            && self.isb <= other.isb
            && (self.tlbi <= other.tlbi || self.pages <= other.pages)
    }
}

impl std::ops::Sub for Executed {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            stores: self.stores - other.stores,
            dsb: self.dsb - other.dsb,
            isb: self.isb - other.isb,
            tlbi: self.tlbi - other.tlbi,
            pages: self.pages - other.pages,
        }
    }
}

impl std::ops::Add for Executed {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            stores: self.stores + other.stores,
            dsb: self.dsb + other.dsb,
            isb: self.isb + other.isb,
            tlbi: self.tlbi + other.tlbi,
            pages: self.pages + other.pages,
        }
    }
}

/// Whether an interrupt arrives at the present moment (see [`interrupts`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The interrupt does not arrive yet.
    NotYet,
    /// The interrupt arrives.
    Now,
}

/// The number of CPUs. A test decides which task runs on which.
pub const CPUS: usize = 2;

/// A kernel whose tables come from `F` and whose machine is the fake one. See the module text.
pub struct Watched<F: TableFrames> {
    frames: F,
    /// Tables allocated and not freed, by frame.
    tables: RefCell<BTreeMap<u64, NonNull<Table>>>,
    /// The physical address of each of these tables, by its virtual address.
    frame_at: RefCell<BTreeMap<usize, u64>>,
    budget: Cell<usize>,
    /// Whether the next table that is allocated is the root of a kernel's address space.
    root_is_next: Cell<bool>,
    /// Whether a test frees whole trees that no walker uses any more.
    pub teardown: Cell<bool>,
    order: RefCell<Order>,
    groups: RefCell<Groups>,
    walker: Walker,
    effects: RefCell<Vec<Effect>>,
    tally: Cell<Tally>,
    /// The pages that TLBI have named ([`Executed::pages`]).
    invalidated: Cell<u64>,
    last: Cell<Effect>,
    /// Whether the last invalidation was for all ASIDs, so that an `ISB` ends it.
    of_all_asids: Cell<bool>,
    interrupt: Cell<bool>,
    interrupts: Interrupts<F>,
    tasks: [LazyMmuState; 2],
    current: Cell<usize>,
    counters: Counters,
    /// One per CPU. Boxed for Miri, which visits each cell behind a reference to the fake whenever
    /// the reference is passed on, and a batch has thousands of cells.
    batches: [Box<Batch>; CPUS],
    cpu: Cell<usize>,
    has_batch: Cell<bool>,
    has_hypervisor: Cell<bool>,
    multicalls: RefCell<Vec<Vec<Call>>>,
    reports: RefCell<Vec<LazyMmuError>>,
    depth_at_dsb: Cell<(u8, u8)>,
}

/// On a host, the counterpart of `Mmu::for_one_task` of bare AArch64: the library for one task
/// without interrupts. The fake machine takes the place of the CPU, and checks what the library
/// does to one kernel address space.
///
/// The machine checks the first space that is built, which must be a kernel space. It panics when a
/// table of another space is written. A test with several spaces, or with a user space, uses
/// [`Watched::new`] and [`new_space`].
pub trait ForOneTask<F> {
    /// Binds the library to the fake machine, with tables from `frames`.
    fn for_one_task(frames: F) -> Self;
}

impl<F: TableFrames> ForOneTask<F> for Mmu<Watched<F>> {
    fn for_one_task(frames: F) -> Self {
        Self::new(Watched::for_one_space(frames))
    }
}

/// A fake kernel with an allocator of its own.
pub type Fake = Watched<Heap>;

impl<F: TableFrames + Default> Default for Watched<F> {
    fn default() -> Self {
        Self::new(F::default())
    }
}

impl<F: TableFrames> Watched<F> {
    /// A kernel whose tables come from `frames`. No effect is recorded yet.
    pub fn new(frames: F) -> Self {
        Self {
            frames,
            tables: RefCell::default(),
            frame_at: RefCell::default(),
            budget: Cell::new(usize::MAX),
            root_is_next: Cell::new(false),
            teardown: Cell::new(false),
            order: RefCell::default(),
            groups: RefCell::default(),
            walker: Walker::default(),
            effects: RefCell::default(),
            tally: Cell::default(),
            invalidated: Cell::default(),
            last: Cell::new(Effect::Note(0)),
            of_all_asids: Cell::new(false),
            interrupt: Cell::new(false),
            interrupts: Interrupts::default(),
            tasks: [const { LazyMmuState::new() }; 2],
            current: Cell::new(0),
            counters: Counters::new(),
            // SAFETY: `batch` returns each only for the CPU of its number, and one flow of control
            // uses the fake.
            batches: std::array::from_fn(|_| Box::new(unsafe { Batch::new() })),
            cpu: Cell::new(0),
            has_batch: Cell::new(true),
            has_hypervisor: Cell::new(false),
            multicalls: RefCell::default(),
            reports: RefCell::default(),
            depth_at_dsb: Cell::default(),
        }
    }

    /// [`Watched::new`] for one kernel address space: the first table that is allocated is its
    /// root, so the space need not be built with [`new_space`]. Other spaces must be: the first
    /// valid entry that is stored to a table which no known root reaches causes a panic.
    pub fn for_one_space(frames: F) -> Self {
        let kernel = Self::new(frames);
        kernel.root_is_next.set(true);
        kernel.order.borrow_mut().know_every_root();
        kernel
    }

    /// The state of the current task.
    pub fn current_state(&self) -> LazyMmuSnapshot {
        self.tasks[self.current.get()].read()
    }

    /// The allocator of the tables.
    pub const fn frames(&self) -> &F {
        &self.frames
    }

    /// The effects since the last call. If no section is open, also checks the contiguous groups
    /// ([`Watched::check_groups`]).
    pub fn take_effects(&self) -> Vec<Effect> {
        if self
            .tasks
            .iter()
            .all(|task| task.read().enable_count() == 0)
        {
            self.check_groups();
        }
        std::mem::take(&mut self.effects.borrow_mut())
    }

    /// Checks that no contiguous group is folded, changed or emptied only in part (R29).
    ///
    /// # Panics
    /// If one is.
    pub fn check_groups(&self) {
        for (table, group) in self.groups.borrow().all() {
            Groups::check_whole(table, group, &self.group(table, group));
        }
    }

    fn group(&self, table: u64, group: usize) -> [u64; GROUP] {
        let entries = self.table(table).entries();
        std::array::from_fn(|i| cell(&entries[group * GROUP + i]).load(Ordering::Relaxed))
    }

    /// From now on [`lazymmu::Context::batch`] returns `None`.
    pub fn withdraw_batch(&self) {
        self.has_batch.set(false);
    }

    /// Whether nothing waits on the current CPU.
    pub fn is_batch_empty(&self) -> bool {
        self.batches[self.cpu.get()].is_empty()
    }

    /// From now on `tables` more allocations succeed, and further ones fail.
    pub fn set_budget(&self, tables: usize) {
        self.budget.set(tables);
    }

    /// From now on the caller is in interrupt context, or no longer is.
    pub fn set_interrupt(&self, on: bool) {
        self.interrupt.set(on);
    }

    /// Makes `task` the current one. The lazy states do not change.
    pub fn switch_to(&self, task: usize) {
        self.current.set(task);
    }

    /// Makes `cpu` the current CPU, and the task of that number the current task.
    pub fn go_to(&self, cpu: usize) {
        self.cpu.set(cpu);
        self.switch_to(cpu);
    }

    /// Moves the current task to CPU `cpu`.
    pub fn move_to(&self, cpu: usize) {
        self.cpu.set(cpu);
    }

    /// The errors that the library has reported since the last call.
    pub fn take_reports(&self) -> Vec<LazyMmuError> {
        self.reports.take()
    }

    /// The library's own counters.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    /// What the fake has recorded so far.
    pub fn executed(&self) -> Executed {
        let tally = self.tally.get();
        Executed {
            stores: tally.ptes + tally.links,
            dsb: tally.dsb_ishst + tally.dsb_ish,
            isb: tally.isb,
            tlbi: tally.tlbi,
            pages: self.invalidated.get(),
        }
    }

    /// Both counters of the current task when the last `DSB ISHST` was executed.
    pub fn depth_at_last_dsb(&self) -> (u8, u8) {
        self.depth_at_dsb.get()
    }

    /// Adds a mark to the effects.
    pub fn note(&self, what: u64) {
        self.record(Effect::Note(what));
    }

    /// The number of tables that were allocated and not freed.
    pub fn live_tables(&self) -> usize {
        self.tables.borrow().len()
    }

    /// Whether no TLB may hold the old value of any entry.
    pub fn all_invalidated(&self) -> bool {
        self.order.borrow().all_invalidated()
    }

    /// Whether no TLB may hold the old value of any entry, except of the pages for which `may` is
    /// true. Its arguments are the ASID and the address.
    pub fn all_invalidated_but(&self, may: impl Fn(Option<u16>, u64) -> bool) -> bool {
        self.order.borrow().all_invalidated_but(may)
    }

    /// Whether a TLB may still translate `va` by an old leaf.
    pub fn may_be_cached(&self, asid: Option<u16>, va: u64) -> bool {
        self.order.borrow().may_be_cached(asid, va)
    }

    /// Checks that the frame to which `va` was mapped may be reused. The callbacks of a test that
    /// take frames call it, and all other code of the test that gives a frame back.
    ///
    /// # Panics
    /// If a TLB may still translate `va` to the frame, in the space of this ASID or in one that
    /// shares the table (R25).
    pub fn give_back(&self, asid: Option<u16>, va: u64, frame: Frame) {
        let order = self.order.borrow();
        order.give_back(asid, va, frame.as_u64());
    }

    /// The entries of every table as numbers, by physical address.
    pub fn image(&self) -> BTreeMap<u64, Vec<u64>> {
        let tables = self.tables.borrow();
        tables.keys().map(|&f| (f, self.raw(f))).collect()
    }

    /// The entries of a table as numbers.
    pub fn raw(&self, frame: u64) -> Vec<u64> {
        let table = NonNull::from(self.table(frame)).cast::<[u64; ENTRIES]>();
        // SAFETY: a table is 512 cells of 64 bits, and nothing writes them during the read, because
        // `Self` is not `Sync`. It is one read, because 512 would be slow under Miri.
        unsafe { table.read() }.to_vec()
    }

    fn table(&self, frame: u64) -> &Table {
        let tables = self.tables.borrow();
        let table = tables
            .get(&frame)
            .unwrap_or_else(|| panic!("no table lives in frame {frame:#x}"));
        // SAFETY: `F` promises that it points to the table until `free_table`, which removes it
        // from the list.
        unsafe { &*table.as_ptr() }
    }

    fn record(&self, effect: Effect) {
        let mut tally = self.tally.get();
        let last = self.last.replace(effect);
        match effect {
            Effect::DmbIshst => tally.dmb_ishst += 1,
            DsbIshst => {
                tally.dsb_ishst += 1;
                tally.dsb_paid += 1;
            }
            DsbIsh => tally.dsb_ish += 1,
            Isb => {
                tally.isb += 1;
                // After the DSB ISH of an invalidation for all ASIDs, the ISB ends the invalidation
                // and pays for no store. After that of one ASID it pays what links of tables owe.
                let ends_invalidation = last == DsbIsh && self.of_all_asids.replace(false);
                tally.isb_paid += u64::from(!ends_invalidation);
            }
            Effect::Tlbi(op, operand) => {
                tally.tlbi += 1;
                self.invalidated
                    .set(self.invalidated.get() + pages_of(op, operand));
                if last == DsbIshst {
                    // The DSB ISHST begins the invalidation and pays for no store.
                    tally.dsb_paid -= 1;
                    self.of_all_asids.set(matches!(
                        op,
                        TlbiOp::Vmalle1is
                            | TlbiOp::Vaae1is
                            | TlbiOp::Vaale1is
                            | TlbiOp::Rvaae1is
                            | TlbiOp::Rvaale1is
                    ));
                }
            }
            _ => {}
        }
        self.tally.set(tally);
        self.effects.borrow_mut().push(effect);
    }

    /// Whether R14 lists the store, computed without the library: a valid kernel leaf, a valid
    /// entry of levels 1 and 2, any write at level 0.
    fn is_listed(role: Role, value: u64) -> bool {
        let kernel_leaf = bits::VALID | bits::UXN;
        match role {
            Role::Leaf => value & (kernel_leaf | bits::AP_USER) == kernel_leaf,
            Role::Link(0) => true,
            Role::Link(_) => value & bits::VALID != 0,
            Role::Population | Role::Scratch => false,
        }
    }

    fn wrote(&self, pte: &Pte, old: u64, value: u64) {
        let address = pte.as_ptr() as usize;
        let base = address & !(PAGE_SIZE as usize - 1);
        let index = (address - base) / 8;
        let table = *self
            .frame_at
            .borrow()
            .get(&base)
            .unwrap_or_else(|| panic!("store to {address:#x}, which is in no live table"));
        let role = self.order.borrow_mut().store(table, index, old, value);
        let mut groups = self.groups.borrow_mut();
        if role == Role::Leaf && groups.concerns(table, index, old, value) {
            groups.stored(table, index, old, &self.group(table, index / GROUP));
        }
        drop(groups);
        let mut tally = self.tally.get();
        tally.ptes += u64::from(role == Role::Leaf);
        tally.links += u64::from(matches!(role, Role::Link(_)));
        tally.requested += u64::from(Self::is_listed(role, value));
        self.tally.set(tally);
        self.record(Effect::Store {
            role,
            table,
            index,
            value,
        });
    }

    fn swap_now(&self, pte: &Pte, desc: Desc) -> Desc {
        let old = cell(pte).swap(desc.as_u64(), Ordering::Relaxed);
        self.wrote(pte, old, desc.as_u64());
        Desc::from_u64(old)
    }

    /// The effect of a `DSB ISH` on the order of stores and invalidations.
    fn complete(&self) {
        let invalidated = self.order.borrow_mut().dsb_ish();
        for (table, index) in invalidated {
            let group = index / GROUP;
            Groups::check_whole(table, group, &self.group(table, group));
        }
    }

    /// Compares the library's counters with what was executed.
    ///
    /// # Panics
    /// If they differ.
    pub fn check_counters(&self) {
        let counts = self.counters.read();
        // Stores that waited and were overtaken are counted and were never executed.
        let late = counts.deferred + counts.late_stores > 0;
        // The effect after a barrier shows what the barrier was for, unless another task ran in
        // between.
        let struck = self.interrupts.has_struck();
        let executed = self.tally.get();
        let counted = Tally {
            ptes: counts.ptes - counts.deferred + counts.late_stores,
            links: counts.links,
            dmb_ishst: counts.dmb_ishst,
            dsb_ishst: counts.dsb_ishst,
            dsb_ish: counts.dsb_ish,
            isb: counts.isb,
            tlbi: counts.tlbi,
            requested: if late {
                executed.requested
            } else {
                counts.requested
            },
            dsb_paid: if struck {
                executed.dsb_paid
            } else {
                counts.dsb_paid
            },
            isb_paid: if struck {
                executed.isb_paid
            } else {
                counts.isb_paid
            },
        };
        assert_eq!(
            counted, executed,
            "counted by the library (left), executed (right)"
        );
    }
}

impl<F: TableFrames> Drop for Watched<F> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check_groups();
            self.check_counters();
            // A test may end with spaces whose roots it has asked for: their tables are freed with
            // the fake.
            let mut reports = self.reports.take();
            reports.retain(|report| *report != LazyMmuError::TablesLeaked);
            assert_eq!(
                reports,
                [],
                "the library reported errors that the test has not taken"
            );
        }
    }
}

/// The number of pages that an operation names.
const fn pages_of(op: TlbiOp, operand: u64) -> u64 {
    match op {
        TlbiOp::Vmalle1is | TlbiOp::Aside1is => MAX_DVM_OPS,
        TlbiOp::Rvae1is | TlbiOp::Rvale1is | TlbiOp::Rvaae1is | TlbiOp::Rvaale1is => {
            let (scale, num) = (operand >> 44 & 3, operand >> 39 & 31);
            (num + 1) << (5 * scale + 1)
        }
        TlbiOp::Vae1is | TlbiOp::Vale1is | TlbiOp::Vaae1is | TlbiOp::Vaale1is => 1,
    }
}

fn cell(pte: &Pte) -> &AtomicU64 {
    // SAFETY: a `Pte` is a live, aligned, atomically accessed 64-bit cell.
    unsafe { AtomicU64::from_ptr(pte.as_ptr()) }
}

impl<F: TableFrames> fmt::Debug for Watched<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({} tables)", self.live_tables())
    }
}
