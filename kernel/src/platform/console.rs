// SPDX-License-Identifier: MIT OR Apache-2.0

//! The console: a PL011, the `log` backend, and a writer for panics and exception reports.
//!
//! There are three ways to print:
//!
//! - [`print!`](crate::print) and [`println!`](crate::println) are for the regular output (the
//!   demonstration, KTAP). Interrupts are masked for the whole call, so a handler's text never
//!   appears inside it. The lock is held for each fragment only. A `Display` that logs therefore
//!   prints in the middle of its own line and does not deadlock.
//! - The macros of crate `log` print one line each, at or above the level given to [`set_level`],
//!   with the time since the counter started.
//! - [`Emergency`] is for panics and exception reports: no lock, no allocation, no interrupt.
//!
//! The output is ASCII. All other characters, which come mostly from text outside of the kernel,
//! are [escaped](text::escape).
//!
//! # Where the output goes
//!
//! | state | since | output |
//! |---|---|---|
//! | closed | the start, [`suspend`] | is kept, up to [`EARLY_BYTES`] bytes |
//! | open, with a UART | [`init`] | goes to the UART, after what was kept |
//! | open, without | [`init`] without a UART, or a UART that does not work | goes to the host |
//!
//! The closed state exists because the device tree gives the UART's address, and because the kernel
//! accesses the UART through its final mapping only. The host is called by [`semihosting`], which
//! needs no address and does no harm where there is no host. If the kernel ends while the console
//! is closed, [`Emergency`] prints what was kept.
//!
//! An error of the boot goes to [all channels](tell_everybody): to the host and, as long as no UART
//! has [identified itself](trust), also to the UART that the load address [implies](imply).
//!
//! The kernel does not wait for a UART forever: one whose flags never change is
//! [given up](give_up).
//!
//! The UART's line settings stay as firmware made them. Firmware has already printed with them, and
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

/// The state between the printing functions and [`deliver`].
struct Sink {
    /// Whether output is delivered at once.
    open: bool,
    /// The beginning of what was printed while the console was closed.
    kept: ArrayVec<u8, EARLY_BYTES>,
    /// How many bytes did not fit.
    dropped: usize,
}

static SINK: SpinMutex<Sink, CpuRelax> = SpinMutex::new(Sink {
    open: false,
    kept: ArrayVec::new_const(),
    dropped: 0,
});

/// The UART's registers; null without one.
static UART: AtomicPtr<PL011Registers> = AtomicPtr::new(ptr::null_mut());

/// Physical address and size in bytes of the UART that errors of the boot also go to, as long as it
/// can be mapped; 0 for none.
static IMPLIED: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// The registers of that UART while it is in use; otherwise null.
static SECOND: AtomicPtr<PL011Registers> = AtomicPtr::new(ptr::null_mut());

/// Whether all output also goes to the host.
static TO_HOST: AtomicBool = AtomicBool::new(false);

/// Whether the last byte delivered did not end a line.
static LINE_IS_OPEN: AtomicBool = AtomicBool::new(false);

