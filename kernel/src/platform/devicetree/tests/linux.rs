// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unusual trees that Linux accepts.

use super::super::*;
use super::source::{Layout, Source, cells, texts, virt};
use crate::platform::phys_range::PhysRange;

fn describe(blob: &[u8]) -> MachineDescription {
    let tree = DeviceTree::new(blob).unwrap_or_else(|error| panic!("{error}"));
    tree.describe().unwrap_or_else(|error| panic!("{error}"))
}

/// virt after `change`.
fn changed(change: impl FnOnce(&mut Source)) -> MachineDescription {
    let mut source = virt();
    change(&mut source);
    describe(&source.blob())
}

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(start, size).unwrap()
}

fn reserved(machine: &MachineDescription) -> Vec<PhysRange> {
    machine
        .reservations
        .iter()
        .map(|entry| entry.range)
        .collect()
}

#[test]
fn names_of_any_length_and_of_any_characters() {
    let long = "a-name-that-goes-on-and-on-and-on-and-on-beyond-thirty-one-characters";
    let expected = format!("{:?}", describe(&virt().blob()));
    for name in [
        "snps,quirk-frame-length-adjustment",
        long,
        &long.repeat(40),
        "",
        "with space",
        "at@sign",
        "gr\u{fc}n",
    ] {
        let inner = Source::new(&format!("{name}@1,2@3")).text(name, "a");
        let node = Source::new(name).bytes(name, vec![]).child(inner);
        let machine = changed(|root| {
            root.set(name, cells(&[1]));
            root.children.insert(0, node);
        });
        assert_eq!(format!("{machine:?}"), expected, "{name:?}");
    }
}

#[test]
fn nodes_with_long_names_are_found_and_named() {
    let long = "serial-with-a-name-of-more-than-thirty-one-characters";
    let machine = changed(|root| {
        root.at("pl011@9040000").name = format!("{long}@9040000");
        root.at("aliases")
            .set("serial0", texts(&[&format!("/{long}")]));
    });
    assert_eq!(
        machine.console.unwrap().registers,
        range(0x904_0000, 0x1000)
    );
    let mut source = virt();
    source.at("pl011@9040000").name = format!("{long}\n\u{1b}@9040000");
    source
        .at("aliases")
        .set("serial0", texts(&[&format!("/{long}\n\u{1b}")]));
    source
        .at(&format!("{long}\n\u{1b}@9040000"))
        .set("reg", vec![1]);
    let blob = source.blob();
    let error = DeviceTree::new(&blob).unwrap().describe().unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("node /{long}??@9040000: reg")),
        "{error}"
    );
}

#[test]
fn blobs_laid_out_in_any_way() {
    let reservations = [(0x4100_0000, 0x1000)];
    let expected = format!(
        "{:?}",
        describe(&virt().blob_with_reservations(&reservations))
    );
    for version in [16, 17, 18] {
        for strings_first in [false, true] {
            for (nops, gap) in [(0, 0), (3, 0), (0, 4), (1, 3)] {
                let layout = Layout {
                    version,
                    strings_first,
                    nops,
                    gap,
                };
                let machine = describe(&layout.blob(&virt(), &reservations));
                assert_eq!(format!("{machine:?}"), expected, "{layout:?}");
            }
        }
    }
}

#[test]
fn properties_after_a_child_are_not_seen() {
    let mut source = virt();
    source
        .children
        .push(Source::new("late").text("model", "late"));
    let mut blob = source.blob();
    // The tokens at its begin and its end become no-operations. Its property then belongs to the
    // root and comes after all children.
    let at = blob
        .windows(5)
        .position(|bytes| bytes == b"late\0")
        .unwrap();
    for word in blob[at - 4..at + 8].chunks_exact_mut(4) {
        word.copy_from_slice(&4_u32.to_be_bytes());
    }
    let end = blob[at..]
        .windows(8)
        .position(|bytes| bytes == b"late\0\0\0\0")
        .unwrap();
    blob[at + end + 8..][..4].copy_from_slice(&4_u32.to_be_bytes());
    assert_eq!(describe(&blob).model.as_str(), "a model");
}

