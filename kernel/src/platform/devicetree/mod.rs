// SPDX-License-Identifier: MIT OR Apache-2.0
//! Converts a device tree blob to a description of the machine.
//!
//! The blob comes from firmware and is not trusted. Every byte sequence results in a
//! [`MachineDescription`] or in a [`DeviceTreeError`] that says what to do. Nothing here panics,
//! recurses or allocates.
//!
//! The protocol:
//!
//! 1. [`DeviceTree::new`] checks the blob as a whole.
//! 2. [`DeviceTree::console`] finds the console. It needs only step 1, so that an error in the rest
//!    can already be printed.
//! 3. [`DeviceTree::describe`] copies everything that the kernel needs. Afterwards the blob is not
//!    read again.
//!
//! This module changes no device. It does not decide which memory is usable; that is the task of
//! [`memory_map`](super::memory_map).
//!
//! A tree that Linux accepts is read as Linux reads it: names of any length, properties without a
//! value, a node without `#address-cells` (it has its parent's), memory beyond the end of all
//! addresses (clipped), CPUs that cannot be distinguished or started (left out, or they stay off).
//! Where Linux guesses or continues without a value, a machine that needs it would fail later and
//! elsewhere. Therefore these rules differ:
//!
//! * the root must have `#address-cells` and `#size-cells`; the defaults (2, 1) are not assumed,
//!   because a wrong guess moves RAM;
//! * a list whose length is not a multiple of its entries is refused, and is not read in part;
//! * overlapping banks are joined, and unused ones (size 0) are skipped;
//! * if there is no `stdout-path`, or it does not name a PL011, the first enabled PL011 is the
//!   console (in Linux's tree of a Raspberry Pi 4 it names the mini UART);
//! * reservations that a driver allocates (`size`, no `reg`) are ignored: Linux finds memory for
//!   them, for drivers that this kernel does not have.
//!
//! Unusual facts that do no harm are kept in [`MachineDescription::notes`].

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
    /// Checks `blob`. It may be longer than the tree in it and needs no alignment. An empty blob
    /// means that firmware passed none.
    ///
    /// # Errors
    /// A wrong header, block or nesting.
    pub fn new(blob: &'a [u8]) -> Result<Self, DeviceTreeError> {
        Tree::new(blob).map(|tree| Self { tree })
    }

    /// Only the console, so that other errors can be reported.
    ///
    /// # Errors
    /// The chosen UART's `reg` or the `ranges` above it are wrong.
    pub fn console(&self) -> Result<Option<Console>, DeviceTreeError> {
        devices::console(self.tree, &mut Notes::default())
    }

    /// Everything that the kernel needs.
    ///
    /// # Errors
    /// The first missing or wrong item, see [`DeviceTreeError`].
    pub fn describe(&self) -> Result<MachineDescription, DeviceTreeError> {
        let tree = self.tree;
        let mut notes = Notes::default();
        let root = tree.root();
        // Memory comes first, because an error in it is the most important one to report.
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

/// `bootargs` up to its first NUL, or all of it if there is none, as in Linux.
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
        // Further notes about such a tree are dropped; each is only a warning.
        let _ = self.0.try_push(note);
    }
}
