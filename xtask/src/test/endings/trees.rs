// SPDX-License-Identifier: MIT OR Apache-2.0

//! Device trees for `virt` that QEMU's own is not.

use crate::qemu::tree::Node;
use anyhow::Result;

/// `phandle` of the interrupt controller.
const GIC: u32 = 1;

/// Above 1 GiB of RAM.
const NO_MEMORY: [u64; 2] = [0xc000_0000, 0x4000_0000];
/// Inside of the image, which QEMU loads to 0x4008_0000.
const IN_THE_IMAGE: u64 = 0x4009_0000;

/// The machine that firmware hands over, as its device tree describes it.
#[derive(Clone, Copy)]
pub struct Described {
    /// `model` of the root.
    pub model: &'static str,
    /// The PL011's address.
    pub uart: u64,
    /// Whether there is an interrupt controller.
    pub has_gic: bool,
    /// How many CPUs there are.
    pub cpus: u32,
    /// Whether they are started by words in memory; otherwise by PSCI.
    pub spin_table: bool,
    /// `method` of the PSCI node.
    pub psci: &'static str,
}

impl Described {
    /// Everything as it is.
    pub const USUAL: Self = Self {
        model: "made for this test",
        uart: 0x900_0000,
        has_gic: true,
        cpus: 2,
        spin_table: false,
        psci: "hvc",
    };

    /// The tree as a blob.
    pub fn blob(&self, bootargs: &str) -> Result<Vec<u8>> {
        let chosen = Node::new("chosen")
            .text("stdout-path", "/pl011")
            .text("bootargs", bootargs);
        // No CPU looks at the words.
        let word = |number| 0x4900_0000 + 8 * u64::from(number);
        let cpus = (0..self.cpus).map(|it| cpu(it, self.spin_table.then(|| word(it))));
        let timer = [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4];
        let gic = Node::new("intc@8000000")
            .text("compatible", "arm,cortex-a15-gic")
            .flag("interrupt-controller")
            .cells("#interrupt-cells", &[3])
            .words("reg", &[0x800_0000, 0x1_0000, 0x801_0000, 0x1_0000])
            .cells("phandle", &[GIC]);
        root(self.model)
            .with([chosen])
            .with([memory("memory@40000000", &[0x4000_0000, 0x4000_0000])])
            .with([Node::new("cpus").addresses(1, 0).with(cpus)])
            .with([psci(self.psci), timer_with("interrupts", &timer)])
            .with(self.has_gic.then_some(gic))
            .with([uart("pl011", self.uart)])
            .blob(&[])
    }
}

/// A device tree for 4 CPUs and a GICv3 that is right, or wrong without need to refuse it, in ways
/// that QEMU's own tree is not:
///
/// - the redistributors, which QEMU has in one region, are stated as three;
/// - the timer's interrupts are in `interrupts-extended`, and the first is not connected;
/// - CPU 3 is said to wait for a word inside the kernel's image;
/// - there is memory where the machine has none. QEMU overwrites nodes called `memory` only;
/// - the initial RAM disk is stated by one cell, and there is a reservation block.
///
/// # Errors
///
/// What the writer says; it does not depend on anything.
pub fn with_gicv3() -> Result<Vec<u8>> {
    let chosen = Node::new("chosen")
        .text("stdout-path", "/pl011@9000000")
        .cells("linux,initrd-start", &[0x5000_0000])
        .cells("linux,initrd-end", &[0x5012_3456]);
    let cpus = (0..4).map(|number| cpu(number, (number == 3).then_some(IN_THE_IMAGE)));
    let timer = [0, GIC, 1, 14, 4, GIC, 1, 11, 4, GIC, 1, 10, 4];
    // Distributor, and the redistributors of CPU 0, of 1 and 2, and of 3.
    let registers = [
        [0x800_0000, 0x1_0000],
        [0x80a_0000, 0x2_0000],
        [0x80c_0000, 0x4_0000],
        [0x810_0000, 0x6_0000],
    ];
    let gic = Node::new("intc@8000000")
        .text("compatible", "arm,gic-v3")
        .flag("interrupt-controller")
        .cells("#interrupt-cells", &[3])
        .cells("#redistributor-regions", &[3])
        .words("reg", registers.as_flattened())
        .cells("phandle", &[GIC]);
    root("an odd tree")
        .with([chosen, memory("ram", &NO_MEMORY)])
        .with([Node::new("cpus").addresses(1, 0).with(cpus)])
        .with([psci("hvc"), timer_with("interrupts-extended", &timer), gic])
        .with([uart("pl011@9000000", 0x900_0000)])
        .blob(&[(0x4100_0000, 0x1000)])
}

/// A tree whose root has nothing but its cell counts.
///
/// # Errors
///
/// What the writer says; it does not depend on anything.
pub fn bare() -> Result<Vec<u8>> {
    Node::new("").addresses(2, 2).blob(&[])
}

fn root(model: &str) -> Node {
    Node::new("")
        .addresses(2, 2)
        .text("compatible", "linux,dummy-virt")
        .text("model", model)
        .cells("interrupt-parent", &[GIC])
}

fn memory(name: &str, bank: &[u64]) -> Node {
    Node::new(name)
        .text("device_type", "memory")
        .words("reg", bank)
}

/// A CPU that waits for an address in this word, or else is started by PSCI.
fn cpu(number: u32, word: Option<u64>) -> Node {
    let cpu = Node::new(format!("cpu@{number}"))
        .text("device_type", "cpu")
        .cells("reg", &[number]);
    match word {
        Some(word) => cpu
            .text("enable-method", "spin-table")
            .words("cpu-release-addr", &[word]),
        None => cpu.text("enable-method", "psci"),
    }
}

fn psci(method: &str) -> Node {
    Node::new("psci")
        .text("compatible", "arm,psci-1.0")
        .text("method", method)
}

fn timer_with(interrupts: &'static str, cells: &[u32]) -> Node {
    Node::new("timer")
        .text("compatible", "arm,armv8-timer")
        .cells(interrupts, cells)
}

fn uart(name: &str, address: u64) -> Node {
    Node::new(name)
        .text("compatible", "arm,pl011")
        .words("reg", &[address, 0x1000])
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel::platform::devicetree::{DeviceTree, InterruptController};

    #[test]
    fn kernel_reads_it_as_it_is_meant() {
        let blob = with_gicv3().expect("a tree");
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

    #[test]
    fn bare_tree_has_the_size_it_says() {
        let blob = bare().expect("the tree is well-formed");
        assert_eq!(blob[..4], [0xd0, 0x0d, 0xfe, 0xed]);
        assert_eq!(blob[4..8], (blob.len() as u32).to_be_bytes());
    }
}
