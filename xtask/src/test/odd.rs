// SPDX-License-Identifier: MIT OR Apache-2.0

//! Boots that go wrong before the kernel has a console, or because of what the device tree says.
//!
//! Two ways lead around QEMU's own loading of a kernel:
//!
//! - the flat image with another `text_offset` in its header, which QEMU takes at its word ([`Odd::Offset`]);
//! - its loader for raw files, on `virt`, with a few instructions that enter the flat image in place of firmware, and a
//!   device tree made here ([`Odd::Loaded`]).

use crate::qemu::Input;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use vm_fdt::FdtWriter;

/// Where the instructions, the tree and the image are loaded on `virt`: together in its first 3 MiB.
const FIRMWARE: u64 = 0x4018_0000;
const TREE: u64 = 0x4020_0000;
const IMAGE: u64 = 0x4028_0000;

/// Offset of `text_offset` in the header of the image.
const TEXT_OFFSET: usize = 8;

/// Offset of `totalsize` in a device tree blob.
const TOTAL_SIZE: usize = 4;

/// `phandle` of the interrupt controller.
const GIC: u32 = 1;

/// What is odd.
#[derive(Clone, Copy)]
pub enum Odd {
    /// The image's offset from where QEMU loads kernels, in bytes.
    Offset(u64),
    /// All of this.
    Loaded(Loaded),
    /// The image, entered at EL3 by CPU 1 while CPU 0 is somewhere else.
    WithoutCpu0,
}

/// A machine as firmware hands it over, and as its device tree describes it.
#[derive(Clone, Copy)]
pub struct Loaded {
    /// The CPU that boots, 0 or 1; the other one is off.
    pub boot_cpu: u32,
    /// What firmware passes in x0.
    pub x0: u64,
    /// Where the tree is loaded.
    pub tree_at: u64,
    /// `totalsize` of the tree, if it lies.
    pub tree_size: Option<u32>,
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

impl Loaded {
    /// Everything as it is.
    pub const USUAL: Self = Self {
        boot_cpu: 0,
        x0: TREE,
        tree_at: TREE,
        tree_size: None,
        model: "made for this test",
        uart: 0x900_0000,
        has_gic: true,
        cpus: 2,
        spin_table: false,
        psci: "hvc",
    };

    /// The instructions that enter the image.
    fn firmware(&self) -> Vec<u8> {
        let mut code: Vec<u32> = match self.boot_cpu {
            0 => Vec::new(),
            // The numbers are those of PSCI (DEN 0022): CPU_ON, CPU_OFF.
            _ => vec![
                0xd503_201f, // nop, so that the values below are aligned
                0xd280_0060, // movz x0, #0x0003
                0xf2b8_8000, // movk x0, #0xc400, lsl #16
                0xd280_0021, // mov x1, #1
                0x1000_00c2, // adr x2, .+24
                0xd280_0003, // mov x3, #0
                0xd400_0002, // hvc #0
                0xd280_0040, // movz x0, #0x0002
                0xf2b0_8000, // movk x0, #0x8400, lsl #16
                0xd400_0002, // hvc #0
            ],
        };
        code.extend([
            0x5800_0080, // ldr x0, .+16
            0x5800_00a4, // ldr x4, .+20
            0xd61f_0080, // br x4
            0xd503_201f, // nop
        ]);
        let values = [self.x0, IMAGE].into_iter().flat_map(u64::to_le_bytes);
        code.into_iter()
            .flat_map(u32::to_le_bytes)
            .chain(values)
            .collect()
    }

