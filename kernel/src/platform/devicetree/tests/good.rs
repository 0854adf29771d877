// SPDX-License-Identifier: MIT OR Apache-2.0
//! The descriptions of right trees.

use super::super::*;
use super::source::{Source, cells, pi4, texts, virt};
use crate::machine::MAX_CPUS;
use crate::platform::phys_range::PhysRange;

const QEMU_GICV3: &[u8] = include_bytes!("../../../../tests/data/qemu-virt-gicv3-8g-smp4.dtb");
const QEMU_SECURE: &[u8] =
    include_bytes!("../../../../tests/data/qemu-virt-gicv2-secure-128m-smp2.dtb");

fn describe(blob: &[u8]) -> MachineDescription {
    let tree = DeviceTree::new(blob).unwrap_or_else(|error| panic!("{error}"));
    tree.describe().unwrap_or_else(|error| panic!("{error}"))
}

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(start, size).unwrap()
}

#[test]
fn reads_what_qemu_writes() {
    let machine = describe(QEMU_GICV3);
    assert_eq!(machine.model.as_str(), "linux,dummy-virt");
    assert_eq!(machine.memory[..], [range(0x4000_0000, 8 << 30)]);
    assert_eq!(
        machine.console,
        Some(Console {
            registers: range(0x900_0000, 0x1000),
            source: ConsoleSource::StdoutPath
        })
    );
    let InterruptController::GicV3 {
        distributor,
        redistributors,
        stride,
    } = &machine.interrupt_controller
    else {
        panic!("{:?}", machine.interrupt_controller);
    };
    assert_eq!(*distributor, range(0x800_0000, 0x1_0000));
    assert_eq!(redistributors[..], [range(0x80a_0000, 0xf6_0000)]);
    assert_eq!(*stride, None);
    let ids: Vec<_> = machine.cpus.iter().map(|cpu| cpu.mpidr).collect();
    assert_eq!(ids, [0, 1, 2, 3]);
    assert!(
        machine
            .cpus
            .iter()
            .all(|cpu| cpu.enable_method == EnableMethod::Psci)
    );
    assert_eq!(machine.psci, Some(Conduit::Hvc));
    assert_eq!(machine.timer.virtual_timer, Some(27));
    assert_eq!(machine.boot_arguments.as_str(), "");
    assert!(
        machine.reservations.is_empty() && machine.notes.is_empty(),
        "{machine:?}"
    );
}

#[test]
fn leaves_the_secure_world_its_own() {
    let machine = describe(QEMU_SECURE);
    assert_eq!(machine.memory[..], [range(0x4000_0000, 128 << 20)]);
    assert_eq!(
        machine.console.unwrap().registers,
        range(0x900_0000, 0x1000)
    );
    assert_eq!(machine.psci, None);
    assert_eq!(
        machine.interrupt_controller,
        InterruptController::GicV2 {
            distributor: range(0x800_0000, 0x1_0000),
            cpu_interface: range(0x801_0000, 0x1_0000),
        }
    );
    // Without /chosen, the first UART belongs to the secure world, so it is not used.
    let mut source = virt();
    source.drop_child("chosen");
    source
        .at("pl011@9000000")
        .set("status", texts(&["disabled"]));
    let console = describe(&source.blob()).console.unwrap();
    assert_eq!(console.registers, range(0x904_0000, 0x1000));
}

#[test]
fn reads_a_pi_4_behind_its_bus() {
    let machine = describe(&pi4().blob_with_reservations(&[(0, 0x1000)]));
    assert_eq!(
        machine.memory[..],
        [range(0, 0x3b40_0000), range(0x4000_0000, 0xbc00_0000)]
    );
    assert_eq!(
        machine.console.unwrap().registers,
        range(0xfe20_1000, 0x200)
    );
    assert_eq!(
        machine.interrupt_controller,
        InterruptController::GicV2 {
            distributor: range(0xff84_1000, 0x1000),
            cpu_interface: range(0xff84_2000, 0x2000),
        }
    );
    assert_eq!(
        machine.reservations[..],
        [
            Reservation {
                range: range(0, 0x1000),
                mapping: Mapping::Allowed
            },
            Reservation {
                range: range(0x3ef6_4c70, 0x20),
                mapping: Mapping::Forbidden
            },
        ]
    );
    let methods: Vec<_> = machine.cpus.iter().map(|cpu| cpu.enable_method).collect();
    let slots = [0xd8, 0xe0, 0xe8, 0xf0];
    assert_eq!(
        methods,
        slots.map(|release_address| EnableMethod::SpinTable { release_address })
    );
    assert_eq!(machine.psci, None);
    assert_eq!(machine.compatible.as_str(), "raspberrypi,4-model-b");
    let [Note::ReservationWithoutAddress { node }] = machine.notes[..] else {
        panic!("{:?}", machine.notes);
    };
    assert_eq!(node.as_str(), "/reserved-memory/linux,cma");
}

