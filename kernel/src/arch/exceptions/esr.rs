// SPDX-License-Identifier: MIT OR Apache-2.0

//! Decodes exception syndromes (ESR_EL1). Portable and tested on the host.
//!
//! Encodings: Arm ARM D24.2.40 (ESR_ELx) and its ISS tables for data and instruction aborts.

use core::fmt;

/// A value of ESR_EL1.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Esr(u64);

/// Exception class, ESR_EL1.EC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 0x00: undefined instruction, or another reason without a class.
    Unknown,
    /// 0x01: trapped WFI or WFE.
    WaitTrap,
    /// 0x07: FP or SIMD while CPACR_EL1 traps it. The kernel is built soft-float.
    FpTrap,
    /// 0x0d: branch target exception.
    BranchTarget,
    /// 0x0e: illegal execution state.
    IllegalState,
    /// 0x15: SVC.
    Svc,
    /// 0x16: HVC.
    Hvc,
    /// 0x17: SMC.
    Smc,
    /// 0x18: trapped MSR, MRS or system instruction.
    SystemRegister,
    /// 0x1c: pointer authentication failure.
    PointerAuthentication,
    /// 0x20: instruction abort from EL0.
    InstructionAbortLower,
    /// 0x21: instruction abort from EL1.
    InstructionAbortSame,
    /// 0x22: PC not aligned.
    PcAlignment,
    /// 0x24: data abort from EL0.
    DataAbortLower,
    /// 0x25: data abort from EL1.
    DataAbortSame,
    /// 0x26: SP not aligned.
    SpAlignment,
    /// 0x2f: SError.
    SError,
    /// 0x30 to 0x35: breakpoint, step or watchpoint.
    Debug,
    /// 0x3c: BRK.
    Brk,
    /// Any other value of EC.
    Other(u8),
}

/// Why an access was refused: the fault status code, `ESR_EL1.ISS[5:0]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The output address is larger than the CPU or TCR_EL1.IPS allows.
    AddressSize(u8),
    /// No valid entry at this level.
    Translation(u8),
    /// The entry's access flag is 0.
    AccessFlag(u8),
    /// The entry forbids this access.
    Permission(u8),
    /// The memory system answered with an error.
    ExternalAbort,
    /// The memory system answered a walk with an error.
    ExternalAbortOnWalk(u8),
    /// Parity or ECC error.
    Parity,
    /// Unaligned access where alignment is required, or any unaligned access to Device memory.
    Alignment,
    /// Two TLB entries match: break-before-make was violated.
    TlbConflict,
    /// The memory of a table entry does not support an atomic update of it.
    UnsupportedUpdate,
    /// An exclusive or atomic access to memory that does not support such accesses.
    UnsupportedAtomic,
    /// Any other code.
    Other(u8),
}

/// Direction of the access that faulted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Load.
    Read,
    /// Store (or cache maintenance, see [`Esr::is_cache_maintenance`]).
    Write,
    /// Instruction fetch.
    Fetch,
}

impl Esr {
    /// Wraps a value of ESR_EL1.
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The value.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Exception class, bits 31:26.
    #[must_use]
    pub const fn class(self) -> Class {
        match (self.0 >> 26 & 0x3f) as u8 {
            0x00 => Class::Unknown,
            0x01 => Class::WaitTrap,
            0x07 => Class::FpTrap,
            0x0d => Class::BranchTarget,
            0x0e => Class::IllegalState,
            0x15 => Class::Svc,
            0x16 => Class::Hvc,
            0x17 => Class::Smc,
            0x18 => Class::SystemRegister,
            0x1c => Class::PointerAuthentication,
            0x20 => Class::InstructionAbortLower,
            0x21 => Class::InstructionAbortSame,
            0x22 => Class::PcAlignment,
            0x24 => Class::DataAbortLower,
            0x25 => Class::DataAbortSame,
            0x26 => Class::SpAlignment,
            0x2f => Class::SError,
            0x30..=0x35 => Class::Debug,
            0x3c => Class::Brk,
            other => Class::Other(other),
        }
    }

    /// Instruction specific syndrome, bits 24:0.
    #[must_use]
    pub const fn iss(self) -> u32 {
        (self.0 & 0x1ff_ffff) as u32
    }

    /// Whether this is a data or instruction abort. Only then the fields below are meaningful.
    #[must_use]
    pub const fn is_abort(self) -> bool {
        self.is_data_abort() || self.is_instruction_abort()
    }

