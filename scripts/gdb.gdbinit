# SPDX-License-Identifier: MIT OR Apache-2.0
# What `cargo xtask gdb` sets before it attaches to the waiting guest.
set architecture aarch64
set pagination off
set print pretty on
set disassemble-next-line on
