// SPDX-License-Identifier: MIT OR Apache-2.0
//! Suites and tests: their types, their registration, and the order in which they run.
//!
//! A suite registers by a pointer to it in the linker section `.selftest`. The linker determines
//! the order in a section, so each suite has a number, `order`. Suites run in ascending order of
//! it, and by name among equals. Within a suite, tests run in the order of their declaration.
//! Suites about simple things have low numbers, because a failure in one of them explains failures
//! in later ones.

use core::fmt;

use arrayvec::ArrayVec;

use super::expect::TestResult;
use crate::filter::{MAX_DEPTH, is_name_byte};

/// The maximum number of suites.
pub const MAX_SUITES: usize = 32;

/// A named, ordered set of tests.
#[derive(Debug)]
pub struct Suite {
    /// The first part of the path of its tests.
    pub name: &'static str,
    /// Suites run in ascending order, and by name among equals.
    pub order: u16,
    /// Its tests and groups, in the order in which they run.
    pub tests: &'static [Test],
}

/// A test, or a group of tests under a common name.
#[derive(Debug)]
pub struct Test {
    /// The last part of its path.
    pub name: &'static str,
    /// Its body.
    pub body: Body,
}

/// The body of a [`Test`].
#[derive(Debug)]
pub enum Body {
    /// A function.
    Run {
        /// Where a mistake in its subject shows.
        witness: Witness,
        /// The test itself.
        run: fn() -> TestResult,
    },
    /// Tests that belong together, for example one per parameter value.
    Group(&'static [Test]),
}

/// Where a mistake in the subject of a test shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// QEMU behaves differently then, so the test itself fails.
    QemuVisible,
    /// QEMU behaves the same; counters or an instruction trace show the mistake.
    TraceOnly,
    /// Only real hardware shows it, so the test is skipped elsewhere.
    HwOnly,
}

impl Witness {
    /// The tag in the log.
    #[must_use]
    pub const fn tag(self) -> &'static str {
        match self {
            Self::QemuVisible => "qemu-visible",
            Self::TraceOnly => "trace-only",
            Self::HwOnly => "hw-only",
        }
    }
}

/// Declares and registers a suite. See the [module](crate::selftest).
#[macro_export]
macro_rules! suite {
    (name: $name:literal, order: $order:literal, tests: [$($test:expr),+ $(,)?] $(,)?) => {
        static SUITE: $crate::selftest::registry::Suite = $crate::selftest::registry::Suite {
            name: $name,
            order: $order,
            tests: &[$($test),+],
        };

        // Nothing names this static. `used` keeps it in the object file, and KEEP in the linker
        // script keeps it in the image. On the host there is no runner that would look for it.
        #[cfg(target_os = "none")]
        #[used]
        // The section contains only such pointers, and `registered` reads it as a slice of them.
        #[unsafe(link_section = ".selftest")]
        static REGISTRATION: &$crate::selftest::registry::Suite = &SUITE;
        #[cfg(not(target_os = "none"))]
        const _: &$crate::selftest::registry::Suite = &SUITE;
    };
}

/// Declares a test by its [`Witness`] and its function, whose name it takes (`KUNIT_CASE`).
#[macro_export]
macro_rules! case {
    ($witness:ident, $run:ident) => {
        $crate::selftest::registry::Test {
            name: stringify!($run),
            body: $crate::selftest::registry::Body::Run {
                witness: $crate::selftest::registry::Witness::$witness,
                run: $run,
            },
        }
    };
}

/// Declares a group of tests that call the same function with one value each (`KUNIT_CASE_PARAM`):
/// `cases!(QemuVisible, function, { name: value, ... })`.
#[macro_export]
macro_rules! cases {
    ($witness:ident, $run:ident, {$($case:ident: $value:expr),+ $(,)?}) => {
        $crate::selftest::registry::Test {
            name: stringify!($run),
            body: $crate::selftest::registry::Body::Group(&[$(
                $crate::selftest::registry::Test {
                    name: stringify!($case),
                    body: $crate::selftest::registry::Body::Run {
                        witness: $crate::selftest::registry::Witness::$witness,
                        run: || $run($value),
                    },
                },
            )+]),
        }
    };
}

/// Declares a group of different tests: `group!("name", [case!(...), ...])`.
#[macro_export]
macro_rules! group {
    ($name:literal, [$($test:expr),+ $(,)?]) => {
        $crate::selftest::registry::Test {
            name: $name,
            body: $crate::selftest::registry::Body::Group(&[$($test),+]),
        }
    };
}

