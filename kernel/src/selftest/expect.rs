// SPDX-License-Identifier: MIT OR Apache-2.0
//! Expectations: the result of a test, and the macros that return early from it.
//!
//! An expectation that does not hold ends its test with its [`Place`] (file, line, text) and the
//! values. The values are formatted with `Debug` into a buffer of fixed size, because the heap may
//! be under test. Addresses have types whose `Debug` is hexadecimal.
//!
//! A test that makes something lasting (a mapping, a frame) should own it by a guard, so that an
//! early return frees it. The leak check reports what is left behind, in addition to the failure.

use core::fmt;

use crate::text::Text;

/// The maximum length of the description of a failure, and of the reason for a skip, in bytes.
pub const MAX_DETAILS: usize = 320;
/// The maximum length of each value in it, so that a long value leaves room for the other one.
pub const MAX_VALUE: usize = 96;

/// The result of a test: `Ok` if all expectations held.
pub type TestResult = Result<(), Outcome>;

/// Why a test did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An expectation did not hold.
    Failure(Failure),
    /// The test cannot be run here, for this reason.
    Skip(Text<MAX_DETAILS>),
}

/// An expectation that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    place: &'static Place,
    details: Text<MAX_DETAILS>,
}

// `Result<(), Outcome>` is returned by value, so it must stay below the limit of clippy.toml.
const _: () = assert!(size_of::<Outcome>() < 400);

/// The place of an expectation in the source, and its text.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// The source file.
    pub file: &'static str,
    /// The line in it.
    pub line: u32,
    /// The expectation as it is written, without its message; empty for [`fail!`](crate::fail).
    pub text: &'static str,
}

/// Makes a failure at `place`.
///
/// The macros below contain only what differs from one expectation to the next. Everything else is
/// in these functions, out of line, so the code of a test is little more than its comparisons.
///
/// # Errors
/// Always; it exists to make the error.
#[cold]
#[inline(never)]
pub fn failed<T>(place: &'static Place, details: fmt::Arguments<'_>) -> Result<T, Outcome> {
    Err(Outcome::Failure(Failure {
        place,
        details: Text::from_arguments(details),
    }))
}

/// Makes the failure of a condition that is false.
///
/// # Errors
/// Always.
#[cold]
#[inline(never)]
pub fn untrue<T>(place: &'static Place) -> Result<T, Outcome> {
    failed(place, format_args!("it is false"))
}

/// Makes the failure of two values that differ.
///
/// # Errors
/// Always.
#[cold]
#[inline(never)]
pub fn unequal<T>(
    place: &'static Place,
    left: &dyn fmt::Debug,
    right: &dyn fmt::Debug,
) -> Result<T, Outcome> {
    unequal_after(place, (left, right), format_args!(""))
}

/// Makes the failure of two values that differ, with a `message`.
///
/// # Errors
/// Always.
#[cold]
#[inline(never)]
pub fn unequal_after<T>(
    place: &'static Place,
    (left, right): (&dyn fmt::Debug, &dyn fmt::Debug),
    message: fmt::Arguments<'_>,
) -> Result<T, Outcome> {
    let (left, right) = (value(left), value(right));
    failed(
        place,
        format_args!("left:  {left:?}\nright: {right:?}\n{message}"),
    )
}

/// Makes the failure of a value that has another variant.
///
/// # Errors
/// Always.
#[cold]
#[inline(never)]
pub fn other_variant<T>(place: &'static Place, found: &dyn fmt::Debug) -> Result<T, Outcome> {
    failed(place, format_args!("value: {found:?}"))
}

/// Makes the failure of a result that is an error.
///
/// # Errors
/// Always.
#[cold]
#[inline(never)]
pub fn not_ok<T>(place: &'static Place, error: &dyn fmt::Display) -> Result<T, Outcome> {
    failed(place, format_args!("error: {error}"))
}

