// SPDX-License-Identifier: MIT OR Apache-2.0
//! Addresses, pages, ranges and levels.
//!
//! The library supports one translation geometry: 4 KiB granule, 48-bit virtual addresses, four
//! levels (Arm ARM D8.2.8). Each type guarantees one fact, which is checked when a value is made
//! and never again:
//!
//! * [`PhysAddr`]: a byte address below 2^48;
//! * [`Frame`]: the base of a 4 KiB physical page, which can be combined with the attributes of a
//!   descriptor by an OR, without masking;
//! * [`VirtAddr`]: a canonical byte address of one of the two halves;
//! * [`PageRange`]: a non-empty, half-open, page-aligned range inside one half.

use core::fmt;

/// log2 of the page size in bytes.
pub const PAGE_SHIFT: u32 = 12;
/// Page size in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// The number of descriptors in a translation table of any level.
pub const ENTRIES: usize = 512;
/// The width of a virtual address in bits, in either half.
pub const VA_BITS: u32 = 48;
/// The width of an output address in bits (without FEAT_LPA and FEAT_LPA2).
pub const PA_BITS: u32 = 48;

/// A physical byte address below 2^48.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// Returns the address, or `None` if `raw` is 2^48 or above.
    pub const fn new(raw: u64) -> Option<Self> {
        if raw >> PA_BITS == 0 {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// The byte address as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The frame that contains this byte.
    pub const fn frame(self) -> Frame {
        Frame(self.0 & !(PAGE_SIZE - 1))
    }

    /// The index in its table, 0..512, of the entry at this address.
    pub const fn index_in_table(self) -> usize {
        (self.0 as usize & (PAGE_SIZE as usize - 1)) / size_of::<u64>()
    }

    /// The address of entry `index` of the table at this address.
    pub(crate) const fn entry(self, index: usize) -> Self {
        Self(self.0 + (index * size_of::<u64>()) as u64)
    }
}

impl fmt::Debug for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PA:{:#x}", self.0)
    }
}

impl fmt::Display for PhysAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A 4 KiB physical page, named by its base address (not by its frame number).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Frame(u64);

impl Frame {
    /// Returns the frame that starts at `base`, or `None` if `base` is not a
    /// multiple of [`PAGE_SIZE`].
    pub const fn new(base: PhysAddr) -> Option<Self> {
        if base.0.is_multiple_of(PAGE_SIZE) {
            Some(Self(base.0))
        } else {
            None
        }
    }

    /// The frame whose base is the physical address `raw`, in bytes.
    ///
    /// # Errors
    /// Returns `None` if `raw` is not page aligned or not below 2^48.
    pub const fn from_u64(raw: u64) -> Option<Self> {
        match PhysAddr::new(raw) {
            Some(pa) => Self::new(pa),
            None => None,
        }
    }

    /// The base of the frame.
    pub const fn base(self) -> PhysAddr {
        PhysAddr(self.0)
    }

    /// The base of the frame as a number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The frame `pages` pages above this one, or `None` if it is not below 2^48.
    pub const fn offset(self, pages: u64) -> Option<Self> {
        if pages > 1 << (PA_BITS - PAGE_SHIFT) {
            return None;
        }
        Self::from_u64(self.0 + pages * PAGE_SIZE)
    }

    /// Whether `pages` frames from this one on end at or below 2^48.
    #[inline(always)]
    pub(crate) const fn has_room_for(self, pages: u64) -> bool {
        pages <= ((1 << PA_BITS) - self.0) / PAGE_SIZE
    }

    /// Physical page 0: the address in a template of attributes, which are combined with another
    /// address by an OR.
    pub(crate) const ZERO: Self = Self(0);

    /// The frame in the output-address field of the descriptor `bits`.
    pub(crate) const fn from_output_address(bits: u64) -> Self {
        Self(bits & Self::MASK)
    }

    /// Bits `[47:12]` of a descriptor.
    pub(crate) const MASK: u64 = ((1 << PA_BITS) - 1) & !(PAGE_SIZE - 1);
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame:{:#x}", self.0)
    }
}

