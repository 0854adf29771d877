// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask build`: the kernel as `target/kernel.elf` and `target/kernel8.img`.

mod flat_image;

use crate::process;
use crate::workspace::{KERNEL_TARGET, Workspace};
use anyhow::{Context, Result};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Build target/kernel8.img (flat, arm64 Image header) and target/kernel.elf (symbols)
#[derive(Args, Debug)]
pub struct Build {}

/// The results of a build.
#[derive(Debug)]
pub struct Artifacts {
    /// The kernel with symbols.
    pub elf: PathBuf,
    /// The flat image.
    pub image: PathBuf,
    /// Size of the flat image in bytes.
    pub size: usize,
}

impl Build {
    /// Builds and says what was built.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        let artifacts = build(&workspace)?;
        println!(
            "{} ({} KiB of at most {} KiB), {}",
            workspace.shown(&artifacts.image),
            artifacts.size.div_ceil(1024),
            flat_image::SIZE_LIMIT / 1024,
            workspace.shown(&artifacts.elf),
        );
        Ok(())
    }
}

/// Builds the kernel and writes both artifacts.
///
/// # Errors
///
/// When the target cannot be added, the kernel does not compile, or the image
/// breaks a rule of the boot protocol or is too large.
pub fn build(workspace: &Workspace) -> Result<Artifacts> {
    provide_target(workspace)?;
    process::run(&mut cargo_build(workspace))?;
    collect(workspace)
}

/// The command that compiles the kernel; the target must be there.
pub fn cargo_build(workspace: &Workspace) -> Command {
    let mut command = process::cargo(workspace);
    command.args(["build", "--release", "--package=kernel"]);
    command.args(["--bin=kernel", "--target", KERNEL_TARGET]);
    command
}

/// Writes both artifacts from what [`cargo_build`] made.
///
/// # Errors
///
/// When the image breaks a rule of the boot protocol or is too large.
pub fn collect(workspace: &Workspace) -> Result<Artifacts> {
    let built = workspace
        .target()
        .join(KERNEL_TARGET)
        .join("release/kernel");
    let elf = fs::read(&built)
        .with_context(|| format!("cannot read what cargo built, {}", built.display()))?;
    let image = flat_image::from_elf(&elf)?;
    let artifacts = Artifacts {
        elf: workspace.kernel_elf(),
        image: workspace.kernel_image(),
        size: image.len(),
    };
    write(&artifacts.elf, &elf)?;
    write(&artifacts.image, &image)?;
    Ok(artifacts)
}

/// Writes by way of a rename, so that a running QEMU or debugger never sees half a file.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let partial = path.with_extension("partial");
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .inspect_err(|_| drop(fs::remove_file(&partial)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Adds the kernel's compilation target to the toolchain in use when it lacks it.
///
/// # Errors
///
/// When it cannot be added; the error has the line to type.
pub fn provide_target(workspace: &Workspace) -> Result<()> {
    let libdir = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", KERNEL_TARGET])
        .current_dir(workspace.root())
        .output()
        .context("cannot start `rustc`; rustup installs it: see https://rustup.rs")?;
    let libdir = String::from_utf8_lossy(&libdir.stdout);
    if Path::new(libdir.trim()).is_dir() {
        return Ok(());
    }
    eprintln!("The Rust target {KERNEL_TARGET} is missing; adding it by `rustup target add`.");
    process::run(
        Command::new("rustup")
            .args(["target", "add", KERNEL_TARGET])
            .current_dir(workspace.root()),
    )
    .with_context(|| format!("type `rustup target add {KERNEL_TARGET}` and start again"))
}
