// SPDX-License-Identifier: MIT OR Apache-2.0
//! Descriptors: the 64-bit values of translation table entries.
//!
//! [`Desc`] is a *value*; the memory cell that holds one is [`crate::Pte`]. [`Prot`] holds the
//! attributes of a leaf; Linux calls it `pgprot_t`. No [`Prot`] is writable and executable (W^X),
//! and none is executable at both EL0 and EL1.
//!
//! Bit positions: Arm ARM D8.3.1 (VMSAv8-64, 4 KiB granule, 48-bit output).

use crate::addr::{ENTRIES, Frame, Level};
use core::fmt;

/// Bits of a descriptor, Arm ARM D8.3.1.
pub mod bits {
    /// The descriptor is valid.
    pub const VALID: u64 = 1;
    /// With [`VALID`]: a table at levels 0-2, a page at level 3.
    pub const TABLE_OR_PAGE: u64 = 1 << 1;
    /// First bit of AttrIndx, the index into MAIR_EL1.
    pub const ATTR_INDX_SHIFT: u32 = 2;
    /// `AttrIndx[2:0]`.
    pub const ATTR_INDX: u64 = 0b111 << ATTR_INDX_SHIFT;
    /// `AP[1]`: EL0 may access the page.
    pub const AP_USER: u64 = 1 << 6;
    /// `AP[2]`: read-only at every exception level.
    pub const AP_READ_ONLY: u64 = 1 << 7;
    /// `SH[1:0]`.
    pub const SH: u64 = 0b11 << 8;
    /// `SH[1:0]` = inner shareable.
    pub const SH_INNER: u64 = 0b11 << 8;
    /// Access flag. While it is clear, an access faults and no TLB caches the entry.
    pub const AF: u64 = 1 << 10;
    /// Not global: the entry belongs to the current ASID.
    pub const NG: u64 = 1 << 11;
    /// The output address of a page, or the address of the next table.
    pub const ADDRESS: u64 = crate::addr::Frame::MASK;
    /// Dirty bit modifier (FEAT_HAFDBS).
    pub const DBM: u64 = 1 << 51;
    /// Contiguous hint.
    pub const CONT: u64 = 1 << 52;
    /// EL1 may not execute.
    pub const PXN: u64 = 1 << 53;
    /// EL0 may not execute.
    pub const UXN: u64 = 1 << 54;
    /// Bit 55, free for software: the page was written, and `AP[2]` and DBM cannot express that.
    /// Linux: `PTE_DIRTY`.
    pub const SOFTWARE_DIRTY: u64 = 1 << 55;
    /// Bits `[58:55]`, free for software in leaf descriptors.
    pub const SOFTWARE: u64 = 0b1111 << 55;
    /// Bit 55 of a *table* descriptor, which hardware ignores (D8.3.1.1): a leaf of the next table
    /// is not Normal write-back memory, or was not at some time. While the bit is clear, changing
    /// permissions to those of Normal memory cannot change a memory type, so no leaf needs to be
    /// read.
    pub const TABLE_MIXED: u64 = 1 << 55;
    /// The bits of a *table* descriptor that hardware ignores and the library uses.
    pub const TABLE_SOFTWARE: u64 = TABLE_POPULATION | TABLE_MIXED;
    /// Bits `[11:2]` of a *table* descriptor, which hardware ignores (D8.3.1.1; bit 10 only while
    /// TCR2_EL1.HAFT of FEAT_HAFT is 0, as the library requires). They hold the number of entries
    /// in use of the next table, 0..=512; a larger number means that it is unknown.
    pub const TABLE_POPULATION: u64 = 0x3ff << 2;
}

/// Index into MAIR_EL1. The kernel must set MAIR_EL1 to [`MemoryType::MAIR_EL1`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemoryType {
    /// Normal, inner and outer write-back, read and write allocate (0xff).
    Normal = 0,
    /// Device-nGnRE (0x04): memory-mapped registers; writes may be acknowledged early.
    DeviceNGnRE = 1,
    /// Normal, non-cacheable (0x44).
    NormalNonCacheable = 2,
    /// Device-nGnRnE (0x00).
    DeviceNGnRnE = 3,
}

impl MemoryType {
    /// The value of MAIR_EL1 for the indices above.
    pub const MAIR_EL1: u64 = 0x00_44_04_ff;
}

/// The attributes of a leaf: privilege, access, execution, memory type. Linux: `pgprot_t`.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Prot(u64);

