// SPDX-License-Identifier: MIT OR Apache-2.0

//! What llvm-mca prints of a loop, and what limits the loop.
//!
//! The text is read rather than the JSON: its summary and its table of pressure are the same in
//! all versions, the JSON is not.

use anyhow::{Context, Result, ensure};
use std::str::FromStr;

/// By how much a simulated loop may exceed its busiest resource and still be limited by it.
const SLACK: f64 = 1.02;
/// Rounds over which groups of dispatch are averaged: they need not begin where a round does.
const GROUPED: u32 = 100;

/// A loop as llvm-mca sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    iterations: f64,
    cycles: f64,
    /// Micro-operations that are dispatched per cycle.
    width: u32,
    block: f64,
    /// Units and for how many cycles a round keeps each of them busy.
    pressure: Vec<(String, f64)>,
    /// Micro-operations of each instruction.
    uops: Vec<u32>,
}

impl Estimate {
    /// Reads the summary and the table of pressure.
    ///
    /// # Errors
    ///
    /// When one of them is missing or no number; the error names it.
    pub fn parse(text: &str) -> Result<Self> {
        let estimate = Self {
            iterations: value(text, "Iterations")?,
            cycles: value(text, "Total Cycles")?,
            width: value(text, "Dispatch Width")? as u32,
            block: value(text, "Block RThroughput")?,
            pressure: pressure(text)?,
            uops: uops(text)?,
        };
        ensure!(
            estimate.iterations >= 1.0 && estimate.width >= 1,
            "`Iterations` and `Dispatch Width` must be 1 at least"
        );
        Ok(estimate)
    }

    /// Cycles that a round takes at least: those of its busiest unit, or its micro-operations by the width of
    /// dispatch.
    pub const fn bound(&self) -> f64 {
        self.block
    }

    /// Cycles of a round in the simulation.
    pub fn round(&self) -> f64 {
        self.cycles / self.iterations
    }

    /// What decides how long a round takes: the busiest units or dispatch.
    pub fn limits(&self) -> String {
        let mut all: Vec<(String, f64)> = self
            .pressure
            .iter()
            .map(|(name, cycles)| (described(name), *cycles))
            .collect();
        all.push((
            format!("dispatch ({} a cycle)", self.width),
            self.dispatch(),
        ));
        let most = all.iter().map(|(_, cycles)| *cycles).fold(0.0, f64::max);
        if self.round() > most * SLACK {
            return format!("none: units and dispatch take {most:.1} a round");
        }
        all.retain(|(_, cycles)| cycles * SLACK >= most);
        let mut names: Vec<_> = all.into_iter().map(|(name, _)| name).collect();
        // Units of a kind have the same name.
        names.dedup();
        names.join(", ")
    }

    /// Cycles that dispatch takes for a round if nothing else holds it up. An instruction waits for a new group
    /// if its micro-operations are more than the group has left, so this can be more than their number by the width;
    /// of one that is wider than a group, the rest goes into the next.
    fn dispatch(&self) -> f64 {
        let (mut cycles, mut left) = (0, 0);
        for uops in (0..GROUPED).flat_map(|_| &self.uops) {
            if self.width.min(*uops) > left {
                cycles += 1;
                left = self.width;
            }
            let mut rest = *uops;
            while rest > left {
                rest -= left;
                cycles += 1;
                left = self.width;
            }
            left -= rest;
        }
        f64::from(cycles) / f64::from(GROUPED)
    }
}

/// A unit's name in LLVM's model of the Cortex-A57, with what it does; any other as it is.
fn described(unit: &str) -> String {
    let does = match unit {
        "A57UnitB" => "branches",
        "A57UnitI" => "integer",
        "A57UnitL" => "loads",
        "A57UnitS" => "stores",
        _ => return unit.to_owned(),
    };
    format!("{unit} ({does})")
}

/// The number behind `name:` at the start of a line.
fn value(text: &str, name: &str) -> Result<f64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .with_context(|| format!("there is no line `{name}:`"))?;
    number(line.trim()).with_context(|| format!("`{name}` is `{}`", line.trim()))
}