#[test]
fn interrupts_of_the_timer_may_name_their_controller() {
    let read = |values: &[u32]| {
        let machine = changed(|root| {
            root.at("timer").remove("interrupts");
            root.at("timer").set("interrupts-extended", cells(values));
            let combiner = Source::new("combiner").cells("linux,phandle", &[7]);
            root.children.push(combiner.cells("#interrupt-cells", &[2]));
        });
        (machine.timer.physical_timer, machine.timer.virtual_timer)
    };
    let both = (Some(30), Some(27));
    assert_eq!(read(&[1, 1, 13, 4, 1, 1, 14, 4, 1, 1, 11, 4]), both);
    // The first interrupt goes to another controller, which takes fewer cells, or to none.
    assert_eq!(read(&[7, 5, 5, 1, 1, 14, 4, 1, 1, 11, 4]), both);
    assert_eq!(read(&[0, 1, 1, 14, 4, 1, 1, 11, 4]), both);
    assert_eq!(read(&[0, 1, 1, 14, 4, 0]), (Some(30), None));
    assert_eq!(read(&[0, 1, 1, 14, 4]), (Some(30), None));
    assert_eq!(read(&[]), (None, None));
    // It has precedence over `interrupts`, also by name.
    let machine = changed(|root| {
        let timer = root.at("timer");
        timer.set("interrupts-extended", cells(&[1, 1, 9, 4, 1, 1, 8, 4]));
        timer.set("interrupt-names", texts(&["virt", "phys"]));
    });
    assert_eq!(machine.timer.virtual_timer, Some(25));
    assert_eq!(machine.timer.physical_timer, Some(24));
}

#[test]
fn the_interrupt_parent_is_found_on_the_way_up() {
    let expected = Some(27);
    // The property of the timer's bus counts, not that of the root, whose controller takes another
    // number of cells.
    let machine = changed(|root| {
        let combiner = Source::new("combiner").cells("phandle", &[7]);
        root.children.push(combiner.cells("#interrupt-cells", &[1]));
        root.set("interrupt-parent", cells(&[7]));
        let timer = root.children.remove(6);
        assert_eq!(timer.name, "timer");
        let soc = Source::new("soc").cells("interrupt-parent", &[1]);
        root.children.push(soc.child(timer));
    });
    assert_eq!(machine.timer.virtual_timer, expected);
    // If there is none, or if it leads nowhere or in a cycle, the only controller is used.
    let machine = changed(|root| root.remove("interrupt-parent"));
    assert_eq!(machine.timer.virtual_timer, expected);
    let machine = changed(|root| root.set("interrupt-parent", cells(&[99])));
    assert_eq!(machine.timer.virtual_timer, expected);
    let machine = changed(|root| {
        root.at("timer").set("phandle", cells(&[8]));
        root.at("timer").set("interrupt-parent", cells(&[8]));
    });
    assert_eq!(machine.timer.virtual_timer, expected);
}

#[test]
fn devices_by_their_other_names() {
    for name in ["arm,cortex-a7-gic", "qcom,msm-qgic2"] {
        let machine = changed(|root| root.at("intc@8000000").set("compatible", texts(&[name])));
        let InterruptController::GicV2 { .. } = machine.interrupt_controller else {
            panic!("{machine:?}");
        };
    }
    let machine = changed(|root| {
        root.at("timer")
            .set("compatible", texts(&["arm,armv7-timer"]))
    });
    assert_eq!(machine.timer.virtual_timer, Some(27));
    assert!(machine.notes.is_empty());
    let machine = changed(|root| root.at("chosen").name = "chosen@0".into());
    assert_eq!(machine.boot_arguments.as_str(), "mode=selftest log=debug");
}

