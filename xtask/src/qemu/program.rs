// SPDX-License-Identifier: MIT OR Apache-2.0

//! The QEMU program: found, checked for its version, installed when absent.

use super::command;
use super::inspect;
use super::install;
use super::machine::{Board, Machine};
use crate::guest::{self, Answering, Guest};
use crate::process;
use anyhow::{Context, Result, bail, ensure};
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "qemu-system-aarch64";
/// Names a QEMU that is not in the PATH, or not the first there.
const OVERRIDE: &str = "LAZYMMU_QEMU";
/// Oldest version on which `virt` has everything that is used.
const NEEDED: Version = Version { major: 7, minor: 2 };
/// Oldest version with the board `raspi4b`; worth an installation from elsewhere.
pub const WANTED: Version = Version { major: 9, minor: 0 };

/// A QEMU release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
}

impl Version {
    /// Reads the first `N.N` of a text, with any text around it: what
    /// `--version` prints, or a Debian package version with its epoch.
    pub fn find_in(text: &str) -> Option<Self> {
        let number = |text: &str| text.parse().ok();
        text.split(|c: char| !c.is_ascii_digit() && c != '.')
            .filter_map(|word| {
                let mut parts = word.split('.');
                Some(Self {
                    major: number(parts.next()?)?,
                    minor: number(parts.next()?)?,
                })
            })
            .next()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A QEMU that can be used.
#[derive(Clone, Debug)]
pub struct Qemu {
    path: PathBuf,
    version: Version,
    /// Value of `-plugin`.
    plugin: Option<OsString>,
}

impl Qemu {
    /// Finds QEMU, installs it where that is possible, and checks its version.
    ///
    /// # Errors
    ///
    /// When there is none and it cannot be installed, or it is too old; the error
    /// has the line to type.
    pub fn provide() -> Result<Self> {
        let path = match env::var_os(OVERRIDE) {
            Some(path) if path.is_empty() => {
                bail!("{OVERRIDE} is empty: set it to a {PROGRAM}, or unset it")
            }
            Some(path) => from_here(PathBuf::from(path)),
            None => match in_path(PROGRAM) {
                Some(path) => path,
                None => {
                    // A package manager is not to be killed at its work.
                    let answering = Answering::begin();
                    install::install(&mut install::System)?;
                    drop(answering);
                    guest::stop_if_interrupted("interrupted")?;
                    in_path(PROGRAM).with_context(|| {
                        format!("{PROGRAM} was installed but is not in PATH; set {OVERRIDE} to where it is")
                    })?
                }
            },
        };
        let version = version(&path)?;
        if version < NEEDED {
            bail!(
                "{} is QEMU {version}, {NEEDED} or later is needed; install one and set {OVERRIDE} to it",
                path.display()
            );
        }
        Ok(Self {
            path,
            version,
            plugin: None,
        })
    }

    /// Why it does not emulate `board`; nothing if it does.
    ///
    /// # Errors
    ///
    /// When it cannot be asked.
    pub fn lacks(&self, board: Board) -> Result<Option<String>> {
        let machines = process::output(&self.path, &["-machine", "help"])?;
        let mut names = machines
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        Ok(match names.any(|name| name == board.name()) {
            true => None,
            false => Some(format!("QEMU {} has no machine {board}", self.version)),
        })
    }

    /// Makes sure that it emulates `machine`, and that its CPUs are AArch64, by making it without a
    /// program.
    ///
    /// # Errors
    ///
    /// When it does not; the error says what to do.
    pub fn require(&self, machine: &Machine) -> Result<()> {
        let board = machine.board;
        if let Some(why) = self.lacks(board)? {
            bail!("{why}; install {WANTED} or later and set {OVERRIDE} to it");
        }
        let mut command = self.command();
        command.args(command::on(machine));
        command.args(["-nodefaults", "-display", "none", "-S"]);
        let control = inspect::control(&mut command)?;
        let guest = Guest::start(command)?;
        // Without an answer it has said why, or the boot will show it.
        let registers = inspect::registers(&control).unwrap_or_default();
        let said = guest.stop();
        let help = format!("`{} -cpu help` lists", self.path.display());
        if registers.contains(inspect::OF_32_BITS) {
            bail!(
                "--cpu {} is a 32-bit CPU, and the kernel is for 64-bit ones: leave out --cpu, or take cortex-a53 \
                 or max ({help} more)",
                machine.cpu
            );
        }
        ensure!(
            registers.contains(inspect::OF_64_BITS) || said.is_empty(),
            "QEMU makes no machine of{}: {}; leave out or change an option ({help} CPU models)",
            machine.options(),
            said.lines().map(str::trim).collect::<Vec<_>>().join("; ")
        );
        Ok(())
    }

    /// A program that a test has put there, in the place of a QEMU of this release.
    #[cfg(test)]
    pub fn in_place_of(path: PathBuf, version: Version) -> Self {
        Self {
            path,
            version,
            plugin: None,
        }
    }

    /// Its release.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The same QEMU, which loads a plugin at each start; `plugin` is the value of `-plugin`.
    pub fn with_plugin(&self, plugin: OsString) -> Self {
        Self {
            plugin: Some(plugin),
            ..self.clone()
        }
    }

    /// A command that starts it.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(plugin) = &self.plugin {
            command.arg("-plugin").arg(plugin);
        }
        command
    }
}

