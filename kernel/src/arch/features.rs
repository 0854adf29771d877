// SPDX-License-Identifier: MIT OR Apache-2.0

//! The features of the CPU, from its ID registers.
//!
//! [`IdRegisters`] holds the raw values, and [`Features`] what the kernel derives from them. The
//! derivation needs no hardware, so that host tests can try CPUs that are not available. Fields are
//! unsigned unless noted. A value above the highest known one means "at least that" (Arm ARM
//! D24.1.3), hence the `>=`.

use core::fmt;

/// The ID registers from which [`Features`] is derived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdRegisters {
    /// MIDR_EL1.
    pub midr: u64,
    /// ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// ID_AA64MMFR2_EL1.
    pub mmfr2: u64,
    /// ID_AA64ISAR0_EL1.
    pub isar0: u64,
    /// ID_AA64PFR0_EL1.
    pub pfr0: u64,
    /// ID_AA64DFR0_EL1.
    pub dfr0: u64,
}

/// Enhanced translation synchronization (ID_AA64MMFR1_EL1.ETS).
///
/// The value 1 was an earlier feature of that name with weaker guarantees, and it counts as none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ets {
    /// None: an access may fault on an entry that was made before it in program order.
    #[default]
    None,
    /// FEAT_ETS2: a translation or access-flag fault sees earlier stores.
    Ets2,
    /// FEAT_ETS3: any MMU fault does.
    Ets3,
}

/// Hardware update of access flag and dirty state (ID_AA64MMFR1_EL1.HAFDBS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hafdbs {
    /// None.
    #[default]
    None,
    /// Access flag.
    AccessFlag,
    /// Access flag and dirty state.
    DirtyState,
}

/// The features of a CPU, as far as the kernel needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// MIDR_EL1: the implementer and the model.
    pub midr: u64,
    /// Physical address size in bits.
    pub pa_bits: u8,
    /// ASID size in bits: 8 or 16.
    pub asid_bits: u8,
    /// Enhanced translation synchronization.
    pub ets: Ets,
    /// FEAT_TTL: TLBI operands may give the level of the entry.
    pub ttl: bool,
    /// FEAT_TLBIRANGE: TLBI by range.
    pub tlb_range: bool,
    /// This model needs TLBI and DSB twice (CVE-2025-10263 and earlier errata).
    pub repeat_tlbi: bool,
    /// Level of break-before-make support (FEAT_BBM): 0, 1 or 2.
    pub bbm_level: u8,
    /// Hardware management of access flag and dirty state. The kernel leaves it off.
    pub hafdbs: Hafdbs,
    /// FEAT_LPA2 for the 4 KiB granule. The kernel does not use it.
    pub lpa2: bool,
    /// FEAT_LSE: atomic instructions. The kernel is built without them.
    pub lse: bool,
    /// The CPU has GIC system registers.
    pub gic_sysreg: bool,
    /// FEAT_PMUv3 version as in ID_AA64DFR0_EL1.PMUVer; 0 if there is no such PMU.
    pub pmu_version: u8,
}

impl Features {
    /// Decodes ID registers.
    #[must_use]
    pub const fn decode(id: &IdRegisters) -> Self {
        const PA_BITS: [u8; 8] = [32, 36, 40, 42, 44, 48, 52, 56];
        let pa_range = field(id.mmfr0, 0);
        let pmu = field(id.dfr0, 8);
        Self {
            midr: id.midr,
            pa_bits: PA_BITS[if pa_range < 8 { pa_range as usize } else { 7 }],
            asid_bits: if field(id.mmfr0, 4) >= 2 { 16 } else { 8 },
            ets: match field(id.mmfr1, 36) {
                0 | 1 => Ets::None,
                2 => Ets::Ets2,
                _ => Ets::Ets3,
            },
            ttl: field(id.mmfr2, 48) != 0,
            tlb_range: field(id.isar0, 56) >= 2,
            repeat_tlbi: needs_repeated_tlbi(id.midr),
            bbm_level: match field(id.mmfr2, 52) {
                0 => 0,
                1 => 1,
                _ => 2,
            },
            hafdbs: match field(id.mmfr1, 0) {
                0 => Hafdbs::None,
                1 => Hafdbs::AccessFlag,
                _ => Hafdbs::DirtyState,
            },
            // TGran4: 0b0001 adds 52-bit addresses; 0b1111 means no 4 KiB granule at all.
            lpa2: matches!(field(id.mmfr0, 28), 1..=7),
            lse: field(id.isar0, 20) >= 2,
            gic_sysreg: field(id.pfr0, 24) != 0,
            // 0b1111: an implementation defined PMU of another kind.
            pmu_version: if pmu == 0xf { 0 } else { pmu },
        }
    }

