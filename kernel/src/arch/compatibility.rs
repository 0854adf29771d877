// SPDX-License-Identifier: MIT OR Apache-2.0

//! Checks whether a secondary CPU can run with the settings that were chosen on the boot CPU.
//!
//! The features of the boot CPU decide how the whole machine writes and invalidates tables. A CPU
//! with fewer features would break this: without range invalidation, for example, it would miss a
//! range invalidation that another CPU broadcasts. Machines with CPUs of different kinds are common
//! (big.LITTLE). Therefore a CPU that lacks a feature is not used. FEAT_ETS2 is an exception,
//! because nothing relies on it under the classic policy.

use super::features::{Ets, Features};
use core::fmt;
use lazymmu::BarrierPolicy;

/// What a secondary CPU lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incompatible {
    /// FEAT_TLBIRANGE.
    TlbRange,
    /// FEAT_TTL.
    Ttl,
    /// FEAT_ETS2, while the policy in force relies on it.
    Ets2,
    /// It needs each invalidation twice, and the boot CPU does not.
    RepeatTlbi,
    /// Physical address bits: RAM was mapped up to the limit of the boot CPU.
    PhysicalBits {
        /// Of this CPU.
        has: u8,
        /// Of the boot CPU.
        needed: u8,
    },
    /// ASID bits.
    AsidBits {
        /// Of this CPU.
        has: u8,
        /// Of the boot CPU.
        needed: u8,
    },
    /// Its CNTFRQ_EL0 differs from the boot CPU's.
    Frequency {
        /// Of this CPU, in ticks per second.
        has: u64,
        /// Of the boot CPU.
        needed: u64,
    },
}

impl fmt::Display for Incompatible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TlbRange => f.write_str(
                "it has no FEAT_TLBIRANGE, which the boot CPU uses for all CPUs: boot on a CPU of \
                 this kind, or leave the others out with cpus=1",
            ),
            Self::Ttl => f.write_str(
                "it has no FEAT_TTL, which the boot CPU uses for all CPUs: boot on a CPU of this \
                 kind, or leave the others out with cpus=1",
            ),
            Self::Ets2 => f.write_str(
                "it has no FEAT_ETS2, on which barrier policy ets2 relies: start with \
                 policy=classic, or leave it out with cpus=1",
            ),
            Self::RepeatTlbi => f.write_str(
                "its model needs TLB invalidations twice, and the boot CPU's does not: boot on a CPU \
                 of this kind, or leave it out with cpus=1",
            ),
            Self::PhysicalBits { has, needed } => write!(
                f,
                "it has {has}-bit physical addresses and RAM is mapped for the boot CPU's {needed}: \
                 boot on a CPU of this kind, or leave it out with cpus=1"
            ),
            Self::AsidBits { has, needed } => write!(
                f,
                "it has {has}-bit ASIDs and the boot CPU {needed}-bit ones: boot on a CPU of this \
                 kind, or leave it out with cpus=1"
            ),
            Self::Frequency { has, needed } => write!(
                f,
                "its CNTFRQ_EL0 says {has} ticks per second and the boot CPU's {needed}: firmware at \
                 EL3 has to set it on every CPU; or leave it out with cpus=1"
            ),
        }
    }
}

impl core::error::Error for Incompatible {}

/// Checks `this` CPU against the `boot` CPU, the library's `features` in force and its `policy`.
///
/// # Errors
///
/// The first feature that it lacks.
pub fn check(
    this: &Features,
    boot: &Features,
    features: lazymmu::Features,
    policy: BarrierPolicy,
) -> Result<(), Incompatible> {
    if features.tlb.range && !this.tlb_range {
        return Err(Incompatible::TlbRange);
    }
    if features.tlb.ttl && !this.ttl {
        return Err(Incompatible::Ttl);
    }
    if policy == BarrierPolicy::Ets2 && this.ets < Ets::Ets2 {
        return Err(Incompatible::Ets2);
    }
    if this.repeat_tlbi && !features.tlb.repeat {
        return Err(Incompatible::RepeatTlbi);
    }
    // The kernel uses no address bits beyond 48.
    let (has, needed) = (this.pa_bits, boot.pa_bits.min(lazymmu::PA_BITS as u8));
    if has < needed {
        return Err(Incompatible::PhysicalBits { has, needed });
    }
    let (has, needed) = (this.asid_bits, boot.asid_bits);
    if has < needed {
        return Err(Incompatible::AsidBits { has, needed });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::features::IdRegisters;
    use lazymmu::TlbFeatures;

    fn cpu() -> Features {
        Features {
            pa_bits: 48,
            asid_bits: 16,
            ets: Ets::Ets2,
            ttl: true,
            tlb_range: true,
            ..Features::decode(&IdRegisters::default())
        }
    }

    fn offered(cpu: &Features) -> lazymmu::Features {
        lazymmu::Features {
            tlb: TlbFeatures {
                ttl: cpu.ttl,
                range: cpu.tlb_range,
                repeat: cpu.repeat_tlbi,
            },
            ets2: cpu.ets >= Ets::Ets2,
        }
    }

    fn against_boot(this: Features, policy: BarrierPolicy) -> Result<(), Incompatible> {
        check(&this, &cpu(), offered(&cpu()), policy)
    }

    #[test]
    fn the_same_or_more_is_welcome() {
        assert_eq!(against_boot(cpu(), BarrierPolicy::Ets2), Ok(()));
        let more = Features {
            pa_bits: 52,
            ets: Ets::Ets3,
            ..cpu()
        };
        assert_eq!(against_boot(more, BarrierPolicy::Ets2), Ok(()));
        let little = Features::decode(&IdRegisters::default());
        let none = lazymmu::Features::default();
        assert_eq!(check(&cpu(), &little, none, BarrierPolicy::Classic), Ok(()));
    }

    #[test]
    fn each_thing_that_is_missing_is_named() {
        let cases = [
            (
                Features {
                    tlb_range: false,
                    ..cpu()
                },
                Incompatible::TlbRange,
            ),
            (
                Features {
                    ttl: false,
                    ..cpu()
                },
                Incompatible::Ttl,
            ),
            (
                Features {
                    ets: Ets::None,
                    ..cpu()
                },
                Incompatible::Ets2,
            ),
            (
                Features {
                    repeat_tlbi: true,
                    ..cpu()
                },
                Incompatible::RepeatTlbi,
            ),
            (
                Features {
                    pa_bits: 40,
                    ..cpu()
                },
                Incompatible::PhysicalBits {
                    has: 40,
                    needed: 48,
                },
            ),
            (
                Features {
                    asid_bits: 8,
                    ..cpu()
                },
                Incompatible::AsidBits { has: 8, needed: 16 },
            ),
        ];
        for (this, missing) in cases {
            assert_eq!(against_boot(this, BarrierPolicy::Ets2), Err(missing));
            assert!(missing.to_string().contains("cpus=1"), "{missing}");
        }
    }

    #[test]
    fn the_classic_policy_needs_no_ets2() {
        let this = Features {
            ets: Ets::None,
            ..cpu()
        };
        assert_eq!(against_boot(this, BarrierPolicy::Classic), Ok(()));
    }

    #[test]
    fn more_than_48_bits_of_the_boot_cpu_do_not_count() {
        let boot = Features {
            pa_bits: 52,
            ..cpu()
        };
        assert_eq!(
            check(&cpu(), &boot, offered(&boot), BarrierPolicy::Ets2),
            Ok(())
        );
    }
}
