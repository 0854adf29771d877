// SPDX-License-Identifier: MIT OR Apache-2.0
//! Frames for what a program maps. None is given twice.

use super::Frames;
use lazymmu::{Frame, PAGE_SIZE, PageRange};

/// The frames from a number on.
#[derive(Debug)]
pub struct FrameSource {
    next: u64,
}

impl FrameSource {
    pub const fn new(first: u64) -> Self {
        Self { next: first }
    }

    /// A frame for each page of `range`.
    pub fn take(&mut self, range: PageRange, how: Frames) -> Vec<Frame> {
        let n = range.pages();
        self.next = (self.next + 47) & !15;
        let skew = range.start().as_u64() / PAGE_SIZE % 16;
        let first = self.next
            + match how {
                Frames::Aligned => skew,
                Frames::Consecutive => (skew + 1) % 16,
                Frames::Scattered => 0,
            };
        self.next = first + 2 * n;
        (0..n)
            .map(|i| match how {
                Frames::Scattered => first + 2 * n - 1 - 2 * i,
                _ => first + i,
            })
            .map(|number| Frame::from_u64(number * PAGE_SIZE).expect("programs are short"))
            .collect()
    }
}
