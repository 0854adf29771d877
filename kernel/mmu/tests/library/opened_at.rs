// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a section was opened, for the report about a task that may not sleep or end there (R38, R39).

use lazymmu::{AddressSpace, Backend, Mmu, PageRange, Prot, PteRef, SpaceError, SpaceKind};
use lazymmu_testkit::fake::{
    self, BASE, Fake, contiguous, new_mmu, new_mmu_with, new_space_with_tables, pages,
};
use std::panic::Location;

fn range() -> PageRange {
    pages(BASE, 8)
}

fn space(mmu: &Mmu<Fake>) -> AddressSpace<'_, Fake> {
    new_space_with_tables(mmu, SpaceKind::Kernel, range())
}

/// Line of this file at which the current task's outermost section was opened.
fn line(mmu: &Mmu<Fake>) -> Option<u32> {
    let at = mmu.lazy().state().opened_at()?;
    assert!(at.file().ends_with("opened_at.rs"), "{at}");
    Some(at.line())
}

/// The caller's line.
#[track_caller]
fn here() -> Option<u32> {
    Some(Location::caller().line())
}

/// Enters a section that announces the range, for its caller.
#[track_caller]
fn announce(space: &AddressSpace<'_, Fake>) -> Result<(), SpaceError> {
    let (lazy, table) = (space.mmu().lazy(), fake::table_of(space, range()));
    // SAFETY: no test frees a table in the section.
    unsafe { lazy.enable_fast_pte_range(space, range().start(), range().end(), table) }
}

#[test]
fn the_outermost_section_s_caller_is_kept() {
    let mmu = new_mmu();
    let lazy = mmu.lazy();
    assert_eq!(line(&mmu), None);
    let (opened, first) = (lazy.enable(), here());
    opened.unwrap();
    assert_eq!(line(&mmu), first);
    lazy.enable().unwrap();
    let nested = lazy.section().unwrap();
    assert_eq!(line(&mmu), first, "R4: the outermost");
    drop(nested);
    lazy.pause().unwrap();
    lazy.enable().unwrap();
    assert_eq!(line(&mmu), first, "R6: ignored");
    lazy.resume().unwrap();
    lazy.disable().unwrap();
    assert_eq!(line(&mmu), first);
    lazy.disable().unwrap();
    assert_eq!(line(&mmu), None);
    let (opened, second) = (lazy.enable(), here());
    opened.unwrap();
    assert_eq!(line(&mmu), second);
    lazy.disable().unwrap();
}

#[test]
fn every_way_to_open_a_section_names_its_caller() {
    let mmu = new_mmu();
    let mut space = space(&mmu);
    let lazy = mmu.lazy();
    let (section, at) = (lazy.section(), here());
    assert_eq!(line(&mmu), at, "section");
    drop(section);
    let (section, at) = (lazy.section_unless_active(), here());
    assert_eq!(line(&mmu), at, "section_unless_active");
    drop(section);
    let (opened, at) = (announce(&space), here());
    opened.unwrap();
    assert_eq!(line(&mmu), at, "enable_fast_pte_range");
    lazy.disable().unwrap();
    let (held, at) = (space.fast_pte_range(range()), here());
    assert_eq!(line(&mmu), at, "fast_pte_range");
    drop(held);
    // Its table is built on the way.
    let other = pages(BASE + (1 << 30), 1);
    let (held, at) = (space.fast_pte_range(other), here());
    assert_eq!(line(&mmu), at, "fast_pte_range with a new table");
    drop(held);
}

/// Operations that call back, and say who called them.
#[test]
fn a_callback_is_in_the_section_of_the_operation_s_caller() {
    let mmu = new_mmu();
    let mut space = space(&mmu);
    let mut seen = Vec::new();
    let see = |_: &mut PteRef<'_, Fake>| {
        seen.push(line(&mmu));
        Ok::<(), SpaceError>(())
    };
    let (done, at) = (space.apply_to_page_range(range(), see), here());
    done.unwrap();
    assert_eq!(seen, [at; 8]);
    let mut outer = 0;
    let section = mmu.lazy().section().unwrap();
    let opened = line(&mmu);
    space
        .apply_to_page_range(range(), |_| {
            outer += u32::from(line(&mmu) == opened);
            Ok::<(), SpaceError>(())
        })
        .unwrap();
    assert_eq!(outer, 8, "the caller's own section is the outermost");
    drop(section);
}

#[test]
fn s12_it_comes_back_with_the_levels() {
    for backend in [Backend::DeferBarriers, Backend::DeferStores] {
        let mmu = new_mmu_with(backend);
        let lazy = mmu.lazy();
        let (outer, at) = (lazy.section().unwrap(), here());
        let suspended = lazy.suspend_all();
        assert_eq!(line(&mmu), None, "{backend}");
        let (inner, inner_at) = (lazy.section().unwrap(), here());
        assert_eq!(line(&mmu), inner_at, "{backend}");
        let again = lazy.suspend_all();
        drop(lazy.section().unwrap());
        drop(again);
        assert_eq!(line(&mmu), inner_at, "{backend}");
        drop(inner);
        assert_eq!(line(&mmu), None, "{backend}");
        drop(suspended);
        assert_eq!(line(&mmu), at, "{backend}");
        drop(outer);
        // Of a section that leaks out of a suspension nothing is left, its line neither.
        let (outer, at) = (lazy.section().unwrap(), here());
        let suspended = lazy.suspend_all();
        lazy.enable().unwrap();
        drop(suspended);
        assert_eq!(mmu.kernel().take_reports().len(), 1);
        assert_eq!(line(&mmu), at, "{backend}");
        drop(outer);
    }
}

/// R3, R11: neither an interrupt nor another task changes it.
#[test]
fn r11_it_is_the_task_s() {
    let mmu = new_mmu();
    let mut space = space(&mmu);
    let (section, at) = (mmu.lazy().section().unwrap(), here());
    mmu.kernel().set_interrupt(true);
    let ignored = mmu.lazy().section().unwrap();
    space.map(range(), contiguous(1), Prot::KERNEL).unwrap();
    assert_eq!(line(&mmu), at, "an interrupt may look");
    drop(ignored);
    mmu.kernel().set_interrupt(false);
    mmu.kernel().switch_to(1);
    assert_eq!(line(&mmu), None);
    let (other, other_at) = (mmu.lazy().section().unwrap(), here());
    assert_eq!(line(&mmu), other_at);
    drop(other);
    mmu.kernel().switch_to(0);
    assert_eq!(line(&mmu), at);
    drop(section);
    fake::destroy(space);
}
