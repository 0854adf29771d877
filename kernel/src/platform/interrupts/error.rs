// SPDX-License-Identifier: MIT OR Apache-2.0

//! Why an interrupt or the controller cannot be used.

use super::handlers::MAX_SHARED;
use arm_gic::{IntId, gicv3::GicError};
use core::fmt;

/// Why an interrupt or the controller cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptError {
    /// [`init`](super::init) has not succeeded yet.
    NotInitialized,
    /// [`init`](super::init) is called twice.
    InitializedAlready,
    /// The controller returned an error; with GICv3 it gives the reason.
    Gic(GicError),
    /// The interrupt cannot be enabled: the GIC does not implement it, or the secure side owns it.
    CannotEnable(IntId),
    /// No redistributor has the affinity of this CPU.
    NoRedistributor {
        /// Affinity fields of MPIDR_EL1.
        affinity: u64,
    },
    /// EL3 did not move the interrupts to Group 1.
    Group1Refused,
    /// The interrupt already has a handler.
    Taken(IntId),
    /// All [`MAX_SHARED`] places for shared interrupts are taken.
    Full,
    /// Only software-generated interrupts can be sent.
    NotSendable(IntId),
    /// There is no such CPU, or it is not online.
    NoSuchCpu {
        /// Its number.
        index: u32,
    },
    /// The kernel's way to send interrupts cannot reach this CPU.
    Unreachable {
        /// Affinity fields of MPIDR_EL1.
        affinity: u64,
    },
}

impl fmt::Display for InterruptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInitialized => {
                f.write_str("the interrupt controller is used before interrupts::init()")
            }
            Self::InitializedAlready => {
                f.write_str("interrupts::init() is called twice: the boot CPU calls it once")
            }
            Self::Gic(error) => write!(f, "GICv3: {error}"),
            Self::CannotEnable(id) => write!(
                f,
                "{id:?} cannot be enabled: the GIC does not have it, or it belongs to the secure side"
            ),
            Self::NoRedistributor { affinity } => write!(
                f,
                "no GICv3 redistributor for the CPU with affinity {affinity:#x}: compare the GIC's reg, \
                 #redistributor-regions and redistributor-stride in the device tree with the machine"
            ),
            Self::Group1Refused => {
                f.write_str("the EL3 stub did not move the interrupts to Group 1")
            }
            Self::Taken(id) => write!(f, "{id:?} has a handler already"),
            Self::Full => write!(
                f,
                "more than {MAX_SHARED} shared interrupts with a handler: raise MAX_SHARED in \
                 platform/interrupts/handlers.rs"
            ),
            Self::NotSendable(id) => write!(
                f,
                "{id:?} cannot be sent: only the 16 software-generated interrupts can"
            ),
            Self::NoSuchCpu { index } => write!(
                f,
                "CPU {index} is not online: ask percpu::online() which ones are"
            ),
            Self::Unreachable { affinity } => write!(
                f,
                "the interrupt controller cannot send to the CPU with affinity {affinity:#x}: \
                 leave it out with cpus="
            ),
        }
    }
}

impl core::error::Error for InterruptError {}

impl From<GicError> for InterruptError {
    fn from(error: GicError) -> Self {
        Self::Gic(error)
    }
}
