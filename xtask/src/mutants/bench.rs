// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where mutants are tried: a copy of the checkout with a target directory of its own.
//!
//! The copy holds the files that git knows or would add, as they are now. One target directory
//! serves all mutants, so each costs the library, one test binary and one test.

use super::list::{Killer, Mutant, SOURCES};
use crate::process;
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Output;

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// These tests failed.
    Killed(Vec<String>),
    /// Every test that ran passed.
    Survived,
    /// The compiler refused it: the entry is wrong. What the compiler said.
    NotBuilt(String),
}

impl Outcome {
    /// Tells whether the named test noticed.
    pub fn is_pass(&self, killer: &Killer) -> bool {
        matches!(self, Self::Killed(by) if by.contains(&killer.test))
    }

    /// The result, and the tests concerned, for the table.
    pub fn shown(&self, killer: &Killer) -> [String; 2] {
        let (result, tests) = match self {
            Self::Killed(by) if !self.is_pass(killer) => ("killed by others only", by.join(", ")),
            Self::Killed(by) => ("killed", by.join(", ")),
            Self::Survived => ("SURVIVED", killer.test.clone()),
            Self::NotBuilt(_) => ("does not build", String::new()),
        };
        [result.to_owned(), tests]
    }
}

/// The copy, clean between two mutants.
#[derive(Debug)]
pub struct Bench<'w> {
    workspace: &'w Workspace,
    copy: PathBuf,
    target: PathBuf,
}

impl<'w> Bench<'w> {
    /// Makes the copy, and sees that without a mutant the tests pass that are to kill them.
    ///
    /// # Errors
    ///
    /// When files cannot be copied, or a test fails as it is.
    pub fn set_up(workspace: &'w Workspace, mutants: &[Mutant]) -> Result<Self> {
        let home = workspace.target().join("mutants");
        let bench = Self {
            workspace,
            copy: home.join("workspace"),
            target: home.join("target"),
        };
        bench.copy_files()?;
        for mutant in mutants {
            // Before anything is built: an entry that has no place any more.
            mutant.apply(&bench.read(mutant)?)?;
        }
        bench.check_tests(mutants)?;
        Ok(bench)
    }

    /// Tries a mutant with the test that is to kill it.
    ///
    /// # Errors
    ///
    /// When the copy cannot be written or cargo cannot be started.
    pub fn try_killer(&self, mutant: &Mutant) -> Result<Outcome> {
        let Killer { binary, test } = &mutant.killer;
        let selected = [
            &selector(binary)[..],
            &["--", "--exact", test].map(str::to_owned),
        ]
        .concat();
        self.with(mutant, || Ok(judge(&self.test(&selected)?, Some(test))))
    }

    /// Tries a mutant with all tests of the library.
    ///
    /// # Errors
    ///
    /// As [`Bench::try_killer`].
    pub fn try_all(&self, mutant: &Mutant) -> Result<Outcome> {
        let all = ["--lib", "--tests", "--no-fail-fast"].map(str::to_owned);
        self.with(mutant, || Ok(judge(&self.test(&all)?, None)))
    }

    /// Does `work` while the mutant stands in the copy.
    fn with(&self, mutant: &Mutant, work: impl FnOnce() -> Result<Outcome>) -> Result<Outcome> {
        let path = self.source(mutant);
        let before = self.read(mutant)?;
        let write = |text: &str| {
            fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write(&mutant.apply(&before)?)?;
        let outcome = work();
        write(&before)?;
        outcome
    }

    fn source(&self, mutant: &Mutant) -> PathBuf {
        self.copy.join(SOURCES).join(&mutant.file)
    }

    fn read(&self, mutant: &Mutant) -> Result<String> {
        let path = self.source(mutant);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// `cargo test` for the library in the copy.
    fn test(&self, arguments: &[String]) -> Result<Output> {
        process::cargo(self.workspace)
            .current_dir(&self.copy)
            .env("CARGO_TARGET_DIR", &self.target)
            .args(["test", "--quiet", "--package", "mmu"])
            .args(arguments)
            .output()
            .context("cannot start cargo")
    }

    /// Without this, a killer that fails anyhow would count as one that noticed.
    fn check_tests(&self, mutants: &[Mutant]) -> Result<()> {
        let binaries: BTreeSet<&str> = mutants
            .iter()
            .map(|mutant| mutant.killer.binary.as_str())
            .collect();
        let mut selected: Vec<String> = binaries.iter().flat_map(|it| selector(it)).collect();
        selected.push("--no-fail-fast".to_owned());
        eprintln!("testing the library as it is");
        let output = self.test(&selected)?;
        let shown = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "the library's tests fail without any mutant; mend them first:\n{shown}{errors}"
        );
        Ok(())
    }

    fn copy_files(&self) -> Result<()> {
        let root = self.workspace.root();
        let listing = process::output(
            "git",
            &[
                "-C",
                &root.to_string_lossy(),
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ],
        )
        .context("git must say which files to copy")?;
        match fs::remove_dir_all(&self.copy) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.copy.display()))?;
            }
            _ => {}
        }
        for path in listing.split('\0').filter(|path| !path.is_empty()) {
            copy_file(&root.join(path), &self.copy.join(path))
                .with_context(|| format!("cannot copy {path}"))?;
        }
        Ok(())
    }
}