fn number(text: &str) -> Result<f64> {
    let number = f64::from_str(text).context("that is no number")?;
    ensure!(number.is_finite() && number >= 0.0, "that is no count");
    Ok(number)
}

/// Pairs the list of resources with the one row of the table per iteration.
fn pressure(text: &str) -> Result<Vec<(String, f64)>> {
    const TABLE: &str = "Resource pressure per iteration:";
    let resources = text.split_once("Resources:\n");
    let (_, resources) = resources.context("there is no list `Resources:`")?;
    let names = resources
        .lines()
        .take_while(|line| line.starts_with('['))
        .map(|line| {
            let (_, name) = line.split_once("- ").context("a resource has no name")?;
            Ok(name.trim().to_owned())
        })
        .collect::<Result<Vec<_>>>()?;
    let table = text.split_once(TABLE);
    let (_, table) = table.with_context(|| format!("there is no table `{TABLE}`"))?;
    // Behind the rest of its own line and the columns' heads.
    let row = table.lines().nth(2).unwrap_or_default();
    let cells: Vec<_> = row.split_whitespace().collect();
    ensure!(
        !names.is_empty() && cells.len() == names.len(),
        "`{TABLE}` has {} columns for {} resources",
        cells.len(),
        names.len()
    );
    names
        .into_iter()
        .zip(cells)
        .map(|(name, cell)| match cell {
            "-" => Ok((name, 0.0)),
            _ => Ok((
                name,
                number(cell).with_context(|| format!("a pressure is `{cell}`"))?,
            )),
        })
        .collect()
}

