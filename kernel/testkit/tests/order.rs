// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the checker of order finds when somebody breaks a rule: tables that spaces share, and frames that come back too early.

use lazymmu::{
    AddressSpace, Asid, Desc, Frame, Half, Hardware, Level, Mmu, PAGE_SIZE, PageRange, Prot, Pte,
    SpaceError, SpaceKind, Table, TableFrames, TlbiOp, tlbi,
};
use lazymmu_testkit::fake::{Fake, Heap, Watched, asid_of, frame, new_mmu, new_space, pages, va};
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::ptr::NonNull;

const A: SpaceKind = SpaceKind::User(Asid(1));
const B: SpaceKind = SpaceKind::User(Asid(2));

/// What the checker says of `work`, if it says something. Instructions beside the library are not counted, so the machine
/// is dropped while a panic is on its way.
fn finding(work: impl FnOnce(&Mmu<Fake>)) -> Option<String> {
    finding_on(new_mmu, work)
}

fn finding_on<K>(machine: impl FnOnce() -> Mmu<K>, work: impl FnOnce(&Mmu<K>)) -> Option<String> {
    struct Nothing;
    let thrown = panic::catch_unwind(AssertUnwindSafe(|| {
        let mmu = machine();
        work(&mmu);
        panic::resume_unwind(Box::new(Nothing));
    }))
    .expect_err("it ends with a panic");
    if thrown.is::<Nothing>() {
        return None;
    }
    Some(*thrown.downcast::<String>().expect("a message"))
}

#[track_caller]
fn finds(what: Option<String>, rule: &str) {
    let what = what.expect("the checker finds something");
    assert!(what.contains(rule), "{what}");
}

/// A range whose pages lie below one entry of a root.
fn range(kind: SpaceKind) -> PageRange {
    pages(kind.half().start() + (3 << 39) + 5 * PAGE_SIZE, 2)
}

fn prot(kind: SpaceKind) -> Prot {
    match kind {
        SpaceKind::Kernel => Prot::KERNEL,
        SpaceKind::User(_) => Prot::USER,
    }
}

fn mapped(mmu: &Mmu<Fake>, kind: SpaceKind) -> AddressSpace<'_, Fake> {
    let mut space = new_space(mmu, kind);
    space
        .map(range(kind), frame(64), prot(kind))
        .expect("there are tables");
    space
}

/// The entry of the root that translates the range.
fn root_entry<'a>(space: &'a AddressSpace<'_, Fake>) -> &'a Pte {
    let table = space.mmu().kernel().table_ptr(space.root());
    // SAFETY: the root lives as long as its space.
    let table = unsafe { table.as_ref() };
    &table.entries()[Level::L0.index(range(space.kind()).start())]
}

/// Shares the tables of `from` by hand, as the library refuses to with users'.
fn share(from: &AddressSpace<'_, Fake>, to: &AddressSpace<'_, Fake>) {
    let kernel = from.mmu().kernel();
    kernel.dmb_ishst();
    kernel.store(root_entry(to), kernel.load(root_entry(from)));
}

/// The rest of an invalidation, by this operation for the range.
fn invalidate(kernel: &Fake, op: TlbiOp, asid: u64) {
    kernel.dsb_ishst();
    let half = if asid == 0 { Half::Upper } else { Half::Lower };
    let start = half.start() + (3 << 39) + 5 * PAGE_SIZE;
    for page in 0..2 {
        let operand = asid << 48 | (start / PAGE_SIZE + page) & ((1 << 44) - 1);
        kernel.tlbi(op, operand);
    }
    kernel.dsb_ish();
}

fn cached(kernel: &Fake, kind: SpaceKind) -> bool {
    kernel.may_be_cached(asid_of(kind), range(kind).start().as_u64())
}

#[test]
fn r25_two_users_of_one_table_are_invalidated_both() {
    let found = finding(|mmu| {
        let (mut a, b) = (mapped(mmu, A), new_space(mmu, B));
        share(&a, &b);
        let kernel = mmu.kernel();
        a.unmap(range(A)).expect("it is mapped");
        assert_eq!((cached(kernel, A), cached(kernel, B)), (false, true));
        invalidate(kernel, TlbiOp::Vale1is, 3);
        assert!(cached(kernel, B), "of a third space");
        invalidate(kernel, TlbiOp::Vale1is, 2);
        assert!(!cached(kernel, B));
        a.map(range(A), frame(64), Prot::USER)
            .expect("it was unmapped");
    });
    assert_eq!(found, None);
}

