// SPDX-License-Identifier: MIT OR Apache-2.0

//! The obligations of docs/hardware.md that a disassembly can witness, by their numbers.

use super::code::Code;
use super::decode::{Cache, ISH, NSH, Op, SP, SY, register};
use super::orders::SCTLR_EL1;
use super::paths::{self, Step};
use std::collections::BTreeSet;
use std::ops::Range;

/// An obligation that is not met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its number.
    pub rule: &'static str,
    /// Its address; 0 if there is none.
    pub address: u64,
    /// The same with name, offset and instruction.
    pub place: String,
    /// What to do.
    pub message: String,
}

impl Finding {
    /// The obligation `rule` is not met at `address`.
    pub fn new(code: &Code, rule: &'static str, address: u64, message: impl Into<String>) -> Self {
        Self {
            rule,
            address,
            place: code.describe(address),
            message: message.into(),
        }
    }
}

/// Where execution begins with the MMU off, and how many entries of 0x80 bytes there are.
const STARTS: [(&str, u64); 4] = [
    ("_start", 1),
    (SECONDARY, 1),
    ("boot_park_vectors", 16),
    ("boot_el3_vectors", 16),
];

/// Where `BR` may lead with the MMU just turned on: first instructions at the link address.
const UPPER_HALF: [&str; 2] = ["boot::entry::upper_half", "boot::secondary::upper_half"];

/// What may execute SMC: an undefined instruction is an error there and no exception.
const SMC_CALLER: &str = "probe_smc";

/// CNTFRQ_EL0.
const CNTFRQ_EL0: u16 = register(3, 3, 14, 0, 0);

/// What is executed with the MMU off.
pub fn before_mmu(code: &Code) -> Result<BTreeSet<u64>, Finding> {
    let mut starts = Vec::new();
    for (name, entries) in STARTS {
        let range = code.function(name).ok_or_else(|| missing("H2", name))?;
        starts.extend((0..entries).map(|entry| range.start + 0x80 * entry));
    }
    Ok(paths::reachable(code, starts))
}

/// A function that a rule is about is not in the image.
pub fn missing(rule: &'static str, name: &str) -> Finding {
    Finding {
        rule,
        address: 0,
        place: name.to_owned(),
        message: "is not in the image under this name: keep it from being inlined, or correct the name in \
                  xtask/src/check/disassembly"
            .to_owned(),
    }
}

/// H2 to H5, H21: code that runs with the MMU off, `reached`, lies in `boot` and does nothing that
/// Device memory does not support.
pub fn with_mmu_off(code: &Code, reached: &BTreeSet<u64>, boot: &Range<u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for &address in reached {
        let Some(op) = code.op(address) else { continue };
        let mut find = |rule, message| findings.push(Finding::new(code, rule, address, message));
        if !boot.contains(&address) {
            find(
                "H2",
                "runs with the MMU off and is not in .text.boot, which the identity map covers",
            );
        }
        let (rule, message) = match op {
            Op::BranchRegister(register) if !is_way_up(code, address, register) => {
                ("H2", "a branch to an unknown place with the MMU off")
            }
            Op::CallRegister => ("H2", "a call of an unknown place with the MMU off"),
            Op::Access(access) if access.base == SP => {
                ("H2", "uses a stack, and there is none with the MMU off")
            }
            Op::Access(access) if !access.keeps_alignment => (
                "H3",
                "may be unaligned, which Device memory does not support",
            ),
            Op::Literal(literal) if literal.at % u64::from(literal.size) != 0 => (
                "H3",
                "reads an unaligned literal, which Device memory does not support",
            ),
            Op::UnknownAccess => ("H3", "an access that this check does not know"),
            Op::Exclusive | Op::Atomic => (
                "H4",
                "an atomic access, which Device memory does not support",
            ),
            Op::ZeroBlock => ("H5", "faults on Device memory"),
            Op::Smc => ("H21", "an SMC that may be served by no firmware"),
            _ => continue,
        };
        find(rule, message);
    }
    findings
}

/// Where a secondary CPU enters, with its caches off.
const SECONDARY: &str = "boot::secondary::entry";

