// SPDX-License-Identifier: MIT OR Apache-2.0

//! The console: a PL011, the `log` backend, and a writer for when nothing else works.
//!
//! Three ways to print:
//!
//! - [`print!`](crate::print) and [`println!`](crate::println): what the kernel has to say (the
//!   demonstration, KTAP). Interrupts are masked for the whole of one call, so a handler's text
//!   never lands inside it. The lock is held for each fragment only: a `Display` that logs prints
//!   in the middle of the line that it is part of, and waits for nobody;
//! - the macros of crate `log`, at or above the level given to [`set_level`], one line each, with
//!   the time since the counter started;
//! - [`Emergency`], for panics and exception reports: no lock, no allocation, no interrupt.
//!
//! What is printed is ASCII: all else, most of it from texts that others wrote, is [escaped](text::escape).
//!
//! # Where it goes
//!
//! | state | since | output |
//! |---|---|---|
//! | closed | the start, [`suspend`] | is kept, the first [`EARLY_BYTES`] bytes of it |
//! | open, with a UART | [`init`] | goes to the UART, after what was kept |
//! | open, without | [`init`] without a UART, or a UART that does not work | goes to the host |
//!
//! Where the UART is stands in the device tree, and the kernel's text is reached through its final
//! mapping only, hence the first state. The host is asked by
//! [`semihosting`], which needs no address and is harmless where nobody listens. If the kernel ends
//! while the console is closed, [`Emergency`] hands over what was kept.
//!
//! An error of the boot is for [everybody](tell_everybody): it goes to the host in any case and, as long as no UART
//! has [proved](trust) to be one, to the UART that the load address [implies](imply).
//!
//! A UART is not waited for without end: one whose flags never change is [given up](give_up).
//!
//! The UART's line settings are left as firmware made them: it has printed with them already, and
//! the clock that a divisor would need is not known in general. (QEMU ignores them.)

use crate::{
    arch::{
        interrupts, probe,
        relax::{CpuRelax, cpu_relax},
        semihosting, timer,
    },
    text::{self, Line, Newline},
};
use arm_pl011_uart::{PL011Registers, Uart, UniqueMmioPointer};
use arrayvec::ArrayVec;
use core::{
    fmt::{self, Write},
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering},
};
use log::{LevelFilter, Log, Metadata, Record};
use spin::mutex::SpinMutex;

/// How much output is kept while the console is closed, in bytes.
pub const EARLY_BYTES: usize = 4096;

/// What stands between the printing functions and [`deliver`].
struct Sink {
    /// Whether output is delivered at once.
    open: bool,
    /// The beginning of what was printed while it was not,
    kept: ArrayVec<u8, EARLY_BYTES>,
    /// and how many bytes did not fit.
    dropped: usize,
}

static SINK: SpinMutex<Sink, CpuRelax> = SpinMutex::new(Sink {
    open: false,
    kept: ArrayVec::new_const(),
    dropped: 0,
});

/// The UART's registers; null without one.
static UART: AtomicPtr<PL011Registers> = AtomicPtr::new(ptr::null_mut());

/// Physical address and bytes of the UART that errors of the boot go to in addition, as long as it can be mapped; 0 for
/// none.
static IMPLIED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Its registers when it is used; otherwise null.
static SECOND: AtomicPtr<PL011Registers> = AtomicPtr::new(ptr::null_mut());

/// Whether the host gets everything.
static TO_HOST: AtomicBool = AtomicBool::new(false);

/// Whether the last byte delivered did not end a line.
static LINE_IS_OPEN: AtomicBool = AtomicBool::new(false);

impl Sink {
    fn write(&mut self, text: &[u8]) {
        if self.open {
            deliver(text);
        } else {
            let fits = text.len().min(self.kept.remaining_capacity());
            // It fits.
            let _ = self.kept.try_extend_from_slice(&text[..fits]);
            self.dropped += text.len() - fits;
        }
    }

    /// Delivers what was kept, once.
    fn release(&mut self) {
        deliver(&self.kept);
        self.kept.clear();
        let dropped = core::mem::take(&mut self.dropped);
        if dropped > 0 {
            end_line();
            // This writer never fails.
            let _ = writeln!(
                Emergency(()),
                "[{dropped} bytes of early output did not fit]"
            );
        }
    }
}

