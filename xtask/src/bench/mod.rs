// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask bench`: what the library, the scheduler and the boot execute, counted from outside on every CPU model,
//! policy and backend, beside Linux.
//!
//! One room each: [`counted`] boots, [`sides`] compares kernel, model and plugin, [`statements`] and [`baseline`] judge,
//! [`changes`] compares two results, [`table`], [`json`] and [`html`] show. [`linux`] has Linux's figures. [`headline`] is the short
//! form, and [`mca`] estimates
//! cycles, which nobody counts.
//!
//! Instructions are no time: a machine that executes fewer of them is not faster by as much, and a barrier costs
//! what the bus makes of it. What repeats exactly are counts, so they can be compared with those of
//! yesterday.

pub mod baseline;
pub mod changes;
pub mod counted;
pub mod headline;
pub mod html;
pub mod json;
pub mod linux;
mod mca;
mod memory;
pub mod prediction;
pub mod results;
pub mod sides;
pub mod statements;
pub mod table;

use crate::build;
use crate::failure::{self, Failure};
use crate::guest;
use crate::qemu::{Plugin, Qemu};
use crate::test::parallel;
use crate::test::soak::tasks::BACKENDS;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use clap::builder::PossibleValuesParser;
use counted::{
    CPUS, Counted, LARGE, LINEAR_MAP, MOST_OF_USUAL, MOST_PAGES, POLICIES, Setup, Terms,
};
use prediction::Prediction;
use results::{Results, Subject};
use statements::Statement;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

/// Count what each operation executes, on all CPU models, policies and backends, beside Linux's figures
///
/// Boots the kernel under QEMU with a plugin that counts instructions, DSB, ISB and TLBI between marks; on virt, one CPU,
/// -icount. Prints a table for each operation, what the scheduler and the boot cost, the targets, and
/// what else is claimed of the counts. Needs a QEMU that loads plugins, as 10.0 does.
#[derive(Args, Debug)]
pub struct BenchCommand {
    /// Only with this CPU model; may be given several times
    #[arg(long, value_name = "MODEL", value_parser = PossibleValuesParser::new(CPUS))]
    cpu: Vec<String>,

    /// Only with this backend; may be given several times
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(BACKENDS))]
    backend: Vec<String>,

    /// Only with this barrier policy; ets2 is for the CPU max
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(POLICIES))]
    policy: Vec<String>,

    /// Pages of the largest windows: 1, 16, 512, 4096, 65536 or 1048576, which needs a guest of 8 GiB and is skipped
    /// where there is less; windows in which each page is a call of its own end at 65536
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = clap::value_parser!(u64).range(1..=MOST_PAGES))]
    pages: u64,

    /// Estimate the cycles per page-table entry of the hot loops on cortex-a72 instead, by llvm-mca, which has to
    /// be installed; boots nothing
    #[arg(long, conflicts_with_all = ["cpu", "backend", "policy", "once", "json", "html", "compare", "write"])]
    mca: bool,

    /// Boot each configuration once instead of twice, and do not say whether counts repeat
    #[arg(long)]
    once: bool,

    /// Where to write the counts [default: target/bench.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Where to write the report with its plots [default: target/bench.html]
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Say what has changed since these counts, a file of an earlier run
    #[arg(long, value_name = "OLD.json")]
    compare: Option<PathBuf>,

    /// Write the counts that `cargo xtask test` compares with, xtask/src/bench/baseline.json
    #[arg(long, conflicts_with_all = ["cpu", "backend", "policy"])]
    write: bool,
}

