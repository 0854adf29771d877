// SPDX-License-Identifier: MIT OR Apache-2.0
//! Errors that hold errors.

/// `From` for each of the errors that a variant of another one holds.
#[macro_export]
macro_rules! wrap_errors {
    ($whole:ty { $($part:ty => $variant:ident),+ $(,)? }) => {
        $(impl From<$part> for $whole {
            fn from(error: $part) -> Self {
                Self::$variant(error)
            }
        })+
    };
}
