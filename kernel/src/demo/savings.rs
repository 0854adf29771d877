// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chapter 2: what lazy MMU mode saves.

use core::fmt;

use lazymmu::{Backend, Backing, BarrierPolicy, Counts, PendingInvalidation, Prot, SpaceError};

use super::workload::Workload;
use super::{DemoError, terms, title};
use crate::arch::Arm64;
use crate::arch::{interrupts, timer};
use crate::mm::terms::{Terms, TermsError};
use crate::mm::vmap::{self, Area};
use crate::mm::{MMU, kernel_space};
use crate::start;

/// How the pages are mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One call per page, nothing deferred.
    Eager,
    /// One call per page, in one section.
    Section,
    /// One call for the whole range.
    Range,
    /// The same, if every CPU has FEAT_ETS2 and with a policy that uses it.
    Ets2,
}

impl Way {
    const ALL: [Way; 4] = [Way::Eager, Way::Section, Way::Range, Way::Ets2];

    const fn name(self) -> &'static str {
        match self {
            Self::Eager => "eager",
            Self::Section => "lazy section",
            Self::Range => "lazy, range known",
            Self::Ets2 => "the same, ETS2",
        }
    }

    /// Whether this machine supports it.
    fn is_possible(self) -> bool {
        self != Self::Ets2 || MMU.features().ets2
    }

    fn terms(self) -> Result<Terms, TermsError> {
        match self {
            Self::Eager => terms(Backend::Eager, BarrierPolicy::Classic),
            Self::Section | Self::Range => terms(Backend::DeferBarriers, BarrierPolicy::Classic),
            Self::Ets2 => terms(Backend::DeferBarriers, BarrierPolicy::Ets2),
        }
    }
}

/// DSB and ISB of one `vmap()` in Linux, by pages: without lazy MMU mode
/// (6.12.107) and with it (7.2.12). Debian's kernels, counted from outside the guest by a QEMU
/// TCG plugin between two marker instructions: QEMU 10.0.2, `-M virt -cpu cortex-a72`, one CPU,
/// `-icount shift=0,sleep=off`, 4 KiB pages, the best of five repetitions.
const LINUX: [(usize, [u64; 2], [u64; 2]); 5] = [
    (1, [1, 1], [1, 1]),
    (16, [16, 16], [1, 1]),
    (512, [512, 512], [2, 2]),
    (4096, [4096, 4096], [9, 9]),
    (65_536, [65_537, 65_546], [131, 153]),
];

struct Row {
    way: Way,
    map: Counts,
    unmap: Counts,
    cycles: Option<u64>,
}

pub(super) fn tell(out: &mut dyn fmt::Write) -> Result<(), DemoError> {
    title(out, 2, "What lazy MMU mode saves")?;
    writeln!(
        out,
        "The same frames are mapped three ways: eagerly, one call per page; the same calls\n\
         inside one lazy section; and with the range known in advance, so that each table is\n\
         found once. Every mapping is read back through its new addresses, then undone.\n"
    )?;
    writeln!(
        out,
        "                           |              map                    |     unmap      |  Linux vmap"
    )?;
    writeln!(
        out,
        "  pages  way               |  PTEs tables  walks   DSB   ISB TLBI|  DSB   ISB TLBI|   DSB    ISB"
    )?;
    let mut shared = None;
    let mut last = None;
    for (pages, linux_before, linux_lazy) in LINUX {
        let work = Workload::new(pages)?;
        if work.distinct() < pages {
            shared = Some((pages, work.distinct()));
        }
        for way in Way::ALL.into_iter().filter(|way| way.is_possible()) {
            let row = measure(way, &work)?;
            let linux = match way {
                Way::Eager => linux_before,
                _ => linux_lazy,
            };
            print(out, pages, &row, linux)?;
            if way == Way::Range {
                last = Some((pages, row.map));
            }
        }
    }
    writeln!(out)?;
    if let Some((pages, distinct)) = shared {
        writeln!(
            out,
            "RAM is too small for {pages} different frames: {distinct} are mapped several times."
        )?;
    }
    if let Some((pages, counts)) = last {
        writeln!(
            out,
            "DSB and ISB no longer grow with the pages: of the {} pairs that {pages} pages and their\n\
             tables ask for, {} DSB and {} ISB were saved in the last line of \"range known\".",
            counts.requested,
            counts.dsb_saved(),
            counts.isb_saved()
        )?;
    }
    writeln!(
        out,
        "A new table is linked by an entry that owes the same, hence 4 for the first page.\n\
         Linux: 6.12 (no lazy mode) beside eager, 7.2 (one section per table) beside lazy."
    )?;
    if Way::Ets2.is_possible() {
        writeln!(
            out,
            "This CPU has FEAT_ETS2: a walk that would fault sees earlier stores by itself, so data\n\
             mappings owe nothing at all (executable ones still do)."
        )?;
    }
    if let Err(reason) = start::machine().counts_cycles() {
        writeln!(out, "Cycles are not shown: {reason}")?;
    }
    Ok(())
}

