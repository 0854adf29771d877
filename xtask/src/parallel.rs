// SPDX-License-Identifier: MIT OR Apache-2.0

//! A few boots at a time.

use crate::guest;
use anyhow::Result;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Calls `work` with each of `items`, `jobs` at a time; the results come back in the order of the
/// items. After Ctrl-C no further item is begun.
///
/// # Errors
///
/// An error of `work`.
pub fn each<T: Sync, R: Send>(
    items: &[T],
    jobs: usize,
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<Vec<(usize, R)>> {
        let mut results = Vec::new();
        while let index = next.fetch_add(1, Ordering::Relaxed)
            && let Some(item) = items.get(index)
            && !guest::interrupted()
        {
            results.push((index, work(item)?));
        }
        Ok(results)
    };
    let mut results = thread::scope(|scope| -> Result<Vec<(usize, R)>> {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(worker)).collect();
        let mut results = Vec::new();
        for worker in workers {
            results.extend(
                worker
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?,
            );
        }
        Ok(results)
    })?;
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::ensure;

    #[test]
    fn results_stand_in_the_order_of_the_items() {
        let items: Vec<u32> = (0..100).collect();
        for jobs in [1, 3, 200] {
            let doubled = each(&items, jobs, |item| Ok(item * 2)).unwrap();
            assert!(doubled.iter().zip(&items).all(|(two, one)| *two == one * 2));
            assert_eq!(doubled.len(), items.len());
        }
    }

    #[test]
    fn an_error_comes_back() {
        let error = each(&[1, 2, 3], 2, |item| {
            ensure!(*item != 2, "no {item}");
            Ok(())
        });
        assert_eq!(error.unwrap_err().to_string(), "no 2");
    }
}
