// SPDX-License-Identifier: MIT OR Apache-2.0
//! While one task has something waiting: what another CPU, an interrupt or a change of the backend must not
//! make of it (R3, R12, R23, R25).

use lazymmu::{AddressSpace, Backend, Mmu, PAGE_SIZE, PageRange, Prot, SpaceError, SpaceKind};
use lazymmu_testkit::fake::{
    self, BASE, Choose, Fake, USER, asid_of, contiguous, frame, new_mmu, new_mmu_with, new_space,
    pages, va,
};

const AT: u64 = 1 << 30;

fn page() -> PageRange {
    pages(AT, 1)
}

/// Another CPU, with another task, which is in no section.
fn elsewhere<T>(mmu: &Mmu<Fake>, work: impl FnOnce() -> T) -> T {
    mmu.kernel().go_to(1);
    let value = work();
    mmu.kernel().go_to(0);
    value
}

/// Wherever a store waits, the section that it is in executes it, whatever the backend is by then.
#[test]
fn r23_a_store_survives_a_change_of_the_backend() {
    for from in Backend::ALL {
        for to in Backend::ALL {
            let mmu = new_mmu_with(from);
            let mut space = new_space(&mmu, USER);
            let mut fast = space.fast_pte_range(page()).unwrap();
            fast.set(0, frame(1), Prot::USER).unwrap();
            elsewhere(&mmu, || mmu.choose_backend(to).unwrap());
            drop(fast);
            assert!(mmu.kernel().is_batch_empty(), "{from} to {to}");
            let found = space.query(va(AT)).expect("the store happened").entry;
            assert_eq!(found.frame(), frame(1), "{from} to {to}");
            fake::destroy(space);
        }
    }
}

/// And an invalidation, before the frame is given back.
#[test]
fn r25_a_gather_survives_a_change_of_the_backend() {
    for from in Backend::ALL {
        for to in Backend::ALL {
            let mmu = new_mmu_with(from);
            let mut space = new_space(&mmu, USER);
            space.map(page(), contiguous(1), Prot::USER).unwrap();
            let kernel = mmu.kernel();
            let section = mmu.lazy().section().unwrap();
            let mut given = 0;
            let mut gather = space.gather(|va, _| {
                let cached = kernel.may_be_cached(asid_of(USER), va.as_u64());
                assert!(!cached, "{from} to {to}: R25");
                given += 1;
            });
            gather.unmap(page()).unwrap();
            elsewhere(&mmu, || mmu.choose_backend(to).unwrap());
            gather.finish();
            assert_eq!(given, 1);
            drop(section);
            fake::destroy(space);
        }
    }
}

/// A task cannot change it under its own sections by leaving them for a while.
#[test]
fn s12_a_suspended_section_keeps_its_backend() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let section = mmu.lazy().section().unwrap();
        let suspended = mmu.lazy().suspend_all();
        for other in Backend::ALL {
            assert!(mmu.choose_backend(other).is_err(), "{backend}");
        }
        drop(suspended);
        drop(section);
        assert_eq!(mmu.choose_backend(Backend::Eager), Ok(()));
    }
}

/// In a section: mapped, and taken out again, so that the table is empty and its address waits to be
/// invalidated.
fn emptied<'m>(mmu: &'m Mmu<Fake>) -> AddressSpace<'m, Fake> {
    let mut space = new_space(mmu, USER);
    space
        .apply_to_page_range(page(), |entry| {
            entry.set(frame(1), Prot::USER)?;
            entry.get_and_clear();
            Ok::<(), SpaceError>(())
        })
        .unwrap();
    space
}

/// A table whose entries are empty may be freed, so no queue may keep a way to it.
#[test]
fn r32_the_table_of_what_waits_is_freed_by_another_cpu() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let section = mmu.lazy().section().unwrap();
        let mut space = emptied(&mmu);
        let freed = elsewhere(&mmu, || space.free_empty_tables(page()));
        assert_eq!(freed, Ok(3), "{backend}");
        drop(section);
        fake::destroy(space);
    }
}

#[test]
fn r12_the_table_of_what_waits_is_freed_in_an_interrupt() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let section = mmu.lazy().section().unwrap();
        let mut space = emptied(&mmu);
        mmu.kernel().set_interrupt(true);
        let freed = space.free_empty_tables(page());
        mmu.kernel().set_interrupt(false);
        assert_eq!(freed, Ok(3), "{backend}");
        drop(section);
        fake::destroy(space);
    }
}

/// What an interrupt writes takes effect at once, and changes nothing of the interrupted task's (R3).
#[test]
fn r3_r12_an_interrupt_leaves_the_task_s_state_alone() {
    for backend in fake::backends() {
        let mmu = new_mmu_with(backend);
        let mut space = new_space(&mmu, SpaceKind::Kernel);
        space
            .map(pages(BASE, 1), contiguous(1), Prot::KERNEL)
            .unwrap();
        let section = mmu.lazy().section().unwrap();
        space
            .map(pages(BASE + PAGE_SIZE, 1), contiguous(2), Prot::KERNEL)
            .unwrap();
        let state = || (format!("{:?}", mmu.lazy()), mmu.kernel().is_batch_empty());
        let before = state();
        mmu.kernel().set_interrupt(true);
        for pages in [
            pages(BASE + 2 * PAGE_SIZE, 1),
            pages(BASE + 3 * PAGE_SIZE, 4),
        ] {
            space.map(pages, contiguous(3), Prot::KERNEL).unwrap();
            space.protect(pages, Prot::KERNEL_RO).unwrap();
            space.unmap(pages).unwrap();
        }
        mmu.kernel().set_interrupt(false);
        assert_eq!(state(), before, "{backend}");
        drop(section);
        fake::destroy(space);
    }
}

/// A write to one entry of another CPU's batch would be one to nobody's.
#[test]
fn r11_a_batch_is_one_cpu_s() {
    for backend in fake::backends() {
        let mmu = new_mmu();
        mmu.choose_backend(backend).unwrap();
        let mut space = new_space(&mmu, USER);
        let mut fast = space.fast_pte_range(page()).unwrap();
        fast.set(0, frame(1), Prot::USER).unwrap();
        let waits = !mmu.kernel().is_batch_empty();
        elsewhere(&mmu, || {
            assert!(mmu.kernel().is_batch_empty(), "{backend}");
            mmu.lazy().drain();
            let mut other = new_space(&mmu, SpaceKind::User(lazymmu::Asid(9)));
            let section = mmu.lazy().section().unwrap();
            other.map(page(), contiguous(5), Prot::USER).unwrap();
            drop(section);
            assert_eq!(other.query(va(AT)).unwrap().entry.frame(), frame(5));
            fake::destroy(other);
        });
        assert_eq!(!mmu.kernel().is_batch_empty(), waits, "{backend}");
        drop(fast);
        assert_eq!(space.query(va(AT)).unwrap().entry.frame(), frame(1));
        fake::destroy(space);
    }
}