#[test]
fn a_stride_of_zero_says_nothing() {
    for stride in [vec![0; 8], vec![0; 4]] {
        let machine = changed(|root| {
            let gic = root.at("intc@8000000");
            gic.set("compatible", texts(&["arm,gic-v3"]));
            gic.set("redistributor-stride", stride);
        });
        let InterruptController::GicV3 { stride, .. } = machine.interrupt_controller else {
            panic!("{machine:?}");
        };
        assert_eq!(stride, None);
    }
}

#[test]
fn strings_without_a_byte() {
    let machine = changed(|root| {
        for name in ["model", "compatible"] {
            root.set(name, vec![]);
        }
        root.at("chosen").set("bootargs", vec![]);
        root.at("chosen").set("stdout-path", vec![]);
        root.at("cpus/cpu@1").set("device_type", vec![]);
        root.at("cpus/cpu@1").set("enable-method", vec![]);
        root.at("timer").set("interrupt-names", vec![]);
    });
    assert_eq!(machine.model.as_str(), "");
    assert_eq!(machine.compatible.as_str(), "");
    assert_eq!(machine.boot_arguments.as_str(), "");
    assert_eq!(machine.console.unwrap().source, ConsoleSource::FirstUart);
    assert_eq!(machine.cpus[1].enable_method, EnableMethod::Unknown);
    assert_eq!(machine.timer, TimerInterrupts::default());
    assert_eq!(machine.notes[..], [Note::NoStdoutPath]);
    // An empty status is not "okay".
    let machine = changed(|root| root.at("pl011@9040000").set("status", vec![]));
    assert_eq!(
        machine.console.unwrap().registers,
        range(0x900_0000, 0x1000)
    );
    for (status, taken) in [("ok", 0x904_0000), ("okay", 0x904_0000), ("no", 0x900_0000)] {
        let machine = changed(|root| root.at("pl011@9040000").set("status", texts(&[status])));
        assert_eq!(machine.console.unwrap().registers, range(taken, 0x1000));
    }
}

#[test]
fn boot_arguments_end_at_their_first_nul_or_their_last_byte() {
    let read = |value: &[u8]| {
        let machine = changed(|root| root.at("chosen").set("bootargs", value.to_vec()));
        machine.boot_arguments.to_string()
    };
    assert_eq!(read(b"mode=demo"), "mode=demo");
    assert_eq!(read(b"mode=demo\0"), "mode=demo");
    assert_eq!(read(b"mode=demo\0rest\0"), "mode=demo");
    assert_eq!(read(b"\0"), "");
    assert_eq!(read(b"a\0\xff"), "a");
}

#[test]
fn the_console_by_its_older_property_and_by_a_path_from_an_alias() {
    let second = range(0x904_0000, 0x1000);
    let machine = changed(|root| {
        root.at("chosen").remove("stdout-path");
        root.at("chosen")
            .set("linux,stdout-path", texts(&["/pl011@9040000"]));
    });
    assert_eq!(machine.console.unwrap().registers, second);
    let machine = changed(|root| {
        let uart = root.children.remove(3);
        root.at("aliases").set("bus0", texts(&["/soc"]));
        root.at("chosen")
            .set("stdout-path", texts(&["bus0/pl011:115200"]));
        root.children
            .push(Source::new("soc").bytes("ranges", vec![]).child(uart));
    });
    assert_eq!(machine.console.unwrap().registers, second);
}

#[test]
fn cells_come_from_above_where_a_node_has_none() {
    let machine = changed(|root| {
        let uart = root.children.remove(3);
        let inner = Source::new("bus").bytes("ranges", vec![]).child(uart);
        // The bus maps its first 2 GiB to 0x10_0000_0000.
        let soc = Source::new("soc").cells("ranges", &[0, 0, 0x10, 0, 0, 0x8000_0000]);
        root.children.push(soc.child(inner));
        root.at("chosen")
            .set("stdout-path", texts(&["/soc/bus/pl011"]));
        for name in ["#address-cells", "#size-cells"] {
            root.at("cpus").remove(name);
        }
        root.at("cpus/cpu@0").set("reg", cells(&[0, 0, 0, 0]));
        root.at("cpus/cpu@1").set("reg", cells(&[0, 1, 0, 0]));
    });
    assert_eq!(
        machine.console.unwrap().registers,
        range(0x10_0904_0000, 0x1000)
    );
    let ids: Vec<_> = machine.cpus.iter().map(|cpu| cpu.mpidr).collect();
    assert_eq!(ids, [0, 1]);
    assert!(machine.notes.is_empty(), "{:?}", machine.notes);
}

