// SPDX-License-Identifier: MIT OR Apache-2.0

//! Semihosting: requests to an emulator or debugger to print, or to end the run.
//!
//! Crate `semihosting` executes `hlt #0xf000` unconditionally. Where no host handles it, the
//! instruction is UNDEFINED, and the kernel would end with an exception that it caused itself. Here
//! the instruction is a [probe](super::probe). The absence of a host is therefore an ordinary
//! error, and a request is possible at any time after the vectors are installed.

use super::probe::probe_semihosting;
use core::fmt;

/// SYS_WRITE0: prints a NUL-terminated string.
const SYS_WRITE0: u64 = 0x04;
/// SYS_EXIT.
const SYS_EXIT: u64 = 0x18;
/// SYS_ERRNO: returns the error of the last operation. It takes no parameter and has no effect.
const SYS_ERRNO: u64 = 0x13;
/// Reason of SYS_EXIT: the application ends, with a status in the second word.
const APPLICATION_EXIT: u64 = 0x2_0026;

/// There is no host: `hlt #0xf000` is undefined here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHost;

impl fmt::Display for NoHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no semihosting: start QEMU with -semihosting-config enable=on,target=native")
    }
}

fn call(operation: u64, parameter: u64) -> Result<u64, NoHost> {
    // SAFETY: an undefined `hlt` is caught. The callers below pass the address of a live block of
    // the layout that the operation reads, and the host writes nothing.
    unsafe { probe_semihosting(operation, parameter) }
        .into_result()
        .map_err(|_| NoHost)
}

/// Ends the emulator with `status`.
///
/// # Errors
///
/// [`NoHost`]. On success it does not return.
pub fn exit(status: u8) -> Result<(), NoHost> {
    let block = [APPLICATION_EXIT, u64::from(status)];
    call(SYS_EXIT, block.as_ptr() as u64).map(|_| ())
}

/// Whether a host answers: an emulator with semihosting enabled, or a debugger.
#[must_use]
pub fn has_host() -> bool {
    call(SYS_ERRNO, 0).is_ok()
}

/// Prints to the host's standard error output, in pieces. For use when there is no other console.
///
/// # Errors
///
/// [`NoHost`].
pub fn print(text: &[u8]) -> Result<(), NoHost> {
    const PIECE: usize = 64;
    for piece in text.chunks(PIECE) {
        // The host reads up to the NUL; this array always ends with one.
        let mut buffer = [0_u8; PIECE + 1];
        buffer[..piece.len()].copy_from_slice(piece);
        call(SYS_WRITE0, buffer.as_ptr() as u64)?;
    }
    Ok(())
}
