// SPDX-License-Identifier: MIT OR Apache-2.0

//! One task of the soak: it takes random steps, and checks after each what must be true.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use lazymmu::{Backing, Owed, Prot, SpaceError};

use super::SoakError;
use crate::arch::probe;
use crate::mm::frames::FrameList;
use crate::mm::layout::linear_virt;
use crate::mm::vmap::{self, Area};
use crate::mm::{MMU, kernel_space};
use crate::sched::{self, CpuMask, Mutex, preempt};
use crate::text::Text;

/// The number of pages of a worker.
const PAGES: usize = 12;

/// The greatest depth of its sections.
const DEPTH: u8 = 4;

/// A counter that all workers share. It is a multiple of two whenever the mutex is free.
static SHARED: Mutex<u64> = Mutex::new(0);

/// The totals of a worker.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Report {
    steps: u64,
    sections: u64,
    out_of_memory: u64,
    /// The totals of all CPUs; see `totals`.
    pub(super) cpus: [u64; 5],
}

impl Report {
    pub(super) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.sections += other.sections;
        self.out_of_memory += other.out_of_memory;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [switches, preemptions, refused, arrivals, stolen] = self.cpus;
        write!(
            f,
            "soak steps={} sections={} switches={switches} preemptions={preemptions} refused={refused} \
             arrivals={arrivals} stolen={stolen} out_of_memory={}",
            self.steps, self.sections, self.out_of_memory
        )
    }
}

/// Random numbers: xorshift64*.
#[derive(Clone, Copy, Debug)]
struct Random(u64);

impl Random {
    /// Returns a number in `0..limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        (mixed as usize) % limit
    }
}

/// The state of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Unmapped,
    ReadOnly,
    Writable,
}

impl Page {
    const fn prot(self) -> Prot {
        match self {
            Self::Writable => Prot::KERNEL,
            _ => Prot::KERNEL_RO,
        }
    }
}

/// A worker.
#[derive(Debug)]
pub(super) struct Worker {
    seed: u64,
    number: u64,
    random: Random,
    area: Area<FrameList>,
    pages: [Page; PAGES],
    enable: u8,
    pause: u8,
    /// The number of entries that the worker has asked for.
    ptes: u64,
    report: Report,
}

/// The reason why a step failed.
type Wrong = Text<160>;

macro_rules! wrong {
    ($($text:tt)*) => {
        return Err(Text::from_arguments(format_args!($($text)*)))
    };
}

