// SPDX-License-Identifier: MIT OR Apache-2.0

//! The result of an access that may fault.

use super::exceptions::esr::Esr;
use core::fmt;

/// A fault that a probe took.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// ESR_EL1: class, status and level.
    pub esr: Esr,
    /// FAR_EL1: the address, if the class has one.
    pub far: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x}", self.esr, self.far)
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fault({self})")
    }
}

/// The result of the assembly functions, in x0 and x1 (AAPCS64 6.9).
#[repr(C)]
pub(crate) struct Outcome {
    /// 0, or ESR_EL1 of the fault (never 0: IL is set for every 32-bit instruction).
    esr: u64,
    /// The result, or FAR_EL1 of the fault.
    value: u64,
}

impl Outcome {
    pub(crate) fn into_result(self) -> Result<u64, Fault> {
        if self.esr == 0 {
            Ok(self.value)
        } else {
            Err(Fault {
                esr: Esr::new(self.esr),
                far: self.value,
            })
        }
    }
}
