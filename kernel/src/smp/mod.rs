// SPDX-License-Identifier: MIT OR Apache-2.0

//! The other CPUs: how they are started, and how they stop when the kernel ends.
//!
//! [`start_all`] starts all of them at once, and then takes them in one by one, in the order of the
//! device tree:
//!
//! 1. For each CPU a stack is allocated and a slot of [`boot::secondary`] is assigned.
//! 2. The CPUs are started in the way that the tree says ([`wake`]). Each runs through `boot` to
//!    [`enter`], records that it has *arrived*, and waits.
//! 3. The boot CPU gives each of them the next free number, a block ([`percpu`]), an idle task and
//!    an emergency stack. The CPU takes its block, checks that it has the features of the boot CPU
//!    ([`compatibility`]), initializes its part of the interrupt controller, and is online.
//!
//! The boot CPU waits until no CPU has arrived for [`PATIENCE`]. It waits for this time only once,
//! for any number of missing CPUs. If the start of a CPU fails, the machine runs without this CPU,
//! and a warning gives the reason. A CPU that arrives after the boot CPU has given it up halts,
//! because both change its state with one compare-and-exchange:
//!
//! ```text
//! boot CPU: Starting -> GivenUp succeeds; warn and continue
//! late CPU:                               Starting -> Arrived fails; halt
//! ```
//!
//! Numbers have no gaps, unless a CPU hangs in step 3. Memory that was allocated for a CPU that did
//! not arrive is never freed, because that CPU may still arrive at any time.
//!
//! [`call`] runs a function on another CPU, and [`stop`] stops all other CPUs.

pub mod call;
mod mailbox;
mod wake;

use crate::{
    arch::{
        barrier,
        compatibility::{self, Incompatible},
        exceptions,
        features::{Ets, Features},
        interrupts as irq_mask,
        percpu::{self, PerCpu},
        relax::{CpuRelax, cpu_relax},
        timer::{self, CycleCounter},
    },
    machine::MAX_CPUS,
    mm::{MMU, device::DeviceError, kernel_space},
    platform::{
        devicetree::Cpu,
        interrupts::{self, InterruptError},
        memory_map::MemoryMap,
        patience::Patience,
        psci::CpuOnError,
        stop,
    },
    sched::{self, Stack, StackError, Task},
    stack::Stack as Bounds,
    wrap_errors,
};
use alloc::vec::Vec;
use arrayvec::ArrayVec;
use boot::secondary::{self, Slot};
use core::{
    fmt, mem, ptr,
    sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering},
    time::Duration,
};
use log::{info, warn};
use spin::once::Once;

/// The longest time without an arrival, and the longest time from the arrival of a CPU until it is
/// online. It is long enough for an emulated CPU on a busy host.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pages of a secondary CPU's stack.
const STACK_PAGES: usize = 8;
/// Pages of its emergency stack, which must hold a report. The deepest calls of a report format
/// text.
const EMERGENCY_PAGES: usize = 4;

/// The facts about the machine that decide how its CPUs are started and what they must offer.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// All of its CPUs.
    pub cpus: &'a [Cpu],
    /// The memory that the linear map contains.
    pub memory: &'a MemoryMap,
    /// Exception level at which the image was entered: 1, 2 or 3.
    pub entry_el: u64,
    /// The features of the boot CPU.
    pub features: Features,
    /// Whether the cycle counter must be started on each CPU.
    pub counts_cycles: bool,
}

/// Why a CPU is not online.
#[derive(Clone, Copy, Debug)]
enum CpuError {
    /// The device tree does not say how it is started, or the kernel does not know the method.
    UnknownMethod,
    /// Firmware would have to start it, but the kernel itself runs at EL3.
    NoFirmware,
    /// Firmware did not start it.
    CpuOn(CpuOnError),
    /// Its spin-table word cannot be mapped.
    Device(DeviceError),
    /// There is no memory for its block.
    Heap,
    /// There is no memory for its stacks.
    Stack(StackError),
    /// All numbers are in use.
    TooMany,
    /// It did not arrive.
    Silent,
    /// It arrived, but it did not come online.
    Stuck,
}

