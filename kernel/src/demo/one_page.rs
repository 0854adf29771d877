// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chapter 1: one page, one entry, two barriers.

use core::fmt;

use lazymmu::{Backend, BarrierPolicy, Prot, VirtAddr};

use super::workload::Workload;
use super::{DemoError, terms, title};

use crate::mm::kernel_space::{self, MMU};
use crate::mm::vmap::{self, Area};

pub(super) fn tell(out: &mut dyn fmt::Write) -> Result<(), DemoError> {
    title(out, 1, "What one page-table entry owes")?;
    writeln!(
        out,
        "To map a page the kernel writes one 8-byte entry. The table walker is an observer\n\
         of its own: until DSB ISHST it may not see the store, and until ISB this CPU may\n\
         still believe that the address translates to nothing. So before lazy MMU mode every\n\
         entry was followed by both.\n"
    )?;
    let work = Workload::new(1)?;
    let area = Area::for_frames(&vmap::GENERAL, &work)?;
    let terms = terms(Backend::Eager, BarrierPolicy::Classic)?;
    let before = MMU.counts();
    let mapped = area.map(Prot::KERNEL);
    let counts = MMU.counts() - before;
    drop(terms);
    mapped?;
    writeln!(
        out,
        "mapped {:#x} -> frame {:#x}; the walk now reads",
        area.start(),
        work.frames()[0].as_u64()
    )?;
    walk(out, area.start())?;
    work.read_back(&area)?;
    writeln!(
        out,
        "executed: {} entry and {} new tables written, {} DSB, {} ISB; read back through the\nnew address: right.",
        counts.ptes,
        counts.links,
        counts.dsb(),
        counts.isb
    )?;
    Ok(())
}

fn walk(out: &mut dyn fmt::Write, virt: u64) -> fmt::Result {
    let Some(va) = VirtAddr::new(virt) else {
        return Ok(());
    };
    let mut result = Ok(());
    kernel_space::lock().walk(va, |level, entry| {
        if result.is_err() {
            return;
        }
        result = if entry.is_table(level) {
            writeln!(
                out,
                "  level {}: {entry:?}  next table at {:#x}",
                level as u8,
                entry.frame().as_u64()
            )
        } else {
            writeln!(
                out,
                "  level {}: {entry:?}  {}",
                level as u8,
                entry.at(level)
            )
        };
    });
    result
}
