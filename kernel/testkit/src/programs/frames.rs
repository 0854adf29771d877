// SPDX-License-Identifier: MIT OR Apache-2.0
//! The frames to which a program maps pages.

use super::Frames;
use lazymmu::{Frame, PAGE_SIZE, PageRange};

/// A source of frames with ascending numbers.
#[derive(Debug)]
pub struct FrameSource {
    next: u64,
    /// The number of the first frame of the last mapping, a multiple of 16, if frames may be given
    /// again; otherwise `None`.
    last: Option<u64>,
}

impl FrameSource {
    /// The frames from number `first` on. No frame is given twice, also not with [`Frames::Again`].
    pub const fn new(first: u64) -> Self {
        let (next, last) = (first, None);
        Self { next, last }
    }

    /// The frames from number `first` on. With [`Frames::Again`] frames are given again.
    pub const fn repeating(first: u64) -> Self {
        let (next, last) = (first, Some(first & !15));
        Self { next, last }
    }

    /// A frame for each page of `range`.
    pub fn take(&mut self, range: PageRange, how: Frames) -> Vec<Frame> {
        let n = range.pages();
        let skew = range.start().as_u64() / PAGE_SIZE % 16;
        let begin = match self.last {
            Some(last) if how == Frames::Again => last,
            _ => (self.next + 47) & !15,
        };
        let first = begin
            + match how {
                Frames::Aligned | Frames::Again => skew,
                Frames::Consecutive => (skew + 1) % 16,
                Frames::Scattered => 0,
            };
        self.next = self.next.max(first + 2 * n);
        self.last = self.last.and(Some(begin));
        (0..n)
            .map(|i| match how {
                Frames::Scattered => first + 2 * n - 1 - 2 * i,
                _ => first + i,
            })
            .map(|number| Frame::from_u64(number * PAGE_SIZE).expect("programs are short"))
            .collect()
    }
}
