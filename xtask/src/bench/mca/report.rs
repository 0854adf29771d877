// SPDX-License-Identifier: MIT OR Apache-2.0

//! The rows and the table: what an entry costs in each hot loop, beside both limits.

use super::estimate::Estimate;
use super::loops::Loop;
use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};

/// Cycles per entry at one store pair per cycle.
const PAIR_PER_CYCLE: f64 = 0.5;

/// A loop, and copies of it that cost the same.
#[derive(Debug)]
pub struct Row {
    title: &'static str,
    /// The copy nearest to the window.
    nearest: Loop,
    copies: usize,
    estimate: Estimate,
}

impl Row {
    /// Where it is: address and name of the loop.
    pub const fn place(&self) -> (u64, &'static str) {
        (self.nearest.body.start, self.title)
    }

    fn per_pte(&self, of_a_round: f64) -> f64 {
        of_a_round / f64::from(self.nearest.ptes)
    }

    /// Cycles per entry in the simulation.
    fn cycles(&self) -> f64 {
        self.per_pte(self.estimate.round())
    }

    fn cells(&self, only_pairs: f64) -> [String; 9] {
        let figure = |value: f64| format!("{value:.2}");
        [
            self.title.to_owned(),
            self.copies.to_string(),
            self.nearest.ptes.to_string(),
            figure(self.per_pte(self.nearest.words.len() as f64)),
            figure(self.per_pte(self.estimate.bound())),
            figure(self.cycles()),
            figure(self.cycles() / PAIR_PER_CYCLE),
            figure(self.cycles() / only_pairs),
            self.estimate.limits(),
        ]
    }
}

/// A row for each of `found` that costs something else than those before it: copies differ in
/// their registers, and nothing else is expected of them.
///
/// # Errors
///
/// Those of `estimate`, which is given the words of a loop.
pub fn rows(
    title: &'static str,
    found: Vec<Loop>,
    estimate: impl Fn(&[u32]) -> Result<Estimate>,
) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for copy in found {
        let estimate = estimate(&copy.words)?;
        let same = rows.iter_mut().find(|row| {
            let alike =
                row.nearest.ptes == copy.ptes && row.nearest.words.len() == copy.words.len();
            alike && row.estimate == estimate
        });
        match same {
            Some(row) => row.copies += 1,
            None => rows.push(Row {
                title,
                nearest: copy,
                copies: 1,
                estimate,
            }),
        }
    }
    Ok(rows)
}

/// All rows; `only_pairs` is what the model takes per entry for store pairs and nothing else.
pub fn table(rows: &[Row], only_pairs: f64) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header([
        "loop".to_owned(),
        "copies".to_owned(),
        "PTEs\na round".to_owned(),
        "instr.\nper PTE".to_owned(),
        "cycles\nper PTE:\nbound".to_owned(),
        "\n\nsimulated".to_owned(),
        format!("times\n{PAIR_PER_CYCLE:.2}:\na pair\nper cycle"),
        format!("times\n{only_pairs:.2}:\npairs in\nthe model"),
        "limited by".to_owned(),
    ]);
    for row in rows {
        table.add_row(row.cells(only_pairs));
    }
    for column in table.column_iter_mut().skip(1).take(7) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(start: u64, ptes: u32) -> Loop {
        Loop {
            body: start..start + 24,
            words: vec![start as u32; 6],
            ptes,
        }
    }

    fn estimate(cycles: u32) -> Result<Estimate> {
        Estimate::parse(&format!(
            "Iterations: 10\nTotal Cycles: {cycles}\nDispatch Width: 3\n\
             Block RThroughput: 8.0\n\nInstruction Info:\n[1]: #uOps\n[1] Instructions:\n1 nop\n\n\
             Resources:\n[0] - Stores\n\n\
             Resource pressure per iteration:\n[0]\n8.00\n"
        ))
    }

    #[test]
    fn copies_that_cost_the_same_are_one_row() -> Result<()> {
        let found = vec![copy(1, 8), copy(2, 8), copy(3, 8), copy(4, 4)];
        let rows = rows("clear", found, |words| {
            estimate(if words[0] == 2 { 96 } else { 80 })
        })?;
        let shown: Vec<_> = rows.iter().map(|row| (row.place().0, row.copies)).collect();
        assert_eq!(shown, [(1, 2), (2, 1), (4, 1)]);
        Ok(())
    }

    #[test]
    fn figures_are_per_entry_and_beside_both_limits() -> Result<()> {
        let rows = rows("clear", vec![copy(1, 8)], |_| estimate(96))?;
        assert_eq!(
            rows[0].cells(0.8),
            [
                "clear",
                "1",
                "8",
                "0.75",
                "1.00",
                "1.20",
                "2.40",
                "1.50",
                "none: units and dispatch take 8.0 a round"
            ]
        );
        let text = table(&rows, 0.8).to_string();
        assert!(
            text.contains("0.50:") && text.contains("0.80:") && text.contains("2.40"),
            "{text}"
        );
        Ok(())
    }
}
