// SPDX-License-Identifier: MIT OR Apache-2.0

//! The list of mutants: its format, and how one is applied.
//!
//! An entry reads like a hunk of a diff, but without line numbers, which would change with
//! every edit above: its lines are looked for, and must be found exactly once.

use anyhow::{Context, Result, bail, ensure};
use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// The list, from the workspace's root.
pub const PATH: &str = "kernel/mmu/mutants.txt";
/// Where the files are that it names.
pub const SOURCES: &str = "kernel/mmu/src";

/// A test, as cargo finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Killer {
    /// The integration test, or `--lib` for the unit tests.
    pub binary: String,
    /// The test's full name in there.
    pub test: String,
}

/// One change that a test must notice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mutant {
    /// Its name, unique.
    pub name: String,
    /// The file, from [`SOURCES`].
    pub file: String,
    /// The test that fails with it.
    pub killer: Killer,
    /// Whole lines that stand in the file.
    before: Vec<String>,
    /// What takes their place.
    after: Vec<String>,
}

impl Mutant {
    /// The text of the file with the change in it.
    ///
    /// # Errors
    ///
    /// When the lines to replace do not stand there exactly once.
    pub fn apply(&self, text: &str) -> Result<String> {
        let lines: Vec<&str> = text.lines().collect();
        let places: Vec<usize> = lines
            .windows(self.before.len())
            .enumerate()
            .filter_map(|(at, window)| (window == self.before).then_some(at))
            .collect();
        let [at] = places[..] else {
            bail!(
                "mutant {}: its lines stand in {} {} times, not once; adapt the entry in {PATH}",
                self.name,
                self.file,
                places.len()
            );
        };
        let mut mutated: Vec<&str> = lines[..at].to_vec();
        mutated.extend(self.after.iter().map(String::as_str));
        mutated.extend(&lines[at + self.before.len()..]);
        Ok(mutated.join("\n") + "\n")
    }
}

/// Reads the list of the checkout at `root`.
///
/// # Errors
///
/// When it cannot be read, and as [`parse`].
pub fn read(root: &Path) -> Result<Vec<Mutant>> {
    let text =
        fs::read_to_string(root.join(PATH)).with_context(|| format!("cannot read {PATH}"))?;
    parse(&text)
}

/// Reads the list.
///
/// # Errors
///
/// Names the line or the entry that is not as the head of the list says.
fn parse(text: &str) -> Result<Vec<Mutant>> {
    let mut mutants: Vec<Mutant> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let name = line.strip_prefix('[').and_then(|l| l.strip_suffix(']'));
        if let Some(name) = name {
            mutants.push(Mutant {
                name: name.to_owned(),
                ..Mutant::default()
            });
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let accepted = mutants.last_mut().is_some_and(|it| accept(it, line));
        ensure!(
            accepted,
            "{PATH}:{}: `{line}` is neither [name], file, test nor a line of the change",
            i + 1
        );
    }
    let mut names = HashSet::new();
    for mutant in &mutants {
        let name = &mutant.name;
        ensure!(names.insert(name), "{PATH}: two mutants are named {name}");
        let complete = !mutant.file.is_empty() && !mutant.killer.test.is_empty();
        ensure!(complete, "{PATH}: {name} needs a `file` and a `test` line");
        let changes = !mutant.before.is_empty() && mutant.before != mutant.after;
        ensure!(changes, "{PATH}: {name} changes nothing that is there");
    }
    Ok(mutants)
}

/// Takes one line of an entry; `false` if it is none.
fn accept(mutant: &mut Mutant, line: &str) -> bool {
    if let Some(file) = line.strip_prefix("file ") {
        mutant.file = file.to_owned();
        return true;
    }
    if let Some((binary, test)) = line
        .strip_prefix("test ")
        .and_then(|line| line.split_once(' '))
    {
        mutant.killer = Killer {
            binary: binary.to_owned(),
            test: test.to_owned(),
        };
        return true;
    }
    let Some((mark, text)) = line.split_at_checked(1) else {
        return false;
    };
    if !matches!(mark, " " | "-" | "+") {
        return false;
    }
    if mark != "+" {
        mutant.before.push(text.to_owned());
    }
    if mark != "-" {
        mutant.after.push(text.to_owned());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    const ENTRY: &str = "# SPDX\n\n[no-isb]\nfile mmu.rs\ntest barriers r15\n     dsb();\n-    isb();\n+    nop();\n";

    #[test]
    fn a_change_is_applied_where_its_lines_stand() {
        let mutants = parse(ENTRY).unwrap();
        assert_eq!(mutants[0].killer.binary, "barriers");
        assert_eq!(mutants[0].killer.test, "r15");
        let text = "    isb();\n    dsb();\n    isb();\n}\n";
        let mutated = mutants[0].apply(text).unwrap();
        assert_eq!(mutated, "    isb();\n    dsb();\n    nop();\n}\n");
    }

    #[test]
    fn lines_that_stand_there_twice_or_never_are_an_error() {
        let mutant = &parse(ENTRY).unwrap()[0];
        for (text, times) in [
            ("    isb();\n", "0 times"),
            (&"    dsb();\n    isb();\n".repeat(2), "2 times"),
        ] {
            let error = mutant.apply(text).unwrap_err().to_string();
            assert!(error.contains(times) && error.contains("no-isb"), "{error}");
        }
    }

    #[test]
    fn what_is_no_entry_is_refused() {
        for (broken, part) in [
            (ENTRY.replace("file", "File"), "neither"),
            (ENTRY.replace("file mmu.rs\n", ""), "needs a `file`"),
            (
                ENTRY.replace("test barriers r15", "test barriers"),
                "neither",
            ),
            (
                ENTRY.replace("-    isb();\n+    nop();\n", ""),
                "changes nothing",
            ),
            (ENTRY.repeat(2), "two mutants"),
            ("-before the first name\n".to_owned(), "neither"),
        ] {
            let error = parse(&broken).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    /// The list cannot rot: names are unique, and every entry finds its place.
    #[test]
    fn every_mutant_of_the_list_applies_to_the_sources() {
        let root = Workspace::find().root().to_path_buf();
        let mutants = read(&root).unwrap();
        assert!(mutants.len() >= 60, "{} mutants", mutants.len());
        for mutant in &mutants {
            let text = fs::read_to_string(root.join(SOURCES).join(&mutant.file)).unwrap();
            assert_ne!(mutant.apply(&text).unwrap(), text);
        }
    }

    #[test]
    fn every_killer_is_a_test_of_the_sources() {
        let root = Workspace::find().root().to_path_buf();
        for Mutant {
            killer, file, name, ..
        } in read(&root).unwrap()
        {
            let home = match killer.binary.as_str() {
                "--lib" => format!("{SOURCES}/{file}"),
                binary => format!("kernel/mmu/tests/{binary}.rs"),
            };
            let text = fs::read_to_string(root.join(&home)).unwrap_or_default();
            let test = killer.test.rsplit("::").next().unwrap_or_default();
            assert!(
                text.contains(&format!("fn {test}()")),
                "{name}: no {test} in {home}"
            );
        }
    }
}
