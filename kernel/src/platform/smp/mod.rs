// SPDX-License-Identifier: MIT OR Apache-2.0

//! The other CPUs: how they are started, and how they stop when the kernel ends.
//!
//! [`start_all`] goes through the device tree's CPUs, one after the other:
//!
//! 1. a block ([`percpu`]), a stack and an emergency stack are made for it, and a slot of
//!    [`boot::secondary`] is given to it;
//! 2. it is started in the way that the tree says ([`wake`]), and comes through `boot` to [`enter`];
//! 3. there it takes its block, checks whether it offers what the boot CPU does
//!    ([`compatibility`]), and *claims* its number; then it initializes its part of the interrupt
//!    controller and is online.
//!
//! The boot CPU waits meanwhile, for [`PATIENCE`] at most. Whatever goes wrong with a CPU costs that
//! CPU, with a warning that says why; the machine runs with the others. A CPU that comes after it was
//! given up finds that it cannot claim its number any more, and halts: so numbers have no gaps,
//! except for a CPU that got stuck between claim and online. What was allocated for a CPU that did
//! not come stays allocated, since it may come at any time.
//!
//! [`call`] has one of them do something, and [`stop`] is the other end.

pub mod call;
pub mod stop;
mod wake;

use crate::{
    arch::{
        backtrace::Stack as Bounds,
        barrier,
        compatibility::{self, Incompatible},
        exceptions,
        features::{Ets, Features},
        interrupts as irq_mask,
        percpu::{self, PerCpu},
        relax::cpu_relax,
        timer::{self, CycleCounter},
    },
    mm::{MMU, device::DeviceError, kernel_space},
    platform::{
        devicetree::{Cpu, MAX_CPUS},
        interrupts::{self, InterruptError},
        psci::CpuOnError,
    },
    sched::{self, Stack, StackError, Task},
    start::{self, Machine},
    wrap_errors,
};
use alloc::vec::Vec;
use boot::secondary::{self, Slot};
use core::{
    fmt, mem, ptr,
    sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering},
    time::Duration,
};
use log::{info, warn};

/// How long a CPU may take from its start until it is online: long enough for an emulated one on a
/// busy host.
const PATIENCE: Duration = Duration::from_secs(3);
/// Pages of a secondary CPU's stack.
const STACK_PAGES: usize = 8;
/// Pages of its emergency stack: a report, whose deepest part is formatting.
const EMERGENCY_PAGES: usize = 4;

/// Why a CPU is not online.
#[derive(Clone, Copy, Debug)]
enum CpuError {
    /// The device tree does not say how it is started, or in a way that the kernel does not know.
    UnknownMethod,
    /// Firmware would have to start it, and the kernel itself is what runs at EL3.
    NoFirmware,
    /// Firmware did not start it.
    CpuOn(CpuOnError),
    /// Its spin-table word cannot be mapped.
    Device(DeviceError),
    /// No memory for its block.
    Heap,
    /// No memory for its stacks.
    Stack(StackError),
    /// All numbers are taken.
    TooMany,
    /// It did not come.
    Silent,
    /// It came, and then nothing was heard of it.
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
                 platform/devicetree/description.rs"
            ),
            Self::Silent => write!(
                f,
                "it was started and did not come within {} s: a debugger finds the reason in x0 if \
                 it waits in boot/src/park.rs",
                PATIENCE.as_secs()
            ),
            Self::Stuck => write!(
                f,
                "it came and got stuck while it initialized its part of the interrupt controller"
            ),
        }
    }
}

impl core::error::Error for CpuError {}

/// Where a CPU is on its way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum State {
    /// Not started, or not there yet.
    Starting,
    /// It has its number; nobody else gets it.
    Claimed,
    /// Done.
    Online,
    /// It has told why it is not going to be online.
    Refused,
    /// The boot CPU does not wait for it any more.
    GivenUp,
}