    const fn is_data_abort(self) -> bool {
        matches!(self.class(), Class::DataAbortLower | Class::DataAbortSame)
    }

    const fn is_instruction_abort(self) -> bool {
        matches!(
            self.class(),
            Class::InstructionAbortLower | Class::InstructionAbortSame
        )
    }

    /// The fault status; `None` unless this is an abort.
    #[must_use]
    pub const fn status(self) -> Option<Status> {
        if !self.is_abort() {
            return None;
        }
        let code = (self.0 & 0x3f) as u8;
        let level = code & 3;
        Some(match code {
            0b00_0000..=0b00_0011 => Status::AddressSize(level),
            0b00_0100..=0b00_0111 => Status::Translation(level),
            0b00_1000..=0b00_1011 => Status::AccessFlag(level),
            0b00_1100..=0b00_1111 => Status::Permission(level),
            0b01_0000 => Status::ExternalAbort,
            0b01_0100..=0b01_0111 => Status::ExternalAbortOnWalk(level),
            0b01_1000 | 0b01_1100..=0b01_1111 => Status::Parity,
            0b10_0001 => Status::Alignment,
            0b11_0000 => Status::TlbConflict,
            0b11_0001 => Status::UnsupportedUpdate,
            0b11_0101 => Status::UnsupportedAtomic,
            other => Status::Other(other),
        })
    }

    /// The kind of access; `None` unless this is an abort.
    #[must_use]
    pub const fn access(self) -> Option<AccessKind> {
        const WNR: u64 = 1 << 6;
        if self.is_instruction_abort() {
            Some(AccessKind::Fetch)
        } else if !self.is_data_abort() {
            None
        } else if self.0 & WNR == 0 {
            Some(AccessKind::Read)
        } else {
            Some(AccessKind::Write)
        }
    }

    /// Whether the access was a write (see [`AccessKind::Write`]).
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(self.access(), Some(AccessKind::Write))
    }

    /// Whether a cache maintenance or address translation instruction caused the data abort (CM).
    /// All of these count as writes.
    #[must_use]
    pub const fn is_cache_maintenance(self) -> bool {
        self.is_data_abort() && self.0 & 1 << 8 != 0
    }

    /// Whether the fault was on a stage 2 translation of a stage 1 walk (S1PTW).
    #[must_use]
    pub const fn is_on_stage_2_of_walk(self) -> bool {
        self.is_abort() && self.0 & 1 << 7 != 0
    }

    /// Whether FAR_EL1 holds the address. For aborts it does, unless FnV is set, which is defined
    /// for external aborts only.
    #[must_use]
    pub const fn has_address(self) -> bool {
        const FNV: u64 = 1 << 10;
        match self.class() {
            Class::PcAlignment => true,
            _ => match self.status() {
                Some(Status::ExternalAbort) => self.0 & FNV == 0,
                Some(_) => true,
                None => false,
            },
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "undefined instruction",
            Self::WaitTrap => "trapped WFI or WFE",
            Self::FpTrap => "FP or SIMD instruction (the kernel must not use any)",
            Self::BranchTarget => "branch target exception",
            Self::IllegalState => "illegal execution state",
            Self::Svc => "SVC",
            Self::Hvc => "HVC",
            Self::Smc => "SMC",
            Self::SystemRegister => "trapped system register access",
            Self::PointerAuthentication => "pointer authentication failure",
            Self::InstructionAbortLower => "instruction abort from EL0",
            Self::InstructionAbortSame => "instruction abort from EL1",
            Self::PcAlignment => "PC alignment fault",
            Self::DataAbortLower => "data abort from EL0",
            Self::DataAbortSame => "data abort from EL1",
            Self::SpAlignment => "SP alignment fault",
            Self::SError => "SError (asynchronous external abort)",
            Self::Debug => "debug exception",
            Self::Brk => "BRK",
            Self::Other(code) => return write!(f, "exception class {code:#04x}"),
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddressSize(level) => write!(f, "address size fault at level {level}"),
            Self::Translation(level) => write!(f, "translation fault at level {level}"),
            Self::AccessFlag(level) => write!(f, "access flag fault at level {level}"),
            Self::Permission(level) => write!(f, "permission fault at level {level}"),
            Self::ExternalAbort => f.write_str("synchronous external abort"),
            Self::ExternalAbortOnWalk(level) => {
                write!(f, "synchronous external abort on the walk at level {level}")
            }
            Self::Parity => f.write_str("parity or ECC error"),
            Self::Alignment => f.write_str("alignment fault"),
            Self::TlbConflict => f.write_str("TLB conflict (break-before-make was broken)"),
            Self::UnsupportedUpdate => f.write_str("unsupported atomic update of a table entry"),
            Self::UnsupportedAtomic => f.write_str("unsupported exclusive or atomic access"),
            Self::Other(code) => write!(f, "fault status {code:#04x}"),
        }
    }
}

