// SPDX-License-Identifier: MIT OR Apache-2.0

//! Where things are: the checkout, the target directory, the artifacts in it.

use anyhow::{Context, Result, ensure};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The kernel's compilation target.
pub const KERNEL_TARGET: &str = "aarch64-unknown-none-softfloat";

/// Bytes of the path of a Unix socket on every system, without the NUL.
const SOCKET: usize = 103;

/// Name of the kernel with symbols that belongs to the card in the same folder.
pub const CARD_SYMBOLS: &str = "sdcard.elf";

/// The directories of this checkout, all absolute.
#[derive(Clone, Debug)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// Finds the checkout that xtask belongs to.
    pub fn find() -> Self {
        // `cargo run` says where the crate is now; the compile-time value serves
        // a binary that is started by hand.
        let xtask = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = xtask.parent().map_or(xtask.clone(), Path::to_path_buf);
        let target = match env::var_os("CARGO_TARGET_DIR") {
            // A relative one is relative to the current directory, as in cargo.
            Some(dir) => env::current_dir().map_or_else(|_| root.join(&dir), |cwd| cwd.join(&dir)),
            None => root.join("target"),
        };
        Self { root, target }
    }

    /// Another checkout, with a target directory of its own; both absolute.
    pub fn at(root: PathBuf, target: PathBuf) -> Self {
        Self { root, target }
    }

    /// The directory that holds the workspace's `Cargo.toml`.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Cargo's target directory.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// `path` as it is shown: from the root on, if it is below that.
    pub fn shown(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.root).unwrap_or(path);
        path.display().to_string()
    }

    /// The kernel with symbols and debug information.
    pub fn kernel_elf(&self) -> PathBuf {
        self.target.join("kernel.elf")
    }

    /// The flat kernel image that a boot loader takes.
    pub fn kernel_image(&self) -> PathBuf {
        self.target.join("kernel8.img")
    }

    /// The kernel on the last card that was made (`cargo xtask image`), with symbols.
    pub fn card_elf(&self) -> PathBuf {
        self.target.join(CARD_SYMBOLS)
    }

    /// Keeps a console log in `target/test-logs`.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn keep_log(&self, name: &str, log: &str) -> Result<()> {
        let folder = self.target.join("test-logs");
        let path = folder.join(format!("{}.log", name.replace([' ', '='], "-")));
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&path, log))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The socket on which a guest started with `--gdb` waits for a debugger.
    ///
    /// # Errors
    ///
    /// When its path is too long for a socket.
    pub fn gdb_socket(&self) -> Result<PathBuf> {
        // Relative where possible: both ends are started in the root directory.
        let socket = self.target.join("gdb.sock");
        let shorter = socket.strip_prefix(&self.root).unwrap_or(&socket);
        ensure!(
            shorter.as_os_str().len() <= SOCKET,
            "the path {} is too long for a debugger's socket, which has {SOCKET} bytes at most: set \
             CARGO_TARGET_DIR to a shorter one",
            shorter.display()
        );
        Ok(shorter.to_path_buf())
    }
}
