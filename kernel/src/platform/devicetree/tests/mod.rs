// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device trees that are right, wrong, and random.

mod broken;
mod good;
mod linux;
mod packages;
mod random;
mod raspberry_pi;
mod source;
