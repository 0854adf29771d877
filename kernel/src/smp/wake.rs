// SPDX-License-Identifier: MIT OR Apache-2.0

//! The two ways in which a CPU is started: by firmware, or by a word in memory that it looks at.

use super::{CpuError, Machine};
use crate::{
    arch::{barrier, cache, interrupts},
    mm::{device, layout::linear_virt},
    platform::{
        devicetree::{Cpu, EnableMethod},
        phys_range::PhysRange,
        psci,
    },
};
use boot::secondary;
use core::{
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

/// How a CPU is started here.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    /// PSCI CPU_ON.
    Psci,
    /// Its word of the spin table, by physical address.
    SpinTable(u64),
}

/// How `cpu` is started, before anything is allocated for it.
pub(super) fn method(cpu: &Cpu, entry_el: u64) -> Result<Method, CpuError> {
    match cpu.enable_method {
        // Entered at EL3, the image's own stub would get the call (`boot::el3`).
        EnableMethod::Psci if entry_el == 3 => Err(CpuError::NoFirmware),
        EnableMethod::Psci => Ok(Method::Psci),
        EnableMethod::SpinTable { release_address } => Ok(Method::SpinTable(release_address)),
        EnableMethod::Unknown => Err(CpuError::UnknownMethod),
    }
}

/// Sends `cpu` to the entry of [`boot::secondary`].
///
/// # Safety
///
/// The root and the slots are prepared there, the slot of this CPU included, and completed by a DSB.
pub(super) unsafe fn wake(
    cpu: &Cpu,
    method: Method,
    machine: &Machine<'_>,
) -> Result<(), CpuError> {
    let entry = secondary::entry_phys();
    match method {
        Method::Psci => {
            // SAFETY: `entry` is made for this, and the caller has prepared what it needs.
            unsafe { psci::cpu_on(cpu.mpidr, entry) }.map_err(CpuError::CpuOn)
        }
        Method::SpinTable(word) => release(word, entry, machine),
    }
}

/// Writes `entry` into the spin table's `word`, which the tree says is one (H17, checked by its name in the
/// machine code).
#[inline(never)]
fn release(word: u64, entry: u64, machine: &Machine<'_>) -> Result<(), CpuError> {
    let Some(range) = PhysRange::new(word, size_of::<u64>() as u64) else {
        return Err(CpuError::UnknownMethod);
    };
    let shown = machine
        .memory
        .linear()
        .iter()
        .any(|ram| ram.bytes().start() <= range.start() && range.end() <= ram.bytes().end());
    // What the linear map shows must not be mapped a second time with other attributes (B2.11, H13); what
    // it does not show is mapped as Device, past the caches.
    let virt = if shown {
        linear_virt(word)
    } else {
        device::map(range)?
    };
    let place = ptr::with_exposed_provenance::<AtomicU64>(virt as usize);
    // SAFETY: mapped writable, 8-byte aligned (the tree was checked for it), and kept out of the frame
    // allocator by the memory map; one store, single-copy atomic for the CPU that waits.
    unsafe { &*place }.store(entry, Ordering::Release);
    if shown {
        // The CPU reads it with its caches off: from memory, not from this CPU's cache (H17, H12).
        cache::clean_and_invalidate_to_poc(virt..range_end(virt));
    }
    // In memory before the event that makes the CPU look (H17). Witness: `cargo xtask check`.
    barrier::dsb_sy();
    interrupts::send_event();
    Ok(())
}

/// End of the 64-bit word at `virt`.
const fn range_end(virt: u64) -> u64 {
    virt + size_of::<u64>() as u64
}
