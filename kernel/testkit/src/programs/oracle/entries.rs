// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that read and write single entries, by a callback or through a fast range.

use super::callback::{Callback, Stop, caught};
use super::requests::without_hint;
use super::{Run, alone, verdict};
use crate::fake::{self, Fake};
use crate::programs::{Act, Bulk, Each, Fast, Frames, Range, prot};
use lazymmu::bbm::Violation;
use lazymmu::{
    Desc, FastPteRange, Frame, Level, PAGE_SIZE, Prot, PteRef, SpaceError, SpaceKind, VirtAddr,
    bits,
};

/// The error for an entry that is set to another frame while it is live.
const fn moved(va: VirtAddr) -> SpaceError {
    let violation = Violation::OutputAddress;
    SpaceError::BreakBeforeMake { va, violation }
}

/// An entry that the library lets the caller read and write.
pub(super) trait Cell {
    fn get(&self) -> Desc;
    fn set(&mut self, frame: Frame, prot: Prot) -> Result<(), SpaceError>;
    fn get_and_clear(&mut self) -> Desc;
}

impl Cell for PteRef<'_, Fake> {
    fn get(&self) -> Desc {
        PteRef::get(self)
    }

    fn set(&mut self, frame: Frame, prot: Prot) -> Result<(), SpaceError> {
        PteRef::set(self, frame, prot)
    }

    fn get_and_clear(&mut self) -> Desc {
        PteRef::get_and_clear(self)
    }
}

/// Entry `.1` of a fast range.
struct Nth<'a, 's, 'm>(&'a mut FastPteRange<'s, 'm, Fake>, usize);

impl Cell for Nth<'_, '_, '_> {
    fn get(&self) -> Desc {
        self.0.get(self.1)
    }

    fn set(&mut self, frame: Frame, prot: Prot) -> Result<(), SpaceError> {
        self.0.set(self.1, frame, prot)
    }

    fn get_and_clear(&mut self) -> Desc {
        self.0.get_and_clear(self.1)
    }
}

/// The attributes for a mapping to `frame`: the same for all frames of every second group of 16,
/// and different ones for each frame of the groups in between.
pub(super) const fn prot_for(kind: SpaceKind, frame: Frame) -> Prot {
    let (number, group) = (frame.as_u64() / PAGE_SIZE, frame.as_u64() >> 16);
    let index = if group & 1 == 0 { group >> 1 } else { number };
    prot(kind, (index % 4) as u8)
}

/// Sets an entry that is in use: first to another frame, which must be refused with any attributes,
/// and then to other attributes, which must be refused if the memory type differs. Returns the
/// entry after that.
fn set_again(
    cell: &mut impl Cell,
    (va, known): (VirtAddr, Desc),
    frame: Frame,
    prot: Prot,
) -> Desc {
    let violation = Violation::MemoryType;
    let moved = cell.set(frame, prot);
    let of_type = |entry: Desc| entry.as_u64() & bits::ATTR_INDX;
    if frame != known.frame() {
        let refused = matches!(moved, Err(SpaceError::BreakBeforeMake { va: at, .. }) if at == va);
        assert!(refused, "{va}: {moved:?}");
    }
    let new = Desc::page(known.frame(), prot);
    let changed = cell.set(known.frame(), prot);
    if of_type(new) == of_type(known) {
        assert_eq!(changed, Ok(()), "{va}");
        new
    } else {
        assert_eq!(changed, Err(SpaceError::BreakBeforeMake { va, violation }));
        known
    }
}

fn clear(cell: &mut impl Cell, held: Desc) {
    assert_eq!(alone(cell.get_and_clear()), held);
    assert_eq!(cell.get(), Desc::INVALID);
}

/// Whether `act` sets an entry that is live, even if to the same value.
pub(super) fn sets_live(known: Desc, act: Act) -> bool {
    act == Act::Set && known != Desc::INVALID
}

