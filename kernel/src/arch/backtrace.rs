// SPDX-License-Identifier: MIT OR Apache-2.0

//! Backtraces from frame records (AAPCS64 6.4.6): pairs of (caller's record, return address),
//! linked through x29.
//!
//! A backtrace is taken when the kernel is broken, so no record is trusted. A record must be
//! aligned, must lie within a known stack, and must lie above the record before it. The walk may
//! step once from the emergency stack to the interrupted one. It therefore ends after a bounded
//! number of reads, and it reads mapped memory only.
//!
//! The output is bare addresses, one on each line, `  #0 0xffffffff80081234`; `cargo xtask` adds
//! the names. Frame 0 is the place where the CPU was; the others are return addresses.

use core::fmt;

use crate::stack::{RECORD, Stack};

/// Frames that are printed at most, because a runaway recursion would fill the screen.
pub const MAX_FRAMES: usize = 32;

/// Why a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// At a record of zeros: the bottom of the call chain.
    Complete,
    /// After [`MAX_FRAMES`] frames.
    TooDeep,
    /// At a record that is not aligned, not on a known stack, or below the previous one.
    Broken {
        /// Its address.
        record: u64,
    },
}

/// Follows the records from `frame_pointer`, and calls `visit` with each return address.
///
/// `stacks` are in the order in which the walk may leave them: it may move on to a later one, never
/// back. `read` is called only with 8-byte aligned addresses within `stacks`.
pub fn walk(
    frame_pointer: u64,
    stacks: &[Stack],
    read: impl Fn(u64) -> u64,
    mut visit: impl FnMut(u64),
) -> End {
    let mut stacks = stacks;
    let mut record = frame_pointer;
    let mut lowest = 0;
    for _ in 0..MAX_FRAMES {
        if record == 0 {
            return End::Complete;
        }
        let Some(index) = stacks.iter().position(|stack| stack.holds_record(record)) else {
            return End::Broken { record };
        };
        if index > 0 {
            // On another stack, `below` of the old one does not apply.
            stacks = &stacks[index..];
            lowest = 0;
        }
        if record < lowest {
            return End::Broken { record };
        }
        lowest = record + RECORD;
        let (next, return_address) = (read(record), read(record + 8));
        if return_address == 0 {
            return End::Complete;
        }
        visit(return_address);
        record = next;
    }
    if record == 0 {
        End::Complete
    } else {
        End::TooDeep
    }
}

/// Prints a backtrace: `pc` as frame 0, then the walk from `frame_pointer`.
///
/// # Errors
///
/// Errors of `out`.
pub fn write(
    out: &mut dyn fmt::Write,
    pc: u64,
    frame_pointer: u64,
    stacks: &[Stack],
    read: impl Fn(u64) -> u64,
) -> fmt::Result {
    write_from(out, &[pc], frame_pointer, stacks, read)
}

/// Prints a backtrace whose `pc` is not inside a function that has begun: `link` (x30) is frame 1,
/// because no record holds it yet.
///
/// # Errors
///
/// Errors of `out`.
pub fn write_called(
    out: &mut dyn fmt::Write,
    pc: u64,
    link: u64,
    frame_pointer: u64,
    stacks: &[Stack],
    read: impl Fn(u64) -> u64,
) -> fmt::Result {
    write_from(out, &[pc, link], frame_pointer, stacks, read)
}

fn write_from(
    out: &mut dyn fmt::Write,
    known: &[u64],
    frame_pointer: u64,
    stacks: &[Stack],
    read: impl Fn(u64) -> u64,
) -> fmt::Result {
    writeln!(out, "backtrace:")?;
    let mut number = 0;
    let mut result = Ok(());
    let mut print = |address: u64| {
        result = result.and_then(|()| writeln!(out, "  #{number} {address:#018x}"));
        number += 1;
    };
    known.iter().for_each(|address| print(*address));
    let end = walk(frame_pointer, stacks, read, print);
    result?;
    match end {
        End::Complete => Ok(()),
        End::TooDeep => writeln!(out, "  ... more than {MAX_FRAMES} frames"),
        End::Broken { record } => {
            writeln!(
                out,
                "  ... frame record {record:#018x} is not on the stack above the last one"
            )
        }
    }
}

#[cfg(target_os = "none")]
pub use on_target::{read_stack, write_current};

#[cfg(target_os = "none")]
mod on_target {
    use crate::arch::percpu;
    use core::{arch::asm, fmt, ptr};