impl BenchCommand {
    /// Measures, prints, and writes what was asked for.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        if self.mca {
            return mca::analyse(&workspace);
        }
        let all: Vec<Terms> = Terms::all().filter(|terms| self.wants(terms)).collect();
        ensure!(
            !all.is_empty(),
            "no configuration has all of that: the policy ets2 needs --cpu max"
        );
        // Before minutes of work.
        let old = self.compare.as_deref().map(read).transpose()?;
        let qemu = Qemu::provide()?;
        let plugin = Plugin::build(&workspace)?;
        if let Some(why) = plugin.refused_by(&qemu)? {
            bail!("{why}");
        }
        let artifacts = build::build(&workspace)?;
        let setup = Setup {
            workspace: &workspace,
            qemu: &qemu,
            artifacts: &artifacts,
            plugin: &plugin,
        };

        let skipped = skipped(self.pages, memory::available());
        let pages = match skipped {
            Some(_) => MOST_OF_USUAL,
            None => self.pages,
        };
        let prediction = Prediction::make(&workspace, pages)?;
        let (results, differing) = round(&setup, &all, pages, Some(&prediction))?;
        // The kernel says nothing of the rest of the boot.
        let both =
            |subject: &&Subject| !matches!(subject, Subject::Boot(_, op, _) if *op != LINEAR_MAP);
        let windows = results.entries().keys().filter(both).count();
        let mut said = vec![statements::agree(windows, pages, differing)];
        if !self.once {
            let (second, _) = round(&setup, &all, pages, None)?;
            said.push(statements::repeats(&results, &second));
        }
        said.extend(statements::sections(&results));
        said.extend(statements::flat(&results));
        let failed = said.iter().filter(|statement| !statement.holds()).count();

        println!("{}", report(&results, &said));
        if let Some(line) = &skipped {
            println!("{line}\n");
        }
        if let Some(old) = &old {
            println!("{}", compared(old, &results, &all, pages));
        }
        let target = |given: &Option<PathBuf>, name: &str| {
            given
                .clone()
                .unwrap_or_else(|| workspace.target().join(name))
        };
        let (json, html) = (
            target(&self.json, "bench.json"),
            target(&self.html, "bench.html"),
        );
        write(&json, &json::write(&results))?;
        write(&html, &html::page(&results, &said))?;
        println!("Written: {} and {}", json.display(), html.display());
        if self.write && failed == 0 {
            // With the sizes of `cargo xtask test`: the largest window can cost a few instructions less.
            let (results, _) = round(&setup, &all, baseline::PAGES, None)?;
            baseline::write(&workspace, results)?;
            println!("Written: {}", baseline::FILE);
        }
        match failed {
            0 => Ok(()),
            1 => Err(Failure::new(1, "one statement above does not hold").into()),
            some => Err(Failure::new(1, format!("{some} statements above do not hold")).into()),
        }
    }

    fn wants(&self, terms: &Terms) -> bool {
        let wants = |asked: &[String], one: &String| asked.is_empty() || asked.contains(one);
        wants(&self.cpu, &terms.cpu)
            && wants(&self.backend, &terms.backend)
            && wants(&self.policy, &terms.policy)
    }
}

/// Why windows of so many pages are left out with so many MiB of memory; who does not know how much there is tries.
fn skipped(pages: u64, available: Option<u64>) -> Option<String> {
    let available = available.filter(|mebibytes| *mebibytes < LARGE.into())?;
    (pages >= MOST_PAGES).then(|| {
        format!(
            "skipped: {MOST_PAGES} pages need a guest of {} GiB, this machine has {available} MiB available",
            LARGE / 1024
        )
    })
}

/// Boots everything once; comes back with where kernel, model and plugin differ as well.
fn round(
    setup: &Setup<'_>,
    all: &[Terms],
    pages: u64,
    prediction: Option<&Prediction>,
) -> Result<(Results, Vec<String>)> {
    let mut jobs = thread::available_parallelism()
        .map_or(1, NonZeroUsize::get)
        .min(4);
    if pages >= MOST_PAGES
        && let Some(mebibytes) = memory::available()
    {
        // As many guests as there is memory for.
        let guests = usize::try_from(mebibytes / u64::from(LARGE))?;
        jobs = jobs.min(guests).max(1);
    }
    let counted: Vec<Counted> = parallel::each(all, jobs, |terms| {
        setup.count(terms, pages).with_context(|| terms.to_string())
    })?;
    let mut results = Results {
        qemu: setup.qemu.version().to_string(),
        ..Results::default()
    };
    let mut differing = Vec::new();
    for (terms, counted) in all.iter().zip(counted) {
        let found = sides::differences(terms, &counted, prediction);
        differing.extend(found.into_iter().map(|what| format!("{terms}: {what}")));
        results.add(terms, counted.outside);
    }
    for cpu in CPUS
        .into_iter()
        .filter(|cpu| all.iter().any(|terms| terms.cpu == *cpu))
    {
        if !guest::interrupted() {
            let counted = setup.count_boot(cpu)?;
            let found = sides::differences_of_boot(cpu, &counted, prediction);
            differing.extend(found.into_iter().map(|what| format!("{cpu}, boot: {what}")));
            results.boots.insert(cpu.to_owned(), counted.outside);
        }
    }
    if guest::interrupted() {
        bail!(Failure::new(
            failure::INTERRUPTED,
            "interrupted; every QEMU was ended"
        ));
    }
    Ok((results, differing))
}

