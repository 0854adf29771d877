// SPDX-License-Identifier: MIT OR Apache-2.0

//! The console: a PL011, the `log` backend, and a writer for when nothing else works.
//!
//! Three ways to print:
//!
//! - [`print!`](crate::print) and [`println!`](crate::println): what the kernel has to say (the
//!   demonstration, KTAP). One call is one piece: it takes a lock, with interrupts masked;
//! - the macros of crate `log`, at or above the level given to [`set_level`], one line each, with
//!   the time since the counter started;
//! - [`Emergency`], for panics and exception reports: no lock, no allocation, no interrupt.
//!
//! # Before there is a console
//!
//! Where the UART is stands in the device tree, and the kernel's text is reached through its final
//! mapping only. So what is printed before [`init`] is kept (the first [`EARLY_BYTES`] bytes of it)
//! and printed by `init`. If the kernel ends before that, what was kept goes to the host by
//! semihosting, if there is one: on a machine without a usable device tree that is the only way
//! out that needs no address, and where no host listens it is harmless
//! ([`semihosting`]). No address is ever guessed.
//!
//! The UART's line settings are left as firmware made them: it has printed with them already, and
//! the clock that a divisor would need is not known in general. (QEMU ignores them.)

use crate::arch::{interrupts, semihosting, timer};
use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use arrayvec::ArrayVec;
use core::{
    fmt::{self, Write},
    ptr::{self, NonNull},
    sync::atomic::{AtomicUsize, Ordering},
};
use log::{LevelFilter, Log, Metadata, Record};
use spin::Mutex;

/// How much output before [`init`] is kept, in bytes.
pub const EARLY_BYTES: usize = 4096;

/// Where output goes.
#[expect(clippy::large_enum_variant, reason = "there is one, in static memory")]
enum Sink {
    /// Nowhere yet: the beginning is kept, and how many bytes were dropped.
    Early {
        kept: ArrayVec<u8, EARLY_BYTES>,
        dropped: usize,
    },
    /// The UART.
    Uart(Uart<'static>),
}

static SINK: Mutex<Sink> = Mutex::new(Sink::Early {
    kept: ArrayVec::new_const(),
    dropped: 0,
});

/// Address of the UART for [`Emergency`], 0 before [`init`].
static EMERGENCY_UART: AtomicUsize = AtomicUsize::new(0);

impl Write for Sink {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        match self {
            Self::Early { kept, dropped } => {
                let fits = text.len().min(kept.remaining_capacity());
                kept.extend(text.bytes().take(fits));
                *dropped += text.len() - fits;
            }
            Self::Uart(uart) => {
                for byte in text.bytes() {
                    if byte == b'\n' {
                        put(uart, b'\r');
                    }
                    put(uart, byte);
                }
            }
        }
        Ok(())
    }
}

/// Sends a byte as soon as the transmit FIFO has room.
fn put(uart: &mut Uart<'_>, byte: u8) {
    while uart.is_tx_fifo_full() {
        core::hint::spin_loop();
    }
    uart.write_word(byte);
}

/// Takes the UART into use and prints what was kept. A later call replaces the address, which is
/// how the console moves from the boot window to the kernel's own mapping.
///
/// # Safety
///
/// `mmio` is the address of a PL011's registers, mapped as Device memory for as long as the kernel
/// runs or until the next call, and nobody else uses them.
pub unsafe fn init(mmio: NonNull<PL011Registers>) {
    // SAFETY: the caller vouches for the mapping and for being the only user; `Emergency` writes
    // the data register only when the kernel is about to end.
    let registers = unsafe { UniqueMmioPointer::new(mmio) };
    interrupts::without(|| {
        let mut sink = SINK.lock();
        let before = core::mem::replace(&mut *sink, Sink::Uart(Uart::new(registers)));
        EMERGENCY_UART.store(mmio.addr().get(), Ordering::Relaxed);
        if let Sink::Early { kept, dropped } = before {
            // A sink never fails.
            let _ = write_kept(&kept, dropped, &mut *sink);
        }
    });
}

/// Writes what was kept before there was a console.
fn write_kept(kept: &[u8], dropped: usize, out: &mut dyn Write) -> fmt::Result {
    for chunk in kept.utf8_chunks() {
        out.write_str(chunk.valid())?;
    }
    if dropped > 0 {
        writeln!(out, "\n[{dropped} bytes of early output did not fit]")?;
    }
    Ok(())
}

