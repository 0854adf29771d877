// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask mutants`: is there a test that notices if this line goes?
//!
//! The list is `kernel/mmu/mutants.txt`: single changes of the page-table library, each of
//! which breaks a rule, and the test that must fail then. They are made one after the other
//! in a copy of the checkout below target/mutants, never in the checkout itself. A survivor
//! means that a test has lost its teeth, or that code was moved to where it looks no more.
//!
//! This is no search for new mutants: what is listed is what somebody found worth a test.

mod bench;
mod list;

use crate::failure::{self, Failure};
use crate::glob;
use crate::guest;
use crate::workspace::Workspace;
use anyhow::{Result, ensure};
use bench::{Bench, Outcome};
use clap::Args;
use comfy_table::{Table, presets};
use list::Mutant;

/// Break the page-table library line by line and see that the named test notices each time
///
/// The list is kernel/mmu/mutants.txt. Each mutant is built and tested in a copy of the checkout
/// in target/mutants. The last line is `N passed, N failed`; passed is a mutant that its own test
/// killed.
#[derive(Args, Debug)]
pub struct Mutants {
    /// Only the mutants whose name or file matches, with * for any characters
    #[arg(long, value_name = "GLOB")]
    filter: Option<String>,

    /// Run all tests of the library for each mutant and show which of them kill it; slow
    #[arg(long)]
    all: bool,
}

impl Mutants {
    /// Tries every mutant that was asked for and ends in the table.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        let mut mutants = list::read(workspace.root())?;
        mutants.retain(|mutant| self.wants(mutant));
        ensure!(
            !mutants.is_empty(),
            "no mutant matches; {} lists them",
            list::PATH
        );
        let bench = Bench::set_up(&workspace, &mutants)?;
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header(["mutant", "file", "result", "test"]);
        let mut passed = 0;
        for (i, mutant) in mutants.iter().enumerate() {
            let outcome = if self.all {
                bench.try_all(mutant)?
            } else {
                bench.try_killer(mutant)?
            };
            if guest::interrupted() {
                return Err(Failure::new(failure::INTERRUPTED, "interrupted").into());
            }
            let [result, by] = outcome.shown(&mutant.killer);
            eprintln!("[{}/{}] {}: {result}", i + 1, mutants.len(), mutant.name);
            if let Outcome::NotBuilt(errors) = &outcome {
                eprintln!("{errors}");
            }
            table.add_row([mutant.name.clone(), mutant.file.clone(), result, by]);
            passed += usize::from(outcome.is_pass(&mutant.killer));
        }
        let failed = mutants.len() - passed;
        println!("{table}\n\n{passed} passed, {failed} failed");
        if failed == 0 {
            Ok(())
        } else {
            Err(Failure::new(1, "").into())
        }
    }

    fn wants(&self, mutant: &Mutant) -> bool {
        self.filter.as_ref().is_none_or(|filter| {
            glob::matches(filter, &mutant.name) || glob::matches(filter, &mutant.file)
        })
    }
}
