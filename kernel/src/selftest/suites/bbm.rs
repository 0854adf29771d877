// SPDX-License-Identifier: MIT OR Apache-2.0
//! Break-before-make (R29): a change that would skip it is refused, and `remap` executes it in
//! full.

use lazymmu::{MemoryType, PAGE_SIZE, Prot, SpaceError, VirtAddr, bbm::Violation, bits};

use super::fixture::{Pages, apply, counted, dsb_ish_of_a_flush, store};
use crate::arch::cache;
use crate::arch::probe::try_read_u64;
use crate::mm::kernel_space;
use crate::mm::layout::linear_virt;
use crate::selftest::prelude::*;

suite! {
    name: "bbm",
    order: 25,
    tests: [
        case!(QemuVisible, r29_another_frame_is_refused_in_place),
        case!(QemuVisible, r29_another_memory_type_is_refused_in_place),
        case!(QemuVisible, r29_permissions_change_in_place),
        case!(QemuVisible, remap_changes_the_memory_type),
        case!(TraceOnly, remap_invalidates_between_break_and_make),
    ],
}

fn attributes(virt: u64) -> Option<u64> {
    let found = kernel_space::lock().query(VirtAddr::new(virt)?)?;
    Some((found.entry.as_u64() & bits::ATTR_INDX) >> bits::ATTR_INDX_SHIFT)
}

fn r29_another_frame_is_refused_in_place() -> TestResult {
    let pages = expect_ok!(Pages::mapped(2));
    pages.fill(0, 10);
    let first = expect_ok!(pages.area.part(0, 1));
    let result = apply(&mut kernel_space::lock(), first, &mut |pte| {
        pte.set(pages.frames()[1], Prot::KERNEL)
    });
    expect_matches!(
        result,
        Err(SpaceError::BreakBeforeMake {
            violation: Violation::OutputAddress,
            ..
        })
    );
    expect_eq!(try_read_u64(pages.virt(0)), Ok(10));
    Ok(())
}

fn r29_another_memory_type_is_refused_in_place() -> TestResult {
    let pages = expect_ok!(Pages::mapped(2));
    let uncached = Prot::KERNEL.with_memory_type(MemoryType::NormalNonCacheable);
    let (result, spent) = counted(|| kernel_space::lock().protect(pages.area.pages(), uncached));
    expect_matches!(
        result,
        Err(SpaceError::BreakBeforeMake {
            violation: Violation::MemoryType,
            ..
        })
    );
    expect_eq!((spent.ptes, spent.dsb(), spent.tlbi), (0, 0, 0));
    expect_eq!(attributes(pages.virt(0)), Some(MemoryType::Normal as u64));
    Ok(())
}

fn r29_permissions_change_in_place() -> TestResult {
    let pages = expect_ok!(Pages::mapped(1));
    let page = pages.area.pages();
    for prot in [Prot::KERNEL_RO, Prot::KERNEL_ROX, Prot::KERNEL] {
        expect_ok!(kernel_space::lock().protect(page, prot));
        expect_ok!(try_read_u64(pages.virt(0)));
    }
    expect_ok!(store(pages.virt(0), 1));
    Ok(())
}

fn remap_changes_the_memory_type() -> TestResult {
    let pages = expect_ok!(Pages::mapped(3));
    let uncached = Prot::KERNEL.with_memory_type(MemoryType::NormalNonCacheable);
    // Memory is about to be read without the caches, so they are cleaned and invalidated to the PoC
    // first.
    for frame in pages.frames().iter() {
        let start = linear_virt(frame.as_u64());
        cache::clean_and_invalidate_to_poc(start..start + PAGE_SIZE);
    }
    expect_ok!(kernel_space::lock().remap(pages.area.pages(), uncached));
    for i in 0..3 {
        expect_eq!(
            attributes(pages.virt(i)),
            Some(MemoryType::NormalNonCacheable as u64)
        );
        expect_eq!(try_read_u64(pages.virt(i)), Ok(pages.frame_value(i)));
    }
    Ok(())
}

fn remap_invalidates_between_break_and_make() -> TestResult {
    let pages = expect_ok!(Pages::mapped(3));
    let (result, spent) = counted(|| kernel_space::lock().remap(pages.area.pages(), Prot::DEVICE));
    expect_ok!(result);
    // Each entry is written twice, by the break and by the make. There is one invalidation in
    // between, with a DSB before and after it.
    expect_eq!(spent.ptes, 6);
    expect_eq!(spent.tlbi_requested, 3);
    expect!(spent.tlbi >= 1);
    expect_eq!(spent.dsb_ish, dsb_ish_of_a_flush());
    expect!(spent.dsb_ishst >= 1);
    Ok(())
}
