// SPDX-License-Identifier: MIT OR Apache-2.0
//! The counts of what lazy MMU mode executes.
//!
//! QEMU works without any DSB and ISB, so these tests are `trace-only`. They check how many
//! barriers ran, and the host's tests check that these are enough.

use lazymmu::{Backend, Backing, BarrierPolicy, Counts, Owed, Prot, SpaceError};

use super::fixture::{Pages, counted, dsb_ish_of_a_flush, terms, with};
use crate::mm::terms::{Terms, TermsError};
use crate::mm::{MMU, kernel_space};
use crate::selftest::prelude::*;

suite! {
    name: "lazy-counts",
    order: 35,
    tests: [
        cases!(TraceOnly, r16_one_pair_per_section, { one: 1, sixteen: 16, one_table: 512, two_tables: 1000 }),
        cases!(TraceOnly, eager_pays_for_each_entry, { one: 1, sixteen: 16, one_table: 512 }),
        case!(TraceOnly, r15_outside_a_section_one_pair_per_run),
        case!(TraceOnly, r15_paused_pays_at_once),
        case!(TraceOnly, r16_nothing_owed_nothing_executed),
        case!(TraceOnly, r5_a_nested_end_pays),
        case!(TraceOnly, r16_flush_pays_once),
        case!(TraceOnly, r41_vmap_is_usable_on_return_in_a_section),
        case!(TraceOnly, r14_clearing_owes_nothing),
        case!(TraceOnly, invalidation_pays_what_is_owed),
        case!(TraceOnly, protect_costs_the_same_for_any_size),
        case!(TraceOnly, r36_ets2_owes_nothing_for_data),
        case!(TraceOnly, r35_ets2_pays_for_text),
        case!(TraceOnly, requested_and_saved_add_up),
    ],
}

/// The completion barriers of `counts`: `(DSB, ISB)`.
fn paid(counts: &Counts) -> (u64, u64) {
    (counts.dsb_paid, counts.isb_paid)
}

/// Maps page by page, with one call for each.
fn map_each(pages: &Pages, from: usize, to: usize) -> Result<(), SpaceError> {
    let mut space = kernel_space::lock();
    for i in from..to {
        let page = pages.area.part(i as u64, 1)?;
        space.map(page, Backing::Contiguous(pages.frames()[i]), Prot::KERNEL)?;
    }
    Ok(())
}

fn r16_one_pair_per_section(count: usize) -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(count));
    let (result, spent) = counted(|| -> Result<(), SpaceError> {
        let _section = MMU.lazy().section()?;
        map_each(&pages, 0, count)
    });
    expect_ok!(result);
    expect_eq!(spent.ptes, count as u64);
    expect_eq!((spent.dsb(), spent.isb, spent.tlbi), (1, 1, 0));
    expect_eq!(paid(&spent), (1, 1));
    Ok(())
}

fn eager_pays_for_each_entry(count: usize) -> TestResult {
    let _with = expect_ok!(with(Backend::Eager));
    let pages = expect_ok!(Pages::unmapped(count));
    let (result, spent) = counted(|| -> Result<(), SpaceError> {
        let _section = MMU.lazy().section()?;
        map_each(&pages, 0, count)
    });
    expect_ok!(result);
    let written = spent.ptes + spent.links;
    expect_eq!(spent.ptes, count as u64);
    expect_eq!((spent.dsb(), spent.isb), (written, written));
    expect_eq!(spent.requested, written);
    Ok(())
}

fn r15_outside_a_section_one_pair_per_run() -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(40));
    // The first call builds the tables.
    expect_ok!(map_each(&pages, 0, 1));
    let (result, spent) = counted(|| map_each(&pages, 1, 11));
    expect_ok!(result);
    expect_eq!((spent.dsb(), spent.isb), (10, 10));
    let rest = expect_ok!(pages.area.part(11, 29));
    let (result, spent) = counted(|| {
        kernel_space::lock().map(
            rest,
            Backing::Scattered(&pages.frames()[11..]),
            Prot::KERNEL,
        )
    });
    expect_ok!(result);
    expect_eq!((spent.ptes, spent.dsb(), spent.isb), (29, 1, 1));
    Ok(())
}

fn r15_paused_pays_at_once() -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(6));
    expect_ok!(map_each(&pages, 0, 1));
    let _section = expect_ok!(MMU.lazy().section());
    expect_ok!(map_each(&pages, 1, 2));
    let (pause, spent) = counted(|| MMU.lazy().paused());
    let pause = expect_ok!(pause);
    expect_eq!(paid(&spent), (1, 1));
    let (result, spent) = counted(|| map_each(&pages, 2, 5));
    expect_ok!(result);
    expect_eq!(paid(&spent), (3, 3));
    drop(pause);
    let (result, spent) = counted(|| map_each(&pages, 5, 6));
    expect_ok!(result);
    expect_eq!(paid(&spent), (0, 0));
    Ok(())
}

fn r16_nothing_owed_nothing_executed() -> TestResult {
    let lazy = MMU.lazy();
    let (result, spent) = counted(|| {
        lazy.enable()?;
        lazy.enable()?;
        lazy.flush();
        lazy.pause()?;
        lazy.resume()?;
        lazy.disable()?;
        lazy.disable()
    });
    expect_ok!(result);
    expect_eq!((spent.dsb(), spent.isb, spent.tlbi), (0, 0, 0));
    Ok(())
}

