// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask bench`: what the library, the scheduler and the boot execute, counted from outside on every CPU model,
//! policy and backend, beside Linux; and in short what the kernel counts itself.
//!
//! [`crate::measure`] measures. [`statements`] judges what is claimed of the counts, [`tables`], [`summary`] and
//! [`html`] show them.
//!
//! Instructions are no time: a machine that executes fewer of them is not faster by as much, and a barrier costs
//! what the bus makes of it. What repeats exactly are counts, so they can be compared with those of
//! yesterday.

pub mod headline;
mod html;
mod memory;
mod statements;
mod summary;
mod tables;

use crate::build;
use crate::failure::Failure;
use crate::guest;
use crate::measure::agreement;
use crate::measure::baseline;
use crate::measure::boots::{
    BACKENDS, CLASSIC, CPUS, Counted, DEFER_BARRIERS, LARGE, MAX, MOST_OF_USUAL, MOST_PAGES,
    Measurement, POLICIES, Setup, Terms,
};
use crate::measure::changes::changes;
use crate::measure::prediction::Prediction;
use crate::measure::results::Results;
use crate::parallel;
use crate::qemu::{Plugin, Qemu};
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use clap::Args;
use clap::builder::PossibleValuesParser;
use statements::Statement;
use std::ffi::OsString;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

/// The document that shows the baseline, from the workspace's root.
const DOCUMENT: &str = "docs/instruction-counts.md";

/// Count what each operation executes, on all CPU models, policies and backends, beside Linux's figures
///
/// Boots the kernel under QEMU with a plugin that counts instructions, DSB, ISB and TLBI between marks; on virt, one CPU,
/// -icount. Prints a table for each operation, what the scheduler and the boot cost, the targets, and
/// what else is claimed of the counts. Needs a QEMU that loads plugins, as 10.0 does.
///
/// `cargo xtask counts` is short for `cargo xtask bench --no-plugin`.
#[derive(Args, Debug)]
pub struct Bench {
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
    /// where there is less; windows in which each page is a call of its own end at 65536 [default: 65536; with
    /// --no-plugin, --check 4096]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_PAGES))]
    pages: Option<u64>,

    /// Let the kernel count alone, on the CPU max, whose timer can be made to tick once per instruction: prints what one
    /// page more costs beside its target and Linux, and what the scheduler costs, with the backend defer-barriers and
    /// the policy classic unless others are given
    #[arg(long, conflicts_with_all = ["cpu", "once", "json", "html", "compare", "write"])]
    no_plugin: bool,

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

    /// Fail if anything is worse than in xtask/src/measure/baseline.json, as `cargo xtask test` does
    #[arg(long, conflicts_with_all = ["pages", "write"])]
    check: bool,

    /// Write the counts that `cargo xtask test` compares with, xtask/src/measure/baseline.json, and the document that
    /// shows them, docs/instruction-counts.md
    #[arg(long, conflicts_with_all = ["cpu", "backend", "policy"])]
    write: bool,
}

/// The arguments, with `bench --no-plugin` in place of `counts`.
pub fn without_alias(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    if arguments.get(1).is_some_and(|command| command == "counts") {
        arguments.splice(1..=1, ["bench", "--no-plugin"].map(OsString::from));
    }
    arguments
}

impl Bench {
    /// Measures, prints, and writes what was asked for.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        let all = self.selected();
        ensure!(
            !all.is_empty(),
            "no configuration has all of that: the policy ets2 needs --cpu max"
        );
        // Before minutes of work.
        let old = self.compare.as_deref().map(read).transpose()?;
        let qemu = Qemu::provide()?;
        let plugin = match self.no_plugin {
            true => None,
            false => Some(Plugin::provide(&workspace, &qemu)?),
        };
        let artifacts = build::build(&workspace)?;
        let setup = Setup {
            workspace: &workspace,
            qemu: &qemu,
            artifacts: &artifacts,
            plugin: plugin.as_ref(),
        };
        if self.no_plugin {
            self.without_plugin(&setup, &all)
        } else {
            self.with_plugin(&setup, &all, old.as_ref())
        }
    }

    /// The measurements that are asked for: those of the terms, and the boots of their CPUs.
    fn selected(&self) -> Vec<Measurement> {
        let terms: Vec<Terms> = Terms::all().filter(|terms| self.wants(terms)).collect();
        let boots = CPUS
            .into_iter()
            .filter(|cpu| !self.no_plugin && terms.iter().any(|terms| terms.cpu == *cpu));
        let boots: Vec<_> = boots.map(Measurement::boot).collect();
        let windows = terms.into_iter().map(Measurement::Windows);
        windows.chain(boots).collect()
    }

    fn wants(&self, terms: &Terms) -> bool {
        let wants = |asked: &[String], one: &str, without_plugin: &str| match asked {
            [] => !self.no_plugin || one == without_plugin,
            asked => asked.iter().any(|asked| asked == one),
        };
        wants(&self.cpu, &terms.cpu, MAX)
            && wants(&self.policy, &terms.policy, CLASSIC)
            && wants(&self.backend, &terms.backend, DEFER_BARRIERS)
    }

    fn without_plugin(&self, setup: &Setup<'_>, all: &[Measurement]) -> Result<()> {
        let pages = self.pages.unwrap_or(baseline::PAGES);
        let mut results = Results::default();
        for measurement in all {
            let costs = setup.count(measurement, pages)?.inside;
            println!("{}", summary::shown(measurement, &costs)?);
            results.measured.insert(measurement.clone(), costs);
        }
        let said: Vec<Statement> = self
            .not_worse(setup.workspace, &results)?
            .into_iter()
            .collect();
        print!("{}", verdicts(&said));
        end(&said)
    }

    fn with_plugin(
        &self,
        setup: &Setup<'_>,
        all: &[Measurement],
        old: Option<&Results>,
    ) -> Result<()> {
        let workspace = setup.workspace;
        let pages = self.pages.unwrap_or(match self.check {
            true => baseline::PAGES,
            false => MOST_OF_USUAL,
        });
        let skipped = skipped(pages, memory::available());
        let pages = match skipped {
            Some(_) => MOST_OF_USUAL,
            None => pages,
        };
        let prediction = Prediction::make(workspace, pages)?;
        let (results, differing) = round(setup, all, pages, Some(&prediction))?;
        let mut said = vec![statements::agree(&results, pages, differing)];
        if !self.once {
            let (second, _) = round(setup, all, pages, None)?;
            said.push(statements::repeats(&results, &second));
        }
        said.extend(statements::sections(&results));
        said.extend(statements::flat(&results));
        said.extend(self.not_worse(workspace, &results)?);
        println!("{}", report(&results, &said));
        if let Some(line) = &skipped {
            println!("{line}\n");
        }
        if let Some(old) = old {
            println!("{}", compared(old, &results, all, pages));
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
        write(&json, &results.to_json()?)?;
        write(&html, &html::page(&results, &said)?)?;
        println!("Written: {} and {}", json.display(), html.display());
        if self.write && said.iter().all(Statement::holds) {
            // With the sizes of `cargo xtask test`: the largest window can cost a few instructions less.
            let (results, _) = round(setup, all, baseline::PAGES, None)?;
            write(&workspace.root().join(baseline::FILE), &results.to_json()?)?;
            write(
                &workspace.root().join(DOCUMENT),
                &summary::document(&results)?,
            )?;
            println!("Written: {} and {DOCUMENT}", baseline::FILE);
        }
        end(&said)
    }

    /// That nothing is worse than in the baseline, if that was asked for.
    fn not_worse(&self, workspace: &Workspace, results: &Results) -> Result<Option<Statement>> {
        if !self.check {
            return Ok(None);
        }
        let committed = baseline::read(workspace)?;
        Ok(Some(statements::not_worse(&committed, results)))
    }
}

