// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory management: from the boot tables to an address space of the kernel's own.
//!
//! [`init`] goes through these steps, and after it the boot tables are not used:
//!
//! 1. [`linear`]: all RAM, in the boot tables, which are live;
//! 2. [`image`]: a new root that shares the linear map and maps the image by pages, each
//!    part with its own permissions;
//! 3. the switch to the new root, and the end of the identity map;
//! 4. [`frames`] and [`heap`] take over what RAM is left;
//! 5. text and rodata become read-only in the linear map, too.
//!
//! From then on [`vmap`] and [`device`] map on top of [`kernel_space`].

pub mod device;
mod early;
pub mod fault;
pub mod frames;
pub mod heap;
pub mod image;
pub mod kernel_space;
pub mod layout;
pub mod linear;
pub mod vmap;

pub use kernel_space::MMU;

use boot::Handoff;
use mmu::{
    AddressSpace, Backend, BarrierPolicy, Features, Frame, Mmu, PageRange, Prot, SpaceError,
    SpaceKind,
};

use self::early::EarlyKernel;
use self::image::Image;
use self::layout::{LINEAR, LINEAR_SIZE, linear_pages};
use crate::platform::memory_map::{FrameRange, MemoryMap};
use crate::platform::phys_range::PhysRange;

/// How the `mmu` crate is to work.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// What the CPUs offer.
    pub features: Features,
    /// The strategy.
    pub backend: Backend,
    /// The barrier policy; checked against `features` by the caller.
    pub policy: BarrierPolicy,
}

/// Builds the kernel's address space and goes over to it.
///
/// # Safety
/// Called once, on the boot CPU, with the boot tables live, interrupts masked and nothing
/// but the image in use of what `memory` calls usable.
///
/// # Errors
/// Those of [`AddressSpace::map`], out of tables in particular.
pub unsafe fn init(
    handoff: &Handoff,
    memory: &MemoryMap,
    settings: Settings,
) -> Result<linear::Built, SpaceError> {
    let image = Image::new(handoff);
    let early = Mmu::new(EarlyKernel::new(image));
    configure(&early, settings);
    configure(&MMU, settings);

    // SAFETY: boot built this root; all its tables are in the image; nobody else
    // writes them (the boot window is not used any more).
    let mut boot_space =
        unsafe { AddressSpace::from_root(&early, SpaceKind::Kernel, table(handoff.early_ttbr1)) };
    let built = linear::build(&early, &mut boot_space, memory)?;

    let mut space = AddressSpace::new(&early, SpaceKind::Kernel)?;
    let linear_half = PageRange::new(LINEAR, LINEAR_SIZE / mmu::PAGE_SIZE)?;
    // SAFETY: the boot space is not used after this line, and the tables of the
    // linear map are never freed.
    unsafe { space.share_tables(&boot_space, linear_half)? };
    image.map(&mut space)?;
    let root = space.root();

    // SAFETY: the new root maps the image with its stack and the linear map, which is
    // all that is in use; the identity map is still there.
    unsafe { boot::replace_ttbr1(root.as_u64()) };
    // SAFETY: the vectors are the kernel's own, in the upper half, and no other CPU
    // is up.
    unsafe { boot::drop_identity_map() };
    // SAFETY: live since the line before last; all tables are in RAM, which the linear map
    // shows; `space` and `boot_space` are not used any more.
    unsafe { kernel_space::install(root) };

    let tables = early.kernel().frames().next();
    for range in memory.usable() {
        let bytes = range.bytes();
        // The range that holds the tables begins behind them.
        let start = if bytes.start() == built.tables.start() {
            tables
        } else {
            bytes.start()
        };
        if let Some(free) = PhysRange::from_bounds(start, bytes.end()).and_then(FrameRange::inside)
        {
            // SAFETY: usable RAM without the tables, mapped by the linear map, given once.
            unsafe { frames::add(free) };
        }
    }
    protect_image_alias(&image)?;
    Ok(built)
}

fn configure<K: mmu::Kernel>(mmu: &Mmu<K>, settings: Settings) {
    mmu.set_features(settings.features);
    let backend = mmu.set_backend(settings.backend);
    let policy = mmu.set_policy(settings.policy);
    assert!(
        backend.is_ok() && policy.is_ok(),
        "settings are checked before mm::init: {settings:?}"
    );
}

/// W^X holds for memory, not for addresses: what is executable at its link address
/// must not be writable through the linear map.
fn protect_image_alias(image: &Image) -> Result<(), SpaceError> {
    let frames = image.frames(image.read_only());
    match FrameRange::inside(frames) {
        Some(frames) => kernel_space::lock().protect(linear_pages(frames), Prot::KERNEL_RO),
        None => unreachable!("the image is page aligned"),
    }
}

fn table(phys: u64) -> Frame {
    match Frame::from_u64(phys) {
        Some(frame) => frame,
        None => unreachable!("linker.ld aligns the boot tables"),
    }
}