/// What the boot CPU and a secondary agree on, by the secondary's slot.
struct Candidate {
    state: AtomicU8,
    /// What it is, to the scheduler.
    idle: AtomicPtr<Task>,
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

    /// Waits until the state is not `state` any more; `false` if [`PATIENCE`] ended first.
    fn left(&self, state: State) -> bool {
        let patience = timer::frequency().saturating_mul(PATIENCE.as_secs());
        let until = timer::ticks().saturating_add(patience);
        while self.is(state) {
            if timer::ticks() > until {
                return false;
            }
            cpu_relax();
        }
        true
    }

    fn is(&self, state: State) -> bool {
        self.state.load(Ordering::Acquire) == state as u8
    }

    fn set(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Goes from [`State::Starting`] to `state`; `false` if somebody else was faster.
    fn decide(&self, state: State) -> bool {
        let (from, to) = (State::Starting as u8, state as u8);
        let decided = self
            .state
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire);
        decided.is_ok()
    }
}

static CANDIDATES: [Candidate; MAX_CPUS] = [const { Candidate::new() }; MAX_CPUS];
static SLOTS: [Slot; MAX_CPUS] = [const { Slot::new() }; MAX_CPUS];

/// The boot CPU's counter frequency, in ticks per second.
static FREQUENCY: AtomicU64 = AtomicU64::new(0);

/// Starts the other CPUs of the machine, so that at most `limit` run, this one included.
///
/// To be called once, by the boot CPU, with the interrupt controller initialized.
///
/// # Errors
///
/// The interrupts of [`call`] and [`stop`] cannot be had. What goes wrong with single CPUs is a warning.
pub fn start_all(machine: &Machine, limit: usize) -> Result<(), InterruptError> {
    stop::init()?;
    call::init()?;
    let here = percpu::current().affinity();
    let others = || {
        machine
            .description
            .cpus
            .iter()
            .filter(|cpu| cpu.mpidr != here)
    };
    let wanted = others().count().min(limit.saturating_sub(1));
    if wanted > 0 {
        FREQUENCY.store(timer::frequency(), Ordering::Relaxed);
        let root = kernel_space::lock().root().as_u64();
        // SAFETY: the kernel's root is live and stays; nobody writes the early tables.
        unsafe { secondary::prepare(root, &SLOTS) };
    }
    // The next free number; a CPU keeps it if it gets as far as claiming it.
    let mut index = 1;
    for ((candidate, slot), cpu) in CANDIDATES.iter().zip(&SLOTS).zip(others().take(wanted)) {
        match start(candidate, slot, cpu, index, machine) {
            Ok(()) => {}
            Err(error) => warn!("CPU with affinity {:#x} stays off: {error}", cpu.mpidr),
        }
        if candidate.is(State::Online) || candidate.is(State::Claimed) {
            index += 1;
        }
    }
    let all = others().count() + 1;
    if all > 1 {
        info!("{} of {all} CPUs are online", percpu::online_count());
    }
    Ok(())
}

/// Starts `cpu` and waits for it. It may have refused on its own when this returns `Ok`.
fn start(
    candidate: &'static Candidate,
    slot: &'static Slot,
    cpu: &Cpu,
    index: u32,
    machine: &Machine,
) -> Result<(), CpuError> {
    if index as usize >= MAX_CPUS {
        return Err(CpuError::TooMany);
    }
    let method = wake::method(cpu, machine.entry_el)?;
    let (stack, emergency) = (make_stack(STACK_PAGES)?, make_stack(EMERGENCY_PAGES)?);
    let idle = sched::prepare_cpu(index as usize, stack).map_err(|_| CpuError::Heap)?;
    let idle = ptr::from_ref(idle).cast_mut();
    candidate.idle.store(idle, Ordering::Release);
    let mut place = Vec::new();
    place.try_reserve_exact(1).map_err(|_| CpuError::Heap)?;
    place.push(PerCpu::new(index, cpu.mpidr, stack, emergency));
    candidate
        .block
        .store(place.leak().as_mut_ptr(), Ordering::Release);
    // SAFETY: the stack was just made, for this CPU, and so far this slot was nobody's.
    unsafe { slot.give(cpu.mpidr, stack.top) };
    // All of this is in place before the CPU starts (H18).
    barrier::dsb_sy();
    // SAFETY: everything that `boot::secondary` reads is prepared.
    unsafe { wake::wake(cpu, method, machine)? };
    if candidate.left(State::Starting) || !candidate.decide(State::GivenUp) {
        // It is there, and has only its own registers to see to.
        return match candidate.left(State::Claimed) {
            true => Ok(()),
            false => Err(CpuError::Stuck),
        };
    }
    Err(CpuError::Silent)
}