/// The end of a command that printed these statements.
fn end(said: &[Statement]) -> Result<()> {
    match said.iter().filter(|statement| !statement.holds()).count() {
        0 => Ok(()),
        1 => Err(Failure::new(1, "one statement above does not hold").into()),
        some => Err(Failure::new(1, format!("{some} statements above do not hold")).into()),
    }
}

/// Why windows of so many pages are left out with so many MiB of memory; where it is not known how much there is, they
/// are tried.
fn skipped(pages: u64, available: Option<u64>) -> Option<String> {
    let available = available.filter(|mebibytes| *mebibytes < LARGE.into())?;
    (pages >= MOST_PAGES).then(|| {
        format!(
            "skipped: {MOST_PAGES} pages need a guest of {} GiB, this machine has {available} MiB available",
            LARGE / 1024
        )
    })
}

/// Measures everything once, and returns where kernel, model and plugin differ as well.
fn round(
    setup: &Setup<'_>,
    all: &[Measurement],
    pages: u64,
    prediction: Option<&Prediction>,
) -> Result<(Results, Vec<String>)> {
    let jobs = match pages >= MOST_PAGES {
        // Each needs much memory.
        true => 1,
        false => thread::available_parallelism()
            .map_or(1, NonZeroUsize::get)
            .min(4),
    };
    let counted: Vec<Counted> = parallel::each(all, jobs, |measurement| {
        let counted = setup.count(measurement, pages);
        counted.with_context(|| measurement.to_string())
    })?;
    guest::stop_if_interrupted("interrupted; every QEMU was ended")?;
    let mut results = Results {
        qemu: setup.qemu.version().to_string(),
        ..Results::default()
    };
    let mut differing = Vec::new();
    for (measurement, counted) in all.iter().zip(counted) {
        let found = agreement::differences(measurement, &counted, prediction);
        differing.extend(found.iter().map(|what| format!("{measurement}: {what}")));
        results
            .measured
            .insert(measurement.clone(), counted.outside);
    }
    Ok((results, differing))
}

/// What is printed.
fn report(results: &Results, said: &[Statement]) -> String {
    let mut parts: Vec<String> = tables::of_operations(results)
        .iter()
        .map(|(_, table)| table.shown())
        .collect();
    parts.push(tables::of_scheduler(results).shown());
    parts.push(tables::of_boot(results).shown());
    parts.extend(tables::of_targets(results).map(|table| table.shown()));
    parts.extend(tables::where_calls_end(results));
    parts.extend(tables::not_judged(results));
    parts.push(verdicts(said));
    parts.join("\n\n")
}

/// The statements, each with whether it holds.
fn verdicts(said: &[Statement]) -> String {
    let mut text = String::new();
    for statement in said {
        let verdict = if statement.holds() {
            "holds"
        } else {
            "DOES NOT HOLD"
        };
        text.push_str(&format!("{verdict}: {}\n", statement.claim));
        for line in statement.details() {
            text.push_str(&format!("    {line}\n"));
        }
    }
    text
}

/// What has changed, in words, of what this run was asked for: these measurements, and windows of up to `pages` pages.
fn compared(old: &Results, new: &Results, all: &[Measurement], pages: u64) -> String {
    let found = changes(old, new, |measurement, of| {
        let boot = matches!(measurement, Measurement::Boot { .. });
        all.contains(measurement) && (boot || of <= pages)
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
    Results::from_json(&text).with_context(|| format!("{} cannot be compared with", path.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests;
