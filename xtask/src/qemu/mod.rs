// SPDX-License-Identifier: MIT OR Apache-2.0

//! Everything about QEMU: the machine asked for, the program and its arguments,
//! one supervised boot and the verdict on it.

mod board;
pub mod boot;
pub mod command;
pub mod inspect;
mod install;
pub mod machine;
mod plugin;
mod program;
mod raspi4b_tree;
pub mod tree;
pub mod verdict;

pub use boot::{Boot, Outcome};
pub use command::{Input, option_of};
pub use machine::{Machine, MachineOptions};
pub use plugin::Plugin;
pub use program::{Qemu, in_path};
pub use verdict::Verdict;
