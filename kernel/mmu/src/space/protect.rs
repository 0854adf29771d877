// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changing live mappings: permissions in place, everything else by
//! break-before-make.

use super::address_space::AddressSpace;
use super::leaf_table::Stop;
use super::links;
use crate::addr::{Frame, Level, PageRange};
use crate::backend::{Duty, Fill, Was};
use crate::bbm;
use crate::desc::{Desc, Prot, bits};
use crate::error::SpaceError;
use crate::hardware::Kernel;

/// Attribute bits that `remap` sets.
const ATTRIBUTES: u64 = Prot::PERMISSIONS | bits::ATTR_INDX | bits::SH | bits::NG;

impl<K: Kernel> AddressSpace<'_, K> {
    /// Changes the permissions of `range` to those of `prot`; frames stay. The
    /// mapping is usable throughout: at each moment an access sees the old or
    /// the new permissions, and the new ones when this returns, or, in a section of the caller's
    /// with a backend that invalidates by itself ([`crate::Backend::invalidates`]), with that
    /// section. Making written code executable also takes instruction-cache maintenance, which is
    /// the caller's (R35). Linux: `set_memory_ro()` and its siblings, `change_protection()`.
    ///
    /// # Errors
    /// Refuses what [`AddressSpace::unmap`] refuses, [`SpaceError::OutsideWindow`] included,
    /// attributes of the other privilege, and with [`SpaceError::BreakBeforeMake`] a change that is
    /// not one of permissions: see [`AddressSpace::remap`]. On an error nothing was changed.
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
        // R30: a restriction holds only after the TLBI, and a relaxation without one would leave
        // spurious permission faults to other CPUs.
        if self.update(range, change, Was::Live) == Duty::Caller {
            self.writer.invalidate(range);
        }
        drop(section);
        Ok(())
    }

    /// Changes all attributes of `range` to `prot`, the memory type included, by
    /// break-before-make: the range is invalid for a moment, and an access to it meanwhile
    /// faults.
    ///
    /// # Errors
    /// As [`AddressSpace::unmap`], and attributes of the other privilege. On an error
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

    /// R29: `prot` may replace what is there without break-before-make.
    fn check_in_place(&self, range: PageRange, prot: Prot) -> Result<(), SpaceError> {
        self.each_stop(range, |stop| {
            let Stop::Table(found) = stop else {
                return Ok(());
            };
            // All leaves of a space agree in shareability and in being global or not; `check_prot`
            // has seen to the latter.
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
