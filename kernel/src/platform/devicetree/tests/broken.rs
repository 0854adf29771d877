// SPDX-License-Identifier: MIT OR Apache-2.0
//! The errors for wrong trees: each names the place, the value and the remedy.

use std::time::{Duration, Instant};

use super::super::*;
use super::source::{Source, cells, pi4, texts, virt};

fn refused(blob: &[u8]) -> DeviceTreeError {
    match DeviceTree::new(blob).and_then(|tree| tree.describe()) {
        Ok(machine) => panic!("accepted: {machine:?}"),
        Err(error) => error,
    }
}

/// Changes virt and expects a message with all of `parts`.
#[track_caller]
fn refused_after(change: impl FnOnce(&mut Source), parts: &[&str]) -> DeviceTreeError {
    let mut source = virt();
    change(&mut source);
    let error = refused(&source.blob());
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert!(
        message.contains(": ") && !message.contains("  "),
        "{message}"
    );
    error
}

/// The blob of virt with one field of its header replaced.
fn with_header(index: usize, value: u32) -> Vec<u8> {
    let mut blob = virt().blob();
    blob[index * 4..][..4].copy_from_slice(&value.to_be_bytes());
    blob
}

#[test]
fn no_blob_at_all() {
    assert_eq!(refused(&[]), DeviceTreeError::Missing);
    assert!(DeviceTreeError::Missing.to_string().contains("-dtb"));
}

#[test]
fn a_blob_of_something_else() {
    assert_eq!(
        refused(&with_header(0, 0x5441_0001)),
        DeviceTreeError::BadMagic { found: 0x5441_0001 }
    );
    assert_eq!(refused(&[0; 4]), DeviceTreeError::BadMagic { found: 0 });
}

#[test]
fn a_blob_cut_off_anywhere() {
    let blob = virt().blob();
    for length in 1..blob.len() {
        let needed = if length < 40 { 40 } else { blob.len() };
        assert_eq!(
            refused(&blob[..length]),
            DeviceTreeError::Truncated {
                needed,
                available: length
            }
        );
    }
}

#[test]
fn a_total_size_that_lies() {
    let length = virt().blob().len();
    assert_eq!(
        refused(&with_header(1, u32::MAX)),
        DeviceTreeError::Truncated {
            needed: u32::MAX as usize,
            available: length
        }
    );
    let field = |error| match error {
        DeviceTreeError::BadHeader { field, .. } => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(refused(&with_header(1, 39))), "totalsize");
    // Smaller than the blocks it must hold.
    assert_eq!(field(refused(&with_header(1, 64))), "off_dt_struct");
}

#[test]
fn blocks_outside_the_blob() {
    for (index, name) in [
        (2, "off_dt_struct"),
        (3, "off_dt_strings"),
        (4, "off_mem_rsvmap"),
    ] {
        for value in [0, 39, virt().blob().len() as u32 + 4, !7] {
            let DeviceTreeError::BadHeader {
                field,
                value: found,
                ..
            } = refused(&with_header(index, value))
            else {
                panic!("{name} = {value:#x}");
            };
            assert_eq!((field, found), (name, value));
        }
    }
    for (index, name) in [(9, "off_dt_struct"), (8, "off_dt_strings")] {
        let error = refused(&with_header(index, u32::MAX));
        assert!(matches!(error, DeviceTreeError::BadHeader { field, .. } if field == name));
    }
}

#[test]
fn a_version_nobody_writes() {
    let error = refused(&with_header(5, 1));
    assert!(
        error.to_string().contains("version 1 is not supported"),
        "{error}"
    );
}

#[test]
fn strings_without_an_end() {
    let mut blob = virt().blob();
    let last = blob.len() - 1;
    assert_eq!(blob[last], 0);
    blob[last] = b'x';
    let error = refused(&blob);
    assert!(
        matches!(error, DeviceTreeError::BadStructure { .. }),
        "{error:?}"
    );
    assert!(error.to_string().contains("offset"), "{error}");
}

