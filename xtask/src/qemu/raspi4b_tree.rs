// SPDX-License-Identifier: MIT OR Apache-2.0

//! The device tree of QEMU's `raspi4b`.
//!
//! On the board the firmware passes a tree, from a file that comes with it. QEMU makes none, and the
//! file cannot be shipped here, so this one is written: of the nodes of `bcm2711-rpi-4-b.dtb`, with
//! its names, addresses and bindings, those that the kernel has a use for and QEMU emulates.
//! `--dtb` takes the file itself.
//!
//! What QEMU 10.0.2 does to a tree given by `-dtb`, this or another:
//!
//! * it removes every `/memory` and `/memory@...` of the root and adds `/memory@0` with what is below
//!   the VideoCore's share, 0x3c00_0000 bytes. The other GiB, from 0x4000_0000 on, is there but not
//!   said, so it stands here in a node of another name: what makes a node memory is its `device_type`
//!   (Devicetree Specification 3.4);
//! * it removes the nodes of what it does not emulate: PCIe, Ethernet, random numbers, thermal;
//! * it writes `/chosen/bootargs`.

use anyhow::{Context, Result};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;
use vm_fdt::{FdtReserveEntry, FdtWriter};

/// `phandle` of the interrupt controller.
const GIC: u32 = 1;
/// `phandle` of the first CPU; the others follow.
const FIRST_CPU: u32 = 2;
const CPUS: u32 = 4;

/// Where the first CPU waits for an address to jump to; the others' words follow.
const FIRST_RELEASE_WORD: u64 = 0xd8;
/// The firmware's code and words for waiting CPUs are in the first page.
const SPIN_TABLE: (u64, u64) = (0, 0x1000);

/// RAM below the VideoCore's share, as QEMU says it, in bytes.
const LOW_MEMORY: u32 = 0x3c00_0000;
/// Start and size of the other half of RAM, in bytes.
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
    let (start, size) = SPIN_TABLE;
    let mut tree = FdtWriter::new_with_mem_reserv(&[FdtReserveEntry::new(start, size)?])?;
    let root = tree.begin_node("")?;
    texts(
        &mut tree,
        "compatible",
        &["raspberrypi,4-model-b", "brcm,bcm2711"],
    )?;
    tree.property_string("model", "Raspberry Pi 4 Model B (QEMU)")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 1)?;
    tree.property_u32("interrupt-parent", GIC)?;

    let aliases = tree.begin_node("aliases")?;
    tree.property_string("serial0", "/soc/serial@7e201000")?;
    tree.end_node(aliases)?;
    let chosen = tree.begin_node("chosen")?;
    tree.property_string("stdout-path", "serial0:115200n8")?;
    tree.end_node(chosen)?;

    memory(&mut tree, "memory@0", 0, LOW_MEMORY)?;
    let (start, size) = HIGH_MEMORY;
    memory(&mut tree, "ram@40000000", start, size)?;
    cpus(&mut tree)?;
    soc(&mut tree)?;
    private_devices(&mut tree)?;
    tree.end_node(root)?;
    Ok(tree.finish()?)
}

fn memory(tree: &mut FdtWriter, name: &str, start: u32, size: u32) -> Result<()> {
    let node = tree.begin_node(name)?;
    tree.property_string("device_type", "memory")?;
    tree.property_array_u32("reg", &[0, start, size])?;
    Ok(tree.end_node(node)?)
}

fn cpus(tree: &mut FdtWriter) -> Result<()> {
    let cpus = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    for number in 0..CPUS {
        let cpu = tree.begin_node(&format!("cpu@{number}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_string("compatible", "arm,cortex-a72")?;
        tree.property_u32("reg", number)?;
        tree.property_string("enable-method", "spin-table")?;
        let word = FIRST_RELEASE_WORD + 8 * u64::from(number);
        tree.property_u64("cpu-release-addr", word)?;
        tree.property_phandle(FIRST_CPU + number)?;
        tree.end_node(cpu)?;
    }
    Ok(tree.end_node(cpus)?)
}

/// The bus of the peripherals, which have the VideoCore's addresses.
fn soc(tree: &mut FdtWriter) -> Result<()> {
    let soc = tree.begin_node("soc")?;
    tree.property_string("compatible", "simple-bus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 1)?;
    let windows = [
        [0x7e00_0000, 0, 0xfe00_0000, 0x0180_0000],
        [0x7c00_0000, 0, 0xfc00_0000, 0x0200_0000],
        [0x4000_0000, 0, 0xff80_0000, 0x0080_0000],
    ];
    tree.property_array_u32("ranges", windows.as_flattened())?;

    let uart = tree.begin_node("serial@7e201000")?;
    texts(tree, "compatible", &["arm,pl011", "arm,primecell"])?;
    tree.property_array_u32("reg", &[0x7e20_1000, 0x200])?;
    tree.property_array_u32("interrupts", &[SPI, 121, HIGH])?;
    tree.property_string("status", "okay")?;
    tree.end_node(uart)?;

    let gic = tree.begin_node("interrupt-controller@40041000")?;
    tree.property_string("compatible", "arm,gic-400")?;
    tree.property_null("interrupt-controller")?;
    tree.property_u32("#interrupt-cells", 3)?;
    // Distributor, CPU interface, and the two of virtualization.
    let registers = [
        [0x4004_1000, 0x1000],
        [0x4004_2000, 0x2000],
        [0x4004_4000, 0x2000],
        [0x4004_6000, 0x2000],
    ];
    tree.property_array_u32("reg", registers.as_flattened())?;
    tree.property_phandle(GIC)?;
    tree.end_node(gic)?;
    Ok(tree.end_node(soc)?)
}

/// What is part of each CPU: its generic timer and its performance counters.
fn private_devices(tree: &mut FdtWriter) -> Result<()> {
    let timer = tree.begin_node("timer")?;
    tree.property_string("compatible", "arm,armv8-timer")?;
    // Secure physical, non-secure physical, virtual, hypervisor.
    let interrupts = [13, 14, 11, 10].map(|number| [PPI, number, LOW_ON_ALL]);
    tree.property_array_u32("interrupts", interrupts.as_flattened())?;
    tree.end_node(timer)?;

    let pmu = tree.begin_node("arm-pmu")?;
    texts(
        tree,
        "compatible",
        &["arm,cortex-a72-pmu", "arm,armv8-pmuv3"],
    )?;
    let interrupts = [16, 17, 18, 19].map(|number| [SPI, number, HIGH]);
    tree.property_array_u32("interrupts", interrupts.as_flattened())?;
    let cpus: Vec<u32> = (FIRST_CPU..FIRST_CPU + CPUS).collect();
    tree.property_array_u32("interrupt-affinity", &cpus)?;
    Ok(tree.end_node(pmu)?)
}

fn texts(tree: &mut FdtWriter, name: &str, values: &[&str]) -> Result<()> {
    let values = values.iter().map(|text| (*text).to_owned()).collect();
    Ok(tree.property_string_list(name, values)?)
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