/// The suites of this image, in the order of the section.
#[cfg(target_os = "none")]
#[must_use]
pub fn registered() -> &'static [&'static Suite] {
    unsafe extern "C" {
        static _selftest_start: u8;
        static _selftest_end: u8;
    }
    let start = (&raw const _selftest_start).cast::<&'static Suite>();
    let end = &raw const _selftest_end;
    let bytes = end.addr() - start.addr();
    // SAFETY: linker.ld defines both symbols around `.selftest`, aligned to 8. Only `suite!` places
    // statics there, and each is an initialized `&'static Suite` of 8 bytes, so the section is an
    // array of them without padding. It is part of the image and is never written.
    unsafe { core::slice::from_raw_parts(start, bytes / size_of::<&'static Suite>()) }
}

/// Suites that have been checked and sorted.
#[derive(Clone, Debug)]
pub struct Registry {
    suites: ArrayVec<&'static Suite, MAX_SUITES>,
}

impl Registry {
    /// Checks and sorts `suites`.
    ///
    /// # Errors
    /// [`RegistryError`] for a mistake in the declaration of a suite.
    pub fn new(suites: &[&'static Suite]) -> Result<Self, RegistryError> {
        let mut sorted: ArrayVec<&'static Suite, MAX_SUITES> = ArrayVec::new();
        for suite in suites {
            check_name(suite.name)?;
            check_tests(suite.name, suite.tests, 2)?;
            if sorted.iter().any(|other| other.name == suite.name) {
                return Err(RegistryError::Twice { name: suite.name });
            }
            let key = (suite.order, suite.name);
            let place = sorted
                .iter()
                .position(|other| (other.order, other.name) > key)
                .unwrap_or(sorted.len());
            sorted
                .try_insert(place, suite)
                .map_err(|_| RegistryError::TooMany)?;
        }
        Ok(Self { suites: sorted })
    }

    /// The suites in the order in which they run.
    #[must_use]
    pub fn suites(&self) -> &[&'static Suite] {
        &self.suites
    }
}

fn check_name(name: &'static str) -> Result<(), RegistryError> {
    if name.is_empty() || !name.bytes().all(is_name_byte) {
        return Err(RegistryError::BadName { name });
    }
    Ok(())
}

/// Checks the children of `parent`, whose paths have `depth` parts. It recurses once per level, at
/// most [`MAX_DEPTH`] times.
fn check_tests(
    parent: &'static str,
    tests: &'static [Test],
    depth: usize,
) -> Result<(), RegistryError> {
    if depth > MAX_DEPTH {
        return Err(RegistryError::TooDeep { name: parent });
    }
    if tests.is_empty() {
        return Err(RegistryError::Empty { name: parent });
    }
    for (index, test) in tests.iter().enumerate() {
        check_name(test.name)?;
        // A parser would take a result line with the parent's name for the end of the parent.
        if test.name == parent {
            return Err(RegistryError::LikeParent { name: parent });
        }
        if tests[..index].iter().any(|other| other.name == test.name) {
            return Err(RegistryError::Twice { name: test.name });
        }
        if let Body::Group(tests) = test.body {
            check_tests(test.name, tests, depth + 1)?;
        }
    }
    Ok(())
}

/// A mistake in the declaration of the suites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistryError {
    /// More than [`MAX_SUITES`] suites.
    TooMany,
    /// A name is empty, or contains a character that is not allowed.
    BadName {
        /// The name.
        name: &'static str,
    },
    /// Two suites, or two children of one parent, share a name.
    Twice {
        /// The name.
        name: &'static str,
    },
    /// A test has the same name as its suite or group.
    LikeParent {
        /// The name.
        name: &'static str,
    },
    /// A suite or group without tests.
    Empty {
        /// Its name.
        name: &'static str,
    },
    /// Groups nested deeper than [`MAX_DEPTH`] allows.
    TooDeep {
        /// The innermost group.
        name: &'static str,
    },
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(
                f,
                "there are more than {MAX_SUITES} self-test suites: raise MAX_SUITES in \
                 selftest/registry.rs"
            ),
            Self::BadName { name } => write!(
                f,
                "self-test name '{name}': use one or more of a-z, 0-9, _ and -"
            ),
            Self::Twice { name } => write!(
                f,
                "self-test name '{name}' occurs twice under the same parent: rename one"
            ),
            Self::LikeParent { name } => write!(
                f,
                "self-test '{name}' has the name of its suite or group, so a KTAP parser would take \
                 its result for the end of that: rename one"
            ),
            Self::Empty { name } => write!(
                f,
                "self-test suite or group '{name}' is empty, which a KTAP parser takes for an \
                 error: add a test or remove it"
            ),
            Self::TooDeep { name } => write!(
                f,
                "self-test group '{name}' is nested too deep: a path has at most {MAX_DEPTH} parts"
            ),
        }
    }
}

