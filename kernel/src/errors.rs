// SPDX-License-Identifier: MIT OR Apache-2.0
//! A macro for errors that wrap other errors.

/// Implements `From` for each error that a variant of another error wraps.
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
