// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory management: the kernel's own address space, the frames and the heap.
//!
//! [`init`] performs these steps. After it the boot tables are not used any more:
//!
//! 1. `early` hands out RAM, which the boot tables show, for the root and its tables;
//! 2. [`linear`] maps all RAM;
//! 3. [`image`] maps the image by pages, each part with its own permissions, and text and rodata
//!    become read-only in the linear map, too;
//! 4. [`device`] maps the console's registers, so that the kernel can print right after the switch;
//! 5. the boot CPU switches to the new root, and the identity map is removed;
//! 6. [`frames`] gets the RAM that is left. [`heap`] takes its memory from there.
//!
//! From then on [`vmap`] and [`device`] add mappings to [`kernel_space`].

pub mod area;
pub mod device;
mod early;
pub mod fault;
pub mod frames;
pub mod heap;
pub mod image;
pub mod kernel_space;
pub mod layout;
pub mod linear;
pub(crate) mod pages;
pub mod terms;
pub mod vmap;

pub use kernel_space::MMU;

use core::fmt;

use boot::Handoff;
use lazymmu::{AddressSpace, Backend, BarrierPolicy, Features, Prot, SpaceError, SpaceKind};

use self::image::Image;
use self::layout::linear_pages;
use crate::platform::console;
use crate::platform::memory_map::{FrameRange, MemoryMap};
use crate::platform::phys_range::PhysRange;

/// The settings of the `lazymmu` crate.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The features of the CPUs.
    pub features: Features,
    /// The strategy.
    pub backend: Backend,
    /// The barrier policy; checked against `features` by the caller.
    pub policy: BarrierPolicy,
}

/// The result of [`init`].
#[derive(Clone, Copy, Debug)]
pub struct Built {
    /// The linear map.
    pub linear: linear::Built,
    /// The RAM that holds tables now.
    pub tables: PhysRange,
}

/// Why the kernel could not build its own address space.
#[derive(Clone, Copy, Debug)]
pub enum InitError {
    /// A mapping was refused, for example because no memory for tables was left.
    Space(SpaceError),
    /// The console's registers could not be mapped.
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

/// Builds the kernel's address space and switches to it. Everything that can fail comes before the
/// switch, while the console still works in the boot window. `use_console` is called right after
/// the switch, with the new address of the console's registers.
///
/// # Safety
/// Called once, on the boot CPU, while the boot tables are live and interrupts are masked. Of what
/// `memory` calls usable, only the image is in use.
///
/// # Errors
/// [`InitError`]; the boot tables are still live.
pub unsafe fn init(
    handoff: &Handoff,
    memory: &MemoryMap,
    settings: Settings,
    console: Option<PhysRange>,
    use_console: impl FnOnce(Option<u64>),
) -> Result<Built, InitError> {
    let image = Image::new(handoff);
    // No CPU uses the new tables yet, so nothing is gained if stores or invalidations wait. A
    // strategy without a batch is enough.
    let backend = match settings.backend {
        Backend::Eager => Backend::Eager,
        _ => Backend::DeferBarriers,
    };
    configure(Settings {
        backend,
        ..settings
    });
    // SAFETY: this function's contract.
    let tables_start = unsafe { early::open(memory) };
    let mut space = AddressSpace::new(&MMU, SpaceKind::Kernel)?;
    let linear = linear::build(&mut space, memory)?;
    image.map(&mut space)?;
    protect_image_alias(&image, &mut space)?;
    let console = console
        .map(|registers| device::map_in(&mut space, registers))
        .transpose()
        .map_err(InitError::Console)?;
    let root = space.root();

    // The boot window, which shows the UART, is removed by the switch.
    console::suspend();
    // SAFETY: the new root maps the image with its stack, and the linear map. Nothing else is in
    // use. The identity map is still there.
    unsafe { boot::replace_ttbr1(root.as_u64()) };
    use_console(console);
    // SAFETY: the vectors are the kernel's own, in the upper half, and no other CPU is up.
    unsafe { boot::drop_identity_map() };
    // From here on `early` hands out nothing. The linear map shows its frames like all RAM.
    let Some(tables) = early::close(tables_start) else {
        unreachable!("the address space has a root");
    };
    configure(settings);
    kernel_space::install(space);

    for range in memory.usable() {
        for free in without(range.bytes(), tables) {
            // SAFETY: the range is usable RAM without the tables, the linear map shows it, and it
            // is given once.
            unsafe { frames::add(free) };
        }
    }
    Ok(Built { linear, tables })
}

fn configure(settings: Settings) {
    // SAFETY: `settings` has the features that this CPU has. Each CPU that comes up later is
    // checked against them before it works with the tables (`smp`).
    unsafe { MMU.set_features(settings.features) };
    // SAFETY: there is only one task yet, and it runs this function.
    let backend = unsafe { MMU.set_backend(settings.backend) };
    let policy = MMU.set_policy(settings.policy);
    assert!(
        backend.is_ok() && policy.is_ok(),
        "settings are checked before mm::init: {settings:?}"
    );
}

/// The frames of `range` below and above `hole`.
fn without(range: PhysRange, hole: PhysRange) -> impl Iterator<Item = FrameRange> {
    [
        (range.start(), range.end().min(hole.start())),
        (range.start().max(hole.end()), range.end()),
    ]
    .into_iter()
    .filter_map(|(start, end)| PhysRange::from_bounds(start, end).and_then(FrameRange::inside))
}

/// Makes text and rodata read-only in the linear map. W^X holds for memory, not for addresses: what
/// is executable at its link address must not be writable through the linear map.
fn protect_image_alias(image: &Image, space: &mut kernel_space::Space) -> Result<(), SpaceError> {
    let frames = image.frames(image.read_only());
    match FrameRange::inside(frames) {
        Some(frames) => space.protect(linear_pages(frames), Prot::KERNEL_RO),
        None => unreachable!("the image is page aligned"),
    }
}
