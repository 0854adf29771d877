// SPDX-License-Identifier: MIT OR Apache-2.0

//! What the kernel of an ending is given in place of an image and a device tree that are in order.
//!
//! Two ways lead around QEMU's own loading of a kernel:
//!
//! - the flat image with another `text_offset` in its header, which QEMU takes at its word
//!   ([`Given::Offset`]);
//! - its loader for raw files, on `virt`, with a few instructions that enter the flat image in
//!   place of firmware, and a device tree made here ([`Given::Loaded`]).

use super::trees::{self, Described};
use crate::qemu::Input;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;

/// Where the instructions, the tree and the image are loaded on `virt`: together in its first 3
/// MiB.
const FIRMWARE: u64 = 0x4018_0000;
const TREE: u64 = 0x4020_0000;
const IMAGE: u64 = 0x4028_0000;

/// Offset of `text_offset` in the header of the image.
const TEXT_OFFSET: usize = 8;

/// Offset of `totalsize` in a device tree blob.
const TOTAL_SIZE: usize = 4;

/// What the kernel is given.
#[derive(Clone, Copy)]
pub enum Given {
    /// What every boot gets.
    Usual,
    /// The ELF file and no device tree.
    Elf,
    /// The flat image and no device tree.
    NoTree,
    /// The ELF file at EL3, and no device tree unless QEMU makes one.
    AtEl3,
    /// A device tree that says nothing but how addresses are written.
    BareTree,
    /// One that is read, with a GICv3.
    TreeWithGicV3,
    /// The image at this offset from where QEMU loads kernels, in bytes.
    Offset(u64),
    /// The image by way of firmware.
    Loaded(Loaded),
    /// The image, entered at EL3 by CPU 1 while CPU 0 is somewhere else.
    WithoutCpu0,
}

/// A machine as firmware hands it over.
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
    /// What the tree says.
    pub tree: Described,
}

impl Loaded {
    /// Everything as it is.
    pub const USUAL: Self = Self {
        boot_cpu: 0,
        x0: TREE,
        tree_at: TREE,
        tree_size: None,
        tree: Described::USUAL,
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

    fn blob(&self, bootargs: &str) -> Result<Vec<u8>> {
        let mut blob = self.tree.blob(bootargs)?;
        if let Some(size) = self.tree_size {
            blob[TOTAL_SIZE..TOTAL_SIZE + 4].copy_from_slice(&size.to_be_bytes());
        }
        Ok(blob)
    }
}

impl Given {
    /// What QEMU is given for a boot of the flat image `image` with `bootargs`; its files are
    /// written into `folder`.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or written.
    pub fn input(&self, folder: &Path, image: &Path, bootargs: &str) -> Result<Input> {
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.join(name);
            fs::write(&path, bytes)
                .with_context(|| format!("cannot write {}", path.display()))
                .map(|()| path)
        };
        Ok(match self {
            Self::Usual | Self::AtEl3 => Input::Usual,
            Self::Elf => Input::Elf,
            Self::NoTree => Input::NoTree,
            Self::BareTree => Input::Tree(write("bare.dtb", &trees::bare()?)?),
            Self::TreeWithGicV3 => Input::Tree(write("gicv3.dtb", &trees::with_gicv3()?)?),
            Self::Offset(offset) => {
                let mut bytes =
                    fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
                bytes[TEXT_OFFSET..TEXT_OFFSET + 8].copy_from_slice(&offset.to_le_bytes());
                Input::Image(write("odd.img", &bytes)?)
            }
            Self::Loaded(loaded) => {
                let firmware = write("firmware.bin", &loaded.firmware())?;
                let tree = write("loaded.dtb", &loaded.blob(bootargs)?)?;
                let image = (image.to_owned(), IMAGE);
                Input::Raw(vec![(firmware, FIRMWARE), (tree, loaded.tree_at), image], 0)
            }
            Self::WithoutCpu0 => Input::Raw(vec![(image.to_owned(), IMAGE)], 1),
        })
    }
}
