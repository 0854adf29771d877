// SPDX-License-Identifier: MIT OR Apache-2.0
//! Physical memory: every frame is handed out once, no frame in use is handed out, and all frames
//! come back.

use alloc::vec::Vec;

use lazymmu::{Frame, PAGE_SIZE, VirtAddr};

use super::fixture::store;
use crate::arch::probe::try_read_u64;
use crate::machine::Kind;
use crate::mm::frames::{self, FrameList};
use crate::mm::kernel_space;
use crate::mm::layout::linear_virt;
use crate::selftest::prelude::*;
use crate::start;

suite! {
    name: "allocator",
    order: 12,
    tests: [
        case!(QemuVisible, frames_are_distinct_and_zeroed),
        case!(QemuVisible, contiguous_frames_are_aligned),
        case!(QemuVisible, out_of_frames_is_an_error),
        case!(QemuVisible, every_free_frame_can_be_had_again_and_again),
        case!(QemuVisible, no_table_of_the_kernel_is_a_free_frame),
        case!(QemuVisible, heap_grows_and_gives_back),
    ],
}

/// Zeroed frames, given back on drop.
struct Zeroed(Vec<Frame>);

impl Zeroed {
    fn take(&mut self) -> Result<Frame, frames::OutOfFrames> {
        let frame = frames::alloc_zeroed()?;
        self.0.push(frame);
        Ok(frame)
    }
}

impl Drop for Zeroed {
    fn drop(&mut self) {
        for frame in &self.0 {
            // SAFETY: the frame was taken in `take`, and never mapped.
            unsafe { frames::free(*frame) };
        }
    }
}

fn frames_are_distinct_and_zeroed() -> TestResult {
    const COUNT: usize = 100;
    let dirty = expect_ok!(FrameList::alloc(COUNT));
    for (i, frame) in dirty.iter().enumerate() {
        expect!(!dirty[..i].contains(frame));
        for offset in (0..PAGE_SIZE).step_by(8) {
            expect_ok!(store(linear_virt(frame.as_u64()) + offset, u64::MAX));
        }
    }
    let dirtied = dirty.to_vec();
    drop(dirty);
    // All of them stay allocated while they are checked, because the list is last in, first out.
    let mut clean = Zeroed(Vec::with_capacity(COUNT));
    let mut again = 0;
    for _ in 0..COUNT {
        let frame = expect_ok!(clean.take());
        again += usize::from(dirtied.contains(&frame));
        for offset in (0..PAGE_SIZE).step_by(8) {
            expect_eq!(try_read_u64(linear_virt(frame.as_u64()) + offset), Ok(0));
        }
    }
    expect_eq!(again, COUNT, "frames come back in another order");
    Ok(())
}

fn contiguous_frames_are_aligned() -> TestResult {
    for count in [1, 16, 100, 512] {
        let before = frames::usage().used;
        let first = expect_ok!(frames::alloc_contiguous(count));
        let aligned = first
            .as_u64()
            .is_multiple_of(count.next_power_of_two() as u64 * PAGE_SIZE);
        // SAFETY: taken above with the same count, not mapped anywhere.
        unsafe { frames::free_contiguous(first, count) };
        expect!(aligned);
        expect_eq!(frames::usage().used, before);
    }
    Ok(())
}

fn out_of_frames_is_an_error() -> TestResult {
    let before = frames::usage().used;
    frames::set_budget(Some(3));
    let list = FrameList::alloc(4);
    frames::set_budget(None);
    expect_err!(list);
    expect_eq!(frames::usage().used, before);
    expect_err!(frames::alloc_contiguous(frames::usage().total + 1));
    Ok(())
}

/// All free frames at once, as a bit for each frame between the first and the last of RAM. The test
/// does not write to them, so a frame that is wrongly free keeps its contents. The drop gives them
/// back.
struct All {
    first: u64,
    taken: Vec<u64>,
    count: usize,
    twice: Option<u64>,
}

/// The most frames that these tests take from an emulator, 1 GiB: the allocator writes to each, so
/// the host must provide it.
const MOST: usize = 1 << 18;

