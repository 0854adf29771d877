// SPDX-License-Identifier: MIT OR Apache-2.0
//! An area: a range of virtual addresses together with the frames that are mapped there.
//!
//! Frames may be used for another purpose only when no CPU translates to them any more (R25). The
//! type of an [`Area`] therefore keeps its frames for as long as the area lives:
//!
//! * it *owns* them (a list or a block is moved into it), and gives them back after it has unmapped
//!   them and the invalidation is complete, or
//! * it *borrows* them (`&list`), and their owner cannot give them back before the area is gone:
//!
//! ```compile_fail,E0505
//! # use kernel::mm::area::{Addresses, Area, Frames};
//! fn gives_back_what_is_mapped<F: Frames, A: Addresses>(list: F, area: impl FnOnce(&F) -> Area<&F, A>) {
//!     let area = area(&list);
//!     drop(list); // cannot move out of `list` because it is borrowed
//!     drop(area);
//! }
//! ```
//!
//! ```compile_fail,E0597
//! # use kernel::mm::area::{Addresses, Area, Frames};
//! fn outlives_its_frames<'a, F: Frames, A: Addresses>(
//!     list: fn() -> F,
//!     area: fn(&'a F) -> Area<&'a F, A>,
//! ) -> Area<&'a F, A> {
//!     let list = list();
//!     area(&list) // `list` does not live long enough
//! }
//! ```
//!
//! ```compile_fail,E0382
//! # use kernel::mm::area::{Addresses, Area, Frames};
//! fn keeps_what_it_has_given<F: Frames, A: Addresses>(list: F, area: impl FnOnce(F) -> Area<F, A>) {
//!     let area = area(list);
//!     drop(list); // use of moved value: `list`
//!     drop(area);
//! }
//! ```
//!
//! A [`Frame`](lazymmu::Frame) itself is a number. Code that maps a frame by hand, with the lock of
//! the address space, has no access to its memory yet: access through a mapping is `unsafe`, and
//! the `unsafe` block must justify what the mapping shows. An area that is forgotten
//! (`mem::forget`) stays mapped, and the frames that it owns are lost with it.

use core::fmt;
use core::mem::ManuallyDrop;

use lazymmu::{Backing, PAGE_SIZE, PageRange, SpaceError};

/// The frames that an area maps, owned or borrowed.
///
/// # Safety
/// The frames are not given back while the value lives, and both methods return the same each time.
pub unsafe trait Frames {
    /// One frame per page.
    fn backing(&self) -> Backing<'_>;

    /// The number of frames.
    fn count(&self) -> u64;
}

// SAFETY: the frames are those of the borrowed value, which lives for as long as the borrow.
unsafe impl<F: Frames + ?Sized> Frames for &F {
    fn backing(&self) -> Backing<'_> {
        (**self).backing()
    }

    fn count(&self) -> u64 {
        (**self).count()
    }
}

/// No frames. An area with this type is a range of addresses alone.
#[derive(Clone, Copy, Debug)]
pub struct NoFrames;

// SAFETY: there are no frames that could be given back.
unsafe impl Frames for NoFrames {
    fn backing(&self) -> Backing<'_> {
        Backing::Scattered(&[])
    }

    fn count(&self) -> u64 {
        0
    }
}

/// Where the addresses of an area come from.
///
/// # Safety
/// When [`Addresses::release`] returns `Ok`, no CPU translates a page of the range any more, and no
/// CPU will translate one through an entry that was there.
pub unsafe trait Addresses {
    /// Unmaps what is mapped in `pages`, waits for its invalidation, and takes the addresses back.
    ///
    /// # Errors
    /// Those of the address space; then the addresses stay in use.
    fn release(&self, pages: PageRange) -> Result<(), SpaceError>;
}

/// Addresses, and the frames that are or may be mapped there. The drop unmaps and invalidates what
/// is mapped in the area, and then drops the frames; frames that the area owns go back to the
/// allocator.
#[must_use = "the area is given back on drop"]
pub struct Area<F: Frames, A: Addresses> {
    pages: PageRange,
    addresses: A,
    frames: ManuallyDrop<F>,
}

impl<F: Frames, A: Addresses> Area<F, A> {
    /// The area of `pages`, which were taken from `addresses` for it.
    #[cfg(any(test, target_os = "none"))]
    pub(super) const fn new(pages: PageRange, addresses: A, frames: F) -> Self {
        Self {
            pages,
            addresses,
            frames: ManuallyDrop::new(frames),
        }
    }