impl fmt::Display for AccessKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Fetch => "instruction fetch",
        })
    }
}

impl fmt::Display for Esr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.class())?;
        if let (Some(status), Some(access)) = (self.status(), self.access()) {
            write!(f, ", {status}, {access}")?;
            if self.is_cache_maintenance() {
                f.write_str(" (cache maintenance)")?;
            }
            if self.is_on_stage_2_of_walk() {
                f.write_str(" (stage 2 of the walk)")?;
            }
        } else if self.class() == Class::Brk {
            write!(f, " #{:#x}", self.iss() & 0xffff)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Esr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Esr({:#010x}: {self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::{AccessKind, Class, Esr, Status};

    #[test]
    fn kernel_write_to_an_unmapped_page() {
        let esr = Esr::new(0x9600_0047);
        assert_eq!(esr.class(), Class::DataAbortSame);
        assert_eq!(esr.status(), Some(Status::Translation(3)));
        assert_eq!(esr.access(), Some(AccessKind::Write));
        assert!(esr.has_address());
        assert_eq!(
            esr.to_string(),
            "data abort from EL1, translation fault at level 3, write"
        );
    }

    #[test]
    fn kernel_fetch_from_a_page_that_is_not_executable() {
        let esr = Esr::new(0x8600_000f);
        assert_eq!(esr.status(), Some(Status::Permission(3)));
        assert_eq!(esr.access(), Some(AccessKind::Fetch));
        assert_eq!(
            esr.to_string(),
            "instruction abort from EL1, permission fault at level 3, instruction fetch"
        );
    }

    #[test]
    fn the_write_bit_of_a_fetch_means_nothing() {
        assert_eq!(Esr::new(0x8600_0047).access(), Some(AccessKind::Fetch));
        assert!(!Esr::new(0x8600_0107).is_cache_maintenance());
    }

    #[test]
    fn every_level() {
        for level in 0..4_u8 {
            let status = |base: u64| {
                Esr::new(0x9600_0000 | base | u64::from(level))
                    .status()
                    .unwrap()
            };
            assert_eq!(status(0b00_0000), Status::AddressSize(level));
            assert_eq!(status(0b00_0100), Status::Translation(level));
            assert_eq!(status(0b00_1000), Status::AccessFlag(level));
            assert_eq!(status(0b00_1100), Status::Permission(level));
            assert_eq!(status(0b01_0100), Status::ExternalAbortOnWalk(level));
        }
    }

    #[test]
    fn other_aborts() {
        let status = |code: u64| Esr::new(0x9600_0000 | code).status();
        assert_eq!(status(0x10), Some(Status::ExternalAbort));
        assert_eq!(status(0x21), Some(Status::Alignment));
        assert_eq!(status(0x30), Some(Status::TlbConflict));
        assert_eq!(status(0x3f), Some(Status::Other(0x3f)));
    }

    #[test]
    fn external_abort_without_an_address() {
        assert!(Esr::new(0x9600_0010).has_address());
        assert!(!Esr::new(0x9600_0410).has_address());
    }

    #[test]
    fn what_is_no_abort_has_no_status() {
        for value in [0x0200_0000, 0xf200_0001, 0xbe00_0011, 0x1fe0_0000] {
            let esr = Esr::new(value);
            assert_eq!(esr.status(), None);
            assert_eq!(esr.access(), None);
            assert!(!esr.has_address() && !esr.is_on_stage_2_of_walk());
        }
    }

    #[test]
    fn brk_shows_its_number() {
        assert_eq!(Esr::new(0xf200_f001).to_string(), "BRK #0xf001");
    }

    #[test]
    fn stage_2_and_maintenance_are_named() {
        let text = Esr::new(0x9600_01c7).to_string();
        assert!(
            text.ends_with("write (cache maintenance) (stage 2 of the walk)"),
            "{text}"
        );
    }

    #[test]
    fn classes_without_a_name_show_their_number() {
        assert_eq!(Esr::new(0x3f << 26).class(), Class::Other(0x3f));
        assert_eq!(Esr::new(0x3f << 26).to_string(), "exception class 0x3f");
    }
}
