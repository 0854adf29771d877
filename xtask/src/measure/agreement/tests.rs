// SPDX-License-Identifier: MIT OR Apache-2.0

use super::super::lines;
use super::super::prediction::tests::prediction;
use super::*;

const SAID: &str = "\
counts backend=eager policy=classic
count op=8 pages=4 instructions=90 spread=2 ptes=4 dsb=4 isb=4 tlbi=0 ish=0 dmb=0
event name=switch instructions=23 spread=0 dsb=0 isb=0
event name=schedule instructions=194 spread=0 dsb=1 isb=0
event name=yield instructions=251 spread=0 dsb=1 isb=0
event name=tick instructions=238 spread=0 dsb=0 isb=0
event name=switch_out instructions=16 spread=0 dsb=1 isb=0
";
const PREDICTED: &str = "\
predicted backend=eager policy=classic tlb=TLB op=8 pages=4 dsb=4 isb=4 tlbi=0 ish=0
predicted backend=eager policy=classic tlb=TLB op=130 dsb=0 isb=0 tlbi=0 ish=0
predicted backend=eager policy=classic tlb=TLB op=131 dsb=1 isb=0 tlbi=0 ish=1
predicted backend=eager policy=classic tlb=TLB op=132 dsb=1 isb=0 tlbi=0 ish=1
predicted backend=eager policy=classic tlb=TLB op=133 dsb=0 isb=0 tlbi=0 ish=0
predicted backend=eager policy=classic tlb=TLB op=134 dsb=1 isb=0 tlbi=0 ish=1
";

/// What is said when the plugin's counts are the kernel's with `from` become `to`, and the model predicts `predicted`.
fn compared(cpu: &str, from: &str, to: &str, predicted: &str) -> Vec<String> {
    let terms = Terms::new(cpu, "classic", "eager");
    let prediction =
        (!predicted.is_empty()).then(|| prediction(&predicted.replace("TLB", terms.tlb())));
    let costs = |log: &str| lines::read(log).unwrap().costs;
    let counted = Counted {
        inside: costs(SAID),
        outside: costs(&SAID.replace(from, to)),
        ..Counted::default()
    };
    differences(&Measurement::Windows(terms), &counted, prediction.as_ref())
}

#[test]
fn the_same_counts_agree() {
    for cpu in ["max", "cortex-a72"] {
        assert_eq!(compared(cpu, "", "", PREDICTED), [""; 0]);
    }
}

#[test]
fn a_difference_names_the_window_and_the_three_counts() {
    let outside = "spread=2 ptes=4 dsb=4";
    assert_eq!(
        compared("max", outside, "spread=3 ptes=4 dsb=5", PREDICTED),
        [
            "window op=8 pages=4 (map_scattered): DSB: the kernel counts 4, the model 4, the plugin 5; \
             spread: the kernel counts 2, the plugin 3"
        ]
    );
    let more = PREDICTED.replace("tlbi=0", "tlbi=1");
    assert_eq!(
        compared("cortex-a72", "=90", "=91", &more),
        [
            "window op=8 pages=4 (map_scattered): TLBI: the kernel counts 0, the model 1, the plugin 0"
        ]
    );
    assert_eq!(compared("max", "=90", "=91", PREDICTED).len(), 1);
}

#[test]
fn events_are_compared_like_windows() {
    let (from, to) = ("=251 spread=0 dsb=1", "=250 spread=0 dsb=2");
    assert_eq!(
        compared("max", from, to, PREDICTED),
        [
            "event op=132 (yield): DSB: the kernel counts 1, the model 1, the plugin 2; \
             instructions: the kernel counts 251, the plugin 250"
        ]
    );
    assert_eq!(compared("cortex-a72", "=251", "=250", PREDICTED), [""; 0]);
    let other = PREDICTED.replace("op=133 dsb=0 isb=0", "op=133 dsb=1 isb=0");
    assert_eq!(
        compared("max", "", "", &other),
        ["event op=133 (tick): DSB: the kernel counts 0, the model 1, the plugin 0"]
    );
    let fewer = PREDICTED.replace("op=134 ", "op=135 ");
    assert_eq!(
        compared("max", "", "", &fewer),
        ["event op=134 (switch_out): unknown to the model"]
    );
    assert_eq!(
        compared("cortex-a72", "event name=tick", "no", PREDICTED),
        ["event op=133 (tick): unknown to the plugin"]
    );
}