fn r5_a_nested_end_pays() -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(3));
    let lazy = MMU.lazy();
    let outer = expect_ok!(lazy.section());
    let inner = expect_ok!(lazy.section());
    expect_ok!(map_each(&pages, 0, 2));
    expect_eq!(lazy.state().owed(), Owed::all());
    let ((), spent) = counted(|| drop(inner));
    expect_eq!(paid(&spent), (1, 1));
    expect_eq!(lazy.state().owed(), Owed::empty());
    expect_ok!(map_each(&pages, 2, 3));
    let ((), spent) = counted(|| drop(outer));
    expect_eq!(paid(&spent), (1, 1));
    Ok(())
}

fn r16_flush_pays_once() -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(2));
    let section = expect_ok!(MMU.lazy().section());
    expect_ok!(map_each(&pages, 0, 2));
    let ((), spent) = counted(|| section.flush());
    expect_eq!(paid(&spent), (1, 1));
    let ((), spent) = counted(|| section.flush());
    expect_eq!(paid(&spent), (0, 0));
    let ((), spent) = counted(|| drop(section));
    expect_eq!((paid(&spent), spent.leave), ((0, 0), 1));
    Ok(())
}

fn r41_vmap_is_usable_on_return_in_a_section() -> TestResult {
    let _terms = expect_ok!(with(Backend::DeferBarriers));
    let _section = expect_ok!(MMU.lazy().section());
    let (pages, spent) = counted(|| Pages::mapped(3));
    let _pages = expect_ok!(pages);
    expect_eq!(MMU.lazy().state().owed(), Owed::empty());
    expect_eq!(paid(&spent), (1, 1));
    Ok(())
}

fn r14_clearing_owes_nothing() -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::mapped(100));
    let section = expect_ok!(MMU.lazy().section());
    let (flush, spent) = counted(|| kernel_space::lock().unmap_no_invalidate(pages.area.pages()));
    let flush = expect_ok!(flush);
    expect_eq!((spent.ptes, spent.requested), (100, 0));
    expect_eq!(MMU.lazy().state().owed(), Owed::empty());
    drop(section);
    // The invalidation executes its own barriers: one DSB before, as many after as the CPU needs,
    // one ISB.
    let ((), spent) = counted(|| kernel_space::lock().invalidate(flush));
    let completion = dsb_ish_of_a_flush();
    expect_eq!(
        (spent.dsb_ishst, spent.dsb_ish, spent.isb),
        (1, completion, 1)
    );
    expect_eq!(spent.tlbi_requested, 100);
    Ok(())
}

fn invalidation_pays_what_is_owed() -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(2));
    let section = expect_ok!(MMU.lazy().section());
    expect_ok!(map_each(&pages, 0, 2));
    expect_eq!(MMU.lazy().state().owed(), Owed::all());
    expect_ok!(kernel_space::lock().unmap(expect_ok!(pages.area.part(0, 1))));
    expect_eq!(MMU.lazy().state().owed(), Owed::empty());
    let ((), spent) = counted(|| drop(section));
    expect_eq!((spent.dsb(), spent.isb), (0, 0));
    Ok(())
}

fn protect_costs_the_same_for_any_size() -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    for count in [1, 16, 500] {
        let pages = expect_ok!(Pages::mapped(count));
        let (result, spent) =
            counted(|| kernel_space::lock().protect(pages.area.pages(), Prot::KERNEL_RO));
        expect_ok!(result);
        let completion = dsb_ish_of_a_flush();
        expect_eq!(
            (spent.dsb_ishst, spent.dsb_ish, spent.isb),
            (1, completion, 1)
        );
    }
    Ok(())
}

/// Puts the policy for CPUs with FEAT_ETS2 in force until the result is dropped. Skips the test on
/// others.
fn with_ets2() -> Result<Terms, Outcome> {
    match terms(Backend::DeferBarriers, BarrierPolicy::Ets2) {
        Err(TermsError::Policy(_)) => skip!("this CPU has no FEAT_ETS2: run with --cpu max"),
        terms => Ok(expect_ok!(terms)),
    }
}

fn r36_ets2_owes_nothing_for_data() -> TestResult {
    let _terms = with_ets2()?;
    let pages = expect_ok!(Pages::unmapped(1000));
    let (result, spent) = counted(|| map_each(&pages, 0, 1000));
    expect_ok!(result);
    expect_eq!((spent.dsb(), spent.isb), (0, 0));
    expect!(spent.requested >= 1000);
    expect_eq!(
        crate::arch::probe::try_read_u64(pages.virt(999)),
        Ok(pages.frame_value(999))
    );
    Ok(())
}

fn r35_ets2_pays_for_text() -> TestResult {
    let _terms = with_ets2()?;
    let pages = expect_ok!(Pages::unmapped(16));
    let (result, spent) = counted(|| {
        kernel_space::lock().map(
            pages.area.pages(),
            Backing::Scattered(pages.frames()),
            Prot::KERNEL_ROX,
        )
    });
    expect_ok!(result);
    expect_eq!(paid(&spent), (1, 1));
    Ok(())
}

fn requested_and_saved_add_up() -> TestResult {
    let _with = expect_ok!(with(Backend::DeferBarriers));
    let pages = expect_ok!(Pages::unmapped(300));
    let (result, spent) = counted(|| -> Result<(), SpaceError> {
        let _section = MMU.lazy().section()?;
        map_each(&pages, 0, 300)
    });
    expect_ok!(result);
    expect_eq!(spent.requested, spent.ptes + spent.links);
    expect_eq!(spent.dsb_saved(), spent.requested - 1);
    expect_eq!(spent.isb_saved(), spent.requested - 1);
    Ok(())
}
