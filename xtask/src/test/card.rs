// SPDX-License-Identifier: MIT OR Apache-2.0

//! The card of `cargo xtask image`, booted: what QEMU gets is read from the finished image, by its
//! partition table and its FAT32 volume, as a board's loader reads it.

use super::boots::{Bench, judge};
use super::summary::{Failed, Row};
use crate::build::Artifacts;
use crate::image::card::{COMMAND_LINE, Card, KERNEL};
use crate::image::{Places, disk};
use crate::ktap::Parser;
use crate::qemu::boot::Watch;
use crate::qemu::{Boot, Input, Machine};
use crate::scratch;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

/// Name of the row, and first part of the name of its test.
const ROW: &str = "card";
const NAME: &str = "card.kernel_and_command_line";
/// Seconds that the boot may take.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Not what a card has by default: that these tests run shows that the command line was read.
const BOOTARGS: &str = "mode=selftest filter=boot-arguments*";

/// What a firmware of tomorrow may put before the command line, which has to say that it is for others.
const OF_FIRMWARE: &str = "new_in_2031=1 quiet";

/// Writes a card, reads it and boots `machine`; nothing comes back when the filter does not select it.
///
/// # Errors
///
/// When QEMU cannot be started at all, or a file cannot be written.
pub fn run(bench: &Bench<'_>, machine: &Machine) -> Result<Option<Row>> {
    if !bench.selects(NAME) {
        return Ok(None);
    }
    let start = Instant::now();
    let mut row = match boot(bench, machine)? {
        Ok(()) => Row {
            passed: 1,
            ..Row::new(ROW)
        },
        Err(detail) => {
            let mut row = Row::new(ROW);
            row.fail(Failed::new(NAME, detail));
            row
        }
    };
    row.seconds = start.elapsed().as_secs_f64();
    bench.progress.suspend(|| println!("{}", row.line()));
    Ok(Some(row))
}

/// Boots what is on a new card; what was wrong comes back.
fn boot(bench: &Bench<'_>, machine: &Machine) -> Result<Result<(), Vec<String>>> {
    let folder = scratch::folder(bench.workspace)?;
    let places = Places::below(folder.path());
    let kernel = fs::read(&bench.artifacts.image).context("the kernel cannot be read")?;
    let card = Card::new(kernel, BOOTARGS, Vec::new())?;
    places.write(&card, b"")?;

    // From here on nothing but the image is used.
    let image = fs::read(&places.image).context("the card cannot be read")?;
    let text = |bytes| String::from_utf8(bytes).context("the command line is no text");
    let found = disk::read(&image, KERNEL)
        .and_then(|kernel| Ok((kernel, disk::read(&image, COMMAND_LINE).and_then(text)?)));
    let (kernel, command_line) = match found {
        Ok(found) => found,
        Err(error) => return Ok(Err(vec![format!("{error:#}")])),
    };
    let extracted = folder.path().join("extracted.img");
    fs::write(&extracted, &kernel)
        .with_context(|| format!("cannot write {}", extracted.display()))?;
    let artifacts = Artifacts {
        elf: bench.artifacts.elf.clone(),
        image: extracted,
        size: kernel.len(),
    };
    let bootargs = format!("{OF_FIRMWARE} {}", command_line.trim_end());
    let boot = Boot {
        machine,
        bootargs: &bootargs,
        artifacts: &artifacts,
        input: Input::Usual,
        watch: Watch::Timeout(TIMEOUT),
        again: "cargo xtask test --filter 'card*'".to_owned(),
    };
    let mut parser = Parser::default();
    let mut log = String::new();
    let outcome = boot.run(bench.workspace, bench.qemu, |line| {
        line.lines().for_each(|line| parser.line(line));
        let _ = writeln!(log, "{line}");
    })?;
    bench.keep(ROW, &log)?;
    // However many tests the kernel ran: one card.
    let booted = judge(ROW, parser.finish(), outcome.verdict);
    if booted.failed == 0 {
        return Ok(Ok(()));
    }
    let detail = booted.failures.into_iter().flat_map(|failed| {
        let mut detail = failed.detail;
        detail.insert(0, failed.name);
        detail
    });
    Ok(Err(detail.collect()))
}