wrap_errors!(CpuError {
    DeviceError => Device,
    StackError => Stack,
});

impl fmt::Display for CpuError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownMethod => f.write_str(
                "the device tree does not say how it is started: its enable-method must be psci or \
                 spin-table",
            ),
            Self::NoFirmware => f.write_str(
                "firmware would have to start it, and there is none: the kernel was entered at EL3. \
                 Enter at EL2 or EL1 instead",
            ),
            Self::CpuOn(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
            Self::Heap => f.write_str("no memory for its block: give the machine more memory"),
            Self::Stack(error) => error.fmt(f),
            Self::TooMany => write!(
                f,
                "the kernel has room for {MAX_CPUS} CPUs: raise MAX_CPUS in \
                 kernel/src/machine.rs"
            ),
            Self::Silent => write!(
                f,
                "it was started and did not come, and no other has come for {} s: a debugger finds the reason \
                 in x0 if it waits in boot/src/park.rs",
                PATIENCE.as_secs()
            ),
            Self::Stuck => write!(
                f,
                "it arrived and hung while it initialized its part of the interrupt controller"
            ),
        }
    }
}

impl core::error::Error for CpuError {}

/// How far the start of a CPU has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    /// It has not been started, or it has not arrived yet.
    Starting,
    /// It waits for its block, or it has its block and initializes itself.
    Arrived,
    /// It is online.
    Online,
    /// It has printed why it will not be online.
    Refused,
    /// The boot CPU has stopped waiting for it.
    GivenUp,
}

/// The state that the boot CPU and a secondary CPU share; the index is the secondary CPU's slot.
struct Candidate {
    state: AtomicU8,
    /// Its idle task.
    idle: AtomicPtr<Task>,
    /// Its block; null until the CPU may continue.
    block: AtomicPtr<PerCpu>,
}

