// SPDX-License-Identifier: MIT OR Apache-2.0
//! The checks after every step on the machine model.
//!
//! For each page and each CPU to which the contract promises an outcome, no other outcome may be
//! possible; a user page may also fault (R14). No memory may have been given back too early, the
//! library may have reported no error, and its counters must equal what was executed.

use super::PAGES;
use super::contract::Use;
use super::run::{Failure, Run, prot, va};
use crate::model::{CPUS, Kind, Modelled, Outcome};

/// The pages that are checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    All,
    Touched,
}

impl<K: Modelled> Run<'_, K> {
    /// Checks everything that must hold now.
    pub fn check(&mut self) -> Result<(), Failure> {
        let sim = self.sim();
        if let Some(hazard) = sim.take_hazards().first() {
            return Err(hazard.to_string());
        }
        if let Some(report) = sim.take_reports().first() {
            return Err(report.to_string());
        }
        let (executed, counted) = (sim.executed(), self.mmu.kernel().counted());
        if executed != counted && !self.mmu.kernel().is_spoiled() {
            return Err(format!("{executed:?} executed, {counted:?} counted"));
        }
        // A page that no call has changed can change only when tables are linked or freed.
        let tables = (executed.dmb_ishst, sim.live_tables());
        let pages = if tables == self.tables {
            Pages::Touched
        } else {
            Pages::All
        };
        self.tables = tables;
        for cpu in 0..CPUS {
            let task = sim.running(cpu);
            self.check_space(cpu, task, 0, pages)?;
            self.check_space(cpu, task, Self::user_space(task), pages)?;
        }
        Ok(())
    }

    fn check_space(
        &self,
        cpu: usize,
        task: usize,
        space: usize,
        pages: Pages,
    ) -> Result<(), Failure> {
        for page in 0..PAGES {
            if pages == Pages::Touched && !self.contract.page(space, page).touched {
                continue;
            }
            if self.contract.is_promised(space, page, cpu, Use::Data) {
                self.check_page((cpu, task), space, page, Use::Data)?;
            }
            let executable = matches!(self.value(space, page), Some((_, 2)));
            if executable && self.contract.is_promised(space, page, cpu, Use::Text) {
                self.check_page((cpu, task), space, page, Use::Text)?;
            }
        }
        Ok(())
    }

    fn check_page(
        &self,
        (cpu, task): (usize, usize),
        space: usize,
        page: usize,
        why: Use,
    ) -> Result<(), Failure> {
        let va = va(space, page);
        let value = self.value(space, page);
        let kinds: &[Kind] = match value {
            _ if why == Use::Text => &[Kind::Fetch],
            None => &[Kind::Read],
            // For a writable page one write shows everything. A read-only page takes two accesses.
            Some((_, index)) if matches!(index % 4, 0 | 3) => &[Kind::Write],
            Some(_) => &[Kind::Write, Kind::Read],
        };
        for kind in kinds {
            let out = self.sim().access(cpu, task, va, *kind);
            let good = match value {
                None => out.only_faults(),
                Some((frame, index)) => {
                    let raw = frame | prot(space, index).as_u64();
                    let expected = Outcome::of_page(raw, *kind, space != 0);
                    // R14: the first access through a new user leaf may fault.
                    let lenient = space != 0;
                    out.is_only(expected) || lenient && out.is_only_or_faults(expected)
                }
            };
            if !good {
                return Err(format!(
                    "CPU {cpu}, {kind:?} of page {page} of space {space} ({va:#x}), which holds {value:x?}: {out:?}"
                ));
            }
        }
        Ok(())
    }
}