/// The first column of the table of instructions.
fn uops(text: &str) -> Result<Vec<u32>> {
    const TABLE: &str = "Instruction Info:";
    const FIRST: &str = "[1]: #uOps";
    let table = text.split_once(TABLE).map(|(_, table)| table);
    let table = table.filter(|table| table.trim_start().starts_with(FIRST));
    let table = table.with_context(|| format!("there is no table `{TABLE}` with `{FIRST}`"))?;
    let rows = table
        .lines()
        .skip_while(|line| !line.ends_with("Instructions:"))
        .skip(1)
        .take_while(|line| !line.trim().is_empty());
    let uops = rows
        .map(|row| {
            let first = row.split_whitespace().next().unwrap_or_default();
            first
                .parse()
                .with_context(|| format!("an instruction has `{first}` micro-operations"))
        })
        .collect::<Result<Vec<_>>>()?;
    ensure!(!uops.is_empty(), "`{TABLE}` has no rows");
    Ok(uops)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What LLVM 14 prints of a loop of four `stp xzr, xzr`, `subs` and `b.ne`, shortened in the middle of
    /// the last table.
    const PRINTED: &str = "\
Iterations:        1000
Instructions:      6000
Total Cycles:      8003
Total uOps:        12000

Dispatch Width:    3
uOps Per Cycle:    1.50
IPC:               0.75
Block RThroughput: 8.0


Instruction Info:
[1]: #uOps
[2]: Latency
[3]: RThroughput
[4]: MayLoad
[5]: MayStore
[6]: HasSideEffects (U)

[1]    [2]    [3]    [4]    [5]    [6]    Instructions:
 4      2     2.00           *            stp\txzr, xzr, [x8], #64
 2      2     2.00           *            stp\txzr, xzr, [x8, #-48]
 2      2     2.00           *            stp\txzr, xzr, [x8, #-32]
 2      2     2.00           *            stp\txzr, xzr, [x8, #-16]
 1      1     0.50                        subs\tx9, x9, #1
 1      1     1.00                        b.ne\t#-20


Resources:
[0]   - A57UnitB
[1.0] - A57UnitI
[1.1] - A57UnitI
[2]   - A57UnitL
[3]   - A57UnitM
[4]   - A57UnitS
[5]   - A57UnitW
[6]   - A57UnitX


Resource pressure per iteration:
[0]    [1.0]  [1.1]  [2]    [3]    [4]    [5]    [6]    
1.00   1.01   1.99    -      -     8.00    -      -     

Resource pressure by instruction:
[0]    [1.0]  [1.1]  [2]    [3]    [4]    [5]    [6]    Instructions:
 -     0.03   1.97    -      -     2.00    -      -     stp\txzr, xzr, [x8], #64
";

    fn changed(from: &str, to: &str) -> Result<Estimate> {
        assert!(PRINTED.contains(from), "{from}");
        Estimate::parse(&PRINTED.replacen(from, to, 1))
    }

    #[test]
    fn summary_and_pressure_are_read() -> Result<()> {
        let estimate = Estimate::parse(PRINTED)?;
        assert_eq!(estimate.bound(), 8.0);
        assert_eq!(estimate.round(), 8.003);
        let expected = [
            ("A57UnitB", 1.0),
            ("A57UnitI", 1.01),
            ("A57UnitI", 1.99),
            ("A57UnitL", 0.0),
            ("A57UnitM", 0.0),
            ("A57UnitS", 8.0),
            ("A57UnitW", 0.0),
            ("A57UnitX", 0.0),
        ];
        assert_eq!(
            estimate.pressure,
            expected.map(|(name, cycles)| (name.to_owned(), cycles))
        );
        Ok(())
    }

    #[test]
    fn the_limit_is_the_busiest_unit() -> Result<()> {
        assert_eq!(Estimate::parse(PRINTED)?.limits(), "A57UnitS (stores)");
        let both = changed("1.00   1.01   1.99 ", "1.00   8.00   7.99 ")?;
        assert_eq!(both.limits(), "A57UnitI (integer), A57UnitS (stores)");
        let other = changed("- A57UnitS", "- OtherUnit7")?;
        assert_eq!(other.limits(), "OtherUnit7");
        Ok(())
    }

    #[test]
    fn the_limit_may_be_dispatch_or_unknown() -> Result<()> {
        let many = changed(" 2      2     2.00 ", " 9      2     2.00 ")?;
        let both = "A57UnitS (stores), dispatch (3 a cycle)";
        assert_eq!(many.limits(), both);
        let less = changed("8.00  ", "7.00  ")?;
        assert_eq!(less.limits(), "none: units and dispatch take 7.0 a round");
        Ok(())
    }

    #[test]
    fn dispatch_does_not_split_an_instruction_that_fits_a_group() -> Result<()> {
        let mut estimate = Estimate::parse(PRINTED)?;
        let cases: [(&[u32], f64); 7] = [
            (&[1, 1, 1], 1.0),
            (&[1], 0.34),
            (&[2, 2, 2], 3.0),
            (&[2, 1], 1.0),
            (&[1, 3], 2.0),
            // The first begins a group, and two of the next are left behind its rest.
            (&[4, 2], 2.0),
            (&[7, 1, 1], 3.0),
        ];
        for (uops, cycles) in cases {
            estimate.uops = uops.to_vec();
            assert_eq!(estimate.dispatch(), cycles, "{uops:?}");
        }
        Ok(())
    }

    #[test]
    fn what_is_missing_or_no_number_is_named() {
        for (from, to, named) in [
            ("Total Cycles", "Cycles", "Total Cycles"),
            (": 8.0\n", ": many\n", "Block RThroughput"),
            (
                "Iterations:        1000",
                "Iterations:        0",
                "Iterations",
            ),
            ("Resources:", "Units:", "Resources:"),
            ("Instruction Info:", "Instructions:", "Instruction Info:"),
            (" 4      2 ", " x      2 ", "`x` micro-operations"),
            ("per iteration:", "in all:", "per iteration:"),
            ("[6]   - A57UnitX\n", "", "8 columns for 7 resources"),
            ("8.00  ", "eight ", "eight"),
        ] {
            let error = changed(from, to).map_err(|error| format!("{error:#}"));
            let error = error.expect_err(named);
            assert!(error.contains(named), "{error}");
        }
    }
}
