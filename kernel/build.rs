// SPDX-License-Identifier: MIT OR Apache-2.0

//! Links the kernel binary with the repository's linker script.

use std::{env, path::Path};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=../linker.ld");
    // The workspace is checked for the host, too; only the kernel has an address to be linked at.
    if env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let manifest = env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
        let script = Path::new(&manifest).join("../linker.ld");
        println!("cargo:rustc-link-arg-bins=-T{}", script.display());
        // 4 KiB is the largest page the image is ever mapped with; the default of 64 KiB only pads
        // the file.
        println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
    }
}
