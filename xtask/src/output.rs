// SPDX-License-Identifier: MIT OR Apache-2.0

//! Printing, by macros with the names of the standard library's, which panic when a write fails.
//!
//! If the reader of standard output has gone (`| head`), xtask ends as after a signal, without a
//! message. If a write fails for another reason, such as a full device, xtask prints one line with the
//! reason and ends. A failed write to standard error is ignored: there is no other place for a message.

use crate::failure::READER_GONE;
use crate::guest;
use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicU8, Ordering};

/// The status to end with because of standard output; 0 while it takes everything.
static LOST: AtomicU8 = AtomicU8::new(0);

macro_rules! print {
    ($($text:tt)*) => { $crate::output::write(format_args!($($text)*)) };
}

macro_rules! println {
    ($($text:tt)*) => { $crate::output::write(format_args!("{}\n", format_args!($($text)*))) };
}

macro_rules! eprintln {
    ($($text:tt)*) => { $crate::output::complain(format_args!($($text)*)) };
}

/// Writes to standard output, and interrupts xtask if that is not possible.
pub fn write(text: Arguments<'_>) {
    if lost().is_some() {
        return;
    }
    if cfg!(test) {
        // The test harness keeps what goes this way.
        std::print!("{text}");
        return;
    }
    let mut stdout = io::stdout().lock();
    let written = stdout.write_fmt(text).and_then(|()| stdout.flush());
    drop(stdout);
    settle(written);
}

/// Interrupts xtask if `written`, which came of writing to standard output, is an error.
pub fn settle(written: io::Result<()>) {
    let Err(error) = written else { return };
    let status = match error.kind() {
        ErrorKind::BrokenPipe => READER_GONE,
        _ => 1,
    };
    // Two threads may find it out.
    if LOST.swap(status, Ordering::SeqCst) == 0 {
        if status != READER_GONE {
            eprintln!("error: cannot write to standard output: {error}");
        }
        guest::interrupt(status);
    }
}

/// The status to end with if standard output has not taken everything.
pub fn lost() -> Option<u8> {
    Some(LOST.load(Ordering::SeqCst)).filter(|status| *status != 0)
}

/// Writes a line to standard error.
pub fn complain(line: Arguments<'_>) {
    if cfg!(test) {
        std::eprintln!("{line}");
        return;
    }
    let _ = writeln!(io::stderr(), "{line}");
}
