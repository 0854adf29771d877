// SPDX-License-Identifier: MIT OR Apache-2.0

//! How much memory the host has left for guests.

use std::fs;

/// What Linux says that a new program can have without swapping, in MiB; nothing where it does not say so.
pub fn available() -> Option<u64> {
    available_of(&fs::read_to_string("/proc/meminfo").ok()?)
}

/// Reads `MemAvailable:    1234 kB`.
fn available_of(meminfo: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let amount = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = amount.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_read() {
        let text = "MemTotal:  16384 kB\nMemFree: 1 kB\nMemAvailable:    1048576 kB\n";
        assert_eq!(available_of(text), Some(1024));
        assert_eq!(available_of(&text.replace("1048576 kB", "much")), None);
        assert_eq!(available_of("MemTotal:  16384 kB\n"), None);
    }
}