    /// Name of the model, for messages; `None` if it is not a well-known one.
    #[must_use]
    pub const fn model(&self) -> Option<&'static str> {
        const ARM: u64 = 0x41;
        match (self.midr >> 24 & 0xff, self.midr >> 4 & 0xfff) {
            (ARM, 0xd03) => Some("Cortex-A53"),
            (ARM, 0xd05) => Some("Cortex-A55"),
            (ARM, 0xd07) => Some("Cortex-A57"),
            (ARM, 0xd08) => Some("Cortex-A72"),
            (ARM, 0xd0b) => Some("Cortex-A76"),
            (ARM, 0xd0c) => Some("Neoverse-N1"),
            (ARM, 0xd40) => Some("Neoverse-V1"),
            (ARM, 0xd47) => Some("Cortex-A710"),
            (ARM, 0xd49) => Some("Neoverse-N2"),
            // Arm reserves this implementer code for software; QEMU's `max` uses it.
            (0, 0x051) => Some("QEMU max"),
            _ => None,
        }
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.model() {
            Some(name) => f.write_str(name)?,
            None => f.write_str("unknown model")?,
        }
        let (variant, revision) = (self.midr >> 20 & 0xf, self.midr & 0xf);
        write!(
            f,
            " r{variant}p{revision} (MIDR {:#010x}), {}-bit physical addresses, {}-bit ASIDs",
            self.midr, self.pa_bits, self.asid_bits
        )?;
        match self.ets {
            Ets::None => f.write_str(", no ETS2")?,
            Ets::Ets2 => f.write_str(", ETS2")?,
            Ets::Ets3 => f.write_str(", ETS3")?,
        }
        for (has, name) in [
            (self.tlb_range, "TLBIRANGE"),
            (self.bbm_level == 1, "BBM level 1"),
            (self.bbm_level >= 2, "BBM level 2"),
            (self.hafdbs == Hafdbs::AccessFlag, "HAF"),
            (self.hafdbs == Hafdbs::DirtyState, "HAFDBS"),
            (self.lpa2, "LPA2"),
            (self.lse, "LSE"),
            (self.gic_sysreg, "GIC system registers"),
            (self.pmu_version != 0, "PMU"),
        ] {
            if has {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

/// Whether a broadcast TLBI may be complete before all writes through the entry are observed. If
/// so, TLBI and DSB must be executed twice (R34).
///
/// These are the models of Linux's `ARM64_WORKAROUND_REPEAT_TLBI` since commit cfd391e74134, in all
/// revisions, because no fixed revision is published.
const fn needs_repeated_tlbi(midr: u64) -> bool {
    const ARM: u64 = 0x41;
    /// Cortex-A76, A76AE, A77, A78, A78AE, A78C, A710; X1, X1C, X2, X3, X4, X925; Neoverse N1,
    /// N2, V1, V2, V3, V3AE.
    const PARTS: [u64; 19] = [
        0xd0b, 0xd0e, 0xd0d, 0xd41, 0xd42, 0xd4b, 0xd47, 0xd44, 0xd4c, 0xd48, 0xd4e, 0xd82, 0xd85,
        0xd0c, 0xd49, 0xd40, 0xd4f, 0xd84, 0xd83,
    ];
    let part = midr >> 4 & 0xfff;
    let mut i = 0;
    while i < PARTS.len() {
        if midr >> 24 & 0xff == ARM && PARTS[i] == part {
            return true;
        }
        i += 1;
    }
    false
}

/// The 4-bit field at `shift`.
const fn field(register: u64, shift: u32) -> u8 {
    (register >> shift & 0xf) as u8
}

#[cfg(target_os = "none")]
impl Features {
    /// The features of the calling CPU.
    #[must_use]
    pub fn of_this_cpu() -> Self {
        Self::decode(&IdRegisters::read())
    }
}

#[cfg(target_os = "none")]
impl IdRegisters {
    /// Reads the ID registers of the calling CPU.
    #[must_use]
    pub fn read() -> Self {
        use aarch64_cpu::registers::{
            ID_AA64DFR0_EL1, ID_AA64ISAR0_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1,
            ID_AA64MMFR2_EL1, ID_AA64PFR0_EL1, MIDR_EL1, Readable,
        };
        Self {
            midr: MIDR_EL1.get(),
            mmfr0: ID_AA64MMFR0_EL1.get(),
            mmfr1: ID_AA64MMFR1_EL1.get(),
            mmfr2: ID_AA64MMFR2_EL1.get(),
            isar0: ID_AA64ISAR0_EL1.get(),
            pfr0: ID_AA64PFR0_EL1.get(),
            dfr0: ID_AA64DFR0_EL1.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ets, Features, Hafdbs, IdRegisters};

    /// The values of a Cortex-A72 r0p3 (TRM, 4.3).
    const A72: IdRegisters = IdRegisters {
        midr: 0x410f_d083,
        mmfr0: 0x0000_1124,
        mmfr1: 0,
        mmfr2: 0,
        isar0: 0x0001_1120,
        pfr0: 0x0000_2222,
        dfr0: 0x1030_5106,
    };

    #[test]
    fn cortex_a72() {
        let features = Features::decode(&A72);
        assert_eq!(features.pa_bits, 44);
        assert_eq!(features.asid_bits, 16);
        assert_eq!(features.ets, Ets::None);
        assert_eq!(features.pmu_version, 1);
        assert!(!features.tlb_range && !features.lse && !features.lpa2 && !features.gic_sysreg);
        assert_eq!(
            features.to_string(),
            "Cortex-A72 r0p3 (MIDR 0x410fd083), 44-bit physical addresses, 16-bit ASIDs, \
             no ETS2, PMU"
        );
    }

    #[test]
    fn later_versions_keep_what_earlier_ones_had() {
        let features = Features::decode(&IdRegisters {
            mmfr1: 0xf << 36 | 0xf,
            mmfr2: 0xf << 52,
            isar0: 0xf << 56 | 0xf << 20,
            ..A72
        });
        assert_eq!(features.ets, Ets::Ets3);
        assert_eq!(features.bbm_level, 2);
        assert_eq!(features.hafdbs, Hafdbs::DirtyState);
        assert!(features.tlb_range && features.lse);
    }

    #[test]
    fn the_first_ets_is_none() {
        let features = Features::decode(&IdRegisters {
            mmfr1: 1 << 36,
            ..A72
        });
        assert_eq!(features.ets, Ets::None);
    }

    #[test]
    fn a_foreign_pmu_is_none() {
        let features = Features::decode(&IdRegisters { dfr0: 0xf00, ..A72 });
        assert_eq!(features.pmu_version, 0);
    }

    #[test]
    fn no_4k_granule_is_not_lpa2() {
        assert!(
            !Features::decode(&IdRegisters {
                mmfr0: 0xf << 28,
                ..A72
            })
            .lpa2
        );
        assert!(
            Features::decode(&IdRegisters {
                mmfr0: 1 << 28,
                ..A72
            })
            .lpa2
        );
    }
}
