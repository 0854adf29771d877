// SPDX-License-Identifier: MIT OR Apache-2.0
//! Boot arguments: the words of `/chosen/bootargs`.
//!
//! The words are separated by spaces. Each has the form `name=value`, and each name occurs at most
//! once, in any order:
//!
//! ```text
//! mode=demo|selftest|soak|...       what to do               (demo)
//! filter=GLOB                       which self-tests           (*)
//! lazy=eager|defer-barriers|...     lazy MMU backend           (defer-barriers)
//! policy=auto|classic|ets2          barrier policy             (auto)
//! log=error|warn|info|debug|trace   least important log line   (info)
//! exit=auto|semihosting|psci|halt   how the run ends           (auto)
//! cpus=N                            how many CPUs run at most  (all)
//! seconds=N                         how long a soak takes      (10)
//! seed=N                            its random numbers         (1)
//! iterations=N                      rounds of a litmus test    (10 000 000; 2000 under QEMU)
//! pages=N                           largest measured window    (4096)
//! ```
//!
//! The backends are those of [`lazymmu::Backend`]. The other modes, from `panic` to `hang`, end in
//! an error on purpose ([`Provocation`]).
//!
//! Any other word is an error, not a warning: if a mistyped argument were ignored, a run would look
//! like a different one.
//!
//! Words for Linux are an exception. The firmware of a Raspberry Pi puts them before the contents
//! of `cmdline.txt`, for any kernel, and they cannot be removed. They are passed over, and one line
//! of the log repeats them ([`PassedOver`]). There are two rules:
//!
//! - The word `lazymmu` is a marker: all words before it are passed over. `cargo xtask image`
//!   begins `cmdline.txt` with it, so that firmware cannot add a word that the kernel refuses. It
//!   may occur only once, because words between two markers would have no clear meaning.
//! - After the marker, or if there is none, parameters of Linux's modules
//!   (`module.parameter=value`) and the names in [`LINUX`] are passed over, any number of times. No
//!   name of this kernel has a dot.

use core::fmt;

use lazymmu::Backend;
use log::LevelFilter;

use crate::filter::{Filter, FilterError};
use crate::machine::MAX_CPUS;

/// Boot arguments, with defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootArguments<'a> {
    /// What the kernel does after the boot.
    pub mode: Mode,
    /// Which self-tests run.
    pub filter: Filter<'a>,
    /// Backend of lazy MMU mode.
    pub lazy: Backend,
    /// Which barriers a write needs.
    pub policy: PolicyChoice,
    /// The least important level of log lines that is printed.
    pub log: LevelFilter,
    /// How the run ends.
    pub exit: ExitMethod,
    /// How many CPUs run at most, the boot CPU included.
    pub cpus: usize,
    /// The duration of a soak in seconds, at least 1.
    pub seconds: u32,
    /// The seed of a soak's random numbers.
    pub seed: u32,
    /// Rounds of each litmus test, at least 1; `None` if the kind of machine decides.
    pub iterations: Option<u32>,
    /// Pages of the largest measured window, at least 1.
    pub pages: u32,
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
            iterations: None,
            pages: 4096,
        }
    }
}

/// What the kernel does after the boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Show what lazy MMU mode saves.
    Demo,
    /// Run the self-tests.
    Selftest,
    /// Count the instructions of the library's operations, by the timer.
    Counts,
    /// Execute the same windows for a counter outside of the machine.
    Bench,
    /// Run random tasks for some time.
    Soak,
    /// Count spurious faults, and the cycles of barriers.
    Litmus,
    /// End in an error.
    Provoke(Provocation),
}

/// An error on purpose, to see its report and to test the programs that read the report.
/// Linux: LKDTM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provocation {
    /// A panic.
    Panic,
    /// A panic in an interrupt of every other CPU, while this one prints.
    PanicElsewhere,
    /// An unexpected exception.
    Exception,
    /// A jump to an address that is not mapped.
    Jump,
    /// A recursion that runs into the stack's guard page.
    StackOverflow,
    /// The same recursion, in a task other than the first.
    TaskOverflow,
    /// A task that sleeps in a section of a backend that keeps its CPU.
    SleepInSection,
    /// An interrupt handler that takes the lock of the kernel's address space.
    LockInInterrupt,
    /// An endless loop without output.
    Hang,
}

