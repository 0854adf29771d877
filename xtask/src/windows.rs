// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the plugin writes (xtask/plugin): one line of JSON for each window that a guest executed.
//!
//! Only what these lines consist of is read: objects of numbers, one level deep, and strings without
//! escapes.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

/// Counts by name; what was not executed has none.
pub type Named = BTreeMap<String, u64>;

/// One execution of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// What it measures.
    pub op: u64,
    /// On how many pages.
    pub pages: u64,
    /// The how many-th with this `op` and these `pages`, from 1.
    pub execution: u64,
    /// The CPU.
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
            let read = Line::read(line).with_context(|| format!("in `{line}`"))?;
            match read.window() {
                Ok(window) => all.windows.push(window),
                Err(_) if read.text.contains_key("problem") => {
                    all.problems.push(read.text["problem"].clone());
                }
                Err(error) => return Err(error.context(format!("in `{line}`"))),
            }
        }
        Ok(all)
    }
}

/// What the page-table library executes (kernel/mmu/src/hardware.rs); by kind and name in [`Window`].
const OF_THE_LIBRARY: [(&str, &[&str]); 3] = [
    ("dsb", &["ish", "ishst"]),
    ("dmb", &["ishst"]),
    (
        "tlbi",
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
    ),
];

impl Window {
    /// Barriers and invalidations that are not the library's: where nobody else is at work, one of them is in the
    /// place of another.
    pub fn strange(&self) -> Vec<String> {
        let found = [&self.dsb, &self.dmb, &self.tlbi];
        let kinds = OF_THE_LIBRARY.iter().zip(found);
        kinds
            .flat_map(|((kind, known), found)| {
                let strange = found.keys().filter(|name| !known.contains(&name.as_str()));
                strange.map(move |name| format!("{kind} {name}"))
            })
            .collect()
    }

    /// All DSB.
    pub fn all_dsb(&self) -> u64 {
        self.dsb.values().sum()
    }

    /// All TLBI.
    pub fn all_tlbi(&self) -> u64 {
        self.tlbi.values().sum()
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
        for (kind, named) in [("dsb", &self.dsb), ("dmb", &self.dmb), ("tlbi", &self.tlbi)] {
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

/// The fields of one line, by the kind of their value.
#[derive(Default)]
struct Line {
    numbers: Named,
    objects: BTreeMap<String, Named>,
    text: BTreeMap<String, String>,
}

impl Line {
    fn read(line: &str) -> Result<Self> {
        let mut fields = Self::default();
        let rest = object(line, |name, value| {
            if value.starts_with('{') {
                let mut named = Named::new();
                let rest = object(value, |name, value| {
                    let (count, rest) = number(value)?;
                    named.insert(name, count);
                    Ok(rest)
                })?;
                fields.objects.insert(name, named);
                Ok(rest)
            } else if value.starts_with('"') {
                let (text, rest) = string(value)?;
                fields.text.insert(name, text.to_owned());
                Ok(rest)
            } else {
                let (count, rest) = number(value)?;
                fields.numbers.insert(name, count);
                Ok(rest)
            }
        })?;
        ensure!(rest.is_empty(), "`{rest}` stands behind the object");
        Ok(fields)
    }

    fn window(&self) -> Result<Window> {
        let number = |name: &str| {
            let number = self.numbers.get(name).copied();
            number.with_context(|| format!("the number `{name}` is missing"))
        };
        let named = |name: &str| {
            let named = self.objects.get(name).cloned();
            named.with_context(|| format!("the object `{name}` is missing"))
        };
        Ok(Window {
            op: number("op")?,
            pages: number("pages")?,
            execution: number("execution")?,
            vcpu: number("vcpu")?,
            instructions: number("instructions")?,
            dsb: named("dsb")?,
            dmb: named("dmb")?,
            tlbi: named("tlbi")?,
            isb: number("isb")?,
            eret: number("eret")?,
            exceptions: number("exceptions")?,
        })
    }
}

/// Reads an object, whose values `value` reads; comes back with what stands behind it.
fn object(text: &str, mut value: impl FnMut(String, &str) -> Result<&str>) -> Result<&str> {
    let mut rest = text.strip_prefix('{').context("no object")?;
    if let Some(rest) = rest.strip_prefix('}') {
        return Ok(rest);
    }
    loop {
        let (name, behind) = string(rest)?;
        let behind = behind.strip_prefix(':').context("a name has no value")?;
        rest = value(name.to_owned(), behind)?;
        if let Some(behind) = rest.strip_prefix('}') {
            return Ok(behind);
        }
        rest = rest.strip_prefix(',').context("an object does not end")?;
    }
}

fn string(text: &str) -> Result<(&str, &str)> {
    let text = text.strip_prefix('"').context("no string")?;
    text.split_once('"').context("a string does not end")
}

fn number(text: &str) -> Result<(u64, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    match digits.parse() {
        Ok(number) => Ok((number, rest)),
        Err(error) => bail!("`{digits}` is no number: {error}"),
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
            ("\"op\":8,", "", "the number `op` is missing"),
            ("\"dmb\":{},", "", "the object `dmb` is missing"),
            ("\"isb\":1", "\"isb\":one", "`` is no number"),
            ("\"ish\":2,", "\"ish\":2;", "an object does not end"),
            ("{\"id\"", "\"id\"", "no object"),
            ("\"pages\":", "\"pages\"", "a name has no value"),
            (
                "\"exceptions\":0}",
                "\"exceptions\":0",
                "an object does not end",
            ),
            (
                "\"exceptions\":0}",
                "\"exceptions\":0}}",
                "stands behind the object",
            ),
            ("\"vcpu\":0", "vcpu:0", "no string"),
        ] {
            let error = Windows::parse(&LINE.replace(from, to)).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{to}: {error:#}");
        }
    }
}
