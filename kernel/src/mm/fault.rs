// SPDX-License-Identifier: MIT OR Apache-2.0
//! Explains a faulting address in the report of an exception: its region, and what a walk finds
//! there.

use core::fmt;

use lazymmu::VirtAddr;

use super::layout::{
    DEVICE, DEVICE_SIZE, LINEAR, LINEAR_SIZE, STACKS, STACKS_SIZE, VMAP, VMAP_SIZE,
};
use super::{image, kernel_space};

/// Writes which region `virt` is in, and each descriptor that a walk of it reads. It waits for no
/// lock: if the tables are being changed, it says so.
///
/// # Errors
/// Those of `out`.
pub fn explain(virt: u64, out: &mut dyn fmt::Write) -> fmt::Result {
    write!(out, "{}", region(virt))?;
    let Some(va) = VirtAddr::new(virt) else {
        return write!(
            out,
            "; bits [63:48] are neither all zero nor all one, so no table is walked"
        );
    };
    let Some(space) = kernel_space::try_look() else {
        return write!(
            out,
            "; not walked: the kernel's tables are being changed, or do not exist yet"
        );
    };
    if va.half() != space.kind().half() {
        return write!(out, "; nothing is mapped there");
    }
    let mut result = Ok(());
    space.walk(va, |level, entry| {
        if result.is_ok() {
            result = write!(out, "; level {}: {}", level as u8, entry.at(level));
        }
    });
    result
}

fn region(virt: u64) -> &'static str {
    let [boot_guard, emergency_guard] = image::stack_guards();
    match virt {
        0..0x1000 => "in the first page: a null pointer",
        LINEAR.. if virt - LINEAR < LINEAR_SIZE => "in the linear map",
        VMAP.. if virt - VMAP < VMAP_SIZE => "in the vmap area",
        STACKS.. if virt - STACKS < STACKS_SIZE => {
            "among the stacks of tasks; if nothing is mapped there it is a guard page: the stack above \
             overflowed"
        }
        DEVICE.. if virt - DEVICE < DEVICE_SIZE => "in the device mappings",
        _ if boot_guard.contains(&virt) => {
            "in the guard page below the boot stack: the stack overflowed"
        }
        _ if emergency_guard.contains(&virt) => "in the guard page below the emergency stack",
        boot::IMAGE_VIRT.. => "in the kernel image",
        LINEAR.. => "in a hole of the kernel's half",
        _ => "in the lower half",
    }
}