/// Names may share their ends, so each of them can be as long as the strings block. If the reader
/// read each to its end, 20 000 names would take minutes.
#[test]
fn many_properties_with_one_long_name() {
    let mut source = virt();
    source.set(&"x".repeat(256 << 10), vec![]);
    for number in 0..20_000 {
        source.properties.push((number.to_string(), vec![]));
    }
    let mut blob = source.blob();
    let at = |index: usize| u32::from_be_bytes(*blob[4 * index..].first_chunk().unwrap()) as usize;
    let (start, size) = (at(2), at(9));
    let strings = &blob[at(3)..];
    let long = strings.iter().position(|byte| *byte == b'x').unwrap() as u32;
    for word in blob[start..start + size].chunks_exact_mut(4) {
        // The names of numbers lie after it.
        let name = u32::from_be_bytes(word.try_into().unwrap());
        if name > long + (256 << 10) && name < 1 << 24 {
            word.copy_from_slice(&long.to_be_bytes());
        }
    }
    let begin = Instant::now();
    // The long name also covers the names after it, for example /cpus.
    let _ = DeviceTree::new(&blob).unwrap().describe();
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn structure_tokens_that_do_not_match() {
    let blob = virt().blob();
    let start = u32::from_be_bytes(blob[8..12].try_into().unwrap()) as usize;
    let size = u32::from_be_bytes(blob[36..40].try_into().unwrap()) as usize;
    // The begin token of the root, and the last two tokens.
    for at in [start, start + size - 4, start + size - 8] {
        let mut broken = blob.clone();
        broken[at + 3] = 7;
        let error = refused(&broken);
        assert!(
            matches!(error, DeviceTreeError::BadStructure { .. }),
            "{at}: {error:?}"
        );
    }
}

#[test]
fn nodes_nested_without_end() {
    let nested = |levels: usize| {
        let innermost = Source::new("n");
        let chain = (0..levels - 1).fold(innermost, |inner, _| Source::new("n").child(inner));
        virt().child(chain).blob()
    };
    // The root is one of the levels, and Linux has the same limit.
    assert_eq!(flat::MAX_DEPTH, 64);
    let deep = nested(flat::MAX_DEPTH - 1);
    assert!(DeviceTree::new(&deep).unwrap().describe().is_ok());
    let limit = flat::MAX_DEPTH;
    assert_eq!(
        refused(&nested(flat::MAX_DEPTH)),
        DeviceTreeError::TooDeep { limit }
    );
    assert_eq!(refused(&nested(5000)), DeviceTreeError::TooDeep { limit });
}

#[test]
fn cells_missing_or_senseless() {
    refused_after(
        |root| root.remove("#address-cells"),
        &["node / ", "#address-cells"],
    );
    refused_after(
        |root| root.remove("#size-cells"),
        &["node / ", "#size-cells"],
    );
    for value in [0, 3, u32::MAX] {
        let number = value.to_string();
        for name in ["#address-cells", "#size-cells"] {
            let error = refused_after(|root| root.set(name, cells(&[value])), &[name, &number]);
            assert!(matches!(error, DeviceTreeError::BadValue { .. }));
        }
    }
    refused_after(
        |root| root.set("#size-cells", vec![0, 2]),
        &["#size-cells is 2 bytes long", "multiple of 4"],
    );
    let soc = |root: &mut Source, cells: Vec<u8>| {
        let uart = root.children.remove(2);
        let soc = Source::new("soc")
            .bytes("#size-cells", cells)
            .bytes("ranges", vec![]);
        root.children.push(soc.child(uart));
        root.at("chosen")
            .set("stdout-path", texts(&["/soc/pl011@9000000"]));
    };
    refused_after(
        |root| soc(root, cells(&[0])),
        &["node /soc: ", "#size-cells is 0", "1 or 2"],
    );
}

#[test]
fn memory_missing_or_senseless() {
    let memory = "memory@40000000";
    let error = refused_after(|root| root.drop_child(memory), &["/memory", ".dtb"]);
    assert_eq!(error, DeviceTreeError::NoMemory);
    let error = refused_after(
        |root| root.at(memory).set("reg", cells(&[0, 0x4000_0000, 0, 0])),
        &[],
    );
    assert_eq!(error, DeviceTreeError::NoMemory);
    let error = refused_after(
        |root| root.at(memory).set("status", texts(&["disabled"])),
        &[],
    );
    assert_eq!(error, DeviceTreeError::NoMemory);
    refused_after(
        |root| root.at(memory).remove("device_type"),
        &["states no memory", "device_type \"memory\""],
    );
    refused_after(
        |root| root.at(memory).remove("reg"),
        &["/memory@40000000", "has no reg"],
    );
    refused_after(
        |root| root.at(memory).set("linux,usable-memory", cells(&[1])),
        &["/memory@40000000: linux,usable-memory is 4 bytes"],
    );
    for length in [0, 4, 15, 17, 24] {
        refused_after(
            |root| root.at(memory).set("reg", vec![1; length]),
            &[
                "/memory@40000000",
                &format!("reg is {length} bytes"),
                "multiple of 16",
            ],
        );
    }
}

#[test]
fn more_banks_than_fit() {
    let banks = |count: u32| -> Vec<u32> {
        (1..=count)
            .flat_map(|bank| [bank, 0, 0, 0x1000_0000])
            .collect()
    };
    let mut source = virt();
    source
        .at("memory@40000000")
        .set("reg", cells(&banks(MAX_BANKS as u32)));
    assert!(DeviceTree::new(&source.blob()).unwrap().describe().is_ok());
    refused_after(
        |root| {
            root.at("memory@40000000")
                .set("reg", cells(&banks(MAX_BANKS as u32 + 1)))
        },
        &["more than 16 separate memory banks"],
    );
}

#[test]
fn reservations_senseless_or_too_many() {
    let reserved = |reg: Vec<u8>| {
        Source::new("reserved-memory")
            .cells("#address-cells", &[2])
            .cells("#size-cells", &[2])
            .child(Source::new("firmware@1").bytes("reg", reg))
    };
    refused_after(
        |root| root.children.push(reserved(cells(&[0, 0x5000_0000, 0]))),
        &["/reserved-memory/firmware@1", "12 bytes"],
    );
    let many: Vec<_> = (1..=MAX_RESERVATIONS as u64 + 1)
        .map(|n| (n << 20, 0x1000))
        .collect();
    assert!(
        DeviceTree::new(&virt().blob_with_reservations(&many[1..]))
            .unwrap()
            .describe()
            .is_ok()
    );
    let error = refused(&virt().blob_with_reservations(&many));
    assert!(matches!(
        error,
        DeviceTreeError::TooMany {
            limit: MAX_RESERVATIONS,
            ..
        }
    ));
}

#[test]
fn a_reservation_block_without_end() {
    let mut blob = virt().blob_with_reservations(&[(0x1000, 0x1000)]);
    let end = blob.len() as u32 & !15;
    for at in [end - 16, end] {
        // From `at` to the end of the blob no entry consists of zeros.
        blob[16..20].copy_from_slice(&at.to_be_bytes());
        let message = refused(&blob).to_string();
        assert!(
            message.contains("off_mem_rsvmap") && message.contains("have no end"),
            "{message}"
        );
    }
}

#[test]
fn a_console_that_cannot_be_reached() {
    let uart = "soc/serial@7e201000";
    let refused_pi = |change: &dyn Fn(&mut Source)| {
        let mut source = pi4();
        change(&mut source);
        refused(&source.blob()).to_string()
    };
    let message = refused_pi(&|root| root.at(uart).set("reg", cells(&[0x1000_0000, 0x200])));
    assert!(
        message.contains("/soc/serial@7e201000: address 0x10000000"),
        "{message}"
    );
    // The last bytes lie beyond the range of the bus.
    let message = refused_pi(&|root| root.at(uart).set("reg", cells(&[0x7f7f_ff00, 0x200])));
    assert!(
        message.contains("not in the ranges of its bus /soc"),
        "{message}"
    );
    let message = refused_pi(&|root| root.at("soc").remove("ranges"));
    assert!(
        message.contains("not in the ranges of its bus /soc"),
        "{message}"
    );
    let message = refused_pi(&|root| root.at("soc").set("ranges", vec![0; 15]));
    assert!(
        message.contains("node /soc: ranges is 15 bytes"),
        "{message}"
    );
    let message = refused_pi(&|root| root.at("soc").set("#address-cells", cells(&[3])));
    assert!(
        message.contains("node /soc: #address-cells is 3"),
        "{message}"
    );
    let overflow = cells(&[0x4000_0000, u32::MAX, u32::MAX, 0x0080_0000]);
    let message = refused_pi(&|root| root.at("soc").set("ranges", overflow.clone()));
    assert!(message.contains("not in the ranges"), "{message}");
    let message = refused_pi(&|root| root.at(uart).set("reg", cells(&[0x7e20_1000, 0])));
    assert!(
        message.contains("0x0 bytes from 0x7e201000 are empty"),
        "{message}"
    );
}

#[test]
fn an_interrupt_controller_nobody_knows() {
    let gic = "intc@8000000";
    let error = refused_after(
        |root| root.at(gic).set("compatible", texts(&["arm,gic-v5"])),
        &["is arm,gic-v5", "--gic"],
    );
    assert!(matches!(
        error,
        DeviceTreeError::NoInterruptController { .. }
    ));
    refused_after(
        |root| root.drop_child(gic),
        &["no interrupt controller", "--gic"],
    );
    refused_after(
        |root| {
            root.at(gic)
                .set("reg", cells(&[0, 0x800_0000, 0, 0x1_0000]))
        },
        &["/intc@8000000: reg is without entry 1"],
    );
    let v3 = |root: &mut Source, regions: u32| {
        root.at(gic).set("compatible", texts(&["arm,gic-v3"]));
        root.at(gic)
            .set("#redistributor-regions", cells(&[regions]));
    };
    for regions in [0, 9, u32::MAX] {
        refused_after(
            |root| v3(root, regions),
            &[&format!("#redistributor-regions is {regions}"), "1 to 8"],
        );
    }
    refused_after(|root| v3(root, 2), &["reg is without entry 2"]);
    refused_after(
        |root| {
            v3(root, 1);
            root.at(gic).set("redistributor-stride", vec![0; 3]);
        },
        &["redistributor-stride is 3 bytes"],
    );
    for stride in [0x1_0000, 0x2_8000] {
        refused_after(
            |root| {
                v3(root, 1);
                root.at(gic)
                    .set("redistributor-stride", cells(&[0, stride]));
            },
            &[
                &format!("redistributor-stride is {stride:#x}"),
                "0x20000 or more",
            ],
        );
    }
}

#[test]
fn timer_interrupts_that_are_not_private() {
    refused_after(
        |root| {
            root.at("timer")
                .set("interrupts", cells(&[1, 13, 4, 1, 14, 4, 0, 11, 4]))
        },
        &["/timer: interrupts is <0 11>", "<1 0> to <1 15>"],
    );
    refused_after(
        |root| {
            root.at("timer")
                .set("interrupts", cells(&[1, 13, 4, 1, 14, 4, 1, 16, 4]))
        },
        &["<1 16>"],
    );
    refused_after(
        |root| root.at("timer").set("interrupts", cells(&[1, 13, 4, 1])),
        &["interrupts is 16 bytes", "multiple of 12"],
    );
    refused_after(
        |root| root.at("timer").remove("interrupts"),
        &["/timer has no interrupts"],
    );
    let extended = |root: &mut Source, values: &[u32]| {
        root.at("timer").set("interrupts-extended", cells(values));
    };
    refused_after(
        |root| extended(root, &[1, 1, 13, 4, 9, 1, 14, 4]),
        &["/timer: interrupts-extended is <0x9 ...>", "phandle"],
    );
    refused_after(
        |root| extended(root, &[1, 1, 13, 4, 1, 1]),
        &["/timer: interrupts-extended is 4 bytes", "multiple of 12"],
    );
    refused_after(
        |root| extended(root, &[1, 1, 13, 4, 1, 0, 14, 4]),
        &["/timer: interrupts-extended is <0 14>", "<1 0> to <1 15>"],
    );
    let combiner = |root: &mut Source| {
        let node = Source::new("combiner").cells("phandle", &[7]);
        root.children.push(node.cells("#interrupt-cells", &[2]));
    };
    refused_after(
        |root| {
            combiner(root);
            extended(root, &[1, 1, 13, 4, 7, 0, 14]);
        },
        &["/timer: interrupts-extended is for /combiner", "of the GIC"],
    );
    refused_after(
        |root| {
            combiner(root);
            root.at("timer").set("interrupt-parent", cells(&[7]));
        },
        &["/timer: interrupts is for /combiner", "of the GIC"],
    );
    refused_after(
        |root| {
            combiner(root);
            root.at("combiner").set("#interrupt-cells", cells(&[0]));
            root.at("timer").set("interrupt-parent", cells(&[7]));
        },
        &["/combiner: #interrupt-cells is 0", "1 to 16"],
    );
    refused_after(
        |root| {
            root.at("intc@8000000")
                .set("#interrupt-cells", cells(&[u32::MAX]))
        },
        &["#interrupt-cells is 4294967295", "3 or 4"],
    );
}

/// Changes virt and expects one note with all of `parts`. Returns the affinities of the remaining
/// CPUs and their methods of start.
#[track_caller]
fn noted_after(change: impl FnOnce(&mut Source), parts: &[&str]) -> Vec<(u64, EnableMethod)> {
    let mut source = virt();
    change(&mut source);
    let machine = DeviceTree::new(&source.blob()).unwrap().describe().unwrap();
    let [note] = machine.notes[..] else {
        panic!("{:?}", machine.notes);
    };
    let note = note.to_string();
    for part in parts
        .iter()
        .chain(&["a CPU is not started: device tree node"])
    {
        assert!(note.contains(part), "{part:?} is not in {note:?}");
    }
    let cpus = machine.cpus.iter();
    cpus.map(|cpu| (cpu.mpidr, cpu.enable_method)).collect()
}

#[test]
fn cpus_that_cannot_be_told_apart_or_started() {
    let first = vec![(0, EnableMethod::Psci)];
    let cpus = noted_after(
        |root| root.at("cpus/cpu@1").set("reg", cells(&[0])),
        &["/cpus/cpu@1: CPU 0x0 is there twice"],
    );
    assert_eq!(cpus, first);
    let cpus = noted_after(
        |root| root.at("cpus/cpu@1").set("reg", cells(&[0x8000_0001])),
        &["reg is 0x80000001", "MPIDR_EL1"],
    );
    assert_eq!(cpus, first);
    let cpus = noted_after(
        |root| root.at("cpus/cpu@1").remove("reg"),
        &["/cpus/cpu@1 has no reg"],
    );
    assert_eq!(cpus, first);
    let spin = |root: &mut Source, address: Option<Vec<u8>>| {
        let cpu = root.at("cpus/cpu@1");
        cpu.set("enable-method", texts(&["spin-table"]));
        if let Some(address) = address {
            cpu.set("cpu-release-addr", address);
        }
    };
    let cpus = noted_after(
        |root| spin(root, None),
        &["/cpus/cpu@1 has no cpu-release-addr"],
    );
    assert_eq!(cpus, first);
    let cpus = noted_after(
        |root| spin(root, Some(vec![0; 6])),
        &["cpu-release-addr is 6 bytes"],
    );
    assert_eq!(cpus, first);
    let cpus = noted_after(
        |root| spin(root, Some(cells(&[0xdc]))),
        &["cpu-release-addr is 0xdc", "a multiple of 8"],
    );
    assert_eq!(cpus, first);
}

#[test]
fn the_end_of_a_long_path_is_what_a_message_names() {
    let named = |levels: usize, last: &str| {
        let uart = virt().at("pl011@9040000").clone().bytes("reg", vec![1]);
        let renamed = Source {
            name: last.into(),
            ..uart
        };
        let bus = |inner, _| Source::new("a-bus@1").bytes("ranges", vec![]).child(inner);
        let mut root = virt().child((0..levels).fold(renamed, bus));
        let path = "/a-bus@1".repeat(levels) + "/" + last;
        root.at("chosen").set("stdout-path", texts(&[&path]));
        (refused(&root.blob()).to_string(), path)
    };
    // 77 bytes fit, with a mark before them.
    let (message, path) = named(9, "uart");
    assert_eq!(path.len(), 77);
    assert!(
        message.starts_with(&format!("device tree node {path}: reg")),
        "{message}"
    );
    let (message, path) = named(9, "uart1");
    assert!(
        message.starts_with(&format!("device tree node ...{}: reg", &path[8..])),
        "{message}"
    );
    let (message, _) = named(40, "uart1");
    assert!(
        message.starts_with("device tree node .../a-bus@1"),
        "{message}"
    );
    assert!(
        message.contains("/a-bus@1/uart1: reg is 1 bytes"),
        "{message}"
    );
    let long = "u".repeat(100);
    let (message, _) = named(2, &long);
    assert!(
        message.contains(&format!(".../{}...: reg is 1 bytes", &long[..76])),
        "{message}"
    );
}

#[test]
fn cpus_whose_parent_has_no_sense() {
    let mut source = virt();
    source.at("cpus").set("#address-cells", cells(&[0]));
    let machine = DeviceTree::new(&source.blob()).unwrap().describe().unwrap();
    assert!(machine.cpus.is_empty());
    let notes: Vec<_> = machine.notes.iter().map(Note::to_string).collect();
    assert!(
        notes[0].contains("node /cpus: #address-cells is 0"),
        "{notes:?}"
    );
    assert_eq!(machine.notes.last(), Some(&Note::NoCpus));
}

#[test]
fn psci_with_an_unknown_conduit() {
    refused_after(
        |root| root.at("psci").set("method", texts(&["svc"])),
        &["/psci: method is svc", "hvc or smc"],
    );
    refused_after(
        |root| root.at("psci").remove("method"),
        &["/psci has no method"],
    );
    refused_after(
        |root| root.at("psci").set("method", b"hvc".to_vec()),
        &["/psci: method is no NUL-terminated"],
    );
}

#[test]
fn chosen_with_bad_text() {
    refused_after(
        |root| root.at("chosen").set("bootargs", vec![b'a', 0xff, 0]),
        &["/chosen: bootargs is no NUL-terminated UTF-8 string"],
    );
    refused_after(
        |root| root.at("chosen").set("stdout-path", b"serial0".to_vec()),
        &["/chosen: stdout-path is no"],
    );
    refused_after(
        |root| root.at("chosen").set("linux,initrd-start", vec![0; 6]),
        &["/chosen: linux,initrd-start is 6 bytes"],
    );
    refused_after(
        |root| root.at("chosen").set("linux,elfcorehdr", vec![0; 8]),
        &["/chosen: linux,elfcorehdr is 8 bytes", "multiple of 16"],
    );
    refused_after(
        |root| {
            root.at("chosen")
                .set("bootargs", texts(&[&"x".repeat(1025)]))
        },
        &["bootargs is 1025 bytes long, the kernel keeps 1024"],
    );
}
