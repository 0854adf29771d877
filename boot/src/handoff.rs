// SPDX-License-Identifier: MIT OR Apache-2.0

//! The first Rust code: it passes [`Handoff`] to the kernel. It finds the device tree once the
//! kernel can take a fault.

use crate::{BLOCK_SIZE, IMAGE_OFFSET, window};
use core::{cell::UnsafeCell, fmt};

/// What the boot code tells the kernel. All fields are plain numbers; sizes are in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Handoff {
    /// Physical address of `_image_start`.
    pub image_phys: u64,
    /// Physical address of the device tree blob, as [`Handoff::with_device_tree`] has found it; 0
    /// if there is none. The candidates are x0, then the start of the image's 2 MiB block, and
    /// then, after an entry at EL3 only, the start of the block below. When QEMU loads an ELF file,
    /// it puts the blob at the start of RAM and leaves x0 = 0.
    pub dtb_phys: u64,
    /// Its address in the boot window, 0 if there is none.
    pub dtb_virt: u64,
    /// Its `totalsize`; 0 if there is none. If `totalsize` exceeds [`DTB_MAX`], the blob is
    /// refused: this is 0 and `dtb_phys` is set.
    pub dtb_size: u64,
    /// x0 as the firmware gave it, for messages.
    pub x0: u64,
    /// Exception level at entry: 1, 2 or 3.
    pub entry_el: u64,
}

impl fmt::Display for Handoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "entered at EL{}, image at {:#x}, device tree ",
            self.entry_el, self.image_phys
        )?;
        if self.dtb_size != 0 {
            write!(f, "at {:#x} ({} bytes)", self.dtb_phys, self.dtb_size)
        } else if self.dtb_phys != 0 {
            write!(
                f,
                "at {:#x} refused: larger than {DTB_MAX} bytes",
                self.dtb_phys
            )
        } else {
            write!(f, "not found (x0 = {:#x})", self.x0)
        }
    }
}

/// Largest device tree blob, in bytes: the limit of the arm64 boot protocol.
pub const DTB_MAX: u64 = BLOCK_SIZE;

/// First word of a device tree blob, big-endian (Devicetree Specification 5.2).
const FDT_MAGIC: u64 = 0xd00d_feed;

/// The cell of the one [`Handoff`], which is written once, before `kernel_main` runs.
struct Cell(UnsafeCell<Handoff>);

// SAFETY: the only write is in `first_rust`, on the boot CPU, before any reference to the contents
// exists.
unsafe impl Sync for Cell {}

static HANDOFF: Cell = Cell(UnsafeCell::new(Handoff {
    image_phys: 0,
    dtb_phys: 0,
    dtb_virt: 0,
    dtb_size: 0,
    x0: 0,
    entry_el: 0,
}));

unsafe extern "C" {
    /// The kernel's entry, defined by the crate that links this one.
    safe fn kernel_main(handoff: &'static Handoff) -> !;
}

/// Physical address of the image, for this crate's own conversions.
pub(crate) fn image_phys() -> u64 {
    // SAFETY: `first_rust` wrote it before anything else of this crate runs, and nothing writes it
    // again.
    unsafe { (*HANDOFF.0.get()).image_phys }
}

/// Fills [`Handoff`] and calls `kernel_main`. The assembly calls it with the stack and `.bss`
/// ready.
pub(crate) extern "C" fn first_rust(x0: u64, image_phys: u64, entry_el: u64) -> ! {
    let handoff = Handoff {
        image_phys,
        x0,
        entry_el,
        ..Handoff::default()
    };
    // SAFETY: only one CPU runs, and no reference to the contents exists yet (see `Cell`).
    unsafe { *HANDOFF.0.get() = handoff };
    // SAFETY: initialized above, never written again.
    kernel_main(unsafe { &*HANDOFF.0.get() })
}

impl Handoff {
    /// Returns a copy that also says where the device tree is, if there is one.
    ///
    /// `read` reads eight bytes at an aligned virtual address. It returns `None` if the read
    /// faults, which can happen when firmware has passed something else than a device tree.
    ///
    /// # Safety
    ///
    /// The early tables are live (before [`replace_ttbr1`](crate::replace_ttbr1)).
    #[must_use]
    pub unsafe fn with_device_tree(&self, read: fn(u64) -> Option<u64>) -> Self {
        let mut found = *self;
        // x0 comes first. It can hold any value: QEMU's raspi4b passes 0x100, an ELF file gets 0.
        // The block of the image is certainly memory. The block below it is looked at only after an
        // entry at EL3: there is no boot protocol at EL3, and the loader is QEMU's. On other
        // machines the block below may not be memory.
        let block = self.image_phys - IMAGE_OFFSET;
        let below = if self.entry_el == 3 {
            block.saturating_sub(BLOCK_SIZE)
        } else {
            0
        };
        for candidate in [self.x0, block, below] {
            if let Some(blob) = find_blob(candidate, read) {
                found.dtb_phys = candidate;
                (found.dtb_virt, found.dtb_size) = blob;
                break;
            }
        }
        found
    }
}

/// Looks for a blob at `phys`. Returns its address in the boot window and its size, or (0, 0) if it
/// is larger than [`DTB_MAX`].
#[inline(never)] // Three calls; the image has little room.
fn find_blob(phys: u64, read: fn(u64) -> Option<u64>) -> Option<(u64, u64)> {
    /// Size of the magic and the total size. Mapping the rest needs no more of the header.
    const HEADER: u64 = 8;
    // The boot protocol requires 8-byte alignment, so both words lie in one block. Address 0 means
    // that there is no blob.
    if phys == 0 || !phys.is_multiple_of(8) {
        return None;
    }
    let virt = window::map_read_only(phys, HEADER)?;
    let header = u64::from_be(read(virt)?);
    if header >> 32 != FDT_MAGIC {
        return None;
    }
    let size = header & u64::from(u32::MAX);
    if size > DTB_MAX {
        return Some((0, 0));
    }
    Some((window::map_read_only(phys, size)?, size))
}
