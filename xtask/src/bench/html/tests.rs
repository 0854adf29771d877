// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;
use crate::measure::results::tests::results;
use crate::measure::subjects::Group;

/// Elements of HTML that have no end tag.
const VOID: [&str; 1] = ["meta"];

/// Panics unless every tag is closed where it should be, and no character is there that should be escaped.
pub fn check(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap_or(page);
    while let Some(at) = rest.find('<') {
        let (text, tag) = rest.split_at(at);
        assert!(!text.contains('>'), "`{text}` is not escaped");
        for entity in text.split('&').skip(1) {
            assert!(
                ["lt;", "gt;", "amp;", "quot;"]
                    .iter()
                    .any(|known| entity.starts_with(known)),
                "{entity}"
            );
        }
        let end = tag
            .find('>')
            .unwrap_or_else(|| panic!("`{tag}` does not end"));
        let inside = &tag[1..end];
        assert!(!inside.contains('<'), "`{inside}` is not escaped");
        assert!(
            inside.matches('"').count().is_multiple_of(2),
            "`{inside}` has an open quote"
        );
        match inside.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None => {
                let name = inside.split(' ').next().unwrap_or_default();
                if !VOID.contains(&name) && !inside.ends_with('/') {
                    open.push(name);
                }
            }
        }
        rest = &tag[end + 1..];
    }
    assert_eq!(open, [""; 0], "tags are left open");
}

#[test]
fn the_check_finds_what_is_wrong() {
    for wrong in [
        "<p>",
        "<p></b>",
        "</p>",
        "<p>a > b</p>",
        "<p>a & b</p>",
        "<p title=\"></p>",
        "<p",
    ] {
        assert!(
            std::panic::catch_unwind(|| check(wrong)).is_err(),
            "{wrong}"
        );
    }
    check("<p title=\"a\">b<i></i><line x1=\"1\"/></p>");
}

fn statement(claim: &str) -> Statement {
    Statement {
        claim: claim.to_owned(),
        against: vec!["1 < 2 & \"3\"".to_owned()],
        notes: Vec::new(),
    }
}

fn page(results: &Results, said: &[Statement]) -> String {
    super::page(results, said).unwrap()
}

#[test]
fn a_document_is_well_formed() {
    let page = page(&results(&[1, 16, 512, 4096]), &[statement("a</style>b")]);
    check(&page);
    assert!(page.contains("a&lt;/style&gt;b"));
    assert!(page.contains("against it: 1 &lt; 2 &amp; &quot;3&quot;"));
    // It loads nothing: the only address is a name.
    let page = page.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    assert!(!page.contains("<script") && !page.contains("http://") && !page.contains("https://"));
}

#[test]
fn it_says_what_was_counted() {
    let page = page(&results(&[1, 512, 4096]), &[]);
    for text in [
        "map scattered frames, tables built",
        "120.8 / 0.002 / 0.002 / 0",
        "2.00 / 0 / 0 / 0",
        "63286 / 2 / 2",
        "linear map of all memory",
        "waking a task on another CPU",
        "user: munmap with page freeing",
    ] {
        assert!(page.contains(text), "{text}");
    }
    // Two plots for each operation and what is plotted, and one of bars.
    let operations = Subject::all(Group::Operation).count();
    assert_eq!(
        page.matches("<svg").count(),
        PLOTTED.len() * (2 * operations + 1)
    );
}

#[test]
fn each_plot_says_what_linux_was_measured_on() {
    let page = page(&results(&[1, 512, 4096]), &[]);
    let mut named = 0;
    for plot in page.split("<svg").skip(1) {
        let (plot, _) = plot.split_once("</svg>").unwrap();
        let (drawn, _) = plot.split_once("<title>").unwrap();
        // In the legend; where the mouse is, the bars need not repeat it.
        for name in drawn.split("\nLinux ").skip(1) {
            let (name, _) = name.split_once('\n').unwrap();
            assert!(name.contains(" (cortex-a72, classic)"), "{name}");
            named += 1;
        }
    }
    // In both plots of bars, and three of Linux's calls in two plots of each kind.
    assert!(named >= PLOTTED.len() * 3, "{named}");
    assert!(page.contains("by operation and backend: max, ets2"));
}

#[test]
fn it_is_the_same_each_time() {
    let results = results(&[1, 512, 4096]);
    assert_eq!(page(&results, &[]), page(&results, &[]));
}

#[test]
fn little_or_nothing_makes_a_document_too() {
    check(&page(&Results::default(), &[]));
    check(&page(&results(&[1]), &[]));
}
