// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine around the CPU: its description, and the devices that the kernel drives.

pub mod bootargs;
#[cfg(target_os = "none")]
pub mod console;
pub mod devicetree;
#[cfg(target_os = "none")]
pub mod exit;
#[cfg(target_os = "none")]
pub mod interrupts;
pub mod memory_map;
pub mod patience;
pub mod phys_range;
#[cfg(target_os = "none")]
pub mod psci;
#[cfg(target_os = "none")]
pub mod stop;