/// Sends `text` to the UART or, without one, to the semihosting host; or to all that there are.
fn deliver(text: &[u8]) {
    let Some(last) = text.last() else {
        return;
    };
    let to_host = TO_HOST.load(Ordering::Relaxed);
    if to_host {
        // First, since it cannot fault.
        let _ = semihosting::print(text);
    }
    let rest = send_all(&UART, text);
    send_all(&SECOND, text);
    if !to_host {
        // Without a host there is nobody left to tell.
        let _ = semihosting::print(rest);
    }
    LINE_IS_OPEN.store(*last != b'\n', Ordering::Relaxed);
}

/// Sends `text` to the UART at `place`; returns what is left when there is none, or when it is given up.
fn send_all<'a>(place: &AtomicPtr<PL011Registers>, mut text: &'a [u8]) -> &'a [u8] {
    while let (Some(mut uart), Some((byte, after))) = (uart(place), text.split_first()) {
        match send(&mut uart, *byte) {
            Ok(()) => text = after,
            Err(Stuck) => give_up(place),
        }
    }
    text
}

/// Starts a new line if the last one has not ended.
fn end_line() {
    if LINE_IS_OPEN.load(Ordering::Relaxed) {
        deliver(b"\n");
    }
}

fn uart(place: &AtomicPtr<PL011Registers>) -> Option<Uart<'static>> {
    let registers = NonNull::new(place.load(Ordering::Relaxed))?;
    // SAFETY: `init`'s and `imply`'s caller vouches for the registers. They have one user at a time: the holder
    // of `SINK`, or `Emergency`, when the kernel is about to end and nobody else goes on.
    Some(Uart::new(unsafe { UniqueMmioPointer::new(registers) }))
}

/// How often a flag is looked at before giving up on it: some ten milliseconds at least, where a
/// byte at 9600 baud takes one.
const PATIENCE: u32 = 1_000_000;

/// A flag of the UART does not change.
struct Stuck;

/// Sends a byte, and a carriage return before a newline, as soon as the transmit FIFO has room.
fn send(uart: &mut Uart<'_>, byte: u8) -> Result<(), Stuck> {
    if byte == b'\n' {
        wait_until(|| !uart.is_tx_fifo_full())?;
        uart.write_word(b'\r');
    }
    wait_until(|| !uart.is_tx_fifo_full())?;
    uart.write_word(byte);
    Ok(())
}

fn wait_until(ready: impl Fn() -> bool) -> Result<(), Stuck> {
    for _ in 0..PATIENCE {
        if ready() {
            return Ok(());
        }
        cpu_relax();
    }
    Err(Stuck)
}

/// Prints on `uart` from now on, or on the semihosting host if there is none; what was kept comes
/// first. A later call replaces the UART.
///
/// # Safety
///
/// `uart` is the address of a PL011's registers, mapped as Device memory until the next call of
/// `init` or [`suspend`], or for ever, and nobody else uses them.
pub unsafe fn init(uart: Option<NonNull<PL011Registers>>) {
    let registers = uart.map_or(ptr::null_mut(), NonNull::as_ptr);
    interrupts::without(|| {
        let mut sink = SINK.lock();
        UART.store(registers, Ordering::Relaxed);
        sink.release();
        sink.open = true;
    });
}

/// Keeps output until the next [`init`]: the UART's mapping is about to go, and whatever goes
/// wrong meanwhile must find a way to be told that does not need it.
pub fn suspend() {
    interrupts::without(|| {
        let mut sink = SINK.lock();
        trust();
        UART.store(ptr::null_mut(), Ordering::Relaxed);
        sink.open = false;
    });
}

/// Uses the UART at `place` no more: it does not work. The rest goes to the host.
fn give_up(place: &AtomicPtr<PL011Registers>) {
    place.store(ptr::null_mut(), Ordering::Relaxed);
    LINE_IS_OPEN.store(false, Ordering::Relaxed);
}

/// What is found where a UART should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: an access faults.
    Nothing,
    /// Something else than a PL011, or one that does not say what it is.
    SomethingElse,
    /// Something whose registers of identification, in the last bytes of a page, are not its own.
    Unknown,
    /// A PL011.
    Pl011,
}