/// How the barrier policy is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyChoice {
    /// By the CPUs' ID registers.
    Auto,
    /// DSB ISHST and ISB, for all CPUs.
    Classic,
    /// As for CPUs with FEAT_ETS2.
    Ets2,
}

/// How the run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitMethod {
    /// PSCI if the device tree has it, else stop the CPU.
    Auto,
    /// Semihosting, with an exit status; without a host the same as `Auto`.
    Semihosting,
    /// PSCI SYSTEM_OFF.
    Psci,
    /// Stop the CPU.
    Halt,
}

/// The largest window: 4 GiB.
const MAX_PAGES: u32 = 1 << 20;

/// The names and the values that each may have, in the order of the module's table. Words between
/// bars are in the order of the constants to which they are converted.
const ARGUMENTS: [(&str, &str); 11] = [
    (
        "mode",
        "demo|selftest|counts|bench|soak|litmus|panic|panic-elsewhere|exception|jump|stack-overflow|task-overflow|sleep-in-section|lock-in-interrupt|hang",
    ),
    ("filter", "GLOB"),
    (
        "lazy",
        "eager|defer-barriers|defer-stores|batch-invalidations|multicall",
    ),
    ("policy", "auto|classic|ets2"),
    ("log", "error|warn|info|debug|trace"),
    ("exit", "auto|semihosting|psci|halt"),
    ("cpus", "N, from 1 to 16"),
    ("seconds", "N, from 1 to 4294967295"),
    ("seed", "N, from 0 to 4294967295"),
    ("iterations", "N, from 1 to 4294967295"),
    ("pages", "N, from 1 to 1048576"),
];

const MODES: [Mode; 15] = [
    Mode::Demo,
    Mode::Selftest,
    Mode::Counts,
    Mode::Bench,
    Mode::Soak,
    Mode::Litmus,
    Mode::Provoke(Provocation::Panic),
    Mode::Provoke(Provocation::PanicElsewhere),
    Mode::Provoke(Provocation::Exception),
    Mode::Provoke(Provocation::Jump),
    Mode::Provoke(Provocation::StackOverflow),
    Mode::Provoke(Provocation::TaskOverflow),
    Mode::Provoke(Provocation::SleepInSection),
    Mode::Provoke(Provocation::LockInInterrupt),
    Mode::Provoke(Provocation::Hang),
];

const POLICIES: [PolicyChoice; 3] = [
    PolicyChoice::Auto,
    PolicyChoice::Classic,
    PolicyChoice::Ets2,
];

const LEVELS: [LevelFilter; 5] = [
    LevelFilter::Error,
    LevelFilter::Warn,
    LevelFilter::Info,
    LevelFilter::Debug,
    LevelFilter::Trace,
];

const EXITS: [ExitMethod; 4] = [
    ExitMethod::Auto,
    ExitMethod::Semihosting,
    ExitMethod::Psci,
    ExitMethod::Halt,
];

/// The words before this word are not for this kernel.
pub const MARKER: &str = "lazymmu";

/// Names of parameters for Linux that the firmware of a Raspberry Pi 4, its device tree, or the
/// `cmdline.txt` of a card made for Linux contains. Names with a dot are not listed.
const LINUX: [&str; 12] = [
    "cgroup_disable",
    "cma",
    "coherent_pool",
    "console",
    "iommu_dma_numa_policy",
    "kgdboc",
    "numa",
    "numa_policy",
    "root",
    "rootfstype",
    "rootwait",
    "video",
];

/// Whether `word` is meant for Linux.
fn is_for_linux(word: &str) -> bool {
    match word.split_once('=') {
        // The dot of a module's parameter has text on both sides.
        Some((name, _)) => LINUX.contains(&name) || name.trim_matches('.').contains('.'),
        // A word with a dot and without a value is more likely a filter without its name.
        None => LINUX.contains(&word),
    }
}

/// The words of `text` before the first [`MARKER`], and those after it. Without a marker the first
/// part is empty and the second part has all words.
fn split_at_marker(text: &str) -> (impl Iterator<Item = &str>, impl Iterator<Item = &str>) {
    let words = text.split_ascii_whitespace();
    let (before, passed) = match words.clone().position(|word| word == MARKER) {
        Some(marker) => (marker, marker + 1),
        None => (0, 0),
    };
    (words.clone().take(before), words.skip(passed))
}

