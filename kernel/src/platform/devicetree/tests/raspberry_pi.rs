// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tree of a Raspberry Pi 4: Linux's `bcm2711-rpi-4-b.dtb`, as the file contains it, and as
//! QEMU or the firmware completes it.
//!
//! The file itself is not part of the sources; [`file`] has the unusual parts of it.

use super::super::*;
use super::source::{Source, cells, nop_node, pi4, texts};
use crate::platform::memory_map::{AddressLimits, BootMemory, MemoryMap};
use crate::platform::phys_range::PhysRange;

fn describe(blob: &[u8]) -> MachineDescription {
    let tree = DeviceTree::new(blob).unwrap_or_else(|error| panic!("{error}"));
    tree.describe().unwrap_or_else(|error| panic!("{error}"))
}

fn range(start: u64, size: u64) -> PhysRange {
    PhysRange::new(start, size).unwrap()
}

/// The file as Linux's build makes it: no memory, the mini UART as the console, the first PL011
/// used for Bluetooth and four more disabled, and before the GIC an interrupt controller of another
/// kind.
fn file() -> Source {
    let mut source = pi4();
    source
        .at("chosen")
        .set("stdout-path", texts(&["serial1:115200n8"]));
    source.at("memory@0").set("reg", cells(&[0, 0, 0]));
    let nvram = source.at("reserved-memory/nvram@0");
    nvram.set("reg", cells(&[0, 0, 0]));
    nvram.set("no-map", Vec::new());
    source.at("reserved-memory").drop_child("nvram@1");
    let cma = source.at("reserved-memory/linux,cma");
    cma.set("alloc-ranges", cells(&[0, 0, 0x4000_0000]));
    cma.set("linux,cma-default", Vec::new());

    let uart = source.at("soc/serial@7e201000");
    uart.set("uart-has-rtscts", Vec::new());
    uart.children.push(
        Source::new("bluetooth")
            .text("compatible", "brcm,bcm43438-bt")
            .cells("max-speed", &[2_000_000]),
    );
    let soc = source.at("soc");
    soc.children.insert(
        0,
        Source::new("local_intc@40000000")
            .text("compatible", "brcm,bcm2836-l1-intc")
            .bytes("interrupt-controller", Vec::new())
            .cells("#interrupt-cells", &[2])
            .cells("reg", &[0x4000_0000, 0x100]),
    );
    soc.children.insert(
        0,
        Source::new("timer@7e003000")
            .text("compatible", "brcm,bcm2835-system-timer")
            .cells("reg", &[0x7e00_3000, 0x1000])
            .cells("interrupts", &[0, 64, 4, 0, 65, 4, 0, 66, 4, 0, 67, 4]),
    );
    for address in [0x7e20_1400_u32, 0x7e20_1600, 0x7e20_1800, 0x7e20_1a00] {
        soc.children.push(
            Source::new(&format!("serial@{address:x}"))
                .bytes("compatible", texts(&["arm,pl011", "arm,primecell"]))
                .cells("reg", &[address, 0x200])
                .text("status", "disabled"),
        );
    }
    let cpus = source.at("cpus");
    cpus.set("enable-method", texts(&["brcm,bcm2836-smp"]));
    cpus.children
        .push(Source::new("l2-cache0").text("compatible", "cache"));
    // The deepest branch: addresses of three cells, unit addresses with a comma.
    let port = Source::new("pci@0,0")
        .text("device_type", "pci")
        .cells("#address-cells", &[3])
        .cells("#size-cells", &[2])
        .bytes("ranges", Vec::new())
        .cells("reg", &[0; 5])
        .child(Source::new("usb@0,0").cells("reg", &[0; 5]));
    source.children.insert(
        0,
        Source::new("scb")
            .text("compatible", "simple-bus")
            .cells("#address-cells", &[2])
            .cells("#size-cells", &[1])
            .cells("ranges", &[0, 0x7c00_0000, 0, 0xfc00_0000, 0x0380_0000])
            .child(
                Source::new("pcie@7d500000")
                    .text("compatible", "brcm,bcm2711-pcie")
                    .cells("reg", &[0, 0x7d50_0000, 0x9310])
                    .cells("#address-cells", &[3])
                    .cells("#size-cells", &[2])
                    .child(port),
            ),
    );
    source
}

/// The tree as QEMU completes it: with a memory node at the front, and no-operations in place of
/// removed nodes.
fn completed_by_qemu() -> Vec<u8> {
    let mut source = file();
    source.at("memory@0").name = "memory@dead".into();
    source.children.insert(
        0,
        Source::new("memory@0")
            .cells("reg", &[0, 0, 0x3c00_0000])
            .text("device_type", "memory"),
    );
    source
        .at("chosen")
        .set("bootargs", texts(&["mode=selftest"]));
    let mut blob = source.blob_with_reservations(&[(0, 0x1000)]);
    nop_node(&mut blob, "memory@dead");
    nop_node(&mut blob, "pcie@7d500000");
    blob
}