impl core::error::Error for RegistryError {}

#[cfg(test)]
mod tests {
    use super::*;

    const fn leaf(name: &'static str) -> Test {
        Test {
            name,
            body: Body::Run {
                witness: Witness::QemuVisible,
                run: || Ok(()),
            },
        }
    }

    const fn group(name: &'static str, tests: &'static [Test]) -> Test {
        Test {
            name,
            body: Body::Group(tests),
        }
    }

    const fn suite(name: &'static str, order: u16, tests: &'static [Test]) -> Suite {
        Suite { name, order, tests }
    }

    #[test]
    fn sorts_by_order_then_name() {
        static LAZY: Suite = suite("lazy", 30, &[leaf("a")]);
        static TABLES: Suite = suite("tables", 20, &[leaf("a")]);
        static BBM: Suite = suite("bbm", 20, &[leaf("a")]);
        let registry = Registry::new(&[&LAZY, &TABLES, &BBM]).unwrap();
        let names: Vec<_> = registry.suites().iter().map(|suite| suite.name).collect();
        assert_eq!(names, ["bbm", "tables", "lazy"]);
    }

    #[test]
    fn refuses_names_that_cannot_be_told_apart() {
        static LIKE_SUITE: Suite = suite("map", 1, &[leaf("map")]);
        static LIKE_GROUP: Suite = suite("s", 1, &[group("g", &[leaf("g")])]);
        static TWICE: Suite = suite("s", 1, &[leaf("a"), leaf("b"), leaf("a")]);
        static SPACE: Suite = suite("s", 1, &[leaf("a b")]);
        static HASH: Suite = suite("s#", 1, &[leaf("a")]);
        static EMPTY: Suite = suite("s", 1, &[group("g", &[])]);
        static NAMELESS: Suite = suite("", 1, &[leaf("a")]);
        let error = |suite| Registry::new(&[suite]).unwrap_err();
        assert_eq!(
            error(&LIKE_SUITE),
            RegistryError::LikeParent { name: "map" }
        );
        assert_eq!(error(&LIKE_GROUP), RegistryError::LikeParent { name: "g" });
        assert_eq!(error(&TWICE), RegistryError::Twice { name: "a" });
        assert_eq!(error(&SPACE), RegistryError::BadName { name: "a b" });
        assert_eq!(error(&HASH), RegistryError::BadName { name: "s#" });
        assert_eq!(error(&EMPTY), RegistryError::Empty { name: "g" });
        assert_eq!(error(&NAMELESS), RegistryError::BadName { name: "" });
        static GOOD: Suite = suite("s", 1, &[leaf("a"), group("g", &[leaf("a")])]);
        assert!(Registry::new(&[&GOOD]).is_ok());
        assert_eq!(
            Registry::new(&[&GOOD, &GOOD]).unwrap_err(),
            RegistryError::Twice { name: "s" }
        );
    }

    #[test]
    fn refuses_paths_that_no_filter_reaches() {
        static DEEP: Suite = suite(
            "s",
            1,
            &[group("a", &[group("b", &[group("c", &[leaf("d")])])])],
        );
        static FITS: Suite = suite("s", 1, &[group("a", &[group("b", &[leaf("c")])])]);
        assert_eq!(
            Registry::new(&[&DEEP]).unwrap_err(),
            RegistryError::TooDeep { name: "c" }
        );
        assert!(Registry::new(&[&FITS]).is_ok());
    }

    #[test]
    fn refuses_more_suites_than_it_keeps() {
        static NAMES: [&str; MAX_SUITES + 1] = {
            const TEXT: &str = "abcdefghijklmnopqrstuvwxyz0123456789";
            let mut names = [""; MAX_SUITES + 1];
            let mut index = 0;
            while index < names.len() {
                names[index] = TEXT.split_at(index).1;
                index += 1;
            }
            names
        };
        static TESTS: &[Test] = &[leaf("-")];
        let suites: Vec<&'static Suite> = NAMES
            .iter()
            .map(|name| &*Box::leak(Box::new(suite(name, 1, TESTS))))
            .collect();
        assert!(Registry::new(&suites[1..]).is_ok());
        assert_eq!(Registry::new(&suites).unwrap_err(), RegistryError::TooMany);
    }
}