impl Prot {
    const LEAF: u64 = bits::SH_INNER | bits::AF | bits::VALID;
    const NX: u64 = bits::PXN | bits::UXN;
    const USER_LEAF: u64 = Self::LEAF | bits::AP_USER | bits::NG;
    /// The bits that [`crate::AddressSpace::protect`] changes: permissions, access flag and DBM.
    /// None of them needs break-before-make (see [`crate::bbm`]).
    pub(crate) const PERMISSIONS: u64 =
        bits::AP_READ_ONLY | bits::AP_USER | bits::PXN | bits::UXN | bits::AF | bits::DBM;

    /// Kernel data: read and write, never executed. Linux: `PAGE_KERNEL`.
    pub const KERNEL: Self = Self(Self::LEAF | Self::NX);
    /// Kernel constants. Linux: `PAGE_KERNEL_RO`.
    pub const KERNEL_RO: Self = Self(Self::LEAF | Self::NX | bits::AP_READ_ONLY);
    /// Kernel text. Linux: `PAGE_KERNEL_ROX`.
    pub const KERNEL_ROX: Self = Self(Self::LEAF | bits::UXN | bits::AP_READ_ONLY);
    /// Memory-mapped registers, Device-nGnRE.
    pub const DEVICE: Self = Self::KERNEL.with_memory_type(MemoryType::DeviceNGnRE);
    /// User data. Linux: `PAGE_SHARED`.
    pub const USER: Self = Self(Self::USER_LEAF | Self::NX);
    /// User constants. Linux: `PAGE_READONLY`.
    pub const USER_RO: Self = Self(Self::USER_LEAF | Self::NX | bits::AP_READ_ONLY);
    /// User text. Linux: `PAGE_READONLY_EXEC`.
    pub const USER_ROX: Self = Self(Self::USER_LEAF | bits::PXN | bits::AP_READ_ONLY);

    /// The same permissions with another memory type.
    ///
    /// Device memory is never executable, even if `self` is: a speculative instruction fetch from
    /// it could have side effects.
    pub const fn with_memory_type(self, memory: MemoryType) -> Self {
        let typed = self.0 & !bits::ATTR_INDX | (memory as u64) << bits::ATTR_INDX_SHIFT;
        match memory {
            MemoryType::DeviceNGnRE | MemoryType::DeviceNGnRnE => Self(typed | Self::NX),
            MemoryType::Normal | MemoryType::NormalNonCacheable => Self(typed),
        }
    }

    /// Whether EL0 may access the mapping. Such mappings are non-global.
    pub const fn is_user(self) -> bool {
        self.0 & bits::AP_USER != 0
    }

    /// Whether EL0 or EL1 may execute from a leaf with these attributes.
    #[inline(always)]
    pub(crate) const fn is_executable(self) -> bool {
        Desc(self.0).is_executable()
    }

    /// Whether the memory type is [`MemoryType::Normal`], write-back.
    #[inline(always)]
    pub(crate) const fn is_normal(self) -> bool {
        self.0 & bits::ATTR_INDX == 0
    }

    /// The attribute bits at their positions in a descriptor.
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Prints memory type, access, execution and privilege, for example `normal rw user`.
impl fmt::Display for Prot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory = match (self.0 & bits::ATTR_INDX) >> bits::ATTR_INDX_SHIFT {
            0 => "normal",
            1 => "device-nGnRE",
            2 => "normal-nc",
            3 => "device-nGnRnE",
            _ => "reserved-memory-type",
        };
        let flag = |mask, set, clear| if self.0 & mask != 0 { set } else { clear };
        write!(
            f,
            "{} {}{}{}{}{}{}",
            memory,
            flag(bits::AP_READ_ONLY, "ro", "rw"),
            flag(bits::PXN, "", " x"),
            flag(bits::UXN, "", " ux"),
            flag(bits::AP_USER, " user", ""),
            flag(bits::CONT, " cont", ""),
            flag(bits::AF, "", " !af"),
        )
    }
}

/// The value of one translation table entry.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Desc(u64);

impl Desc {
    /// The empty entry, all bits zero. Linux: `pte_clear()` stores it.
    pub const INVALID: Self = Self(0);

    /// A level-3 page descriptor.
    pub const fn page(frame: Frame, prot: Prot) -> Self {
        Self(frame.as_u64() | prot.0 | bits::TABLE_OR_PAGE)
    }

    /// A table descriptor for levels 0-2 with no entry in use.
    pub const fn table(next: Frame) -> Self {
        Self(next.as_u64() | bits::TABLE_OR_PAGE | bits::VALID)
    }

