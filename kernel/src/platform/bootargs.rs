// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boot arguments: what `/chosen/bootargs` may say.
//!
//! Words separated by spaces, each `name=value`, each name at most once, in any
//! order:
//!
//! ```text
//! mode=demo|selftest|counts|soak|...  what to do               (demo)
//! filter=GLOB                       which self-tests           (*)
//! lazy=eager|defer-barriers|...     lazy MMU backend           (defer-barriers)
//! policy=auto|classic|ets2          barrier policy             (auto)
//! log=error|warn|info|debug|trace   least important log line   (info)
//! exit=auto|semihosting|psci|halt   how the run ends           (auto)
//! cpus=1|2|...|8                    how many CPUs run at most  (all)
//! seconds=N                         how long a soak takes      (10)
//! seed=N                            its random numbers         (1)
//! ```
//!
//! The backends are those of [`mmu::Backend`]. The other modes, from `panic` to `hang`, end badly on purpose
//! ([`Provocation`]).
//!
//! A word that is anything else is an error, not a warning: a mistyped argument
//! that is ignored makes a run look like a different one.

use core::fmt;

use log::LevelFilter;
use mmu::Backend;

use crate::platform::devicetree::MAX_CPUS;
use crate::selftest::filter::{Filter, FilterError};

/// Boot arguments, with defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootArguments<'a> {
    /// What the kernel does.
    pub mode: Mode,
    /// Which self-tests run.
    pub filter: Filter<'a>,
    /// Backend of lazy MMU mode.
    pub lazy: Backend,
    /// When barriers are owed.
    pub policy: PolicyChoice,
    /// The least important log lines shown.
    pub log: LevelFilter,
    /// How the run ends.
    pub exit: ExitMethod,
    /// How many CPUs run at most, the boot CPU included.
    pub cpus: usize,
    /// How long a soak takes, in seconds, from 1 on.
    pub seconds: u32,
    /// Where the random numbers of a soak begin.
    pub seed: u32,
}

impl Default for BootArguments<'_> {
    fn default() -> Self {
        Self {
            mode: Mode::Demo,
            filter: Filter::ALL,
            lazy: Backend::DeferBarriers,
            policy: PolicyChoice::Auto,
            log: LevelFilter::Info,
            exit: ExitMethod::Auto,
            cpus: MAX_CPUS,
            seconds: 10,
            seed: 1,
        }
    }
}

/// What the kernel does after it has come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Show what lazy MMU mode saves.
    Demo,
    /// Run the self-tests.
    Selftest,
    /// Count the instructions of the library's operations.
    Counts,
    /// Run random tasks for a while.
    Soak,
    /// End badly.
    Provoke(Provocation),
}

/// A bad end on purpose, to see the report of it and to test whoever reads the report.
/// Linux: LKDTM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provocation {
    /// A panic.
    Panic,
    /// A panic in an interrupt of every other CPU, while this one prints.
    PanicElsewhere,
    /// An exception that nobody expects.
    Exception,
    /// A jump to where nothing is mapped.
    Jump,
    /// A recursion that runs into the stack's guard page.
    StackOverflow,
    /// The same in a task other than the first.
    TaskOverflow,
    /// A task that sleeps in a section of a backend that keeps its CPU.
    SleepInSection,
    /// An interrupt handler that asks for the kernel's address space.
    LockInInterrupt,
    /// An endless loop without output.
    Hang,
}

/// How the barrier policy is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyChoice {
    /// By the CPUs' ID registers.
    Auto,
    /// DSB ISHST and ISB, whatever the CPUs have.
    Classic,
    /// As for CPUs with FEAT_ETS2.
    Ets2,
}

/// How the run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitMethod {
    /// PSCI if the device tree has it, else stop the CPU.
    Auto,
    /// Semihosting, with an exit status; where nobody listens, the same as `Auto`.
    Semihosting,
    /// PSCI SYSTEM_OFF.
    Psci,
    /// Stop the CPU.
    Halt,
}

