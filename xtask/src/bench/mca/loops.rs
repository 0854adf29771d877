// SPDX-License-Identifier: MIT OR Apache-2.0

//! Finds a hot loop in machine code: the innermost loop of an inlined function, in what a measured
//! window calls.
//!
//! Nothing is known of addresses. From the window's function on, calls and branches into other functions are
//! followed (those by register are not); in each function that is reached, a loop is what lies between a
//! backward branch and its target, and innermost is one that contains no other and calls nobody. Debug
//! information says which function the code of a loop was inlined from.
//!
//! A function that is inlined in several places has a loop in each of them. All are returned, those
//! nearest to the window first.

use crate::check::disassembly::code::Code;
use crate::check::disassembly::decode::Op;
use anyhow::{Context, Result, ensure};
use std::collections::{HashSet, VecDeque};
use std::ops::Range;

/// Bytes of a page-table entry.
const PTE: u32 = 8;

/// A loop without a loop or a call in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// Its first instruction to the end of the backward branch.
    pub body: Range<u64>,
    /// Its instructions.
    pub words: Vec<u32>,
    /// Page-table entries that one round stores.
    pub ptes: u32,
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Function in which the search begins, with its path.
    pub window: &'static str,
    /// Function whose loop it is, without path; inlined or not.
    pub inside: &'static str,
}

/// The loops of `wanted.inside` that `wanted.window` can come to, of those that store most
/// entries in a round: what is left over of a block has loops of its own, which are not hot.
///
/// `function_of` names the innermost function that the code at an address was compiled from.
///
/// # Errors
///
/// When the window or such a loop is not there.
pub fn find(
    code: &Code,
    wanted: Wanted,
    function_of: impl Fn(u64) -> Option<String>,
) -> Result<Vec<Loop>> {
    let Wanted { window, inside } = wanted;
    let start = code.function(window).with_context(|| {
        format!(
            "the kernel has no function `{window}`, where the loop of `{inside}` is looked for: \
             xtask/src/mca/mod.rs must name it as the sources do, and it must not be inlined"
        )
    })?;
    let reached = reach(code, start);
    let is_inside =
        |address| function_of(address).is_some_and(|name| name.rsplit("::").next() == Some(inside));
    let mut found: Vec<Loop> = reached
        .iter()
        .flat_map(|function| innermost(code, function))
        .filter(|body| is_inside(body.start) && is_inside(body.end - 4))
        .map(|body| read(code, body))
        .collect();
    let most = found.iter().map(|found| found.ptes).max().unwrap_or(0);
    ensure!(
        most > 0,
        "no loop of `{inside}` that stores page-table entries is reached from `{window}` ({} functions \
         looked at): if it has another name or caller now, say so in xtask/src/mca/mod.rs",
        reached.len()
    );
    found.retain(|found| found.ptes == most);
    Ok(found)
}

/// The functions that can be reached from `start`, nearest first.
fn reach(code: &Code, start: Range<u64>) -> Vec<Range<u64>> {
    let mut seen = HashSet::from([start.start]);
    let mut queue = VecDeque::from([start]);
    let mut reached = Vec::new();
    while let Some(function) = queue.pop_front() {
        for address in instructions(&function) {
            let target = match code.op(address) {
                Some(Op::Call(to) | Op::Branch(to) | Op::Conditional(to)) => to,
                _ => continue,
            };
            if let Some((range, _)) = code.function_at(target)
                && seen.insert(range.start)
            {
                queue.push_back(range.clone());
            }
        }
        reached.push(function);
    }
    reached
}

/// The loops of a function that contain neither a loop nor a call.
fn innermost(code: &Code, function: &Range<u64>) -> Vec<Range<u64>> {
    let bodies: Vec<_> = instructions(function)
        .filter_map(|address| match code.op(address)? {
            Op::Branch(to) | Op::Conditional(to) if to <= address && function.contains(&to) => {
                Some(to..address + 4)
            }
            _ => None,
        })
        .collect();
    let contains_a_loop = |body: &Range<u64>| {
        bodies
            .iter()
            .any(|other| other != body && other.start >= body.start && other.end <= body.end)
    };
    let calls = |body: &Range<u64>| {
        instructions(body).any(|address| {
            matches!(
                code.op(address),
                None | Some(Op::Call(_) | Op::CallRegister)
            )
        })
    };
    bodies
        .iter()
        .filter(|body| !contains_a_loop(body) && !calls(body))
        .cloned()
        .collect()
}

fn read(code: &Code, body: Range<u64>) -> Loop {
    let words: Vec<_> = instructions(&body)
        .filter_map(|address| code.word(address))
        .collect();
    let bytes: u32 = instructions(&body)
        .map(|address| stored(code, address))
        .sum();
    Loop {
        body,
        words,
        ptes: bytes / PTE,
    }
}

/// Bytes that the instruction at `address` stores, in registers of an entry's size.
fn stored(code: &Code, address: u64) -> u32 {
    /// Bits 29 to 27: load or store of a pair (DDI 0487, C4.1).
    const PAIR: u32 = 0b101;
    match (code.op(address), code.word(address)) {
        (Some(Op::Access(access)), Some(word))
            if access.is_store && u32::from(access.size) == PTE =>
        {
            let registers = if word >> 27 & 7 == PAIR { 2 } else { 1 };
            registers * PTE
        }
        _ => 0,
    }
}

