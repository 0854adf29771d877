// SPDX-License-Identifier: MIT OR Apache-2.0

//! The lists of mutants: their format, and how a mutant is applied.
//!
//! An entry reads like hunks of a diff, but without line numbers, which would change with
//! every edit above: the lines of a hunk are looked for, and must be found exactly once.

use super::trial::Killer;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// A list of mutants. Paths are from the workspace's root.
#[derive(Debug, PartialEq, Eq)]
pub struct List {
    /// The list.
    pub path: &'static str,
    /// Where the files are that it names.
    pub sources: &'static str,
    /// The package whose host tests it names.
    pub package: &'static str,
    /// Where those integration tests are.
    #[cfg(test)]
    tests: &'static str,
}

/// All lists, in the order in which they are tried.
pub static LISTS: [List; 2] = [
    List {
        path: "kernel/mmu/mutants.txt",
        sources: "kernel/mmu/src",
        package: "lazymmu",
        #[cfg(test)]
        tests: "kernel/mmu/tests",
    },
    List {
        path: "kernel/mutants.txt",
        sources: "",
        package: "kernel",
        #[cfg(test)]
        tests: "kernel/tests",
    },
];

/// Whole lines of the file, and the lines that take their place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hunk {
    before: Vec<String>,
    after: Vec<String>,
}

/// One change that a test must notice.
#[derive(Clone, Debug)]
pub struct Mutant {
    /// The list that it is from.
    pub list: &'static List,
    /// Its name, unique in there.
    pub name: String,
    /// The file, from the list's [`List::sources`].
    pub file: String,
    /// The test that fails with it.
    pub killer: Killer,
    hunks: Vec<Hunk>,
}

impl Mutant {
    /// The text of the file with the change in it.
    ///
    /// # Errors
    ///
    /// When the lines of a hunk do not stand there exactly once.
    pub fn apply(&self, text: &str) -> Result<String> {
        let mut lines: Vec<&str> = text.lines().collect();
        for hunk in &self.hunks {
            let places: Vec<usize> = lines
                .windows(hunk.before.len())
                .enumerate()
                .filter_map(|(at, window)| (window == hunk.before).then_some(at))
                .collect();
            let [at] = places[..] else {
                bail!(
                    "mutant {}: its lines stand in {} {} times, not once; adapt the entry in {}",
                    self.name,
                    self.file,
                    places.len(),
                    self.list.path
                );
            };
            let after = hunk.after.iter().map(String::as_str);
            lines.splice(at..at + hunk.before.len(), after);
        }
        Ok(lines.join("\n") + "\n")
    }
}

/// Reads all lists of the checkout at `root`.
///
/// # Errors
///
/// When one cannot be read, and as [`parse`].
pub fn read(root: &Path) -> Result<Vec<Mutant>> {
    let mut mutants = Vec::new();
    for list in &LISTS {
        let text = fs::read_to_string(root.join(list.path))
            .with_context(|| format!("cannot read {}", list.path))?;
        mutants.extend(parse(list, &text)?);
    }
    Ok(mutants)
}

/// Reads a list. Its head says how an entry reads.
///
/// # Errors
///
/// Names the line or the entry that is wrong.
fn parse(list: &'static List, text: &str) -> Result<Vec<Mutant>> {
    let path = list.path;
    let mut mutants = Vec::new();
    let mut names = HashSet::new();
    let (before, entries) = text.split_once("\n[").unwrap_or((text, ""));
    let is_comment = |line: &str| line.is_empty() || line.starts_with('#');
    ensure!(
        before.lines().all(is_comment),
        "{path} begins with an entry without a name"
    );
    for entry in entries.split("\n[").filter(|entry| !entry.is_empty()) {
        let (name, rest) = entry
            .split_once("]\n")
            .with_context(|| format!("{path}: {entry}"))?;
        let (mut file, mut killer, mut hunks) = (None, None, vec![Hunk::default()]);
        for line in rest.lines().filter(|line| !is_comment(line)) {
            read_line(line, &mut file, &mut killer, &mut hunks).with_context(|| {
                format!("{path}: `{line}` of {name} is neither file, test, boot, ends nor a change")
            })?;
        }
        let file = file.with_context(|| format!("{path}: {name} needs a `file` line"))?;
        let killer =
            killer.with_context(|| format!("{path}: {name} needs a `test` or a `boot` line"))?;
        let changes = |hunk: &Hunk| !hunk.before.is_empty() && hunk.before != hunk.after;
        ensure!(
            hunks.iter().all(changes),
            "{path}: {name} changes nothing that is there"
        );
        ensure!(names.insert(name), "{path}: two mutants are named {name}");
        let name = name.to_owned();
        mutants.push(Mutant {
            list,
            name,
            file,
            killer,
            hunks,
        });
    }
    Ok(mutants)
}

