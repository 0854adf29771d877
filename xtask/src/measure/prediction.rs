// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the machine model says that each window executes (kernel/tests/windows.rs).

use super::boots::{MOST_OF_USUAL, Terms};
use super::lines;
use crate::process;
use crate::scratch;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;

/// The variable by which the test is asked for a file.
const ASKED_BY: &str = "LAZYMMU_PREDICTION";
/// And for how many pages at most.
const PAGES: &str = "LAZYMMU_PAGES";

/// DSB, ISB, TLBI, and the `DSB ISH` among the DSB.
pub type Barriers = [u64; 4];

/// The barriers of each window, by `backend= policy= tlb=`, number and pages; the scheduler's events have 0 pages.
#[derive(Clone, Debug, Default)]
pub struct Prediction {
    known: BTreeMap<(String, u8, u64), Barriers>,
    /// Pages of the largest windows that the model was asked for.
    most: u64,
}

/// Pages of the largest windows that it has.
pub const LARGEST: u64 = MOST_OF_USUAL;

/// A line of the model's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    backend: String,
    policy: String,
    tlb: String,
    op: u8,
    #[serde(default)]
    pages: u64,
    dsb: u64,
    isb: u64,
    tlbi: u64,
    ish: u64,
}

impl Prediction {
    /// Lets the model predict windows of up to `pages` pages, or as many as it has.
    ///
    /// # Errors
    ///
    /// When cargo cannot be started, the test fails, or what it writes cannot be read.
    pub fn make(workspace: &Workspace, pages: u64) -> Result<Self> {
        let scratch = scratch::folder(workspace)?;
        let path = scratch.path().join("prediction");
        let output = process::capture(
            process::cargo(workspace)
                .args(["test", "--release", "--package=kernel", "--test=windows"])
                .env(ASKED_BY, &path)
                .env(PAGES, pages.to_string()),
        )?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            bail!(
                "the model predicts nothing (cargo test -p kernel --test windows):\n{}",
                String::from_utf8_lossy(&said)
            );
        }
        let text = fs::read_to_string(&path)
            .with_context(|| format!("the model has written nothing to {ASKED_BY}"))?;
        Self::parse(&text, pages.min(LARGEST))
    }

    fn parse(text: &str, most: u64) -> Result<Self> {
        let mut known = BTreeMap::new();
        for text in text.lines() {
            let words = text.strip_prefix("predicted ").context("no prediction");
            let line: Line = words
                .and_then(lines::fields)
                .with_context(|| format!("in `{text}`"))?;
            let terms = key(&line.backend, &line.policy, &line.tlb);
            let barriers = [line.dsb, line.isb, line.tlbi, line.ish];
            ensure!(
                known
                    .insert((terms, line.op, line.pages), barriers)
                    .is_none(),
                "`{text}` is the second one of its kind"
            );
        }
        ensure!(!known.is_empty(), "the model has predicted no window");
        Ok(Self { known, most })
    }

    /// What is predicted for a window, or for an event of the scheduler, which has 0 pages.
    pub fn of(&self, terms: &Terms, op: u8, pages: u64) -> Option<Barriers> {
        let terms = key(&terms.backend, &terms.policy, terms.tlb());
        self.known.get(&(terms, op, pages)).copied()
    }

    /// Whether the model was asked for windows of `pages` pages.
    pub fn covers(&self, pages: u64) -> bool {
        pages <= self.most
    }

    /// The windows that are predicted, without the events.
    pub fn windows(&self, terms: &Terms) -> impl Iterator<Item = (u8, u64)> {
        let wanted = key(&terms.backend, &terms.policy, terms.tlb());
        let of_terms = self
            .known
            .keys()
            .filter(move |(terms, ..)| *terms == wanted);
        of_terms
            .map(|(_, op, pages)| (*op, *pages))
            .filter(|(_, pages)| *pages > 0 && self.covers(*pages))
    }
}

fn key(backend: &str, policy: &str, tlb: &str) -> String {
    format!("backend={backend} policy={policy} tlb={tlb}")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const TEXT: &str = "\
predicted backend=eager policy=classic tlb=none op=8 pages=4 dsb=4 isb=4 tlbi=0 ish=0
predicted backend=eager policy=classic tlb=none op=8 pages=16 dsb=16 isb=16 tlbi=0 ish=0
predicted backend=eager policy=ets2 tlb=ttl,range op=8 pages=4 dsb=0 isb=0 tlbi=1 ish=1
predicted backend=eager policy=classic tlb=none op=131 dsb=1 isb=0 tlbi=0 ish=1
";

    /// A prediction of these lines, as if the model was asked for 4096 pages at most.
    pub fn prediction(text: &str) -> Prediction {
        Prediction::parse(text, 4096).unwrap()
    }

    #[test]
    fn lines_are_read() {
        let read = prediction(TEXT);
        let small = Terms::new("cortex-a72", "classic", "eager");
        assert_eq!(read.of(&small, 8, 4), Some([4, 4, 0, 0]));
        assert_eq!(
            read.of(&Terms::new("max", "ets2", "eager"), 8, 4),
            Some([0, 0, 1, 1])
        );
        assert_eq!(read.of(&Terms::new("max", "classic", "eager"), 8, 4), None);
        assert_eq!(read.windows(&small).collect::<Vec<_>>(), [(8, 4), (8, 16)]);
        assert!(read.covers(4096) && !read.covers(4097));
        let fewer = Prediction::parse(TEXT, 4).unwrap();
        assert_eq!(fewer.windows(&small).collect::<Vec<_>>(), [(8, 4)]);
        assert_eq!(read.of(&small, 131, 0), Some([1, 0, 0, 1]));
        assert_eq!(read.of(&small, 8, 0), None);
        assert_eq!(read.of(&small, 131, 4), None);
    }

    #[test]
    fn a_line_that_says_something_else_is_refused() {
        for (from, to, expected) in [
            ("predicted", "perhaps", "no prediction"),
            (" op=8 ", " ", "missing field `op`"),
            ("dsb=4", "dsb=four", "invalid type: string \"four\""),
            ("isb=4 ", "", "missing field `isb`"),
            ("pages=16", "pages=4", "is the second one of its kind"),
            ("pages=16", "pages=", "invalid type: string \"\""),
            ("op=131", "op=131 page=1", "unknown field `page`"),
        ] {
            let error = Prediction::parse(&TEXT.replace(from, to), 4096).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{to}: {error:#}");
        }
        assert!(Prediction::parse("", 4096).is_err());
    }
}
