// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a device tree blob to a description of the machine.
//!
//! The blob comes from firmware and is not trusted: any byte sequence gives
//! either a [`MachineDescription`] or a [`DeviceTreeError`] that says what to
//! do; nothing here panics, recurses or allocates.
//!
//! Protocol: [`DeviceTree::new`] checks the blob as a whole.
//! [`DeviceTree::console`] needs no more than that, so that an error in the
//! rest can already be printed. [`DeviceTree::describe`] copies everything the
//! kernel wants to know; afterwards the blob is not read again.
//!
//! What it does not do: it changes no device, and it does not decide what
//! memory is usable; that is [`memory_map`](super::memory_map)'s.
//!
//! What Linux accepts is read as Linux reads it: names of any length, properties without a value, a
//! node without `#address-cells` (it has its parent's), memory beyond the end of all addresses (clipped), CPUs that
//! cannot be told apart or started (left out, or they stay off). Where Linux guesses or goes on without, a
//! machine that needs it would fail later and elsewhere; so these rules differ:
//!
//! * the root must have `#address-cells` and `#size-cells`; the defaults (2, 1)
//!   are not assumed, because a wrong guess moves RAM;
//! * a list whose length is no multiple of its entries is refused, not read in part;
//! * overlapping banks are joined, unfilled ones (size 0) skipped;
//! * a tree without `stdout-path`, or where it leads to no PL011 (Linux's tree of a Raspberry Pi 4 names
//!   the mini UART), gets the first enabled one;
//! * reservations of the driver-allocated kind (`size`, no `reg`) are ignored: Linux finds a
//!   place for them, for drivers that this kernel does not have.
//!
//! What is odd but harmless is kept in [`MachineDescription::notes`].

mod cpus;
mod description;
mod devices;
mod error;
mod flat;
mod memory;
mod place;
#[cfg(test)]
mod tests;
mod tree;

use arrayvec::ArrayVec;

pub use self::description::*;
pub use self::error::{DeviceTreeError, NodePath, Quoted};
use self::tree::Tree;
use crate::text::Text;

/// A blob whose header, structure and strings have been checked.
#[derive(Clone, Copy, Debug)]
pub struct DeviceTree<'a> {
    tree: Tree<'a>,
}

impl<'a> DeviceTree<'a> {
    /// Checks `blob`. It may be longer than the tree in it and needs no
    /// alignment; empty means that firmware passed none.
    ///
    /// # Errors
    /// Says what is wrong with the header, the blocks, or the nesting.
    pub fn new(blob: &'a [u8]) -> Result<Self, DeviceTreeError> {
        Tree::new(blob).map(|tree| Self { tree })
    }

    /// The console alone, for reporting whatever else is wrong.
    ///
    /// # Errors
    /// The chosen UART's `reg` or the `ranges` above it are wrong.
    pub fn console(&self) -> Result<Option<Console>, DeviceTreeError> {
        devices::console(self.tree, &mut Notes::default())
    }

    /// Everything the kernel wants to know.
    ///
    /// # Errors
    /// The first thing that is missing or wrong, see [`DeviceTreeError`].
    pub fn describe(&self) -> Result<MachineDescription, DeviceTreeError> {
        let tree = self.tree;
        let mut notes = Notes::default();
        let root = tree.root();
        // Memory first: of several errors it is the one to hear about.
        let memory = memory::banks(tree, &mut notes)?;
        let (interrupt_controller, gic) = devices::interrupt_controller(tree)?;
        let first_compatible = root.texts("compatible").next().unwrap_or_default();
        Ok(MachineDescription {
            model: Text::from_line(root.text("model").unwrap_or_default()),
            compatible: Text::from_line(first_compatible),
            memory,
            reservations: memory::reservations(tree, &mut notes)?,
            console: devices::console(tree, &mut notes)?,
            interrupt_controller,
            timer: devices::timer(tree, &gic, &mut notes)?,
            cpus: cpus::cpus(tree, &mut notes),
            psci: cpus::psci(tree, &mut notes)?,
            boot_arguments: boot_arguments(tree)?,
            notes: notes.0,
        })
    }
}

/// `bootargs` up to its first NUL, or the whole of it where there is none, as in Linux.
fn boot_arguments(tree: Tree<'_>) -> Result<Text<MAX_BOOT_ARGUMENTS>, DeviceTreeError> {
    const NAME: &str = "bootargs";
    let chosen = tree.root().child("chosen");
    let Some((chosen, value)) =
        chosen.and_then(|node| node.property(NAME).map(|value| (node, value)))
    else {
        return Ok(Text::new());
    };
    let value = flat::text_at(value).unwrap_or(value);
    let Ok(text) = core::str::from_utf8(value) else {
        return Err(chosen.bad_string(NAME));
    };
    if text.len() > MAX_BOOT_ARGUMENTS {
        return Err(DeviceTreeError::BootArgumentsTooLong {
            length: text.len(),
            limit: MAX_BOOT_ARGUMENTS,
        });
    }
    Ok(Text::from_text(text))
}

/// Collects [`Note`]s, the first [`MAX_NOTES`] of them.
#[derive(Default)]
struct Notes(ArrayVec<Note, MAX_NOTES>);

impl Notes {
    fn add(&mut self, note: Note) {
        // A further warning about a tree this odd tells nothing new.
        let _ = self.0.try_push(note);
    }
}
