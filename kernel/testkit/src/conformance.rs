// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks that a kernel's implementations of the library's traits do what the traits document.
//!
//! * [`hardware`] checks the entry accesses of [`Hardware`], for runs of every length.
//! * [`table_frames`] checks [`TableFrames`]: frames must be zeroed, distinct, and accessible where
//!   `table_ptr` points.
//! * [`context`] checks that the methods of [`Context`] return the same values at each call.
//! * [`on_the_model`] runs the library with the kernel on the machine model, and so checks the
//!   barriers and TLBIs of [`Hardware`] together with [`Context`].
//!
//! The first three do not check order, which a test on one CPU cannot observe. The last one does.

use crate::model::scenarios;
use crate::model::world::{Setup, frame};
use crate::model::{CPUS, Modelled, Sim};
use lazymmu::{
    Backend, Context, Desc, ENTRIES, Frame, Hardware, PAGE_SIZE, Pte, Table, TableFrames,
};
use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// A broken promise that a check has found, as text.
pub type Finding = String;

/// The value of an entry, read without the kernel's methods.
fn held(pte: &Pte) -> u64 {
    // SAFETY: a `Pte` is a live, aligned, atomically accessed 64-bit cell.
    unsafe { AtomicU64::from_ptr(pte.as_ptr()) }.load(Ordering::Relaxed)
}

/// Writes an entry without the kernel's methods.
fn put(pte: &Pte, raw: u64) {
    // SAFETY: as in `held`.
    unsafe { AtomicU64::from_ptr(pte.as_ptr()) }.store(raw, Ordering::Relaxed);
}

/// A value for entry `i` that differs from that of any other entry and round, and that is an
/// invalid descriptor.
const fn invalid(round: usize, i: usize) -> u64 {
    ((round as u64) << 24) | ((i as u64) << 12) | 0x800
}

/// The lengths of runs that are checked: all, or some of them under Miri.
fn lengths() -> impl Iterator<Item = usize> {
    let odd = |n: &usize| n % 37 < 2 || *n > ENTRIES - 2;
    (0..=ENTRIES).filter(move |n| !cfg!(miri) || odd(n))
}

/// A scratch table, and the values that it must hold.
struct Scratch<'a> {
    entries: &'a [Pte; ENTRIES],
    expected: [u64; ENTRIES],
    round: usize,
}

impl Scratch<'_> {
    fn check(&self, what: &dyn Fn() -> String) -> Result<(), Finding> {
        let cells = self.entries.iter().zip(self.expected);
        match cells.enumerate().find(|(_, (pte, raw))| held(pte) != *raw) {
            None => Ok(()),
            Some((i, (pte, raw))) => Err(format!(
                "{}: entry {i} holds {:#x} instead of {raw:#x}",
                what(),
                held(pte)
            )),
        }
    }

    /// Writes the first `n` entries by `write`, and then the last `n`. After each of the two, entry
    /// `i` of the run must hold `value(round, i, before)`, and no other entry may have changed.
    fn run(
        &mut self,
        name: &str,
        n: usize,
        write: impl Fn(&[Pte], usize),
        value: impl Fn(usize, usize, u64) -> u64,
    ) -> Result<(), Finding> {
        for start in [0, ENTRIES - n] {
            self.round += 1;
            write(&self.entries[start..start + n], self.round);
            for (i, expected) in self.expected[start..start + n].iter_mut().enumerate() {
                *expected = value(self.round, i, *expected);
            }
            self.check(&|| format!("{name} of {n} entries from {start} on"))?;
        }
        Ok(())
    }
}

/// Checks that the entry accesses of `hardware` do what they document: accesses to single entries
/// at both ends of a table, and runs of every length at both ends. `table` is a table of the kernel
/// that no descriptor links. Its contents are lost.
///
/// # Errors
/// The first method that does something else, and the difference.
pub fn hardware(hardware: &impl Hardware, table: &Table) -> Result<(), Finding> {
    let mut scratch = Scratch {
        entries: table.entries(),
        expected: std::array::from_fn(|i| invalid(0, i)),
        round: 0,
    };
    for (pte, raw) in scratch.entries.iter().zip(scratch.expected) {
        put(pte, raw);
    }
    for i in [0, 1, ENTRIES - 2, ENTRIES - 1] {
        single(hardware, &mut scratch, i)?;
    }
    for n in lengths() {
        scratch.run(
            "store_linear",
            n,
            |run, round| {
                let first = Desc::from_u64(invalid(round, 0));
                hardware.store_linear(run, first, 1 << 12);
            },
            |round, i, _| invalid(round, 0) + ((i as u64) << 12),
        )?;
        let frames: Vec<_> = (0..n as u64).rev().map(frame).collect();
        scratch.run(
            "store_frames",
            n,
            |run, _| hardware.store_frames(run, &frames, Desc::from_u64(0x8c0)),
            |_, i, _| ((n - 1 - i) as u64 * PAGE_SIZE) | 0x8c0,
        )?;
        scratch.run(
            "update_run",
            n,
            |run, _| hardware.update_run(run, !0x840, 0x200),
            |_, _, before| (before & !0x840) | 0x200,
        )?;
        scratch.run(
            "store_zero",
            n,
            |run, _| hardware.store_zero(run),
            |_, _, _| 0,
        )?;
    }
    Ok(())
}

