// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where mutants are tried: a copy of the checkout with a target directory of its own.
//!
//! The copy holds the files that git knows or would add, as they are now. One target directory
//! serves all mutants, so each costs what it changes: the library, one test binary and one test, or the
//! kernel and one boot.

use super::boots::Boots;
use super::host;
use super::killer::Killer;
use super::list::{LISTS, Mutant};
use crate::process;
use crate::qemu::Qemu;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// These tests failed; the word of an [`Ending`](super::killer::Ending) stands for a kernel that did not get on.
    Killed(Vec<String>),
    /// Every test that ran passed.
    Survived,
    /// The compiler refused it: the entry is wrong. What the compiler said.
    NotBuilt(String),
    /// The named test does not pass without the mutant either. Why.
    FailsAnyhow(String),
}

impl Outcome {
    /// Tells whether the named test noticed.
    pub fn is_pass(&self, killer: &Killer) -> bool {
        matches!(self, Self::Killed(by) if killer.accepts(by))
    }

    /// The result, and the tests concerned, for the table.
    pub fn shown(&self, killer: &Killer) -> [String; 2] {
        let (result, tests) = match self {
            Self::Killed(by) if !self.is_pass(killer) => ("killed by others only", by.join(", ")),
            // Which test ran is worth more than how the kernel ended.
            Self::Killed(by) if !by.iter().any(|one| one == killer.test()) => {
                ("killed", format!("{}: {}", killer.test(), by.join(", ")))
            }
            Self::Killed(by) => ("killed", by.join(", ")),
            Self::Survived => ("SURVIVED", killer.test().to_owned()),
            Self::NotBuilt(_) => ("does not build", String::new()),
            Self::FailsAnyhow(_) => ("its test fails anyhow", killer.test().to_owned()),
        };
        [result.to_owned(), tests]
    }
}

/// The copy, clean between two mutants.
#[derive(Debug)]
pub struct Bench<'w> {
    workspace: &'w Workspace,
    copy: Workspace,
    logs: PathBuf,
    /// There if a mutant needs it.
    boots: Option<Boots>,
}

impl<'w> Bench<'w> {
    /// Makes the copy, and sees that without a mutant the tests pass that are to kill them.
    ///
    /// # Errors
    ///
    /// When files cannot be copied, the kernel cannot be built, or a host test fails as it is. A self-test that
    /// does is found in the end, as the [outcome](Outcome::FailsAnyhow) of its mutants.
    pub fn set_up(workspace: &'w Workspace, mutants: &[Mutant]) -> Result<Self> {
        let boots = mutants.iter().filter_map(|mutant| match mutant.killer() {
            Killer::Boot(boot) => Some(boot),
            Killer::Host(_) => None,
        });
        // What is missing is said, or installed, before anything is built.
        let qemu = match boots.clone().next() {
            Some(_) => Some(Qemu::provide()?),
            None => None,
        };
        let home = workspace.target().join("mutants");
        let mut bench = Self {
            workspace,
            copy: Workspace::at(home.join("workspace"), home.join("target")),
            logs: home.join("logs"),
            boots: None,
        };
        bench.copy_files()?;
        for mutant in mutants {
            // Before anything is built: an entry that has no place any more.
            mutant.apply(&bench.read(mutant)?)?;
        }
        for list in &LISTS {
            let of_list = mutants.iter().filter(|mutant| mutant.list == list);
            let killers = of_list.filter_map(|mutant| match mutant.killer() {
                Killer::Host(host) => Some(host),
                Killer::Boot(_) => None,
            });
            host::check(&bench.copy, list, killers)?;
        }
        if let Some(qemu) = qemu {
            fs::create_dir_all(&bench.logs)
                .with_context(|| format!("cannot make {}", bench.logs.display()))?;
            bench.boots = Some(Boots::set_up(qemu, &bench.copy, &bench.logs, boots)?);
        }
        Ok(bench)
    }

    /// Tries a mutant with the test that is to kill it, or with `all` of the package or the machine.
    ///
    /// # Errors
    ///
    /// When the copy cannot be written, or cargo or QEMU cannot be started.
    pub fn try_out(&self, mutant: &Mutant, all: bool) -> Result<Outcome> {
        self.with(mutant, || match (mutant.killer(), &self.boots) {
            (Killer::Host(killer), _) => {
                host::run(&self.copy, mutant.list, (!all).then_some(killer))
            }
            (Killer::Boot(killer), Some(boots)) => {
                let log = self.logs.join(format!("{}.log", mutant.name));
                boots.run(&self.copy, killer, !all, &log)
            }
            (Killer::Boot(_), None) => unreachable!("`set_up` saw this mutant"),
        })
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
        let sources = self.copy.root().join(mutant.list.sources);
        sources.join(&mutant.file)
    }

    fn read(&self, mutant: &Mutant) -> Result<String> {
        let path = self.source(mutant);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn copy_files(&self) -> Result<()> {
        let (root, copy) = (self.workspace.root(), self.copy.root());
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
        match fs::remove_dir_all(copy) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", copy.display()))?;
            }
            _ => {}
        }
        for path in listing.split('\0').filter(|path| !path.is_empty()) {
            copy_file(&root.join(path), &copy.join(path))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_test_counts() {
        let outcome = Outcome::Killed(vec!["r15".to_owned()]);
        let [named, other] = ["barriers r15", "barriers r16"].map(|it| Killer::host(it).unwrap());
        assert!(outcome.is_pass(&named));
        assert!(!outcome.is_pass(&other));
        assert_eq!(outcome.shown(&other)[0], "killed by others only");
        assert!(!Outcome::Survived.is_pass(&named));
        assert!(!Outcome::NotBuilt(String::new()).is_pass(&named));
        let mut boot = Killer::boot("sched.turns").unwrap();
        let hung = Outcome::Killed(vec!["hang".to_owned()]);
        assert!(!hung.is_pass(&boot));
        assert!(boot.add_endings("hang"));
        assert_eq!(hung.shown(&boot), ["killed", "sched.turns: hang"]);
    }
}