/// A stack with an unmapped page below it, for ever.
fn make_stack(pages: usize) -> Result<Bounds, CpuError> {
    let stack = Stack::new(pages)?;
    let bounds = stack.bounds();
    mem::forget(stack);
    Ok(bounds)
}

/// What a secondary CPU does first in the kernel, on the stack of its slot, everything masked.
/// Returns when it is online; does not return if it is not going to be.
pub fn enter(slot: usize) {
    let candidate = &CANDIDATES[slot];
    let block = candidate.block.load(Ordering::Acquire);
    // SAFETY: `start` put a leaked block there before it gave the slot away.
    let Some(block) = (unsafe { block.as_ref() }) else {
        irq_mask::halt()
    };
    let idle = candidate.idle.load(Ordering::Acquire);
    // SAFETY: `start` put a leaked task there, before the block.
    let Some(idle) = (unsafe { idle.as_ref() }) else {
        irq_mask::halt()
    };
    sched::init_secondary_cpu(idle);
    // SAFETY: the block was made for the CPU of this slot, with the stack that the slot has.
    unsafe { percpu::init_secondary(block) };
    exceptions::init();
    if let Err(error) = check() {
        refuse(candidate, &error);
    }
    if !candidate.decide(State::Claimed) {
        irq_mask::halt();
    }
    // Whether the counter moves was found out on the boot CPU; here it has to be started as well.
    // Not for nothing: in QEMU a counter that runs makes each exception of its CPU dearer.
    if start::machine().counts_cycles().is_ok() {
        let _ = CycleCounter::start(&Features::of_this_cpu());
    }
    if let Err(error) = interrupts::init_cpu()
        .and_then(|()| stop::enable())
        .and_then(|()| call::enable())
        .and_then(|()| sched::init_cpu())
    {
        refuse(candidate, &error);
    }
    // In this order: a CPU of the scheduler is sent interrupts, which needs one that is online.
    percpu::set_online(block);
    sched::add_cpu(block.index() as usize, idle);
    candidate.set(State::Online);
}

/// Tells why this CPU is not going to be online, and stops.
fn refuse(candidate: &Candidate, error: &dyn fmt::Display) -> ! {
    let affinity = percpu::this_cpu_affinity();
    warn!("CPU with affinity {affinity:#x} stays off: {error}");
    candidate.set(State::Refused);
    irq_mask::halt()
}

/// Whether this CPU can do what the kernel asks of all.
fn check() -> Result<(), Incompatible> {
    let this = Features::of_this_cpu();
    let (in_force, policy) = (MMU.features(), MMU.policy());
    compatibility::check(&this, &start::machine().features, in_force, policy)?;
    let (has, needed) = (timer::frequency(), FREQUENCY.load(Ordering::Relaxed));
    if has != needed {
        return Err(Incompatible::Frequency { has, needed });
    }
    if in_force.ets2 && this.ets < Ets::Ets2 {
        let without = lazymmu::Features {
            ets2: false,
            ..in_force
        };
        // SAFETY: what is left was checked above to hold on this CPU as well.
        unsafe { MMU.set_features(without) };
    }
    Ok(())
}
