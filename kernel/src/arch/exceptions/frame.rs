// SPDX-License-Identifier: MIT OR Apache-2.0

//! The state that the vectors save: everything that the interrupted code could notice.

use crate::stack::Stack;
use core::{fmt, mem::offset_of};

/// An exception's saved state, on the stack of the handler.
#[repr(C, align(16))]
#[derive(Clone, Debug)]
pub struct TrapFrame {
    /// x0 to x30.
    pub x: [u64; 31],
    /// SP of the interrupted code: SP_EL1, or SP_EL0 if it ran on that.
    pub sp: u64,
    /// ELR_EL1: the interrupted PC.
    pub elr: u64,
    /// SPSR_EL1: the interrupted PSTATE.
    pub spsr: u64,
    /// ESR_EL1.
    pub esr: u64,
    /// FAR_EL1.
    pub far: u64,
    /// Number of the vector, 0 to 15, plus [`BAD_STACK`].
    vector: u64,
    padding: u64,
    /// Frame record: the interrupted x29 and ELR. The handler's x29 points here, so a backtrace
    /// continues into the interrupted code.
    record: [u64; 2],
}

/// Added to the vector's number if SP was not on a known stack and the emergency stack is in use.
pub(super) const BAD_STACK: u64 = 0x10;

/// Bytes of a frame; a multiple of 16, as SP must be.
pub(super) const SIZE: usize = size_of::<TrapFrame>();
pub(super) const SP: usize = offset_of!(TrapFrame, sp);
pub(super) const ELR: usize = offset_of!(TrapFrame, elr);
pub(super) const ESR: usize = offset_of!(TrapFrame, esr);
pub(super) const VECTOR: usize = offset_of!(TrapFrame, vector);
pub(super) const RECORD: usize = offset_of!(TrapFrame, record);

const _: () = assert!(SIZE.is_multiple_of(16));

/// The origin of an exception: the four groups of the vector table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// EL1 running on SP_EL0. The kernel never does.
    El1Sp0,
    /// EL1 running on SP_EL1.
    El1,
    /// EL0 in AArch64.
    El0,
    /// EL0 in AArch32.
    El0Aarch32,
}

/// The kind of an exception: the four entries of each group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Caused by an instruction.
    Synchronous,
    /// Interrupt.
    Irq,
    /// Fast interrupt; always masked.
    Fiq,
    /// Asynchronous external abort.
    SError,
}

impl TrapFrame {
    /// The group of the vector.
    #[must_use]
    pub fn origin(&self) -> Origin {
        match self.vector >> 2 & 3 {
            0 => Origin::El1Sp0,
            1 => Origin::El1,
            2 => Origin::El0,
            _ => Origin::El0Aarch32,
        }
    }

    /// The entry within the group.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.vector & 3 {
            0 => Kind::Synchronous,
            1 => Kind::Irq,
            2 => Kind::Fiq,
            _ => Kind::SError,
        }
    }

    /// Number of the vector, 0 to 15.
    #[must_use]
    pub fn vector(&self) -> u64 {
        self.vector & 0xf
    }

    /// Whether SP was not on a known stack, so that this frame is on the emergency stack.
    #[must_use]
    pub fn stack_was_bad(&self) -> bool {
        self.vector & BAD_STACK != 0
    }

    /// Whether the bad SP looks like an overflow of `stack` over its bottom.
    #[must_use]
    pub fn overflowed(&self, stack: Stack) -> bool {
        /// How far below the bottom the frame of one function may extend.
        const REACH: u64 = 0x1_0000;
        // The vectors refuse a stack whose free room is smaller than a frame, so SP itself may
        // still be above the bottom.
        self.stack_was_bad()
            && self.sp < stack.bottom + SIZE as u64
            && self.sp.saturating_add(REACH) >= stack.bottom
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::El1Sp0 => "EL1 on SP_EL0",
            Self::El1 => "EL1",
            Self::El0 => "EL0",
            Self::El0Aarch32 => "EL0 in AArch32",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Synchronous => "synchronous",
            Self::Irq => "IRQ",
            Self::Fiq => "FIQ",
            Self::SError => "SError",
        })
    }
}