/// Executes `act` on an entry that holds `known`, and checks the results. Returns the entry after
/// that. `frames` are two frames to which it may be set.
pub(super) fn write(
    cell: &mut impl Cell,
    (va, known): (VirtAddr, Desc),
    act: Act,
    frames: [Frame; 2],
    kind: SpaceKind,
) -> Desc {
    let [frame, other] = frames;
    let prot = prot_for(kind, frame);
    let is_used = known != Desc::INVALID;
    assert_eq!(alone(cell.get()), known, "{va}");
    let now = match act {
        Act::Look => known,
        Act::Clear => {
            clear(cell, known);
            Desc::INVALID
        }
        Act::Set if is_used => set_again(cell, (va, known), frame, prot),
        Act::Set => {
            assert_eq!(cell.set(frame, prot), Ok(()), "{va}");
            Desc::page(frame, prot)
        }
        Act::Replace if is_used => {
            clear(cell, known);
            assert_eq!(cell.set(frame, prot), Ok(()), "{va}");
            Desc::page(frame, prot)
        }
        // An empty entry is written several times.
        Act::Replace => {
            assert_eq!(cell.set(frame, prot), Ok(()), "{va}");
            assert_eq!(cell.set(other, prot), Err(moved(va)));
            clear(cell, Desc::page(frame, prot));
            assert_eq!(cell.set(other, prot), Ok(()), "{va}");
            let again = Desc::page(other, prot);
            if other.as_u64() & PAGE_SIZE == 0 {
                clear(cell, again);
                Desc::INVALID
            } else {
                again
            }
        }
    };
    assert_eq!(alone(cell.get()), now, "{va}");
    now
}

