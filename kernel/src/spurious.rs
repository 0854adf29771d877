// SPDX-License-Identifier: MIT OR Apache-2.0

//! Measures spurious faults: an entry is made (invalid to valid) and its page is loaded on the same
//! CPU. How often does the load fault nevertheless?
//!
//! For a Cortex-A72 (Raspberry Pi 4B) and 6.5 million rounds, the published figures are 10 faults
//! with nothing between store and load, 8 with DMB, 1 with DSB, 0 with DSB and ISB (REMS,
//! system-litmus-harness, October 2020). The first four rows repeat this test with the weakest
//! barriers that the kernel uses. The other rows make the entry through the library.
//!
//! # The one place that writes an entry without the library
//!
//! The library never stores without the barriers that it owes, so it cannot make the store under
//! test. The store goes to the last-level entry of the middle page of an area that belongs to this
//! module. Nothing else uses the entry, and the mapped pages on both sides keep its table
//! allocated. Each round clears the entry and invalidates its address with
//! [`Mmu::invalidate_range`](lazymmu::Mmu::invalidate_range), so that the entry is invalid, as the
//! library believes it to be all the time.

use core::fmt;
use core::ptr;
use core::sync::atomic::AtomicU64;

use lazymmu::tlbi::{Reach, Scope};
use lazymmu::{
    Backend, Backing, BarrierPolicy, Desc, ENTRIES, Frame, Hardware, LazyMmuError, Level,
    PageRange, Prot, Pte, SpaceError, TableFrames,
};

use crate::arch::Arm64;
use crate::arch::exceptions::esr::Status;
use crate::arch::litmus::{Between, make_and_read};
use crate::arch::probe::{self, Fault};
use crate::mm::layout::linear_virt;
use crate::mm::pages::{Pages, PagesError};
use crate::mm::terms::{Terms, TermsError};
use crate::mm::{MMU, kernel_space};
use crate::wrap_errors;

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum LitmusError {
    /// There are no pages.
    Pages(PagesError),
    /// The address space returned an error.
    Space(SpaceError),
    /// Lazy MMU mode returned an error.
    Lazy(LazyMmuError),
    /// The strategy is not available.
    Terms(TermsError),
    /// A page has no table although its neighbors are mapped.
    NoTable,
    /// A fault that is not a translation fault.
    Fault(Fault),
    /// The page does not show the contents of its frame.
    Value(u64),
}

wrap_errors!(LitmusError {
    PagesError => Pages,
    SpaceError => Space,
    LazyMmuError => Lazy,
    TermsError => Terms,
});

impl fmt::Display for LitmusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pages(error) => error.fmt(f),
            Self::Space(error) => error.fmt(f),
            Self::Lazy(error) => error.fmt(f),
            Self::Terms(error) => error.fmt(f),
            Self::NoTable => f.write_str("the page has no table although its neighbors are mapped"),
            Self::Fault(fault) => write!(f, "not a translation fault: {fault}"),
            Self::Value(found) => write!(f, "the page shows {found:#x}: the mapping is wrong"),
        }
    }
}

impl core::error::Error for LitmusError {}

/// How the entry is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// By a store of this module, followed by these barriers.
    Store(Between),
    /// By [`lazymmu::AddressSpace::map`] with this strategy, outside of any section.
    Map(Backend),
    /// In a section that has ended before the load.
    Section,
    /// In a section that is still open, where the contract guarantees nothing.
    OpenSection,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) how: How,
    /// Whether the architecture excludes the fault.
    pub(crate) is_safe: bool,
}

/// The rows.
#[rustfmt::skip]
pub(crate) const WAYS: [Way; 7] = [
    Way { name: "no barrier", how: How::Store(Between::Nothing), is_safe: false },
    Way { name: "dmb ish", how: How::Store(Between::Dmb), is_safe: false },
    Way { name: "dsb ishst", how: How::Store(Between::Dsb), is_safe: false },
    Way { name: "dsb ishst + isb", how: How::Store(Between::DsbIsb), is_safe: true },
    Way { name: "eager", how: How::Map(Backend::Eager), is_safe: true },
    Way { name: "lazy, section ended", how: How::Section, is_safe: true },
    Way { name: "lazy, section open", how: How::OpenSection, is_safe: false },
];

/// The contents of the frame.
const MARK: u64 = 0x6c69_746d_7573;

/// Three pages. The outer ones are mapped, and the middle one is to show the frame of the first.
pub(crate) struct Ground {
    pages: Pages,
    table: Frame,
}

