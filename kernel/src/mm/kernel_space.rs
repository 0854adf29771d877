// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel's address space, and the `lazymmu` crate bound to this kernel.

use core::ops::Deref;
use core::ptr::{self, NonNull};

use lazymmu::{AddressSpace, Context, Frame, LockedSpace, Mmu, PageRange, Table, TableFrames};
use spin::once::Once;

use super::layout::{DEVICE, DEVICE_SIZE, VMAP, linear_virt};
use super::{early, frames};
use crate::arch::hardware::Arm64;
use crate::arch::relax::CpuRelax;
use crate::sched::RawSpinLock;

/// The `lazymmu` crate bound to this kernel.
pub static MMU: Mmu<Arm64> = Mmu::new(Arm64);

/// The address space type of this kernel.
pub type Space = AddressSpace<'static, Arm64>;

static KERNEL_SPACE: Once<LockedSpace<'static, Arm64, RawSpinLock>, CpuRelax> = Once::new();

// SAFETY: a table is a zeroed frame from the allocator of physical memory, or from `early` before
// there is such an allocator. The linear map shows all of RAM as Normal write-back. Before there is
// a linear map, the boot tables show the frames of `early` at the same addresses.
unsafe impl TableFrames for Arm64 {
    fn alloc_table(&self) -> Option<Frame> {
        match frames::alloc_zeroed() {
            Ok(frame) => Some(frame),
            Err(_) => early::alloc_zeroed(),
        }
    }

    unsafe fn free_table(&self, frame: Frame) {
        if early::is_open() {
            return;
        }
        // SAFETY: the caller gives the frame up. The allocator handed out all frames but those that
        // `early` did, and only a failed boot gives those back.
        unsafe { frames::free(frame) };
    }

    #[inline(always)]
    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        let address = linear_virt(frame.as_u64()) as usize;
        // SAFETY: the linear map starts in the upper half, so no address of it is 0.
        unsafe { NonNull::new_unchecked(ptr::with_exposed_provenance_mut(address)) }
    }
}

/// Makes `space` the kernel's address space for [`lock`]. From then on only the vmap area and the
/// device mappings can be changed. Unmapping the image, the heap or the linear map would remove
/// memory that running code uses.
pub fn install(mut space: Space) {
    space.restrict(CHANGEABLE);
    KERNEL_SPACE.call_once(|| LockedSpace::new(space));
}

/// The vmap area and the device mappings, with nothing in between but unused addresses.
const CHANGEABLE: PageRange = match PageRange::from_bounds(VMAP, DEVICE + DEVICE_SIZE) {
    Ok(range) => range,
    Err(_) => panic!("layout.rs orders its regions"),
};

/// The kernel's address space, locked. The guard drains the batch before it unlocks, so calls that
/// are to share a batch must be made under one guard.
pub type SpaceGuard = lazymmu::SpaceGuard<'static, 'static, Arm64, RawSpinLock>;

/// Locks the kernel's address space, in which the vmap area and the device mappings can be changed.
/// Interrupt handlers must not call it; they map through slots whose tables exist already.
///
/// # Panics
/// Before [`install`], and in interrupt context.
#[inline(never)]
pub fn lock() -> SpaceGuard {
    assert!(
        !Arm64.in_interrupt(),
        "an interrupt handler asked for the kernel's address space, whose lock the interrupted code may hold"
    );
    match KERNEL_SPACE.get() {
        Some(space) => space.lock(),
        None => unreachable!("mm::init installs the kernel's address space"),
    }
}

/// The kernel's address space for reading, if it exists and is not locked. It is for reports of a
/// fault or a panic, which must not wait, and must not touch what waits in this CPU's batch.
pub fn try_look() -> Option<impl Deref<Target = Space>> {
    KERNEL_SPACE.get()?.try_look()
}
