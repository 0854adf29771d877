// SPDX-License-Identifier: MIT OR Apache-2.0
//! The CPUs and the ways to start them: `/cpus` and the PSCI node.

use arrayvec::ArrayVec;

use super::Notes;
use super::description::{Conduit, Cpu, EnableMethod, Note};
use super::error::{DeviceTreeError, Quoted};
use super::place::Place;
use super::tree::Tree;
use crate::machine::MAX_CPUS;

/// Aff3 in bits 39:32, Aff2 to Aff0 in bits 23:0, as in MPIDR_EL1.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// The CPUs in the order of the tree. A CPU whose description is incomplete or wrong is left out,
/// with a note, because the others work without it.
pub fn cpus(tree: Tree<'_>, notes: &mut Notes) -> ArrayVec<Cpu, MAX_CPUS> {
    let mut list = ArrayVec::new();
    let mut ignored = 0;
    let nodes = tree.root().child("cpus");
    for node in nodes.iter().flat_map(Place::children).filter(is_cpu) {
        match cpu(&node, &list, notes) {
            Ok(cpu) => ignored += usize::from(list.try_push(cpu).is_err()),
            Err(error) => notes.add(Note::CpuUnusable { error }),
        }
    }
    if ignored > 0 {
        notes.add(Note::CpusIgnored { count: ignored });
    }
    if list.is_empty() {
        notes.add(Note::NoCpus);
    }
    list
}

/// The CPU at `node`, which must not be one of `others`.
fn cpu(node: &Place<'_>, others: &[Cpu], notes: &mut Notes) -> Result<Cpu, DeviceTreeError> {
    let mpidr = affinity(node)?;
    if others.iter().any(|cpu| cpu.mpidr == mpidr) {
        return Err(DeviceTreeError::DuplicateCpu {
            node: node.path(),
            mpidr,
        });
    }
    Ok(Cpu {
        mpidr,
        enable_method: enable_method(node, notes)?,
    })
}

/// The affinity fields of a CPU.
fn affinity(node: &Place<'_>) -> Result<u64, DeviceTreeError> {
    let mpidr = node.first_address()?;
    if mpidr & !AFFINITY == 0 {
        return Ok(mpidr);
    }
    Err(DeviceTreeError::BadValue {
        node: node.path(),
        property: "reg",
        value: Quoted::from_arguments(format_args!("{mpidr:#x}")),
        allowed: "the affinity fields of MPIDR_EL1, bits within 0xff00ffffff",
    })
}

/// For a CPU, `disabled` means "not running yet"; only `fail` means unusable (Devicetree
/// Specification 3.8.1).
fn is_cpu(node: &Place<'_>) -> bool {
    let kind = node.base_name() == b"cpu" || node.text("device_type") == Some("cpu");
    let status = node.text("status").unwrap_or_default();
    kind && !status.starts_with("fail")
}

fn enable_method(node: &Place<'_>, notes: &mut Notes) -> Result<EnableMethod, DeviceTreeError> {
    match node.texts("enable-method").next() {
        None => Ok(EnableMethod::Unknown),
        Some("psci") => Ok(EnableMethod::Psci),
        Some("spin-table") => Ok(EnableMethod::SpinTable {
            release_address: release_address(node)?,
        }),
        Some(other) => {
            notes.add(Note::UnknownEnableMethod {
                node: node.path(),
                method: Quoted::from_line(other),
            });
            Ok(EnableMethod::Unknown)
        }
    }
}

/// The address of the release word. The specification requires 64 bits; some trees have 32.
fn release_address(node: &Place<'_>) -> Result<u64, DeviceTreeError> {
    const NAME: &str = "cpu-release-addr";
    let Some(address) = node.u64(NAME)? else {
        return Err(node.missing(NAME));
    };
    // The word is written with one 64-bit store, which must be single-copy atomic for the waiting
    // CPU.
    if address.is_multiple_of(8) {
        Ok(address)
    } else {
        Err(DeviceTreeError::BadValue {
            node: node.path(),
            property: NAME,
            value: Quoted::from_arguments(format_args!("{address:#x}")),
            allowed: "a multiple of 8",
        })
    }
}

/// The firmware's power interface.
pub fn psci(tree: Tree<'_>, notes: &mut Notes) -> Result<Option<Conduit>, DeviceTreeError> {
    let Some(node) = tree.find_compatible(&["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]) else {
        return Ok(None);
    };
    if !node.is_compatible(&["arm,psci-1.0", "arm,psci-0.2"]) {
        notes.add(Note::OldPsci);
        return Ok(None);
    }
    let conduit = match node.checked_text("method")? {
        Some("hvc") => Conduit::Hvc,
        Some("smc") => Conduit::Smc,
        Some(other) => {
            return Err(DeviceTreeError::BadValue {
                node: node.path(),
                property: "method",
                value: Quoted::from_line(other),
                allowed: "hvc or smc",
            });
        }
        None => {
            return Err(node.missing("method"));
        }
    };
    Ok(Some(conduit))
}
