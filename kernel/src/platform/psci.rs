// SPDX-License-Identifier: MIT OR Apache-2.0

//! Power control by firmware (PSCI, DEN 0022).
//!
//! The device tree says whether firmware offers it, and which instruction calls it. Without it
//! every function here does nothing. A tree may be wrong: an `smc` or `hvc` that nothing handles is
//! undefined, and this is returned as an error ([`probe`]). Function numbers and error codes are
//! those of crate `smccc`.

use super::devicetree::Conduit;
use crate::arch::{
    probe::{self, Fault},
    relax::CpuRelax,
};
use core::fmt;
use smccc::psci;
use spin::once::Once;

static CONDUIT: Once<Conduit, CpuRelax> = Once::new();

/// Sets how firmware is called. Only the first call has an effect.
pub fn init(conduit: Conduit) {
    CONDUIT.call_once(|| conduit);
}

/// Why a CPU was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuOnError {
    /// The device tree has no PSCI node.
    NoPsci,
    /// The instruction that the device tree names is undefined here, or its handler does not know
    /// the function.
    NotServed(Conduit),
    /// Firmware refused.
    Refused(psci::Error),
}

impl fmt::Display for CpuOnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = match self {
            Self::NoPsci => {
                return f.write_str(
                    "its enable-method is psci, and the device tree has no PSCI 0.2 node: add one, or \
                     firmware that does",
                );
            }
            Self::NotServed(conduit) => {
                let (named, needs, other) = match conduit {
                    Conduit::Smc => ("smc", "firmware at EL3", "hvc"),
                    Conduit::Hvc => ("hvc", "a hypervisor at EL2", "smc"),
                };
                return write!(
                    f,
                    "the device tree says that PSCI is called by {named}, which nobody serves here: it needs \
                     {needs}. Correct method in the PSCI node: is it {other}?"
                );
            }
            Self::Refused(error) => error,
        };
        let words = match error {
            psci::Error::NotSupported => "NOT_SUPPORTED",
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
/// The code at `entry` can run there on such a CPU, and does nothing that breaks the kernel.
pub unsafe fn cpu_on(affinity: u64, entry: u64) -> Result<(), CpuOnError> {
    /// Passed in x0, which the entry ignores.
    const CONTEXT: u64 = 0;
    let conduit = *CONDUIT.get().ok_or(CpuOnError::NoPsci)?;
    // SAFETY: the caller vouches for the code at `entry`.
    let answer = unsafe { call(conduit, psci::PSCI_CPU_ON_64, [affinity, entry, CONTEXT, 0]) };
    // An error is a 32-bit number; the upper half of the register is undefined.
    match answer.map(|answer| answer as i32) {
        Ok(0) => Ok(()),
        Ok(error) if error != psci::error::NOT_SUPPORTED => Err(CpuOnError::Refused(error.into())),
        _ => Err(CpuOnError::NotServed(conduit)),
    }
}

/// Turns the machine off. Returns if there is no PSCI, or if it refuses.
pub fn system_off() {
    if let Some(conduit) = CONDUIT.get() {
        // The result can only be an error; the caller then tries its next method.
        // SAFETY: the kernel has ended.
        let _ = unsafe { call(*conduit, psci::PSCI_SYSTEM_OFF, [0; 4]) };
    }
}

/// Calls firmware.
///
/// # Safety
///
/// As for [`probe::try_smc`].
unsafe fn call(conduit: Conduit, function: u32, arguments: [u64; 4]) -> Result<u64, Fault> {
    match conduit {
        // SAFETY: this function's contract.
        Conduit::Smc => unsafe { probe::try_smc(function, arguments) },
        // SAFETY: this function's contract.
        Conduit::Hvc => unsafe { probe::try_hvc(function, arguments) },
    }
}