fn instructions(range: &Range<u64>) -> impl Iterator<Item = u64> + use<> {
    range.clone().step_by(4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::disassembly::code::Content;

    const BASE: u64 = 0xffff_0000;

    const STP: u32 = 0xa881_0540; // stp x0, x1, [x10], #16
    const STR: u32 = 0xf800_8540; // str x0, [x10], #8
    const STRB: u32 = 0x3900_0140; // strb w0, [x10]
    const LDP: u32 = 0xa8c1_0540; // ldp x0, x1, [x10], #16
    const SUBS: u32 = 0xf100_0529; // subs x9, x9, #1
    const RET: u32 = 0xd65f_03c0;

    const fn b_ne(words: i32) -> u32 {
        0x5400_0001 | (words as u32 & 0x7_ffff) << 5
    }

    const fn bl(words: i32) -> u32 {
        0x9400_0000 | words as u32 & 0x3ff_ffff
    }

    const fn b(words: i32) -> u32 {
        0x1400_0000 | words as u32 & 0x3ff_ffff
    }

    const fn at(word: u64) -> u64 {
        BASE + 4 * word
    }

    /// Functions one behind the other, each with a name and its words.
    fn code(functions: &[(&str, &[u32])]) -> Code {
        let (mut words, mut named) = (Vec::new(), Vec::new());
        for (name, body) in functions {
            let start = at(words.len() as u64);
            words.extend_from_slice(body);
            named.push((start..at(words.len() as u64), (*name).to_owned()));
        }
        Code::new(BASE, words, vec![(BASE, Content::Code)], named)
    }

    const WANTED: Wanted = Wanted {
        window: "bench::window",
        inside: "store_zero",
    };

    fn everywhere(_: u64) -> Option<String> {
        Some("<Arm64 as Hardware>::store_zero".to_owned())
    }

    fn bodies(found: &[Loop]) -> Vec<(Range<u64>, u32)> {
        found.iter().map(|l| (l.body.clone(), l.ptes)).collect()
    }

    #[test]
    fn the_innermost_loop_is_found_with_what_it_stores() -> Result<()> {
        let code = code(&[(
            WANTED.window,
            // An outer loop from word 0 on, the block in it, and what is left over.
            &[
                LDP,
                STP,
                STP,
                SUBS,
                b_ne(-3),
                STR,
                SUBS,
                b_ne(-2),
                b_ne(-8),
                RET,
            ],
        )]);
        let found = find(&code, WANTED, everywhere)?;
        assert_eq!(bodies(&found), [(at(1)..at(5), 4)]);
        assert_eq!(found[0].words, [STP, STP, SUBS, b_ne(-3)]);
        Ok(())
    }

    #[test]
    fn calls_and_tail_calls_are_followed_and_the_nearest_copy_is_first() -> Result<()> {
        let store = [STP, SUBS, b_ne(-2), RET];
        let code = code(&[
            ("far", &store),
            ("near", &store),
            ("between", &[b(-8)]),
            (WANTED.window, &[bl(-5), bl(-2), RET]),
            ("elsewhere", &store),
        ]);
        let found = find(&code, WANTED, everywhere)?;
        assert_eq!(bodies(&found), [(at(4)..at(7), 2), (at(0)..at(3), 2)]);
        Ok(())
    }

    #[test]
    fn loops_of_other_functions_are_passed_over() -> Result<()> {
        let code = code(&[(
            WANTED.window,
            &[STP, STP, SUBS, b_ne(-3), STP, SUBS, b_ne(-2), RET],
        )]);
        let function_of = |address| {
            let name = if address < at(4) {
                "lazymmu::restore_zero"
            } else {
                "lazymmu::store_zero"
            };
            Some(name.to_owned())
        };
        let found = find(&code, WANTED, function_of)?;
        assert_eq!(bodies(&found), [(at(4)..at(7), 2)]);
        Ok(())
    }

    #[test]
    fn a_loop_with_a_call_or_without_a_store_of_an_entry_is_none() {
        for body in [
            [STP, bl(3), SUBS, b_ne(-3), RET],
            [LDP, STRB, SUBS, b_ne(-3), RET],
            [STP, SUBS, SUBS, b_ne(1), RET],
        ] {
            let code = code(&[(WANTED.window, &body)]);
            let error = find(&code, WANTED, everywhere).map(|found| bodies(&found));
            let error = error
                .map_err(|error| error.to_string())
                .expect_err("no loop");
            assert!(
                error.contains("no loop of `store_zero`") && error.contains("`bench::window`"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_missing_window_is_named() {
        let code = code(&[("other", &[STP, SUBS, b_ne(-2), RET])]);
        let error = find(&code, WANTED, everywhere).map(|found| bodies(&found));
        let error = error
            .map_err(|error| error.to_string())
            .expect_err("no window");
        assert!(
            error.contains("no function `bench::window`") && error.contains("`store_zero`"),
            "{error}"
        );
    }
}
