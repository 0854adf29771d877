// SPDX-License-Identifier: MIT OR Apache-2.0

//! What must notice a listed mutant, and how it is tried: in a copy of the checkout that holds the files that
//! git knows or would add, with one target folder for all mutants.
//!
//! A boot runs one self-test, which must fail. Where the entry says so the kernel may also panic, take an
//! exception, or never end: that is what most mistakes of a scheduler look like.

use super::list::Mutant;
use crate::build;
use crate::guest;
use crate::ktap::Parser;
use crate::process;
use crate::qemu::boot::Watch;
use crate::qemu::boot::again;
use crate::qemu::{self, Input, Machine, MachineOptions, Qemu};
use crate::test::summary::Row;
use crate::test::{boots, host};
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use clap::Parser as _;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Seconds that a boot may take; half of them in silence is a hang. One self-test takes a few, and a busy
/// host several times as long.
const TIMEOUT: u32 = 60;
/// How a kernel may end that leaves no result of its test.
const ENDINGS: [&str; 3] = ["panic", "exception", "hang"];

/// A test that fails with the mutant, and passes without.
#[derive(Clone, Debug)]
pub struct Killer {
    /// The words of the entry.
    pub line: String,
    /// The test's full name.
    pub test: String,
    /// Where it runs.
    pub place: Place,
}

/// Where a test runs.
#[derive(Clone, Debug)]
pub enum Place {
    /// On the host: an integration test of the list's package, or `--lib`.
    Host(String),
    /// In the kernel.
    Boot(Boot),
}

/// A boot for a self-test.
#[derive(Clone, Debug)]
pub struct Boot {
    machine: Machine,
    bootargs: String,
    timeout: Duration,
    /// Of [`ENDINGS`], those that are as good as a failure of the test.
    ends: Vec<String>,
}

/// The rest of a `boot` line, in the words of `cargo xtask run`.
#[derive(Debug, clap::Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    test: String,
    #[command(flatten)]
    options: MachineOptions,
}

impl Killer {
    /// Reads what follows `test` in the list: binary and test.
    pub fn host(line: &str) -> Option<Self> {
        let (binary, test) = line.split_once(' ')?;
        Some(Self {
            line: line.to_owned(),
            test: test.to_owned(),
            place: Place::Host(binary.to_owned()),
        })
    }

    /// Reads what follows `boot` in the list: test, options of the machine, `--`, boot arguments.
    pub fn boot(line: &str) -> Option<Self> {
        let words = Line::try_parse_from(line.split_whitespace()).ok()?;
        Some(Self {
            line: line.to_owned(),
            test: words.test,
            place: Place::Boot(Boot {
                machine: words.options.machine().ok()?,
                bootargs: words.options.bootargs.join(" "),
                timeout: words.options.timeout(TIMEOUT),
                ends: Vec::new(),
            }),
        })
    }

    /// Reads what follows `ends` in the list.
    pub fn add_endings(&mut self, line: &str) -> Option<()> {
        let Place::Boot(boot) = &mut self.place else {
            return None;
        };
        boot.ends = line.split_whitespace().map(str::to_owned).collect();
        let known = |word: &String| ENDINGS.contains(&word.as_str());
        (!boot.ends.is_empty() && boot.ends.iter().all(known)).then_some(())
    }

    /// Whether what happened, names of tests that failed and [`ENDINGS`], is what the entry says.
    pub fn accepts(&self, by: &[String]) -> bool {
        let ends = match &self.place {
            Place::Host(_) => &[][..],
            Place::Boot(boot) => &boot.ends,
        };
        by.iter().any(|one| *one == self.test || ends.contains(one))
    }
}

/// What became of a mutant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// These tests failed, or the kernel ended in one of the [`ENDINGS`].
    Killed(Vec<String>),
    /// Every test that ran passed.
    Survived,
    /// It does not compile, or its test fails without it, too. What was said.
    Unfit(String),
}

/// The copy, clean between two mutants.
#[derive(Debug)]
pub struct Trials {
    copy: Workspace,
    logs: PathBuf,
    /// There if a mutant needs it.
    qemu: Option<Qemu>,
    /// Killers that do not pass without a mutant, and why. They would count as ones that noticed.
    unfit: HashMap<String, String>,
}