    /// The pages of the area.
    pub const fn pages(&self) -> PageRange {
        self.pages
    }

    /// The first byte address.
    pub const fn start(&self) -> u64 {
        self.pages.start().as_u64()
    }

    /// The frames.
    pub fn frames(&self) -> &F {
        &self.frames
    }

    /// The `count` pages from page `first` on, counted from the area's start.
    ///
    /// # Errors
    /// [`SpaceError::Range`] if `count` is 0; [`SpaceError::NotMapped`] beyond the area.
    pub fn part(&self, first: u64, count: u64) -> Result<PageRange, SpaceError> {
        // A product that wraps could be an offset inside the area again.
        let start = first.checked_mul(PAGE_SIZE);
        let Some(start) = start.and_then(|offset| self.start().checked_add(offset)) else {
            let va = self.pages.start();
            return Err(SpaceError::NotMapped { va });
        };
        let range = PageRange::new(start, count)?;
        if range.end() > self.pages.end() {
            return Err(SpaceError::NotMapped { va: range.start() });
        }
        Ok(range)
    }
}

impl<F: Frames, A: Addresses> Drop for Area<F, A> {
    fn drop(&mut self) {
        match self.addresses.release(self.pages) {
            // SAFETY: the value is not used any more, and no CPU reaches its frames (R25).
            Ok(()) => unsafe { ManuallyDrop::drop(&mut self.frames) },
            // Addresses that could not be unmapped are not given out again, and their frames are
            // not either.
            Err(error) => log::error!("the area {} stays in use: {error}", self.pages),
        }
    }
}

impl<F: Frames, A: Addresses> fmt::Debug for Area<F, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Area({})", self.pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::RefCell;
    use lazymmu::Frame;
    use std::vec::Vec;

    type Log = RefCell<Vec<&'static str>>;

    /// Frames that record when they are given back.
    struct List<'l>(Vec<Frame>, &'l Log);

    // SAFETY: the list is not changed before it is dropped.
    unsafe impl Frames for List<'_> {
        fn backing(&self) -> Backing<'_> {
            Backing::Scattered(&self.0)
        }

        fn count(&self) -> u64 {
            self.0.len() as u64
        }
    }

    impl Drop for List<'_> {
        fn drop(&mut self) {
            self.1.borrow_mut().push("given back");
        }
    }

    struct Tables<'l>(&'l Log, Result<(), SpaceError>);

    // SAFETY: no CPU walks anything here.
    unsafe impl Addresses for Tables<'_> {
        fn release(&self, _: PageRange) -> Result<(), SpaceError> {
            self.0.borrow_mut().push("unmapped");
            self.1
        }
    }

    fn list(log: &Log) -> List<'_> {
        List(Frame::from_u64(0x1000).into_iter().collect(), log)
    }

    fn pages() -> PageRange {
        PageRange::new(0xffff_8000_0000_0000, 1).unwrap()
    }

    #[test]
    fn a_part_that_wraps_around_is_refused() {
        let log = Log::default();
        let area = Area::new(pages(), Tables(&log, Ok(())), list(&log));
        assert_eq!(area.part(0, 1), Ok(pages()));
        // A product beyond 2^64, and a sum.
        for first in [1 << 52, 1 << 51] {
            let va = pages().start();
            assert_eq!(area.part(first, 1), Err(SpaceError::NotMapped { va }));
        }
    }

    #[test]
    fn r25_an_area_gives_its_frames_back_after_it_is_unmapped() {
        let log = Log::default();
        let area = Area::new(pages(), Tables(&log, Ok(())), list(&log));
        assert_eq!(area.frames().count(), 1);
        drop(area);
        assert_eq!(log.take(), ["unmapped", "given back"]);
    }

    #[test]
    fn r25_borrowed_frames_stay_with_their_owner() {
        let log = Log::default();
        let list = list(&log);
        drop(Area::new(pages(), Tables(&log, Ok(())), &list));
        assert_eq!(log.take(), ["unmapped"]);
        drop(list);
        assert_eq!(log.take(), ["given back"]);
    }

    #[test]
    fn r25_frames_that_are_still_mapped_are_not_given_back() {
        let log = Log::default();
        let refused = Err(SpaceError::SharedByUsers);
        drop(Area::new(pages(), Tables(&log, refused), list(&log)));
        assert_eq!(log.take(), ["unmapped"]);
    }
}
