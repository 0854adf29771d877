// SPDX-License-Identifier: MIT OR Apache-2.0

//! The system register values that the kernel runs with. They are in one place because assembly and
//! Rust code both use them.
//!
//! The layouts are those of the Arm ARM (DDI 0487), D24.2. Bits that only newer architecture
//! versions define have the value that keeps the older behavior.

/// MAIR_EL1: one byte for each memory type. The index is that of `lazymmu::MemoryType`.
///
/// | index | byte | type |
/// |---|---|---|
/// | 0 | 0xff | Normal, write-back, read and write allocate, inner and outer |
/// | 1 | 0x04 | Device-nGnRE |
/// | 2 | 0x44 | Normal, non-cacheable |
/// | 3 | 0x00 | Device-nGnRnE |
pub const MAIR: u64 = 0x0044_04ff;

/// TCR_EL1 without the two fields that depend on the CPU (IPS and AS, see [`TCR_IPS_SHIFT`] and
/// [`TCR_AS`]).
///
/// For both halves: 48-bit addresses (TnSZ = 16), 4 KiB granule (TG0 = 0b00, TG1 = 0b10), and walks
/// that are inner shareable and write-back write-allocate, so that a walk sees what the data cache
/// holds. A1 = 0: the ASID comes from TTBR0. HA and HD stay 0: software manages the access flag and
/// the dirty state.
pub const TCR: u64 = {
    const T0SZ: u64 = 16;
    const IRGN0_WBWA: u64 = 1 << 8;
    const ORGN0_WBWA: u64 = 1 << 10;
    const SH0_INNER: u64 = 3 << 12;
    const T1SZ: u64 = 16 << 16;
    const IRGN1_WBWA: u64 = 1 << 24;
    const ORGN1_WBWA: u64 = 1 << 26;
    const SH1_INNER: u64 = 3 << 28;
    const TG1_4K: u64 = 0b10 << 30;
    T0SZ | IRGN0_WBWA | ORGN0_WBWA | SH0_INNER | T1SZ | IRGN1_WBWA | ORGN1_WBWA | SH1_INNER | TG1_4K
};

/// TCR_EL1.EPD0: a TLB miss on a lower-half address faults instead of walking TTBR0.
pub const TCR_EPD0: u64 = 1 << 7;

/// Bit position of TCR_EL1.IPS, which gets ID_AA64MMFR0_EL1.PARange, at most [`IPS_MAX`].
pub const TCR_IPS_SHIFT: u64 = 32;

/// The largest IPS in use: 48 bits. A larger one needs FEAT_LPA2 or 64 KiB pages, which these
/// descriptors do not use.
pub const IPS_MAX: u64 = 5;

/// TCR_EL1.AS: 16-bit ASIDs; set if ID_AA64MMFR0_EL1.ASIDBits says that the CPU has them.
pub const TCR_AS: u64 = 1 << 36;

/// SCTLR_EL1 with MMU and caches off: the bits that are RES1 in Armv8.0.
///
/// LSMAOE (29), nTLSMD (28), SPAN (23), EIS (22), TSCXT (20), EOS (11) keep the Armv8.0 behavior
/// where later versions gave them a meaning. With EIS and EOS, exception entry and return stay
/// context synchronization events; the barrier rules of the kernel rely on this. SED (8) and ITD
/// (7) are RES1 where EL0 has no AArch32.
pub const SCTLR_MMU_OFF: u64 = {
    const LSMAOE: u64 = 1 << 29;
    const NTLSMD: u64 = 1 << 28;
    const SPAN: u64 = 1 << 23;
    const EIS: u64 = 1 << 22;
    const TSCXT: u64 = 1 << 20;
    const EOS: u64 = 1 << 11;
    const SED: u64 = 1 << 8;
    const ITD: u64 = 1 << 7;
    LSMAOE | NTLSMD | SPAN | EIS | TSCXT | EOS | SED | ITD
};

/// SCTLR_EL1 while the kernel runs: MMU (M), data and instruction cache (C, I), SP alignment
/// checks (SA, SA0).
pub const SCTLR_MMU_ON: u64 = {
    const M: u64 = 1 << 0;
    const C: u64 = 1 << 2;
    const SA: u64 = 1 << 3;
    const SA0: u64 = 1 << 4;
    const I: u64 = 1 << 12;
    SCTLR_MMU_OFF | M | C | SA | SA0 | I
};

/// SCTLR_EL2 after the kernel has dropped from EL2, or from EL3 past EL2: only RES1 bits,
/// everything off.
pub const SCTLR_EL2_OFF: u64 = 0x30c5_0830;

/// SPSR for the drop: EL1 with SP_EL1, D, A, I and F masked.
pub const SPSR_EL1H_MASKED: u64 = 0x3c5;

/// Attributes of the early block descriptors (Arm ARM D8.3.1).
pub mod block {
    /// Valid block descriptor with the access flag set, so that no access flag fault can occur.
    const VALID_AF: u64 = 0b01 | 1 << 10;
    /// Inner shareable: required for coherency with the other CPUs and the walker.
    const INNER_SHAREABLE: u64 = 3 << 8;
    /// `AP[2]`: read-only.
    const READ_ONLY: u64 = 1 << 7;
    /// MAIR index 1, Device-nGnRE.
    const DEVICE: u64 = 1 << 2;
    /// Privileged execute-never.
    const PXN: u64 = 1 << 53;
    /// Unprivileged execute-never.
    const UXN: u64 = 1 << 54;

    /// The image: its sections share blocks, so it is writable and executable until the kernel's
    /// own tables are live.
    pub const IMAGE: u64 = VALID_AF | INNER_SHAREABLE | UXN;
    /// The identity map: executed for a few instructions, never written.
    pub const IDENTITY: u64 = VALID_AF | INNER_SHAREABLE | READ_ONLY | UXN;
    /// The device tree: data, never written.
    pub const READ_ONLY_DATA: u64 = VALID_AF | INNER_SHAREABLE | READ_ONLY | PXN | UXN;
    /// RAM for the kernel's own tables.
    pub const DATA: u64 = VALID_AF | INNER_SHAREABLE | PXN | UXN;
    /// The early console.
    pub const DEVICE_MMIO: u64 = VALID_AF | DEVICE | PXN | UXN;
    /// Type bits of a descriptor that points to the next table.
    pub const TABLE: u64 = 0b11;
}
