// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing live mappings: permissions in place ([`AddressSpace::protect`]), all attributes by
//! break-before-make ([`AddressSpace::remap`]).

use super::address_space::AddressSpace;
use super::leaf_table::Stop;
use super::links;
use crate::addr::{Frame, Level, PageRange};
use crate::backend::{Duty, Fill, Was};
use crate::bbm;
use crate::desc::{Desc, Prot, bits};
use crate::error::SpaceError;
use crate::hardware::Kernel;

/// The attribute bits that `remap` sets.
const ATTRIBUTES: u64 = Prot::PERMISSIONS | bits::ATTR_INDX | bits::SH | bits::NG;

impl<K: Kernel> AddressSpace<'_, K> {
    /// Changes the permissions of `range` to those of `prot`; the frames stay. The mapping is
    /// usable throughout: each access is checked against the old or the new permissions. After the
    /// call returns only the new ones apply; in an active section of the caller with a strategy
    /// that invalidates by itself ([`crate::Backend::invalidates`]), only after the next flush or
    /// end of a section. Before written code is made executable, the caller must do the
    /// instruction-cache maintenance (R35). Linux: `set_memory_ro()` and its siblings,
    /// `change_protection()`.
    ///
    /// # Errors
    /// The errors of [`AddressSpace::unmap`]; [`SpaceError::WrongPrivilege`]; and
    /// [`SpaceError::BreakBeforeMake`] if more than permissions would change, for which there is
    /// [`AddressSpace::remap`]. On an error nothing was changed.
    pub fn protect(&mut self, range: PageRange, prot: Prot) -> Result<(), SpaceError> {
        self.check_request(range, prot)?;
        self.check_mapped(range)?;
        self.check_in_place(range, prot)?;
        let section = self.mmu().lazy().section_unless_active()?;
        let change = Fill::Update {
            keep: !Prot::PERMISSIONS,
            set: prot.as_u64() & Prot::PERMISSIONS,
            sample: Desc::page(Frame::ZERO, prot),
        };
        // R30: a restriction takes effect only after the TLBI. After a relaxation without a TLBI,
        // other CPUs could take spurious permission faults.
        if self.update(range, change, Was::Live) == Duty::Caller {
            self.writer.invalidate(range);
        }
        drop(section);
        Ok(())
    }

    /// Changes all attributes of `range` to `prot`, the memory type included, by break-before-make:
    /// the range is invalid for a moment, and an access during this time faults. The frames stay.
    ///
    /// # Errors
    /// The errors of [`AddressSpace::unmap`], and [`SpaceError::WrongPrivilege`]. On an error
    /// nothing was changed.
    pub fn remap(&mut self, range: PageRange, prot: Prot) -> Result<(), SpaceError> {
        self.check_request(range, prot)?;
        self.check_mapped(range)?;
        let section = self.mmu().lazy().section_unless_active()?;
        let invalid = Fill::Update {
            keep: !bits::VALID,
            set: 0,
            sample: Desc::INVALID,
        };
        // R27, R29: the break is complete on every CPU before the make.
        let duty = self.update(range, invalid, Was::Live);
        self.writer.settle(duty, range);
        self.each_leaf_table(range, |found| {
            links::note_memory_type(self.mmu(), found.parent, prot);
        });
        let valid = Fill::Update {
            keep: !ATTRIBUTES,
            set: prot.as_u64() & ATTRIBUTES | bits::VALID,
            sample: Desc::page(Frame::ZERO, prot),
        };
        self.update(range, valid, Was::Gone);
        drop(section);
        Ok(())
    }

    #[inline(never)]
    fn update(&self, range: PageRange, fill: Fill<'_>, was: Was) -> Duty {
        let mut duty = Duty::Backend;
        self.each_leaf_table(range, |found| {
            duty = duty.combined(self.writer.write(&found, fill, was));
        });
        duty
    }

    /// Checks that `prot` may replace the entries of `range` without break-before-make (R29).
    fn check_in_place(&self, range: PageRange, prot: Prot) -> Result<(), SpaceError> {
        self.each_stop(range, |stop| {
            let Stop::Table(found) = stop else {
                return Ok(());
            };
            // Two Normal leaves of a space have the same shareability, and `check_prot` has made
            // sure that both are global or both are not. So only the permissions differ.
            if prot.is_normal() && found.link.is_all_normal() {
                return Ok(());
            }
            let check = |old: Desc| {
                let new = old.with_attributes(prot, ATTRIBUTES);
                bbm::check(Level::L3, old, new)
            };
            if let Some(i) = found.position(self.mmu(), |old| check(old).is_err())
                && let Err(violation) = check(found.read(self.mmu(), i))
            {
                let va = found.piece.page(i);
                return Err(SpaceError::BreakBeforeMake { va, violation });
            }
            Ok(())
        })
    }
}
