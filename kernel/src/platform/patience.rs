// SPDX-License-Identifier: MIT OR Apache-2.0

//! A wait for several CPUs that make progress one by one.

/// A wait that ends when there has been no progress for some time. One value serves for all CPUs,
/// so that this time passes only once, even if several of them never make progress.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    ticks: u64,
    last: (u64, usize),
}

impl Patience {
    /// A wait that begins at tick `now`, with `progress` made so far, and lasts for `ticks` without
    /// further progress.
    #[must_use]
    pub const fn new(ticks: u64, now: u64, progress: usize) -> Self {
        Self {
            ticks,
            last: (now, progress),
        }
    }

    /// Whether the wait is over at tick `now`, with `progress` made by then.
    pub const fn is_over(&mut self, now: u64, progress: usize) -> bool {
        if progress != self.last.1 {
            self.last = (now, progress);
        }
        now.saturating_sub(self.last.0) > self.ticks
    }
}

#[cfg(test)]
mod tests {
    use super::Patience;

    const PATIENCE: u64 = 1000;

    /// Waits for each of the CPUs in turn, the `n`-th of which comes at tick `comes[n]`. Returns
    /// when the waiting ends, and how many are missing.
    fn wait_for(comes: &[u64]) -> (u64, usize) {
        let (mut now, mut missing) = (0, 0);
        let mut patience = Patience::new(PATIENCE, now, 0);
        for cpu in comes {
            while now < *cpu {
                now += 1;
                let arrived = comes.iter().filter(|cpu| **cpu <= now).count();
                if patience.is_over(now, arrived) {
                    missing += 1;
                    break;
                }
            }
        }
        (now, missing)
    }

    #[test]
    fn those_who_never_come_are_waited_for_together() {
        let never = u64::MAX;
        let (one, _) = wait_for(&[never]);
        assert_eq!(one, PATIENCE + 1);
        let (all, missing) = wait_for(&[never; 15]);
        assert!(all <= one + 15, "waited until {all}");
        assert_eq!(missing, 15);
        // The CPUs that do come are not missed.
        let (some, missing) = wait_for(&[never, 5, never, 7, never]);
        assert!(some <= 7 + PATIENCE + 5, "waited until {some}");
        assert_eq!(missing, 3);
    }

    #[test]
    fn whoever_comes_gives_the_others_time() {
        let slow: Vec<u64> = (1..=15).map(|cpu| cpu * PATIENCE).collect();
        assert_eq!(wait_for(&slow), (15 * PATIENCE, 0));
        assert_eq!(wait_for(&[PATIENCE + 2]).1, 1);
    }

    #[test]
    fn a_clock_that_goes_back_ends_nothing() {
        let mut patience = Patience::new(PATIENCE, 500, 0);
        assert!(!patience.is_over(400, 0));
    }
}
