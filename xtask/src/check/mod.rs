// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask check`: formatting, clippy, documentation, house rules, and what hardware asks of
//! the machine code.

pub mod disassembly;
mod layers;
mod lints;
mod source;
mod tools;

use crate::failure::Failure;
use crate::workspace::Workspace;
use anyhow::Result;
use clap::Args;
use lints::{LINTS, Severity};
use source::Source;

/// Check formatting, clippy (host and target), documentation, the house rules and the machine code
///
/// Findings are printed as `file:line: rule: message`. The last line is `N passed, N failed`,
/// counting checks.
#[derive(Args, Debug)]
pub struct Check {
    /// Only the checks whose name contains this, e.g. clippy or spdx
    #[arg(value_name = "NAME")]
    only: Option<String>,
}

impl Check {
    /// Runs the checks, cheap ones first.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        let mut tally = Tally::default();
        let sources = Source::collect(workspace.root())?;
        for lint in LINTS.iter().filter(|lint| self.wants(lint.name)) {
            tally.count(lint.name, house_rule(lint, &sources));
        }
        if self.wants(layers::NAME) {
            tally.count(layers::NAME, layers::run(&sources));
        }
        for tool in tools::TOOLS.iter().filter(|tool| self.wants(tool.name)) {
            tally.count(tool.name, tool.run(&workspace)?);
        }
        if self.wants(disassembly::NAME) {
            tally.count(disassembly::NAME, disassembly::run(&workspace)?);
        }
        println!("\n{} passed, {} failed", tally.passed, tally.failed.len());
        if tally.failed.is_empty() && tally.passed > 0 {
            Ok(())
        } else {
            Err(Failure::new(1, "").into())
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.only
            .as_ref()
            .is_none_or(|only| name.contains(only.as_str()))
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Clean,
    Findings,
}

#[derive(Debug, Default)]
struct Tally {
    passed: usize,
    failed: Vec<&'static str>,
}

impl Tally {
    fn count(&mut self, name: &'static str, verdict: Verdict) {
        match verdict {
            Verdict::Clean => {
                println!("{name}: ok");
                self.passed += 1;
            }
            Verdict::Findings => {
                println!("{name}: FAILED");
                self.failed.push(name);
            }
        }
    }
}

/// Applies one house rule to all files and prints what it finds.
fn house_rule(lint: &lints::Lint, sources: &[Source]) -> Verdict {
    let mut verdict = Verdict::Clean;
    for source in sources {
        for finding in (lint.check)(source) {
            let severity = match finding.severity {
                Severity::Error => {
                    verdict = Verdict::Findings;
                    ""
                }
                Severity::Warning => "warning: ",
            };
            println!(
                "{}:{}: {}: {severity}{}",
                source.path, finding.line, lint.name, finding.message
            );
        }
    }
    verdict
}