/// Makes the outcome of a test that cannot run here.
///
/// # Errors
/// Always.
#[cold]
#[inline(never)]
pub fn skipped<T>(reason: fmt::Arguments<'_>) -> Result<T, Outcome> {
    Err(Outcome::Skip(Text::from_arguments(reason)))
}

/// The beginning of the `Debug` output of `value`.
fn value(value: &dyn fmt::Debug) -> Text<MAX_VALUE> {
    Text::from_arguments(format_args!("{value:?}"))
}

/// The [`Place`] where the macro is used.
#[doc(hidden)]
#[macro_export]
macro_rules! place {
    ($macro_name:ident, $($arguments:tt)*) => {
        $crate::place!(@ concat!(stringify!($macro_name), "!(", stringify!($($arguments)*), ")"))
    };
    () => {
        $crate::place!(@ "")
    };
    (@ $text:expr) => {{
        const PLACE: &$crate::selftest::expect::Place = &$crate::selftest::expect::Place {
            file: file!(),
            line: line!(),
            text: $text,
        };
        PLACE
    }};
}

/// Writes the place on the first line, then the text of the expectation, then the details.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { file, line, text } = self.place;
        writeln!(f, "EXPECTATION FAILED at {file}:{line}")?;
        if !text.is_empty() {
            writeln!(f, "{text}")?;
        }
        self.details.fmt(f)
    }
}

/// Ends the test as failed unless the condition holds; more arguments are
/// formatted into the message.
#[macro_export]
macro_rules! expect {
    ($condition:expr $(,)?) => {
        if !$condition {
            return $crate::selftest::expect::untrue($crate::place!(expect, $condition));
        }
    };
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return $crate::selftest::expect::failed(
                $crate::place!(expect, $condition),
                format_args!($($message)+),
            );
        }
    };
}

/// Ends the test as failed unless both values are equal; more arguments are
/// formatted into the message.
#[macro_export]
macro_rules! expect_eq {
    ($left:expr, $right:expr $(,)?) => {
        match (&$left, &$right) {
            (left, right) => {
                if !(*left == *right) {
                    return $crate::selftest::expect::unequal(
                        $crate::place!(expect_eq, $left, $right),
                        left,
                        right,
                    );
                }
            }
        }
    };
    ($left:expr, $right:expr, $($message:tt)+) => {
        match (&$left, &$right) {
            (left, right) => {
                if !(*left == *right) {
                    return $crate::selftest::expect::unequal_after(
                        $crate::place!(expect_eq, $left, $right),
                        (left, right),
                        format_args!($($message)+),
                    );
                }
            }
        }
    };
}

/// The value of an `Ok`; an `Err` ends the test as failed.
#[macro_export]
macro_rules! expect_ok {
    ($result:expr $(,)?) => {
        match $result {
            Ok(value) => value,
            Err(error) => {
                return $crate::selftest::expect::not_ok(
                    $crate::place!(expect_ok, $result),
                    &error,
                );
            }
        }
    };
}

/// The error of an `Err`; an `Ok` ends the test as failed.
#[macro_export]
macro_rules! expect_err {
    ($result:expr $(,)?) => {
        match $result {
            Ok(value) => {
                return $crate::selftest::expect::other_variant(
                    $crate::place!(expect_err, $result),
                    &value,
                );
            }
            Err(error) => error,
        }
    };
}

/// Ends the test as failed unless the value matches the pattern, which may
/// have an `if`.
#[macro_export]
macro_rules! expect_matches {
    ($value:expr, $pattern:pat $(if $guard:expr)? $(,)?) => {
        match &$value {
            value => {
                if !matches!(*value, $pattern $(if $guard)?) {
                    return $crate::selftest::expect::other_variant(
                        $crate::place!(expect_matches, $value, $pattern $(if $guard)?),
                        value,
                    );
                }
            }
        }
    };
}

/// Ends the test as skipped, with a reason.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {
        return $crate::selftest::expect::skipped(format_args!($($reason)+))
    };
}

/// Ends the test as failed, with a message.
#[macro_export]
macro_rules! fail {
    ($($details:tt)+) => {
        return $crate::selftest::expect::failed(
            $crate::place!(),
            format_args!($($details)+),
        )
    };
}