    /// Reads a word of a stack, at an address that [`super::walk`] has checked.
    #[must_use]
    pub fn read_stack(address: u64) -> u64 {
        // SAFETY: `walk` passes aligned addresses within the bounds of a stack, which is mapped
        // from bottom to top. The read is volatile, because the compiler knows no object there.
        unsafe { ptr::with_exposed_provenance::<u64>(address as usize).read_volatile() }
    }

    /// Prints the backtrace of the caller; frame 0 is in this function's caller.
    ///
    /// # Errors
    ///
    /// Errors of `out`.
    #[inline(never)]
    pub fn write_current(out: &mut dyn fmt::Write) -> fmt::Result {
        let frame_pointer: u64;
        // SAFETY: reads x29, which `-C force-frame-pointers` keeps as the frame pointer.
        unsafe {
            asm!("mov {}, x29", out(reg) frame_pointer, options(nomem, nostack, preserves_flags));
        }
        let cpu = percpu::current();
        let stacks = [cpu.emergency_stack(), cpu.stack()];
        // This function's own record: its caller's record, and its return address.
        if !stacks.iter().any(|stack| stack.holds_record(frame_pointer)) {
            return writeln!(
                out,
                "backtrace: x29 = {frame_pointer:#x} is on no known stack"
            );
        }
        let (callers_record, pc) = (read_stack(frame_pointer), read_stack(frame_pointer + 8));
        super::write(out, pc.wrapping_sub(4), callers_record, &stacks, read_stack)
    }
}

#[cfg(test)]
mod tests {
    use super::{End, MAX_FRAMES, Stack, walk, write};

    const LOW: Stack = Stack {
        bottom: 0x1000,
        top: 0x2000,
    };
    const HIGH: Stack = Stack {
        bottom: 0x8000,
        top: 0x9000,
    };

    /// Memory as (address, value); everything else is 0.
    fn memory(words: &[(u64, u64)]) -> impl Fn(u64) -> u64 {
        move |address| {
            words
                .iter()
                .find(|word| word.0 == address)
                .map_or(0, |word| word.1)
        }
    }

    fn frames(start: u64, stacks: &[Stack], words: &[(u64, u64)]) -> (Vec<u64>, End) {
        let mut seen = Vec::new();
        let end = walk(start, stacks, memory(words), |address| seen.push(address));
        (seen, end)
    }

    #[test]
    fn follows_records_to_the_zero_record() {
        let words = [
            (0x1000, 0x1100),
            (0x1008, 0xa),
            (0x1100, 0x1ff0),
            (0x1108, 0xb),
        ];
        assert_eq!(
            frames(0x1000, &[LOW], &words),
            (vec![0xa, 0xb], End::Complete)
        );
    }

    #[test]
    fn a_loop_ends() {
        let words = [
            (0x1000, 0x1100),
            (0x1008, 0xa),
            (0x1100, 0x1000),
            (0x1108, 0xb),
        ];
        let expected = (vec![0xa, 0xb], End::Broken { record: 0x1000 });
        assert_eq!(frames(0x1000, &[LOW], &words), expected);
    }

    #[test]
    fn leaves_the_emergency_stack_once() {
        let words = [
            (0x8f00, 0x1000),
            (0x8f08, 0xa),
            (0x1000, 0x8f80),
            (0x1008, 0xb),
            (0x8f80, 0x1100),
            (0x8f88, 0xc),
        ];
        let expected = (vec![0xa, 0xb], End::Broken { record: 0x8f80 });
        assert_eq!(frames(0x8f00, &[HIGH, LOW], &words), expected);
    }

    #[test]
    fn refuses_what_is_unaligned_or_outside() {
        for record in [0x1001, 0x0ff8, 0x1ff8, 0x2000, u64::MAX - 7] {
            assert_eq!(
                frames(record, &[LOW], &[]),
                (vec![], End::Broken { record })
            );
        }
    }

    #[test]
    fn stops_after_the_limit() {
        let words: Vec<_> = (0..64)
            .flat_map(|n| [(0x1000 + n * 16, 0x1010 + n * 16), (0x1008 + n * 16, n + 1)])
            .collect();
        let (seen, end) = frames(0x1000, &[LOW], &words);
        assert_eq!((seen.len(), end), (MAX_FRAMES, End::TooDeep));
    }

    #[test]
    fn prints_sixteen_digits() {
        let mut text = String::new();
        let words = [(0x1000, 0), (0x1008, 0xffff_ffff_8008_1234)];
        write(
            &mut text,
            0xffff_ffff_8008_0000,
            0x1000,
            &[LOW],
            memory(&words),
        )
        .unwrap();
        assert_eq!(
            text,
            "backtrace:\n  #0 0xffffffff80080000\n  #1 0xffffffff80081234\n"
        );
    }
}
