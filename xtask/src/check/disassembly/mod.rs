// SPDX-License-Identifier: MIT OR Apache-2.0

//! The kernel's machine code against docs/hardware.md: mistakes that hardware punishes and QEMU
//! forgives.
//!
//! The check builds the kernel as for a board and decodes every word of `.text` ([`decode`]). It
//! follows the code that runs before the MMU is on from the firmware's entry ([`paths`]). [`rules`]
//! has what that code and the whole image must not do, [`orders`] what functions must do in which
//! order. A finding names symbol, offset, instruction and the number of the obligation.
//!
//! The check knows no addresses in registers, so "aligned" means that an aligned base stays aligned.
//! It takes every way that the branches allow, even if their conditions are never true together.

mod code;
mod decode;
mod orders;
mod paths;
mod rules;

use crate::build;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use code::Code;
use orders::ORDERS;
use rules::Finding;
use std::fs;

/// Name of the check.
pub const NAME: &str = "disassembly";

/// Builds the kernel, prints what its code breaks, and tells whether that is nothing.
///
/// # Errors
///
/// When the kernel cannot be built or read.
pub(super) fn run(workspace: &Workspace) -> Result<bool> {
    let elf = build::build(workspace)?.elf;
    let bytes = fs::read(&elf).with_context(|| format!("cannot read {}", elf.display()))?;
    let code = Code::read(&bytes)?;
    let (before_mmu, findings) = check(&code);
    println!(
        "{NAME}: {} instructions, {before_mmu} of them reached with the MMU off",
        code.addresses().count()
    );
    for finding in &findings {
        println!("{}: {}: {}", finding.place, finding.rule, finding.message);
    }
    Ok(findings.is_empty())
}

/// All rules: how many instructions run with the MMU off, and what is found.
fn check(code: &Code) -> (usize, Vec<Finding>) {
    let before_mmu = match rules::before_mmu(code) {
        Ok(reached) => reached,
        Err(finding) => return (0, vec![finding]),
    };
    let mut findings = rules::with_mmu_off(code, &before_mmu, code.boot());
    findings.extend(rules::past_the_caches(code));
    findings.extend(rules::everywhere(code, &before_mmu));
    for order in &ORDERS {
        findings.extend(orders::check(code, order));
    }
    (before_mmu.len(), findings)
}