/// One of the two halves of the virtual address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// `0 .. 2^48`, translated by TTBR0_EL1.
    Lower,
    /// `2^64 - 2^48 .. 2^64`, translated by TTBR1_EL1.
    Upper,
}

impl Half {
    /// The first byte address of the half.
    pub const fn start(self) -> u64 {
        match self {
            Half::Lower => 0,
            Half::Upper => !((1 << VA_BITS) - 1),
        }
    }

    /// The exclusive end as a byte address. For the upper half this is 2^64 - 4096 and not 2^64,
    /// so that the end of a half-open range fits into a `u64`.
    pub const fn end(self) -> u64 {
        match self {
            Half::Lower => 1 << VA_BITS,
            Half::Upper => !(PAGE_SIZE - 1),
        }
    }
}

/// A canonical virtual byte address: bits `[63:48]` all equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct VirtAddr(u64);

impl VirtAddr {
    /// Returns the address, or `None` if it belongs to neither half. (An access would take a
    /// translation fault at level 0, Arm ARM D8.2.4.)
    pub const fn new(raw: u64) -> Option<Self> {
        let top = raw >> VA_BITS;
        if top == 0 || top == 0xffff {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// The byte address as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The half in which the address lies.
    pub const fn half(self) -> Half {
        if self.0 >> 63 == 0 {
            Half::Lower
        } else {
            Half::Upper
        }
    }

    /// The base address of the page that contains this byte.
    pub const fn page(self) -> Self {
        Self(self.0 & !(PAGE_SIZE - 1))
    }

    /// Whether the address is a multiple of [`PAGE_SIZE`].
    pub const fn is_page_aligned(self) -> bool {
        self.0.is_multiple_of(PAGE_SIZE)
    }

    /// Address 0.
    pub(crate) const ZERO: Self = Self(0);

    /// The address `bytes` bytes above this one, or `None` if that leaves the half.
    pub const fn offset(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(raw) => match Self::new(raw) {
                Some(va) if va.0 >> 63 == self.0 >> 63 => Some(va),
                _ => None,
            },
            None => None,
        }
    }
}

impl fmt::Debug for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VA:{:#018x}", self.0)
    }
}

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

/// Why two addresses, or an address and a length, are not a [`PageRange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeError {
    /// The address is not a multiple of [`PAGE_SIZE`].
    Unaligned(u64),
    /// The address belongs to neither half.
    NotCanonical(u64),
    /// The range at this address has no page.
    Empty(u64),
    /// The range wraps around or leaves the half in which it starts. The last page of the upper
    /// half is in no range ([`Half::end`]).
    LeavesHalf {
        /// The first byte address of the range.
        start: u64,
        /// The length in pages.
        pages: u64,
    },
    /// The end lies before the start.
    Reversed {
        /// The first byte address of the range.
        start: u64,
        /// Its exclusive end.
        end: u64,
    },
    /// The range must lie in one last-level table and does not.
    CrossesTable {
        /// The first byte address of the range.
        start: u64,
        /// The length in pages.
        pages: u64,
    },
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Unaligned(va) => write!(
                f,
                "address {va:#x} is not a multiple of the page size {PAGE_SIZE:#x}: round it to a page boundary"
            ),
            Self::NotCanonical(va) => write!(
                f,
                "address {va:#x} is in neither half: bits [63:48] must be all zero or all one"
            ),
            Self::Empty(va) => write!(
                f,
                "the range at {va:#x} is empty: ask for at least one page"
            ),
            Self::LeavesHalf { start, pages } => write!(
                f,
                "{pages} pages from {start:#x} wrap around or leave their half, which ends at {:#x}{}: shorten the range",
                if start >> 63 == 0 {
                    Half::Lower.end()
                } else {
                    Half::Upper.end()
                },
                if start >> 63 == 0 {
                    ""
                } else {
                    " (its last page is in no range)"
                }
            ),
            Self::Reversed { start, end } => write!(
                f,
                "the range {start:#x}..{end:#x} ends before it starts: swap its start and end"
            ),
            Self::CrossesTable { start, pages } => write!(
                f,
                "{pages} pages from {start:#x} cross the end of a page table, which spans 2 MiB: cut the range there"
            ),
        }
    }
}

