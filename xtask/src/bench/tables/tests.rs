// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::measure::results::tests::{cost, results, retain};

fn row<'a>(table: &'a Titled, first: &str) -> &'a [String] {
    let row = table.rows.iter().find(|row| row[0] == first);
    row.unwrap_or_else(|| panic!("no row {first}: {table:?}"))
}

#[test]
fn ours_stand_beside_those_of_linux() {
    let results = results(&[1, 512, 4096]);
    let table = of_operation(&results, Subject::of(1).unwrap());
    assert_eq!(
        table.header,
        ["", "one page more", "1 page", "512 pages", "4096 pages"]
    );
    assert!(
        table
            .title
            .ends_with("Linux: vmap of an array of frames (tables are kept from call to call)")
    );
    assert_eq!(
        row(&table, "cortex-a72, max: classic, multicall")[1..3],
        ["2.00 / 0 / 0 / 0", "102 / 1 / 1 / 0"]
    );
    assert_eq!(
        row(&table, "Linux 7.2.12"),
        [
            "Linux 7.2.12",
            "120.8 / 0.002 / 0.002 / 0",
            "1401 / 1 / 1",
            "63286 / 2 / 2",
            "496138 / 9 / 9"
        ]
    );
    assert_eq!(row(&table, "Linux 6.1.176")[2], "-");
    assert_eq!(row(&table, "Linux 7.2.12 : defer-barriers")[1], "60.4 x");
    assert!(table.rows.iter().all(|row| row.len() == table.header.len()));
    assert!(table.shown().contains("120.8 / 0.002"), "{}", table.shown());
}

#[test]
fn what_linux_was_not_asked_for_has_no_row() {
    let apply_clear = Subject::of(12).unwrap();
    let table = of_operation(&results(&[512, 4096]), apply_clear);
    assert!(
        table.rows.iter().all(|row| !row[0].contains("Linux")),
        "{table:?}"
    );
}

#[test]
fn where_calls_end_is_told_beside_larger_windows() {
    assert_eq!(where_calls_end(&results(&[1, 65_536])), None);
    let line = where_calls_end(&results(&[1, 1_048_576])).unwrap();
    assert!(line.ends_with("end at 65536 pages."), "{line}");
}

#[test]
fn cpus_that_differ_have_rows_of_their_own() {
    let mut results = results(&[512, 4096]);
    let terms = ["cortex-a72", "classic", "batch-invalidations"];
    cost(&mut results, terms, "map_scattered_and_build_tables", 512).tlbi = 1;
    let table = of_operation(&results, Subject::of(1).unwrap());
    assert_eq!(
        row(&table, "cortex-a72: classic, batch-invalidations")[2],
        "1124 / 1 / 1 / 1"
    );
    assert_eq!(
        row(&table, "max: classic, batch-invalidations")[2],
        "1124 / 1 / 1 / 0"
    );
}

#[test]
fn scheduler_boot_and_targets_have_tables() {
    let results = results(&[512, 4096]);
    let scheduler = of_scheduler(&results);
    assert_eq!(scheduler.rows.len(), 2 * (5 + 2));
    let boot = of_boot(&results);
    assert_eq!(
        row(&boot, "linear map of all memory")[2..5],
        ["262144", "141000", "0.54"]
    );
    let aims = of_targets(&results).unwrap();
    assert_eq!(
        row(&aims, "yield to the other task")[1..],
        ["132", "<= 300", "met", "-56 %"]
    );
}

#[test]
fn what_judges_the_targets_is_told_where_nothing_does() {
    let mut results = results(&[512, 4096]);
    assert_eq!(not_judged(&results), None);
    retain(&mut results, |terms| terms.cpu != "cortex-a72");
    assert_eq!(
        not_judged(&results).unwrap(),
        "The targets were not judged, because they are meant for cortex-a72, classic, defer-barriers: \
         --cpu cortex-a72 --policy classic --backend defer-barriers judges them."
    );
}

#[test]
fn targets_are_met_or_missed_by_percents() {
    let mut results = results(&[512, 4096]);
    let of = |results: &Results, title: &str| {
        let table = of_targets(results).unwrap();
        assert_eq!(table.rows.len(), 15);
        row(&table, title)[1..].join(" | ")
    };
    let name = "map scattered frames, tables built";
    // 1 + op instructions a page.
    assert_eq!(
        of(&results, name),
        "2 | <= 4; 1 DSB, 1 ISB per call | met | -50 %"
    );
    assert_eq!(
        of(&results, "map scattered frames, tables there"),
        "9 | <= 4; 1 DSB, 1 ISB per call | missed | +125 %"
    );
    cost(
        &mut results,
        HEADLINE,
        "map_scattered_and_build_tables",
        4096,
    )
    .dsb = 2;
    assert_eq!(
        of(&results, name),
        "2 | <= 4; 1 DSB, 1 ISB per call | missed | barriers"
    );
    assert!(of_targets(&Results::default()).is_none());
}
