// SPDX-License-Identifier: MIT OR Apache-2.0

//! The most important figures of the committed counts. `cargo xtask run` prints them after the
//! demonstration, and README.md shows them.

use super::tables::Titled;
use crate::measure::baseline;
use crate::measure::linux::{Linux, NEWEST};
use crate::measure::results::Results;
use crate::measure::subjects::Subject;
use crate::workspace::Workspace;
use anyhow::Result;

/// The operations, by number of their windows.
const SHOWN: [u8; 6] = [1, 9, 13, 11, 128, 16];

/// What `cargo xtask run` prints.
///
/// # Errors
///
/// When there are no committed counts.
pub fn shown(workspace: &Workspace) -> Result<String> {
    Ok(table(&baseline::read(workspace)?).shown())
}

/// Each operation, and what one page more costs here and in Linux.
fn table(results: &Results) -> Titled {
    let row = |op: u8| {
        let here = results.headline()?.per_page(op)?;
        let linux = Linux::get().page(op, NEWEST)?;
        let title = Subject::of(op)?.title.to_owned();
        Some(vec![title, here.to_string(), linux.to_string()])
    };
    let title = format!(
        "Instructions / DSB / ISB / TLBI of one page more, cortex-a72, as committed in {}\n\
         (`cargo xtask bench` counts anew):",
        baseline::FILE
    );
    let header = ["", "here", &format!("Linux {NEWEST}")];
    Titled::new(title, &header, SHOWN.into_iter().filter_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn readme_has_the_committed_figures() {
        let workspace = Workspace::find();
        let readme = fs::read_to_string(workspace.root().join("README.md")).unwrap();
        let table = table(&baseline::read(&workspace).unwrap());
        assert_eq!(table.rows.len(), SHOWN.len());
        for row in &table.rows {
            let line = readme
                .lines()
                .find(|line| line.starts_with(&format!("| {}", row[0])));
            let line = line.unwrap_or_else(|| panic!("README.md has no row `{}`", row[0]));
            let figures = format!("| {} |", row[1..].join(" | "));
            assert!(line.contains(&figures), "{line} lacks {figures}");
        }
    }
}
