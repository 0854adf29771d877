// SPDX-License-Identifier: MIT OR Apache-2.0

//! xtask with guests: `cargo xtask run` as a process, the card of `image`, `serial` at the other
//! end of a line, and the plugin that counts. Every test boots QEMU, so `cargo test` leaves them
//! out; `cargo xtask test` runs them after its own boots. Alone: `cargo test -p xtask --test
//! guests`.

mod card;
mod plugin;
mod serial;
mod tool;

use kernel::selftest::ktap_reader::{Report, Status};
use std::sync::LazyLock;
use xtask::build::{self, Artifacts};
use xtask::qemu::machine::Board;
use xtask::qemu::{Machine, Qemu};
use xtask::workspace::Workspace;

/// What all tests boot.
struct Lab {
    workspace: Workspace,
    qemu: Qemu,
    artifacts: Artifacts,
}

static LAB: LazyLock<Lab> = LazyLock::new(|| {
    let workspace = Workspace::find();
    Lab {
        qemu: Qemu::provide().expect("there is a QEMU"),
        artifacts: build::build(&workspace).expect("the kernel can be built"),
        workspace,
    }
});

impl Lab {
    /// The machine that takes the place of a board: a Raspberry Pi 4, if QEMU has one.
    fn board(&self) -> Machine {
        match self.qemu.lacks(Board::Raspi4b).expect("QEMU can be asked") {
            None => Board::Raspi4b.usual(),
            Some(_) => Machine::default(),
        }
    }

    /// Keeps and shows a log; the harness shows it if the test fails.
    fn keep(&self, name: &str, log: &str) {
        print!("{log}");
        let kept = self.workspace.keep_log(name, log);
        kept.expect("there is room for a log");
    }
}

/// Tells whether tests ran, the log of them is whole, and all passed.
fn all_passed(report: &Report) -> bool {
    let mut cases = report.cases.iter();
    report.problems.is_empty()
        && !report.cases.is_empty()
        && cases.all(|case| case.status != Status::Failed)
}
