// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the same operations cost Linux: the figures of linux.json, which says how they were measured.
//!
//! The file is part of xtask, so that a report needs no other machine; nothing here measures Linux.

use super::costs::Cost;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

/// The kernel that has the lazy MMU mode.
pub const NEWEST: &str = "7.2.12";

/// What it was measured on, linux.json: barriers are those without FEAT_ETS2.
const MEASURED_ON: &str = "cortex-a72, classic";

static LINUX: LazyLock<Linux> = LazyLock::new(|| {
    serde_json::from_str(include_str!("linux.json")).expect("a test has read the same text")
});

/// In legends: the kernel, and what it was measured on, whatever the plot is about.
pub fn label(kernel: &str) -> String {
    format!("Linux {kernel} ({MEASURED_ON})")
}

/// Instructions, DSB, ISB and TLBI, as far as they were measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Figure([Option<f64>; 4]);

impl Figure {
    /// Instructions.
    pub fn instructions(self) -> Option<f64> {
        self.0[0]
    }

    /// DSB and ISB together.
    pub fn barriers(self) -> Option<f64> {
        Some(self.0[1]? + self.0[2]?)
    }
}

impl From<&Cost> for Figure {
    fn from(cost: &Cost) -> Self {
        let counts = [cost.instructions, cost.dsb, cost.isb, cost.tlbi];
        Self(counts.map(|count| Some(count as f64)))
    }
}

impl fmt::Display for Figure {
    /// `120.8 / 0.002 / 0.002 / 0`, without what was not measured at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.0.iter().rposition(Option::is_some);
        for (i, number) in self.0.iter().take(known.map_or(0, |at| at + 1)).enumerate() {
            if i > 0 {
                f.write_str(" / ")?;
            }
            match number {
                Some(number) => number.fmt(f)?,
                None => f.write_str("-")?,
            }
        }
        Ok(())
    }
}

/// A row of the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Row {
    /// What was called.
    pub window: String,
    /// The windows of ours that do the same.
    pub ours: Vec<u8>,
    /// On how many pages; 0 where a page more is meant.
    #[serde(default)]
    pub pages: u64,
    /// By kernel.
    #[serde(flatten)]
    pub figures: BTreeMap<String, Figure>,
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Linux {
    /// How it was measured, in sentences.
    pub how: Vec<String>,
    /// The kernels, newest first.
    pub kernels: Vec<String>,
    /// What a page more costs, from 512 to 4096.
    #[serde(rename = "per_page_from_512_to_4096_pages")]
    pub per_page: Vec<Row>,
    /// What a call costs.
    pub whole_calls: Vec<Row>,
}

impl Linux {
    /// The figures.
    pub fn get() -> &'static Self {
        &LINUX
    }

    /// What Linux was called for, where our window is `op`.
    pub fn window(&self, op: u8) -> Option<&str> {
        let row = self.per_page.iter().find(|row| row.is(op))?;
        Some(&row.window)
    }

    /// What a page more costs `kernel` in the operation that is our window `op`.
    pub fn page(&self, op: u8, kernel: &str) -> Option<Figure> {
        let row = self.per_page.iter().find(|row| row.is(op))?;
        row.figures.get(kernel).copied()
    }

    /// What calls for different numbers of pages cost `kernel`.
    pub fn calls(&self, op: u8, kernel: &str) -> impl Iterator<Item = (u64, Figure)> {
        let rows = self.whole_calls.iter().filter(move |row| row.is(op));
        rows.filter_map(move |row| Some((row.pages, *row.figures.get(kernel)?)))
    }

    /// What a call for `pages` pages costs `kernel`.
    pub fn call(&self, op: u8, pages: u64, kernel: &str) -> Option<Figure> {
        let mut calls = self.calls(op, kernel);
        let (_, figure) = calls.find(|(of, _)| *of == pages)?;
        Some(figure)
    }
}

impl Row {
    fn is(&self, op: u8) -> bool {
        self.ours.contains(&op)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::subjects::{Group, Subject};

    #[test]
    fn the_file_is_read_as_it_is_written() {
        let linux = Linux::get();
        assert_eq!(linux.kernels, [NEWEST, "6.12.107", "6.1.176"]);
        assert_eq!((linux.per_page.len(), linux.whole_calls.len()), (16, 5));
        let shown = |op, kernel| linux.page(op, kernel).map(|figure| figure.to_string());
        assert_eq!(
            shown(1, NEWEST).as_deref(),
            Some("120.8 / 0.002 / 0.002 / 0")
        );
        assert_eq!(shown(13, "6.12.107").as_deref(), Some("366 / 4 / 3 / 0.86"));
        assert_eq!(shown(129, NEWEST).as_deref(), Some("120.7"));
        assert_eq!(shown(18, "6.1.176"), None);
        assert_eq!(shown(255, NEWEST), None);
        let window = "set_memory_ro (also changes the linear alias)";
        assert_eq!([13, 255].map(|op| linux.window(op)), [Some(window), None]);
        let call = linux.call(1, 65_536, NEWEST).unwrap();
        assert_eq!(
            (call.instructions(), call.barriers()),
            (Some(7.92e6), Some(131.0 + 153.0))
        );
        assert_eq!(linux.call(1, 5, NEWEST), None);
    }

    #[test]
    fn what_linux_did_is_something_that_we_do() {
        let linux = Linux::get();
        for row in linux.per_page.iter().chain(&linux.whole_calls) {
            assert!(!row.figures.is_empty(), "{}", row.window);
            for op in &row.ours {
                let known = Subject::all(Group::Operation).any(|known| known.op == *op);
                assert!(known, "{}: {op}", row.window);
            }
            for kernel in row.figures.keys() {
                assert!(linux.kernels.contains(kernel), "{}: {kernel}", row.window);
            }
        }
    }

    #[test]
    fn what_is_not_known_is_not_shown_as_zero() {
        let shown = |list: &str| serde_json::from_str::<Figure>(list);
        assert_eq!(
            shown("[1322, 2, null, 1]").unwrap().to_string(),
            "1322 / 2 / - / 1"
        );
        assert_eq!(shown("[1, 2, null, 1]").unwrap().barriers(), None);
        assert_eq!(shown("[1, null, null, null]").unwrap().to_string(), "1");
        assert!(shown("[1, 2, 3]").is_err());
        assert!(shown("[1, 2, 3, \"4\"]").is_err());
    }
}