/// Names and what each may be, in the order of the module's table.
const ARGUMENTS: [(&str, &str); 9] = [
    (
        "mode",
        "demo|selftest|counts|soak|panic|panic-elsewhere|exception|jump|stack-overflow|task-overflow|sleep-in-section|lock-in-interrupt|hang",
    ),
    ("filter", "GLOB"),
    (
        "lazy",
        "eager|defer-barriers|defer-stores|batch-invalidations|multicall",
    ),
    ("policy", "auto|classic|ets2"),
    ("log", "error|warn|info|debug|trace"),
    ("exit", "auto|semihosting|psci|halt"),
    ("cpus", "1|2|3|4|5|6|7|8"),
    ("seconds", "N, from 1 to 4294967295"),
    ("seed", "N, from 0 to 4294967295"),
];

impl<'a> BootArguments<'a> {
    /// Reads `text`, the value of `/chosen/bootargs`.
    ///
    /// # Errors
    /// The first word that is not allowed.
    pub fn parse(text: &'a str) -> Result<Self, BootArgumentError<'a>> {
        let mut arguments = Self::default();
        let mut seen = [false; ARGUMENTS.len()];
        for word in text.split_ascii_whitespace() {
            let Some((name, value)) = word.split_once('=') else {
                return Err(BootArgumentError::NoValue { word });
            };
            let Some(index) = ARGUMENTS.iter().position(|known| known.0 == name) else {
                return Err(BootArgumentError::Unknown { name });
            };
            if core::mem::replace(&mut seen[index], true) {
                return Err(BootArgumentError::Twice { name });
            }
            arguments.set(name, value)?;
        }
        Ok(arguments)
    }

    fn set(&mut self, name: &'a str, value: &'a str) -> Result<(), BootArgumentError<'a>> {
        match (name, value) {
            ("mode", "demo") => self.mode = Mode::Demo,
            ("mode", "selftest") => self.mode = Mode::Selftest,
            ("mode", "counts") => self.mode = Mode::Counts,
            ("mode", "soak") => self.mode = Mode::Soak,
            ("mode", "panic") => self.mode = Mode::Provoke(Provocation::Panic),
            ("mode", "panic-elsewhere") => {
                self.mode = Mode::Provoke(Provocation::PanicElsewhere);
            }
            ("mode", "exception") => self.mode = Mode::Provoke(Provocation::Exception),
            ("mode", "jump") => self.mode = Mode::Provoke(Provocation::Jump),
            ("mode", "lock-in-interrupt") => {
                self.mode = Mode::Provoke(Provocation::LockInInterrupt);
            }
            ("mode", "task-overflow") => self.mode = Mode::Provoke(Provocation::TaskOverflow),
            ("mode", "sleep-in-section") => {
                self.mode = Mode::Provoke(Provocation::SleepInSection);
            }
            ("mode", "stack-overflow") => self.mode = Mode::Provoke(Provocation::StackOverflow),
            ("mode", "hang") => self.mode = Mode::Provoke(Provocation::Hang),
            ("filter", _) => {
                self.filter = Filter::parse(value)
                    .map_err(|error| BootArgumentError::BadFilter { value, error })?;
            }
            ("lazy", "eager") => self.lazy = Backend::Eager,
            ("lazy", "defer-barriers") => self.lazy = Backend::DeferBarriers,
            ("lazy", "defer-stores") => self.lazy = Backend::DeferStores,
            ("lazy", "batch-invalidations") => self.lazy = Backend::BatchInvalidations,
            ("lazy", "multicall") => self.lazy = Backend::Multicall,
            ("policy", "auto") => self.policy = PolicyChoice::Auto,
            ("policy", "classic") => self.policy = PolicyChoice::Classic,
            ("policy", "ets2") => self.policy = PolicyChoice::Ets2,
            ("log", "error") => self.log = LevelFilter::Error,
            ("log", "warn") => self.log = LevelFilter::Warn,
            ("log", "info") => self.log = LevelFilter::Info,
            ("log", "debug") => self.log = LevelFilter::Debug,
            ("log", "trace") => self.log = LevelFilter::Trace,
            ("exit", "auto") => self.exit = ExitMethod::Auto,
            ("exit", "semihosting") => self.exit = ExitMethod::Semihosting,
            ("exit", "psci") => self.exit = ExitMethod::Psci,
            ("exit", "halt") => self.exit = ExitMethod::Halt,
            // One digit: 08 and +8 are no numbers of CPUs.
            ("cpus", _) => match value.as_bytes() {
                [digit @ b'1'..=b'8'] => self.cpus = usize::from(digit - b'0'),
                _ => return Err(BootArgumentError::BadValue { name, value }),
            },
            ("seconds", _) => match number(value) {
                Some(seconds @ 1..) => self.seconds = seconds,
                _ => return Err(BootArgumentError::BadValue { name, value }),
            },
            ("seed", _) => match number(value) {
                Some(seed) => self.seed = seed,
                None => return Err(BootArgumentError::BadValue { name, value }),
            },
            _ => return Err(BootArgumentError::BadValue { name, value }),
        }
        Ok(())
    }
}

