// SPDX-License-Identifier: MIT OR Apache-2.0
//! The steps from the firmware's entry to a running kernel, and the facts about the machine that
//! they find out.
//!
//! Each step needs the ones before it; `kernel_main` calls them in order. An error in the machine
//! or in its description ends the boot here, with a message that says what to do.

use core::ptr::{self, NonNull};
use core::{fmt, iter, slice};

use boot::{BLOCK_SIZE, Handoff};
use lazymmu::{BarrierPolicy, PA_BITS, TlbFeatures};
use log::{info, warn};
use spin::once::Once;

use crate::arch::features::{Ets, Features};
use crate::arch::relax::CpuRelax;
use crate::arch::timer::{self, CycleCounter};
use crate::arch::{exceptions, interrupts as irq_mask, percpu, probe, semihosting};
use crate::machine::Kind;
use crate::mm::device::DeviceError;
use crate::mm::image::Image;
use crate::mm::layout::LINEAR_SIZE;
use crate::mm::{self, MMU, Settings};
use crate::platform::bootargs::{BootArgumentError, BootArguments, PassedOver, PolicyChoice};
use crate::platform::console::{self, Found};
use crate::platform::devicetree::{
    DeviceTree, DeviceTreeError, InterruptController, MachineDescription,
};
use crate::platform::interrupts::{self, Controller, InterruptError, Registers};
use crate::platform::memory_map::{AddressLimits, BootMemory, MemoryMap, MemoryMapError};
use crate::platform::phys_range::PhysRange;
use crate::platform::{exit, psci};
use crate::sched::{self, SchedError};
use crate::smp;
use crate::wrap_errors;

/// What the kernel knows about the machine it runs on.
#[derive(Debug)]
pub struct Machine {
    /// The addresses of the kernel's image.
    pub image: Image,
    /// The contents of the device tree.
    pub description: MachineDescription,
    /// How its RAM is used.
    pub memory: MemoryMap,
    /// The features of the boot CPU.
    pub features: Features,
    /// The state of its cycle counter.
    pub cycle_counter: CycleCounter,
    /// Exception level at which the image was entered: 1, 2 or 3.
    pub entry_el: u64,
    /// Whether it is QEMU or hardware.
    pub kind: Kind,
}

impl Machine {
    /// Whether the cycle counter measures the code that runs, or why not.
    ///
    /// # Errors
    /// The reason, as the end of a sentence.
    pub const fn counts_cycles(&self) -> Result<(), &'static str> {
        match (self.kind, self.cycle_counter) {
            (Kind::Emulated, _) => Err("under QEMU the cycle counter follows the host's clock,\n\
                 and a barrier costs no more than a NOP."),
            (_, CycleCounter::Absent) => Err("this CPU has no PMUv3."),
            (_, CycleCounter::Stopped) => {
                Err("the cycle counter does not count: EL2 or EL3 stops it.")
            }
            (_, CycleCounter::Counting) => Ok(()),
        }
    }
}

static MACHINE: Once<Machine, CpuRelax> = Once::new();

/// The machine on which the kernel runs.
///
/// # Panics
/// If [`memory`] has not returned yet.
#[must_use]
pub fn machine() -> &'static Machine {
    match MACHINE.get() {
        Some(machine) => machine,
        None => unreachable!("machine() was called before start::memory() has returned"),
    }
}