impl core::error::Error for RangeError {}

/// A non-empty, half-open range of pages inside one half.
///
/// The last page of the upper half is in no range, so the exclusive end is never 2^64
/// ([`Half::end`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PageRange {
    start: VirtAddr,
    end: u64,
}

impl PageRange {
    /// A placeholder for elements of a list that are not used yet. All bytes are zero, so that a
    /// list in a `static` takes no room in an image.
    pub(crate) const NONE: Self = Self {
        start: VirtAddr(0),
        end: 0,
    };

    /// The `pages` pages from `start` on, a page-aligned byte address.
    ///
    /// # Errors
    /// [`RangeError::NotCanonical`], [`RangeError::Unaligned`], [`RangeError::Empty`] or
    /// [`RangeError::LeavesHalf`].
    pub const fn new(start: u64, pages: u64) -> Result<Self, RangeError> {
        let Some(va) = VirtAddr::new(start) else {
            return Err(RangeError::NotCanonical(start));
        };
        if !va.is_page_aligned() {
            return Err(RangeError::Unaligned(start));
        }
        if pages == 0 {
            return Err(RangeError::Empty(start));
        }
        let half_end = va.half().end();
        if start >= half_end || pages > (half_end - start) / PAGE_SIZE {
            return Err(RangeError::LeavesHalf { start, pages });
        }
        Ok(Self {
            start: va,
            end: start + pages * PAGE_SIZE,
        })
    }

    /// The range `start..end`, both page-aligned byte addresses.
    ///
    /// # Errors
    /// The errors of [`PageRange::new`], and [`RangeError::Reversed`].
    pub const fn from_bounds(start: u64, end: u64) -> Result<Self, RangeError> {
        if !end.is_multiple_of(PAGE_SIZE) {
            return Err(RangeError::Unaligned(end));
        }
        if end < start {
            return Err(RangeError::Reversed { start, end });
        }
        Self::new(start, (end - start) / PAGE_SIZE)
    }

    /// The address of the first page.
    pub const fn start(self) -> VirtAddr {
        self.start
    }

    /// The exclusive end as a byte address. For a range at the top of the lower half this is 2^48,
    /// which is not a [`VirtAddr`].
    #[inline(always)]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// The length in pages, at least one.
    #[inline(always)]
    pub const fn pages(self) -> u64 {
        // The end is above the start (`new`), so the subtraction needs no check.
        self.end.wrapping_sub(self.start.0) / PAGE_SIZE
    }

    /// The half in which the range lies.
    pub const fn half(self) -> Half {
        self.start.half()
    }

    /// Whether the page of `va` is in the range.
    pub const fn contains(self, va: VirtAddr) -> bool {
        self.start.0 <= va.0 && va.0 < self.end()
    }

    /// Whether all of `other` is in the range.
    #[inline(always)]
    pub const fn covers(self, other: Self) -> bool {
        self.start.0 <= other.start.0 && other.end <= self.end
    }

    /// One range with the pages of both, if one begins where the other ends.
    pub(crate) fn joined(self, other: Self) -> Option<Self> {
        let (low, high) = if self.start <= other.start {
            (self, other)
        } else {
            (other, self)
        };
        (low.end == high.start.0).then_some(Self {
            start: low.start,
            end: high.end,
        })
    }

    /// The pages of `ranges`, where ranges that touch the next one of the iterator are joined.
    pub(crate) fn all_joined(
        ranges: impl Iterator<Item = Self> + Clone,
    ) -> impl Iterator<Item = Self> + Clone {
        let mut ranges = ranges.peekable();
        core::iter::from_fn(move || {
            let mut range = ranges.next()?;
            while let Some(both) = ranges.peek().and_then(|next| range.joined(*next)) {
                range = both;
                ranges.next();
            }
            Some(range)
        })
    }

