// SPDX-License-Identifier: MIT OR Apache-2.0

//! From the firmware's jump to `kernel_main`: exception level, early page tables, MMU on, upper
//! half.
//!
//! # What it guarantees to `kernel_main`
//!
//! - EL1 with SP_EL1, all of DAIF masked, FP/SIMD trapped (the kernel is built soft-float);
//! - MMU, data cache and instruction cache on, with the values of [`registers`];
//! - `.bss` zeroed, a stack with an unmapped page below it (linker.ld), `x29 = 0` as the end of
//!   every backtrace;
//! - TTBR1 maps the image at its link address and the boot window ([`window`]); TTBR0 still maps
//!   the first 2 MiB block of the image one to one, until [`drop_identity_map`];
//! - a [`Handoff`] with what the firmware said.
//!
//! # The order, and why
//!
//! 1. [`entry`]: is the image where its tables can map it, is this the boot CPU? Vectors. What is wrong is
//!    told by [`fail`], from here to the kernel's own vectors.
//! 2. [`el`]: EL3 or EL2 configure themselves so that EL1 is trapped nowhere, and drop. [`el3`]
//!    stays behind, and only when the entry was at EL3.
//! 3. [`tables`]: early tables with the data cache off, invalidated before and after.
//! 4. [`mmu_on`]: translation, caches and the upper half.
//! 5. [`handoff`]: the first Rust code: fills [`Handoff`], calls `kernel_main`, and finds the device tree
//!    when the kernel has its own vectors.
//!
//! Everything before step 5 is assembly: the compiler promises neither to avoid unaligned accesses
//! and `dc zva` nor to stay position independent, and both are needed while memory is Device-nGnRnE
//! (Arm ARM D8.2.12: all data accesses are, with the MMU off; H2 to H5 of docs/hardware.md).
//!
//! # What it does not do
//!
//! It starts no other CPU (it is only where they enter, see [`secondary`]), parses no device tree (it only
//! looks for the magic) and has no console: [`fail`] guesses one.

#![no_std]

#[cfg(target_os = "none")]
pub mod el;
#[cfg(target_os = "none")]
pub mod el3;
#[cfg(target_os = "none")]
pub mod entry;
#[cfg(target_os = "none")]
pub mod fail;
#[cfg(target_os = "none")]
pub mod handoff;
#[cfg(target_os = "none")]
pub mod linear;
#[cfg(target_os = "none")]
pub mod mmu_on;
#[cfg(target_os = "none")]
pub mod park;
pub mod registers;
#[cfg(target_os = "none")]
pub mod secondary;
#[cfg(target_os = "none")]
pub mod switch;
#[cfg(target_os = "none")]
pub mod tables;
#[cfg(target_os = "none")]
pub mod window;

#[cfg(target_os = "none")]
pub use self::{
    handoff::Handoff,
    linear::show_ram,
    switch::{drop_identity_map, replace_ttbr1},
    window::map_early_device,
};

/// Where the image is linked (`_image_start`), the only virtual address it can run at.
pub const IMAGE_VIRT: u64 = 0xffff_ffff_8008_0000;

/// Offset of the image from a 2 MiB boundary, in virtual and in physical memory, in bytes.
///
/// It equals the `text_offset` of the Image header, and is the same on both sides so that 2 MiB
/// blocks can map the image.
pub const IMAGE_OFFSET: u64 = 0x8_0000;

/// Size and alignment of the blocks in the early tables, in bytes.
pub const BLOCK_SIZE: u64 = 0x20_0000;

/// Number of the measured window from the first instruction to the call of `kernel_main`.
pub const TO_KERNEL_MAIN: u8 = 140;
/// Number of the measured window from the first instruction to what the kernel was booted for: the first
/// self-test, say.
pub const TO_THE_END_OF_BOOT: u8 = 142;
