// SPDX-License-Identifier: MIT OR Apache-2.0

//! A guest that is reached as a board is: through a serial port, without semihosting. The port is
//! a pseudo terminal.
//!
//! It waits before its first instruction until the port has been opened, because a pseudo
//! terminal that is not read loses what is written.

use crate::LAB;
use anyhow::{Result, bail};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use xtask::guest::Guest;
use xtask::qemu::command::{Sockets, Uart};
use xtask::qemu::{Boot, inspect};

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
    /// watched is up to the reader of the port.
    pub fn start(boot: &Boot<'_>) -> Result<Self> {
        let sockets = Sockets {
            uart: Uart::Terminal,
            debugger: None,
        };
        let (command, control) =
            boot.command(&LAB.workspace, &LAB.qemu, boot.bootargs, &sockets)?;
        let guest = Guest::start(command)?;
        let answer = inspect::ask(&control, WHICH)?;
        let Some((_, name)) = answer.split_once("\"filename\": \"pty:") else {
            bail!("QEMU lists its devices as {answer:?}: {}", guest.stop());
        };
        let port = name.split('"').next().unwrap_or_default().into();
        Ok(Self {
            _guest: guest,
            control,
            port,
        })
    }

    /// The serial port.
    pub fn port(&self) -> &Path {
        &self.port
    }

    /// Lets the guest run.
    pub fn resume(&self) -> Result<()> {
        inspect::ask(&self.control, RESUME).map(drop)
    }
}