    /// The smallest range that covers both. Both must lie in one half.
    pub(crate) fn hull(self, other: Self) -> Self {
        Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }

    /// All pages of the last-level table that translates `va`. The last table of the upper half has
    /// one page less, because it ends at 2^64 ([`Half::end`]).
    pub(crate) const fn of_table(va: VirtAddr) -> Self {
        let start = va.0 & !(Level::L3.table_span() - 1);
        let end = start.wrapping_add(Level::L3.table_span());
        Self {
            start: VirtAddr(start),
            end: if end == 0 { Half::Upper.end() } else { end },
        }
    }

    /// The first address that the last-level table of the range's first page translates.
    pub(crate) const fn table_start(self) -> VirtAddr {
        Self::of_table(self.start).start
    }

    /// The pages of the range, each as a range of its own, in ascending order.
    #[inline]
    pub fn by_page(self) -> impl Iterator<Item = Self> {
        (0..self.pages() as usize).map(move |i| self.part(i, 1))
    }

    /// Whether the two ranges share a page.
    #[inline(always)]
    pub(crate) const fn meets(self, other: Self) -> bool {
        self.start.0 < other.end && other.start.0 < self.end
    }

    /// The `pages` pages from page `first` of the range on. The caller makes sure that they lie in
    /// the range.
    #[inline(always)]
    pub(crate) const fn part(self, first: usize, pages: usize) -> Self {
        let start = self.page(first);
        Self {
            start,
            end: start.0.wrapping_add((pages as u64) << PAGE_SHIFT),
        }
    }

    /// The address of page `i` of the range.
    #[inline(always)]
    pub(crate) const fn page(self, i: usize) -> VirtAddr {
        VirtAddr(self.start.0.wrapping_add((i as u64) << PAGE_SHIFT))
    }

    /// Whether one table of `level` translates the whole range.
    #[inline(always)]
    pub const fn is_in_one_table(self, level: Level) -> bool {
        (self.start.0 ^ self.end.wrapping_sub(1)) < level.table_span()
    }

    /// The first part of the range: the pages that the entry of `level` for the first page
    /// translates.
    #[inline(always)]
    pub(crate) const fn first_in(self, level: Level) -> Self {
        // The end of the entry may be 2^64, so the last address is compared instead of the end.
        let last = self.start.0 | (level.entry_span() - 1);
        Self {
            start: self.start,
            end: if last < self.end { last + 1 } else { self.end },
        }
    }

    /// The rest of the range after `piece`, its first part; `None` if nothing is left.
    #[inline(always)]
    pub(crate) const fn behind(self, piece: Self) -> Option<Self> {
        if piece.end < self.end {
            Some(Self {
                start: VirtAddr(piece.end),
                end: self.end,
            })
        } else {
            None
        }
    }

    /// Cuts the range where *entries* of `level` end. Yields one part per entry of that level, and
    /// so one per table of the next level, in ascending order.
    pub(crate) fn per_entry(self, level: Level) -> impl Iterator<Item = Self> {
        let mut rest = Some(self);
        core::iter::from_fn(move || {
            let piece = rest?.first_in(level);
            rest = self.behind(piece);
            Some(piece)
        })
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}..{:#x}", self.start.0, self.end())
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A lookup level of the four-level, 4 KiB-granule walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// The root table. An entry spans 512 GiB. Linux: PGD.
    L0 = 0,
    /// An entry spans 1 GiB. Linux: PUD.
    L1 = 1,
    /// An entry spans 2 MiB. Linux: PMD.
    L2 = 2,
    /// An entry translates one page of 4 KiB. Linux: PTE.
    L3 = 3,
}

impl Level {
    /// All levels in the order of a walk.
    pub const ALL: [Level; 4] = [Level::L0, Level::L1, Level::L2, Level::L3];

