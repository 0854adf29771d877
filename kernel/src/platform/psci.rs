// SPDX-License-Identifier: MIT OR Apache-2.0

//! Power control by firmware (PSCI, DEN 0022), through crate `smccc`.
//!
//! Whether there is any, and by which instruction it is called, stands in the device tree. Without
//! it every function here does nothing: an `smc` or `hvc` that nobody serves is undefined, or
//! lands in somebody else's handler. The two functions that call it are known by their names to the check of
//! the machine code (H21).

use super::devicetree::Conduit;
use crate::arch::relax::CpuRelax;
use core::fmt;
use smccc::{Hvc, Smc, psci};
use spin::once::Once;

static CONDUIT: Once<Conduit, CpuRelax> = Once::new();

/// Says how firmware is called. The first call counts.
pub fn init(conduit: Conduit) {
    CONDUIT.call_once(|| conduit);
}

/// Why a CPU was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuOnError {
    /// The device tree has no PSCI node.
    NoPsci,
    /// Firmware refused.
    Refused(psci::Error),
}

impl fmt::Display for CpuOnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Refused(error) = self else {
            return f.write_str(
                "its enable-method is psci, and the device tree has no PSCI 0.2 node: add one, or \
                 firmware that does",
            );
        };
        let words = match error {
            psci::Error::NotSupported => "NOT_SUPPORTED: nobody serves the call",
            psci::Error::InvalidParameters => {
                "INVALID_PARAMETERS: it knows no CPU of this affinity; correct reg in the device tree"
            }
            psci::Error::Denied => "DENIED",
            psci::Error::AlreadyOn => "ALREADY_ON: something else runs on this CPU",
            psci::Error::OnPending => "ON_PENDING: something else has started this CPU",
            psci::Error::InternalFailure => "INTERNAL_FAILURE: it does not come out of reset",
            psci::Error::NotPresent => "NOT_PRESENT",
            psci::Error::Disabled => "DISABLED",
            psci::Error::InvalidAddress => "INVALID_ADDRESS: it may not enter where the image is",
            psci::Error::Unknown(_) => "an unknown error",
        };
        write!(
            f,
            "firmware answers CPU_ON with {words} ({})",
            i64::from(*error)
        )
    }
}

impl core::error::Error for CpuOnError {}

/// Starts the CPU with these affinity fields at a physical address, with the MMU off.
///
/// # Errors
///
/// [`CpuOnError`].
///
/// # Safety
///
/// The code at `entry` can run there on such a CPU, and does nothing that the kernel forbids.
#[inline(never)]
pub unsafe fn cpu_on(affinity: u64, entry: u64) -> Result<(), CpuOnError> {
    /// Passed on in x0, which the entry does not look at.
    const CONTEXT: u64 = 0;
    match CONDUIT.get() {
        None => Err(CpuOnError::NoPsci),
        Some(Conduit::Hvc) => {
            psci::cpu_on::<Hvc>(affinity, entry, CONTEXT).map_err(CpuOnError::Refused)
        }
        Some(Conduit::Smc) => {
            psci::cpu_on::<Smc>(affinity, entry, CONTEXT).map_err(CpuOnError::Refused)
        }
    }
}

/// Turns the machine off. Returns if there is no PSCI, or if it refuses.
#[inline(never)]
pub fn system_off() {
    // The result could only be an error, and the caller has its next method for that.
    let _ = match CONDUIT.get() {
        None => Ok(()),
        Some(Conduit::Hvc) => psci::system_off::<Hvc>(),
        Some(Conduit::Smc) => psci::system_off::<Smc>(),
    };
}