impl Trials {
    /// Makes the copy, and sees which tests pass in it as it is.
    ///
    /// # Errors
    ///
    /// When files cannot be copied, a mutant has no place, or cargo or QEMU cannot be started.
    pub fn set_up(workspace: &Workspace, mutants: &[Mutant]) -> Result<Self> {
        let needs_boot = |mutant: &Mutant| matches!(mutant.killer.place, Place::Boot(_));
        let home = workspace.target().join("mutants");
        let mut trials = Self {
            copy: Workspace::at(home.join("workspace"), home.join("target")),
            logs: home.join("logs"),
            // What is missing is said, or installed, before anything is built.
            qemu: match mutants.iter().any(needs_boot) {
                true => Some(Qemu::provide()?),
                false => None,
            },
            unfit: HashMap::new(),
        };
        copy_files(workspace.root(), trials.copy.root())?;
        fs::create_dir_all(&trials.logs)?;
        for mutant in mutants {
            mutant.apply(&fs::read_to_string(trials.source(mutant))?)?;
        }
        let mut seen = HashSet::new();
        for mutant in mutants {
            let killer = &mutant.killer;
            if seen.insert(&killer.line) {
                eprintln!("without a mutant: {}", killer.line);
                let outcome = trials.run(mutant, false, "unchanged")?;
                guest::stop_if_interrupted("interrupted")?;
                if outcome != Outcome::Survived {
                    let why = format!("its test does not pass anyway: {outcome:?}");
                    trials.unfit.insert(killer.line.clone(), why);
                }
            }
        }
        Ok(trials)
    }

    /// Tries a mutant with the test that is to kill it, or with `all` of the package or the machine.
    ///
    /// # Errors
    ///
    /// When the copy cannot be written, or cargo or QEMU cannot be started.
    pub fn try_out(&self, mutant: &Mutant, all: bool) -> Result<Outcome> {
        if let Some(why) = self.unfit.get(&mutant.killer.line) {
            return Ok(Outcome::Unfit(why.clone()));
        }
        let path = self.source(mutant);
        let before = fs::read_to_string(&path)?;
        fs::write(&path, mutant.apply(&before)?)?;
        let outcome = self.run(mutant, all, &mutant.name);
        fs::write(&path, before)?;
        outcome
    }

    fn source(&self, mutant: &Mutant) -> PathBuf {
        let sources = self.copy.root().join(mutant.list.sources);
        sources.join(&mutant.file)
    }

    /// Runs the mutant's test in the copy as it is now, or all.
    fn run(&self, mutant: &Mutant, all: bool, log: &str) -> Result<Outcome> {
        let killer = &mutant.killer;
        match (&killer.place, &self.qemu) {
            (Place::Host(binary), _) => self.on_the_host(mutant.list.package, binary, killer, all),
            (Place::Boot(boot), Some(qemu)) => {
                let test = (!all).then_some(killer.test.as_str());
                self.in_the_kernel(qemu, boot, test, &self.logs.join(log))
            }
            (Place::Boot(_), None) => unreachable!("`set_up` saw this mutant"),
        }
    }

    fn on_the_host(
        &self,
        package: &str,
        binary: &str,
        killer: &Killer,
        all: bool,
    ) -> Result<Outcome> {
        let binary = match binary {
            "--lib" => binary.to_owned(),
            name => format!("--test={name}"),
        };
        let mut command = process::cargo(&self.copy);
        command.args(["test", "--no-fail-fast", "--package", package]);
        match all {
            true => command.args(["--lib", "--tests"]),
            false => command.args([&binary, &killer.test, "--", "--exact"]),
        };
        let output = process::capture(&mut command)?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let failed = host::count(package, &output).failures;
        Ok(match output.status.success() {
            true if stdout.contains(" 1 passed") || all => Outcome::Survived,
            true => Outcome::Unfit("there is no such test".to_owned()),
            false if !stdout.contains("running ") => {
                Outcome::Unfit(String::from_utf8_lossy(&output.stderr).into_owned())
            }
            // A lone test that ended its process has failed, whatever was printed.
            false if !all => Outcome::Killed(vec![killer.test.clone()]),
            false => Outcome::Killed(failed.into_iter().map(|it| it.name).collect()),
        })
    }