    /// log2 of the number of bytes that one entry of this level spans.
    pub const fn shift(self) -> u32 {
        PAGE_SHIFT + 9 * (3 - self as u32)
    }

    /// The number of bytes that one entry of this level spans.
    pub const fn entry_span(self) -> u64 {
        1 << self.shift()
    }

    /// The number of bytes that one table of this level spans.
    pub const fn table_span(self) -> u64 {
        1 << (self.shift() + 9)
    }

    /// The index of the entry for `va` in a table of this level, 0..512.
    pub const fn index(self, va: VirtAddr) -> usize {
        ((va.0 >> self.shift()) & 511) as usize
    }

    /// The next level of the walk; `None` for [`Level::L3`].
    pub const fn next(self) -> Option<Level> {
        match self {
            Level::L0 => Some(Level::L1),
            Level::L1 => Some(Level::L2),
            Level::L2 => Some(Level::L3),
            Level::L3 => None,
        }
    }
}

/// An address space identifier, the value of `TTBR0_EL1[63:48]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Asid(pub u16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_range_refuses_what_the_issue_lists() {
        assert_eq!(
            PageRange::new(0x1001, 1),
            Err(RangeError::Unaligned(0x1001))
        );
        assert_eq!(PageRange::new(0x1000, 0), Err(RangeError::Empty(0x1000)));
        assert_eq!(
            PageRange::new(1 << 48, 1),
            Err(RangeError::NotCanonical(1 << 48))
        );
        let top = Half::Lower.end() - PAGE_SIZE;
        assert!(PageRange::new(top, 1).is_ok());
        assert!(matches!(
            PageRange::new(top, 2),
            Err(RangeError::LeavesHalf { .. })
        ));
        assert!(matches!(
            PageRange::new(Half::Upper.start(), u64::MAX),
            Err(RangeError::LeavesHalf { .. })
        ));
        assert!(matches!(
            PageRange::new(0xffff_ffff_ffff_f000, 1),
            Err(RangeError::LeavesHalf { .. })
        ));
        assert!(matches!(
            PageRange::from_bounds(0x3000, 0x1000),
            Err(RangeError::Reversed { .. })
        ));
    }

    #[test]
    fn per_entry_cuts_at_entry_ends() {
        let range = PageRange::new(0x20_0000 - 0x3000, 3 + 512 + 2).unwrap();
        let pieces: Vec<_> = range
            .per_entry(Level::L2)
            .map(|p| (p.start().as_u64(), p.pages()))
            .collect();
        assert_eq!(pieces, [(0x1f_d000, 3), (0x20_0000, 512), (0x40_0000, 2)]);
        let top = PageRange::new(Half::Upper.end() - 2 * PAGE_SIZE, 2).unwrap();
        assert_eq!(top.per_entry(Level::L2).count(), 1);
    }

    #[test]
    fn the_range_of_a_table_is_one_in_the_last_table_of_a_half_too() {
        for (half, pages) in [(Half::Lower, 512), (Half::Upper, 511)] {
            let last = VirtAddr::new(half.end() - PAGE_SIZE).unwrap();
            let table = PageRange::of_table(last);
            assert_eq!((table.pages(), table.end()), (pages, half.end()));
            assert!(table.meets(PageRange::new(last.as_u64(), 1).unwrap()));
            let first = VirtAddr::new(half.start()).unwrap();
            assert_eq!(
                PageRange::of_table(first),
                PageRange::new(half.start(), 512).unwrap()
            );
        }
    }

    #[test]
    fn levels_span_what_d8_2_8_says() {
        assert_eq!(Level::L3.entry_span(), 4 << 10);
        assert_eq!(Level::L2.entry_span(), 2 << 20);
        assert_eq!(Level::L1.entry_span(), 1 << 30);
        assert_eq!(Level::L0.table_span(), 1 << 48);
        let va = VirtAddr::new(0xffff_8040_2010_0fff).unwrap();
        assert_eq!(Level::ALL.map(|l| l.index(va)), [256, 256, 256, 256]);
    }
}