/// Why the kernel does not start.
#[derive(Debug)]
pub enum StartError {
    /// No device tree was found, or it is too large.
    NoDeviceTree(Handoff),
    /// The device tree extends beyond the end of memory.
    TreeBeyondMemory(Handoff),
    /// There is nothing at the address that the device tree gives for the console.
    NoConsole(PhysRange),
    /// The device tree is broken or lacks something.
    DeviceTree(DeviceTreeError),
    /// A boot argument is unknown or malformed.
    BootArgument(BootArgumentError<'static>),
    /// RAM is missing or too small.
    Memory(MemoryMapError),
    /// A boot argument needs a feature that this CPU does not have.
    Policy(lazymmu::NoEts2),
    /// The generic timer's frequency is not known.
    NoFrequency,
    /// The kernel's address space could not be built.
    Init(mm::InitError),
    /// A device's registers could not be mapped.
    Device(DeviceError),
    /// The interrupt controller does not work.
    Interrupts(InterruptError),
    /// The scheduler did not start.
    Scheduler(SchedError),
}

wrap_errors!(StartError {
    DeviceTreeError => DeviceTree,
    BootArgumentError<'static> => BootArgument,
    MemoryMapError => Memory,
    lazymmu::NoEts2 => Policy,
    mm::InitError => Init,
    DeviceError => Device,
    InterruptError => Interrupts,
    SchedError => Scheduler,
});

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDeviceTree(handoff) if handoff.dtb_phys != 0 => write!(
                f,
                "the device tree at {:#x} says that it has no bytes, or more than {}, the limit of \
                 the arm64 boot protocol: give one that is whole and smaller",
                handoff.dtb_phys,
                boot::handoff::DTB_MAX
            ),
            Self::NoDeviceTree(handoff) => write!(
                f,
                "no device tree: x0 was {:#x} at entry and should be the address of one (8-byte \
                 aligned); start the flat image kernel8.img, not the ELF file, or pass a tree with \
                 -dtb",
                handoff.x0
            ),
            Self::TreeBeyondMemory(handoff) => write!(
                f,
                "the device tree at {:#x} says that it has {} bytes, and the last of them cannot be read: it is \
                 damaged, or memory ends before",
                handoff.dtb_phys, handoff.dtb_size
            ),
            Self::NoConsole(registers) => write!(
                f,
                "nothing answers at {registers}, where the device tree has the console: correct its `reg`"
            ),
            Self::DeviceTree(error) => error.fmt(f),
            Self::BootArgument(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Policy(error) => error.fmt(f),
            Self::NoFrequency => f.write_str(
                "the counter's frequency is not known: CNTFRQ_EL0 is 0, and firmware at EL3 has to \
                 set it to ticks per second before it starts the kernel",
            ),
            Self::Init(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
            Self::Interrupts(error) => error.fmt(f),
            Self::Scheduler(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StartError {}

/// Sets this CPU's block, its vectors and the log. From here on the kernel reports a fault, on
/// every channel that exists.
pub fn cpu(handoff: &Handoff) {
    sched::init_boot_cpu();
    percpu::init_boot_cpu();
    exceptions::init();
    if let Some(uart) = boot::fail::implied_uart(handoff.image_phys) {
        // SAFETY: the boot tables are live until `mm::init` suspends the console; the load address
        // implies that there is a PL011.
        unsafe { console::imply(uart) };
    }
    console::init_log();
}

/// Finds the device tree's blob in the boot window. Returns `handoff` with its address and size.
///
/// # Errors
/// [`StartError::NoDeviceTree`], [`StartError::TreeBeyondMemory`], or [`StartError::DeviceTree`] if
/// the blob is not a device tree.
pub fn device_tree(handoff: &Handoff) -> Result<(Handoff, DeviceTree<'static>), StartError> {
    // SAFETY: the boot tables are live.
    let handoff = unsafe { handoff.with_device_tree(|virt| probe::try_read_u64(virt).ok()) };
    if handoff.dtb_size == 0 {
        return Err(StartError::NoDeviceTree(handoff));
    }
    if probe::try_read_u8(handoff.dtb_virt + handoff.dtb_size - 1).is_err() {
        return Err(StartError::TreeBeyondMemory(handoff));
    }
    let start = ptr::with_exposed_provenance::<u8>(handoff.dtb_virt as usize);
    // SAFETY: boot mapped `dtb_size` bytes there, read-only. The blob is not used after `memory`,
    // which ends the boot window.
    let blob = unsafe { slice::from_raw_parts(start, handoff.dtb_size as usize) };
    Ok((handoff, DeviceTree::new(blob)?))
}

/// Reads the whole tree, and starts to use its console through the boot window, so that errors in
/// the rest of the tree can be printed.
///
/// # Errors
/// The first error in the tree.
pub fn describe(tree: &DeviceTree<'_>) -> Result<MachineDescription, StartError> {
    let described = tree.describe();
    let console = match &described {
        // A range that is also RAM holds no UART; `memory` refuses such a tree.
        Ok(machine) => machine
            .console
            .filter(|found| !machine.memory.iter().any(|b| b.overlaps(found.registers))),
        Err(_) => tree.console().ok().flatten(),
    };
    let is_there = match console {
        // If the tree has an error elsewhere, its console is used unless the device identifies
        // itself as something else.
        Some(found) => early_console(found.registers, described.is_ok()),
        None => Ok(()),
    };
    let described = described?;
    is_there?;
    Ok(described)
}

/// Starts to use the console at `registers` if it identifies itself as a PL011, or if the tree is
/// `believed`.
///
/// # Errors
/// There is nothing at `registers`.
#[inline(never)]
fn early_console(registers: PhysRange, believed: bool) -> Result<(), StartError> {
    let start = registers.start();
    // SAFETY: the boot tables are live, and the tree says that this is a device.
    let Some(virt) = (unsafe { boot::map_early_device(start) }) else {
        return Ok(());
    };
    // SAFETY: mapped by a block, as Device memory. Reading a PL011's registers changes none of
    // those that are read here. If the device is something else, the tree is wrong.
    match unsafe { console::identify(virt, registers.size()) } {
        Found::Nothing => return Err(StartError::NoConsole(registers)),
        Found::SomethingElse if !believed => return Ok(()),
        Found::Pl011 => console::trust(),
        _ if console::is_implied(start) => console::trust(),
        _ => {}
    }
    use_console(Some(virt));
    Ok(())
}

fn use_console(virt: Option<u64>) {
    let address = virt.and_then(|v| NonNull::new(ptr::with_exposed_provenance_mut(v as usize)));
    // SAFETY: a PL011 by its `compatible`, mapped as Device memory until `console::suspend` or
    // forever; only the console uses it.
    unsafe { console::init(address) };
}

/// Switches to the kernel's own address space, and moves the console there.
///
/// # Errors
/// An error in the boot arguments or in the RAM, or a CPU without a feature that they need.
pub fn memory(
    handoff: &Handoff,
    mut description: MachineDescription,
) -> Result<BootArguments<'static>, StartError> {
    let features = Features::of_this_cpu();
    let image = Image::new(handoff);
    let boot = BootMemory {
        image: image.range(),
        device_tree: PhysRange::new(handoff.dtb_phys, handoff.dtb_size),
    };
    let limits = AddressLimits {
        physical_bits: u32::from(features.pa_bits).min(PA_BITS),
        linear_map: LINEAR_SIZE,
    };
    let memory = memory_map(&mut description, &boot, limits)?;
    // If the tree and the timer do not show an emulator, semihosting does: `cargo xtask` always
    // enables it, and a board without a debugger does not have it.
    let kind = match Kind::of(description.compatible.as_str(), timer::frequency()) {
        Kind::Hardware if semihosting::has_host() => Kind::Emulated,
        kind => kind,
    };
    let machine = MACHINE.call_once(|| Machine {
        image,
        description,
        memory,
        features,
        cycle_counter: CycleCounter::start(&features),
        entry_el: handoff.entry_el,
        kind,
    });
    let arguments = BootArguments::parse(machine.description.boot_arguments.as_str())?;
    exit::set_method(arguments.exit);
    console::set_level(arguments.log);
    info!("lazymmu {}: {handoff}", env!("CARGO_PKG_VERSION"));
    for note in &machine.description.notes {
        warn!("device tree: {note}");
    }
    if let Some(words) = PassedOver::find_in(machine.description.boot_arguments.as_str()) {
        info!("{words}");
    }
    info!("{}", machine.description.model);
    info!("{features}");

    if timer::frequency() == 0 {
        return Err(StartError::NoFrequency);
    }

    let settings = settings(&features, &arguments)?;
    let registers = machine.description.console.map(|found| found.registers);
    // SAFETY: called once, on the only CPU that runs, with interrupts masked. The boot window
    // (console, device tree) is not used afterwards.
    let built = unsafe { mm::init(handoff, &machine.memory, settings, registers, use_console)? };
    info!(
        "linear map: {} pages in tables of {} KiB, built with {} DSB and {} ISB; {} saved",
        built.linear.pages,
        built.tables.size() >> 10,
        built.linear.counts.dsb(),
        built.linear.counts.isb,
        built.linear.counts.dsb_saved()
    );
    for high in machine.memory.unreachable() {
        warn!("RAM at {high} is beyond what this CPU or the linear map can address: not used");
    }
    info!(
        "lazy MMU mode: backend {}, barrier policy {}",
        MMU.backend(),
        MMU.policy()
    );
    Ok(arguments)
}

/// Makes the map of the memory that exists.
///
/// A range that the tree states but that does not keep what is written to it is not used, with a
/// warning. A CPU is left out if the word that would start it is not in memory, or is in memory
/// that is in use.
fn memory_map(
    description: &mut MachineDescription,
    boot: &BootMemory,
    limits: AddressLimits,
) -> Result<MemoryMap, StartError> {
    let in_use = || iter::once(boot.image).chain(boot.device_tree);
    let answers = |address: u64, how: unsafe fn(u64) -> bool| {
        let block = PhysRange::new(address / BLOCK_SIZE * BLOCK_SIZE, BLOCK_SIZE);
        // This block is certainly memory, and it is mapped as Normal memory.
        if block.is_none_or(|block| in_use().any(|used| used.overlaps(block))) {
            return true;
        }
        // SAFETY: the boot tables are live. Nothing in this block is used yet, as Normal memory or
        // otherwise, and the CPU makes no speculative accesses to Device memory.
        let virt = unsafe { boot::map_early_device(address) };
        // SAFETY: nothing uses what the tree calls usable memory, and the word of a spin table is
        // only read.
        virt.is_none_or(|virt| unsafe { how(virt) })
    };
    let memory = loop {
        let memory = MemoryMap::new(description, boot, limits)?;
        let Some(range) = memory.silent(|page| answers(page, probe::is_memory)) else {
            break memory;
        };
        warn!(
            "RAM at {range} is stated by the device tree and is no memory: not used; correct the \
             reg of its memory node"
        );
        description.forbid(range)?;
    };
    description.leave_out_cpus(|word| {
        if boot.image.overlaps(word) {
            Some("the kernel's image lies")
        } else if boot.device_tree.is_some_and(|blob| blob.overlaps(word)) {
            Some("the device tree itself lies")
        } else if memory.linear().iter().any(|ram| ram.bytes().contains(word))
            || answers(word.start(), probe::is_readable)
        {
            None
        } else {
            Some("no memory is")
        }
    });
    Ok(memory)
}

fn settings(features: &Features, arguments: &BootArguments<'_>) -> Result<Settings, StartError> {
    let offered = lazymmu::Features {
        tlb: TlbFeatures {
            ttl: features.ttl,
            range: features.tlb_range,
            repeat: features.repeat_tlbi,
        },
        ets2: features.ets >= Ets::Ets2,
    };
    let policy = match arguments.policy {
        PolicyChoice::Classic => BarrierPolicy::Classic,
        PolicyChoice::Auto if offered.ets2 => BarrierPolicy::Ets2,
        PolicyChoice::Auto => BarrierPolicy::Classic,
        PolicyChoice::Ets2 if offered.ets2 => BarrierPolicy::Ets2,
        PolicyChoice::Ets2 => return Err(StartError::Policy(lazymmu::NoEts2)),
    };
    Ok(Settings {
        features: offered,
        backend: arguments.lazy,
        policy,
    })
}

/// Initializes the interrupt controller and unmasks interrupts.
///
/// # Errors
/// Its registers cannot be mapped, or its initialization fails.
pub fn interrupt_controller() -> Result<(), StartError> {
    let map = |range: PhysRange| -> Result<Registers, StartError> {
        let virt = mm::device::map(range)?;
        match NonNull::new(ptr::with_exposed_provenance_mut(virt as usize)) {
            Some(virt) => Ok(Registers {
                phys: range.start(),
                virt,
                size: range.size(),
            }),
            None => unreachable!("device mappings are in the upper half"),
        }
    };
    let controller = match &machine().description.interrupt_controller {
        InterruptController::GicV2 {
            distributor,
            cpu_interface,
        } => Controller::V2 {
            distributor: map(*distributor)?,
            cpu_interface: map(*cpu_interface)?,
        },
        InterruptController::GicV3 {
            distributor,
            redistributors,
            stride,
        } => Controller::V3 {
            distributor: map(*distributor)?,
            redistributors: redistributors
                .iter()
                .map(|region| map(*region))
                .collect::<Result<_, _>>()?,
            stride: *stride,
        },
    };
    // SAFETY: the tree says that these are the registers of such a GIC. They are mapped forever,
    // and nothing else uses them.
    unsafe { interrupts::init(controller, machine().entry_el)? };
    irq_mask::unmask_irq();
    Ok(())
}

/// Starts the scheduler. From here on there are tasks, and the caller is one of them.
///
/// # Errors
/// The timer has no interrupt, or memory is too small for the first tasks.
pub fn scheduler() -> Result<(), StartError> {
    Ok(sched::init(machine().description.timer.virtual_timer)?)
}

/// Starts the other CPUs, as many as the boot arguments allow.
///
/// # Errors
/// The interrupts between CPUs are not available. A CPU that does not start is only a warning.
pub fn other_cpus(arguments: &BootArguments<'_>) -> Result<(), StartError> {
    let machine = machine();
    let machine = smp::Machine {
        cpus: &machine.description.cpus,
        memory: &machine.memory,
        entry_el: machine.entry_el,
        features: machine.features,
        counts_cycles: machine.counts_cycles().is_ok(),
    };
    Ok(smp::start_all(&machine, arguments.cpus)?)
}

/// Brings a secondary CPU online; it then runs tasks.
pub fn secondary_cpu(slot: usize) -> ! {
    smp::enter(slot);
    irq_mask::unmask_irq();
    sched::idle()
}

/// Tells [`psci`] how to call the firmware's power interface, so that the kernel can turn the
/// machine off.
pub fn power(description: &MachineDescription) {
    if let Some(conduit) = description.psci {
        psci::init(conduit);
    }
}
