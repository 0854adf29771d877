// SPDX-License-Identifier: MIT OR Apache-2.0

//! What must notice a mutant: a host test, or a self-test of the kernel on a certain machine.

use crate::qemu::{Machine, MachineOptions};
use clap::Parser;
use std::fmt;
use std::time::Duration;

/// Seconds that a boot may take; half of them in silence is a hang. One self-test takes a few, and a busy host
/// several times as long.
const TIMEOUT: u32 = 60;

/// A test that fails with the mutant, and passes without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Killer {
    /// A host test of the list's package.
    Host(Host),
    /// A self-test of the kernel.
    Boot(Boot),
}

/// A test, as cargo finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The integration test, or `--lib` for the unit tests.
    pub binary: String,
    /// The test's full name in there.
    pub test: String,
}

/// A self-test, and where it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Its path, `suite.test`.
    pub test: String,
    /// The machine.
    pub machine: Machine,
    /// Boot arguments, without those that select the test.
    pub bootargs: String,
    /// How long the boot may take.
    pub timeout: Duration,
    /// Ends of the kernel that are as good as a failure of the test.
    pub ends: Vec<Ending>,
}

/// An end of the kernel that leaves no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The kernel panicked.
    Panic,
    /// An exception that nobody expected.
    Exception,
    /// Nothing happened any more.
    Hang,
}

impl Ending {
    const ALL: [Self; 3] = [Self::Panic, Self::Exception, Self::Hang];

    /// The word for it, in the list and in the table.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Panic => "panic",
            Self::Exception => "exception",
            Self::Hang => "hang",
        }
    }

    /// Reads one.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ending| ending.word() == word)
    }
}

/// The rest of a `boot` line, in the words of `cargo xtask run`.
#[derive(Debug, Parser)]
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
        Some(Self::Host(Host {
            binary: binary.to_owned(),
            test: test.to_owned(),
        }))
    }

    /// Reads what follows `boot` in the list: test, options of the machine, `--`, boot arguments.
    pub fn boot(line: &str) -> Option<Self> {
        let line = Line::try_parse_from(line.split_whitespace()).ok()?;
        Some(Self::Boot(Boot {
            test: line.test,
            machine: line.options.machine().ok()?,
            bootargs: line.options.bootargs.join(" "),
            timeout: line.options.timeout(TIMEOUT),
            ends: Vec::new(),
        }))
    }

    /// Reads what follows `ends` in the list: the words of [`Ending`]. `false` if it makes no sense.
    pub fn add_endings(&mut self, line: &str) -> bool {
        let Self::Boot(boot) = self else {
            return false;
        };
        let endings: Option<Vec<Ending>> = line.split_whitespace().map(Ending::from_word).collect();
        boot.ends = endings.unwrap_or_default();
        !boot.ends.is_empty()
    }

    /// The name of the test.
    pub fn test(&self) -> &str {
        match self {
            Self::Host(host) => &host.test,
            Self::Boot(boot) => &boot.test,
        }
    }

    /// Whether what happened, names of tests that failed and words for endings, is what the entry says.
    pub fn accepts(&self, by: &[String]) -> bool {
        let endings = match self {
            Self::Host(_) => &[][..],
            Self::Boot(boot) => &boot.ends,
        };
        by.iter()
            .any(|one| one == self.test() || endings.iter().any(|ending| ending.word() == one))
    }
}

impl Boot {
    /// Boot arguments for this test alone, or for all.
    pub fn arguments(&self, alone: bool) -> String {
        let filter = match alone {
            true => format!(" filter={}", self.test),
            false => String::new(),
        };
        format!("mode=selftest{filter} {}", self.bootargs)
            .trim_end()
            .to_owned()
    }

    /// Whether `other` is the same test on the same machine, so that one boot without a mutant says enough
    /// about both.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.test, &self.machine, &self.bootargs)
            == (&other.test, &other.machine, &other.bootargs)
    }
}

impl fmt::Display for Boot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.test, self.machine)?;
        if !self.bootargs.is_empty() {
            write!(f, " {}", self.bootargs)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(line: &str) -> Boot {
        match Killer::boot(line) {
            Some(Killer::Boot(boot)) => boot,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_boot_is_described_as_for_run() {
        let killer = boot("sched.turns --smp 4 --gic 3 --timeout 9 -- lazy=eager policy=classic");
        assert_eq!(killer.machine.options(), " --smp 4 --gic 3");
        assert_eq!(killer.timeout, Duration::from_secs(9));
        assert_eq!(
            killer.arguments(true),
            "mode=selftest filter=sched.turns lazy=eager policy=classic"
        );
        assert_eq!(boot("sched.turns").arguments(false), "mode=selftest");
        assert!(!killer.is_same(&boot("sched.turns")));
        for wrong in ["", "sched.turns --smp", "sched.turns lazy=eager"] {
            assert_eq!(Killer::boot(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_test_counts_and_the_endings_of_the_entry() {
        let mut killer = Killer::Boot(boot("sched.turns"));
        let (test, panic) = (["sched.turns".to_owned()], ["panic".to_owned()]);
        assert!(killer.accepts(&test) && !killer.accepts(&panic) && !killer.accepts(&[]));
        assert!(killer.add_endings("hang panic"));
        assert!(killer.accepts(&test) && killer.accepts(&panic));
        assert!(!killer.accepts(&["exception".to_owned()]));
        assert!(!killer.add_endings("crash") && !killer.add_endings(""));
        let mut host = Killer::host("--lib tests::turns").unwrap();
        assert!(!host.add_endings("panic") && host.accepts(&["tests::turns".to_owned()]));
    }
}
