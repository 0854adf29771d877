// SPDX-License-Identifier: MIT OR Apache-2.0

//! The device tree of QEMU's `raspi4b`.
//!
//! On the board the firmware passes a tree, from a file that comes with it. QEMU makes none, and
//! the file cannot be shipped here, so this module writes one. It has those nodes of
//! `bcm2711-rpi-4-b.dtb` that the kernel uses and QEMU emulates, with their names, addresses and
//! bindings. `--dtb` takes the file itself.
//!
//! What QEMU 10.0.2 does to a tree given by `-dtb`, this or another:
//!
//! * it removes every `/memory` and `/memory@...` of the root and adds `/memory@0` with what is
//!   below the VideoCore's share, 0x3c00_0000 bytes. The other GiB, from 0x4000_0000 on, is there
//!   but not said, so this tree states it in a node of another name: what makes a node memory is
//!   its `device_type` (Devicetree Specification 3.4);
//! * it removes the nodes of what it does not emulate: PCIe, Ethernet, random numbers, thermal;
//! * it writes `/chosen/bootargs`.

use super::tree::Node;
use anyhow::{Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// `phandle` of the interrupt controller.
const GIC: u32 = 1;
/// `phandle` of the first CPU; the others follow.
const FIRST_CPU: u32 = 2;
const CPUS: u32 = 4;

/// Where the first CPU waits for an address to jump to; the others' words follow.
const FIRST_RELEASE_WORD: u64 = 0xd8;
/// The firmware's code and words for waiting CPUs are in the first page.
const SPIN_TABLE: (u64, u64) = (0, 0x1000);

/// Start and size of RAM below the VideoCore's share, as QEMU says it, in bytes.
const LOW_MEMORY: (u32, u32) = (0, 0x3c00_0000);
/// Those of the other half of RAM.
const HIGH_MEMORY: (u32, u32) = (0x4000_0000, 0x4000_0000);

/// First cell of an interrupt of the GIC: shared by all CPUs.
const SPI: u32 = 0;
/// First cell of an interrupt of the GIC: each CPU's own.
const PPI: u32 = 1;
/// Third cell: level, active high.
const HIGH: u32 = 4;
/// Third cell of a private interrupt: level, active low, and the four CPUs that have it.
const LOW_ON_ALL: u32 = 0xf08;

/// Writes the tree into `directory` and returns its path.
///
/// # Errors
///
/// When the file cannot be written.
pub fn write(directory: &Path) -> Result<PathBuf> {
    let path = directory.join("raspi4b.dtb");
    // Renamed into its place: another boot may be about to read it.
    let blob = blob()?;
    NamedTempFile::new_in(directory)
        .and_then(|mut file| {
            file.write_all(&blob)?;
            Ok(file.persist(&path)?)
        })
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// The tree as a blob.
fn blob() -> Result<Vec<u8>> {
    let root = Node::new("")
        .texts("compatible", &["raspberrypi,4-model-b", "brcm,bcm2711"])
        .text("model", "Raspberry Pi 4 Model B (QEMU)")
        .addresses(2, 1)
        .cells("interrupt-parent", &[GIC]);
    let aliases = Node::new("aliases").text("serial0", "/soc/serial@7e201000");
    let chosen = Node::new("chosen").text("stdout-path", "serial0:115200n8");
    let cpus = (0..CPUS).map(|number| {
        let word = FIRST_RELEASE_WORD + 8 * u64::from(number);
        Node::new(format!("cpu@{number}"))
            .text("device_type", "cpu")
            .text("compatible", "arm,cortex-a72")
            .cells("reg", &[number])
            .text("enable-method", "spin-table")
            .words("cpu-release-addr", &[word])
            .cells("phandle", &[FIRST_CPU + number])
    });
    let cpus = Node::new("cpus").addresses(1, 0).with(cpus);
    // Secure physical, non-secure physical, virtual, hypervisor.
    let interrupts = [13, 14, 11, 10].map(|number| [PPI, number, LOW_ON_ALL]);
    let timer = Node::new("timer")
        .text("compatible", "arm,armv8-timer")
        .cells("interrupts", interrupts.as_flattened());
    let interrupts = [16, 17, 18, 19].map(|number| [SPI, number, HIGH]);
    let affinity: Vec<u32> = (FIRST_CPU..FIRST_CPU + CPUS).collect();
    let pmu = Node::new("arm-pmu")
        .texts("compatible", &["arm,cortex-a72-pmu", "arm,armv8-pmuv3"])
        .cells("interrupts", interrupts.as_flattened())
        .cells("interrupt-affinity", &affinity);
    root.with([aliases, chosen])
        .with([
            memory("memory@0", LOW_MEMORY),
            memory("ram@40000000", HIGH_MEMORY),
        ])
        .with([cpus, soc(), timer, pmu])
        .blob(&[SPIN_TABLE])
}

fn memory(name: &str, (start, size): (u32, u32)) -> Node {
    Node::new(name)
        .text("device_type", "memory")
        .cells("reg", &[0, start, size])
}

/// The bus of the peripherals, which have the VideoCore's addresses.
fn soc() -> Node {
    let windows = [
        [0x7e00_0000, 0, 0xfe00_0000, 0x0180_0000],
        [0x7c00_0000, 0, 0xfc00_0000, 0x0200_0000],
        [0x4000_0000, 0, 0xff80_0000, 0x0080_0000],
    ];
    let uart = Node::new("serial@7e201000")
        .texts("compatible", &["arm,pl011", "arm,primecell"])
        .cells("reg", &[0x7e20_1000, 0x200])
        .cells("interrupts", &[SPI, 121, HIGH])
        .text("status", "okay");
    // Distributor, CPU interface, and the two of virtualization.
    let registers = [
        [0x4004_1000, 0x1000],
        [0x4004_2000, 0x2000],
        [0x4004_4000, 0x2000],
        [0x4004_6000, 0x2000],
    ];
    let gic = Node::new("interrupt-controller@40041000")
        .text("compatible", "arm,gic-400")
        .flag("interrupt-controller")
        .cells("#interrupt-cells", &[3])
        .cells("reg", registers.as_flattened())
        .cells("phandle", &[GIC]);
    Node::new("soc")
        .text("compatible", "simple-bus")
        .addresses(1, 1)
        .cells("ranges", windows.as_flattened())
        .with([uart, gic])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::board::Board;
    use kernel::platform::devicetree::{
        ConsoleSource, DeviceTree, EnableMethod, InterruptController, Mapping,
    };

    #[test]
    fn the_kernel_reads_what_the_board_has() {
        let blob = blob().expect("the tree is well-formed");
        let machine = DeviceTree::new(&blob)
            .and_then(|tree| tree.describe())
            .unwrap_or_else(|error| panic!("{error}"));
        let bounds = |range: kernel::platform::phys_range::PhysRange| (range.start(), range.size());

        let banks: Vec<_> = machine.memory.iter().map(|bank| bounds(*bank)).collect();
        assert_eq!(banks, [(0, 0x3c00_0000), (0x4000_0000, 0x4000_0000)]);
        let [page_0] = machine.reservations[..] else {
            panic!("{:?}", machine.reservations);
        };
        assert_eq!(
            (bounds(page_0.range), page_0.mapping),
            ((0, 0x1000), Mapping::Allowed)
        );
        let console = machine.console.expect("it has a PL011");
        assert_eq!(bounds(console.registers), (0xfe20_1000, 0x200));
        assert_eq!(console.source, ConsoleSource::StdoutPath);
        let InterruptController::GicV2 {
            distributor,
            cpu_interface,
        } = machine.interrupt_controller
        else {
            panic!("{:?}", machine.interrupt_controller);
        };
        assert_eq!(bounds(distributor), (0xff84_1000, 0x1000));
        assert_eq!(bounds(cpu_interface), (0xff84_2000, 0x2000));
        assert_eq!(machine.timer.physical_timer, Some(30));
        assert_eq!(machine.timer.virtual_timer, Some(27));
        let methods: Vec<_> = machine.cpus.iter().map(|cpu| cpu.enable_method).collect();
        let words = [0xd8, 0xe0, 0xe8, 0xf0];
        assert_eq!(
            methods,
            words.map(|release_address| EnableMethod::SpinTable { release_address })
        );
        assert_eq!(methods.len(), Board::Raspi4b.usual().smp.get() as usize);
        assert_eq!(machine.compatible.as_str(), "raspberrypi,4-model-b");
        assert_eq!(machine.psci, None);
        assert!(machine.notes.is_empty(), "{:?}", machine.notes);
    }

    #[test]
    fn the_file_is_whole_or_not_there() {
        let scratch = tempfile::tempdir().expect("there is room for a file");
        for _ in 0..2 {
            let path = write(scratch.path()).expect("it can be written, and again");
            let written = std::fs::read(path).expect("it was written");
            assert_eq!(written, blob().expect("the tree is well-formed"));
        }
        let files = std::fs::read_dir(scratch.path()).expect("it is a directory");
        assert_eq!(files.count(), 1);
        assert!(write(&scratch.path().join("none")).is_err());
    }
}
