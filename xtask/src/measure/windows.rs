// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the plugin writes (xtask/plugin): one line of JSON for each window that a guest executed.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

/// Counts by name; what was not executed has none.
pub type Named = BTreeMap<String, u64>;

/// One execution of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Window {
    /// What it measures.
    pub op: u64,
    /// On how many pages.
    pub pages: u64,
    /// The how many-th with this `op` and these `pages`, from 1.
    pub execution: u64,
    /// The CPU, by its number in QEMU.
    pub vcpu: u64,
    /// Executed instructions; one that faulted and was executed again counts twice.
    pub instructions: u64,
    /// DSB by domain and type.
    pub dsb: Named,
    /// DMB by domain and type.
    pub dmb: Named,
    /// TLBI by operation.
    pub tlbi: Named,
    /// ISB.
    pub isb: u64,
    /// ERET.
    pub eret: u64,
    /// Exceptions taken.
    pub exceptions: u64,
}

/// A window that ended elsewhere than it began, or not at all.
#[derive(Deserialize)]
struct Problem {
    problem: String,
}

/// All that one guest executed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// In the order in which they ended.
    pub windows: Vec<Window>,
    /// Windows that ended elsewhere than they began, or not at all.
    pub problems: Vec<String>,
}

impl Windows {
    /// Reads the plugin's file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or a line is none of the plugin's.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("cannot read what was counted, {}", path.display()))?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut all = Self::default();
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(Problem { problem }) => all.problems.push(problem),
                Err(_) => all
                    .windows
                    .push(serde_json::from_str(line).with_context(|| format!("in `{line}`"))?),
            }
        }
        Ok(all)
    }
}

/// The DSB, DMB and TLBI that the page-table library executes (kernel/mmu/src/hardware.rs).
const OF_THE_LIBRARY: [&[&str]; 3] = [
    &["ish", "ishst"],
    &["ishst"],
    &[
        "vmalle1is",
        "aside1is",
        "vae1is",
        "vale1is",
        "vaae1is",
        "vaale1is",
        "rvae1is",
        "rvale1is",
        "rvaae1is",
        "rvaale1is",
    ],
];

impl Window {
    /// Barriers and invalidations that are not the library's: in a window in which the library alone is at work, each
    /// of them replaces one of the library's.
    pub fn strange(&self) -> Vec<String> {
        let kinds = self.by_name().into_iter().zip(OF_THE_LIBRARY);
        kinds
            .flat_map(|((kind, found), known)| {
                let strange = found.keys().filter(|name| !known.contains(&name.as_str()));
                strange.map(move |name| format!("{kind} {name}"))
            })
            .collect()
    }

    /// DSB of all domains and types.
    pub fn all_dsb(&self) -> u64 {
        self.dsb.values().sum()
    }

    /// `DSB ISH`, without those for loads or stores alone.
    pub fn dsb_ish(&self) -> u64 {
        self.dsb.get("ish").copied().unwrap_or(0)
    }

    /// DMB of all domains and types.
    pub fn all_dmb(&self) -> u64 {
        self.dmb.values().sum()
    }

    /// TLBI of all operations.
    pub fn all_tlbi(&self) -> u64 {
        self.tlbi.values().sum()
    }

    fn by_name(&self) -> [(&'static str, &Named); 3] {
        [("dsb", &self.dsb), ("dmb", &self.dmb), ("tlbi", &self.tlbi)]
    }
}

impl fmt::Display for Window {
    /// Leaves out what was not executed, instructions excepted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "op={} pages={} execution={} vcpu={} instructions={}",
            self.op, self.pages, self.execution, self.vcpu, self.instructions
        )?;
        for (kind, named) in self.by_name() {
            for (name, count) in named {
                write!(f, " {kind}.{name}={count}")?;
            }
        }
        let others = [
            ("isb", self.isb),
            ("eret", self.eret),
            ("exceptions", self.exceptions),
        ];
        for (name, count) in others.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, " {name}={count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "{\"id\":134217732,\"op\":8,\"pages\":4,\"execution\":2,\"vcpu\":0,\
        \"instructions\":338,\"dsb\":{\"ish\":2,\"ishst\":1},\"dmb\":{},\"tlbi\":{\"vaale1is\":4},\
        \"isb\":1,\"eret\":0,\"exceptions\":0}";

    #[test]
    fn what_is_not_the_library_s_is_strange() {
        let one = |name: &str| Named::from([(name.to_owned(), 1)]);
        let mut window = Window {
            dsb: one("ishst"),
            dmb: one("ishst"),
            tlbi: one("rvaale1is"),
            ..Window::default()
        };
        assert_eq!(window.strange(), [""; 0]);
        window.dsb = one("nshst");
        window.tlbi = one("vaale1");
        assert_eq!(window.strange(), ["dsb nshst", "tlbi vaale1"]);
    }

    #[test]
    fn a_line_is_read_and_shown() {
        let read = Windows::parse(&format!("{LINE}\n{LINE}\n")).unwrap();
        assert_eq!(read.windows.len(), 2);
        assert_eq!(read.problems, [""; 0]);
        assert_eq!(read.windows[0], read.windows[1]);
        let window = &read.windows[0];
        assert_eq!((window.all_dsb(), window.all_tlbi()), (3, 4));
        assert_eq!(
            window.to_string(),
            "op=8 pages=4 execution=2 vcpu=0 instructions=338 dsb.ish=2 dsb.ishst=1 \
             tlbi.vaale1is=4 isb=1"
        );
    }

    #[test]
    fn a_problem_is_kept_apart() {
        let read = Windows::parse("{\"problem\":\"it ended elsewhere\",\"vcpu\":1}\n").unwrap();
        assert_eq!(read.windows, []);
        assert_eq!(read.problems, ["it ended elsewhere"]);
    }

    #[test]
    fn a_line_that_says_something_else_is_refused() {
        for (from, to, expected) in [
            ("\"op\":8,", "", "missing field `op`"),
            ("\"dmb\":{},", "", "missing field `dmb`"),
            ("\"isb\":1", "\"isb\":one", "expected value"),
            ("\"isb\":1", "\"isb\":-1", "expected u64"),
            ("\"ish\":2", "\"ish\":\"2\"", "invalid type: string \"2\""),
            ("\"ish\":2,", "\"ish\":2;", "expected `,` or `}`"),
            ("{\"id\"", "\"id\"", "invalid type: string \"id\""),
            ("\"pages\":", "\"pages\"", "expected `:`"),
            (
                "\"exceptions\":0}",
                "\"exceptions\":0",
                "EOF while parsing an object",
            ),
            (
                "\"exceptions\":0}",
                "\"exceptions\":0}}",
                "trailing characters",
            ),
            ("\"vcpu\":0", "vcpu:0", "key must be a string"),
        ] {
            let error = Windows::parse(&LINE.replace(from, to)).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{to}: {error:#}");
        }
    }
}