/// Takes one line of an entry; `None` if it is none.
fn read_line(
    line: &str,
    file: &mut Option<String>,
    killer: &mut Option<Killer>,
    hunks: &mut Vec<Hunk>,
) -> Option<()> {
    match line.split_once(' ') {
        Some(("file", rest)) => *file = Some(rest.to_owned()),
        Some(("test", rest)) => *killer = Some(Killer::host(rest)?),
        Some(("boot", rest)) => *killer = Some(Killer::boot(rest)?),
        Some(("ends", rest)) => killer.as_mut()?.add_endings(rest)?,
        None if line == "@@" => hunks.push(Hunk::default()),
        _ => {
            let (mark, text) = line.split_at_checked(1)?;
            let hunk = hunks.last_mut()?;
            if matches!(mark, " " | "-") {
                hunk.before.push(text.to_owned());
            }
            if matches!(mark, " " | "+") {
                hunk.after.push(text.to_owned());
            }
            return matches!(mark, " " | "-" | "+").then_some(());
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutants::trial::Place;
    use crate::workspace::Workspace;

    const ENTRY: &str = "# SPDX\n\n[no-isb]\nfile mmu.rs\ntest barriers r15\n     dsb();\n-    isb();\n+    nop();\n";

    fn read_entry(text: &str) -> Result<Vec<Mutant>> {
        parse(&LISTS[0], text)
    }

    #[test]
    fn a_change_is_applied_where_its_lines_stand() {
        let mutants = read_entry(ENTRY).unwrap();
        assert_eq!(mutants[0].killer.line, "barriers r15");
        let text = "    isb();\n    dsb();\n    isb();\n}\n";
        let mutated = mutants[0].apply(text).unwrap();
        assert_eq!(mutated, "    isb();\n    dsb();\n    nop();\n}\n");
        let two = format!("{ENTRY}@@\n-}}\n+    hlt();\n+}}\n");
        let mutated = read_entry(&two).unwrap()[0].apply(text).unwrap();
        assert_eq!(
            mutated,
            "    isb();\n    dsb();\n    nop();\n    hlt();\n}\n"
        );
    }

    #[test]
    fn lines_that_stand_there_twice_or_never_are_an_error() {
        let mutant = &read_entry(ENTRY).unwrap()[0];
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
        let boot = ENTRY.replace("test barriers r15", "boot sched.turns --smp 2\nends hang");
        assert!(read_entry(&boot).is_ok());
        for (broken, part) in [
            (ENTRY.replace("file", "File"), "neither"),
            (ENTRY.replace("file mmu.rs\n", ""), "needs a `file`"),
            (ENTRY.replace("test barriers r15\n", ""), "or a `boot`"),
            (
                ENTRY.replace("test barriers r15", "test barriers"),
                "neither",
            ),
            (boot.replace("--smp", "--cpus"), "neither"),
            (boot.replace("hang", "badly"), "neither"),
            (ENTRY.replace("     dsb", "ends hang\n     dsb"), "neither"),
            (
                ENTRY.replace("-    isb();\n+    nop();\n", ""),
                "changes nothing",
            ),
            (format!("{ENTRY}@@\n"), "changes nothing"),
            (ENTRY.repeat(2), "two mutants"),
            ("-before the first name\n".to_owned(), "without a name"),
        ] {
            let error = format!("{:#}", read_entry(&broken).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }

    /// The lists cannot rot: names are unique, and every entry finds its place.
    #[test]
    fn every_mutant_of_the_lists_applies_to_the_sources() {
        let root = Workspace::find().root().to_path_buf();
        let mutants = read(&root).unwrap();
        for (list, least) in LISTS.iter().zip([50, 20]) {
            let count = mutants.iter().filter(|mutant| mutant.list == list).count();
            assert!(count >= least, "{count} mutants of {}", list.path);
        }
        for mutant in &mutants {
            let path = root.join(mutant.list.sources).join(&mutant.file);
            let text = fs::read_to_string(path).unwrap();
            assert_ne!(mutant.apply(&text).unwrap(), text);
        }
    }

    #[test]
    fn every_killer_is_a_test_of_the_sources() {
        let root = Workspace::find().root().to_path_buf();
        let suites = fs::read_dir(root.join("kernel/src/selftest/suites")).unwrap();
        let suites: String = suites
            .map(|file| fs::read_to_string(file.unwrap().path()).unwrap())
            .collect();
        for mutant in read(&root).unwrap() {
            let (list, name) = (mutant.list, &mutant.name);
            let killer = &mutant.killer;
            let (text, home, test) = match &killer.place {
                Place::Host(binary) => {
                    // In a file of its own, or in that of the mutant.
                    let module = killer.test.rsplit_once("::").unwrap_or_default().0;
                    let own = root.join(list.tests).with_file_name("src");
                    let own = own.join(module.replace("::", "/")).with_extension("rs");
                    let home = match binary.as_str() {
                        "--lib" if own.exists() => own,
                        "--lib" => root.join(list.sources).join(&mutant.file),
                        binary => {
                            let path = root.join(list.tests).join(binary).join(module);
                            path.with_extension("rs")
                        }
                    };
                    let text = fs::read_to_string(&home).unwrap_or_default();
                    let test = killer.test.rsplit("::").next().unwrap_or_default();
                    (text, home.display().to_string(), format!("fn {test}()"))
                }
                // The last part may be a case of a test: then its function is named before it.
                Place::Boot(_) => {
                    let found = killer.test.split('.').skip(1);
                    let mut found = found.map(|part| format!("fn {part}("));
                    let test = found.find(|part| suites.contains(part));
                    let test = test.unwrap_or_else(|| killer.test.clone());
                    (suites.clone(), "the suites".to_owned(), test)
                }
            };
            assert!(text.contains(&test), "{name}: no {test} in {home}");
        }
    }
}
