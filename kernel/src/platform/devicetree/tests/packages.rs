// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests with whole folders of device trees, for example those in a package of Linux.
//!
//! With `LAZYMMU_TREES=DIRECTORY` every `.dtb` file below the directory is read, part by part, so
//! that an error in one part does not hide another. The test prints each refusal, and a table with
//! the number of trees of each kind. It fails if there is a refusal that [`is_true`] does not
//! confirm by the bytes of the tree. Without the variable it does nothing, because the trees are
//! not part of the sources.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{env, fs};

use super::super::place::Place;
use super::super::*;
use crate::platform::memory_map::{AddressLimits, BootMemory, MemoryMap, MemoryMapError};
use crate::platform::phys_range::PhysRange;

#[test]
fn every_tree_of_a_package_is_read_or_refused_with_a_true_reason() {
    let Some(directory) = env::var_os("LAZYMMU_TREES") else {
        return;
    };
    let mut files = Vec::new();
    find_trees(Path::new(&directory), &mut files);
    assert!(!files.is_empty(), "no .dtb below {}", directory.display());
    files.sort();
    let mut table = BTreeMap::<String, usize>::new();
    let mut untrue = Vec::new();
    for path in &files {
        let blob = fs::read(path).unwrap();
        let name = path.strip_prefix(&directory).unwrap_or(path).display();
        let judged = judge(&blob);
        let kind = match (judged.errors.first(), judged.map) {
            (None, None) => "read".to_owned(),
            (None, Some(_)) => "refused: devices in memory".to_owned(),
            (Some(error), _) => format!("refused: {}", kind(error)),
        };
        for kind in judged.traits.iter().chain([&kind]) {
            *table.entry(kind.clone()).or_default() += 1;
        }
        if let Some(error) = judged.map {
            println!("{name}: {error}");
            // The message names the range and the bank that were compared.
            if !matches!(error, MemoryMapError::DeviceInMemory { registers, bank, .. } if bank.overlaps(registers))
            {
                untrue.push(format!("{name}: {error}"));
            }
        }
        for error in &judged.errors {
            println!("{name}: {error}");
            if !is_true(error, &blob) {
                untrue.push(format!("{name}: {error}"));
            }
        }
    }
    println!("{} trees", files.len());
    for (kind, count) in &table {
        println!("{count:6} {kind}");
    }
    assert!(untrue.is_empty(), "not true:\n{}", untrue.join("\n"));
}

fn find_trees(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            find_trees(&path, files);
        } else if path.extension() == Some(OsStr::new("dtb")) {
            files.push(path);
        }
    }
}

/// The result for a tree.
#[derive(Default)]
struct Judged {
    /// Its errors, part by part.
    errors: Vec<DeviceTreeError>,
    /// Why a kernel cannot run in its memory, at any address.
    map: Option<MemoryMapError>,
    /// The parts of its description, and the kinds of its notes.
    traits: Vec<String>,
}

fn judge(blob: &[u8]) -> Judged {
    let mut judged = Judged::default();
    let tree = match Tree::new(blob) {
        Ok(tree) => tree,
        Err(error) => {
            judged.errors.push(error);
            return judged;
        }
    };
    let mut notes = Notes::default();
    fn part<T>(result: Result<T, DeviceTreeError>, errors: &mut Vec<DeviceTreeError>) -> Option<T> {
        result.map_err(|error| errors.push(error)).ok()
    }
    let errors = &mut judged.errors;
    let traits = &mut judged.traits;
    part(memory::banks(tree, &mut notes), errors);
    part(memory::reservations(tree, &mut notes), errors);
    if let Some(console) = part(devices::console(tree, &mut notes), errors) {
        let source = console.map(|console| console.source);
        traits.push(format!("console: {source:?}"));
    }
    if let Some((controller, gic)) = part(devices::interrupt_controller(tree), errors) {
        traits.push(match &controller {
            InterruptController::GicV2 { .. } => "GICv2".to_owned(),
            InterruptController::GicV3 {
                redistributors,
                stride,
                ..
            } => format!(
                "GICv3, {} regions, stride {stride:x?}",
                redistributors.len()
            ),
        });
        if let Some(timer) = part(devices::timer(tree, &gic, &mut notes), errors) {
            traits.push(format!("virtual timer: {:?}", timer.virtual_timer));
        }
    }
    let cpus = cpus::cpus(tree, &mut notes);
    traits.push(format!("CPUs: {}", cpus.len()));
    part(cpus::psci(tree, &mut notes), errors);
    part(boot_arguments(tree), errors);
    for note in &notes.0 {
        let text = format!("{note:?}");
        let name = text.split([' ', '(', '{']).next().unwrap_or_default();
        traits.push(format!("note {name}"));
    }
    traits.sort();
    traits.dedup();
    match (DeviceTree { tree }.describe(), errors.first()) {
        (Ok(machine), None) => judged.map = memory_map(&machine).err(),
        (Err(_), Some(_)) => {}
        (whole, _) => panic!("the parts say {errors:?}, the whole {whole:?}"),
    }
    judged
}

/// Looks for a place where the kernel could run in this machine's memory.
fn memory_map(machine: &MachineDescription) -> Result<MemoryMap, MemoryMapError> {
    const BLOCK: u64 = 2 << 20;
    let limits = AddressLimits {
        physical_bits: 48,
        linear_map: 64 << 40,
    };
    let places = machine.memory.iter().flat_map(|bank| {
        let start = bank.start().next_multiple_of(BLOCK);
        (0..64).map(move |block| start + block * BLOCK + 0x8_0000)
    });
    let images = places.filter_map(|start| PhysRange::new(start, 0x10_0000));
    let maps = images.map(|image| {
        let device_tree = None;
        MemoryMap::new(machine, &BootMemory { image, device_tree }, limits)
    });
    let mut maps = maps.peekable();
    let first = maps.peek().unwrap().clone();
    maps.find(Result::is_ok).unwrap_or(first)
}

/// The error without the values that differ from tree to tree.
fn kind(error: &DeviceTreeError) -> String {
    match error {
        DeviceTreeError::NoMemory => "no memory is stated".to_owned(),
        DeviceTreeError::NoInterruptController { found } => {
            format!("the interrupt controller is {found}")
        }
        other => other.to_string(),
    }
}

/// Whether the bytes of the tree confirm one of the errors that a right tree may cause. All other
/// errors are mistakes of the tree or of the kernel.
fn is_true(error: &DeviceTreeError, blob: &[u8]) -> bool {
    let has = |text: &[u8]| blob.windows(text.len()).any(|bytes| bytes == text);
    match error {
        // Firmware must fill in the sizes.
        DeviceTreeError::NoMemory => {
            let tree = Tree::new(blob).unwrap();
            let cells = |name: &'static str| tree.root().u32(name).unwrap().unwrap() as usize;
            let (address, size) = (cells("#address-cells"), cells("#size-cells"));
            let memory = |node: &Place<'_>| node.property("device_type") == Some(b"memory\0");
            tree.root().children().filter(memory).all(|node| {
                let entries = node
                    .property("reg")
                    .unwrap()
                    .chunks_exact(4 * (address + size));
                entries
                    .into_iter()
                    .all(|entry| entry[4 * address..].iter().all(|byte| *byte == 0))
            })
        }
        DeviceTreeError::NoInterruptController { .. } => {
            let known = [
                &b"arm,gic-400\0"[..],
                b"arm,cortex-a15-gic\0",
                b"arm,cortex-a7-gic\0",
                b"arm,gic-v3\0",
                b"qcom,msm-qgic2\0",
            ];
            !known.iter().any(|name| has(name))
        }
        _ => false,
    }
}