/// The tree as the firmware completes it on a board with 8 GiB, with `dtoverlay=disable-bt`.
fn completed_by_firmware() -> Source {
    let mut source = file();
    let banks = [
        [0, 0, 0x3b40_0000],
        [0, 0x4000_0000, 0xbc00_0000],
        [1, 0, 0x8000_0000],
        [1, 0x8000_0000, 0x8000_0000],
    ];
    source.at("memory@0").set("reg", cells(&banks.concat()));
    let nvram = source.at("reserved-memory/nvram@0");
    nvram.set("reg", cells(&[0, 0x3ef6_4c70, 0x20]));
    nvram.set("status", texts(&["okay"]));
    source.at("soc/serial@7e201000").drop_child("bluetooth");
    source
        .at("chosen")
        .set("stdout-path", texts(&["serial0:115200n8"]));
    source
}

const UART0: (u64, u64) = (0xfe20_1000, 0x200);

#[test]
fn the_file_on_the_disk_has_no_memory_but_a_console_to_say_so() {
    let blob = file().blob_with_reservations(&[(0, 0x1000)]);
    let tree = DeviceTree::new(&blob).unwrap();
    let error = tree.describe().unwrap_err();
    assert_eq!(error, DeviceTreeError::NoMemory);
    assert!(error.to_string().contains("the firmware fills it in"));
    let console = tree.console().unwrap().unwrap();
    assert_eq!(console.registers, range(UART0.0, UART0.1));
}

#[test]
fn what_qemu_removes_is_not_there() {
    let machine = describe(&completed_by_qemu());
    assert_eq!(machine.memory[..], [range(0, 0x3c00_0000)]);
    let frame_0 = Reservation {
        range: range(0, 0x1000),
        mapping: Mapping::Allowed,
    };
    assert_eq!(machine.reservations[..], [frame_0]);
    assert_eq!(machine.cpus.len(), 4);
    assert_eq!(machine.timer.virtual_timer, Some(27));
    assert_eq!(machine.boot_arguments.as_str(), "mode=selftest");
    let blob = completed_by_qemu();
    let tree = Tree::new(&blob).unwrap();
    assert!(tree.find("/scb").is_some() && tree.find("/scb/pcie").is_none());
}

#[test]
fn instead_of_the_mini_uart_the_first_enabled_pl011_is_the_console() {
    let machine = describe(&completed_by_qemu());
    assert_eq!(
        machine.console,
        Some(Console {
            registers: range(UART0.0, UART0.1),
            source: ConsoleSource::FirstUart
        })
    );
    let said: Vec<_> = machine.notes.iter().map(Note::to_string).collect();
    assert!(
        said.iter().any(|note| note.contains("serial1:115200n8")),
        "{said:?}"
    );
    // A disabled PL011, which has no pins, now comes first; it is not the console either.
    let mut source = completed_by_firmware();
    source.at("chosen").remove("stdout-path");
    let soc = source.at("soc");
    let disabled = soc.children.pop().unwrap();
    assert_eq!(disabled.name, "serial@7e201a00");
    soc.children.insert(0, disabled);
    let console = describe(&source.blob()).console.unwrap();
    assert_eq!(console.registers, range(UART0.0, UART0.1));
}

#[test]
fn memory_beyond_four_gib_is_joined_from_slices_with_small_sizes() {
    let mut source = completed_by_firmware();
    // The second CPU in the short form of some trees.
    source
        .at("cpus/cpu@1")
        .set("cpu-release-addr", cells(&[0xe0]));
    let machine = describe(&source.blob_with_reservations(&[(0, 0x1000)]));
    assert_eq!(
        machine.memory[..],
        [
            range(0, 0x3b40_0000),
            range(0x4000_0000, 0xbc00_0000),
            range(0x1_0000_0000, 0x1_0000_0000)
        ]
    );
    assert_eq!(
        machine.console,
        Some(Console {
            registers: range(UART0.0, UART0.1),
            source: ConsoleSource::StdoutPath
        })
    );
    let methods: Vec<_> = machine.cpus.iter().map(|cpu| cpu.enable_method).collect();
    let words = [0xd8, 0xe0, 0xe8, 0xf0];
    assert_eq!(
        methods,
        words.map(|release_address| EnableMethod::SpinTable { release_address })
    );

    let boot = BootMemory {
        image: range(0x8_0000, 0x10_0000),
        device_tree: Some(range(0x2eff_2000, 0xe000)),
    };
    let limits = AddressLimits {
        physical_bits: 44,
        linear_map: 1 << 46,
    };
    let map = MemoryMap::new(&machine, &boot, limits).unwrap();
    let holes = [
        range(0, 0x1000),
        boot.image,
        range(0x2eff_2000, 0xe000),
        // The VideoCore's memory, joined with the reservations inside it.
        range(0x3b40_0000, 0x4c0_0000),
        range(0xfc00_0000, 0x400_0000),
    ];
    for free in map.usable() {
        for hole in holes {
            assert!(!free.bytes().overlaps(hole), "{free} {hole}");
        }
    }
    let last = map.usable().last().unwrap();
    assert_eq!(last.bytes().end(), 0x2_0000_0000);
    assert!(map.unreachable().is_empty());
}
