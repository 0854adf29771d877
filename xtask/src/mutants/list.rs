// SPDX-License-Identifier: MIT OR Apache-2.0

//! The lists of mutants: their format, and how a mutant is applied.
//!
//! An entry reads like hunks of a diff, but without line numbers, which would change with
//! every edit above: the lines of a hunk are looked for, and must be found exactly once.

use super::killer::Killer;
use anyhow::{Context, Result, bail, ensure};
use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// A list of mutants, and what it is about.
#[derive(Debug, PartialEq, Eq)]
pub struct List {
    /// What is broken, for messages.
    pub subject: &'static str,
    /// The list, from the workspace's root.
    pub path: &'static str,
    /// Where the files are that it names, from the workspace's root.
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
        subject: "library",
        path: "kernel/mmu/mutants.txt",
        sources: "kernel/mmu/src",
        package: "lazymmu",
        #[cfg(test)]
        tests: "kernel/mmu/tests",
    },
    List {
        subject: "kernel",
        path: "kernel/mutants.txt",
        sources: "",
        package: "kernel",
        #[cfg(test)]
        tests: "kernel/tests",
    },
];

/// Whole lines that change places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hunk {
    /// What stands in the file.
    before: Vec<String>,
    /// What takes its place.
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
    /// The test that fails with it; `None` only while the entry is read.
    killer: Option<Killer>,
    hunks: Vec<Hunk>,
}

impl Mutant {
    fn new(list: &'static List, name: &str) -> Self {
        Self {
            list,
            name: name.to_owned(),
            file: String::new(),
            killer: None,
            hunks: vec![Hunk::default()],
        }
    }

    /// The test that fails with it.
    pub fn killer(&self) -> &Killer {
        match &self.killer {
            Some(killer) => killer,
            None => unreachable!("`parse` refuses an entry without a test"),
        }
    }

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

/// Reads a list.
///
/// # Errors
///
/// Names the line or the entry that is not as the head of the list says.
fn parse(list: &'static List, text: &str) -> Result<Vec<Mutant>> {
    let path = list.path;
    let mut mutants: Vec<Mutant> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let name = line.strip_prefix('[').and_then(|l| l.strip_suffix(']'));
        if let Some(name) = name {
            mutants.push(Mutant::new(list, name));
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let accepted = mutants.last_mut().is_some_and(|it| accept(it, line));
        ensure!(
            accepted,
            "{path}:{}: `{line}` is neither [name], file, test, boot, ends (behind boot), @@ nor a \
             line of the change",
            i + 1
        );
    }
    let mut names = HashSet::new();
    for mutant in &mutants {
        let name = &mutant.name;
        ensure!(names.insert(name), "{path}: two mutants are named {name}");
        let complete = !mutant.file.is_empty() && mutant.killer.is_some();
        ensure!(
            complete,
            "{path}: {name} needs a `file` line, and a `test` or a `boot` line"
        );
        let changes = |hunk: &Hunk| !hunk.before.is_empty() && hunk.before != hunk.after;
        ensure!(
            mutant.hunks.iter().all(changes),
            "{path}: {name} changes nothing that is there"
        );
    }
    Ok(mutants)
}

/// Takes one line of an entry; `false` if it is none.
fn accept(mutant: &mut Mutant, line: &str) -> bool {
    if let Some(file) = line.strip_prefix("file ") {
        mutant.file = file.to_owned();
        return true;
    }
    let killer = match line.split_once(' ') {
        Some(("test", rest)) => Killer::host(rest),
        Some(("boot", rest)) => Killer::boot(rest),
        Some(("ends", rest)) => {
            return mutant
                .killer
                .as_mut()
                .is_some_and(|it| it.add_endings(rest));
        }
        _ => None,
    };
    if killer.is_some() {
        mutant.killer = killer;
        return true;
    }
    if line == "@@" {
        mutant.hunks.push(Hunk::default());
        return true;
    }
    let (Some((mark, text)), Some(hunk)) = (line.split_at_checked(1), mutant.hunks.last_mut())
    else {
        return false;
    };
    if !matches!(mark, " " | "-" | "+") {
        return false;
    }
    if mark != "+" {
        hunk.before.push(text.to_owned());
    }
    if mark != "-" {
        hunk.after.push(text.to_owned());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Workspace;

    const ENTRY: &str = "# SPDX\n\n[no-isb]\nfile mmu.rs\ntest barriers r15\n     dsb();\n-    isb();\n+    nop();\n";

    fn read_entry(text: &str) -> Result<Vec<Mutant>> {
        parse(&LISTS[0], text)
    }

    #[test]
    fn a_change_is_applied_where_its_lines_stand() {
        let mutants = read_entry(ENTRY).unwrap();
        assert_eq!(
            mutants[0].killer.as_ref(),
            Killer::host("barriers r15").as_ref()
        );
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
            ("-before the first name\n".to_owned(), "neither"),
        ] {
            let error = read_entry(&broken).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    /// The lists cannot rot: names are unique, and every entry finds its place.
    #[test]
    fn every_mutant_of_the_lists_applies_to_the_sources() {
        let root = Workspace::find().root().to_path_buf();
        let mutants = read(&root).unwrap();
        for (list, least) in LISTS.iter().zip([60, 20]) {
            let count = mutants.iter().filter(|mutant| mutant.list == list).count();
            assert!(count >= least, "{count} mutants of the {}", list.subject);
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
            let (text, home, test) = match mutant.killer() {
                Killer::Host(host) => {
                    // In a file of its own, or in that of the mutant.
                    let module = host.test.rsplit_once("::").unwrap_or_default().0;
                    let own = root.join(list.tests).with_file_name("src");
                    let own = own.join(module.replace("::", "/")).with_extension("rs");
                    let home = match host.binary.as_str() {
                        "--lib" if own.exists() => own,
                        "--lib" => root.join(list.sources).join(&mutant.file),
                        binary => {
                            let path = root.join(list.tests).join(binary).join(module);
                            path.with_extension("rs")
                        }
                    };
                    let text = fs::read_to_string(&home).unwrap_or_default();
                    let test = host.test.rsplit("::").next().unwrap_or_default();
                    (text, home.display().to_string(), format!("fn {test}()"))
                }
                // The last part may be a case of a test: then its function is named before it.
                Killer::Boot(boot) => {
                    let found = boot.test.split('.').skip(1);
                    let mut found = found.map(|part| format!("fn {part}("));
                    let test = found.find(|part| suites.contains(part));
                    let test = test.unwrap_or_else(|| boot.test.clone());
                    (suites.clone(), "the suites".to_owned(), test)
                }
            };
            assert!(text.contains(&test), "{name}: no {test} in {home}");
        }
    }
}