#[test]
fn the_console_follows_aliases_and_paths() {
    let at = |path: &str| {
        let mut source = virt();
        source.at("chosen").set("stdout-path", texts(&[path]));
        describe(&source.blob())
    };
    let second = range(0x904_0000, 0x1000);
    for path in [
        "serial0",
        "serial0:115200n8",
        "/pl011@9040000",
        "/pl011@9040000:9600",
    ] {
        let machine = at(path);
        assert_eq!(machine.console.unwrap().registers, second, "{path}");
        assert_eq!(machine.console.unwrap().source, ConsoleSource::StdoutPath);
        assert!(machine.notes.is_empty());
    }
    for path in [
        "serial7",
        "/nowhere",
        "/timer",
        ":115200",
        "serial0/uart",
        "/cpus/cpu",
    ] {
        let machine = at(path);
        assert_eq!(
            machine.console,
            Some(Console {
                registers: range(0x900_0000, 0x1000),
                source: ConsoleSource::FirstUart
            }),
            "{path}"
        );
        assert!(
            matches!(machine.notes[..], [Note::StdoutPathUnusable { .. }]),
            "{path}"
        );
    }
}

#[test]
fn without_stdout_path_the_first_enabled_uart_is_taken() {
    let mut source = virt();
    source.at("chosen").remove("stdout-path");
    source.at("pl011@9000000").set("status", texts(&["ok"]));
    let machine = describe(&source.blob());
    assert_eq!(
        machine.console.unwrap().registers,
        range(0x900_0000, 0x1000)
    );
    assert_eq!(machine.notes[..], [Note::NoStdoutPath]);
    source.drop_child("pl011@9000000");
    source.drop_child("pl011@9040000");
    let machine = describe(&source.blob());
    assert_eq!(machine.console, None);
    assert_eq!(machine.notes[..], [Note::NoStdoutPath, Note::NoConsole]);
}

#[test]
fn the_console_is_found_although_the_rest_is_wrong() {
    let mut source = virt();
    source.drop_child("memory@40000000");
    source.drop_child("intc@8000000");
    let blob = source.blob();
    let tree = DeviceTree::new(&blob).unwrap();
    assert_eq!(tree.describe().unwrap_err(), DeviceTreeError::NoMemory);
    let console = tree.console().unwrap().unwrap();
    assert_eq!(console.registers, range(0x904_0000, 0x1000));
}

#[test]
fn banks_are_sorted_joined_and_counted() {
    let mut source = virt();
    let reg = [
        [0, 0x9000_0000, 0, 0x1000_0000],
        [0, 0x6000_0000, 0, 0],
        [0, 0x4800_0000, 0, 0x800_0000],
        [8, 0, 1, 0],
    ];
    source
        .at("memory@40000000")
        .set("reg", cells(&reg.concat()));
    source.children.push(
        Source::new("memory@40000000x")
            .text("device_type", "memory")
            .cells("reg", &[0, 0x4000_0000, 0, 0x800_0000]),
    );
    let machine = describe(&source.blob());
    assert_eq!(
        machine.memory[..],
        [
            range(0x4000_0000, 0x1000_0000),
            range(0x9000_0000, 0x1000_0000),
            range(0x8_0000_0000, 0x1_0000_0000),
        ]
    );
    assert!(machine.notes.is_empty());
}

#[test]
fn overlapping_banks_are_joined_with_a_note() {
    let mut source = virt();
    let reg = [
        [0, 0x4000_0000, 0, 0x800_0000],
        [0, 0x5000_0000, 0, 0x800_0000],
        [0, 0x47ff_f000, 0, 0x900_0000],
    ];
    source
        .at("memory@40000000")
        .set("reg", cells(&reg.concat()));
    let machine = describe(&source.blob());
    assert_eq!(machine.memory[..], [range(0x4000_0000, 0x1800_0000)]);
    assert_eq!(
        machine.notes[..],
        [
            Note::OverlappingMemory { at: 0x47ff_f000 },
            Note::OverlappingMemory { at: 0x5000_0000 },
        ]
    );
}

