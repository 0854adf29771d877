// SPDX-License-Identifier: MIT OR Apache-2.0

//! The checks that cargo's own tools make, all with warnings as errors.

use super::Verdict;
use crate::process;
use crate::workspace::{KERNEL_TARGET, Workspace};
use anyhow::Result;
use std::path::Path;
use std::process::Stdio;

/// A cargo command that succeeds when there is nothing to find.
#[derive(Debug)]
pub struct Tool {
    /// Name of the check.
    pub name: &'static str,
    arguments: &'static [&'static str],
    /// `RUSTDOCFLAGS`, empty if not needed.
    rustdoc: &'static str,
}

/// All of them.
pub const TOOLS: [Tool; 5] = [
    Tool {
        name: "rustfmt",
        arguments: &["fmt", "--all", "--check", "--", "--files-with-diff"],
        rustdoc: "",
    },
    Tool {
        name: "clippy-host",
        arguments: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "--deny=warnings",
        ],
        rustdoc: "",
    },
    Tool {
        name: "clippy-target",
        arguments: &[
            "clippy",
            "--target",
            KERNEL_TARGET,
            "--package=kernel",
            "--package=modes",
            "--package=image",
            "--package=boot",
            "--package=lazymmu",
            "--package=first-mapping",
            "--",
            "--deny=warnings",
        ],
        rustdoc: "",
    },
    Tool {
        name: "rustdoc-library",
        arguments: &[
            "doc",
            "--no-deps",
            "--package=lazymmu",
            "--package=lazymmu-testkit",
        ],
        rustdoc: "--deny=warnings",
    },
    Tool {
        name: "rustdoc-kernel",
        // Nobody links to the kernel: its documentation is for those who work on it.
        arguments: &[
            "doc",
            "--no-deps",
            "--document-private-items",
            "--lib",
            "--target",
            KERNEL_TARGET,
            "--package=kernel",
            "--package=modes",
            "--package=boot",
        ],
        rustdoc: "--deny=warnings --allow=rustdoc::private_intra_doc_links",
    },
];

impl Tool {
    /// Runs it. Clippy and rustdoc print their findings themselves.
    ///
    /// # Errors
    ///
    /// When cargo cannot be started.
    pub fn run(&self, workspace: &Workspace) -> Result<Verdict> {
        let mut command = process::cargo(workspace);
        command.args(self.arguments);
        if !self.rustdoc.is_empty() {
            command.env("RUSTDOCFLAGS", self.rustdoc);
        }
        // Only rustfmt prints to standard output: the names of files.
        let output = process::finish(&mut command, Stdio::piped(), Stdio::inherit())?;
        for file in String::from_utf8_lossy(&output.stdout).lines() {
            let file = Path::new(file);
            let shown = file
                .strip_prefix(workspace.root())
                .unwrap_or(file)
                .display();
            println!(
                "{shown}:1: {}: not formatted; type: cargo fmt --all",
                self.name
            );
        }
        if output.status.success() {
            return Ok(Verdict::Clean);
        }
        eprintln!("`cargo {}` failed", self.arguments.join(" "));
        Ok(Verdict::Findings)
    }
}