/// Digits and nothing else, and no zero in front.
fn number(text: &str) -> Option<u32> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_short = text == "0" || !text.starts_with('0');
    (is_plain && is_short).then(|| text.parse().ok()).flatten()
}

/// A word of the boot arguments that is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BootArgumentError<'a> {
    /// A word without `=`.
    NoValue {
        /// The word.
        word: &'a str,
    },
    /// A name that is none of ours.
    Unknown {
        /// The name.
        name: &'a str,
    },
    /// A name that was there before.
    Twice {
        /// The name.
        name: &'a str,
    },
    /// A value the argument does not have.
    BadValue {
        /// The argument.
        name: &'a str,
        /// The value.
        value: &'a str,
    },
    /// A filter that can name no test.
    BadFilter {
        /// The filter.
        value: &'a str,
        /// What is wrong with it.
        error: FilterError,
    },
}

impl fmt::Display for BootArgumentError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoValue { word } => {
                write!(f, "boot argument '{word}' has no value: write name=value; ")?;
            }
            Self::Unknown { name } => write!(f, "boot argument '{name}' is not known; ")?,
            Self::Twice { name } => {
                return write!(
                    f,
                    "boot argument '{name}' is given twice: remove one, as neither silently wins"
                );
            }
            Self::BadValue { name, value } => {
                let known = ARGUMENTS.iter().find(|known| known.0 == *name);
                let allowed = known.map_or("", |known| known.1);
                return write!(
                    f,
                    "boot argument {name}='{value}' is not allowed: use {name}={allowed}"
                );
            }
            Self::BadFilter { value, error } => {
                return write!(f, "boot argument filter='{value}': {error}");
            }
        }
        f.write_str("allowed are")?;
        for (name, allowed) in ARGUMENTS {
            write!(f, " {name}={allowed}")?;
        }
        Ok(())
    }
}

impl core::error::Error for BootArgumentError<'_> {}

#[cfg(test)]
mod tests {
    use log::LevelFilter;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_means_defaults() {
        let arguments = BootArguments::parse(" \t ").unwrap();
        assert_eq!(arguments, BootArguments::default());
        assert_eq!(arguments.mode, Mode::Demo);
        assert_eq!(arguments.lazy, Backend::DeferBarriers);
        assert_eq!(arguments.policy, PolicyChoice::Auto);
        assert_eq!(arguments.log, LevelFilter::Info);
        assert_eq!(arguments.exit, ExitMethod::Auto);
        assert_eq!(arguments.cpus, MAX_CPUS);
    }