    /// Boots for one test, or for all.
    fn in_the_kernel(
        &self,
        qemu: &Qemu,
        boot: &Boot,
        test: Option<&str>,
        log: &Path,
    ) -> Result<Outcome> {
        let output = process::capture(build::cargo_build(&self.copy).arg("--quiet"))?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            return Ok(Outcome::Unfit(errors));
        }
        let artifacts = match build::collect(&self.copy) {
            Ok(artifacts) => artifacts,
            Err(error) => return Ok(Outcome::Unfit(format!("{error:#}"))),
        };
        let filter = test.map_or(String::new(), |test| format!(" filter={test}"));
        let bootargs = format!("mode=selftest{filter} {}", boot.bootargs);
        // All self-tests take minutes where one takes seconds.
        let patience = if test.is_some() { 1 } else { 5 };
        let run = qemu::Boot {
            machine: &boot.machine,
            bootargs: bootargs.trim_end(),
            artifacts: &artifacts,
            input: Input::Usual,
            watch: Watch::Timeout(boot.timeout * patience),
            again: again(&boot.machine.options(), &bootargs),
        };
        let mut parser = Parser::default();
        let mut console = String::new();
        let outcome = run.run(&self.copy, qemu, |line| {
            // A completed backtrace is several lines.
            line.lines().for_each(|line| parser.line(line));
            console.extend([line, "\n"]);
        })?;
        fs::write(log, console).with_context(|| format!("cannot write {}", log.display()))?;
        Ok(noticed(boots::judge("", parser.finish(), outcome.verdict)))
    }
}

fn copy_files(root: &Path, copy: &Path) -> Result<()> {
    let root_name = root.to_string_lossy();
    let known = [
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ];
    let listing = process::output("git", &[&["-C", &root_name], &known[..]].concat())
        .context("git must say which files to copy")?;
    if copy.exists() {
        fs::remove_dir_all(copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    }
    // A file that was deleted is still listed until git is told.
    let there = |path: &&str| !path.is_empty() && root.join(path).is_file();
    for path in listing.split('\0').filter(there) {
        let to = copy.join(path);
        fs::create_dir_all(to.parent().unwrap_or(copy))
            .and_then(|()| fs::copy(root.join(path), to))
            .with_context(|| format!("cannot copy {path}"))?;
    }
    Ok(())
}

/// The tests that failed, and how the kernel ended if it did not come to its end.
fn noticed(row: Row) -> Outcome {
    if row.failed == 0 {
        return match (row.passed, row.skipped) {
            (1.., 0) => Outcome::Survived,
            _ => Outcome::Unfit("it is skipped, or there is no such test".to_owned()),
        };
    }
    let failed = row.failures.into_iter().map(|failed| failed.name);
    Outcome::Killed(failed.chain([row.status]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::summary::Failed;

    #[test]
    fn only_a_test_that_ran_and_passed_survives() {
        let mut row = Row::new("a");
        assert!(matches!(noticed(row.clone()), Outcome::Unfit(_)));
        row.passed = 1;
        assert_eq!(noticed(row.clone()), Outcome::Survived);
        row.skipped = 1;
        assert!(matches!(noticed(row.clone()), Outcome::Unfit(_)));
        row.fail(Failed::new("sched.turns", Vec::new()));
        row.status = "hang".to_owned();
        let by = ["sched.turns", "hang"].map(str::to_owned).to_vec();
        assert_eq!(noticed(row), Outcome::Killed(by));
    }

    #[test]
    fn a_boot_is_described_as_for_run() {
        let line = "sched.turns --smp 4 --gic 3 --timeout 9 -- lazy=eager policy=classic";
        let Some(Place::Boot(boot)) = Killer::boot(line).map(|killer| killer.place) else {
            panic!("{line}");
        };
        assert_eq!(boot.machine.options(), " --smp 4 --gic 3");
        assert_eq!(boot.timeout, Duration::from_secs(9));
        assert_eq!(boot.bootargs, "lazy=eager policy=classic");
        for wrong in ["", "sched.turns --smp", "sched.turns lazy=eager"] {
            assert!(Killer::boot(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn the_test_counts_and_the_endings_of_the_entry() {
        let mut killer = Killer::boot("sched.turns").unwrap();
        let (test, panic) = (["sched.turns".to_owned()], ["panic".to_owned()]);
        assert!(killer.accepts(&test) && !killer.accepts(&panic) && !killer.accepts(&[]));
        assert_eq!(killer.add_endings("hang panic"), Some(()));
        assert!(killer.accepts(&test) && killer.accepts(&panic));
        assert!(!killer.accepts(&["exception".to_owned()]));
        assert_eq!(killer.add_endings("crash"), None);
        assert_eq!(killer.add_endings(""), None);
        let mut host = Killer::host("--lib tests::turns").unwrap();
        assert_eq!(host.add_endings("panic"), None);
        assert!(host.accepts(&["tests::turns".to_owned()]));
    }
}
