// SPDX-License-Identifier: MIT OR Apache-2.0

//! The plugin that counts from outside what a guest executes (xtask/plugin): built, tried with the
//! QEMU at hand, and given to it.
//!
//! A QEMU can lack plugins (a build without them), have an older interface, or refuse for a reason
//! of its own. All of it is found out by loading the plugin into a machine that has no CPU.

use super::command::option_of;
use super::program::Qemu;
use crate::process;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// The plugin, built.
#[derive(Debug)]
pub struct Plugin {
    library: PathBuf,
}

impl Plugin {
    /// Builds it, for the host.
    ///
    /// # Errors
    ///
    /// When cargo cannot build it.
    pub fn build(workspace: &Workspace) -> Result<Self> {
        process::run(process::cargo(workspace).args(["build", "--release", "--package=plugin"]))
            .context("the plugin that counts (xtask/plugin) cannot be built")?;
        let name = format!("{DLL_PREFIX}plugin{DLL_SUFFIX}");
        let library = workspace.target().join("release").join(name);
        ensure!(
            library.is_file(),
            "cargo built the plugin, but not as {}",
            library.display()
        );
        Ok(Self { library })
    }

    /// Builds it, for a `qemu` that must load it.
    ///
    /// # Errors
    ///
    /// Those of [`build`](Self::build) and [`refused_by`](Self::refused_by), and when `qemu` does not load it.
    pub fn provide(workspace: &Workspace, qemu: &Qemu) -> Result<Self> {
        let plugin = Self::build(workspace)?;
        match plugin.refused_by(qemu)? {
            Some(why) => bail!("{why}"),
            None => Ok(plugin),
        }
    }

    /// Why `qemu` does not load it, in one line; nothing if it does.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started.
    pub fn refused_by(&self, qemu: &Qemu) -> Result<Option<String>> {
        let tried = qemu.with_plugin(self.value(Path::new("/dev/null")));
        let mut child = tried
            .command()
            .args(["-machine", "none", "-nodefaults", "-display", "none", "-S"])
            .args(["-monitor", "stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start QEMU")?;
        if let Some(mut monitor) = child.stdin.take() {
            // One that refuses has gone before it reads this.
            let _ = monitor.write_all(b"quit\n");
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or("it says nothing").trim();
        Ok(Some(format!(
            "QEMU {} loads no plugin of interface version 4, as 10.0 does: {said}",
            qemu.version()
        )))
    }

    /// `qemu` with the plugin, which writes to `out`; an absolute path, because QEMU is started
    /// elsewhere.
    pub fn given_to(&self, qemu: &Qemu, out: &Path) -> Qemu {
        qemu.with_plugin(self.value(out))
    }

    /// The value of `-plugin`.
    fn value(&self, out: &Path) -> OsString {
        let mut value = option_of("", &self.library);
        value.push(option_of(",out=", out));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::super::program::Version;
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    /// What is said of a QEMU that is this script.
    fn said_of(script: &str) -> Option<String> {
        let scratch = tempfile::tempdir().expect("there is room for a file");
        let path = scratch.path().join("qemu");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("it can be written");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
        let version = Version { major: 8, minor: 2 };
        let plugin = Plugin {
            library: "/libplugin.so".into(),
        };
        plugin
            .refused_by(&Qemu::in_place_of(path, version))
            .expect("the script runs")
    }

    #[test]
    fn a_qemu_without_the_interface_is_told_by_what_it_says() {
        assert_eq!(
            said_of("test $1 = -plugin && echo 'qemu: -plugin: invalid option' >&2; exit 1")
                .as_deref(),
            Some(
                "QEMU 8.2 loads no plugin of interface version 4, as 10.0 does: qemu: -plugin: invalid option"
            )
        );
        assert_eq!(said_of("read line && test $line = quit"), None);
    }

    #[test]
    fn commas_of_a_path_are_doubled() {
        let plugin = Plugin {
            library: "/a,b/libplugin.so".into(),
        };
        assert_eq!(
            plugin.value(Path::new("/out,put")),
            "/a,,b/libplugin.so,out=/out,,put"
        );
    }
}