/// What is printed.
fn report(results: &Results, said: &[Statement]) -> String {
    let mut text = String::new();
    let mut add = |table: &table::Titled| {
        text.push_str(&table.shown());
        text.push_str("\n\n");
    };
    for (_, table) in table::of_operations(results) {
        add(&table);
    }
    add(&table::of_scheduler(results));
    add(&table::of_boot(results));
    let aims = statements::targets(results);
    if !aims.is_empty() {
        add(&table::of_targets(&aims));
    }
    let lines = [
        table::where_calls_end(results),
        statements::not_judged(results),
    ];
    for line in lines.into_iter().flatten() {
        text.push_str(&line);
        text.push_str("\n\n");
    }
    for statement in said {
        let verdict = if statement.holds() {
            "holds"
        } else {
            "DOES NOT HOLD"
        };
        text.push_str(&format!("{verdict}: {}\n", statement.claim));
        for line in &statement.against {
            text.push_str(&format!("    against it: {line}\n"));
        }
        for line in &statement.notes {
            text.push_str(&format!("    cheaper: {line}\n"));
        }
    }
    text
}

/// What has changed, in words, of what this run was asked for: these terms, and windows of up to `pages` pages.
fn compared(old: &Results, new: &Results, all: &[Terms], pages: u64) -> String {
    let found = changes::changes_of(old, new, |subject| match subject {
        Subject::Window(terms, _, of) => all.contains(terms) && *of <= pages,
        Subject::Event(terms, _) => all.contains(terms),
        Subject::Boot(cpu, ..) | Subject::Wake(cpu, _) => all.iter().any(|terms| terms.cpu == *cpu),
    });
    let mut text = format!(
        "Since then {} counted things are the same, {} are not.\n",
        found.same,
        found.lines.len()
    );
    for line in &found.lines {
        text.push_str(&format!("    {line}\n"));
    }
    if found.unasked > 0 {
        text.push_str(&format!(
            "{} entries of the old file were not asked for in this run, and are not compared.\n",
            found.unasked
        ));
    }
    text
}

fn read(path: &Path) -> Result<Results> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    json::read(&text).with_context(|| format!("{} cannot be compared with", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::results::tests::results;
    use super::*;
    use crate::counts::OPERATIONS;

    #[test]
    fn the_report_has_every_operation_and_statement() {
        let results = results(&[1, 512, 4096, 65_536]);
        let mut said: Vec<_> = statements::sections(&results).into_iter().collect();
        said.extend(statements::flat(&results));
        let text = report(&results, &said);
        for operation in &OPERATIONS {
            assert!(text.contains(operation.title), "{}", operation.title);
        }
        assert_eq!(text.matches("\nholds: ").count(), 2, "{text}");
        said[0].against.push("a case".to_owned());
        assert!(report(&results, &said).contains("DOES NOT HOLD: A section of 1 to 65536 pages"));
        assert!(report(&results, &said).contains("against it: a case"));
    }

    #[test]
    fn what_changed_is_told() {
        let (old, new) = (results(&[1]), results(&[1, 16]));
        let all: Vec<Terms> = Terms::all().collect();
        let text = compared(&old, &new, &all, 16);
        assert!(text.contains("pages=16: only in the new results"), "{text}");
        assert!(text.starts_with(&format!("Since then {} counted", old.entries().len())));
        assert!(!text.contains("not asked for"), "{text}");
    }

    #[test]
    fn what_was_not_asked_for_is_one_line() {
        let (old, mut new) = (results(&[1, 16]), results(&[1]));
        new.counted.retain(|terms, _| terms.cpu == "max");
        new.boots.retain(|cpu, _| cpu == "max");
        let all: Vec<Terms> = new.counted.keys().cloned().collect();
        let gone = old.entries().len() - new.entries().len();
        assert_eq!(
            compared(&old, &new, &all, 1),
            format!(
                "Since then {} counted things are the same, 0 are not.\n\
                 {gone} entries of the old file were not asked for in this run, and are not compared.\n",
                new.entries().len()
            )
        );
        let text = compared(&old, &new, &all, 16);
        assert!(text.contains("pages=16: only in the old results"), "{text}");
    }

    #[test]
    fn the_largest_windows_are_skipped_where_memory_lacks() {
        assert_eq!(
            skipped(1_048_576, Some(8191)).unwrap(),
            "skipped: 1048576 pages need a guest of 8 GiB, this machine has 8191 MiB available"
        );
        for (pages, available) in [
            (1_048_576, Some(8192)),
            (1_048_576, None),
            (65_536, Some(1)),
        ] {
            assert_eq!(skipped(pages, available), None);
        }
    }

    #[test]
    fn a_report_without_the_headline_says_who_judges_targets() {
        let mut some = results(&[1, 512, 4096]);
        assert!(!report(&some, &[]).contains("not judged"));
        some.counted.retain(|terms, _| terms.backend == "eager");
        let text = report(&some, &[]);
        assert!(text.contains("\nThe targets were not judged"), "{text}");
        assert!(!text.contains("Targets: of a page"));
    }
}
