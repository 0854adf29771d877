// SPDX-License-Identifier: MIT OR Apache-2.0

//! What has to be done in which order, in functions that are known by name.

use super::code::Code;
use super::decode::{Cache, ISH, NSH, SY, register};
use super::paths::{Step, ways};
use super::rules::{Finding, missing};

/// SCTLR_EL1, in whose bit 0 the MMU is turned on.
pub const SCTLR_EL1: u16 = register(3, 0, 1, 0, 0);
const TTBR0_EL1: u16 = register(3, 0, 2, 0, 0);
const TTBR1_EL1: u16 = register(3, 0, 2, 0, 1);
const TCR_EL1: u16 = register(3, 0, 2, 0, 2);
const MAIR_EL1: u16 = register(3, 0, 10, 2, 0);

/// On which ways an order has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Every, // all
    Some,  // one at least
}

/// An order.
#[derive(Debug)]
pub struct Order {
    /// The obligation.
    pub rule: &'static str,
    /// The function.
    pub function: &'static str,
    /// On which ways.
    pub on: On,
    /// What is done, in this order.
    pub steps: &'static [Step],
    /// Before what.
    pub before: Step,
    /// What makes all of it necessary again.
    pub undoes: Option<Step>,
}

const DROP: Step = Step::Call("boot::el::drop_to_el1");
const INIT: Step = Step::Call("boot::mmu_on::init_el1");
const ENABLE: Step = Step::Call("boot::mmu_on::enable_mmu");
const DISCARD: Step = Step::Call("boot::tables::invalidate");
const WRITE_BACK: Step = Step::Call("kernel::arch::cache::clean_and_invalidate_to_poc");

/// All of them.
#[rustfmt::skip]
pub const ORDERS: [Order; 13] = [
    Order { rule: "H10", function: "boot::entry::entry", on: On::Every, undoes: None,
        steps: &[DROP, INIT, Step::Call("boot::tables::build"), ENABLE], before: Step::Jump },
    Order { rule: "H10", function: "boot::secondary::entry", on: On::Every, undoes: None,
        steps: &[DROP, INIT, ENABLE], before: Step::Jump },
    Order { rule: "H9", function: "boot::tables::build", on: On::Every, undoes: None,
        steps: &[DISCARD], before: Step::Store },
    Order { rule: "H9", function: "boot::tables::build", on: On::Every, undoes: Some(Step::Store),
        steps: &[Step::Store, Step::Dsb(SY), DISCARD], before: Step::Leave },
    Order { rule: "H9", function: "boot::tables::invalidate", on: On::Every,
        undoes: Some(Step::Clean(&[Cache::Invalidate])),
        steps: &[Step::Clean(&[Cache::Invalidate]), Step::Dsb(SY)], before: Step::Leave },
    Order { rule: "H10", function: "boot::mmu_on::enable_mmu", on: On::Every, undoes: None,
        steps: &[Step::Write(MAIR_EL1), Step::Write(TCR_EL1), Step::Write(TTBR0_EL1), Step::Write(TTBR1_EL1),
            Step::Isb, Step::Tlbi, Step::Fetch, Step::Dsb(NSH), Step::Isb],
        before: Step::Write(SCTLR_EL1) },
    Order { rule: "H16", function: "boot::secondary::prepare", on: On::Every, undoes: Some(Step::Store),
        steps: &[Step::Store, Step::Clean(&[Cache::Clean, Cache::CleanInvalidate]), Step::Dsb(SY)],
        before: Step::Leave },
    // Past the caches, by a Device mapping, there is nothing to write back.
    Order { rule: "H17", function: "kernel::smp::wake::release", on: On::Every, undoes: Some(Step::Store),
        steps: &[Step::Release, Step::Dsb(SY)], before: Step::Event },
    Order { rule: "H17", function: "kernel::smp::wake::release", on: On::Some, undoes: Some(Step::Store),
        steps: &[Step::Release, WRITE_BACK, Step::Dsb(SY)], before: Step::Event },
    // A range without a line is left alone, so this is what one way does: the one that has a line.
    Order { rule: "H17", function: "kernel::arch::cache::clean_and_invalidate_to_poc", on: On::Some,
        undoes: Some(Step::Clean(&[Cache::Invalidate, Cache::Clean, Cache::ToUnification])),
        steps: &[Step::Clean(&[Cache::CleanInvalidate]), Step::Dsb(SY)], before: Step::Leave },
    Order { rule: "H14", function: "boot::switch::switch_ttbr1", on: On::Every, undoes: None,
        steps: &[Step::Dsb(ISH), Step::Write(TTBR1_EL1), Step::Isb, Step::Tlbi, Step::Dsb(NSH), Step::Isb,
            Step::Write(TTBR1_EL1), Step::Isb],
        before: Step::Leave },
    Order { rule: "H14", function: "boot::switch::drop_identity_map", on: On::Every, undoes: None,
        steps: &[Step::Write(TTBR0_EL1), Step::Isb, Step::Write(TCR_EL1), Step::Isb, Step::Tlbi, Step::Dsb(NSH), Step::Isb],
        before: Step::Leave },
    Order { rule: "H14", function: "boot::secondary::upper_half", on: On::Every, undoes: None,
        steps: &[Step::Write(TTBR0_EL1), Step::Isb, Step::Write(TCR_EL1), Step::Isb, Step::Tlbi, Step::Dsb(NSH), Step::Isb],
        before: Step::Call("secondary_main") },
];

/// Finds what breaks `order`.
pub fn check(code: &Code, order: &Order) -> Vec<Finding> {
    let Some(function) = code.function(order.function) else {
        return vec![missing(order.rule, order.function)];
    };
    let steps = order.steps;
    let ends = ways(code, function.start, (steps, order.before), order.undoes);
    if ends.is_empty() {
        let message = format!(
            "nothing does {:?}, before which {steps:?} is due",
            order.before
        );
        return vec![Finding::new(code, order.rule, function.start, message)];
    }
    let mut broken: Vec<_> = ends
        .iter()
        .filter(|(_, done)| *done < steps.len())
        .collect();
    if order.on == On::Some {
        // The way that gets furthest is the one that was meant.
        broken.sort_by_key(|(_, done)| std::cmp::Reverse(*done));
        broken.truncate(usize::from(broken.len() == ends.len()));
    }
    broken
        .iter()
        .map(|(end, done)| {
            let message = format!(
                "{:?} is missing on a way to it: due before it, in this order, is {steps:?}",
                steps[*done],
            );
            Finding::new(code, order.rule, *end, message)
        })
        .collect()
}