impl All {
    /// Takes single frames until none is left. Skips the test if there are too many.
    fn take() -> Result<Self, Outcome> {
        if start::machine().kind == Kind::Emulated && frames::usage().total > MOST {
            skip!("the host would have to provide all memory: run on virt with --memory 1G");
        }
        let usable = start::machine().memory.usable();
        let starts = usable.iter().map(|range| range.bytes().start());
        let ends = usable.iter().map(|range| range.bytes().end());
        let first = starts.min().unwrap_or(0) / PAGE_SIZE;
        let frames = ends.max().unwrap_or(0) / PAGE_SIZE - first;
        // The heap takes its memory now, while there is some.
        let mut all = Self {
            first,
            taken: alloc::vec![0; frames.div_ceil(64) as usize],
            count: 0,
            twice: None,
        };
        while let Ok(frame) = frames::alloc() {
            if all.contains(frame) {
                all.twice = Some(frame.as_u64());
                break;
            }
            let Some((word, bit)) = all.place(frame) else {
                fail!("{frame:?} is not in usable RAM");
            };
            all.taken[word] |= bit;
            all.count += 1;
        }
        expect_eq!(all.twice, None, "handed out while it was taken");
        Ok(all)
    }

    fn place(&self, frame: Frame) -> Option<(usize, u64)> {
        let index = (frame.as_u64() / PAGE_SIZE).checked_sub(self.first)?;
        let word = (index / 64) as usize;
        (word < self.taken.len()).then_some((word, 1 << (index % 64)))
    }

    fn contains(&self, frame: Frame) -> bool {
        self.place(frame)
            .is_some_and(|(word, bit)| self.taken[word] & bit != 0)
    }
}

impl Drop for All {
    fn drop(&mut self) {
        for (word, bits) in self.taken.iter().enumerate() {
            for bit in (0..64).filter(|bit| bits >> bit & 1 != 0) {
                let index = self.first + word as u64 * 64 + bit;
                if let Some(frame) = Frame::from_u64(index * PAGE_SIZE) {
                    // SAFETY: the frame was taken in `take`, and neither mapped nor written.
                    unsafe { frames::free(frame) };
                }
            }
        }
    }
}

/// Takes a block and gives it back at once.
fn take_and_return_a_block(count: usize) -> Result<(), frames::OutOfFrames> {
    let first = frames::alloc_contiguous(count)?;
    // SAFETY: taken above with the same count, not mapped anywhere.
    unsafe { frames::free_contiguous(first, count) };
    Ok(())
}

fn every_free_frame_can_be_had_again_and_again() -> TestResult {
    const BLOCK: usize = 512;
    expect_ok!(take_and_return_a_block(BLOCK));
    for _ in 0..2 {
        let all = All::take()?;
        // A frame that was given back but cannot be allocated would be neither in use nor free.
        let usage = frames::usage();
        expect_eq!(usage.used, usage.total);
        expect!(all.count > BLOCK);
        drop(all);
        // All frames are single frames now; a block can be allocated only if they are joined again.
        expect_ok!(take_and_return_a_block(BLOCK));
    }
    Ok(())
}

fn no_table_of_the_kernel_is_a_free_frame() -> TestResult {
    let all = All::take()?;
    let space = kernel_space::lock();
    let mut wrong = all.contains(space.root()).then_some(0);
    let mut tables = 1;
    let mut seen = u64::MAX;
    space.for_each_leaf(|virt, _, _| {
        // There is one walk for each last-level table.
        let table = virt >> 21;
        if let Some(va) = VirtAddr::new(virt).filter(|_| table != seen) {
            seen = table;
            space.walk(va, |level, entry| {
                if entry.is_table(level) {
                    tables += 1;
                    if all.contains(entry.frame()) {
                        wrong.get_or_insert(virt);
                    }
                }
            });
        }
    });
    drop(space);
    expect_eq!(wrong, None, "an address whose walk reads a free frame");
    expect!(tables > 1);
    Ok(())
}

fn heap_grows_and_gives_back() -> TestResult {
    let before = crate::mm::heap::bytes_used();
    let big = alloc::vec![7_u8; 3 << 20];
    expect_eq!(big[big.len() - 1], 7);
    expect!(crate::mm::heap::bytes_used() >= before + big.len());
    drop(big);
    expect_eq!(crate::mm::heap::bytes_used(), before);
    Ok(())
}