#[test]
fn cells_of_one_and_two_are_read() {
    let mut source = virt();
    source.set("#size-cells", cells(&[1]));
    source
        .at("memory@40000000")
        .set("reg", cells(&[1, 0x4000_0000, 0xffff_f000]));
    for uart in ["pl011@9000000", "pl011@9040000"] {
        source.at(uart).set("reg", cells(&[0, 0x900_0000, 0x1000]));
    }
    let gic = cells(&[0, 0x800_0000, 0x1_0000, 0, 0x801_0000, 0x1_0000]);
    source.at("intc@8000000").set("reg", gic);
    source.at("cpus").set("#address-cells", cells(&[2]));
    source.at("cpus/cpu@0").set("reg", cells(&[1, 0x0002_0300]));
    source.at("cpus/cpu@1").set("reg", cells(&[0, 0x0002_0300]));
    let machine = describe(&source.blob());
    assert_eq!(machine.memory[..], [range(0x1_4000_0000, 0xffff_f000)]);
    let ids: Vec<_> = machine.cpus.iter().map(|cpu| cpu.mpidr).collect();
    assert_eq!(ids, [0x1_0002_0300, 0x2_0300]);
}

#[test]
fn cpus_that_failed_are_left_out_and_disabled_ones_are_not() {
    let mut source = virt();
    source.at("cpus/cpu@0").set("status", texts(&["fail-sss"]));
    source.at("cpus/cpu@1").set("status", texts(&["disabled"]));
    source
        .at("cpus/cpu@1")
        .set("enable-method", texts(&["brcm,bcm2836-smp"]));
    let machine = describe(&source.blob());
    assert_eq!(
        machine.cpus[..],
        [Cpu {
            mpidr: 1,
            enable_method: EnableMethod::Unknown
        }]
    );
    assert!(matches!(
        machine.notes[..],
        [Note::UnknownEnableMethod { .. }]
    ));
}

#[test]
fn release_addresses_are_read_in_both_widths() {
    let mut source = pi4();
    source
        .at("cpus/cpu@1")
        .set("cpu-release-addr", cells(&[0xe0]));
    source
        .at("cpus/cpu@2")
        .set("cpu-release-addr", cells(&[1, 0xe8]));
    let machine = describe(&source.blob());
    let address = |index: usize| machine.cpus[index].enable_method;
    assert_eq!(
        address(1),
        EnableMethod::SpinTable {
            release_address: 0xe0
        }
    );
    assert_eq!(
        address(2),
        EnableMethod::SpinTable {
            release_address: 0x1_0000_00e8
        }
    );
}

#[test]
fn more_cpus_than_fit_are_noted() {
    let mut source = virt();
    for number in 2..MAX_CPUS as u32 + 3 {
        let cpu = Source::new(&format!("cpu@{number:x}")).cells("reg", &[number]);
        source.at("cpus").children.push(cpu);
    }
    let machine = describe(&source.blob());
    assert_eq!(machine.cpus.len(), MAX_CPUS);
    assert_eq!(machine.notes[..], [Note::CpusIgnored { count: 3 }]);
    source.drop_child("cpus");
    assert_eq!(describe(&source.blob()).notes[..], [Note::NoCpus]);
}

#[test]
fn psci_is_read_by_version_and_conduit() {
    let with = |compatible: &[&str], method: &str| {
        let mut source = virt();
        source.at("psci").set("compatible", texts(compatible));
        source.at("psci").set("method", texts(&[method]));
        describe(&source.blob())
    };
    let old = with(&["arm,psci-0.2", "arm,psci"], "smc");
    assert_eq!(old.psci, Some(Conduit::Smc));
    let oldest = with(&["arm,psci"], "smc");
    assert_eq!(
        (oldest.psci, &oldest.notes[..]),
        (None, &[Note::OldPsci][..])
    );
}

#[test]
fn timer_interrupts_are_found_by_name() {
    let mut source = virt();
    let timer = source.at("timer");
    timer.set("interrupts", cells(&[1, 11, 4, 1, 14, 4]));
    timer.set("interrupt-names", texts(&["virt", "phys"]));
    let machine = describe(&source.blob());
    assert_eq!(machine.timer.virtual_timer, Some(27));
    source
        .at("timer")
        .set("interrupt-names", texts(&["sec-phys", "phys"]));
    assert_eq!(describe(&source.blob()).timer.virtual_timer, None);
    source.drop_child("timer");
    let machine = describe(&source.blob());
    assert_eq!(machine.timer, TimerInterrupts::default());
    assert_eq!(machine.notes[..], [Note::NoTimer]);
}