#[test]
fn a_cpu_needs_no_more_than_its_address() {
    let ids = |cells_of_cpus: &[u32], reg: &[u32]| {
        let machine = changed(|root| {
            root.at("cpus").remove("#size-cells");
            root.at("cpus").set("#address-cells", cells(cells_of_cpus));
            root.at("cpus/cpu@1").set("reg", cells(reg));
            root.at("cpus").drop_child("cpu@0");
        });
        assert!(machine.notes.is_empty(), "{:?}", machine.notes);
        machine.cpus[0].mpidr
    };
    assert_eq!(ids(&[1], &[5]), 5);
    // The second identifier is that of a thread.
    assert_eq!(ids(&[1], &[5, 6]), 5);
    assert_eq!(ids(&[2], &[1, 6]), 0x1_0000_0006);
}

#[test]
fn the_initial_ram_disk_is_reserved() {
    let with = |start: Option<&[u32]>, end: Option<&[u32]>| {
        changed(|root| {
            let chosen = root.at("chosen");
            for (name, value) in [("linux,initrd-start", start), ("linux,initrd-end", end)] {
                if let Some(value) = value {
                    chosen.set(name, cells(value));
                }
            }
        })
    };
    let disk = [range(0x4400_0000, 0x12_3456)];
    let machine = with(Some(&[0x4400_0000]), Some(&[0x4412_3456]));
    assert_eq!(reserved(&machine), disk);
    assert_eq!(machine.reservations[0].mapping, Mapping::Allowed);
    assert_eq!(
        reserved(&with(Some(&[0, 0x4400_0000]), Some(&[0, 0x4412_3456]))),
        disk
    );
    assert_eq!(
        reserved(&with(Some(&[0x4400_0000]), Some(&[0, 0x4412_3456]))),
        disk
    );
    let high = with(Some(&[8, 0]), Some(&[8, 0x1000]));
    assert_eq!(reserved(&high), [range(8 << 32, 0x1000)]);
    // There is none.
    for none in [&[0][..], &[5, 0]] {
        let machine = with(Some(none), Some(none));
        assert!(machine.reservations.is_empty() && machine.notes.is_empty());
    }
    // These do not form a range.
    for (start, end) in [
        (Some(&[0x4400_0000_u32][..]), None),
        (None, Some(&[0x4400_0000_u32][..])),
        (Some(&[0x4400_0001]), Some(&[0x4400_0000])),
    ] {
        let machine = with(start, end);
        assert!(machine.reservations.is_empty());
        assert_eq!(machine.notes[..], [Note::InitrdWithoutRange]);
    }
}

