// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a file with a suite imports.

pub use super::expect::{Outcome, TestResult};
pub use crate::{
    case, cases, expect, expect_eq, expect_err, expect_matches, expect_ok, fail, group, skip, suite,
};
