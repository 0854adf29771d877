// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask serial` against guests: what it makes of each end that a board can come to.
//!
//! A guest's UART is a pseudo terminal here, there is no semihosting, and at its end the kernel
//! halts, as on a board: its last line is all that tells how it ended. What reads the terminal is
//! the command itself, from the port's name to the verdict.

mod terminal;

use super::{LAB, all_passed};
use std::num::NonZeroU32;
use std::time::Duration;
use terminal::Terminal;
use xtask::failure::HUNG;
use xtask::qemu::Boot;
use xtask::serial::Serial;

/// Seconds of silence that a kernel may need which has something to say.
const PATIENT: u32 = 60;

/// What the command has made of a boot.
struct Ended {
    status: u8,
    /// The log, completed by the symbols, and the verdict.
    lines: Vec<String>,
    /// Whether self-tests ran and all of them passed.
    tests: bool,
}

/// Boots, and lets the command read. `patience` are the seconds of silence that are too many.
fn followed(name: &str, bootargs: &str, patience: u32) -> Ended {
    let bootargs = format!("{bootargs} exit=halt");
    let machine = LAB.board();
    // What watches the guest is the command.
    let boot = Boot::new(&machine, &bootargs, &LAB.artifacts, Duration::MAX);
    let terminal = Terminal::start(&boot).expect("a terminal");
    let command = Serial {
        port: Some(terminal.port().to_owned()),
        timeout: NonZeroU32::new(patience),
        elf: Some(LAB.artifacts.elf.clone()),
    };
    let mut lines = Vec::new();
    let outcome = command
        .follow(
            &LAB.workspace,
            |_| (),
            || terminal.resume(),
            |line| lines.extend(line.lines().map(str::to_owned)),
        )
        .expect("the port can be read");
    LAB.keep(&format!("serial.{name}"), &(lines.join("\n") + "\n"));
    let status = outcome.status();
    if let Some(failure) = outcome.verdict.failure() {
        lines.extend(failure.to_string().lines().map(str::to_owned));
    }
    Ended {
        status,
        lines,
        tests: outcome.report.as_ref().is_some_and(all_passed),
    }
}

impl Ended {
    fn expect(&self, status: u8, tests: bool, says: &[&str]) {
        assert_eq!((self.status, self.tests), (status, tests));
        for text in says {
            assert!(self.says(text), "it did not say: {text}");
        }
    }

    fn says(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }
}

#[test]
fn passing_tests() {
    let bootargs = "mode=selftest filter=boot-arguments*";
    let says = ["info: lazymmu ", "ok 1 boot-arguments", "lazymmu: exit 0"];
    followed("passing_tests", bootargs, PATIENT).expect(0, true, &says);
}

#[test]
fn panic() {
    let says = [
        "panic: provoked",
        "provoke::outer at kernel/src/selftest/provoke.rs:",
        "lazymmu: exit 2",
        "the kernel panicked",
    ];
    followed("panic", "mode=panic", PATIENT).expect(2, false, &says);
}

#[test]
fn exception() {
    let says = [
        "exception: data abort",
        "write_to_an_unmapped_page",
        "lazymmu: exit 3",
        "unexpected exception",
    ];
    followed("exception", "mode=exception", PATIENT).expect(3, false, &says);
}

#[test]
fn hang() {
    // So much silence is waited for, and a busy host may need more to come to the hang.
    let mut patience = 5;
    let says = [
        "provoking: Hang",
        "the board hangs: it printed nothing for",
        "docs/raspberry-pi-4.md",
    ];
    let mut ended = followed("hang", "mode=hang", patience);
    while !ended.says(says[0]) && patience < PATIENT {
        patience *= 2;
        ended = followed("hang", "mode=hang", patience);
    }
    ended.expect(HUNG, false, &says);
}