#[cfg(test)]
mod tests {
    use super::{Outcome, TestResult};

    /// The lines of a failure after the place, which must be in this file.
    fn details(test: fn() -> TestResult) -> Vec<String> {
        let Err(Outcome::Failure(failure)) = test() else {
            panic!("the test did not fail");
        };
        let text = failure.to_string();
        let mut lines = text.lines().map(String::from);
        let place = lines.next().unwrap();
        let expected = concat!("EXPECTATION FAILED at ", file!(), ":");
        assert!(place.starts_with(expected), "{place}");
        let line: u32 = place[expected.len()..].parse().unwrap();
        assert_eq!(line, failure.place.line);
        lines.collect()
    }

    #[test]
    fn an_expectation_that_holds_continues() {
        fn test() -> TestResult {
            let text = String::from("kept");
            expect!(1 < 2);
            expect!(1 < 2, "never {}", "shown");
            expect_eq!(text, "kept");
            expect_eq!(text.len(), 4, "after {text}");
            expect_matches!(Some(3), Some(value) if value > 2);
            let value: u8 = expect_ok!("7".parse::<u8>());
            expect_eq!(value, 7);
            let error = expect_err!("x".parse::<u8>());
            expect_eq!(error.to_string(), "invalid digit found in string");
            skip!("got as far as {}", text)
        }
        let Err(Outcome::Skip(reason)) = test() else {
            panic!("an expectation failed");
        };
        assert_eq!(reason.as_str(), "got as far as kept");
    }

    #[test]
    fn failures_show_place_text_and_values() {
        fn condition() -> TestResult {
            expect!(1 + 1 == 3);
            Ok(())
        }
        fn message() -> TestResult {
            expect!(1 + 1 == 3, "at page {}", 5);
            Ok(())
        }
        fn equal() -> TestResult {
            expect_eq!([1, 2].len(), 3);
            Ok(())
        }
        fn equal_with_message() -> TestResult {
            expect_eq!([1, 2].len(), 3, "after step {}", 9);
            Ok(())
        }
        fn ok() -> TestResult {
            expect_ok!("x".parse::<u8>());
            Ok(())
        }
        fn err() -> TestResult {
            expect_err!("7".parse::<u8>());
            Ok(())
        }
        fn pattern() -> TestResult {
            expect_matches!(Some(1), Some(value) if value > 2);
            Ok(())
        }
        fn failed() -> TestResult {
            fail!("after step {}", 9);
        }
        assert_eq!(details(condition), ["expect!(1 + 1 == 3)", "it is false"]);
        assert_eq!(details(message), ["expect!(1 + 1 == 3)", "at page 5"]);
        let text = "expect_eq!([1, 2].len(), 3)";
        assert_eq!(details(equal), [text, "left:  2", "right: 3"]);
        assert_eq!(
            details(equal_with_message),
            [text, "left:  2", "right: 3", "after step 9"]
        );
        let error = "error: invalid digit found in string";
        assert_eq!(details(ok), [r#"expect_ok!("x".parse::<u8>())"#, error]);
        assert_eq!(
            details(err),
            [r#"expect_err!("7".parse::<u8>())"#, "value: 7"]
        );
        assert_eq!(
            details(pattern),
            [
                "expect_matches!(Some(1), Some(value) if value > 2)",
                "value: Some(1)"
            ]
        );
        assert_eq!(details(failed), ["after step 9"]);
    }

    #[test]
    fn long_values_are_cut_not_lost() {
        fn test() -> TestResult {
            expect_eq!([7_u8; 400], [8_u8; 400]);
            Ok(())
        }
        let lines = details(test);
        assert!(lines[1].starts_with("left:  [7, 7, 7"), "{lines:?}");
        assert!(lines[1].ends_with("..."), "{lines:?}");
        assert!(lines[2].starts_with("right: [8, 8, 8"), "{lines:?}");
    }
}
