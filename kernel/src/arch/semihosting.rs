// SPDX-License-Identifier: MIT OR Apache-2.0

//! Semihosting: asking an emulator or debugger to print or to end.
//!
//! Crate `semihosting` issues `hlt #0xf000` and hopes; where nobody takes it the instruction is
//! UNDEFINED and the kernel would end with an exception of its own making. Here the instruction is
//! a [probe](super::probe), so that a machine without a host is an answer like any other, and may
//! be asked at any time after the vectors are installed.

use super::probe::probe_semihosting;
use core::fmt;

/// SYS_WRITE0: prints a NUL-terminated string.
const SYS_WRITE0: u64 = 0x04;
/// SYS_EXIT.
const SYS_EXIT: u64 = 0x18;
/// The error of the last operation: no parameter, no effect.
const SYS_ERRNO: u64 = 0x13;
/// Reason of SYS_EXIT: the application ends, with a status in the second word.
const APPLICATION_EXIT: u64 = 0x2_0026;

/// Nobody listens: `hlt #0xf000` is undefined here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHost;

impl fmt::Display for NoHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no semihosting: start QEMU with -semihosting-config enable=on,target=native")
    }
}

fn call(operation: u64, parameter: u64) -> Result<u64, NoHost> {
    // SAFETY: `hlt` being undefined is caught. The callers below pass the address of a live block
    // of the layout that the operation reads; the host writes nothing.
    unsafe { probe_semihosting(operation, parameter) }
        .into_result()
        .map_err(|_| NoHost)
}

/// Ends the emulator with `status`.
///
/// # Errors
///
/// [`NoHost`]; without an error it does not return.
pub fn exit(status: u8) -> Result<(), NoHost> {
    let block = [APPLICATION_EXIT, u64::from(status)];
    call(SYS_EXIT, block.as_ptr() as u64).map(|_| ())
}

/// Whether a host answers: an emulator that was asked for it, or a debugger.
#[must_use]
pub fn has_host() -> bool {
    call(SYS_ERRNO, 0).is_ok()
}

/// Prints to the host's standard error output, in pieces; used when there is no other console.
///
/// # Errors
///
/// [`NoHost`].
pub fn print(text: &[u8]) -> Result<(), NoHost> {
    const PIECE: usize = 64;
    for piece in text.chunks(PIECE) {
        // The host reads up to the NUL, which this array always ends with.
        let mut buffer = [0_u8; PIECE + 1];
        buffer[..piece.len()].copy_from_slice(piece);
        call(SYS_WRITE0, buffer.as_ptr() as u64)?;
    }
    Ok(())
}
