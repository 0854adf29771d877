// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest that is reached as a board is: through a serial port, without semihosting. The port is
//! a pseudo terminal.
//!
//! It waits before its first instruction until somebody has opened the port, because a pseudo
//! terminal that nobody reads swallows what is written.

use super::boot::Boot;
use super::command::{self, Input, Sockets, Uart};
use super::inspect;
use super::program::Qemu;
use crate::guest::Guest;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

const WHICH: &[u8] = br#"{"execute":"qmp_capabilities"}
{"execute":"query-chardev","id":"last"}
"#;
const RESUME: &[u8] = br#"{"execute":"qmp_capabilities"}
{"execute":"cont","id":"last"}
"#;

/// A guest, and the port that leads to it.
#[derive(Debug)]
pub struct Terminal {
    // Killed when this is dropped.
    _guest: Guest,
    control: UnixStream,
    port: PathBuf,
}

impl Terminal {
    /// Starts the guest of `boot`, which waits. It gets the boot arguments as they are; how it is
    /// watched is up to who reads the port.
    ///
    /// # Errors
    ///
    /// When QEMU cannot be started or offers no pseudo terminal.
    pub fn start(boot: &Boot<'_>, workspace: &Workspace, qemu: &Qemu) -> Result<Self> {
        let sockets = Sockets {
            uart: Uart::Terminal,
            debugger: None,
        };
        let tree = boot.usual_tree(workspace)?;
        let input = tree.as_deref().map_or(boot.input, Input::Tree);
        let mut command = qemu.command();
        command.current_dir(workspace.root()).args(command::boot(
            boot.machine,
            boot.bootargs,
            boot.artifacts,
            input,
            &sockets,
        ));
        let control = inspect::control(&mut command)?;
        let guest = Guest::start(command)?;
        match find_port(&control) {
            Ok(port) => Ok(Self {
                _guest: guest,
                control,
                port,
            }),
            Err(error) => {
                let why = guest.stop();
                Err(error.context(format!("QEMU offers no pseudo terminal: {why}")))
            }
        }
    }

    /// The serial port.
    pub fn port(&self) -> &Path {
        &self.port
    }

    /// Lets the guest run.
    ///
    /// # Errors
    ///
    /// When QEMU does not answer.
    pub fn resume(&self) -> Result<()> {
        inspect::ask(&self.control, RESUME).map(drop)
    }
}

fn find_port(control: &UnixStream) -> Result<PathBuf> {
    let answer = inspect::ask(control, WHICH)?;
    match port_in(&answer) {
        Some(port) => Ok(port.into()),
        None => bail!("it lists its devices as {answer:?}"),
    }
}

/// The pseudo terminal in an answer to `query-chardev`.
fn port_in(answer: &str) -> Option<&str> {
    let (_, name) = answer.split_once("\"filename\": \"pty:")?;
    Some(name.split_once('"')?.0)
}

#[cfg(test)]
mod tests {
    use super::port_in;

    #[test]
    fn terminal_is_found_among_other_devices() {
        let answer = r#"{"return": [{"frontend-open": true, "filename": "unix:/x/control,server=on <-> ", "label": "compat_monitor0"}, {"frontend-open": true, "filename": "pty:/dev/pts/7", "label": "serial0"}], "id": "last"}"#;
        assert_eq!(port_in(answer), Some("/dev/pts/7"));
        assert_eq!(port_in(&answer.replace("pty:", "file:")), None);
    }
}
