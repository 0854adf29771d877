// SPDX-License-Identifier: MIT OR Apache-2.0
//! The numbers of seeded random tests.

/// Marsaglia's xorshift64. The seed is not 0, after which nothing but zeros would come.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// One of `0..n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    /// One of `list`.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}