    #[test]
    fn reads_every_argument() {
        let text = "exit=semihosting  log=trace policy=ets2 cpus=3 lazy=eager filter=tables.* mode=selftest";
        let arguments = BootArguments::parse(text).unwrap();
        assert_eq!(arguments.mode, Mode::Selftest);
        assert_eq!(arguments.filter, Filter::parse("tables.*").unwrap());
        assert_eq!(arguments.lazy, Backend::Eager);
        assert_eq!(arguments.policy, PolicyChoice::Ets2);
        assert_eq!(arguments.log, LevelFilter::Trace);
        assert_eq!(arguments.exit, ExitMethod::Semihosting);
        assert_eq!(arguments.cpus, 3);
        let arguments = BootArguments::parse("mode=soak seed=0 seconds=600").unwrap();
        assert_eq!(arguments.mode, Mode::Soak);
        assert_eq!((arguments.seconds, arguments.seed), (600, 0));
    }

    #[test]
    fn numbers_are_plain() {
        for text in [
            "seconds=0",
            "seconds=",
            "seconds=+1",
            "seed=07",
            "seed=4294967296",
            "seed=-1",
        ] {
            assert!(
                matches!(
                    BootArguments::parse(text),
                    Err(BootArgumentError::BadValue { .. })
                ),
                "{text}"
            );
        }
    }

    #[test]
    fn lazy_knows_every_backend_of_the_library() {
        for backend in Backend::ALL {
            let text = format!("lazy={backend}");
            assert_eq!(BootArguments::parse(&text).unwrap().lazy, backend);
        }
    }

    #[test]
    fn every_value_of_the_table_is_read_as_something_else() {
        for (name, allowed) in ARGUMENTS.iter().filter(|known| known.1.contains('|')) {
            let mut results = Vec::new();
            for value in allowed.split('|') {
                let text = format!("{name}={value}");
                let parsed = format!("{:?}", BootArguments::parse(&text).unwrap());
                assert!(!results.contains(&parsed), "{text}");
                results.push(parsed);
            }
        }
    }

    #[test]
    fn errors_name_the_argument_and_what_is_allowed() {
        let cases = [
            (
                "mode=fast",
                "boot argument mode='fast' is not allowed: use mode=demo|selftest|counts|soak|panic|panic-elsewhere|exception|jump|stack-overflow|task-overflow|sleep-in-section|lock-in-interrupt|hang",
            ),
            (
                "mode=",
                "boot argument mode='' is not allowed: use mode=demo|selftest|counts|soak|panic|panic-elsewhere|exception|jump|stack-overflow|task-overflow|sleep-in-section|lock-in-interrupt|hang",
            ),
            (
                "Mode=demo",
                "boot argument 'Mode' is not known; allowed are mode=demo|selftest",
            ),
            ("=x", "boot argument '' is not known; allowed are"),
            (
                "quiet",
                "boot argument 'quiet' has no value: write name=value; allowed are mode=",
            ),
            ("log=info log=info", "boot argument 'log' is given twice"),
            (
                "lazy=eager=x",
                "boot argument lazy='eager=x' is not allowed: use lazy=eager|defer-barriers|defer-stores|batch-invalidations|multicall",
            ),
            (
                "cpus=0",
                "boot argument cpus='0' is not allowed: use cpus=1|2|3|4|5|6|7|8",
            ),
            (
                "cpus=9",
                "boot argument cpus='9' is not allowed: use cpus=1|",
            ),
            (
                "cpus=08",
                "boot argument cpus='08' is not allowed: use cpus=1|",
            ),
            ("cpus=", "boot argument cpus='' is not allowed: use cpus=1|"),
            ("filter=a..b", "boot argument filter='a..b': "),
        ];
        for (text, expected) in cases {
            let message = BootArguments::parse(text).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_with_a_message(text in "\\PC{0,80}") {
            if let Err(error) = BootArguments::parse(&text) {
                prop_assert!(error.to_string().starts_with("boot argument "));
            }
        }

        #[test]
        fn order_does_not_matter(
            words in Just(["mode=selftest", "log=warn", "exit=halt", "lazy=eager"]).prop_shuffle()
        ) {
            let text = words.join(" ");
            let sorted = "exit=halt lazy=eager log=warn mode=selftest";
            prop_assert_eq!(BootArguments::parse(&text), BootArguments::parse(sorted));
            prop_assert!(BootArguments::parse(sorted).is_ok());
        }
    }
}