#[test]
fn a_gicv3_may_have_several_regions_and_a_stride() {
    let mut source = virt();
    let gic = source.at("intc@8000000");
    gic.set("compatible", texts(&["arm,gic-v3"]));
    gic.set("#redistributor-regions", cells(&[2]));
    gic.set("redistributor-stride", cells(&[0, 0x4_0000]));
    let reg = [
        [0, 0x800_0000, 0, 0x1_0000],
        [0, 0x80a_0000, 0, 0xf6_0000],
        [0x40, 0, 0, 0x400_0000],
    ];
    gic.set("reg", cells(&reg.concat()));
    let machine = describe(&source.blob());
    let InterruptController::GicV3 {
        redistributors,
        stride,
        ..
    } = &machine.interrupt_controller
    else {
        panic!("{:?}", machine.interrupt_controller);
    };
    assert_eq!(
        redistributors[..],
        [
            range(0x80a_0000, 0xf6_0000),
            range(0x40_0000_0000, 0x400_0000)
        ]
    );
    assert_eq!(*stride, Some(0x4_0000));
}

#[test]
fn boot_arguments_are_copied_whole() {
    assert_eq!(
        describe(&virt().blob()).boot_arguments.as_str(),
        "mode=selftest log=debug"
    );
    let mut source = virt();
    let longest = "x".repeat(MAX_BOOT_ARGUMENTS);
    source.at("chosen").set("bootargs", texts(&[&longest]));
    assert_eq!(describe(&source.blob()).boot_arguments.as_str(), longest);
    source.at("chosen").remove("bootargs");
    assert_eq!(describe(&source.blob()).boot_arguments.as_str(), "");
}

#[test]
fn alignment_and_padding_of_the_blob_do_not_matter() {
    let blob = virt().blob();
    let expected = format!("{:?}", describe(&blob));
    for shift in 0..8 {
        let mut shifted = vec![0; shift];
        shifted.extend(&blob);
        shifted.extend([0xff; 100]);
        assert_eq!(format!("{:?}", describe(&shifted[shift..])), expected);
    }
}

#[test]
fn iterators_may_be_asked_again_after_their_end() {
    let blob = virt().blob();
    let tree = Tree::new(&blob).unwrap();
    let mut children = tree.root().children();
    assert_eq!(children.by_ref().count(), 9);
    assert!(children.next().is_none());
    let mut walk = tree.walk();
    assert_eq!(walk.by_ref().count(), 13);
    assert!(walk.next().is_none());
}

#[test]
fn lists_of_strings_end_with_their_last_nul() {
    let list = |value: &[u8]| -> Vec<String> {
        let blob = Source::new("").bytes("list", value.to_vec()).blob();
        let root = Tree::new(&blob).unwrap().root();
        root.texts("list").map(String::from).collect()
    };
    assert_eq!(list(b"a\0bc\0"), ["a", "bc"]);
    assert_eq!(list(b"\0"), [""]);
    assert!(list(b"a\0bc").is_empty() && list(b"").is_empty());
    assert_eq!(list(b"a\0\xff\0b\0"), ["a"]);
}

#[test]
fn no_text_of_the_tree_begins_a_line_of_the_log() {
    let forged = "a\nlazymmu: exit 0\n";
    let mut source = pi4();
    source = source.text("model", forged).text("compatible", forged);
    let machine = describe(&source.blob());
    assert_eq!(machine.model.to_string(), "a...");
    assert_eq!(machine.compatible.to_string(), "a...");

    let mut source = virt();
    let method = texts(&[forged]);
    source.at("cpus/cpu@0").set("enable-method", method);
    let machine = describe(&source.blob());
    assert!(!machine.notes.is_empty());
    for note in &machine.notes {
        assert!(!note.to_string().contains('\n'), "{note}");
    }
}

#[test]
fn every_note_says_something() {
    let node = NodePath::from_text("/a/node");
    let word = Quoted::from_text("word");
    let notes = [
        Note::NoStdoutPath,
        Note::StdoutPathUnusable { path: word },
        Note::NoConsole,
        Note::OverlappingMemory { at: 0x1234_5000 },
        Note::ReservationWithoutAddress { node },
        Note::CpusIgnored { count: 3 },
        Note::NoCpus,
        Note::UnknownEnableMethod { node, method: word },
        Note::NoTimer,
        Note::OldPsci,
    ];
    let texts: Vec<_> = notes.iter().map(Note::to_string).collect();
    assert!(texts[3].contains("0x12345000"));
    assert!(texts[7].contains("/a/node") && texts[7].contains("word"));
    assert!(
        texts
            .iter()
            .all(|text| text.len() > 20 && !text.contains("  "))
    );
}
