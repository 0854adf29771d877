// SPDX-License-Identifier: MIT OR Apache-2.0

//! Asks a guest that hangs where its CPUs are.
//!
//! QEMU's control socket speaks QMP, JSON lines; two fixed requests and a search
//! in the text of one answer are all that is used of it. It is one end of a pair and has no
//! path: the length of one is limited, and a folder for it may be missing.

use crate::guest;
use crate::symbols::{Address, Symbols};
use anyhow::{Context, Result};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

/// How long QEMU may take to answer, on a busy host.
const PATIENCE: Duration = Duration::from_secs(20);
const REQUEST: &[u8] = br#"{"execute":"qmp_capabilities"}
{"execute":"human-monitor-command","arguments":{"command-line":"info registers -a"},"id":"last"}
"#;

/// Gives the QEMU that `command` starts a control socket, and returns our end of it.
///
/// # Errors
///
/// When the system has no more files.
pub fn control(command: &mut Command) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let socket = format!("socket,id=control,fd={}", theirs.as_raw_fd());
    command.args(["-chardev", &socket, "-qmp", "chardev:control"]);
    guest::hand_over(command, theirs.into());
    Ok(ours)
}

/// What QEMU prints before the program counter of a 64-bit CPU.
pub const OF_64_BITS: &str = " PC=";
/// What it prints before the first register of a 32-bit one.
pub const OF_32_BITS: &str = "R00=";

/// The registers of all CPUs, as QEMU prints them.
///
/// # Errors
///
/// As [`ask`].
pub fn registers(socket: &UnixStream) -> Result<String> {
    ask(socket, REQUEST)
}

/// Describes program counter and link register of each CPU.
pub fn where_is(socket: &UnixStream, symbols: Option<&Symbols>) -> Vec<String> {
    match registers(socket) {
        Ok(answer) => describe(&answer, symbols),
        Err(error) => vec![format!("QEMU does not say where the CPUs are: {error:#}")],
    }
}

/// Sends requests and returns all answers, up to that of the one with the id `last`.
///
/// # Errors
///
/// When QEMU has ended, or does not answer in time.
pub fn ask(mut socket: &UnixStream, requests: &[u8]) -> Result<String> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket
        .write_all(requests)
        .context("nobody listens at its control socket")?;
    let mut answer = String::new();
    let mut chunk = [0; 4096];
    while !answer.contains(r#""id": "last""#) {
        let length = socket
            .read(&mut chunk)
            .context("no answer on its control socket")?;
        if length == 0 {
            break;
        }
        answer.push_str(&String::from_utf8_lossy(&chunk[..length]));
    }
    Ok(answer)
}

/// Reads each CPU's registers; QEMU prints ` PC=...` first and ` X30=...` last.
fn describe(answer: &str, symbols: Option<&Symbols>) -> Vec<String> {
    answer
        .split(OF_64_BITS)
        .skip(1)
        .enumerate()
        .filter_map(|(cpu, registers)| {
            let pc = hexadecimal(registers)?;
            let register = |name: &str| hexadecimal(registers.split_once(name)?.1);
            let at = named(symbols, pc, Address::Instruction);
            Some(match register("X00=").and_then(parked) {
                Some(why) => format!("CPU {cpu} {why}; x1 = {:#x}", register("X01=").unwrap_or(0)),
                None => {
                    let lr = named(symbols, register("X30=").unwrap_or(0), Address::Return);
                    format!("CPU {cpu} is at {at}, called from {lr}")
                }
            })
        })
        .collect()
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.get(..16)?, 16).ok()
}

fn named(symbols: Option<&Symbols>, address: u64, kind: Address) -> String {
    let frames = symbols
        .map(|symbols| symbols.describe(address, kind))
        .unwrap_or_default();
    let frame = frames
        .first()
        .map(|frame| format!(" {frame}"))
        .unwrap_or_default();
    format!("{address:#018x}{frame}")
}

/// What a CPU that boot/src/park.rs has stopped says in x0.
fn parked(x0: u64) -> Option<String> {
    Some(match x0 {
        0x6c6d_0001 => "waits, because it is not the boot CPU".to_owned(),
        0x6c6d_0002 => "was stopped: the image is not 0x80000 above a 2 MiB boundary".to_owned(),
        0x6c6d_0003 => "was stopped: it has no 4 KiB translation granule".to_owned(),
        0x6c6d_0100..=0x6c6d_010f => {
            format!(
                "was stopped by exception {} before the kernel had its vectors",
                x0 & 0xf
            )
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_found_in_the_answer() {
        let answer = r#"{"return": {}}
{"return": "\r\nCPU#0\r\n PC=ffffffff80081234 X00=0 X01=0\r\nX30=ffffffff80080010 SP=0\r\n\r\nCPU#1\r\n PC=0000000040080200 X00=000000006c6d0001 X01=0000000080000001\r\nX30=0000000000000000 SP=0\r\n", "id": "last"}"#;
        assert_eq!(
            describe(answer, None),
            [
                "CPU 0 is at 0xffffffff80081234, called from 0xffffffff80080010",
                "CPU 1 waits, because it is not the boot CPU; x1 = 0x80000001",
            ]
        );
    }

    #[test]
    fn answer_without_registers_says_nothing() {
        assert!(describe(r#"{"error": {"class": "GenericError"}}"#, None).is_empty());
    }
}