/// H16: until its MMU is on, a secondary CPU stores nothing, and reads literals and, in its entry,
/// one word.
pub fn past_the_caches(code: &Code) -> Vec<Finding> {
    let Some(entry) = code.function(SECONDARY) else {
        return vec![missing("H16", SECONDARY)];
    };
    let mut findings = Vec::new();
    let mut words = 0;
    for address in paths::reachable(code, [entry.start]) {
        let Some(Op::Access(access)) = code.op(address) else {
            continue;
        };
        let message = if access.is_store {
            "a store past the caches, which other CPUs may not see, or undo"
        } else if entry.contains(&address) && words == 0 {
            words += 1;
            continue;
        } else {
            "a second word that is read past the caches: write it back in `prepare`, or read it later"
        };
        findings.push(Finding::new(code, "H16", address, message));
    }
    findings
}

/// Whether the `BR` at `address` goes to the link address that the instruction before has loaded.
fn is_way_up(code: &Code, address: u64, branch: u8) -> bool {
    let Some(Op::Literal(literal)) = code.op(address - 4) else {
        return false;
    };
    let is_entry = |target: u64| {
        let function = code.function_at(target);
        function.is_some_and(|(range, name)| range.start == target && UPPER_HALF.contains(&name))
    };
    (literal.size, literal.register) == (8, branch)
        && code.literal(literal.at).is_some_and(is_entry)
}