impl Candidate {
    const fn new() -> Self {
        Self {
            state: AtomicU8::new(State::Starting as u8),
            idle: AtomicPtr::new(ptr::null_mut()),
            block: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn is(&self, state: State) -> bool {
        self.state.load(Ordering::Acquire) == state as u8
    }

    fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Changes [`State::Starting`] to `state`; `false` if the state is not `Starting` any more.
    fn decide(&self, state: State) -> bool {
        let (from, to) = (State::Starting as u8, state as u8);
        let decided = self
            .state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        decided.is_ok()
    }
}

/// How many CPUs have arrived so far.
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

fn arrived() -> usize {
    ARRIVED.load(Ordering::Relaxed)
}

/// A wait for [`PATIENCE`], from now on.
fn patience() -> Patience {
    let ticks = timer::frequency().saturating_mul(PATIENCE.as_secs());
    Patience::new(ticks, timer::ticks(), arrived())
}

/// Waits until `candidate` leaves `state`; `false` if `patience` ends first.
fn left(candidate: &Candidate, state: State, patience: &mut Patience) -> bool {
    while candidate.is(state) {
        if patience.is_over(timer::ticks(), arrived()) {
            return false;
        }
        cpu_relax();
    }
    true
}

static CANDIDATES: [Candidate; MAX_CPUS] = [const { Candidate::new() }; MAX_CPUS];
static SLOTS: [Slot; MAX_CPUS] = [const { Slot::new() }; MAX_CPUS];

/// What the boot CPU requires of the others.
struct Expected {
    features: Features,
    /// The counter's frequency, in ticks per second.
    frequency: u64,
    counts_cycles: bool,
}

/// Set before the first CPU is started.
static EXPECTED: Once<Expected, CpuRelax> = Once::new();

/// Starts the other CPUs of the machine, so that at most `limit` run, this one included.
///
/// The boot CPU calls it once, with the interrupt controller initialized.
///
/// # Errors
///
/// The interrupts of [`call`] and [`stop`] are not available. If a single CPU fails, that is a
/// warning.
pub fn start_all(machine: &Machine<'_>, limit: usize) -> Result<(), InterruptError> {
    stop::init()?;
    call::init()?;
    let here = percpu::current().affinity();
    let others = || machine.cpus.iter().filter(|cpu| cpu.mpidr != here);
    let wanted = others().count().min(limit.saturating_sub(1));
    if wanted > 0 {
        EXPECTED.call_once(|| Expected {
            features: machine.features,
            frequency: timer::frequency(),
            counts_cycles: machine.counts_cycles,
        });
        let root = kernel_space::lock().root().as_u64();
        // SAFETY: the kernel's root is live and stays live; nothing writes the early tables.
        unsafe { secondary::prepare(root, &SLOTS) };
    }
    let mut started = ArrayVec::<_, MAX_CPUS>::new();
    let failed = |cpu: &Cpu, error| {
        warn!("CPU with affinity {:#x} stays off: {error}", cpu.mpidr);
    };
    for ((candidate, slot), cpu) in CANDIDATES.iter().zip(&SLOTS).zip(others().take(wanted)) {
        match prepare(slot, cpu, machine) {
            Ok((method, stack)) => started.push((candidate, cpu, method, stack)),
            Err(error) => failed(cpu, error),
        }
    }
    // The stores above complete before the first CPU starts (H18).
    barrier::dsb_sy();
    started.retain(|(_, cpu, method, _)| {
        // SAFETY: everything that `boot::secondary` reads is prepared.
        let woken = unsafe { wake::wake(cpu, *method, machine) };
        woken.map_err(|error| failed(cpu, error)).is_ok()
    });
    // The next free number.
    let mut index = 1;
    let mut patience = patience();
    for (candidate, cpu, _, stack) in started {
        let taken = take_in(candidate, cpu, index, stack, &mut patience);
        if candidate.is(State::Online) || candidate.is(State::Arrived) {
            index += 1;
        }
        if let Err(error) = taken {
            failed(cpu, error);
        }
    }
    let all = others().count() + 1;
    if all > 1 {
        info!("{} of {all} CPUs are online", percpu::online_count());
    }
    Ok(())
}

/// Prepares what `cpu` needs until [`enter`]: a stack, and a slot that holds its address.
fn prepare(
    slot: &'static Slot,
    cpu: &Cpu,
    machine: &Machine<'_>,
) -> Result<(wake::Method, Bounds), CpuError> {
    let method = wake::method(cpu, machine.entry_el)?;
    let stack = make_stack(STACK_PAGES)?;
    // SAFETY: the stack was just allocated for this CPU, and the slot has not been assigned before.
    unsafe { slot.give(cpu.mpidr, stack.top) };
    Ok((method, stack))
}

/// Waits for `cpu`, gives it `index`, and waits until it is online. Also returns `Ok` if the CPU
/// has refused, because it has then printed the reason itself.
fn take_in(
    candidate: &'static Candidate,
    cpu: &Cpu,
    index: u32,
    stack: Bounds,
    arrivals: &mut Patience,
) -> Result<(), CpuError> {
    if !left(candidate, State::Starting, arrivals) && candidate.decide(State::GivenUp) {
        return Err(CpuError::Silent);
    }
    let block =
        make_block(candidate, cpu, index, stack).inspect_err(|_| candidate.set(State::GivenUp))?;
    candidate.block.store(block, Ordering::Release);
    // The CPU now only initializes its own registers.
    match left(candidate, State::Arrived, &mut patience()) {
        true => Ok(()),
        false => Err(CpuError::Stuck),
    }
}

/// Allocates the block of a CPU that has arrived, with an idle task and an emergency stack.
fn make_block(
    candidate: &'static Candidate,
    cpu: &Cpu,
    index: u32,
    stack: Bounds,
) -> Result<*mut PerCpu, CpuError> {
    if index as usize >= MAX_CPUS {
        return Err(CpuError::TooMany);
    }
    let emergency = make_stack(EMERGENCY_PAGES)?;
    let idle = sched::prepare_cpu(index as usize, stack).map_err(|_| CpuError::Heap)?;
    let idle = ptr::from_ref(idle).cast_mut();
    candidate.idle.store(idle, Ordering::Relaxed);
    let mut place = Vec::new();
    place.try_reserve_exact(1).map_err(|_| CpuError::Heap)?;
    place.push(PerCpu::new(index, cpu.mpidr, stack, emergency));
    Ok(place.leak().as_mut_ptr())
}

/// Allocates a stack with an unmapped page below it. It is never freed.
fn make_stack(pages: usize) -> Result<Bounds, CpuError> {
    let stack = Stack::new(pages)?;
    let bounds = stack.bounds();
    mem::forget(stack);
    Ok(bounds)
}

/// The first kernel function of a secondary CPU, on the stack of its slot, with everything masked.
/// It returns when the CPU is online, and does not return if the CPU cannot come online.
pub fn enter(slot: usize) {
    let candidate = &CANDIDATES[slot];
    if !candidate.decide(State::Arrived) {
        irq_mask::halt();
    }
    ARRIVED.fetch_add(1, Ordering::Relaxed);
    // Only wait: without a block there are no vectors and no log.
    let block = loop {
        // SAFETY: null, or a leaked block.
        let block = unsafe { candidate.block.load(Ordering::Acquire).as_ref() };
        match block {
            Some(block) => break block,
            None if candidate.is(State::GivenUp) => irq_mask::halt(),
            None => cpu_relax(),
        }
    };
    let idle = candidate.idle.load(Ordering::Acquire);
    // SAFETY: `make_block` has stored a leaked task before the block.
    let Some(idle) = (unsafe { idle.as_ref() }) else {
        irq_mask::halt()
    };
    sched::init_secondary_cpu(idle);
    // SAFETY: the block was made for the CPU of this slot, with the stack of the slot.
    unsafe { percpu::init_secondary(block) };
    exceptions::init();
    let Some(expected) = EXPECTED.get() else {
        unreachable!("start_all() sets what it expects before it starts a CPU");
    };
    if let Err(error) = check(expected) {
        refuse(candidate, &error);
    }
    // The boot CPU has found out whether the counter moves; each CPU must start its own counter.
    // It is not started without need: in QEMU a running counter makes each exception slower.
    if expected.counts_cycles {
        let _ = CycleCounter::start(&Features::of_this_cpu());
    }
    if let Err(error) = interrupts::init_cpu()
        .and_then(|()| stop::enable())
        .and_then(|()| call::enable())
        .and_then(|()| sched::init_cpu())
    {
        refuse(candidate, &error);
    }
    // The order matters: the scheduler sends interrupts to its CPUs, and only an online CPU can be
    // sent one.
    percpu::set_online(block);
    sched::add_cpu(block.index() as usize, idle);
    candidate.set(State::Online);
}

/// Prints why this CPU will not be online, and halts.
fn refuse(candidate: &Candidate, error: &dyn fmt::Display) -> ! {
    let affinity = percpu::this_cpu_affinity();
    warn!("CPU with affinity {affinity:#x} stays off: {error}");
    candidate.set(State::Refused);
    irq_mask::halt()
}

/// Checks that this CPU has what the kernel requires of all CPUs.
fn check(expected: &Expected) -> Result<(), Incompatible> {
    let this = Features::of_this_cpu();
    let (in_force, policy) = (MMU.features(), MMU.policy());
    compatibility::check(&this, &expected.features, in_force, policy)?;
    let (has, needed) = (timer::frequency(), expected.frequency);
    if has != needed {
        return Err(Incompatible::Frequency { has, needed });
    }
    if in_force.ets2 && this.ets < Ets::Ets2 {
        let without = lazymmu::Features {
            ets2: false,
            ..in_force
        };
        // SAFETY: `compatibility::check` has found the remaining features on this CPU as well.
        unsafe { MMU.set_features(without) };
    }
    Ok(())
}
