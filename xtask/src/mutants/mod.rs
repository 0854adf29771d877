// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask mutants`: does a test fail when the code is wrong?
//!
//! First come the changes that are listed by hand, each with the test that must fail:
//! `kernel/mmu/mutants.txt` has those of the library that neither the machine model's sabotage
//! (`kernel/mmu/tests/model/sabotage.rs`) nor cargo-mutants can express, and `kernel/mutants.txt` those of
//! the kernel, with its self-tests on emulated machines and its host tests. Then cargo-mutants changes
//! the parts of both that `.cargo/mutants.toml` names, and runs their host tests. All of it happens in copies of the
//! checkout below target/mutants.

mod generated;
mod list;
mod trial;

use crate::failure::Failure;
use crate::glob;
use crate::guest;
use crate::workspace::Workspace;
use anyhow::{Result, ensure};
use clap::Args;
use list::{LISTS, Mutant};
use trial::{Outcome, Trials};

/// Break the library and the kernel in single places and see that a test notices each time
///
/// The lists are kernel/mmu/mutants.txt (host tests of the library) and kernel/mutants.txt
/// (self-tests of the kernel, each in a boot of its own, and its host tests). Each mutant is built and
/// tested in a copy of the checkout in target/mutants, where the logs of the boots are kept, too. After
/// the lists cargo-mutants makes its own mutants in shards; a shard that is complete is not run again.
/// The last line is `N passed, N failed`; passed is a mutant that its own test killed, or a shard
/// without survivors.
#[derive(Args, Debug)]
pub struct Mutants {
    /// Only the listed mutants whose name or file matches, with * for any characters; kernel/* and
    /// boot/* are the files of the kernel's list
    #[arg(long, value_name = "GLOB")]
    filter: Option<String>,

    /// Run all tests of the package, or all self-tests on the entry's machine, for each listed mutant
    /// and show which of them kill it; slow
    #[arg(long)]
    all: bool,

    /// Only the mutants of cargo-mutants
    #[arg(long, conflicts_with_all = ["filter", "all"])]
    generated: bool,
}

impl Mutants {
    /// Tries every mutant that was asked for and ends in the counts.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        let (mut passed, mut failed) = (0, 0);
        if !self.generated {
            (passed, failed) = self.listed(&workspace)?;
        }
        if self.filter.is_none() && !self.all {
            let shards = generated::run(&workspace)?;
            (passed, failed) = (passed + shards.0, failed + shards.1);
        }
        println!("{passed} passed, {failed} failed");
        ensure!(failed == 0, Failure::new(1, ""));
        Ok(())
    }

    /// How many listed mutants passed and failed.
    fn listed(&self, workspace: &Workspace) -> Result<(usize, usize)> {
        let mut mutants = list::read(workspace.root())?;
        mutants.retain(|mutant| self.wants(mutant));
        let lists = LISTS.each_ref().map(|list| list.path).join(" and ");
        ensure!(!mutants.is_empty(), "no mutant matches; {lists} name them");
        let trials = Trials::set_up(workspace, &mutants)?;
        let mut passed = 0;
        for (i, mutant) in mutants.iter().enumerate() {
            let outcome = trials.try_out(mutant, self.all)?;
            guest::stop_if_interrupted("interrupted")?;
            let killer = &mutant.killer;
            let shown = match &outcome {
                Outcome::Killed(by) if killer.accepts(by) => {
                    passed += 1;
                    format!("killed by {}", by.join(", "))
                }
                Outcome::Killed(by) => format!("KILLED BY OTHERS ONLY: {}", by.join(", ")),
                Outcome::Survived => format!("SURVIVED {}", killer.line),
                Outcome::Unfit(why) => format!("NOT TRIED: {why}"),
            };
            let (name, file) = (&mutant.name, &mutant.file);
            println!("[{}/{}] {name} ({file}): {shown}", i + 1, mutants.len());
        }
        Ok((passed, mutants.len() - passed))
    }

    fn wants(&self, mutant: &Mutant) -> bool {
        self.filter.as_ref().is_none_or(|filter| {
            glob::matches(filter, &mutant.name) || glob::matches(filter, &mutant.file)
        })
    }
}
