// SPDX-License-Identifier: MIT OR Apache-2.0

//! The code from the firmware's jump to the call of `kernel_main`. It drops to EL1, builds early
//! page tables, turns the MMU on and jumps to the upper half.
//!
//! # What it guarantees to `kernel_main`
//!
//! - EL1 with SP_EL1, all of DAIF masked, FP/SIMD trapped (the kernel is built soft-float);
//! - MMU, data cache and instruction cache on, with the values of [`registers`];
//! - `.bss` zeroed, a stack with an unmapped page below it (linker.ld), `x29 = 0` as the end of
//!   every backtrace;
//! - TTBR1 maps the image at its link address and the boot window ([`window`]); TTBR0 still maps
//!   the first 2 MiB block of the image one to one, until [`drop_identity_map`];
//! - a [`Handoff`] with the facts about the entry.
//!
//! # The order, and why
//!
//! 1. [`entry`] installs vectors. It checks that the tables can map the image where it was loaded,
//!    and that this CPU is the boot CPU. From here until the kernel installs its own vectors,
//!    [`fail`] reports every error.
//! 2. [`el`] configures EL3 and EL2 so that they trap nothing from EL1, and drops to EL1. [`el3`]
//!    stays resident if the entry was at EL3.
//! 3. [`tables`] builds the early tables with the data cache off, and invalidates their cache lines
//!    before and after.
//! 4. [`mmu_on`] turns on translation and the caches; execution continues in the upper half.
//! 5. [`handoff`] is the first Rust code. It fills [`Handoff`] and calls `kernel_main`. It finds
//!    the device tree later, when the kernel has its own vectors.
//!
//! Everything before step 5 is assembly. With the MMU off, all data accesses are Device-nGnRnE
//! (Arm ARM D8.2.12), so the code must avoid unaligned accesses and `dc zva`, and it must be
//! position independent (H2 to H5 of docs/rules.md). The compiler promises none of this.
//!
//! # What it does not do
//!
//! It does not start other CPUs; it only contains the code at which they enter ([`secondary`]). It
//! does not parse the device tree; it only reads the magic and the size. It has no console;
//! [`fail`] derives the address of a UART from the load address.

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

/// The address at which the image is linked (`_image_start`). It can run at no other virtual
/// address.
pub const IMAGE_VIRT: u64 = 0xffff_ffff_8008_0000;

/// Offset of the image from a 2 MiB boundary, in virtual and in physical memory, in bytes.
///
/// It equals the `text_offset` of the Image header. Both offsets are equal so that 2 MiB blocks can
/// map the image.
pub const IMAGE_OFFSET: u64 = 0x8_0000;

/// Size and alignment of the blocks in the early tables, in bytes.
pub const BLOCK_SIZE: u64 = 0x20_0000;

/// Number of the measured window from the first instruction to the call of `kernel_main`.
pub const TO_KERNEL_MAIN: u8 = 140;
/// Number of the measured window from the first instruction to the start of the kernel's work, for
/// example the first self-test.
pub const TO_THE_END_OF_BOOT: u8 = 142;