impl Worker {
    /// Creates worker `number` of a run with `seed`.
    ///
    /// # Errors
    /// No memory or no addresses are left.
    pub(super) fn new(seed: u64, number: u64) -> Result<Self, SoakError> {
        let frames = FrameList::alloc(PAGES)?;
        for (i, frame) in frames.iter().enumerate() {
            let place = linear_virt(frame.as_u64()) as usize;
            let mark = core::ptr::with_exposed_provenance_mut::<u64>(place);
            // SAFETY: the frame belongs to the worker, and the linear map shows it there, aligned.
            unsafe { mark.write_volatile(Self::mark(number, i)) };
        }
        Ok(Self {
            seed,
            number,
            random: Random((seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1),
            area: Area::for_frames(&vmap::GENERAL, frames)?,
            pages: [Page::Unmapped; PAGES],
            enable: 0,
            pause: 0,
            ptes: 0,
            report: Report::default(),
        })
    }

    /// The value at the start of a worker's frame.
    const fn mark(number: u64, frame: usize) -> u64 {
        number << 32 | 0xabc0 | frame as u64
    }

    /// Takes steps until `stop` is set, or until a check fails.
    pub(super) fn run(mut self, stop: &AtomicBool) -> Result<Report, Text<256>> {
        let before = sched::current().counts();
        let mut result = Ok(());
        while result.is_ok() && !stop.load(Ordering::Relaxed) {
            self.report.steps += 1;
            result = self.step().and_then(|()| self.check());
        }
        let result = result
            .and_then(|()| self.leave())
            .and_then(|()| self.look())
            .and_then(|()| {
                let counts = sched::current().counts() - before;
                if counts.ptes != self.ptes {
                    wrong!(
                        "{} entries were asked for, {} counted",
                        self.ptes,
                        counts.ptes
                    );
                }
                if counts.enter != counts.leave {
                    wrong!("{} times entered, {} left", counts.enter, counts.leave);
                }
                Ok(())
            });
        match result {
            Ok(()) => Ok(self.report),
            Err(text) => Err(Text::from_arguments(format_args!(
                "worker {} of seed {}, step {}, on CPU {}: {text}",
                self.number,
                self.seed,
                self.report.steps,
                sched::cpu()
            ))),
        }
    }

    fn step(&mut self) -> Result<(), Wrong> {
        let (first, count) = self.run_of_pages();
        match self.random.below(20) {
            0..3 => self.map(first, count),
            3 | 4 => self.unmap(first, count),
            5 | 6 => self.protect(first, count),
            7 | 8 => self.fast(first, count),
            9 | 10 => self.enable(),
            11 | 12 => self.disable(),
            13 => self.pause(),
            14 => self.resume(),
            15 => {
                MMU.lazy().flush();
                self.look()
            }
            16 => self.sleep(),
            17 => self.migrate(),
            18 => self.share(),
            _ => self.other(),
        }
    }

    /// The state belongs to the task, regardless of which tasks ran in the meantime (R11).
    fn check(&self) -> Result<(), Wrong> {
        let state = MMU.lazy().state();
        let has = (state.enable_count(), state.pause_count());
        if has != (self.enable, self.pause) {
            wrong!(
                "(enable, pause) is {has:?}, not {:?}",
                (self.enable, self.pause)
            );
        }
        if !self.is_active() && !state.owed().is_empty() {
            wrong!("owes {:?} outside of any section", state.owed());
        }
        Ok(())
    }

    const fn is_active(&self) -> bool {
        self.enable > 0 && self.pause == 0
    }

    /// A random run of pages.
    fn run_of_pages(&mut self) -> (usize, usize) {
        let first = self.random.below(PAGES);
        (first, 1 + self.random.below(PAGES - first))
    }

    fn all(&self, first: usize, count: usize, is: impl Fn(Page) -> bool) -> bool {
        self.pages[first..first + count]
            .iter()
            .all(|page| is(*page))
    }

    fn some_prot(&mut self) -> Page {
        if self.random.below(3) == 0 {
            Page::ReadOnly
        } else {
            Page::Writable
        }
    }

    /// Checks the result of a request. Returns whether the request was carried out; it may also run
    /// out of memory.
    fn settled(
        &mut self,
        what: &str,
        result: Result<(), SpaceError>,
        allowed: bool,
    ) -> Result<bool, Wrong> {
        match result {
            Ok(()) if allowed => Ok(true),
            Ok(()) => wrong!("{what} was not refused"),
            Err(SpaceError::OutOfTables { .. }) => {
                self.report.out_of_memory += 1;
                Ok(false)
            }
            Err(_) if !allowed => Ok(false),
            Err(error) => wrong!("{what}: {error}"),
        }
    }

    fn map(&mut self, first: usize, count: usize) -> Result<(), Wrong> {
        let allowed = self.all(first, count, |page| page == Page::Unmapped);
        let page = self.some_prot();
        let result = self
            .area
            .part(first as u64, count as u64)
            .and_then(|range| {
                let backing = Backing::Scattered(&self.area.frames()[first..first + count]);
                kernel_space::lock().map(range, backing, page.prot())
            });
        if self.settled("map", result, allowed)? {
            self.pages[first..first + count].fill(page);
            self.ptes += count as u64;
        }
        Ok(())
    }

    fn unmap(&mut self, first: usize, count: usize) -> Result<(), Wrong> {
        let allowed = self.all(first, count, |page| page != Page::Unmapped);
        let result = self
            .area
            .part(first as u64, count as u64)
            .and_then(|range| kernel_space::lock().unmap(range));
        if self.settled("unmap", result, allowed)? {
            self.pages[first..first + count].fill(Page::Unmapped);
            self.ptes += count as u64;
        }
        Ok(())
    }

    fn protect(&mut self, first: usize, count: usize) -> Result<(), Wrong> {
        let allowed = self.all(first, count, |page| page != Page::Unmapped);
        let page = self.some_prot();
        let result = self
            .area
            .part(first as u64, count as u64)
            .and_then(|range| kernel_space::lock().protect(range, page.prot()));
        if self.settled("protect", result, allowed)? {
            self.pages[first..first + count].fill(page);
            self.ptes += count as u64;
        }
        Ok(())
    }

    /// Maps each page that is not mapped and unmaps each other page, in an announced range.
    fn fast(&mut self, first: usize, count: usize) -> Result<(), Wrong> {
        let page = self.some_prot();
        let range = match self.area.part(first as u64, count as u64) {
            Ok(range) => range,
            Err(error) => wrong!("fast_pte_range: {error}"),
        };
        let mut space = kernel_space::lock();
        let mut cleared = false;
        {
            let mut fast = match space.fast_pte_range(range) {
                Ok(fast) => fast,
                Err(SpaceError::OutOfTables { .. }) => {
                    self.report.out_of_memory += 1;
                    return Ok(());
                }
                // An area may cross the end of a table.
                Err(SpaceError::Range(_)) => return Ok(()),
                Err(error) => wrong!("fast_pte_range: {error}"),
            };
            for i in 0..count {
                let place = &mut self.pages[first + i];
                if *place == Page::Unmapped {
                    if let Err(error) = fast.set(i, self.area.frames()[first + i], page.prot()) {
                        wrong!("fast set: {error}");
                    }
                    *place = page;
                } else {
                    if fast.get_and_clear(i).frame() != self.area.frames()[first + i] {
                        wrong!("page {} led to another frame", first + i);
                    }
                    *place = Page::Unmapped;
                    cleared = true;
                }
                self.ptes += 1;
            }
        }
        if cleared && let Err(error) = space.invalidate_range(range) {
            wrong!("invalidate_range: {error}");
        }
        Ok(())
    }

    fn enable(&mut self) -> Result<(), Wrong> {
        if self.enable < DEPTH {
            if let Err(error) = MMU.lazy().enable() {
                wrong!("enable: {error}");
            }
            // While paused nothing is counted (R6).
            self.enable += u8::from(self.pause == 0);
            self.report.sections += 1;
        }
        Ok(())
    }

    fn disable(&mut self) -> Result<(), Wrong> {
        if self.enable == 0 {
            return Ok(());
        }
        if let Err(error) = MMU.lazy().disable() {
            wrong!("disable: {error}");
        }
        if self.pause > 0 {
            return Ok(());
        }
        self.enable -= 1;
        // R5: all writes have taken effect, at any depth.
        self.look()
    }

    fn pause(&mut self) -> Result<(), Wrong> {
        if self.pause < 2 {
            if let Err(error) = MMU.lazy().pause() {
                wrong!("pause: {error}");
            }
            self.pause += 1;
            self.look()?;
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Wrong> {
        if self.pause > 0 {
            if let Err(error) = MMU.lazy().resume() {
                wrong!("resume: {error}");
            }
            self.pause -= 1;
        }
        Ok(())
    }

    /// Checks that all pages have their expected state, as seen by the CPU that the task runs on
    /// now. It may be called only where nothing is deferred (R19).
    fn look(&self) -> Result<(), Wrong> {
        for (i, page) in self.pages.iter().enumerate() {
            let va = self.area.start() + i as u64 * lazymmu::PAGE_SIZE;
            let read = probe::try_read_u64(va);
            let mark = Self::mark(self.number, i);
            let is_right = match page {
                Page::Unmapped => read.is_err(),
                _ => read == Ok(mark),
            };
            if !is_right {
                wrong!("page {i} is {page:?} and reads {read:?}");
            }
            // SAFETY: the page belongs to the worker. The value written is the one that it holds,
            // or the write must fault.
            let written = unsafe { probe::try_write_u64(va, mark) };
            if written.is_ok() != (*page == Page::Writable) {
                wrong!("page {i} is {page:?} and was written: {written:?}");
            }
        }
        Ok(())
    }

    fn sleep(&mut self) -> Result<(), Wrong> {
        if sched::may_sleep().is_ok() {
            match self.random.below(3) {
                0 => sched::sleep(Duration::from_micros(self.random.below(60) as u64)),
                _ => sched::yield_now(),
            }
        }
        Ok(())
    }

    fn migrate(&mut self) -> Result<(), Wrong> {
        if sched::may_sleep().is_err() {
            return Ok(());
        }
        let online = sched::online().0.count_ones() as usize;
        let target = self.random.below(2 * online);
        if target < online {
            if let Err(error) = sched::migrate(target) {
                wrong!("migrate: {error}");
            }
            if sched::cpu() != target {
                wrong!("moved to CPU {target} and runs on {}", sched::cpu());
            }
        } else if let Err(error) = sched::set_allowed(&sched::task::current_arc(), CpuMask::ALL) {
            wrong!("set_allowed: {error}");
        }
        Ok(())
    }

    /// Takes the shared mutex, and yields while it holds the mutex.
    fn share(&self) -> Result<(), Wrong> {
        if sched::may_sleep().is_err() {
            return Ok(());
        }
        let mut shared = SHARED.lock();
        if !shared.is_multiple_of(2) {
            wrong!("another task holds the mutex at the same time");
        }
        *shared += 1;
        sched::yield_now();
        *shared += 1;
        Ok(())
    }

    /// Starts a child, or opens a section with bottom halves off.
    fn other(&mut self) -> Result<(), Wrong> {
        if self.random.below(2) == 0 || sched::may_sleep().is_err() {
            let off = preempt::bottom_halves_off();
            let ignored = MMU.lazy().enable().is_ok() && !MMU.lazy().is_lazy_mmu_mode_active();
            drop(off);
            if !ignored {
                wrong!("with bottom halves off, lazy MMU mode is active or enable() failed (R3)");
            }
            return Ok(());
        }
        let before = sched::current().counts();
        let child = sched::spawn("child", || {
            let state = MMU.lazy().state();
            (state.enable_count(), state.pause_count(), state.owed())
        });
        match child {
            Ok(child) => {
                let state = child.join();
                if state != (0, 0, Owed::empty()) {
                    wrong!("a new task begins with {state:?} (R1)");
                }
            }
            Err(_) => self.report.out_of_memory += 1,
        }
        // This task has mapped and unmapped the child's stack.
        self.ptes += (sched::current().counts() - before).ptes;
        Ok(())
    }

    /// Leaves all pauses and sections.
    fn leave(&mut self) -> Result<(), Wrong> {
        while self.pause > 0 {
            self.resume()?;
        }
        while self.enable > 0 {
            self.disable()?;
        }
        self.check()
    }
}