    /// The tree as a blob.
    fn tree(&self, bootargs: &str) -> Result<Vec<u8>> {
        let mut tree = FdtWriter::new()?;
        let root = tree.begin_node("")?;
        tree.property_u32("#address-cells", 2)?;
        tree.property_u32("#size-cells", 2)?;
        tree.property_string("compatible", "linux,dummy-virt")?;
        tree.property_string("model", self.model)?;
        tree.property_u32("interrupt-parent", GIC)?;
        let chosen = tree.begin_node("chosen")?;
        tree.property_string("stdout-path", "/pl011")?;
        tree.property_string("bootargs", bootargs)?;
        tree.end_node(chosen)?;
        let memory = tree.begin_node("memory@40000000")?;
        tree.property_string("device_type", "memory")?;
        tree.property_array_u64("reg", &[0x4000_0000, 0x4000_0000])?;
        tree.end_node(memory)?;
        self.cpus(&mut tree)?;
        let psci = tree.begin_node("psci")?;
        tree.property_string("compatible", "arm,psci-1.0")?;
        tree.property_string("method", self.psci)?;
        tree.end_node(psci)?;
        let timer = tree.begin_node("timer")?;
        tree.property_string("compatible", "arm,armv8-timer")?;
        tree.property_array_u32("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4])?;
        tree.end_node(timer)?;
        if self.has_gic {
            let gic = tree.begin_node("intc@8000000")?;
            tree.property_string("compatible", "arm,cortex-a15-gic")?;
            tree.property_null("interrupt-controller")?;
            tree.property_u32("#interrupt-cells", 3)?;
            tree.property_array_u64("reg", &[0x800_0000, 0x1_0000, 0x801_0000, 0x1_0000])?;
            tree.property_phandle(GIC)?;
            tree.end_node(gic)?;
        }
        let uart = tree.begin_node("pl011")?;
        tree.property_string("compatible", "arm,pl011")?;
        tree.property_array_u64("reg", &[self.uart, 0x1000])?;
        tree.end_node(uart)?;
        tree.end_node(root)?;
        let mut blob = tree.finish()?;
        if let Some(size) = self.tree_size {
            blob[TOTAL_SIZE..TOTAL_SIZE + 4].copy_from_slice(&size.to_be_bytes());
        }
        Ok(blob)
    }

    fn cpus(&self, tree: &mut FdtWriter) -> Result<()> {
        let cpus = tree.begin_node("cpus")?;
        tree.property_u32("#address-cells", 1)?;
        tree.property_u32("#size-cells", 0)?;
        for number in 0..self.cpus {
            let cpu = tree.begin_node(&format!("cpu@{number}"))?;
            tree.property_string("device_type", "cpu")?;
            tree.property_u32("reg", number)?;
            if self.spin_table {
                tree.property_string("enable-method", "spin-table")?;
                // Nobody looks there.
                let word = 0x4900_0000 + 8 * u64::from(number);
                tree.property_u64("cpu-release-addr", word)?;
            } else {
                tree.property_string("enable-method", "psci")?;
            }
            tree.end_node(cpu)?;
        }
        Ok(tree.end_node(cpus)?)
    }
}

/// Files for one boot.
#[derive(Debug)]
pub struct Files {
    image: PathBuf,
    /// What else QEMU loads, and where, and which CPU starts at the first of it.
    raw: Option<(Vec<(PathBuf, u64)>, u32)>,
}

impl Files {
    /// What QEMU is given.
    pub fn input(&self) -> Input<'_> {
        match &self.raw {
            None => Input::Image(&self.image),
            Some((raw, cpu)) => Input::Raw(raw, *cpu),
        }
    }
}

impl Odd {
    /// Writes the files for a boot of the flat image `image` with `bootargs` into `directory`.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written.
    pub fn write(&self, directory: &Path, image: &Path, bootargs: &str) -> Result<Files> {
        let write = |name: &str, bytes: &[u8]| {
            let path = directory.join(name);
            fs::write(&path, bytes)
                .with_context(|| format!("cannot write {}", path.display()))
                .map(|()| path)
        };
        match self {
            Self::Offset(offset) => {
                let mut bytes =
                    fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
                bytes[TEXT_OFFSET..TEXT_OFFSET + 8].copy_from_slice(&offset.to_le_bytes());
                Ok(Files {
                    image: write("odd.img", &bytes)?,
                    raw: None,
                })
            }
            Self::Loaded(loaded) => {
                let firmware = write("odd-firmware.bin", &loaded.firmware())?;
                let tree = write("odd.dtb", &loaded.tree(bootargs)?)?;
                Ok(Files {
                    image: image.to_owned(),
                    raw: Some((
                        vec![
                            (firmware, FIRMWARE),
                            (tree, loaded.tree_at),
                            (image.to_owned(), IMAGE),
                        ],
                        0,
                    )),
                })
            }
            Self::WithoutCpu0 => Ok(Files {
                image: image.to_owned(),
                raw: Some((vec![(image.to_owned(), IMAGE)], 1)),
            }),
        }
    }
}