/// Checks the accesses to one entry.
fn single(hardware: &impl Hardware, scratch: &mut Scratch<'_>, i: usize) -> Result<(), Finding> {
    let pte = &scratch.entries[i];
    let [first, second, third] = [1, 2, 3].map(|round| invalid(round, i));
    let is = |what: &str, found: Desc, expected: u64| match found.as_u64() == expected {
        true => Ok(()),
        false => Err(format!(
            "{what} of entry {i}: {:#x} instead of {expected:#x}",
            found.as_u64()
        )),
    };
    is("load", hardware.load(pte), scratch.expected[i])?;
    hardware.store(pte, Desc::from_u64(first));
    scratch.expected[i] = first;
    scratch.check(&|| format!("store to entry {i}"))?;
    let old = hardware.swap(pte, Desc::from_u64(second));
    is("swap", old, first)?;
    scratch.expected[i] = second;
    scratch.check(&|| format!("swap of entry {i}"))?;
    let exchange =
        |old, new| hardware.compare_exchange(pte, Desc::from_u64(old), Desc::from_u64(new));
    match exchange(first, third) {
        Ok(_) => {
            return Err(format!(
                "compare_exchange of entry {i}: exchanged another value"
            ));
        }
        Err(held) => is("compare_exchange", held, second)?,
    }
    scratch.check(&|| format!("compare_exchange of entry {i} that must fail"))?;
    match exchange(second, third) {
        Ok(old) => is("compare_exchange", old, second)?,
        Err(held) => return Err(format!("compare_exchange of entry {i}: found {held:?}")),
    }
    scratch.expected[i] = third;
    scratch.check(&|| format!("compare_exchange of entry {i}"))
}

/// Checks that `frames` allocates up to `most` tables that are zeroed, distinct, aligned, and
/// accessible where `table_ptr` points until they are freed; and that they can be freed and
/// allocated again, zeroed again. At the end all of them are freed.
///
/// # Errors
/// The first promise that does not hold.
pub fn table_frames(frames: &impl TableFrames, most: usize) -> Result<(), Finding> {
    let first = take_all(frames, most)?;
    if first.is_empty() && most > 0 {
        return Err("there is not a single table".into());
    }
    give_back(frames, &first);
    let again = take_all(frames, most)?;
    give_back(frames, &again);
    if again.len() != first.len() {
        return Err(format!(
            "{} tables were given back, and {} can be had again",
            first.len(),
            again.len()
        ));
    }
    Ok(())
}

fn give_back(frames: &impl TableFrames, all: &[Frame]) {
    for frame in all {
        // SAFETY: the frame came from `alloc_table`, no descriptor links it, and `take_all` has
        // kept no reference to it.
        unsafe { frames.free_table(*frame) };
    }
}

fn take_all(frames: &impl TableFrames, most: usize) -> Result<Vec<Frame>, Finding> {
    let table = |frame: Frame| {
        let table = frames.table_ptr(frame);
        if !table.as_ptr().addr().is_multiple_of(PAGE_SIZE as usize) {
            return Err(format!("{frame:?} is at {table:?}, which is not aligned"));
        }
        // SAFETY: the frame was allocated and is not freed yet, so the pointer is one to a table.
        Ok(unsafe { table.as_ref() })
    };
    let (mut all, mut addresses) = (Vec::new(), BTreeSet::new());
    while all.len() < most
        && let Some(frame) = frames.alloc_table()
    {
        let entries = table(frame)?.entries();
        if let Some(i) = entries.iter().position(|pte| held(pte) != 0) {
            return Err(format!("entry {i} of new {frame:?} is not zero"));
        }
        if all.contains(&frame) {
            return Err(format!("{frame:?} was given twice"));
        }
        if !addresses.insert(ptr::from_ref(entries).addr()) {
            return Err(format!("{frame:?} is where another one is"));
        }
        for (i, pte) in entries.iter().enumerate() {
            put(pte, invalid(all.len(), i));
        }
        all.push(frame);
    }
    // Writing to later tables must not have changed earlier ones.
    for (number, frame) in all.iter().enumerate() {
        let mut entries = table(*frame)?.entries().iter().enumerate();
        if let Some((i, pte)) = entries.find(|(i, pte)| held(pte) != invalid(number, *i)) {
            return Err(format!(
                "entry {i} of {frame:?} holds {:#x}, which was not written there",
                held(pte)
            ));
        }
    }
    Ok(all)
}

