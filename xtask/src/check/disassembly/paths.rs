// SPDX-License-Identifier: MIT OR Apache-2.0

//! Ways through code: what is reached, and whether something is done on every way.

use super::code::Code;
use super::decode::{Cache, Op, is_as_strong};
use std::collections::{BTreeMap, BTreeSet};

/// Something that has to be done on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Dsb(u8),                 // a DSB at least as strong as this one
    Isb,                     // ISB
    Clean(&'static [Cache]), // DC by address, of one of these kinds
    Fetch,                   // IC
    Tlbi,                    // TLBI
    Write(u16),              // MSR to this register
    Store,                   // a store
    Release,                 // a store-release
    Call(&'static str),      // a call, or tail call, of the function of this name
    Event,                   // SEV
    Jump,                    // BR
    Leave,                   // the end of the function
}

impl Step {
    /// Whether the instruction at `address` does it.
    fn is_done_by(self, code: &Code, address: u64, op: Op) -> bool {
        let target = |target| code.function_at(target).map(|found| found.1);
        match (self, op) {
            (Self::Dsb(wanted), Op::Dsb(has)) => is_as_strong(has, wanted),
            (Self::Isb, Op::Isb)
            | (Self::Fetch, Op::Fetch)
            | (Self::Tlbi, Op::Tlbi)
            | (Self::Event, Op::Event)
            | (Self::Jump, Op::BranchRegister(_))
            | (Self::Leave, Op::Return | Op::ExceptionReturn) => true,
            (Self::Clean(kinds), Op::Clean(kind)) => kinds.contains(&kind),
            (Self::Write(wanted), Op::Write(register)) => wanted == register,
            (Self::Store, Op::Access(access)) => access.is_store,
            (Self::Release, Op::Access(access)) => access.is_store && access.is_ordered,
            (Self::Call(name), Op::Call(to) | Op::Branch(to)) => target(to) == Some(name),
            (Self::Leave, Op::Branch(to)) => leaves(code, address, to),
            _ => false,
        }
    }
}

/// Whether a branch from `address` to `to` is a tail call.
fn leaves(code: &Code, address: u64, to: u64) -> bool {
    code.function_at(address)
        .is_some_and(|(range, _)| !range.contains(&to))
}

/// Calls that do not return, by the start of their names.
const DIVERGE: [&str; 4] = [
    "core::panicking::",
    "core::option::expect_failed",
    "core::option::unwrap_failed",
    "core::result::unwrap_failed",
];

/// What may be executed next in the same function; a call is passed over.
fn next(code: &Code, address: u64, op: Op) -> impl Iterator<Item = u64> {
    let after = address + 4;
    let diverges = |target| {
        let name = code.function_at(target).map_or("", |found| found.1);
        DIVERGE.iter().any(|start| name.starts_with(start))
    };
    let (after, target) = match op {
        Op::Branch(to) => (None, Some(to)),
        Op::Conditional(to) => (Some(after), Some(to)),
        Op::Call(to) if diverges(to) => (None, None),
        Op::BranchRegister(_) | Op::Return | Op::ExceptionReturn => (None, None),
        _ => (Some(after), None),
    };
    after.into_iter().chain(target)
}

/// The end of a way: its address, and how many of the steps were done on it.
pub type End = (u64, usize);

/// Follows every way from `start`, inside its function, to the instructions that do `end`, and
/// counts the `steps` that are done on it, in their order. An instruction that does `undoes` makes
/// it count anew.
pub fn ways(
    code: &Code,
    start: u64,
    (steps, end): (&[Step], Step),
    undoes: Option<Step>,
) -> BTreeSet<End> {
    let mut ends = BTreeSet::new();
    let Some((range, _)) = code.function_at(start) else {
        return ends;
    };
    let mut seen = BTreeSet::new();
    let mut open = vec![(start, 0)];
    while let Some((address, mut done)) = open.pop() {
        if !range.contains(&address) || !seen.insert((address, done)) {
            continue;
        }
        let Some(op) = code.op(address) else { continue };
        let does = |step: Step| step.is_done_by(code, address, op);
        if does(end) {
            ends.insert((address, done));
            continue;
        }
        if undoes.is_some_and(does) {
            done = 0;
        }
        if steps.get(done).copied().is_some_and(does) {
            done += 1;
        }
        open.extend(next(code, address, op).map(|next| (next, done)));
    }
    ends
}

/// Every instruction that is reached from `starts`, by calls and tail calls, too. A branch to a
/// register ends a way.
pub fn reachable(code: &Code, starts: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<u64> = starts.into_iter().collect();
    while let Some(address) = open.pop() {
        let Some(op) = code.op(address).filter(|_| seen.insert(address)) else {
            continue;
        };
        if let Op::Call(to) = op {
            open.push(to);
        }
        open.extend(next(code, address, op));
    }
    seen
}

/// The ends of the ways after `start` that have no ISB or ERET. A return continues after every call,
/// among `among`, of its function.
pub fn unsynchronized(code: &Code, start: u64, among: &BTreeSet<u64>) -> Vec<u64> {
    let mut calls: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for address in among {
        if let Some(Op::Call(to)) = code.op(*address) {
            calls.entry(to).or_default().push(address + 4);
        }
    }
    let mut ends = Vec::new();
    let mut seen = BTreeSet::new();
    let mut open = vec![start + 4];
    while let Some(address) = open.pop() {
        if !seen.insert(address) {
            continue;
        }
        match code.op(address) {
            Some(Op::Isb | Op::ExceptionReturn) => {}
            None | Some(Op::BranchRegister(_) | Op::CallRegister) => ends.push(address),
            Some(Op::Return) => {
                let function = code.function_at(address).map(|(range, _)| range.start);
                match function.and_then(|start| calls.get(&start)) {
                    Some(after) => open.extend(after),
                    None => ends.push(address),
                }
            }
            Some(Op::Call(to)) => open.push(to),
            Some(op) => open.extend(next(code, address, op)),
        }
    }
    ends
}