    /// The entry with these 64 bits. Nothing is checked.
    pub const fn from_u64(raw: u64) -> Self {
        Self(raw)
    }

    /// The 64 bits of the entry.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether the valid bit is set.
    pub const fn is_valid(self) -> bool {
        self.0 & bits::VALID != 0
    }

    /// Whether any bit is set. An entry that was made invalid and has kept its address (Linux:
    /// `PTE_PRESENT_INVALID`) is in use.
    pub const fn is_in_use(self) -> bool {
        self.0 != 0
    }

    /// Whether this is a valid table descriptor, at `level`.
    pub const fn is_table(self, level: Level) -> bool {
        !matches!(level, Level::L3) && self.is_valid() && self.0 & bits::TABLE_OR_PAGE != 0
    }

    /// Whether this is a valid block or page descriptor, at `level`. A block at level 0 and a
    /// level-3 descriptor whose bit 1 is clear are not defined (D8.3.1): a walk faults there.
    pub const fn is_leaf(self, level: Level) -> bool {
        let kind = self.0 & (bits::VALID | bits::TABLE_OR_PAGE);
        match level {
            Level::L0 => false,
            Level::L1 | Level::L2 => kind == bits::VALID,
            Level::L3 => kind == bits::VALID | bits::TABLE_OR_PAGE,
        }
    }

    /// A description of the entry at `level`, for reports: `table at 0x41000`,
    /// `PA 0x80000000 normal rw`, `invalid (0x0)`, or `undefined (0x701)` if the architecture does
    /// not define such a descriptor at this level.
    pub fn at(self, level: Level) -> impl fmt::Display {
        At(self, level)
    }

    /// The output frame, or the frame of the next table.
    pub const fn frame(self) -> Frame {
        Frame::from_output_address(self.0)
    }

    /// Whether EL0 may access the page or block of a leaf.
    pub const fn is_user(self) -> bool {
        self.0 & bits::AP_USER != 0
    }

    /// Whether EL0 or EL1 may execute from a leaf.
    pub const fn is_executable(self) -> bool {
        self.0 & (bits::PXN | bits::UXN) != bits::PXN | bits::UXN
    }

    /// Whether EL1 may write to the page or block of a leaf.
    pub const fn is_writable(self) -> bool {
        self.0 & bits::AP_READ_ONLY == 0
    }

    /// Whether a TLB may hold the entry: valid and with the access flag set
    /// (Arm ARM R_RYMDT family: a faulting entry is never cached).
    pub const fn is_tlb_cacheable(self) -> bool {
        self.0 & (bits::VALID | bits::AF) == bits::VALID | bits::AF
    }

    /// The entry with the access flag, which hardware may set at any time if TCR_EL1.HA is 1.
    /// Linux: `pte_mkyoung()`.
    pub(crate) const fn young(self) -> Self {
        Self(self.0 | bits::AF)
    }

    /// The number of entries in use in the table to which this *table* descriptor points, 0..=512.
    /// `None` while a `FastPteRange` is open on the table.
    pub(crate) const fn population(self) -> Option<usize> {
        let entries = ((self.0 & bits::TABLE_POPULATION) >> 2) as usize;
        if entries <= ENTRIES {
            Some(entries)
        } else {
            None
        }
    }

    /// The same table descriptor with an unknown population.
    pub(crate) const fn with_unknown_population(self) -> Self {
        Self(self.0 | bits::TABLE_POPULATION)
    }

    /// The same table descriptor with another population, 0..=512. With 0 it also clears
    /// [`bits::TABLE_MIXED`], because an empty table has no leaf of another memory type.
    #[inline(always)]
    pub(crate) const fn with_population(self, entries: usize) -> Self {
        let kept = match entries {
            0 => !bits::TABLE_SOFTWARE,
            _ => !bits::TABLE_POPULATION,
        };
        Self(self.0 & kept | (entries as u64) << 2)
    }

    /// The same table descriptor with one more entry in use. The population is known and below 512.
    #[inline(always)]
    pub(crate) const fn with_one_more(self) -> Self {
        Self(self.0.wrapping_add(1 << 2))
    }

    /// Whether every leaf of the table to which this *table* descriptor points is Normal
    /// write-back.
    pub(crate) const fn is_all_normal(self) -> bool {
        self.0 & bits::TABLE_MIXED == 0
    }