/// Checks that each method of `context` returns the same value twice, and that the values agree
/// with each other. Nothing else may run on the CPU during the check.
///
/// # Errors
/// The first method whose value has changed or disagrees.
pub fn context(context: &impl Context) -> Result<(), Finding> {
    let address = |of: Option<usize>| of.map_or_else(|| "none".into(), |at| format!("{at:#x}"));
    // SAFETY: no task ends during the check, and only the address is kept. The same holds below.
    let lazy = || address(Some(ptr::from_ref(unsafe { context.lazy() }).addr()));
    // SAFETY: as above.
    let counters = || address(Some(ptr::from_ref(unsafe { context.counters() }).addr()));
    let task_counters = || {
        // SAFETY: as above.
        let counters = unsafe { context.task_counters() };
        address(counters.map(|at| ptr::from_ref(at).addr()))
    };
    let batch = || address(context.batch().map(|at| ptr::from_ref(at).addr()));
    let in_interrupt = || context.in_interrupt().to_string();
    let hypervisor = || context.hypervisor().is_some().to_string();
    let answers: [(&str, &dyn Fn() -> String); 6] = [
        ("lazy", &lazy),
        ("in_interrupt", &in_interrupt),
        ("counters", &counters),
        ("task_counters", &task_counters),
        ("batch", &batch),
        ("hypervisor", &hypervisor),
    ];
    let ask = || answers.map(|(_, answer)| answer());
    let first = ask();
    // The second time in the reverse order, so that no call can prepare the result of the next.
    let mut again: Vec<_> = answers.iter().rev().map(|(_, answer)| answer()).collect();
    again.reverse();
    for (((name, _), before), after) in answers.iter().zip(&first).zip(&again) {
        if before != after {
            return Err(format!("{name} returns {before} and then {after}"));
        }
    }
    let expected = if context.in_interrupt() {
        "none"
    } else {
        &first[2]
    };
    if first[3] != expected {
        return Err(format!(
            "task_counters returns {} instead of {expected}",
            first[3]
        ));
    }
    Ok(())
}

/// Runs every scenario of the model with every strategy, on a kernel that `make` builds around the
/// machine. Some strategies need a batch, so [`Context::batch`] must return one, at least in tests.
///
/// Three mistakes are not found: a [`Batch`](lazymmu::Batch) that two CPUs share, because only one
/// CPU writes; a wrong [`Modelled::counted`], which [`programs::run`](crate::programs::run)
/// compares; and a [`Hardware::swap`] that is not atomic, because nothing else writes the entry.
///
/// # Errors
/// A value of [`Context`] that does not fit the machine. Otherwise the first scenario that panics,
/// in which the library reports a broken rule, or after which an outcome is possible that the
/// contract forbids.
pub fn on_the_model<K: Modelled>(make: impl Fn(Sim) -> K) -> Result<(), Finding> {
    states_of_tasks(&make(Setup::classic(Backend::DeferBarriers).sim()))?;
    for scenario in scenarios::all() {
        for backend in Backend::ALL {
            let setup = (scenario.setup)(backend);
            let kernel = make(setup.sim());
            if backend.invalidates() && kernel.batch().is_none() {
                return Err(format!(
                    "Context::batch() returns None, and {backend} needs a Batch per CPU: return the \
                     current CPU's"
                ));
            }
            // With a kernel that returns a wrong state, the library may refuse a call of the
            // scenario, which then panics.
            let run = AssertUnwindSafe(|| {
                let mmu = setup.mmu(kernel);
                (scenario.run)(&mmu)?;
                match mmu.kernel().sim().take_reports().first() {
                    None => Ok(()),
                    Some(report) => Err(format!("the library reports: {report}")),
                }
            });
            let result = catch_unwind(run).unwrap_or_else(|panic| Err(text_of(&*panic)));
            result.map_err(|what| format!("{}, {backend}: {what}", scenario.name))?;
        }
    }
    Ok(())
}

/// Checks that [`Context::lazy`] and [`Modelled::lazy_of`] agree on every CPU.
fn states_of_tasks<K: Modelled>(kernel: &K) -> Result<(), Finding> {
    let sim = kernel.sim();
    for cpu in 0..CPUS {
        sim.on(cpu);
        let task = sim.running(cpu);
        // SAFETY: no task of the model ends.
        if !ptr::eq(unsafe { kernel.lazy() }, kernel.lazy_of(task)) {
            return Err(format!(
                "Context::lazy on CPU {cpu} is not Modelled::lazy_of({task}), the state of the task that \
                 runs there: let both return the state that the kernel keeps for task \
                 sim.running(sim.cpu())"
            ));
        }
    }
    sim.on(0);
    Ok(())
}

/// The text of a panic.
fn text_of(panic: &(dyn Any + Send)) -> Finding {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a text".to_owned())
}
