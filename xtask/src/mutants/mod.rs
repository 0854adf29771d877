// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask mutants`: is there a test that notices if this line goes?
//!
//! There are two lists of single changes, each of which breaks a rule, and the test that must fail then:
//! `kernel/mmu/mutants.txt` of the page-table library, with its host tests, and `kernel/mutants.txt` of the
//! kernel, with its self-tests on emulated machines and, for what needs none, its host tests. They are made one
//! after the other in a copy of the checkout below target/mutants, never in the checkout itself. A survivor means
//! that a test has lost its teeth, or that code was moved to where it looks no more.
//!
//! This is no search for new mutants: what is listed is what somebody found worth a test.

mod bench;
mod boots;
mod host;
mod killer;
mod list;

use crate::failure::Failure;
use crate::glob;
use crate::guest;
use crate::workspace::Workspace;
use anyhow::{Result, ensure};
use bench::{Bench, Outcome};
use clap::Args;
use comfy_table::{Table, presets};
use list::{LISTS, Mutant};

/// Break the library and the kernel line by line and see that the named test notices each time
///
/// The lists are kernel/mmu/mutants.txt (host tests of the library) and kernel/mutants.txt
/// (self-tests of the kernel, each in a boot of its own, and its host tests). Each mutant is built and
/// tested in a copy of the checkout in target/mutants, where the logs of the boots are kept, too. The
/// last line is `N passed, N failed`; passed is a mutant that its own test killed.
#[derive(Args, Debug)]
pub struct Mutants {
    /// Only the mutants whose name or file matches, with * for any characters; kernel/* and boot/*
    /// are the files of the kernel's list
    #[arg(long, value_name = "GLOB")]
    filter: Option<String>,

    /// Run all tests of the package, or all self-tests on the entry's machine, for each mutant and
    /// show which of them kill it; slow
    #[arg(long)]
    all: bool,
}

impl Mutants {
    /// Tries every mutant that was asked for and ends in the table.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        let mut mutants = list::read(workspace.root())?;
        mutants.retain(|mutant| self.wants(mutant));
        let lists = LISTS.each_ref().map(|list| list.path).join(" and ");
        ensure!(!mutants.is_empty(), "no mutant matches; {lists} name them");
        let bench = Bench::set_up(&workspace, &mutants)?;
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        table.set_header(["mutant", "file", "result", "test"]);
        let mut killed = [0; LISTS.len()];
        for (i, mutant) in mutants.iter().enumerate() {
            let outcome = bench.try_out(mutant, self.all)?;
            guest::stop_if_interrupted("interrupted")?;
            let [result, by] = outcome.shown(mutant.killer());
            eprintln!("[{}/{}] {}: {result}", i + 1, mutants.len(), mutant.name);
            if let Outcome::NotBuilt(why) | Outcome::FailsAnyhow(why) = &outcome {
                eprintln!("{why}");
            }
            table.add_row([mutant.name.clone(), mutant.file.clone(), result, by]);
            for (list, killed) in LISTS.iter().zip(&mut killed) {
                let counts = mutant.list == list && outcome.is_pass(mutant.killer());
                *killed += usize::from(counts);
            }
        }
        println!("{table}\n");
        for (list, killed) in LISTS.iter().zip(killed) {
            let tried = mutants.iter().filter(|it| it.list == list).count();
            if tried > 0 {
                println!("{}: {killed} of {tried} killed", list.subject);
            }
        }
        let passed: usize = killed.iter().sum();
        let failed = mutants.len() - passed;
        println!("{passed} passed, {failed} failed");
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