impl Run<'_> {
    /// The invalidation that the caller owes for entries that were written one by one (R25).
    /// `set_live` says whether live ones were set (R30).
    pub(super) fn invalidate_entries(&mut self, space: usize, range: Range, set_live: bool) {
        if let Some(put_off) = &mut self.frugal {
            put_off.push((space, range, set_live));
        } else {
            self.flush_range(space, range);
        }
    }

    /// Calls `apply_to_page_range` with a callback that changes each entry as `each` says.
    pub(super) fn apply(&mut self, space: usize, range: Range, each: Each) {
        let (pages, kind) = (self.range(space, range), self.kind(space));
        let frames = self.frames.take(pages, Frames::Consecutive);
        let others = self.frames.take(pages, Frames::Aligned);
        let callback = Callback::new(self.fault);
        let mut entries = self.entries(space, range);
        let mut seen = Vec::new();
        let mut set_live = false;
        let mm = &mut self.spaces[space].mm;
        let result = caught(|| {
            mm.apply_to_page_range(pages, |entry| {
                let (i, va) = (seen.len(), entry.va());
                let known = (va, entries[i]);
                set_live |= sets_live(known.1, each.act(i));
                entries[i] = write(entry, known, each.act(i), [frames[i], others[i]], kind);
                seen.push(va.as_u64());
                callback.worked()
            })
        });
        let no_tables = |result: &Option<Result<(), Stop>>| {
            matches!(
                result,
                Some(Err(Stop::Space(SpaceError::OutOfTables { .. })))
            )
        };
        if self.no_memory && no_tables(&result) {
            assert_eq!(seen, [], "memory ran out after the first callback");
            return;
        }
        let (reached, expected) = callback.ends(entries.len());
        assert_eq!(result, expected);
        let numbers = self.universe.pages_of(range);
        let all = numbers.map(|page| self.universe.va(space, page));
        assert!(
            seen.into_iter().eq(all.take(reached)),
            "the callback must see each page once, in ascending order"
        );
        self.set(space, range, entries);
        self.invalidate_entries(space, range, set_live);
    }

    /// [`Run::apply`] with `apply_to_existing_page_range`, which calls back for entries in use
    /// only.
    pub(super) fn apply_existing(&mut self, space: usize, range: Range, each: Each) {
        let (pages, kind) = (self.range(space, range), self.kind(space));
        let frames = self.frames.take(pages, Frames::Consecutive);
        let others = self.frames.take(pages, Frames::Aligned);
        let callback = Callback::new(self.fault);
        let mut entries = self.entries(space, range);
        let used = |(i, entry): (usize, &Desc)| (*entry != Desc::INVALID).then_some(i);
        let used: Vec<usize> = entries.iter().enumerate().filter_map(used).collect();
        let mut seen = Vec::new();
        let mut set_live = false;
        let mm = &mut self.spaces[space].mm;
        let result = caught(|| {
            mm.apply_to_existing_page_range(pages, |entry| {
                let va = entry.va();
                let i = ((va.as_u64() - pages.start().as_u64()) / PAGE_SIZE) as usize;
                let known = (va, entries[i]);
                set_live |= sets_live(known.1, each.act(i));
                entries[i] = write(entry, known, each.act(i), [frames[i], others[i]], kind);
                seen.push(i);
                callback.worked()
            })
        });
        let (reached, expected) = callback.ends(used.len());
        assert_eq!(result, expected);
        assert_eq!(
            seen,
            used[..reached],
            "the callback must see each page in use once, in ascending order"
        );
        self.set(space, range, entries);
        self.invalidate_entries(space, range, set_live);
    }

    /// Opens a fast range, changes a part of it at once, and then single entries in mixed order.
    pub(super) fn fast(&mut self, space: usize, range: Range, each: Each, how: Fast) {
        if self.plain.is_some() {
            return self.fast_unannounced(space, range, each, how);
        }
        let (pages, kind) = (self.range(space, range), self.kind(space));
        let frames = self.frames.take(pages, Frames::Consecutive);
        let others = self.frames.take(pages, Frames::Consecutive);
        let bulk = self.frames.take(pages, Frames::Aligned);
        let callback = Callback::new(self.fault);
        let at = how.part(bulk.len());
        let part = Range {
            first: range.first + at.start as u16,
            pages: at.len() as u16,
            ..range
        };
        let expected = verdict(self.already_mapped(space, part));
        let mut entries = self.entries(space, range);
        let mut fast = match self.spaces[space].mm.fast_pte_range(pages) {
            Ok(fast) => fast,
            Err(error) => {
                let of_one_table = pages.is_in_one_table(Level::L3);
                let no_tables = matches!(error, SpaceError::OutOfTables { .. });
                assert!(!of_one_table || no_tables && self.no_memory, "{error}");
                assert!(
                    no_tables || matches!(error, SpaceError::Range(_)),
                    "{error}"
                );
                return;
            }
        };
        assert_eq!(fast.range(), pages);
        let n = entries.len();
        let prot = prot_for(kind, bulk[at.start]);
        let inner = (how.bulk == Bulk::Crossed).then(|| self.mmu.lazy().section());
        let set = match how.bulk {
            Bulk::None | Bulk::Crossed => None,
            Bulk::Run => Some(fast.set_run(at.start, at.len(), bulk[at.start], prot)),
            Bulk::Each => {
                let mut frames = 0;
                let set = caught(|| {
                    fast.set_each(at.start, at.len(), prot, |i| {
                        // The closure cannot return an error. It can only panic.
                        let _ = callback.worked();
                        frames += 1;
                        bulk[i]
                    })
                });
                if set.is_none() {
                    for i in at.clone().take(frames) {
                        entries[i] = Desc::page(bulk[i], prot);
                    }
                }
                set
            }
            Bulk::Frames => Some(fast.set_frames(at.start, &bulk[at.clone()], prot)),
            Bulk::Clear => {
                let used = entries[at.clone()].iter().filter(|e| **e != Desc::INVALID);
                assert_eq!(fast.clear_run(at.start, at.len()), used.count());
                entries[at.clone()].fill(Desc::INVALID);
                None
            }
        };
        if let Some(set) = set {
            assert_eq!(set.map_err(without_hint), expected);
            if set.is_ok() {
                let pairs = entries.iter_mut().zip(&bulk);
                for (entry, frame) in pairs.skip(at.start).take(at.len()) {
                    *entry = Desc::page(*frame, prot);
                }
            }
        }
        let mut set_live = false;
        for step in 0..n {
            // 521 is a prime and larger than any length, so each entry is visited once.
            let i = step * 521 % n;
            let va = fake::va(pages.start().as_u64() + i as u64 * PAGE_SIZE);
            let known = (va, entries[i]);
            set_live |= sets_live(known.1, each.act(i));
            let mut cell = Nth(&mut fast, i);
            entries[i] = write(&mut cell, known, each.act(i), [frames[i], others[i]], kind);
        }
        drop(fast);
        drop(inner);
        self.set(space, range, entries);
        self.invalidate_entries(space, range, set_live);
    }
}
