// SPDX-License-Identifier: MIT OR Apache-2.0

//! The checks that cargo's own tools make, all with warnings as errors.

use crate::process;
use crate::workspace::Workspace;
use anyhow::Result;
use std::process::Stdio;

/// A cargo command that succeeds when there is nothing to find.
#[derive(Debug)]
pub struct Tool {
    /// Name of the check.
    pub name: &'static str,
    /// Its words, separated by blanks.
    command: &'static str,
    /// `RUSTDOCFLAGS`, which no other tool reads.
    rustdoc: &'static str,
}

/// All of them.
pub const TOOLS: [Tool; 5] = [
    Tool {
        name: "rustfmt",
        command: "fmt --all --check -- --files-with-diff",
        rustdoc: "",
    },
    Tool {
        name: "clippy-host",
        command: "clippy --workspace --all-targets -- --deny=warnings",
        rustdoc: "",
    },
    Tool {
        name: "clippy-target",
        command: "clippy --target aarch64-unknown-none-softfloat --package=kernel \
                  --package=boot --package=lazymmu --package=first-mapping \
                  -- --deny=warnings",
        rustdoc: "",
    },
    Tool {
        name: "rustdoc-library",
        command: "doc --no-deps --package=lazymmu --package=lazymmu-testkit",
        rustdoc: "--deny=warnings",
    },
    Tool {
        name: "rustdoc-kernel",
        // No other crate links to the kernel: its documentation is for work on it.
        command: "doc --no-deps --document-private-items --lib --target aarch64-unknown-none-softfloat \
                  --package=kernel --package=boot",
        rustdoc: "--deny=warnings --allow=rustdoc::private_intra_doc_links",
    },
];

impl Tool {
    /// Runs it, and tells whether it succeeds. Clippy and rustdoc print their findings themselves.
    ///
    /// # Errors
    ///
    /// When cargo cannot be started.
    pub fn run(&self, workspace: &Workspace) -> Result<bool> {
        let mut command = process::cargo(workspace);
        command.args(self.command.split_whitespace());
        command.env("RUSTDOCFLAGS", self.rustdoc);
        // Only rustfmt prints to standard output: the names of files.
        let output = process::finish(&mut command, Stdio::piped(), Stdio::inherit())?;
        for file in String::from_utf8_lossy(&output.stdout).lines() {
            let (file, name) = (workspace.shown(file.as_ref()), self.name);
            println!("{file}:1: {name}: not formatted; type: cargo fmt --all");
        }
        if !output.status.success() {
            eprintln!("`cargo {}` failed", self.command);
        }
        Ok(output.status.success())
    }
}