impl Sink {
    fn write(&mut self, text: &[u8]) {
        if self.open {
            deliver(text);
        } else {
            let fits = text.len().min(self.kept.remaining_capacity());
            // The slice was cut to the room that is left.
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

/// Sends `text` to the UART or, without one, to the semihosting host; or to all channels.
fn deliver(text: &[u8]) {
    let Some(last) = text.last() else {
        return;
    };
    let to_host = TO_HOST.load(Ordering::Relaxed);
    if to_host {
        // The host comes first, because this cannot fault.
        let _ = semihosting::print(text);
    }
    let rest = send_all(&UART, text);
    send_all(&SECOND, text);
    if !to_host {
        // Without a host there is no other channel.
        let _ = semihosting::print(rest);
    }
    LINE_IS_OPEN.store(*last != b'\n', Ordering::Relaxed);
}

/// Sends `text` to the UART at `place`. Returns the rest if there is no UART or it is given up.
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
    // SAFETY: the callers of `init` and `imply` vouch for the registers. They have one user at a
    // time: the holder of `SINK`, or `Emergency` when the kernel is about to end and no other code
    // continues.
    Some(Uart::new(unsafe { UniqueMmioPointer::new(registers) }))
}

/// How often a flag is read before the UART is given up. This takes at least some ten milliseconds;
/// a byte at 9600 baud takes one.
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

/// Prints on `uart` from now on, or on the semihosting host if there is none, beginning with what
/// was kept. A later call replaces the UART.
///
/// # Safety
///
/// `uart` is the address of a PL011's registers, mapped as Device memory until the next call of
/// `init` or [`suspend`], or forever, and nothing else uses them.
pub unsafe fn init(uart: Option<NonNull<PL011Registers>>) {
    let registers = uart.map_or(ptr::null_mut(), NonNull::as_ptr);
    interrupts::without(|| {
        let mut sink = SINK.lock();
        UART.store(registers, Ordering::Relaxed);
        sink.release();
        sink.open = true;
    });
}

/// Keeps output until the next [`init`], because the UART's mapping is about to be removed. An
/// error in between is reported in a way that does not need the UART.
pub fn suspend() {
    interrupts::without(|| {
        let mut sink = SINK.lock();
        trust();
        UART.store(ptr::null_mut(), Ordering::Relaxed);
        sink.open = false;
    });
}

/// Stops using the UART at `place`, because it does not work. The rest goes to the host.
fn give_up(place: &AtomicPtr<PL011Registers>) {
    place.store(ptr::null_mut(), Ordering::Relaxed);
    LINE_IS_OPEN.store(false, Ordering::Relaxed);
}

/// What was found at the address of a UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: an access faults.
    Nothing,
    /// Not a PL011, or a device that does not identify itself.
    SomethingElse,
    /// A device whose range does not contain the identification registers, which are in the last
    /// bytes of a page.
    Unknown,
    /// A PL011.
    Pl011,
}

/// Identifies the device at `uart`, a range of `size` bytes.
///
/// # Safety
///
/// The range is mapped as Device memory, to the end of its page, and reading it changes nothing.
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

/// Lets errors also go to the PL011 at physical address `uart`, of `size` bytes, until [`trust`].
///
/// # Safety
///
/// The boot tables are live until `trust` or [`suspend`]. If there is a device at `uart`, it is a
/// PL011, or its identification registers say that it is not; nothing else uses it.
pub unsafe fn imply((uart, size): (u64, u64)) {
    IMPLIED[0].store(uart, Ordering::Relaxed);
    IMPLIED[1].store(size, Ordering::Relaxed);
}

/// Whether the UART at physical address `uart` is the implied one.
pub fn is_implied(uart: u64) -> bool {
    IMPLIED[0].load(Ordering::Relaxed) == uart
}

/// Ends the use of the implied UART, because the UART in use has identified itself.
pub fn trust() {
    IMPLIED[0].store(0, Ordering::Relaxed);
    SECOND.store(ptr::null_mut(), Ordering::Relaxed);
}

/// From here on the output of [`Emergency`] goes to all channels, because the kernel ends with an
/// error.
pub fn tell_everybody() {
    TO_HOST.store(true, Ordering::Relaxed);
    let implied = IMPLIED[0].swap(0, Ordering::Relaxed);
    if implied == 0 {
        return;
    }
    // SAFETY: `imply`'s contract.
    let virt = unsafe { boot::map_early_device(implied) };
    let Some(virt) = virt else { return };
    // SAFETY: mapped above, by a block. By the same contract, reading the registers changes
    // nothing.
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
        // The console never fails. A value's own `Display` may fail; then its part is missing.
        let _ = Console.write_fmt(arguments);
    });
}

/// The console as a [`Write`], for code that takes a writer.
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
    // An error means that it already is the backend.
    let _ = log::set_logger(&Logger);
    set_level(LevelFilter::Info);
}

/// Sets the least important level that is printed.
pub fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Prints without taking a lock, for the last output of the kernel.
///
/// One CPU may use it at any time and in any state. It begins on a new line, after what was kept
/// while the console was closed. It prints what was kept only if the lock is free.
#[derive(Debug)]
pub struct Emergency(());

impl Emergency {
    /// A writer that is ready at once.
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

    /// A writer for a report after `failed` reports that did not complete. If there were two or
    /// more, the UART is taken for the cause: it is given up, and the output goes to the host.
    #[must_use]
    pub fn after(failed: u32) -> Self {
        if failed >= 2 {
            give_up(&UART);
            give_up(&SECOND);
        }
        Self::new()
    }

    /// Waits until the UART has sent everything, but not forever.
    pub fn drain(&mut self) {
        for uart in [&UART, &SECOND].into_iter().filter_map(uart) {
            // The kernel ends even if the UART does not become idle.
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
