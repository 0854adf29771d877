// SPDX-License-Identifier: MIT OR Apache-2.0
//! The trace of a [`super::Sim`]: barriers, TLBIs, and the writes that owe barriers.

use super::memory::is_link;
use lazymmu::{TlbiOp, bits};

/// One effect, and whether lazy MMU mode was active for its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// What was executed.
    pub what: Effect,
    /// Whether lazy MMU mode was active for the task that executed it.
    pub active: bool,
}

/// An effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// A write that R14 lists.
    Listed {
        /// Whether the entry is executable at EL1.
        text: bool,
    },
    /// `DSB ISHST`.
    DsbIshst,
    /// `DSB ISH`.
    DsbIsh,
    /// `ISB`.
    Isb,
    /// A TLBI.
    Tlbi {
        /// Whether it names entries of every ASID.
        all_asids: bool,
    },
}

/// The effect of a write that R14 lists, computed without the library: a valid kernel leaf, a valid
/// entry of levels 1 and 2, any write at level 0. A change only of bits that hardware ignores is
/// not listed.
pub(super) fn listed(level: u8, old: u64, new: u64) -> Option<Effect> {
    let same_table =
        is_link(level, old) && is_link(level, new) && (old ^ new) & !bits::TABLE_SOFTWARE == 0;
    let kernel_leaf = bits::VALID | bits::UXN;
    let is_listed = match level {
        _ if same_table => false,
        0 => true,
        3 => new & (kernel_leaf | bits::AP_USER) == kernel_leaf,
        _ => new & bits::VALID != 0,
    };
    let text = level == 3 && new & bits::PXN == 0;
    is_listed.then_some(Effect::Listed { text })
}

pub(super) const fn tlbi(op: TlbiOp) -> Effect {
    Effect::Tlbi {
        all_asids: matches!(
            op,
            TlbiOp::Vmalle1is
                | TlbiOp::Vaae1is
                | TlbiOp::Vaale1is
                | TlbiOp::Rvaae1is
                | TlbiOp::Rvaale1is
        ),
    }
}
