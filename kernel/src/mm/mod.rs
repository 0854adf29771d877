// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory management: from the boot tables to an address space of the kernel's own.
//!
//! [`init`] goes through these steps, and after it the boot tables are not used:
//!
//! 1. [`linear`]: all RAM, in the boot tables, which are live;
//! 2. [`image`]: a new root that shares the linear map and maps the image by pages, each
//!    part with its own permissions; text and rodata become read-only in the linear map, too;
//! 3. the console's registers, so that the kernel can speak right after
//! 4. the switch to the new root, and the end of the identity map;
//! 5. [`frames`] and [`heap`] take over what RAM is left.
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
pub mod terms;
pub mod vmap;

pub use kernel_space::MMU;

use core::fmt;

use boot::Handoff;
use mmu::{
    AddressSpace, Backend, BarrierPolicy, Features, Frame, Mmu, PageRange, Prot, SpaceError,
    SpaceKind,
};

use self::early::EarlyKernel;
use self::image::Image;
use self::layout::{LINEAR, LINEAR_SIZE, linear_pages};
use crate::platform::console;
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

/// Why the kernel has no address space of its own.
#[derive(Clone, Copy, Debug)]
pub enum InitError {
    /// A mapping was refused; out of tables in particular.
    Space(SpaceError),
    /// The console's registers cannot be mapped.
    Console(device::DeviceError),
}

impl From<SpaceError> for InitError {
    fn from(error: SpaceError) -> Self {
        Self::Space(error)
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Space(error) => error.fmt(f),
            Self::Console(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for InitError {}

/// Builds the kernel's address space and goes over to it. What can fail comes before the
/// switch, while the console still works in the boot window; `use_console` is told
/// where its registers are afterwards, as soon as there is an afterwards.
///
/// # Safety
/// Called once, on the boot CPU, with the boot tables live, interrupts masked and nothing
/// but the image in use of what `memory` calls usable.
///
/// # Errors
/// [`InitError`]; the boot tables are still live.
pub unsafe fn init(
    handoff: &Handoff,
    memory: &MemoryMap,
    settings: Settings,
    console: Option<PhysRange>,
    use_console: impl FnOnce(Option<u64>),
) -> Result<linear::Built, InitError> {
    let image = Image::new(handoff);
    let early = Mmu::new(EarlyKernel::new(image));
    // Nothing of what is built here can wait: whole tables are filled, and nothing is changed. So the
    // early tables need no batch, and the code of the backends that do is in the image once.
    let backend = match settings.backend {
        Backend::Eager => Backend::Eager,
        _ => Backend::DeferBarriers,
    };
    configure(
        &early,
        Settings {
            backend,
            ..settings
        },
    );
    configure(&MMU, settings);

    // SAFETY: boot built this root; all its tables are in the image; nobody else
    // writes them (the boot window is filled once, before).
    let mut boot_space =
        unsafe { AddressSpace::from_root(&early, SpaceKind::Kernel, table(handoff.early_ttbr1)) };
    let built = linear::build(&early, &mut boot_space, memory)?;

    let mut space = AddressSpace::new(&early, SpaceKind::Kernel)?;
    let linear_half =
        PageRange::new(LINEAR, LINEAR_SIZE / mmu::PAGE_SIZE).map_err(SpaceError::from)?;
    // SAFETY: the boot space is not used after this line, and the tables of the
    // linear map are never freed.
    unsafe { space.share_tables(&boot_space, linear_half)? };
    image.map(&mut space)?;
    protect_image_alias(&image, &mut space)?;
    let console = console
        .map(|registers| device::map_in(&mut space, registers))
        .transpose()
        .map_err(InitError::Console)?;
    let root = space.root();

    // The boot window, and the UART in it, is about to go.
    console::suspend();
    // SAFETY: the new root maps the image with its stack and the linear map, which is
    // all that is in use; the identity map is still there.
    unsafe { boot::replace_ttbr1(root.as_u64()) };
    use_console(console);
    // SAFETY: the vectors are the kernel's own, in the upper half, and no other CPU
    // is up.
    unsafe { boot::drop_identity_map() };
    // SAFETY: live since the switch; all tables are in RAM, which the linear map shows;
    // `space` and `boot_space` are not used any more.
    kernel_space::install(unsafe { kernel_space::take_over(root) });

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
fn protect_image_alias<K: mmu::Kernel>(
    image: &Image,
    space: &mut AddressSpace<'_, K>,
) -> Result<(), SpaceError> {
    let frames = image.frames(image.read_only());
    match FrameRange::inside(frames) {
        Some(frames) => space.protect(linear_pages(frames), Prot::KERNEL_RO),
        None => unreachable!("the image is page aligned"),
    }
}

fn table(phys: u64) -> Frame {
    match Frame::from_u64(phys) {
        Some(frame) => frame,
        None => unreachable!("linker.ld aligns the boot tables"),
    }
}