#[test]
fn r27_a_shared_page_is_made_again_after_both_invalidations() {
    let found = finding(|mmu| {
        let (mut a, b) = (mapped(mmu, A), new_space(mmu, B));
        share(&a, &b);
        a.unmap(range(A)).expect("it is mapped");
        let _ = a.map(range(A), frame(70), Prot::USER);
    });
    finds(found, "R27");
}

#[test]
fn r25_a_frame_of_a_shared_page_comes_back_after_both_invalidations() {
    let found = finding(|mmu| {
        let (mut a, b) = (mapped(mmu, A), new_space(mmu, B));
        share(&a, &b);
        let kernel = mmu.kernel();
        let _ = a.unmap_frames(range(A), |va, frame| {
            kernel.give_back(asid_of(A), va.as_u64(), frame);
        });
    });
    finds(found, "R25");
}

/// What is linked after the tables are shared is shared as well.
#[test]
fn r25_a_table_below_a_shared_one_is_shared() {
    let found = finding(|mmu| {
        let (mut a, b) = (mapped(mmu, A), new_space(mmu, B));
        share(&a, &b);
        let other = pages(range(A).start().as_u64() + (7 << 21), 1);
        a.map(other, frame(99), Prot::USER)
            .expect("there are tables");
        a.unmap(other).expect("it is mapped");
        let va = other.start().as_u64();
        assert!(!mmu.kernel().may_be_cached(Some(1), va));
        assert!(mmu.kernel().may_be_cached(Some(2), va));
    });
    assert_eq!(found, None);
}

/// Spaces of one ASID that share nothing do not pay for each other.
#[test]
fn r32_two_tables_of_one_address_are_told_apart() {
    let found = finding(|mmu| {
        let (a, b) = (mapped(mmu, A), mapped(mmu, A));
        let kernel = mmu.kernel();
        let linked = kernel.load(root_entry(&a)).frame();
        kernel.store(root_entry(&a), Desc::INVALID);
        kernel.store(root_entry(&b), Desc::INVALID);
        // SAFETY: no CPU walks the tables of the fake.
        unsafe { kernel.free_table(linked) };
    });
    finds(found, "R32");
}

/// The library's own sharing, of kernels' tables, which are global: an invalidation of one ASID does not reach them.
#[test]
fn r33_a_kernel_s_shared_table_is_no_asid_s() {
    for (op, asid, reaches) in [
        (TlbiOp::Vale1is, 1, false),
        (TlbiOp::Vale1is, 0, false),
        (TlbiOp::Aside1is, 1, false),
        (TlbiOp::Vaale1is, 0, true),
        (TlbiOp::Vmalle1is, 0, true),
    ] {
        let found = finding(|mmu| {
            let (mut first, mut second) = (
                mapped(mmu, SpaceKind::Kernel),
                new_space(mmu, SpaceKind::Kernel),
            );
            let range = range(SpaceKind::Kernel);
            // SAFETY: one task uses both spaces, and frees no table of either.
            let shared = unsafe { second.share_tables(&first, range) };
            assert_eq!(shared, Ok(1));
            let kernel = mmu.kernel();
            let token = second.unmap_no_invalidate(range).expect("it is mapped");
            std::mem::forget(token);
            kernel.dsb_ishst();
            let page = range.start().as_u64() / PAGE_SIZE;
            for page in [page, page + 1] {
                kernel.tlbi(op, asid << 48 | page & ((1 << 44) - 1));
            }
            kernel.dsb_ish();
            assert_eq!(!cached(kernel, SpaceKind::Kernel), reaches, "{op:?} {asid}");
            // The space that has emptied it knows what it owes; here the other one maps.
            let _ = first.map(range, frame(70), Prot::KERNEL);
        });
        if reaches {
            assert_eq!(found, None, "{op:?} {asid}");
        } else {
            finds(found, "R27");
        }
    }
}

/// A table with two links is where it is as long as one of them is left, and its frame is not free.
#[test]
fn r32_the_last_link_decides() {
    let links = |freed: bool| {
        finding(|mmu| {
            let (a, b) = (mapped(mmu, A), new_space(mmu, B));
            share(&a, &b);
            let kernel = mmu.kernel();
            let linked = kernel.load(root_entry(&a)).frame();
            kernel.store(root_entry(&a), Desc::INVALID);
            invalidate(kernel, TlbiOp::Vae1is, 1);
            if freed {
                // SAFETY: no CPU walks the tables of the fake.
                unsafe { kernel.free_table(linked) };
            }
            kernel.store(root_entry(&b), Desc::INVALID);
            invalidate(kernel, TlbiOp::Vae1is, 2);
            // SAFETY: as above.
            unsafe { kernel.free_table(linked) };
        })
    };
    finds(links(true), "while an entry links it");
    // The link was one of both spaces' trees, and only one is invalidated by each.
    assert_eq!(links(false), None);
}