#[test]
fn everything_that_somebody_else_has_put_into_memory_is_reserved() {
    let mut source = virt();
    let chosen = source.at("chosen");
    chosen.set("linux,initrd-start", cells(&[0x4100_0000]));
    chosen.set("linux,initrd-end", cells(&[0x4100_1000]));
    chosen.set("linux,elfcorehdr", cells(&[0, 0x4200_0000, 0, 0x1000]));
    let inner = [
        Source::new("a@1").cells(
            "reg",
            &[0, 0x4300_0000, 0, 0x1000, 0, 0x4310_0000, 0, 0x1000],
        ),
        Source::new("b@1")
            .cells("reg", &[0, 0x4400_0000, 0, 0x1000])
            .bytes("no-map", vec![]),
        Source::new("c@1").cells("reg", &[0, 0x4500_0000, 0, 0]),
        Source::new("d@1")
            .cells("reg", &[0, 0x4600_0000, 0, 0x1000])
            .text("status", "disabled"),
        Source::new("e")
            .cells("size", &[0, 0x100_0000])
            .bytes("no-map", vec![]),
        Source::new("f@1").cells("reg", &[u32::MAX, 0xffff_0000, 1, 0]),
        // It adjoins the first entry of the reservation block and extends beyond its end.
        Source::new("g@1").cells("reg", &[0, 0x4000_1000, 0, 0x1000]),
        Source::new("h@1")
            .cells("reg", &[0, 0x4000_1800, 0, 0x1000])
            .bytes("no-map", vec![]),
    ];
    // The node has no cell counts of its own, so those of the root are used.
    let mut node = Source::new("reserved-memory");
    node.children.extend(inner);
    source.children.push(node);
    let blob =
        source.blob_with_reservations(&[(0x4000_0000, 0x1000), (0x4050_0000, 0), (0x4060_0000, 1)]);
    let machine = describe(&blob);
    let expected = [
        (range(0x4000_0000, 0x2000), Mapping::Allowed),
        (range(0x4000_1800, 0x1000), Mapping::Forbidden),
        (range(0x4060_0000, 1), Mapping::Allowed),
        (range(0x4100_0000, 0x1000), Mapping::Allowed),
        (range(0x4200_0000, 0x1000), Mapping::Allowed),
        (range(0x4300_0000, 0x1000), Mapping::Allowed),
        (range(0x4310_0000, 0x1000), Mapping::Allowed),
        (range(0x4400_0000, 0x1000), Mapping::Forbidden),
        (range(0xffff_ffff_ffff_0000, 0xffff), Mapping::Allowed),
    ];
    let expected = expected.map(|(range, mapping)| Reservation { range, mapping });
    assert_eq!(machine.reservations[..], expected);
    assert!(matches!(
        machine.notes[..],
        [Note::ReservationWithoutAddress { .. }]
    ));
}

#[test]
fn memory_beyond_the_end_of_all_addresses_is_clipped() {
    let machine = changed(|root| {
        let reg = [
            [0, 0x4000_0000, 0, 0x800_0000],
            [u32::MAX, 0xffff_0000, 1, 0],
        ];
        root.at("memory@40000000").set("reg", cells(&reg.concat()));
    });
    let high = range(0xffff_ffff_ffff_0000, 0xffff);
    assert_eq!(machine.memory[..], [range(0x4000_0000, 0x800_0000), high]);
}

#[test]
fn memory_is_what_the_kernel_before_leaves() {
    let machine = changed(|root| {
        let usable = cells(&[0, 0x4200_0000, 0, 0x100_0000]);
        root.at("memory@40000000")
            .set("linux,usable-memory", usable);
    });
    assert_eq!(machine.memory[..], [range(0x4200_0000, 0x100_0000)]);
    let limited = |ranges: &[u32]| {
        changed(|root| {
            root.at("chosen")
                .set("linux,usable-memory-range", cells(ranges))
        })
        .memory
    };
    let two = [0, 0x4700_0000, 0, 0x200_0000, 0, 0x3f00_0000, 0, 0x200_0000];
    assert_eq!(
        limited(&two)[..],
        [
            range(0x4000_0000, 0x100_0000),
            range(0x4700_0000, 0x100_0000)
        ]
    );
    assert_eq!(
        limited(&[0, 0, u32::MAX, u32::MAX])[..],
        [range(0x4000_0000, 0x800_0000)]
    );
}

#[test]
fn other_nodes_do_not_spoil_the_memory() {
    let machine = changed(|root| {
        // A node without a device type, one without `reg`, and one that is disabled.
        root.children
            .push(Source::new("memory@1").cells("reg", &[1]));
        root.children
            .push(Source::new("memory@2").text("device_type", "memory"));
        let other = Source::new("memory@3")
            .text("device_type", "memory")
            .cells("reg", &[1]);
        root.children.push(other.text("status", "reserved"));
    });
    assert_eq!(machine.memory[..], [range(0x4000_0000, 0x800_0000)]);
}
