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

// SAFETY: frames come from the allocator of physical memory, or before there is one from `early`,
// zeroed; the linear map shows all of RAM, Normal write-back, and before there is one the boot tables
// show the frames of `early` at the same addresses.
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
        // SAFETY: the caller's promise is the one that is asked for here; the allocator handed out
        // all frames but those that `early` did, which only a failed boot gives back.
        unsafe { frames::free(frame) };
    }

    #[inline(always)]
    fn table_ptr(&self, frame: Frame) -> NonNull<Table> {
        let address = linear_virt(frame.as_u64()) as usize;
        // SAFETY: the linear map starts in the upper half, so no address of it is 0.
        unsafe { NonNull::new_unchecked(ptr::with_exposed_provenance_mut(address)) }
    }
}

/// Makes `space` the kernel's address space for [`lock`]. From now on only the vmap area and
/// the device mappings can be changed: unmapping the image, the heap or the linear map
/// would pull memory from under code that never agreed to it.
pub fn install(mut space: Space) {
    space.restrict(CHANGEABLE);
    KERNEL_SPACE.call_once(|| LockedSpace::new(space));
}

/// The vmap area and the device mappings, with nothing in between but unused addresses.
const CHANGEABLE: PageRange = match PageRange::from_bounds(VMAP, DEVICE + DEVICE_SIZE) {
    Ok(range) => range,
    Err(_) => panic!("layout.rs orders its regions"),
};

/// The kernel's address space, locked. What is to share a batch is done under one guard, because the guard drains before it
/// unlocks.
pub type SpaceGuard = lazymmu::SpaceGuard<'static, 'static, Arm64, RawSpinLock>;

/// Takes the kernel's address space, of which the vmap area and the device mappings can be
/// changed. Interrupt handlers do not: they map through
/// slots whose tables exist already.
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

/// The kernel's address space to look at, if it exists and nobody holds it: for reports
/// from a fault or panic, which must not wait, and must leave what waits on this CPU as it is.
pub fn try_look() -> Option<impl Deref<Target = Space>> {
    KERNEL_SPACE.get()?.try_look()
}