/// H3, H11, H12, H17, H21, H22, H24: what holds for every instruction of the image.
pub fn everywhere(code: &Code, before_mmu: &BTreeSet<u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for address in code.addresses() {
        let Some(op) = code.op(address) else { continue };
        let function = code.function_at(address);
        let (rule, message) = match op {
            Op::Access(access) if access.base == SP && !access.keeps_alignment => (
                "H3",
                "unaligned on the stack: the compiler was not told +strict-align",
            ),
            Op::Atomic | Op::UnknownAccess => {
                ("H24", "not in Armv8.0: a Cortex-A72 takes it as UNDEFINED")
            }
            Op::Simd => (
                "H24",
                "traps: CPACR_EL1.FPEN is 0, and no register of these is saved",
            ),
            Op::SetWay => (
                "H12",
                "maintenance by set and way, which other CPUs' caches undo",
            ),
            Op::Write(CNTFRQ_EL0) => (
                "H22",
                "writes the counter's frequency, which only firmware knows",
            ),
            Op::Write(SCTLR_EL1) => {
                if let Some(end) = paths::unsynchronized(code, address, before_mmu).first() {
                    let end = code.describe(*end);
                    let message = format!("no ISB or ERET after it on the way to {end}");
                    findings.push(Finding::new(code, "H11", address, message));
                }
                continue;
            }
            Op::Smc if function.is_none_or(|found| found.1 != SMC_CALLER) => (
                "H21",
                "an SMC outside of the probe that finds out whether it is served",
            ),
            Op::Event => {
                let start = function.map_or(address, |found| found.0.start);
                let last = (&[Step::Dsb(SY)] as &[Step], Step::Event);
                if !paths::ways(code, start, last, Some(Step::Store)).contains(&(address, 0)) {
                    continue;
                }
                ("H17", "no DSB SY between the last store and the event")
            }
            Op::Clean(_) | Op::Tlbi | Op::Fetch => {
                let wanted = match op {
                    Op::Clean(Cache::ToUnification) => ISH,
                    Op::Clean(_) => SY,
                    _ if before_mmu.contains(&address) => NSH,
                    // The library completes its own in another function.
                    _ => continue,
                };
                let steps = [Step::Dsb(wanted)];
                let ways = paths::ways(code, address, (&steps, Step::Leave), None);
                if ways.iter().all(|(_, done)| *done == 1) {
                    continue;
                }
                ("H12", "no DSB completes it before its function ends")
            }
            _ => continue,
        };
        findings.push(Finding::new(code, rule, address, message));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::code::{Code, Content};
    use super::super::orders::{self, ORDERS, On, Order};
    use super::*;

    const BASE: u64 = 0xffff_ffff_8008_0000;
    const NOP: u32 = 0xd503_201f;
    const RET: u32 = 0xd65f_03c0;
    const ISB: u32 = 0xd503_3fdf;
    const DSB_SY: u32 = 0xd503_3f9f;
    const DSB_ISH: u32 = 0xd503_3b9f;
    const SEV: u32 = 0xd503_209f;
    const STR: u32 = 0xf900_0001; // str x1, [x0]
    const STLR: u32 = 0xc89f_fc01; // stlr x1, [x0]
    const CIVAC: u32 = 0xd50b_7e20; // dc civac, x0
    const CVAC: u32 = 0xd50b_7a20; // dc cvac, x0
    const IVAC: u32 = 0xd508_7620; // dc ivac, x0
    const SMC: u32 = 0xd400_0003;
    const SCTLR: u32 = 0xd518_1000; // msr sctlr_el1, x0
    const TLBI: u32 = 0xd508_871f; // tlbi vmalle1
    const LDXR: u32 = 0xc85f_7d09; // ldxr x9, [x8]
    const LDADD: u32 = 0xf820_0041; // ldadd x0, x1, [x2]
    const ERET: u32 = 0xd69f_03e0;

    /// `BL` from the word number `from` to the word number `to`.
    const fn bl(from: i32, to: i32) -> u32 {
        0x9400_0000 | ((to - from) as u32 & 0x3ff_ffff)
    }

    /// `CBZ X0` over `words` words.
    const fn cbz(words: u32) -> u32 {
        0xb400_0000 | words << 5
    }

    /// An obligation, and an offset from the first word.
    type Found = (&'static str, u64);

    /// Functions that follow each other.
    fn code(functions: &[(&str, &[u32])]) -> Code {
        let (mut words, mut named) = (Vec::new(), Vec::new());
        for (name, body) in functions {
            let start = BASE + 4 * words.len() as u64;
            words.extend_from_slice(body);
            named.push((start..BASE + 4 * words.len() as u64, (*name).to_owned()));
        }
        let end = BASE + 4 * words.len() as u64;
        Code::new(BASE, words, vec![(BASE, Content::Code)], named).with_boot(end)
    }

    /// What is found in code that runs with the MMU off: the obligation and the offset.
    fn off(words: &[u32]) -> Vec<Found> {
        let code = code(&[("f", words)]);
        let reached = paths::reachable(&code, [BASE]);
        shown(&with_mmu_off(&code, &reached, code.boot()))
    }

    /// What is found in any code, in a function of this name.
    fn on(name: &str, words: &[u32]) -> Vec<Found> {
        shown(&everywhere(&code(&[(name, words)]), &BTreeSet::new()))
    }

    fn shown(findings: &[Finding]) -> Vec<Found> {
        findings
            .iter()
            .map(|finding| (finding.rule, finding.address - BASE))
            .collect()
    }

    fn at(rule: &'static str, offset: u64) -> Vec<Found> {
        vec![(rule, offset)]
    }

    #[test]
    fn device_memory_takes_aligned_plain_accesses_only() {
        assert_eq!(off(&[STR, 0xa881_7c1f, 0xf823_78a4, RET]), []);
        for word in [0xf800_1041, 0xf823_68a4] {
            // stur x1, [x2, #1]; str x4, [x5, x3]
            assert_eq!(off(&[NOP, word, RET]), at("H3", 0x4), "{word:#x}");
        }
        assert_eq!(off(&[LDXR, RET]), at("H4", 0x0));
        assert_eq!(off(&[NOP, NOP, LDADD, RET]), at("H4", 0x8));
        assert_eq!(off(&[0xd50b_7420, RET]), at("H5", 0x0)); // dc zva, x0
        assert_eq!(off(&[SMC, RET]), at("H21", 0x0));
        assert_eq!(off(&[0x1901_0440, RET]), at("H3", 0x0)); // cpyfp
    }

    #[test]
    fn literals_are_aligned() {
        // ldr x8, .+8 at a multiple of 8, and after another word.
        assert_eq!(off(&[0x5800_0048, RET, 0, 0]), []);
        assert_eq!(off(&[NOP, 0x5800_0048, RET, 0, 0]), at("H3", 0x4));
        // ldr w8: four bytes are enough.
        assert_eq!(off(&[NOP, 0x1800_0048, RET, 0]), []);
    }

    #[test]
    fn the_way_with_the_mmu_off_is_known() {
        assert_eq!(off(&[0xd61f_0100, RET]), at("H2", 0x0)); // br x8
        assert_eq!(off(&[0xd63f_0100, RET]), at("H2", 0x0)); // blr x8
        assert_eq!(off(&[0xa9bf_7bfd, RET]), at("H2", 0x0)); // stp x29, x30, [sp, #-16]!
        // A call out of .text.boot.
        let code = code(&[("f", &[bl(0, 2), RET]), ("g", &[RET])]);
        let reached = paths::reachable(&code, [BASE]);
        let found = shown(&with_mmu_off(&code, &reached, &(BASE..BASE + 8)));
        assert_eq!(found, at("H2", 0x8));
    }

    #[test]
    fn a_branch_may_lead_to_the_upper_half() {
        let way_up = |name: &str, target: u64| {
            // ldr x8, .+8; br x8; the literal.
            let words = [
                0x5800_0048,
                0xd61f_0100,
                target as u32,
                (target >> 32) as u32,
            ];
            let code = code(&[("f", &words), (name, &[NOP, RET])]);
            let reached = paths::reachable(&code, [BASE]);
            shown(&with_mmu_off(&code, &reached, code.boot()))
        };
        assert_eq!(way_up("boot::entry::upper_half", BASE + 16), []);
        assert_eq!(way_up("boot::entry::upper_half", BASE + 20), at("H2", 0x4));
        assert_eq!(way_up("boot::entry::other", BASE + 16), at("H2", 0x4));
    }

    #[test]
    fn what_only_follows_a_return_is_not_reached() {
        assert_eq!(off(&[RET, LDXR]), []);
        assert_eq!(off(&[cbz(2), RET, LDXR, RET]), at("H4", 0x8));
        assert_eq!(off(&[bl(0, 2), RET, LDXR, RET]), at("H4", 0x8));
    }

    #[test]
    fn no_instruction_of_the_image_is_beyond_a_cortex_a72_or_traps() {
        assert_eq!(on("f", &[LDXR, RET]), []);
        assert_eq!(on("f", &[LDADD, RET]), at("H24", 0x0));
        assert_eq!(on("f", &[NOP, 0x1e60_2800, RET]), at("H24", 0x4)); // fadd
        assert_eq!(on("f", &[0xf800_13e1, RET]), at("H3", 0x0)); // stur x1, [sp, #1]
        assert_eq!(on("f", &[0xd51b_e000, RET]), at("H22", 0x0)); // msr cntfrq_el0, x0
        assert_eq!(on("f", &[0xd53b_e000, RET]), []); // mrs
        assert_eq!(on("f", &[0xd508_7e40, DSB_SY, RET]), at("H12", 0x0)); // dc cisw, x0
    }

    #[test]
    fn smc_is_for_the_probe_that_finds_out_whether_it_is_served() {
        assert_eq!(on(SMC_CALLER, &[SMC, RET]), []);
        assert_eq!(
            on("kernel::platform::exit::exit", &[SMC, RET]),
            at("H21", 0x0)
        );
    }

    #[test]
    fn the_mmu_bit_is_followed_by_a_synchronization() {
        assert_eq!(on("f", &[SCTLR, NOP, ISB, RET]), []);
        assert_eq!(on("f", &[SCTLR, NOP, ERET]), []);
        assert_eq!(on("f", &[SCTLR, RET]), at("H11", 0x0));
        assert_eq!(on("f", &[SCTLR, cbz(2), ISB, RET]), at("H11", 0x0));
        assert_eq!(on("f", &[SCTLR, 0xd61f_0100, ISB]), at("H11", 0x0)); // br x8
        // Behind the return, in all callers.
        for (after, expected) in [(ISB, vec![]), (NOP, at("H11", 0x0))] {
            let code = code(&[("f", &[SCTLR, RET]), ("g", &[bl(2, 0), after, RET])]);
            let all = code.addresses().collect();
            assert_eq!(shown(&everywhere(&code, &all)), expected);
        }
    }

    #[test]
    fn maintenance_is_completed_in_its_function() {
        for word in [CIVAC, CVAC, IVAC] {
            assert_eq!(on("f", &[word, DSB_SY, RET]), []);
            assert_eq!(on("f", &[word, RET]), at("H12", 0x0));
            assert_eq!(on("f", &[word, DSB_ISH, RET]), at("H12", 0x0));
            assert_eq!(on("f", &[word, cbz(2), DSB_SY, RET]), at("H12", 0x0));
        }
        // dc cvau: the inner shareable domain is enough.
        assert_eq!(on("f", &[0xd50b_7b20, DSB_ISH, RET]), []);
        // TLBI and IC with the MMU off; the library completes its own elsewhere.
        let code = code(&[("f", &[TLBI, RET])]);
        let all = code.addresses().collect();
        assert_eq!(shown(&everywhere(&code, &all)), at("H12", 0x0));
        assert_eq!(on("f", &[TLBI, RET]), []);
    }

    #[test]
    fn an_event_follows_what_it_is_about() {
        assert_eq!(on("f", &[STR, DSB_SY, NOP, SEV, RET]), []);
        assert_eq!(on("f", &[STR, SEV, RET]), at("H17", 0x4));
        assert_eq!(on("f", &[STR, DSB_ISH, SEV, RET]), at("H17", 0x8));
        assert_eq!(on("f", &[DSB_SY, STR, SEV, RET]), at("H17", 0x8));
        assert_eq!(on("f", &[STR, cbz(2), DSB_SY, SEV, RET]), at("H17", 0xc));
    }

    #[test]
    fn a_secondary_reads_one_word_and_stores_nothing() {
        const LDR: u32 = 0xf940_0041; // ldr x1, [x2]
        let entry = |words: &[u32], other: &[u32]| {
            shown(&past_the_caches(&code(&[(SECONDARY, words), ("g", other)])))
        };
        assert_eq!(entry(&[0x5800_0040, LDR, RET], &[RET]), []);
        assert_eq!(entry(&[LDR, LDR, RET], &[RET]), at("H16", 0x4));
        assert_eq!(entry(&[STR, RET], &[RET]), at("H16", 0x0));
        // In what it calls, too.
        assert_eq!(entry(&[bl(0, 2), RET], &[LDR, RET]), at("H16", 0x8));
        assert_eq!(entry(&[bl(0, 2), RET], &[STR, RET]), at("H16", 0x8));
        // But not after the way up.
        assert_eq!(entry(&[0xd61f_0100, STR], &[STR, RET]), []);
    }

    #[test]
    fn data_is_no_code() {
        let words = vec![RET, LDADD, LDADD];
        let marks = vec![(BASE, Content::Code), (BASE + 4, Content::Data)];
        let code = Code::new(BASE, words, marks, vec![(BASE..BASE + 12, "f".to_owned())]);
        assert_eq!(shown(&everywhere(&code, &BTreeSet::new())), []);
    }

    #[test]
    fn a_start_that_is_not_there_is_found() {
        let finding = before_mmu(&code(&[("f", &[RET])])).unwrap_err();
        assert_eq!((finding.rule, finding.place.as_str()), ("H2", "_start"));
    }

    /// Each order, with a function that keeps it: every step by one word.
    fn kept(order: &Order) -> Vec<u32> {
        let words = order.steps.iter().chain([&order.before]);
        words
            .enumerate()
            .map(|(number, step)| word_of(*step, number as i32))
            .collect()
    }

    /// Calls go to the word after 16 others, where `callees` puts one function for each name.
    fn word_of(step: Step, from: i32) -> u32 {
        match step {
            Step::Dsb(kind) => 0xd503_309f | u32::from(kind) << 8,
            Step::Isb => ISB,
            Step::Clean([Cache::Invalidate]) => IVAC,
            Step::Clean([Cache::CleanInvalidate]) => CIVAC,
            Step::Clean(_) => CVAC,
            Step::Fetch => 0xd508_751f,
            Step::Tlbi => TLBI,
            Step::Write(register) => 0xd500_0000 | u32::from(register) << 5,
            Step::Store => STR,
            Step::Release => STLR,
            Step::Call(name) => bl(from, 16 + callee(name)),
            Step::Event => SEV,
            Step::Jump => 0xd61f_0100,
            Step::Leave => RET,
        }
    }

    /// All functions that orders call.
    fn callees() -> Vec<&'static str> {
        let steps = ORDERS
            .iter()
            .flat_map(|order| order.steps.iter().chain([&order.before]));
        let mut names: Vec<_> = steps
            .filter_map(|step| match step {
                Step::Call(name) => Some(*name),
                _ => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    fn callee(name: &str) -> i32 {
        callees().iter().position(|callee| *callee == name).unwrap() as i32
    }

    fn found(order: &Order, mut words: Vec<u32>) -> Vec<Finding> {
        words.resize(16, NOP);
        let callees = callees();
        let mut functions: Vec<(&str, &[u32])> = vec![("the function of the order", &words)];
        functions.extend(callees.iter().map(|name| (*name, &[RET] as &[u32])));
        let order = Order {
            function: "the function of the order",
            ..*order
        };
        orders::check(&code(&functions), &order)
    }

    #[test]
    fn an_order_that_is_kept_has_no_finding() {
        for order in &ORDERS {
            assert_eq!(found(order, kept(order)), [], "{order:?}");
        }
    }

    #[test]
    fn each_step_that_is_left_out_is_found() {
        for order in &ORDERS {
            for left_out in 0..order.steps.len() {
                let mut words = kept(order);
                words[left_out] = NOP;
                let found = found(order, words);
                assert_eq!(found.len(), 1, "{order:?} without {left_out}");
                assert_eq!(found[0].rule, order.rule);
                // The step that is missing is the first or a later one of the same kind.
                assert!(
                    found[0].message.contains("is missing on"),
                    "{}",
                    found[0].message
                );
            }
        }
    }

    #[test]
    fn each_step_that_a_branch_passes_over_is_found() {
        for order in ORDERS.iter().filter(|order| order.on == On::Every) {
            let mut words = vec![cbz(order.steps.len() as u32 + 1)];
            let steps = order.steps.iter().chain([&order.before]).enumerate();
            words.extend(steps.map(|(number, step)| word_of(*step, number as i32 + 1)));
            assert_eq!(found(order, words).len(), 1, "{order:?}");
        }
    }

    #[test]
    fn a_store_after_the_write_back_is_found() {
        for order in ORDERS
            .iter()
            .filter(|order| order.undoes == Some(Step::Store))
        {
            let mut words = kept(order);
            words.insert(order.steps.len(), STR);
            assert_eq!(found(order, words).len(), 1, "{order:?}");
        }
    }

    #[test]
    fn the_write_back_is_clean_and_invalidate_to_the_point_of_coherency() {
        let function = "kernel::arch::cache::clean_and_invalidate_to_poc";
        let order = ORDERS.iter().find(|order| order.function == function);
        let order = order.expect("there is one");
        // A loop that may be passed over, and its barrier.
        let with = |words: &[u32]| {
            let mut body = vec![cbz(words.len() as u32 + 2)];
            body.extend_from_slice(words);
            // cbnz x0, back to the first of them.
            let back = (-(words.len() as i32)) as u32 & 0x7_ffff;
            body.extend([0xb500_0000 | back << 5, DSB_SY, RET]);
            found(order, body)
        };
        const CVAU: u32 = 0xd50b_7b20; // dc cvau, x0
        assert_eq!(with(&[CIVAC]), []);
        for words in [&[CVAU] as &[u32], &[CVAC], &[IVAC], &[NOP], &[CIVAC, CVAU]] {
            assert_eq!(with(words).len(), 1, "{words:x?}");
        }
        let without_barrier = found(order, vec![cbz(3), CIVAC, NOP, DSB_ISH, RET]);
        assert_eq!(without_barrier.len(), 1);
    }

    #[test]
    fn what_an_order_is_about_must_be_there() {
        let order = &ORDERS[0];
        assert_eq!(orders::check(&code(&[("f", &[RET])]), order).len(), 1);
        // Nothing before which it would be due.
        assert_eq!(found(order, vec![NOP]).len(), 1);
    }
}
