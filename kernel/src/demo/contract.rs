// SPDX-License-Identifier: MIT OR Apache-2.0
//! Chapter 3: nesting, pause and flush.

use core::fmt;

use lazymmu::{Backend, Backing, BarrierPolicy, Prot, SpaceError};

use super::workload::Workload;
use super::{DemoError, owed_text, terms, title};
use crate::mm::vmap::{self, Area};
use crate::mm::{MMU, kernel_space};

/// The number of pages that the chapter maps.
const PAGES: usize = 6;

pub(super) fn tell(out: &mut dyn fmt::Write) -> Result<(), DemoError> {
    title(out, 3, "Sections nest, pause and flush")?;
    writeln!(
        out,
        "Each task counts its sections and pauses. Leaving any section, at any depth, makes all\n\
         earlier writes take effect; while paused each write takes effect at once.\n"
    )?;
    writeln!(
        out,
        "  step                      (enable, pause)  owed          DSB   ISB"
    )?;
    let work = Workload::new(PAGES)?;
    let area = Area::for_frames(&vmap::GENERAL, &work)?;
    let terms = terms(Backend::DeferBarriers, BarrierPolicy::Classic)?;
    steps(out, &area, &work)?;
    drop(terms);
    work.read_back(&area)
}

fn steps(
    out: &mut dyn fmt::Write,
    area: &Area<&Workload>,
    work: &Workload,
) -> Result<(), DemoError> {
    let lazy = MMU.lazy();
    let map = |i: usize| -> Result<(), SpaceError> {
        let page = area.part(i as u64, 1)?;
        kernel_space::lock().map(page, Backing::Contiguous(work.frames()[i]), Prot::KERNEL)
    };
    let mut step = |text: &str, action: &mut dyn FnMut() -> Result<(), DemoError>| {
        let before = MMU.counts();
        action()?;
        let counts = MMU.counts() - before;
        let state = lazy.state();
        let owed = owed_text(state.owed());
        writeln!(
            out,
            "  {text:<26}({}, {})           {owed:<12}{:5} {:5}",
            state.enable_count(),
            state.pause_count(),
            counts.dsb(),
            counts.isb
        )
        .map_err(DemoError::from)
    };
    step("map a page, no section", &mut || Ok(map(0)?))?;
    let outer = lazy.section()?;
    step("enter a section", &mut || Ok(()))?;
    step("map a page", &mut || Ok(map(1)?))?;
    let inner = lazy.section()?;
    step("enter a nested section", &mut || Ok(()))?;
    step("map a page", &mut || Ok(map(2)?))?;
    let mut inner = Some(inner);
    step("leave the nested section", &mut || {
        drop(inner.take());
        Ok(())
    })?;
    step("map a page", &mut || Ok(map(3)?))?;
    let mut pause = None;
    step("pause", &mut || {
        pause = Some(lazy.paused()?);
        Ok(())
    })?;
    step("map a page while paused", &mut || Ok(map(4)?))?;
    step("resume", &mut || {
        drop(pause.take());
        Ok(())
    })?;
    step("map a page", &mut || Ok(map(5)?))?;
    step("flush", &mut || {
        lazy.flush();
        Ok(())
    })?;
    step("flush again", &mut || {
        lazy.flush();
        Ok(())
    })?;
    let mut outer = Some(outer);
    step("leave the section", &mut || {
        drop(outer.take());
        Ok(())
    })
}