impl Ground {
    /// # Errors
    /// There is no frame, no address range or no table.
    pub(crate) fn new() -> Result<Self, LitmusError> {
        let pages = Pages::mapped(3)?;
        let middle = pages.area.part(1, 1)?;
        let mut space = kernel_space::lock();
        space.unmap(middle)?;
        // At least one of the two neighbors shares the middle page's table, wherever the area lies.
        let table = space.last_level_table(middle.start());
        drop(space);
        let table = table.ok_or(LitmusError::NoTable)?;
        pages.fill(0, MARK);
        Ok(Self { pages, table })
    }

    /// The first frame, through the linear map. Its first word must not be changed.
    pub(crate) fn page(&self) -> &[AtomicU64; ENTRIES] {
        let place = linear_virt(self.pages.frames()[0].as_u64()) as usize;
        // SAFETY: the page is RAM that belongs to `self`, and it is only accessed as these atomics
        // and by loads.
        unsafe { &*ptr::with_exposed_provenance(place) }
    }

    /// How many of `iterations` loads fault.
    ///
    /// # Errors
    /// Errors of the library, and a fault that is not a translation fault.
    pub(crate) fn faults(&self, way: &Way, iterations: u32) -> Result<u32, LitmusError> {
        let backend = match way.how {
            How::Map(backend) => backend,
            _ => Backend::DeferBarriers,
        };
        // SAFETY: while the litmus tests run, no other task works with page tables.
        let _terms = unsafe { Terms::take(backend, BarrierPolicy::Classic) }?;
        let page = self.pages.area.part(1, 1)?;
        let mut faults = 0;
        for _ in 0..iterations {
            let read = match way.how {
                How::Store(between) => {
                    let desc = Desc::page(self.pages.frames()[0], Prot::KERNEL);
                    self.store_and_read(between, desc, page)
                }
                how => self.map_and_read(how, page)?,
            };
            match read {
                Ok(MARK) => {}
                Ok(found) => return Err(LitmusError::Value(found)),
                Err(fault) if is_translation(fault) => faults += 1,
                Err(fault) => return Err(LitmusError::Fault(fault)),
            }
        }
        Ok(faults)
    }

    /// The positive control: the same with an invalid entry, so that every load faults.
    pub(crate) fn faults_without_an_entry(&self, iterations: u32) -> Result<u32, LitmusError> {
        let page = self.pages.area.part(1, 1)?;
        let mut faults = 0;
        for _ in 0..iterations {
            let read = self.store_and_read(Between::DsbIsb, Desc::INVALID, page);
            faults += u32::from(read.is_err_and(is_translation));
        }
        Ok(faults)
    }

    fn store_and_read(&self, between: Between, desc: Desc, page: PageRange) -> Result<u64, Fault> {
        let entry = self.entry(page);
        // SAFETY: see the module's head. The entry belongs to this module and is invalid, and
        // `desc` is invalid or maps this module's frame as data. Below, the entry is cleared and
        // its address invalidated.
        let read = unsafe { make_and_read(between, entry, desc, page.start().as_u64()) };
        Arm64.store(entry, Desc::INVALID);
        MMU.invalidate_range(page, Scope::AllAsids, Reach::Leaf);
        read
    }

    fn map_and_read(&self, how: How, page: PageRange) -> Result<Result<u64, Fault>, LitmusError> {
        let mut section = match how {
            How::Section | How::OpenSection => Some(MMU.lazy().section()?),
            _ => None,
        };
        kernel_space::lock().map(
            page,
            Backing::Contiguous(self.pages.frames()[0]),
            Prot::KERNEL,
        )?;
        if how == How::Section {
            section = None;
        }
        // SAFETY: the page is mapped to RAM, or not mapped.
        let read = unsafe { probe::try_read_unasked(page.start().as_u64()) };
        drop(section);
        kernel_space::lock().unmap(page)?;
        Ok(read)
    }

    fn entry(&self, page: PageRange) -> &Pte {
        // SAFETY: this is the table of the area's middle page. It stays as long as the neighbors of
        // that page are mapped, and they stay mapped as long as `self` exists.
        let table = unsafe { Arm64.table_ptr(self.table).as_ref() };
        &table.entries()[Level::L3.index(page.start())]
    }
}

fn is_translation(fault: Fault) -> bool {
    matches!(fault.esr.status(), Some(Status::Translation(_)))
}
