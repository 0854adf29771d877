// SPDX-License-Identifier: MIT OR Apache-2.0
//! The bounds of a stack.

/// Bytes of a frame record (AAPCS64 6.4.6).
pub const RECORD: u64 = 16;

/// A stack, as the half-open range of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stack {
    /// Lowest address.
    pub bottom: u64,
    /// Address above the highest byte.
    pub top: u64,
}

impl Stack {
    /// Whether a whole frame record lies at `address`.
    #[must_use]
    pub fn holds_record(self, address: u64) -> bool {
        address.is_multiple_of(8)
            && address >= self.bottom
            && address
                .checked_add(RECORD)
                .is_some_and(|end| end <= self.top)
    }
}