/// Looks what is at `uart`, a range of `size` bytes.
///
/// # Safety
///
/// The range is mapped as Device memory, to the end of its page, and nothing there changes by being read.
pub unsafe fn identify(uart: u64, size: u64) -> Found {
    /// UARTFR, and UARTPCellID0 to 3 with the values that they have in a PrimeCell.
    const FLAGS: u64 = 0x18;
    const IDENTIFICATION: [(u64, u32); 4] =
        [(0xff0, 0x0d), (0xff4, 0xf0), (0xff8, 0x05), (0xffc, 0xb1)];
    // SAFETY: the caller's contract.
    let read = |offset| unsafe { probe::try_read_register(uart + offset) };
    if read(FLAGS).is_err() {
        return Found::Nothing;
    }
    if size < 0x1000 {
        return Found::Unknown;
    }
    let is_pl011 = IDENTIFICATION
        .iter()
        .all(|(offset, value)| read(*offset).is_ok_and(|found| found & 0xff == *value));
    match is_pl011 {
        true => Found::Pl011,
        false => Found::SomethingElse,
    }
}

/// Lets errors go to the PL011 at physical address `uart` as well, of `size` bytes, until [`trust`].
///
/// # Safety
///
/// The boot tables are live until `trust` or [`suspend`]. If there is a device at `uart`, it is one whose registers of
/// identification tell whether it is a PL011, or a PL011; nobody else uses it.
pub unsafe fn imply((uart, size): (u64, u64)) {
    IMPLIED[0].store(uart, Ordering::Relaxed);
    IMPLIED[1].store(size, Ordering::Relaxed);
}

/// Whether the UART at physical address `uart` is the implied one.
pub fn is_implied(uart: u64) -> bool {
    IMPLIED[0].load(Ordering::Relaxed) == uart
}

/// The UART in use is one: no other need be tried.
pub fn trust() {
    IMPLIED[0].store(0, Ordering::Relaxed);
    SECOND.store(ptr::null_mut(), Ordering::Relaxed);
}

/// From here on, what is printed by [`Emergency`] goes to all who may hear it: the kernel ends with an error.
pub fn tell_everybody() {
    TO_HOST.store(true, Ordering::Relaxed);
    let implied = IMPLIED[0].swap(0, Ordering::Relaxed);
    if implied == 0 {
        return;
    }
    // SAFETY: `imply`'s contract.
    let virt = unsafe { boot::map_early_device(implied) };
    let Some(virt) = virt else { return };
    // SAFETY: mapped above, by a block. By the same contract no register changes by being read.
    let found = unsafe { identify(virt, IMPLIED[1].load(Ordering::Relaxed)) };
    if matches!(found, Found::Unknown | Found::Pl011) {
        let registers = ptr::with_exposed_provenance_mut(virt as usize);
        SECOND.store(registers, Ordering::Relaxed);
    }
}

/// Prints; see [`println!`](crate::println).
#[doc(hidden)]
pub fn print(arguments: fmt::Arguments<'_>) {
    interrupts::without(|| {
        // The console never fails; a value's own `Display` may, then its part is missing.
        let _ = Console.write_fmt(arguments);
    });
}

/// The console as a [`Write`], for those who are told where to write.
#[derive(Clone, Copy, Debug, Default)]
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        interrupts::without(|| {
            let mut sink = SINK.lock();
            text::escape(text, Newline::Stays, &mut |piece| {
                sink.write(piece.as_bytes())
            });
        });
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
                Line(record.args())
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
/// It may be used at any time, in any state, by one CPU. It begins on a line of its own, after what
/// was kept while the console was closed, which it takes only if nobody holds the lock.
#[derive(Debug)]
pub struct Emergency(());

impl Emergency {
    /// Ready at once.
    #[must_use]
    pub fn new() -> Self {
        if !is_implied(0) {
            tell_everybody();
        }
        if let Some(mut sink) = SINK.try_lock() {
            sink.release();
        }
        end_line();
        Self(())
    }

    /// For a report after `failed` others that did not come to their end. From the second on the
    /// UART is taken for the reason, and the host gets the rest.
    #[must_use]
    pub fn after(failed: u32) -> Self {
        if failed >= 2 {
            give_up(&UART);
            give_up(&SECOND);
        }
        Self::new()
    }

    /// Waits until everything has left the UART, within reason.
    pub fn drain(&mut self) {
        for uart in [&UART, &SECOND].into_iter().filter_map(uart) {
            // The kernel ends either way.
            let _ = wait_until(|| !uart.is_busy());
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
        text::escape(text, Newline::Stays, &mut |piece| deliver(piece.as_bytes()));
        Ok(())
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        text::write_char(self, c)
    }
}
