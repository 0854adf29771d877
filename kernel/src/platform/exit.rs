// SPDX-License-Identifier: MIT OR Apache-2.0

//! The end of a run.
//!
//! The last line on the console is always `lazymmu: exit N`, so that the result of a run is known
//! even where no exit status leaves the machine. Then the first of these methods that works ends
//! it:
//!
//! | method | 1st | 2nd | 3rd |
//! |---|---|---|---|
//! | not chosen yet, or `semihosting` | semihosting | PSCI SYSTEM_OFF | halt |
//! | `auto`, `psci` | PSCI SYSTEM_OFF | halt | |
//! | `halt` | halt | | |
//!
//! Before the boot arguments are known, no method has been chosen, and semihosting is tried first.
//! It does no harm where there is no host ([`semihosting`]), and a run with a broken device tree
//! still ends with a status.

use super::{bootargs::ExitMethod, console::Emergency, psci, stop};
use crate::arch::{interrupts, semihosting};
use core::{
    fmt::Write,
    sync::atomic::{AtomicU8, Ordering},
};

/// The result of a run. The number is the exit status of the process that runs the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// All is well.
    Success = 0,
    /// Bad input, or failed tests.
    Failure = 1,
    /// A panic.
    Panic = 2,
    /// An unexpected exception.
    Exception = 3,
}

/// The method as a number: 0 not chosen, else 1 + that of [`ExitMethod`].
static METHOD: AtomicU8 = AtomicU8::new(0);

const METHODS: [ExitMethod; 4] = [
    ExitMethod::Auto,
    ExitMethod::Semihosting,
    ExitMethod::Psci,
    ExitMethod::Halt,
];

/// Chooses the method by which [`exit`] ends the run.
pub fn set_method(method: ExitMethod) {
    let number = METHODS
        .iter()
        .position(|known| *known == method)
        .map_or(0, |index| index + 1);
    METHOD.store(number as u8, Ordering::Relaxed);
}

/// Ends the run: stops the other CPUs, prints the last line, and waits until the UART has sent it.
/// Does not return.
///
/// May be called in any state: it takes no lock.
pub fn exit(status: Status) -> ! {
    interrupts::mask_all();
    stop::stop_others();
    let status = status as u8;
    let mut out = Emergency::new();
    // The emergency writer never fails.
    let _ = writeln!(out, "lazymmu: exit {status}");
    out.drain();

    let number = usize::from(METHOD.load(Ordering::Relaxed));
    let method = number.checked_sub(1).and_then(|index| METHODS.get(index));
    if matches!(method, None | Some(ExitMethod::Semihosting)) {
        // It returns only without a host.
        let _ = semihosting::exit(status);
    }
    if !matches!(method, Some(ExitMethod::Halt)) {
        psci::system_off();
    }
    interrupts::halt()
}