fn measure(way: Way, work: &Workload) -> Result<Row, DemoError> {
    let area = Area::for_frames(&vmap::GENERAL, work)?;
    let terms = way.terms()?;
    // The cycle counter must not be read at all if there is no PMU.
    let cycles = || start::machine().counts_cycles().is_ok().then(timer::cycles);
    // Interrupts are masked, so that the measurement stays on one CPU, whose cycle counter it
    // reads, and contains no interrupt.
    let masked = interrupts::mask();
    let before = MMU.counts();
    let start = cycles();
    let mapped = map(way, &area, work);
    let end = cycles();
    let map = MMU.counts() - before;
    drop(masked);
    let checked = mapped
        .map_err(DemoError::from)
        .and_then(|()| work.read_back(&area));
    let before = MMU.counts();
    let unmapped = unmap(way, &area);
    let unmap = MMU.counts() - before;
    drop(terms);
    checked?;
    unmapped?;
    Ok(Row {
        way,
        map,
        unmap,
        cycles: start.zip(end).map(|(start, end)| end.wrapping_sub(start)),
    })
}

fn map(way: Way, area: &Area<&Workload>, work: &Workload) -> Result<(), SpaceError> {
    let mut space = kernel_space::lock();
    let _section = match way {
        Way::Section => Some(MMU.lazy().section()?),
        Way::Eager | Way::Range | Way::Ets2 => None,
    };
    if matches!(way, Way::Range | Way::Ets2) {
        return space.map(
            area.pages(),
            Backing::Scattered(work.frames()),
            Prot::KERNEL,
        );
    }
    for (i, frame) in work.frames().iter().enumerate() {
        let page = area.part(i as u64, 1)?;
        space.map(page, Backing::Contiguous(*frame), Prot::KERNEL)?;
    }
    Ok(())
}

fn unmap(way: Way, area: &Area<&Workload>) -> Result<(), SpaceError> {
    let mut space = kernel_space::lock();
    if matches!(way, Way::Range | Way::Ets2) {
        return space.unmap(area.pages());
    }
    let mut owed: Option<PendingInvalidation<'_, Arm64>> = None;
    for i in 0..area.pages().pages() {
        let page = area.part(i, 1)?;
        match way {
            Way::Eager => space.unmap(page)?,
            _ => {
                let flush = space.unmap_no_invalidate(page)?;
                match &mut owed {
                    // A neighbor always merges. If one did not, the drop would invalidate it here.
                    Some(all) => drop(all.merge(flush)),
                    None => owed = Some(flush),
                }
            }
        }
    }
    if let Some(flush) = owed {
        space.invalidate(flush);
    }
    Ok(())
}

fn print(out: &mut dyn fmt::Write, pages: usize, row: &Row, linux: [u64; 2]) -> fmt::Result {
    let (map, unmap) = (&row.map, &row.unmap);
    write!(
        out,
        "{pages:7}  {:<18}|{:6} {:6} {:6} {:5} {:5} {:4}|{:5} {:5} {:4}|{:6} {:6}",
        row.way.name(),
        map.ptes,
        map.links,
        map.walks,
        map.dsb(),
        map.isb,
        map.tlbi,
        unmap.dsb(),
        unmap.isb,
        unmap.tlbi,
        linux[0],
        linux[1],
    )?;
    match row.cycles {
        Some(cycles) => writeln!(out, "  {cycles} cycles"),
        None => writeln!(out),
    }
}
