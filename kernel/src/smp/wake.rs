// SPDX-License-Identifier: MIT OR Apache-2.0

//! The two ways to start a CPU: by firmware, or by a word in memory that the CPU polls.

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

/// How a CPU of this machine is started.
#[derive(Clone, Copy, Debug)]
pub(super) enum Method {
    /// PSCI CPU_ON.
    Psci,
    /// Spin table: the physical address of the CPU's word.
    SpinTable(u64),
}

/// Determines how `cpu` is started, before anything is allocated for it.
pub(super) fn method(cpu: &Cpu, entry_el: u64) -> Result<Method, CpuError> {
    match cpu.enable_method {
        // After an entry at EL3 the image's own stub would get the call (`boot::el3`).
        EnableMethod::Psci if entry_el == 3 => Err(CpuError::NoFirmware),
        EnableMethod::Psci => Ok(Method::Psci),
        EnableMethod::SpinTable { release_address } => Ok(Method::SpinTable(release_address)),
        EnableMethod::Unknown => Err(CpuError::UnknownMethod),
    }
}

/// Starts `cpu` at the entry of [`boot::secondary`].
///
/// # Safety
///
/// The root and the slots are prepared there, including this CPU's slot, and a DSB has completed
/// these stores.
pub(super) unsafe fn wake(
    cpu: &Cpu,
    method: Method,
    machine: &Machine<'_>,
) -> Result<(), CpuError> {
    let entry = secondary::entry_phys();
    match method {
        Method::Psci => {
            // SAFETY: `entry` is an entry for CPUs, and the caller has prepared what it needs.
            unsafe { psci::cpu_on(cpu.mpidr, entry) }.map_err(CpuError::CpuOn)
        }
        Method::SpinTable(word) => release(word, entry, machine),
    }
}

/// Writes `entry` into the spin table's `word`, whose address the tree gives (H17; the check finds
/// this function by its name in the machine code).
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
    // Memory in the linear map must not be mapped a second time with other attributes (H13).
    // Memory outside of it is mapped as Device, which is not cached.
    let virt = if shown {
        linear_virt(word)
    } else {
        device::map(range)?
    };
    let place = ptr::with_exposed_provenance::<AtomicU64>(virt as usize);
    // SAFETY: the word is mapped writable and 8-byte aligned (checked when the tree was read), and
    // the memory map keeps it out of the frame allocator. It is one store, single-copy atomic for
    // the CPU that polls it.
    unsafe { &*place }.store(entry, Ordering::Release);
    if shown {
        // The CPU reads it with its caches off, so it sees memory, not this CPU's cache (H17, H12).
        cache::clean_and_invalidate_to_poc(virt..range_end(virt));
    }
    // The word is in memory before the event that makes the CPU read it (H17). Witness: `cargo
    // xtask check`.
    barrier::dsb_sy();
    interrupts::send_event();
    Ok(())
}

/// End of the 64-bit word at `virt`.
const fn range_end(virt: u64) -> u64 {
    virt + size_of::<u64>() as u64
}