/// Copies a file, unless it was deleted and git does not know yet.
fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    if !from.is_file() {
        return Ok(());
    }
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy(from, to).map(|_| ())
}

/// The arguments of `cargo test` that select a test binary.
fn selector(binary: &str) -> Vec<String> {
    match binary {
        "--lib" => vec![binary.to_owned()],
        name => vec!["--test".to_owned(), name.to_owned()],
    }
}

/// Reads the end of `cargo test`. `only` is the test that ran, if it was one.
fn judge(output: &Output, only: Option<&str>) -> Outcome {
    if output.status.success() {
        return Outcome::Survived;
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !stdout.lines().any(|line| line.starts_with("running ")) {
        return Outcome::NotBuilt(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    // A lone test that ended its process has failed, whatever was printed.
    if let Some(test) = only {
        return Outcome::Killed(vec![test.to_owned()]);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let failed = stdout
        .lines()
        .filter_map(|line| line.strip_prefix("---- ")?.strip_suffix(" stdout ----"));
    // What a test prints is caught, except by one that panics again while it cleans up, which
    // ends the process and with it the list of failures.
    let aborted = stderr.lines().filter_map(|line| {
        let (name, rest) = line.strip_prefix("thread '")?.split_once('\'')?;
        rest.contains("panicked at").then_some(name)
    });
    let by: BTreeSet<String> = failed.chain(aborted).map(str::to_owned).collect();
    Outcome::Killed(by.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn output(code: i32, stdout: &str) -> Output {
        Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: stdout.as_bytes().to_vec(),
            stderr: b"error[E0425]".to_vec(),
        }
    }

    fn killer(test: &str) -> Killer {
        Killer {
            binary: "barriers".to_owned(),
            test: test.to_owned(),
        }
    }

    #[test]
    fn outcomes_are_told_apart() {
        let failed = "running 2 tests\n---- r15 stdout ----\nassertion failed\n";
        let by_r15 = Outcome::Killed(vec!["r15".to_owned()]);
        assert_eq!(judge(&output(101, failed), None), by_r15);
        assert_eq!(judge(&output(101, "running 1 test\n"), Some("r15")), by_r15);
        assert_eq!(
            judge(&output(0, "running 1 test\n"), None),
            Outcome::Survived
        );
        let aborted = Output {
            stderr: b"thread 'r15' (7) panicked at core:\npanic in a destructor".to_vec(),
            ..output(101, "running 2 tests\n")
        };
        assert_eq!(judge(&aborted, None), by_r15);
        let not_built = judge(&output(101, ""), Some("r15"));
        assert_eq!(not_built, Outcome::NotBuilt("error[E0425]".to_owned()));
    }

    #[test]
    fn only_the_named_test_counts() {
        let outcome = Outcome::Killed(vec!["r15".to_owned()]);
        assert!(outcome.is_pass(&killer("r15")));
        assert!(!outcome.is_pass(&killer("r16")));
        assert_eq!(outcome.shown(&killer("r16"))[0], "killed by others only");
        assert!(!Outcome::Survived.is_pass(&killer("r15")));
        assert!(!Outcome::NotBuilt(String::new()).is_pass(&killer("r15")));
    }
}
