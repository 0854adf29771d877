// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mappings of device registers. Linux: `ioremap()`.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use lazymmu::{AddressSpace, Backing, Frame, Kernel, PAGE_SIZE, PageRange, Prot, SpaceError};

use super::kernel_space::{self, MMU};
use super::layout::{DEVICE, DEVICE_SIZE, LINEAR_SIZE, linear_virt};
use crate::platform::phys_range::PhysRange;

/// The next free address of the device area. Device mappings are never undone.
static NEXT: AtomicU64 = AtomicU64::new(DEVICE);

/// Why registers could not be mapped.
#[derive(Clone, Copy, Debug)]
pub enum DeviceError {
    /// The device area is used up, or the registers lie beyond 2^48.
    NoRoom(PhysRange),
    /// The range lies in RAM, whose frames have owners and are mapped Normal.
    Memory(PhysRange),
    /// The mapping was refused.
    Space(SpaceError),
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom(range) => write!(
                f,
                "device registers at {range} do not fit: correct their `reg` in the device tree"
            ),
            Self::Memory(range) => write!(
                f,
                "device registers at {range} lie in RAM: correct their `reg`, or `/memory`, in the device tree"
            ),
            Self::Space(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for DeviceError {}

/// Maps the registers at `range` as Device-nGnRE, followed by an unmapped page.
/// Returns the address of the first byte of `range`.
///
/// # Errors
/// [`DeviceError`]; nothing is mapped and no address is taken.
pub fn map(range: PhysRange) -> Result<u64, DeviceError> {
    let virt = map_in(&mut kernel_space::lock(), range)?;
    // R41: the caller may access the registers at once, even if it is in a section.
    MMU.lazy().flush();
    Ok(virt)
}

/// The same in `space`, which is the kernel's address space or is about to become it.
pub(super) fn map_in<K: Kernel>(
    space: &mut AddressSpace<'_, K>,
    range: PhysRange,
) -> Result<u64, DeviceError> {
    let pages = range.grown_to_pages();
    let first = Frame::from_u64(pages.start()).ok_or(DeviceError::NoRoom(range))?;
    let count = pages.size() / PAGE_SIZE;
    // The linear map shows all of RAM. A leaf there means that the frame has an owner, or will have
    // one.
    let linear = PageRange::new(linear_virt(pages.start()), count);
    let mut is_memory = false;
    if let (Ok(linear), 0..LINEAR_SIZE) = (linear, pages.start()) {
        space.for_each_leaf_in(linear, |_, _, _| is_memory = true);
    }
    if is_memory {
        return Err(DeviceError::Memory(range));
    }
    // There is only one such space, and it is borrowed for writing, so no other call runs this code
    // now.
    let start = NEXT.load(Ordering::Relaxed);
    let next = start
        .checked_add(pages.size())
        .and_then(|end| end.checked_add(PAGE_SIZE))
        .filter(|end| *end <= DEVICE + DEVICE_SIZE)
        .ok_or(DeviceError::NoRoom(range))?;
    let virt = PageRange::new(start, count).map_err(|e| DeviceError::Space(e.into()))?;
    space
        .map(virt, Backing::Contiguous(first), Prot::DEVICE)
        .map_err(DeviceError::Space)?;
    NEXT.store(next, Ordering::Relaxed);
    Ok(start + range.start() % PAGE_SIZE)
}
