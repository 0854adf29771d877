// SPDX-License-Identifier: MIT OR Apache-2.0

//! Runs a function on another CPU, in an interrupt. Linux: `smp_call_function_single()`.
//!
//! This is for work that only that CPU can do, on its private interrupts or its timer. Only one
//! call can be in progress in the machine; a second caller gets an error and does not wait.

use crate::{
    arch::{
        percpu,
        relax::{CpuRelax, cpu_relax},
        timer,
    },
    platform::interrupts::{self, IntId, InterruptError},
    smp::mailbox::{Function, Mailbox},
    sync::IrqLock,
};
use core::fmt;
use spin::mutex::SpinMutex;

/// The software-generated interrupt of a call.
const CALL: IntId = IntId::sgi(6);

/// Why a function was not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    /// Another call is in progress.
    Busy,
    /// The interrupt could not be sent.
    Interrupt(InterruptError),
    /// The CPU did not answer within three seconds. It will not run the function, or it still runs
    /// it.
    Silent {
        /// Its number.
        index: u32,
    },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("another CPU is being called: try again"),
            Self::Interrupt(error) => error.fmt(f),
            Self::Silent { index } => write!(
                f,
                "CPU {index} did not answer: it masks its interrupts for too long"
            ),
        }
    }
}

impl core::error::Error for CallError {}

/// The request of the caller that holds [`CALLER`], or of one that gave up.
static MAILBOX: IrqLock<Mailbox> = IrqLock::new(Mailbox::EMPTY);

/// Held by the caller.
static CALLER: SpinMutex<(), CpuRelax> = SpinMutex::new(());

/// Registers the handler, on the boot CPU.
pub(super) fn init() -> Result<(), InterruptError> {
    interrupts::register(CALL, |_| answer())?;
    enable()
}

/// Enables the interrupt on the calling CPU.
pub(super) fn enable() -> Result<(), InterruptError> {
    interrupts::enable(CALL)
}

/// Runs `function(argument)` on CPU `index`, which may be the calling one, and waits until it has
/// returned. If it is the calling CPU, its interrupts must not be masked.
///
/// # Errors
///
/// [`CallError`].
pub fn call(index: u32, function: Function, argument: u64) -> Result<(), CallError> {
    let Some(_caller) = CALLER.try_lock() else {
        return Err(CallError::Busy);
    };
    let number = MAILBOX.lock().post(index, function, argument);
    if let Err(error) = interrupts::send(CALL, index) {
        MAILBOX.lock().withdraw();
        return Err(CallError::Interrupt(error));
    }
    let until = timer::ticks().saturating_add(3 * timer::frequency());
    while !MAILBOX.lock().is_complete(number) {
        if timer::ticks() > until {
            // If the CPU takes the interrupt after this, it finds no request.
            MAILBOX.lock().withdraw();
            return Err(CallError::Silent { index });
        }
        cpu_relax();
    }
    Ok(())
}

/// The interrupt handler: runs the function if this CPU is the target.
fn answer() {
    // The lock is free while the function runs.
    let request = MAILBOX.lock().take(percpu::current().index());
    if let Some(request) = request {
        (request.function)(request.argument);
        MAILBOX.lock().complete(&request);
    }
}