/// The words of the boot arguments that are passed over; there is at least one.
#[derive(Clone, Copy, Debug)]
pub struct PassedOver<'a> {
    text: &'a str,
}

impl<'a> PassedOver<'a> {
    /// The words in `text`, the value of `/chosen/bootargs`, that are passed over; `None` if there
    /// are none.
    #[must_use]
    pub fn find_in(text: &'a str) -> Option<Self> {
        let found = Self { text };
        found.words().next().map(|_| found)
    }

    fn words(self) -> impl Iterator<Item = &'a str> {
        let (before, behind) = split_at_marker(self.text);
        before.chain(behind.filter(|word| is_for_linux(word)))
    }
}

impl fmt::Display for PassedOver<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("boot arguments meant for others and passed over:")?;
        self.words().try_for_each(|word| write!(f, " {word}"))
    }
}

impl<'a> BootArguments<'a> {
    /// Reads `text`, the value of `/chosen/bootargs`.
    ///
    /// # Errors
    /// The first word that is not allowed.
    pub fn parse(text: &'a str) -> Result<Self, BootArgumentError<'a>> {
        let mut arguments = Self::default();
        let mut seen = [false; ARGUMENTS.len()];
        for word in split_at_marker(text).1 {
            if is_for_linux(word) {
                continue;
            }
            if word == MARKER {
                return Err(BootArgumentError::Twice { name: MARKER });
            }
            let Some((name, value)) = word.split_once('=') else {
                return Err(BootArgumentError::NoValue { word });
            };
            let Some(index) = ARGUMENTS.iter().position(|known| known.0 == name) else {
                return Err(BootArgumentError::Unknown { name });
            };
            if core::mem::replace(&mut seen[index], true) {
                return Err(BootArgumentError::Twice { name });
            }
            arguments.set(ARGUMENTS[index], value)?;
        }
        Ok(arguments)
    }

    fn set(
        &mut self,
        (name, allowed): (&'static str, &str),
        value: &'a str,
    ) -> Result<(), BootArgumentError<'a>> {
        let bad = BootArgumentError::BadValue { name, value };
        // The position of the word in the table; the constants below are in the same order.
        let choice = || allowed.split('|').position(|word| word == value).ok_or(bad);
        match name {
            "mode" => self.mode = MODES[choice()?],
            "filter" => {
                self.filter = Filter::parse(value)
                    .map_err(|error| BootArgumentError::BadFilter { value, error })?;
            }
            "lazy" => self.lazy = Backend::ALL[choice()?],
            "policy" => self.policy = POLICIES[choice()?],
            "log" => self.log = LEVELS[choice()?],
            "exit" => self.exit = EXITS[choice()?],
            "cpus" => {
                let cpus = number(value).map(|n| n as usize);
                self.cpus = cpus.filter(|n| (1..=MAX_CPUS).contains(n)).ok_or(bad)?;
            }
            "seconds" => self.seconds = number(value).filter(|seconds| *seconds > 0).ok_or(bad)?,
            "seed" => self.seed = number(value).ok_or(bad)?,
            "iterations" => self.iterations = Some(number(value).filter(|n| *n > 0).ok_or(bad)?),
            _ => {
                self.pages = number(value)
                    .filter(|n| (1..=MAX_PAGES).contains(n))
                    .ok_or(bad)?
            }
        }
        Ok(())
    }
}

/// A decimal number of digits only, without leading zeros.
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
    /// A name that is not in the table.
    Unknown {
        /// The name.
        name: &'a str,
    },
    /// A name that occurs twice.
    Twice {
        /// The name.
        name: &'a str,
    },
    /// A value that the argument cannot have.
    BadValue {
        /// The argument.
        name: &'a str,
        /// The value.
        value: &'a str,
    },
    /// A filter that cannot match any test.
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
                    "boot argument '{name}' is given twice: remove one, because neither has precedence"
                );
            }
            Self::BadValue { name, value } => {
                let known = ARGUMENTS.iter().find(|known| known.0 == *name);
                let allowed = known.map_or("", |known| known.1);
                let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
                let zeros = match is_number && value.len() > 1 && value.starts_with('0') {
                    true => ", without leading zeros",
                    false => "",
                };
                return write!(
                    f,
                    "boot argument {name}='{value}' is not allowed: use {name}={allowed}{zeros}"
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
        write!(
            f,
            "; words for other programs may come before the word {MARKER}"
        )
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
        assert_eq!(arguments.iterations, None);
        let arguments = BootArguments::parse("mode=litmus iterations=10000000").unwrap();
        assert_eq!(arguments.mode, Mode::Litmus);
        assert_eq!(arguments.iterations, Some(10_000_000));
        assert_eq!(arguments.pages, 4096);
        let arguments = BootArguments::parse("mode=bench pages=1048576").unwrap();
        assert_eq!((arguments.mode, arguments.pages), (Mode::Bench, 1 << 20));
    }

    /// The words for Linux on a Raspberry Pi 4: from its tree, the firmware, and `cmdline.txt`.
    const OF_A_PI: &str = "coherent_pool=1M 8250.nr_uarts=1 snd_bcm2835.enable_headphones=0 \
        cgroup_disable=memory numa_policy=interleave nvme.max_host_mem_size_mb=32 \
        snd_bcm2835.enable_headphones=1 numa=fake=4 iommu_dma_numa_policy=interleave video=HDMI-A-1:1280x720M@60 \
        bcm2708_fb.fbwidth=0 smsc95xx.macaddr=02:00:00:00:00:00 vc_mem.mem_base=0x3ec00000 \
        vc_mem.mem_size=0x40000000  console=ttyS0,115200 console=tty1 kgdboc=ttyS0,115200 \
        root=PARTUUID=00000000-02 rootfstype=ext4 fsck.repair=yes rootwait cma=64M";

    #[test]
    fn what_firmware_says_to_linux_is_passed_over_and_shown() {
        let text = format!("{OF_A_PI} mode=selftest  lazy=eager");
        let arguments = BootArguments::parse(&text).unwrap();
        assert_eq!(
            arguments,
            BootArguments::parse("mode=selftest lazy=eager").unwrap()
        );
        let shown = PassedOver::find_in(&text).unwrap().to_string();
        let words = OF_A_PI
            .split_ascii_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(
            shown,
            format!("boot arguments meant for others and passed over: {words}")
        );
        assert!(PassedOver::find_in("mode=selftest filter=a.b").is_none());
        assert!(PassedOver::find_in("").is_none());
    }

    #[test]
    fn what_stands_before_the_marker_is_passed_over_whatever_it_is() {
        let passed = |text: &str| PassedOver::find_in(text).map(|words| words.to_string());
        let ours = BootArguments::parse("mode=selftest lazy=eager");
        assert!(ours.is_ok());
        // At the beginning, as `cargo xtask image` writes it: nothing is passed over.
        let text = "lazymmu mode=selftest lazy=eager";
        assert_eq!(BootArguments::parse(text), ours);
        assert_eq!(passed(text), None);
        // In the middle, after words that are unknown, malformed, or in the table.
        let text = "new_in_2031=1 quiet =x mode=soak mode=hang  lazymmu mode=selftest lazy=eager";
        assert_eq!(BootArguments::parse(text), ours);
        assert_eq!(
            passed(text).as_deref(),
            Some(
                "boot arguments meant for others and passed over: new_in_2031=1 quiet =x mode=soak mode=hang"
            )
        );
        // Alone, and at the end.
        let defaults = Ok(BootArguments::default());
        assert_eq!(BootArguments::parse("lazymmu"), defaults);
        assert_eq!(BootArguments::parse("quiet lazymmu"), defaults);
        // Words for Linux may also come after it.
        let text = "quiet lazymmu console=tty1 mode=selftest lazy=eager";
        assert_eq!(BootArguments::parse(text), ours);
        assert!(passed(text).is_some_and(|line| line.ends_with(": quiet console=tty1")));
    }

    #[test]
    fn behind_the_marker_as_without_one_every_word_must_be_known() {
        for text in ["new_in_2031=1 mode=demo", "lazymmu new_in_2031=1 mode=demo"] {
            let name = "new_in_2031";
            let error = BootArgumentError::Unknown { name };
            assert_eq!(BootArguments::parse(text), Err(error), "{text}");
        }
        for text in [
            "lazymmu lazymmu",
            "quiet lazymmu mode=demo lazymmu log=info",
        ] {
            let name = MARKER;
            let error = BootArgumentError::Twice { name };
            assert_eq!(BootArguments::parse(text), Err(error), "{text}");
        }
        // Words that only resemble the marker are not known either.
        for text in ["quiet lazymmu=1", "quiet Lazymmu", "quiet lazymmu:"] {
            assert!(BootArguments::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_only_like_linux_is_refused() {
        for text in [
            "lazy.nesting",
            ".lazy=eager",
            "lazy.=eager",
            ".=",
            "rootwaits",
            "Console=tty1",
            "consoles=tty1",
            "quiet",
            "lasy=eager",
        ] {
            assert!(BootArguments::parse(text).is_err(), "{text}");
        }
        // A dot in the value does not make a word a module's parameter.
        assert!(BootArguments::parse("filter=tables.*").is_ok());
        assert!(BootArguments::parse("mode=lazy.fast").is_err());
    }

    #[test]
    fn none_of_our_names_is_linuxs() {
        for (name, _) in ARGUMENTS {
            assert!(!is_for_linux(&format!("{name}=1")) && !is_for_linux(name));
        }
    }

    #[test]
    fn zeros_in_front_are_what_is_wrong() {
        let said = |text| BootArguments::parse(text).unwrap_err().to_string();
        let text = said("seed=00001");
        assert!(text.ends_with("use seed=N, from 0 to 4294967295, without leading zeros"));
        for text in ["seed=-1", "seed=", "seed=4294967296"] {
            assert!(said(text).ends_with("4294967295"), "{text}");
        }
    }

    #[test]
    fn numbers_are_plain() {
        for text in [
            "pages=0",
            "pages=1048577",
            "seconds=0",
            "seconds=",
            "seconds=+1",
            "iterations=0",
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
    fn as_many_cpus_as_the_kernel_accepts_may_be_asked_for() {
        for cpus in 1..=MAX_CPUS {
            let text = format!("cpus={cpus}");
            assert_eq!(BootArguments::parse(&text).unwrap().cpus, cpus);
        }
        // The table has this number in its text.
        assert_eq!(MAX_CPUS, 16);
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
    fn each_word_is_read_as_what_it_says() {
        // `Debug` of each value is the word in another spelling: PanicElsewhere, panic-elsewhere.
        let plain = |text: String| text.replace(['-', ')'], "").to_lowercase();
        for (name, allowed) in ARGUMENTS.iter().filter(|known| known.1.contains('|')) {
            for value in allowed.split('|') {
                let text = format!("{name}={value}");
                let read = BootArguments::parse(&text).unwrap();
                let shown = match *name {
                    "mode" => format!("{:?}", read.mode),
                    "lazy" => format!("{:?}", read.lazy),
                    "policy" => format!("{:?}", read.policy),
                    "log" => format!("{:?}", read.log),
                    "exit" => format!("{:?}", read.exit),
                    other => panic!("{other} is new here"),
                };
                let shown = plain(shown);
                let shown = shown.strip_prefix("provoke(").unwrap_or(&shown);
                assert_eq!(shown, plain(value.to_owned()), "{text}");
            }
        }
    }

    #[test]
    fn errors_name_the_argument_and_what_is_allowed() {
        let cases = [
            (
                "mode=fast",
                "boot argument mode='fast' is not allowed: use mode=demo|selftest|counts|bench|soak|litmus|panic|panic-elsewhere|exception|jump|stack-overflow|task-overflow|sleep-in-section|lock-in-interrupt|hang",
            ),
            (
                "mode=",
                "boot argument mode='' is not allowed: use mode=demo|selftest|counts|bench|soak|litmus|panic|panic-elsewhere|exception|jump|stack-overflow|task-overflow|sleep-in-section|lock-in-interrupt|hang",
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
                "boot argument cpus='0' is not allowed: use cpus=N, from 1 to 16",
            ),
            (
                "cpus=17",
                "boot argument cpus='17' is not allowed: use cpus=N, from 1 to 16",
            ),
            (
                "cpus=08",
                "boot argument cpus='08' is not allowed: use cpus=N",
            ),
            ("cpus=", "boot argument cpus='' is not allowed: use cpus=N"),
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