/// Prints; see [`println!`](crate::println).
#[doc(hidden)]
pub fn print(arguments: fmt::Arguments<'_>) {
    interrupts::without(|| {
        // A sink never fails; a value's own `Display` may, then its part is missing.
        let _ = SINK.lock().write_fmt(arguments);
    });
}

/// The console as a [`Write`], for those who are told where to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        print(format_args!("{text}"));
        Ok(())
    }
}

/// Prints to the console, without a newline.
#[macro_export]
macro_rules! print {
    ($($arguments:tt)*) => {
        $crate::platform::console::print(::core::format_args!($($arguments)*))
    };
}

/// Prints a line to the console.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($arguments:tt)*) => {
        $crate::platform::console::print(::core::format_args!(
            "{}\n", ::core::format_args!($($arguments)*)))
    };
}

/// The backend of crate `log`.
struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let time = timer::uptime();
            crate::println!(
                "[{:5}.{:06}] {}: {}",
                time.as_secs(),
                time.subsec_micros(),
                LevelName(record.level()),
                record.args()
            );
        }
    }

    fn flush(&self) {}
}

/// A level as in the boot argument `log=`.
struct LevelName(log::Level);

impl fmt::Display for LevelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            log::Level::Error => "error",
            log::Level::Warn => "warning",
            log::Level::Info => "info",
            log::Level::Debug => "debug",
            log::Level::Trace => "trace",
        })
    }
}

/// Makes this module the backend of crate `log`, at level "info".
pub fn init_log() {
    // An error means that it is the backend already.
    let _ = log::set_logger(&Logger);
    set_level(LevelFilter::Info);
}

/// Sets the least important level that is printed.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Writes past every lock, for the last words of the kernel.
///
/// It may be used at any time, in any state, by one CPU. Its output may land in the middle of a
/// line that somebody was printing. Without a UART it writes to the semihosting host, after what
/// was kept of the earlier output, which it takes only if nobody holds the lock.
#[derive(Debug)]
pub struct Emergency(());

/// Offsets of PL011 registers (DDI 0183, 3.2), in bytes.
const UARTDR: usize = 0x00;
const UARTFR: usize = 0x18;
/// UARTFR: transmit FIFO full.
const TXFF: u32 = 1 << 5;
/// UARTFR: transmitting.
const BUSY: u32 = 1 << 3;

/// How often a flag is looked at before giving up on it: a UART that never becomes ready must not
/// turn a report into a hang.
const PATIENCE: u32 = 1_000_000;

impl Emergency {
    /// Ready at once.
    #[must_use]
    pub fn new() -> Self {
        if EMERGENCY_UART.load(Ordering::Relaxed) == 0 {
            print_kept_to_host();
        }
        Self(())
    }

    /// Waits until everything has left the UART, within reason.
    pub fn drain(&mut self) {
        let uart = EMERGENCY_UART.load(Ordering::Relaxed);
        if uart != 0 {
            wait_while(uart, BUSY);
        }
    }
}

impl Default for Emergency {
    fn default() -> Self {
        Self::new()
    }
}

impl Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let uart = EMERGENCY_UART.load(Ordering::Relaxed);
        if uart == 0 {
            // Without a host there is nobody left to tell.
            let _ = semihosting::print(text.as_bytes());
            return Ok(());
        }
        for byte in text.bytes() {
            if byte == b'\n' {
                put_raw(uart, b'\r');
            }
            put_raw(uart, byte);
        }
        Ok(())
    }
}

/// Hands what was kept to the semihosting host, once.
fn print_kept_to_host() {
    let Some(mut sink) = SINK.try_lock() else {
        return;
    };
    if let Sink::Early { kept, dropped } = &mut *sink {
        // Without a host it stays unseen.
        let _ = semihosting::print(kept);
        kept.clear();
        *dropped = 0;
    }
}

fn put_raw(uart: usize, byte: u8) {
    wait_while(uart, TXFF);
    let register = ptr::with_exposed_provenance_mut::<u32>(uart + UARTDR);
    // SAFETY: `init`'s caller vouches for the registers; writing the data register sends a byte.
    unsafe { register.write_volatile(u32::from(byte)) };
}

fn wait_while(uart: usize, flag: u32) {
    let register = ptr::with_exposed_provenance::<u32>(uart + UARTFR);
    for _ in 0..PATIENCE {
        // SAFETY: as in `put_raw`; reading the flag register has no side effect.
        let flags = unsafe { register.read_volatile() };
        if flags & flag == 0 {
            return;
        }
        core::hint::spin_loop();
    }
}
