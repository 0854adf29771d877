// SPDX-License-Identifier: MIT OR Apache-2.0

//! A device tree for `virt` with 4 CPUs and a GICv3 that is right, or wrong without need to refuse it, in ways
//! that QEMU's own tree is not:
//!
//! - the redistributors, which QEMU has in one region, are stated as three;
//! - the timer's interrupts are in `interrupts-extended`, and the first is not connected;
//! - CPU 3 is said to wait for a word inside the kernel's image;
//! - there is memory where the machine has none. QEMU overwrites nodes called `memory` only;
//! - the initial RAM disk is stated by one cell, and there is a reservation block.

use anyhow::Result;
use vm_fdt::{FdtReserveEntry, FdtWriter};

const GIC: u32 = 1;
/// Inside of the image, which QEMU loads to 0x4008_0000.
const IN_THE_IMAGE: u64 = 0x4009_0000;
/// Above 1 GiB of RAM.
const NO_MEMORY: [u64; 2] = [0xc000_0000, 0x4000_0000];

/// Distributor, and the redistributors of CPU 0, of 1 and 2, and of 3.
const GIC_REGISTERS: [u64; 8] = [
    0x800_0000, 0x1_0000, //
    0x80a_0000, 0x2_0000, //
    0x80c_0000, 0x4_0000, //
    0x810_0000, 0x6_0000,
];

/// The blob.
///
/// # Errors
///
/// What the writer says; it does not depend on anything.
pub fn blob() -> Result<Vec<u8>> {
    let mut tree = FdtWriter::new_with_mem_reserv(&[FdtReserveEntry::new(0x4100_0000, 0x1000)?])?;
    let root = tree.begin_node("")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_string("compatible", "linux,dummy-virt")?;
    tree.property_string("model", "an odd tree")?;
    tree.property_u32("interrupt-parent", GIC)?;

    let chosen = tree.begin_node("chosen")?;
    tree.property_string("stdout-path", "/pl011@9000000")?;
    tree.property_u32("linux,initrd-start", 0x5000_0000)?;
    tree.property_u32("linux,initrd-end", 0x5012_3456)?;
    tree.end_node(chosen)?;

    let memory = tree.begin_node("ram")?;
    tree.property_string("device_type", "memory")?;
    tree.property_array_u64("reg", &NO_MEMORY)?;
    tree.end_node(memory)?;

    let cpus = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    for number in 0..4 {
        let cpu = tree.begin_node(&format!("cpu@{number}"))?;
        tree.property_string("device_type", "cpu")?;
        tree.property_u32("reg", number)?;
        if number == 3 {
            tree.property_string("enable-method", "spin-table")?;
            tree.property_u64("cpu-release-addr", IN_THE_IMAGE)?;
        } else {
            tree.property_string("enable-method", "psci")?;
        }
        tree.end_node(cpu)?;
    }
    tree.end_node(cpus)?;

    let psci = tree.begin_node("psci")?;
    tree.property_string("compatible", "arm,psci-1.0")?;
    tree.property_string("method", "hvc")?;
    tree.end_node(psci)?;

    let timer = tree.begin_node("timer")?;
    tree.property_string("compatible", "arm,armv8-timer")?;
    let interrupts = [0, GIC, 1, 14, 4, GIC, 1, 11, 4, GIC, 1, 10, 4];
    tree.property_array_u32("interrupts-extended", &interrupts)?;
    tree.end_node(timer)?;

    let gic = tree.begin_node("intc@8000000")?;
    tree.property_string("compatible", "arm,gic-v3")?;
    tree.property_null("interrupt-controller")?;
    tree.property_u32("#interrupt-cells", 3)?;
    tree.property_u32("#redistributor-regions", 3)?;
    tree.property_array_u64("reg", &GIC_REGISTERS)?;
    tree.property_u32("phandle", GIC)?;
    tree.end_node(gic)?;

    let uart = tree.begin_node("pl011@9000000")?;
    tree.property_string("compatible", "arm,pl011")?;
    tree.property_array_u64("reg", &[0x900_0000, 0x1000])?;
    tree.end_node(uart)?;
    tree.end_node(root)?;
    Ok(tree.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::platform::devicetree::{DeviceTree, InterruptController};

    #[test]
    fn kernel_reads_it_as_it_is_meant() {
        let blob = blob().expect("a tree");
        let tree = DeviceTree::new(&blob).expect("a right blob");
        let machine = tree.describe().expect("a right tree");
        let InterruptController::GicV3 { redistributors, .. } = machine.interrupt_controller else {
            panic!("{machine:?}");
        };
        assert_eq!(redistributors.len(), 3);
        assert_eq!(machine.reservations.len(), 2);
        assert_eq!(machine.timer.virtual_timer, Some(27));
        assert_eq!(machine.cpus.len(), 4);
        assert!(machine.notes.is_empty(), "{:?}", machine.notes);
    }
}
