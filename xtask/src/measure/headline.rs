// SPDX-License-Identifier: MIT OR Apache-2.0

//! The few figures that one should know, from the committed counts: `cargo xtask run` prints them behind the
//! demonstration, and README.md shows them.

use super::baseline;
use super::linux::{self, Linux};
use super::results::Results;
use super::subjects::Subject;
use crate::workspace::Workspace;
use anyhow::Result;

/// The operations, by number of their windows.
const SHOWN: [u8; 6] = [1, 9, 13, 11, 128, 16];

/// An operation: what it is, and what one page more costs here and in Linux.
struct Row {
    title: &'static str,
    here: String,
    linux: String,
}

/// What `cargo xtask run` prints.
///
/// # Errors
///
/// When there are no committed counts.
pub fn shown(workspace: &Workspace) -> Result<String> {
    let rows = rows(&baseline::read(workspace)?);
    let width = |of: fn(&Row) -> &str| rows.iter().map(|row| of(row).len()).max().unwrap_or(0);
    let (title, here) = (width(|row| row.title), width(|row| &row.here));
    let mut text = format!(
        "Instructions / DSB / ISB / TLBI of one page more, cortex-a72, as committed in {}\n\
         (`cargo xtask bench` counts anew):\n\n  {:title$}  {:here$}  Linux {}\n",
        baseline::FILE,
        "",
        "here",
        linux::NEWEST,
    );
    for row in &rows {
        text.push_str(&format!(
            "  {:title$}  {:here$}  {}\n",
            row.title, row.here, row.linux
        ));
    }
    Ok(text)
}

fn rows(results: &Results) -> Vec<Row> {
    let Some(costs) = results.headline() else {
        return Vec::new();
    };
    let row = |op: u8| {
        let linux = Linux::get().page(op, linux::NEWEST)?;
        Some(Row {
            title: Subject::of(op)?.title,
            here: costs.per_page(op)?.to_string(),
            linux: linux.to_string(),
        })
    };
    SHOWN.into_iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn readme_has_the_committed_figures() {
        let workspace = Workspace::find();
        let readme = fs::read_to_string(workspace.root().join("README.md")).unwrap();
        let rows = rows(&baseline::read(&workspace).unwrap());
        assert_eq!(rows.len(), SHOWN.len());
        for Row { title, here, linux } in rows {
            let line = readme
                .lines()
                .find(|line| line.starts_with(&format!("| {title}")));
            let line = line.unwrap_or_else(|| panic!("README.md has no row `{title}`"));
            let figures = format!("| {here} | {linux} |");
            assert!(line.contains(&figures), "{line} lacks {figures}");
        }
    }

    #[test]
    fn columns_stand_below_each_other() {
        let text = shown(&Workspace::find()).unwrap();
        let lines: Vec<&str> = text
            .lines()
            .skip_while(|line| !line.contains("Linux"))
            .collect();
        assert_eq!(lines.len(), SHOWN.len() + 1, "{text}");
        let column = lines[0].find("Linux").unwrap();
        for line in &lines[1..] {
            assert_eq!(line.as_bytes()[column - 1], b' ', "{text}");
            assert_ne!(line.as_bytes()[column], b' ', "{text}");
        }
    }
}