/// A callback that empties an entry gives its frame back before the invalidation.
#[test]
fn r25_a_callback_gives_a_frame_back_at_once() {
    for invalidates in [false, true] {
        let found = finding(|mmu| {
            let mut space = mapped(mmu, A);
            let kernel = mmu.kernel();
            let mut taken = Vec::new();
            let result = space.apply_to_page_range(range(A), |entry| {
                let (va, old) = (entry.va().as_u64(), entry.get_and_clear());
                taken.push((va, old.frame()));
                if !invalidates {
                    kernel.give_back(asid_of(A), va, old.frame());
                }
                Ok::<(), SpaceError>(())
            });
            result.expect("the tables exist");
            space.invalidate_range(range(A)).expect("it is a range");
            for (va, frame) in taken {
                kernel.give_back(asid_of(A), va, frame);
            }
        });
        if invalidates {
            assert_eq!(found, None);
        } else {
            finds(found, "R25");
        }
    }
}

/// A taker of frames comes after the invalidation. One that the barrier before it did not reach is found.
#[test]
fn r25_a_frame_comes_back_after_the_last_barrier() {
    let stages: [fn(&Fake); 4] = [
        |_| (),
        |kernel| kernel.dsb_ishst(),
        |kernel| {
            kernel.dsb_ishst();
            kernel.tlbi(
                TlbiOp::Aside1is,
                tlbi::asid_operand(tlbi::Scope::Asid(Asid(1))),
            );
        },
        |kernel| {
            kernel.tlbi(
                TlbiOp::Aside1is,
                tlbi::asid_operand(tlbi::Scope::Asid(Asid(1))),
            );
            kernel.dsb_ish();
        },
    ];
    for stage in stages {
        let found = finding(|mmu| {
            let mut space = mapped(mmu, A);
            let token = space.unmap_no_invalidate(range(A)).expect("it is mapped");
            std::mem::forget(token);
            stage(mmu.kernel());
            let va = va(range(A).start().as_u64());
            mmu.kernel().give_back(asid_of(A), va.as_u64(), frame(64));
        });
        finds(found, "R25");
    }
}

/// One allocator for tables and pages, as a kernel has: what is given back becomes a table next.
#[derive(Default)]
struct Reusing {
    heap: Heap,
    /// The frame to hand out next, and the one of the heap behind it.
    next: Cell<Option<Frame>>,
    behind: Cell<Option<(Frame, Frame)>>,
}

impl Reusing {
    fn heap_frame(&self, frame: Frame) -> Frame {
        match self.behind.get() {
            Some((given, behind)) if given == frame => behind,
            _ => frame,
        }
    }
}

// SAFETY: each frame stands for one table of the heap.
unsafe impl TableFrames for Reusing {
    fn alloc_table(&self) -> Option<Frame> {
        let of_heap = self.heap.alloc_table()?;
        let Some(given) = self.next.take() else {
            return Some(of_heap);
        };
        self.behind.set(Some((given, of_heap)));
        Some(given)
    }

    unsafe fn free_table(&self, frame: Frame) {
        // SAFETY: as promised to this function.
        unsafe { self.heap.free_table(self.heap_frame(frame)) };
    }

    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        self.heap.table_ptr(self.heap_frame(frame))
    }
}

#[test]
fn r25_a_frame_becomes_a_table_after_the_invalidation() {
    for invalidates in [false, true] {
        let found = finding_on(
            || Mmu::new(Watched::new(Reusing::default())),
            |mmu| {
                let mut space = new_space(mmu, A);
                space
                    .map(range(A), frame(64), Prot::USER)
                    .expect("there are tables");
                let token = space.unmap_no_invalidate(range(A)).expect("it is mapped");
                if invalidates {
                    space.invalidate(token);
                } else {
                    std::mem::forget(token);
                }
                mmu.kernel().frames().next.set(Some(frame(65)));
                new_space(mmu, B);
            },
        );
        if invalidates {
            assert_eq!(found, None);
        } else {
            finds(found, "R25: frame 0x41000 becomes a table");
        }
    }
}
