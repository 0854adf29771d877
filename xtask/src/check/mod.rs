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
use lints::LINTS;
use source::Source;
use tools::TOOLS;

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
        let sources = Source::collect(workspace.root())?;
        let (mut passed, mut failed) = (0, 0);
        // Each check prints what it finds, and tells whether nothing breaks its rule.
        let mut count = |name: &str, check: &dyn Fn() -> Result<bool>| -> Result<()> {
            let only = self.only.as_deref().unwrap_or_default();
            if name.contains(only) {
                let is_clean = check()?;
                println!("{name}: {}", if is_clean { "ok" } else { "FAILED" });
                *(if is_clean { &mut passed } else { &mut failed }) += 1;
            }
            Ok(())
        };
        for lint in &LINTS {
            count(lint.name, &|| Ok(lint.run(&sources)))?;
        }
        count(layers::NAME, &|| Ok(layers::run(&sources)))?;
        for tool in &TOOLS {
            count(tool.name, &|| tool.run(&workspace))?;
        }
        count(disassembly::NAME, &|| disassembly::run(&workspace))?;
        println!("\n{passed} passed, {failed} failed");
        match (passed, failed) {
            (1.., 0) => Ok(()),
            _ => Err(Failure::new(1, "").into()),
        }
    }
}
