// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ranges of physical addresses, as firmware states them.
//!
//! A range is half-open, in bytes, never empty, and never wraps. It need not be aligned, and this
//! CPU need not be able to address it. A range is converted to frames before it is mapped (see
//! [`memory_map`](super::memory_map)), and that conversion enforces alignment and limits.

use core::fmt;

use lazymmu::PAGE_SIZE;

/// `start..end` in bytes of physical address space, with `start < end`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysRange {
    start: u64,
    end: u64,
}

impl PhysRange {
    /// The `size` bytes from `start`, or `None` if the range is empty or extends beyond 2^64 - 1.
    #[must_use]
    pub const fn new(start: u64, size: u64) -> Option<Self> {
        match start.checked_add(size) {
            Some(end) if size > 0 => Some(Self { start, end }),
            _ => None,
        }
    }

    /// `start..end`, or `None` if the range is empty.
    #[must_use]
    pub const fn from_bounds(start: u64, end: u64) -> Option<Self> {
        if start < end {
            Some(Self { start, end })
        } else {
            None
        }
    }

    /// First byte address.
    #[must_use]
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Exclusive end, a byte address.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Length in bytes, at least 1.
    #[must_use]
    pub const fn size(self) -> u64 {
        self.end - self.start
    }

    /// Whether the ranges have a byte in common.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Whether every byte of `other` is in this range.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// Both ranges as one, or `None` if there is a gap between them.
    #[must_use]
    pub fn joined(self, other: Self) -> Option<Self> {
        let touches = self.start <= other.end && other.start <= self.end;
        touches.then(|| Self {
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        })
    }

    /// The smallest range of whole pages that contains this one. The last page below 2^64 is left
    /// without its last byte, because an exclusive end cannot express it; no frame lies there.
    #[must_use]
    pub const fn grown_to_pages(self) -> Self {
        let end = match self.end.checked_next_multiple_of(PAGE_SIZE) {
            Some(end) => end,
            None => u64::MAX,
        };
        Self {
            start: self.start & !(PAGE_SIZE - 1),
            end,
        }
    }

    /// The whole pages inside this range, or `None` if there is none.
    #[must_use]
    pub const fn shrunk_to_pages(self) -> Option<Self> {
        match self.start.checked_next_multiple_of(PAGE_SIZE) {
            Some(start) => Self::from_bounds(start, self.end & !(PAGE_SIZE - 1)),
            None => None,
        }
    }
}

impl fmt::Display for PhysRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}..{:#x}", self.start, self.end)
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::PhysRange;

    #[test]
    fn refuses_empty_and_wrapping() {
        assert_eq!(PhysRange::new(0x1000, 0), None);
        assert_eq!(PhysRange::new(u64::MAX, 1), None);
        assert_eq!(PhysRange::from_bounds(5, 5), None);
        assert!(PhysRange::new(u64::MAX - 1, 1).is_some());
    }

    #[test]
    fn rounds_to_pages() {
        let range = PhysRange::from_bounds(0x1fff, 0x4001).unwrap();
        assert_eq!(
            range.grown_to_pages(),
            PhysRange::from_bounds(0x1000, 0x5000).unwrap()
        );
        assert_eq!(
            range.shrunk_to_pages(),
            PhysRange::from_bounds(0x2000, 0x4000)
        );
        let inside = PhysRange::from_bounds(0x1001, 0x2fff).unwrap();
        assert_eq!(inside.shrunk_to_pages(), None);
        let top = PhysRange::from_bounds(u64::MAX - 1, u64::MAX).unwrap();
        assert_eq!(top.shrunk_to_pages(), None);
        assert_eq!(top.grown_to_pages().end(), u64::MAX);
    }

    #[test]
    fn neighbors_do_not_overlap() {
        let low = PhysRange::from_bounds(0x1000, 0x2000).unwrap();
        let high = PhysRange::from_bounds(0x2000, 0x3000).unwrap();
        assert!(!low.overlaps(high) && !high.overlaps(low));
        let both = PhysRange::from_bounds(0x1000, 0x3000).unwrap();
        assert!(both.overlaps(low) && low.overlaps(both));
        assert!(both.contains(high) && !high.contains(both));
    }
}