#[test]
fn a_window_that_not_all_know_is_a_difference() {
    let line = SAID
        .lines()
        .find(|line| line.starts_with("count "))
        .unwrap();
    let more = format!("{line}\n{}", line.replace("op=8", "op=9"));
    assert_eq!(
        compared("max", line, &more, PREDICTED),
        ["window op=9 pages=4 (unmap): unknown to the kernel and the model"]
    );
    let asked_nothing = compared("max", "", "", "");
    assert_eq!(asked_nothing, [""; 0]);
    let first = PREDICTED.lines().next().unwrap();
    let predicted = PREDICTED.to_owned() + &first.replace("op=8", "op=11");
    assert_eq!(
        compared("max", "", "", &predicted),
        ["window op=11 pages=4 (apply_set): unknown to the kernel and the plugin"]
    );
}

const BOOT: &str = "\
counts boot
count op=141 pages=8 instructions=0 spread=0 ptes=8 dsb=1 isb=1 tlbi=0 ish=0 dmb=0
event name=wake instructions=0 spread=0 dsb=0 isb=0
event name=woken instructions=0 spread=0 dsb=1 isb=0
";
/// Of these the kernel says nothing.
const BOOT_OUTSIDE: &str = "\
count op=140 pages=0 instructions=0 spread=0 ptes=0 dsb=4 isb=6 tlbi=1 ish=0 dmb=0
count op=142 pages=0 instructions=0 spread=0 ptes=0 dsb=8 isb=9 tlbi=1 ish=0 dmb=0
";

const PREDICTED_OF_A_BOOT: &str = "\
predicted backend=defer-barriers policy=classic tlb=none op=4 pages=1 dsb=1 isb=1 tlbi=0 ish=0
predicted backend=defer-barriers policy=classic tlb=none op=135 dsb=0 isb=0 tlbi=0 ish=0
predicted backend=defer-barriers policy=classic tlb=none op=136 dsb=2 isb=0 tlbi=0 ish=2
";

/// What is said of a boot when the plugin's counts are the kernel's with `from` become `to`.
fn booted(from: &str, to: &str) -> Vec<String> {
    booted_and_predicted(from, to, Some(PREDICTED_OF_A_BOOT))
}

fn booted_and_predicted(from: &str, to: &str, predicted: Option<&str>) -> Vec<String> {
    let outside = BOOT.replace("=0 spread=0", "=9 spread=0") + BOOT_OUTSIDE;
    let costs = |log: &str| lines::read(log).unwrap().costs;
    let counted = Counted {
        inside: costs(BOOT),
        outside: costs(&outside.replace(from, to)),
        ..Counted::default()
    };
    let prediction = predicted.map(prediction);
    let boot = Measurement::boot("cortex-a72");
    differences(&boot, &counted, prediction.as_ref())
}

#[test]
fn a_boot_is_compared_as_far_as_the_kernel_counts() {
    assert_eq!(booted("", ""), [""; 0]);
    assert_eq!(booted_and_predicted("", "", None), [""; 0]);
    assert_eq!(
        booted("dsb=1 isb=1", "dsb=2 isb=1"),
        ["window op=141 pages=8 (linear_map): DSB: the kernel counts 1, the model 1, the plugin 2"]
    );
    let pages = "pages=8 instructions=9 spread=0 ptes=8";
    assert_eq!(
        booted(pages, &pages.replace('8', "9")),
        [
            "window op=141 pages=8 (linear_map): unknown to the plugin",
            "window op=141 pages=9 (linear_map): unknown to the kernel"
        ]
    );
    assert_eq!(
        booted("dsb=1 isb=0", "dsb=0 isb=1"),
        [
            "event op=136 (woken): DSB: the kernel counts 2, the model 2, the plugin 1; \
             ISB: the kernel counts 0, the model 0, the plugin 1"
        ]
    );
}

#[test]
fn a_boot_that_the_model_predicts_otherwise_is_a_difference() {
    let other = PREDICTED_OF_A_BOOT.replace("op=4 pages=1 dsb=1", "op=4 pages=1 dsb=2");
    assert_eq!(
        booted_and_predicted("", "", Some(&other)),
        ["window op=141 pages=8 (linear_map): DSB: the kernel counts 1, the model 2, the plugin 1"]
    );
    let other = PREDICTED_OF_A_BOOT
        .replace("op=4 ", "op=5 ")
        .replace("op=135 ", "op=134 ");
    assert_eq!(
        booted_and_predicted("", "", Some(&other)),
        [
            "event op=135 (wake): unknown to the model",
            "window op=141 pages=8 (linear_map): unknown to the model",
        ]
    );
}

#[test]
fn a_window_of_the_boot_that_the_plugin_has_not_seen_is_a_difference() {
    assert_eq!(
        booted("event name=wake ", "no "),
        ["event op=135 (wake): unknown to the plugin"]
    );
    assert_eq!(
        booted("count op=142", "no"),
        ["window op=142 pages=0 (to_self_test): unknown to the plugin"]
    );
    assert_eq!(
        booted("count op=141", "no"),
        ["window op=141 pages=8 (linear_map): unknown to the plugin"]
    );
}
