// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the machine model says that each window executes (kernel/tests/windows.rs).

use super::counted::{MOST_OF_USUAL, Terms};
use crate::process;
use crate::scratch;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fs;

/// The variable by which the test is asked for a file.
const ASKED_BY: &str = "LAZYMMU_PREDICTION";
/// And for how many pages at most.
const PAGES: &str = "LAZYMMU_PAGES";

/// DSB, ISB, TLBI, and the `DSB ISH` among the DSB.
pub type Barriers = [u64; 4];

/// By `backend= policy= tlb=`, number and pages; an event of the scheduler's has none.
#[derive(Clone, Debug, Default)]
pub struct Prediction {
    known: BTreeMap<(String, u8, Option<u64>), Barriers>,
    /// Pages of the largest windows that the model was asked for.
    most: u64,
}

/// Pages of the largest windows that it has.
pub const LARGEST: u64 = MOST_OF_USUAL;

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
        let mut all = BTreeMap::new();
        for line in text.lines() {
            let read = || -> Result<_> {
                let words = line.strip_prefix("predicted ").context("no prediction")?;
                let (terms, rest) = words.split_once(" op=").context("`op=` is missing")?;
                let (op, mut rest) = rest.split_once(' ').context("nothing follows `op=`")?;
                let mut next = |name: &str| -> Result<u64> {
                    let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
                    let digits = word.strip_prefix(name);
                    let digits = digits.with_context(|| format!("`{name}` is missing"))?;
                    rest = behind;
                    Ok(digits.parse()?)
                };
                let pages = words.contains(" pages=").then(|| next("pages="));
                let barriers = [next("dsb=")?, next("isb=")?, next("tlbi=")?, next("ish=")?];
                Ok((
                    (terms.to_owned(), op.parse()?, pages.transpose()?),
                    barriers,
                ))
            };
            let (key, barriers) = read().with_context(|| format!("in `{line}`"))?;
            ensure!(
                all.insert(key, barriers).is_none(),
                "`{line}` is the second one of its kind"
            );
        }
        ensure!(!all.is_empty(), "the model has predicted no window");
        Ok(Self { known: all, most })
    }

    /// What is predicted for a window.
    pub fn of(&self, terms: &Terms, op: u8, pages: u64) -> Option<Barriers> {
        self.known.get(&(key(terms), op, Some(pages))).copied()
    }

    /// What is predicted for an event of the scheduler's.
    pub fn of_event(&self, terms: &Terms, op: u8) -> Option<Barriers> {
        self.known.get(&(key(terms), op, None)).copied()
    }

    /// Whether the model was asked for windows of `pages` pages.
    pub fn covers(&self, pages: u64) -> bool {
        pages <= self.most
    }

    /// The windows that are predicted.
    pub fn windows(&self, terms: &Terms) -> impl Iterator<Item = (u8, u64)> {
        let key = key(terms);
        self.known
            .keys()
            .filter(move |(terms, _, _)| *terms == key)
            .filter_map(|(_, op, pages)| Some((*op, (*pages)?)))
            .filter(|(_, pages)| self.covers(*pages))
    }
}

fn key(terms: &Terms) -> String {
    format!("{} tlb={}", terms.said(), terms.tlb())
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
        assert_eq!(read.of_event(&small, 131), Some([1, 0, 0, 1]));
        assert_eq!(read.of_event(&small, 8), None);
        assert_eq!(read.of(&small, 131, 4), None);
    }

    #[test]
    fn a_line_that_says_something_else_is_refused() {
        for (from, to, expected) in [
            ("predicted", "perhaps", "no prediction"),
            (" op=8 ", " ", "`op=` is missing"),
            ("dsb=4", "dsb=four", "invalid digit"),
            ("isb=4 ", "", "`isb=` is missing"),
            ("pages=16", "pages=4", "is the second one of its kind"),
            ("pages=16", "pages=", "cannot parse integer"),
            ("op=131", "op=131 page=1", "`dsb=` is missing"),
        ] {
            let error = Prediction::parse(&TEXT.replace(from, to), 4096).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{to}: {error:#}");
        }
        assert!(Prediction::parse("", 4096).is_err());
    }
}
