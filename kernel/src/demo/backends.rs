// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chapter 4: five strategies, one scenario.

use core::fmt;

use lazymmu::{Backend, Backing, BarrierPolicy, Counts, PageRange, Prot, SpaceError};

use super::workload::Workload;
use super::{DemoError, terms, title};
use crate::mm::MMU;
use crate::mm::kernel_space::{self, Space};
use crate::mm::vmap::{self, Area};

/// The number of pages of the scenario.
const PAGES: usize = 256;

/// The architectures on which Linux does the same.
const fn architecture(backend: Backend) -> &'static str {
    match backend {
        Backend::Eager => "no lazy mode",
        Backend::DeferBarriers => "arm64",
        Backend::DeferStores => "s390",
        Backend::BatchInvalidations => "powerpc, sparc64",
        Backend::Multicall => "Xen PV",
    }
}

pub(super) fn tell(out: &mut dyn fmt::Write) -> Result<(), DemoError> {
    title(out, 4, "What other architectures defer")?;
    writeln!(
        out,
        "The same {PAGES} pages, one call per page: mapped in a section, made read-only in a section,\n\
         and unmapped by one call. Each section announces its range. \"late\" are stores that waited\n\
         for a drain.\n"
    )?;
    writeln!(
        out,
        "                                        |        map           |          protect           |  unmap"
    )?;
    writeln!(
        out,
        "  strategy             as in            |  DSB  ISB late drains|  DSB  ISB TLBI late drains| DSB TLBI"
    )?;
    // The additional page is mapped first, so that the table exists and the range in it can be
    // announced.
    let work = Workload::new(PAGES + 1)?;
    for backend in Backend::ALL {
        let [map, protect, unmap] = measure(backend, &work)?;
        writeln!(
            out,
            "  {backend:<21}{:<17}|{:5}{:5}{:5}{:7}|{:5}{:5}{:5}{:5}{:7}|{:4}{:5}",
            architecture(backend),
            map.dsb(),
            map.isb,
            map.late_stores,
            map.drains,
            protect.dsb(),
            protect.isb,
            protect.tlbi,
            protect.late_stores,
            protect.drains,
            unmap.dsb(),
            unmap.tlbi,
        )?;
    }
    writeln!(
        out,
        "\nA CPU with range operations (FEAT_TLBIRANGE) needs 1 or 2 TLBI where neighbors are invalidated\n\
         together; this one {}.",
        if MMU.features().tlb.range {
            "has them"
        } else {
            "has none"
        }
    )?;
    Ok(())
}

fn measure(backend: Backend, work: &Workload) -> Result<[Counts; 3], DemoError> {
    let area = Area::for_frames(&vmap::GENERAL, work)?;
    let _terms = terms(backend, BarrierPolicy::Classic)?;
    let mut space = kernel_space::lock();
    let mut map = |space: &mut Space, i: usize| {
        let page = area.part(i as u64, 1)?;
        space.map(page, Backing::Contiguous(work.frames()[i]), Prot::KERNEL)
    };
    map(&mut space, PAGES)?;
    let range = area.part(0, PAGES as u64)?;
    let mapped = in_section(&mut space, range, &mut map)?;
    work.read_back(&area)?;
    let protected = in_section(&mut space, range, &mut |space, i| {
        space.protect(area.part(i as u64, 1)?, Prot::KERNEL_RO)
    })?;
    work.read_back(&area)?;
    let before = MMU.counts();
    space.unmap(range)?;
    Ok([mapped, protected, MMU.counts() - before])
}

/// Calls `action` for every page of `range`, in a section that announces the range. Returns the
/// counts of what was executed.
fn in_section(
    space: &mut Space,
    range: PageRange,
    action: &mut dyn FnMut(&mut Space, usize) -> Result<(), SpaceError>,
) -> Result<Counts, SpaceError> {
    let start = range.start();
    let table = space.last_level_table(start);
    let table = table.ok_or(SpaceError::NotMapped { va: start })?;
    let before = MMU.counts();
    // SAFETY: the section is left below, and no table is freed before that.
    unsafe {
        MMU.lazy()
            .enable_fast_pte_range(space, start, range.end(), table)?
    };
    let result = (0..PAGES).try_for_each(|i| action(space, i));
    MMU.lazy().disable()?;
    result?;
    Ok(MMU.counts() - before)
}
