// SPDX-License-Identifier: MIT OR Apache-2.0

//! A serial port: found, opened at 115200 8N1, read, and left as it was.
//!
//! It is only read: the kernel takes no input, and the board's RX pin may stay unconnected.

use crate::failure::{self, Failure};
use crate::guest;
use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, BaudRate, ControlFlags, SetArg, Termios};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read};
use std::mem;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Where serial ports are.
pub const DEVICES: &str = "/dev";
/// How the names of USB serial ports begin, on Linux and on macOS.
#[rustfmt::skip]
const USB: [&str; 5] = ["ttyUSB", "ttyACM", "cu.usb", "cu.SLAB_USB", "cu.wchusbserial"];
/// How long each look at a port takes.
const TICK: Duration = Duration::from_millis(50);
/// Time for the system to give a new port to its group.
const SETTLING: Duration = Duration::from_secs(2);

/// Waits for `named`, or else for the only USB serial port in `devices`. If there is none yet, it calls
/// `notice` once with what a person should know.
///
/// # Errors
///
/// When there are several to choose from, when `patience` is over, and after Ctrl-C.
pub fn wait(
    named: Option<&Path>,
    devices: &Path,
    patience: Option<Duration>,
    notice: impl Fn(&str),
) -> Result<PathBuf> {
    let adapter = || "a USB serial adapter".to_owned();
    let what = named.map_or_else(adapter, |port| port.display().to_string());
    let start = Instant::now();
    let mut is_noticed = false;
    loop {
        let mut ports = match named {
            Some(port) if port.exists() => vec![port.to_owned()],
            Some(_) => Vec::new(),
            None => usb_ports(devices)?,
        };
        if ports.len() > 1 {
            let choice =
                |port: &PathBuf| format!("\n  cargo xtask serial --port {}", port.display());
            let choices: String = ports.iter().map(choice).collect();
            bail!(
                "there are {} USB serial ports; type one of{choices}",
                ports.len()
            );
        }
        if let Some(port) = ports.pop() {
            return Ok(port);
        }
        if !mem::replace(&mut is_noticed, true) {
            let limit = match patience {
                Some(limit) => format!("{} s at most", limit.as_secs()),
                None => "without a limit".to_owned(),
            };
            notice(&format!(
                "Waiting for {what}, {limit}; plug it in. Ctrl-C ends."
            ));
        }
        guest::stop_if_interrupted("interrupted")?;
        if patience.is_some_and(|patience| start.elapsed() > patience) {
            let late = Failure::new(failure::HUNG, format!("{what} did not appear in time"));
            return Err(late.with_next("another port: --port PORT").into());
        }
        thread::sleep(TICK);
    }
}

/// The USB serial ports in `devices`, in order of their names.
fn usb_ports(devices: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = || format!("cannot look for serial ports in {}", devices.display());
    let mut ports = Vec::new();
    for entry in fs::read_dir(devices).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let name = entry.file_name();
        let is_usb = |start: &&str| name.as_encoded_bytes().starts_with(start.as_bytes());
        if USB.iter().any(is_usb) {
            ports.push(entry.path());
        }
    }
    ports.sort();
    Ok(ports)
}

/// A port in use.
#[derive(Debug)]
pub struct Port {
    file: File,
    /// Its settings before.
    before: Termios,
}

impl Port {
    /// Opens a port and sets it to 115200 8N1, raw.
    ///
    /// # Errors
    ///
    /// When it is no serial port, may not be used, or another program uses it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_settled(path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => bail!(
                "{} is in use by another program, which would get half of the log; end it first",
                path.display()
            ),
            // A system without such locks does without.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let before = termios::tcgetattr(&file)
            .with_context(|| format!("{} is no serial port", path.display()))?;
        let port = Self { file, before };
        let mut settings = port.before.clone();
        termios::cfmakeraw(&mut settings);
        let flags = &mut settings.control_flags;
        flags.remove(ControlFlags::CSTOPB | ControlFlags::CRTSCTS);
        flags.insert(ControlFlags::CREAD | ControlFlags::CLOCAL);
        termios::cfsetspeed(&mut settings, BaudRate::B115200)
            .and_then(|()| termios::tcsetattr(&port.file, SetArg::TCSANOW, &settings))
            .with_context(|| format!("{} cannot be set to 115200 8N1", path.display()))?;
        Ok(port)
    }

    /// Reads what has come, or waits a little for something to come: the number of bytes, or 0.
    ///
    /// # Errors
    ///
    /// When the port cannot be read any more.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut events = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        let tick = PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO);
        match poll(&mut events, tick) {
            Ok(0) | Err(Errno::EINTR) => return Ok(0),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match self
            .file
            .read(buffer)
            .map_err(|error| (error.kind(), error))
        {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => Ok(length),
            Err((ErrorKind::WouldBlock | ErrorKind::Interrupted, _)) => Ok(0),
            Err((_, error)) => Err(error),
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // A port that is gone has no settings.
        let _ = termios::tcsetattr(&self.file, SetArg::TCSANOW, &self.before);
    }
}