fn version(path: &Path) -> Result<Version> {
    let output = Command::new(path)
        .arg("--version")
        .output()
        .with_context(|| {
            format!(
                "cannot start {}; {OVERRIDE} or PATH must name a {PROGRAM}",
                path.display()
            )
        })?;
    let text = String::from_utf8_lossy(&output.stdout);
    Version::find_in(&text)
        .with_context(|| format!("`{} --version` names no version: {text:?}", path.display()))
}

/// Makes a relative path absolute: QEMU is started in the workspace's root. A bare name stays for
/// the PATH.
fn from_here(path: PathBuf) -> PathBuf {
    if path.components().count() == 1 {
        return path;
    }
    std::path::absolute(&path).unwrap_or(path)
}

/// Searches the PATH for a program.
pub fn in_path(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(program.as_ref()))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let found = |text| Version::find_in(text).map(|version| (version.major, version.minor));
        assert_eq!(
            found("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"),
            Some((10, 0))
        );
        assert_eq!(found("QEMU emulator version 7.2.19"), Some((7, 2)));
        assert_eq!(found("1:8.2.2+ds-0ubuntu1.4"), Some((8, 2)));
        assert_eq!(found("1:7.2+dfsg-7+deb12u15"), Some((7, 2)));
        assert_eq!(found("(none)"), None);
        assert_eq!(found(""), None);
    }

    #[test]
    fn an_old_qemu_says_itself_what_it_lacks() {
        let scratch = tempfile::tempdir().expect("there is room for a file");
        let path = scratch.path().join("qemu");
        let script = "#!/bin/sh\necho 'Supported machines are:'\n\
                      echo 'raspi3b   Raspberry Pi 3B'\necho 'virt      ARM Virtual Machine'\n";
        fs::write(&path, script).expect("it can be written");
        let version = Version { major: 8, minor: 2 };
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
        let qemu = Qemu::in_place_of(path, version);
        let lacks = |board| qemu.lacks(board).expect("the script runs");
        assert_eq!(lacks(Board::Virt), None);
        let why = "QEMU 8.2 has no machine raspi4b";
        assert_eq!(lacks(Board::Raspi4b).as_deref(), Some(why));
        let error = qemu
            .require(&Board::Raspi4b.usual())
            .expect_err("it has none");
        assert_eq!(
            error.to_string(),
            format!("{why}; install 9.0 or later and set LAZYMMU_QEMU to it")
        );
    }

    #[test]
    fn versions_are_ordered_as_numbers() {
        let version = |text| Version::find_in(text).expect("it is a version");
        assert!(version("10.0") > WANTED && WANTED > version("8.2") && version("8.2") > NEEDED);
        assert!(version("6.2") < NEEDED);
    }
}
