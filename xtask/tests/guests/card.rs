// SPDX-License-Identifier: MIT OR Apache-2.0

//! The card of `cargo xtask image`, booted: what QEMU gets is read from the finished image, by its
//! partition table and its FAT32 volume, as a board's loader reads it.

use super::{LAB, all_passed};
use kernel::selftest::ktap_reader::Parser;
use std::fs;
use std::time::Duration;
use xtask::build::Artifacts;
use xtask::image::card::{COMMAND_LINE, Card, KERNEL};
use xtask::image::{Places, disk};
use xtask::qemu::Boot;
use xtask::scratch;

/// Time that the boot may take.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Not what a card has by default: that these tests run shows that the command line was read.
const BOOTARGS: &str = "mode=selftest filter=boot-arguments*";

/// What a firmware of tomorrow may put before the command line, which has to say that it is for
/// others.
const OF_FIRMWARE: &str = "new_in_2031=1 quiet";

#[test]
fn kernel_and_command_line() {
    let folder = scratch::folder(&LAB.workspace).expect("there is room");
    let places = Places::below(folder.path());
    let kernel = fs::read(&LAB.artifacts.image).expect("it was built");
    let card = Card::new(kernel, BOOTARGS, Vec::new()).expect("a card");
    places.write(&card, b"").expect("there is room");

    // From here on nothing but the image is used.
    let image = fs::read(&places.image).expect("it was written");
    let kernel = disk::read(&image, KERNEL).expect("it has the kernel");
    let command_line = disk::read(&image, COMMAND_LINE).expect("it has the command line");
    let command_line = String::from_utf8(command_line).expect("it is text");
    let extracted = folder.path().join("extracted.img");
    fs::write(&extracted, &kernel).expect("there is room");
    let artifacts = Artifacts {
        elf: LAB.artifacts.elf.clone(),
        image: extracted,
        size: kernel.len(),
    };
    let bootargs = format!("{OF_FIRMWARE} {}", command_line.trim_end());
    let machine = LAB.board();
    let boot = Boot::new(&machine, &bootargs, &artifacts, TIMEOUT);
    let (mut parser, mut log) = (Parser::default(), String::new());
    let outcome = boot.run(&LAB.workspace, &LAB.qemu, |lines| {
        lines.lines().for_each(|line| parser.line(line));
        log.extend([lines, "\n"]);
    });
    LAB.keep("card", &log);
    let verdict = outcome.expect("QEMU can be started").verdict;
    assert!(verdict.failure().is_none(), "{verdict:?}");
    let report = parser.finish();
    assert!(all_passed(&report), "{report:?}");
}
