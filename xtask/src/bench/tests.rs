// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::measure::results::tests::{results, retain};
use crate::measure::subjects::{Group, Subject};
use clap::{Parser, error::ErrorKind};

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    bench: Bench,
}

/// The measurements that these options ask for.
fn asked(options: &[&str]) -> Vec<String> {
    let options = ["bench"].iter().chain(options);
    let cli = Cli::try_parse_from(options).expect("the options are known");
    let selected = cli.bench.selected().into_iter();
    selected
        .map(|measurement| measurement.to_string())
        .collect()
}

#[test]
fn options_select_measurements() {
    assert_eq!(asked(&[]).len(), 17);
    assert_eq!(asked(&["--cpu", "cortex-a72"]).len(), 6);
    assert_eq!(asked(&["--policy", "ets2"]).len(), 6);
    assert_eq!(asked(&["--policy", "ets2", "--cpu", "cortex-a72"]), [""; 0]);
    assert_eq!(
        asked(&["--policy", "ets2", "--backend", "eager", "--cpu", "max"]),
        ["max, ets2, eager", "max, boot"]
    );
    assert_eq!(asked(&["--no-plugin"]), ["max, classic, defer-barriers"]);
    assert_eq!(
        asked(&[
            "--no-plugin",
            "--backend",
            "eager",
            "--backend",
            "multicall"
        ]),
        ["max, classic, multicall", "max, classic, eager"]
    );
}

#[test]
fn counts_is_short_for_bench_without_plugin() {
    let of = |words: &[&str]| without_alias(words.iter().map(OsString::from));
    let expected = ["xtask", "bench", "--no-plugin", "--check"].map(OsString::from);
    assert_eq!(of(&["xtask", "counts", "--check"]), expected);
    assert_eq!(of(&["xtask", "bench", "counts"])[2], "counts");
    let refused = Cli::try_parse_from(["bench", "--no-plugin", "--write"]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ArgumentConflict);
}

#[test]
fn the_report_has_every_operation_and_statement() {
    let results = results(&[1, 512, 4096, 65_536]);
    let mut said: Vec<_> = statements::sections(&results).into_iter().collect();
    said.extend(statements::flat(&results));
    let text = report(&results, &said);
    for operation in Subject::all(Group::Operation) {
        assert!(text.contains(operation.title), "{}", operation.title);
    }
    assert_eq!(text.matches("\nholds: ").count(), 2, "{text}");
    said[0].against.push("a case".to_owned());
    assert!(report(&results, &said).contains("DOES NOT HOLD: A section of 1 to 65536 pages"));
    assert!(report(&results, &said).contains("    against it: a case"));
}

#[test]
fn what_changed_is_told() {
    let (old, new) = (results(&[1]), results(&[1, 16]));
    let all: Vec<Measurement> = Measurement::all().collect();
    let text = compared(&old, &new, &all, 16);
    assert!(text.contains("pages=16: only in the new results"), "{text}");
    assert!(text.starts_with(&format!("Since then {} counted", old.windows().count())));
    assert!(!text.contains("not asked for"), "{text}");
}

#[test]
fn what_was_not_asked_for_is_one_line() {
    let (old, mut new) = (results(&[1, 16]), results(&[1]));
    new.measured
        .retain(|measurement, _| measurement.cpu() == "max");
    let all: Vec<Measurement> = new.measured.keys().cloned().collect();
    let same = new.windows().count();
    assert_eq!(
        compared(&old, &new, &all, 1),
        format!(
            "Since then {same} counted things are the same, 0 are not.\n\
             {} entries of the old file were not asked for in this run, and are not compared.\n",
            old.windows().count() - same
        )
    );
    let text = compared(&old, &new, &all, 16);
    assert!(text.contains("pages=16: only in the old results"), "{text}");
}

#[test]
fn the_largest_windows_are_skipped_where_memory_lacks() {
    assert_eq!(
        skipped(1_048_576, Some(8191)).unwrap(),
        "skipped: 1048576 pages need a guest of 8 GiB, this machine has 8191 MiB available"
    );
    for (pages, available) in [
        (1_048_576, Some(8192)),
        (1_048_576, None),
        (65_536, Some(1)),
    ] {
        assert_eq!(skipped(pages, available), None);
    }
}

#[test]
fn a_report_without_the_headline_says_what_judges_targets() {
    let mut some = results(&[1, 512, 4096]);
    assert!(!report(&some, &[]).contains("not judged"));
    retain(&mut some, |terms| terms.backend == "eager");
    let text = report(&some, &[]);
    assert!(text.contains("\nThe targets were not judged"), "{text}");
    assert!(!text.contains("Targets: of a page"));
}
