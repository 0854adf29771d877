// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel image in memory: its parts, and their permissions.

use core::fmt;
use core::ops::Range;

use boot::{Handoff, IMAGE_VIRT};
use lazymmu::{AddressSpace, Backing, Frame, Kernel, PAGE_SIZE, PageRange, Prot, SpaceError};

use crate::platform::phys_range::PhysRange;

macro_rules! linker_symbols {
    ($($name:ident),+ $(,)?) => {
        unsafe extern "C" {
            $(safe static $name: [u8; 0];)+
        }
    };
}

linker_symbols!(
    _image_end,
    _text_start,
    _text_end,
    _rodata_start,
    _rodata_end,
    _data_start,
    _boot_stack_guard,
    _boot_stack_bottom,
    _boot_stack_top,
    _emergency_stack_guard,
    _emergency_stack_bottom,
    _emergency_stack_top,
);

/// Address of a linker symbol.
fn address(symbol: &'static [u8; 0]) -> u64 {
    symbol.as_ptr().expose_provenance() as u64
}

/// The pages that must fault when a stack overflows, as byte addresses: the guard of the boot
/// stack, and that of the emergency stack.
pub(super) fn stack_guards() -> [Range<u64>; 2] {
    [&_boot_stack_guard, &_emergency_stack_guard].map(|guard| {
        let start = address(guard);
        start..start + PAGE_SIZE
    })
}

/// Where the image was loaded.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    phys: u64,
}

/// A part of the image with permissions of its own.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Name in reports.
    pub name: &'static str,
    /// The pages at which it is linked.
    pub pages: PageRange,
    /// Their permissions.
    pub prot: Prot,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({:?})", self.name, self.pages, self.prot)
    }
}

impl Image {
    /// The image that `handoff` describes.
    #[must_use]
    pub const fn new(handoff: &Handoff) -> Self {
        Self {
            phys: handoff.image_phys,
        }
    }

    /// The physical memory of the whole image, .bss included, in bytes.
    #[must_use]
    pub fn range(&self) -> PhysRange {
        self.phys_range(IMAGE_VIRT, address(&_image_end))
    }

    /// The parts in ascending order. The pages below the stacks belong to no part: they are the
    /// stacks' guards.
    #[must_use]
    pub fn parts(&self) -> [Part; 5] {
        let part = |name, start, end, prot| Part {
            name,
            pages: pages(start, end),
            prot,
        };
        let stack = address(&_boot_stack_bottom);
        [
            part(
                "text",
                address(&_text_start),
                address(&_text_end),
                Prot::KERNEL_ROX,
            ),
            part(
                "rodata",
                address(&_rodata_start),
                address(&_rodata_end),
                Prot::KERNEL_RO,
            ),
            part(
                "data",
                address(&_data_start),
                address(&_boot_stack_guard),
                Prot::KERNEL,
            ),
            part("stack", stack, address(&_boot_stack_top), Prot::KERNEL),
            part(
                "emergency stack",
                address(&_emergency_stack_bottom),
                address(&_emergency_stack_top),
                Prot::KERNEL,
            ),
        ]
    }

    /// Text and rodata together, which must not be writable through any mapping.
    #[must_use]
    pub fn read_only(&self) -> PageRange {
        pages(address(&_text_start), address(&_rodata_end))
    }

    /// The pages that must fault when a stack overflows, given by the addresses of their first
    /// bytes.
    #[must_use]
    pub fn stack_guards(&self) -> [u64; 2] {
        stack_guards().map(|guard| guard.start)
    }

    /// The physical memory of `pages`, which are pages of the image.
    #[must_use]
    pub fn frames(&self, pages: PageRange) -> PhysRange {
        self.phys_range(pages.start().as_u64(), pages.end())
    }

    /// Maps the parts with their permissions. `space` is not live yet.
    ///
    /// # Errors
    /// Those of [`AddressSpace::map`].
    pub fn map<K: Kernel>(&self, space: &mut AddressSpace<'_, K>) -> Result<(), SpaceError> {
        for part in self.parts() {
            let phys = self.frames(part.pages).start();
            let Some(first) = Frame::from_u64(phys) else {
                unreachable!("boot refuses an image that is not page aligned");
            };
            space.map(part.pages, Backing::Contiguous(first), part.prot)?;
        }
        Ok(())
    }

    fn phys_range(&self, start: u64, end: u64) -> PhysRange {
        match PhysRange::from_bounds(start - IMAGE_VIRT + self.phys, end - IMAGE_VIRT + self.phys) {
            Some(range) => range,
            None => unreachable!("linker.ld orders its symbols"),
        }
    }
}

fn pages(start: u64, end: u64) -> PageRange {
    match PageRange::new(start, (end - start) / PAGE_SIZE) {
        Ok(range) => range,
        Err(error) => unreachable!("linker.ld aligns every part to pages: {error}"),
    }
}