/// Opens a port, which for a moment after it was plugged in belongs to root alone.
fn open_settled(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    // Neither becomes it our terminal, nor is a modem's carrier waited for.
    options
        .read(true)
        .custom_flags(nix::libc::O_NOCTTY | nix::libc::O_NONBLOCK);
    let start = Instant::now();
    loop {
        let opened = options.open(path);
        let is_denied = |error: &io::Error| error.kind() == ErrorKind::PermissionDenied;
        if !opened.as_ref().is_err_and(is_denied) || start.elapsed() >= SETTLING {
            let path = path.display();
            return opened.with_context(|| {
                format!(
                    "cannot open {path}; `ls -l {path}` shows which group may (`dialout` on Debian and Ubuntu: \
                     `sudo usermod -aG dialout $USER`, then log in again), and `fuser {path}` which program uses it"
                )
            });
        }
        thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use std::cell::Cell;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    /// A pseudo terminal: the end that a board would be at, the port, and its path.
    fn pair() -> (File, File, PathBuf) {
        let pty = openpty(None, None).expect("the system has pseudo terminals");
        let path = nix::unistd::ttyname(&pty.slave).expect("it has a name");
        (pty.master.into(), pty.slave.into(), path)
    }

    /// The port that is there at once, or the error without one.
    fn found(devices: &Path, named: Option<&Path>) -> Result<PathBuf, String> {
        wait(named, devices, Some(Duration::ZERO), |_| ()).map_err(|error| error.to_string())
    }

    #[test]
    fn only_usb_serial_port_is_taken() {
        let devices = tempfile::tempdir().expect("there is room");
        let make = |name: &str| File::create(devices.path().join(name)).expect("there is room");
        for other in ["ttyS0", "ttyAMA0", "tty", "cu.Bluetooth"] {
            make(other);
        }
        let error = found(devices.path(), None).expect_err("there is none");
        assert!(
            error.contains("a USB serial adapter did not appear"),
            "{error}"
        );
        make("ttyUSB0");
        let port = devices.path().join("ttyUSB0");
        assert_eq!(found(devices.path(), None), Ok(port.clone()));
        make("cu.usbserial-110");
        let error = found(devices.path(), None).expect_err("which one?");
        assert!(
            error.contains("2 USB serial ports")
                && error.contains("--port ")
                && error.contains("cu.usbserial-110\n"),
            "{error}"
        );
        assert_eq!(found(devices.path(), Some(&port)), Ok(port));
    }

    #[test]
    fn port_that_is_plugged_in_later_is_waited_for() {
        let devices = tempfile::tempdir().expect("there is room");
        let port = devices.path().join("ttyACM3");
        let told = Cell::new(0);
        let count = |_: &str| told.set(told.get() + 1);
        let patience = Some(3 * TICK);
        wait(None, devices.path(), patience, count).expect_err("it is not there yet");
        assert_eq!(told.get(), 1);
        let waited = wait(None, devices.path(), None, |what| {
            assert!(what.contains("without a limit"), "{what}");
            File::create(&port).expect("there is room");
        });
        assert_eq!(waited.expect("it comes"), port);
    }

    #[test]
    fn bytes_come_as_they_were_sent_and_settings_are_put_back() {
        let (mut board, slave, path) = pair();
        let before = termios::tcgetattr(&slave).expect("it is a terminal");
        let mut port = Port::open(&path).expect("it is a port");
        let settings = termios::tcgetattr(&slave).expect("it is a terminal");
        assert_eq!(termios::cfgetospeed(&settings), BaudRate::B115200);
        let flags = settings.control_flags;
        assert!(flags.contains(ControlFlags::CS8 | ControlFlags::CREAD | ControlFlags::CLOCAL));
        assert!(!flags.intersects(ControlFlags::PARENB | ControlFlags::CSTOPB));

        let mut buffer = [0; 64];
        assert_eq!(port.read(&mut buffer).expect("it is there"), 0);
        // What a terminal would make something else of: CR, EOF, interrupt, XOFF, 8 bits.
        let sent = b"a\r\n\x04\x03\x13\xff";
        board.write_all(sent).expect("the port is open");
        let length = port.read(&mut buffer).expect("it is there");
        assert_eq!(length, sent.len());
        assert_eq!(&buffer[..sent.len()], sent);
        drop(port);
        assert_eq!(
            termios::tcgetattr(&slave).expect("it is a terminal"),
            before
        );
    }

    #[test]
    fn unplugged_port_is_gone() {
        let (board, slave, path) = pair();
        let mut port = Port::open(&path).expect("it is a port");
        drop((board, slave));
        port.read(&mut [0; 64]).expect_err("it is gone");
    }

    #[test]
    fn port_is_read_by_one_only_and_nothing_else_is_a_port() {
        let (_board, _slave, path) = pair();
        let first = Port::open(&path).expect("it is a port");
        let error = Port::open(&path).expect_err("it is in use").to_string();
        assert!(error.contains("in use by another program"), "{error}");
        drop(first);
        Port::open(&path).expect("it is free again");

        let folder = tempfile::tempdir().expect("there is room");
        let file = folder.path().join("ttyUSB0");
        let error = format!("{:#}", Port::open(&file).expect_err("there is none"));
        assert!(
            error.contains("cannot open") && error.contains("dialout"),
            "{error}"
        );
        File::create(&file).expect("there is room");
        let error = format!("{:#}", Port::open(&file).expect_err("it is a file"));
        assert!(error.contains("is no serial port"), "{error}");
        let link = folder.path().join("board");
        symlink(&path, &link).expect("there is room");
        Port::open(&link).expect("it leads to a port");
    }
}
