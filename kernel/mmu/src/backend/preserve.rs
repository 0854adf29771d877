// SPDX-License-Identifier: MIT OR Apache-2.0
//! Access and dirty bits that hardware sets while a store waits (R24).
//!
//! With TCR_EL1.{HA,HD} the walker writes entries. (The library requires both to be 0 today, but
//! its queues do not rely on that.) After a new value was computed and before it is stored,
//! hardware may then mark the entry in memory as *accessed* (it sets AF) and as *dirty* (it clears
//! `AP[2]` if DBM is set). The later store takes over both marks if they were not there when the
//! value was computed. A mark that the writer had seen and cleared on purpose stays clear.

use crate::desc::{Desc, bits};

/// Whether hardware has marked the page as written: DBM is set and `AP[2]` is clear.
const fn is_hw_dirty(entry: Desc) -> bool {
    entry.as_u64() & (bits::VALID | bits::DBM | bits::AP_READ_ONLY) == bits::VALID | bits::DBM
}

/// Whether hardware or software has marked the page as written.
const fn is_dirty(entry: Desc) -> bool {
    is_hw_dirty(entry) || entry.as_u64() & bits::SOFTWARE_DIRTY != 0
}

/// The marks that a page has gained after an entry was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    accessed: bool,
    dirtied: bool,
}

impl News {
    /// The marks that `now` has and `seen` has not. None if `now` is invalid or maps another frame.
    pub(super) const fn between(seen: Desc, now: Desc) -> Self {
        if !now.is_valid() || seen.as_u64() & bits::ADDRESS != now.as_u64() & bits::ADDRESS {
            return Self {
                accessed: false,
                dirtied: false,
            };
        }
        Self {
            accessed: now.as_u64() & !seen.as_u64() & bits::AF != 0,
            dirtied: is_dirty(now) && !is_dirty(seen),
        }
    }

    /// The marks of both: a mark of one member of a contiguous group counts for the whole group.
    pub(super) const fn union(self, other: Self) -> Self {
        Self {
            accessed: self.accessed || other.accessed,
            dirtied: self.dirtied || other.dirtied,
        }
    }

    /// `new`, a value for the same page, with these marks. If `new` has no DBM, the mark *dirty* is
    /// set in software's bit.
    pub(super) const fn told_to(self, new: Desc) -> Desc {
        let mut raw = new.as_u64();
        if !new.is_valid() {
            return new;
        }
        if self.accessed {
            raw |= bits::AF;
        }
        if self.dirtied {
            if raw & bits::DBM != 0 {
                raw &= !bits::AP_READ_ONLY;
            } else {
                raw |= bits::SOFTWARE_DIRTY;
            }
        }
        Desc::from_u64(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Frame;
    use crate::desc::Prot;

    fn page(prot: Prot) -> Desc {
        Desc::page(Frame::from_u64(0x8000_0000).unwrap(), prot)
    }

    fn with(entry: Desc, mask: u64) -> Desc {
        Desc::from_u64(entry.as_u64() | mask)
    }

    fn without(entry: Desc, mask: u64) -> Desc {
        Desc::from_u64(entry.as_u64() & !mask)
    }

    #[test]
    fn r24_the_access_flag_is_kept_and_a_cleared_one_stays_cleared() {
        let (young, old) = (page(Prot::USER), without(page(Prot::USER), bits::AF));
        let read_only = without(page(Prot::USER_RO), bits::AF);
        // Hardware set the flag after the writer had read the entry.
        assert_eq!(
            News::between(old, young).told_to(read_only),
            with(read_only, bits::AF)
        );
        // The writer had read the flag, and cleared it.
        assert_eq!(News::between(young, young).told_to(old), old);
    }

    #[test]
    fn r24_dirt_is_kept_in_hardware_s_bits_or_else_in_software_s() {
        let clean = with(page(Prot::USER_RO), bits::DBM);
        let dirty = without(clean, bits::AP_READ_ONLY);
        let news = News::between(clean, dirty);
        assert_eq!(news.told_to(clean), dirty);
        let protected = page(Prot::USER_RO);
        assert_eq!(
            news.told_to(protected),
            with(protected, bits::SOFTWARE_DIRTY)
        );
        assert_eq!(News::between(dirty, dirty).told_to(clean), clean);
    }

    #[test]
    fn r24_another_page_s_bits_are_nobody_s_news() {
        let (young, old) = (page(Prot::USER), without(page(Prot::USER), bits::AF));
        let elsewhere = Desc::page(Frame::from_u64(0x1000).unwrap(), Prot::USER);
        assert_eq!(News::between(old, elsewhere), News::default());
        assert_eq!(News::between(old, Desc::INVALID), News::default());
        assert_eq!(
            News::between(old, young).told_to(Desc::INVALID),
            Desc::INVALID
        );
    }
}