    /// The same table descriptor with the mark that a leaf of the table may have another memory
    /// type.
    pub(crate) const fn with_mixed_leaves(self) -> Self {
        Self(self.0 | bits::TABLE_MIXED)
    }

    /// The same entry with the attributes under `mask` replaced by those of `prot`.
    pub(crate) const fn with_attributes(self, prot: Prot, mask: u64) -> Self {
        Self(self.0 & !mask | prot.0 & mask)
    }
}

impl fmt::Debug for Desc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl fmt::Display for Desc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_valid() {
            return write!(f, "invalid ({:#x})", self.0);
        }
        // A `Prot` has the attributes at the bit positions of a leaf.
        write!(f, "PA {:#x} {}", self.frame().as_u64(), Prot(self.0))
    }
}

/// A descriptor and its level, for [`Desc::at`].
struct At(Desc, Level);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(desc, level) = *self;
        if desc.is_table(level) {
            write!(f, "table at {:#x}", desc.frame().as_u64())
        } else if desc.is_leaf(level) || !desc.is_valid() {
            fmt::Display::fmt(&desc, f)
        } else {
            write!(f, "undefined ({:#x})", desc.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_architecture_does_not_define_is_no_mapping() {
        let page = Desc::page(Frame::from_u64(0x8000_0000).unwrap(), Prot::KERNEL);
        let other = Desc::from_u64(page.0 & !bits::TABLE_OR_PAGE);
        let shown = |desc: Desc, level| {
            let text = std::format!("{}", desc.at(level));
            text.split(' ').next().unwrap().to_owned()
        };
        for (level, with_bit_1, without) in [
            (Level::L0, "table", "undefined"),
            (Level::L1, "table", "PA"),
            (Level::L2, "table", "PA"),
            (Level::L3, "PA", "undefined"),
        ] {
            for (desc, expected) in [(page, with_bit_1), (other, without)] {
                assert_eq!(shown(desc, level), expected);
                assert_eq!(desc.is_leaf(level), expected == "PA");
                assert_eq!(desc.is_table(level), expected == "table");
            }
            assert_eq!(shown(Desc::INVALID, level), "invalid");
        }
    }

    #[test]
    fn no_prot_is_writable_and_executable() {
        for prot in [
            Prot::KERNEL,
            Prot::KERNEL_RO,
            Prot::KERNEL_ROX,
            Prot::DEVICE,
            Prot::USER,
            Prot::USER_RO,
            Prot::USER_ROX,
        ] {
            let desc = Desc::page(Frame::from_u64(0x1000).unwrap(), prot);
            assert!(!(desc.is_writable() && desc.is_executable()), "{prot:?}");
            assert!(desc.is_tlb_cacheable());
        }
    }

    #[test]
    fn prots_are_spelled_as_d8_3_says() {
        let low = |prot: Prot| prot.as_u64() & 0xfff;
        let high = |prot: Prot| prot.as_u64() >> 48;
        // AF, SH = inner, AP[2:1] and AttrIndx; UXN and PXN.
        assert_eq!((low(Prot::KERNEL), high(Prot::KERNEL)), (0x701, 0x60));
        assert_eq!((low(Prot::KERNEL_RO), high(Prot::KERNEL_RO)), (0x781, 0x60));
        assert_eq!(
            (low(Prot::KERNEL_ROX), high(Prot::KERNEL_ROX)),
            (0x781, 0x40)
        );
        assert_eq!((low(Prot::DEVICE), high(Prot::DEVICE)), (0x705, 0x60));
        assert_eq!((low(Prot::USER), high(Prot::USER)), (0xf41, 0x60));
        assert_eq!((low(Prot::USER_ROX), high(Prot::USER_ROX)), (0xfc1, 0x20));
        let executable_device = Prot::KERNEL_ROX.with_memory_type(MemoryType::DeviceNGnRnE);
        assert_eq!(high(executable_device), 0x60);
    }

    #[test]
    fn population_does_not_touch_what_hardware_reads() {
        let table = Desc::table(Frame::from_u64(0xffff_ffff_f000).unwrap());
        for n in [0, 1, 511, 512] {
            let counted = table.with_population(n);
            assert_eq!(counted.population(), Some(n));
            assert_eq!(counted.frame(), table.frame());
            let unknown = counted.with_unknown_population();
            assert_eq!(
                (unknown.population(), unknown.frame()),
                (None, table.frame())
            );
            assert_eq!(
                counted.as_u64() & !bits::TABLE_POPULATION,
                table.as_u64() & !bits::TABLE_POPULATION
            );
        }
    }
}
