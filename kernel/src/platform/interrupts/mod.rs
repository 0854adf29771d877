// SPDX-License-Identifier: MIT OR Apache-2.0

//! The interrupt controller: GICv2 or GICv3.
//!
//! The protocol:
//!
//! 1. The boot CPU calls [`init`] once, with the mapped registers. Each secondary CPU calls
//!    [`init_cpu`].
//! 2. A driver [registers](register) a handler, and then [enables](enable) its interrupt.
//! 3. [`dispatch`] runs for each IRQ exception: acknowledge, handler, end of interrupt.
//!
//! Handlers run with IRQs masked, at interrupt depth 1 or more ([`percpu`]), and must not sleep.
//! They do not nest, and all interrupts have one priority.
//!
//! # More than one CPU
//!
//! Interrupts 0 to 15 (software-generated, [`send`]) and 16 to 31 (of a CPU's own devices, such as
//! its timer) are *private*: each CPU has its own interrupt of that number. A handler is registered
//! once for all CPUs, and each CPU enables the interrupt for itself. A shared interrupt goes to the
//! CPU that enabled it last.
//!
//! Dispatch takes no lock and searches no list for private interrupts, because every tick of every
//! CPU is one. Enabling and disabling shared interrupts takes a lock that masks interrupts, so a
//! handler never waits for the code that it interrupted.
//!
//! # Groups
//!
//! If there is a non-secure side, the kernel runs there, and all of its interrupts are in Group 1.
//! Firmware has moved them to Group 1, or, after an entry at EL3, the image itself does so with the
//! service in [`boot::el3`]. A GICv2 without security extensions has all interrupts in Group 0.

mod error;
mod gicv2;
mod gicv3;
mod handlers;

use self::{gicv2::GicV2, gicv3::GicV3};
use crate::{
    arch::{
        barrier, interrupts,
        percpu::{self, PerCpu},
        probe,
        relax::CpuRelax,
    },
    platform::devicetree::MAX_REDISTRIBUTOR_REGIONS,
};
use arrayvec::ArrayVec;
use core::{
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};
use spin::once::Once;

pub use self::{error::InterruptError, handlers::MAX_SHARED};
pub use arm_gic::IntId;

/// A function that runs when an interrupt arrives.
pub type Handler = fn(IntId);

/// A block of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Physical address of the first register; EL3 needs it.
    pub phys: u64,
    /// The address at which they are mapped as Device memory.
    pub virt: NonNull<u8>,
    /// The number of bytes that are mapped.
    pub size: u64,
}

/// A controller's registers, mapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Controller {
    /// GICv2.
    V2 {
        /// GICD, 4 KiB.
        distributor: Registers,
        /// GICC, 8 KiB.
        cpu_interface: Registers,
    },
    /// GICv3 (or 4).
    V3 {
        /// GICD, 64 KiB.
        distributor: Registers,
        /// The regions of redistributors. Each is used up to the redistributor that is marked as
        /// last, or to the end of the region.
        redistributors: ArrayVec<Registers, MAX_REDISTRIBUTOR_REGIONS>,
        /// Distance in bytes between two redistributors of a region, if the device tree states it.
        stride: Option<u64>,
    },
}

/// The controller in use.
#[expect(clippy::large_enum_variant, reason = "there is one, in a static")]
enum Gic {
    V2(GicV2),
    V3(GicV3),
}

static GIC: Once<Gic, CpuRelax> = Once::new();

/// Exception level at which the image was entered; at 3, EL3's service is used.
static ENTRY_EL: AtomicU64 = AtomicU64::new(0);

impl fmt::Debug for Gic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V2(_) => "GICv2",
            Self::V3(_) => "GICv3",
        })
    }
}

/// Initializes the distributor, and the interface of the boot CPU. Afterwards every interrupt is
/// disabled; the CPU's own IRQ mask is not changed.
///
/// `entry_el` is the exception level at which the image was entered. If it is 3, EL3's service is
/// used.
///
/// # Errors
///
/// [`InterruptError::InitializedAlready`], [`InterruptError::NoRedistributor`],
/// [`InterruptError::Group1Refused`], or an error of the GIC.
///
/// # Safety
///
/// The registers are those of the machine's GIC, of the version given. They are mapped as Device
/// memory forever, and nothing else uses them.
pub unsafe fn init(controller: Controller, entry_el: u64) -> Result<(), InterruptError> {
    if GIC.get().is_some() {
        return Err(InterruptError::InitializedAlready);
    }
    let new = match controller {
        Controller::V2 {
            distributor,
            cpu_interface,
        } => {
            // SAFETY: this function's contract.
            Gic::V2(unsafe { GicV2::new(distributor, cpu_interface) })
        }
        Controller::V3 {
            distributor,
            redistributors,
            stride,
        } => {
            // SAFETY: this function's contract.
            Gic::V3(unsafe { GicV3::new(distributor, redistributors, stride) })
        }
    };
    ENTRY_EL.store(entry_el, Ordering::Relaxed);
    let gic = GIC.call_once(|| new);
    move_to_group_1(gic)?;
    match gic {
        Gic::V2(gic) => gic.init(),
        Gic::V3(gic) => gic.init(),
    }
    init_interface(gic)
}

/// Initializes a secondary CPU's part of the controller; [`init`] has done so for the boot CPU.
/// Afterwards its private interrupts are disabled; its IRQ mask is not changed.
///
/// # Errors
///
/// Errors of [`init`], and [`InterruptError::Unreachable`].
pub fn init_cpu() -> Result<(), InterruptError> {
    let gic = gic()?;
    // With a GICv2 each CPU has its own groups of private interrupts and its own priority mask.
    move_to_group_1(gic)?;
    init_interface(gic)
}

fn init_interface(gic: &Gic) -> Result<(), InterruptError> {
    match gic {
        Gic::V2(gic) => gic.init_cpu(),
        Gic::V3(gic) => gic.init_cpu(),
    }
}

#[inline(always)]
fn gic() -> Result<&'static Gic, InterruptError> {
    GIC.get().ok_or(InterruptError::NotInitialized)
}

/// If the image itself runs at EL3, lets it move the shared interrupts and the calling CPU's
/// private ones to Group 1. [`boot::el3`] defines the arguments.
fn move_to_group_1(gic: &Gic) -> Result<(), InterruptError> {
    if ENTRY_EL.load(Ordering::Relaxed) != 3 {
        return Ok(());
    }
    let mut arguments = [0; 4];
    match gic {
        Gic::V2(gic) => {
            arguments[0] = 2;
            arguments[1..3].copy_from_slice(&gic.physical());
        }
        Gic::V3(gic) => {
            arguments[0] = 3;
            arguments[1..4].copy_from_slice(&gic.physical()?);
        }
    }
    // SAFETY: the image's own code at EL3 does what the table of `boot::el3` says.
    match unsafe { probe::try_smc(boot::el3::GROUP1_CALL as u32, arguments) } {
        Ok(0) => Ok(()),
        _ => Err(InterruptError::Group1Refused),
    }
}

/// Makes `handler` run for interrupt `id`, which must still be [enabled](enable). The handler of a
/// private interrupt runs on every CPU that enables it.
///
/// # Errors
///
/// [`InterruptError::Taken`], [`InterruptError::Full`].
pub fn register(id: IntId, handler: Handler) -> Result<(), InterruptError> {
    handlers::add(id, handler)
}

/// Disables interrupt `id` and removes its handler, if it has one. Other CPUs that have enabled a
/// private interrupt must disable it themselves before.
///
/// # Errors
///
/// Errors of [`disable`].
pub fn unregister(id: IntId) -> Result<(), InterruptError> {
    disable(id)?;
    handlers::remove(id);
    Ok(())
}

/// Enables interrupt `id`: a private one on the calling CPU, a shared one for delivery to the
/// calling CPU.
///
/// # Errors
///
/// [`InterruptError::CannotEnable`], or an error of the GIC.
pub fn enable(id: IntId) -> Result<(), InterruptError> {
    interrupts::without(|| match gic()? {
        Gic::V2(gic) => gic.enable(id),
        Gic::V3(gic) => gic.enable(id),
    })
}

/// Disables interrupt `id`, a private one on the calling CPU. An interrupt that is already pending
/// in the CPU may still arrive.
///
/// # Errors
///
/// An error of the GIC.
pub fn disable(id: IntId) -> Result<(), InterruptError> {
    interrupts::without(|| match gic()? {
        Gic::V2(gic) => {
            gic.disable(id);
            Ok(())
        }
        Gic::V3(gic) => gic.disable(id),
    })
}

/// Sends software-generated interrupt `id` to the calling CPU. It arrives as soon as IRQs are
/// unmasked, not necessarily before this returns.
///
/// # Errors
///
/// [`InterruptError::NotInitialized`], [`InterruptError::NotSendable`].
pub fn send_to_self(id: IntId) -> Result<(), InterruptError> {
    interrupts::without(|| match sendable(id)? {
        Gic::V2(gic) => {
            gic.send_to_self(id);
            Ok(())
        }
        Gic::V3(gic) => gic.send(id, percpu::current().affinity()),
    })
}

/// Sends software-generated interrupt `id` to CPU `index`, which may be the calling one. The
/// handler observes what this CPU has stored before.
///
/// # Errors
///
/// [`InterruptError::NotInitialized`], [`InterruptError::NotSendable`],
/// [`InterruptError::NoSuchCpu`].
pub fn send(id: IntId, index: u32) -> Result<(), InterruptError> {
    let gic = sendable(id)?;
    let cpu = percpu::of(index).ok_or(InterruptError::NoSuchCpu { index })?;
    publish();
    send_one(gic, id, cpu)
}

/// Sends software-generated interrupt `id` to every CPU that is online, except the calling one. The
/// handlers observe what this CPU has stored before.
///
/// The GIC's own "all but this one" is not used. It also reaches CPUs that are not online, and the
/// interrupt would stay pending until they are.
///
/// # Errors
///
/// [`InterruptError::NotInitialized`], [`InterruptError::NotSendable`].
pub fn send_to_others(id: IntId) -> Result<(), InterruptError> {
    let gic = sendable(id)?;
    publish();
    // Masked, so that the caller stays on this CPU.
    interrupts::without(|| {
        let here = percpu::current().index();
        percpu::online()
            .filter(|cpu| cpu.index() != here)
            .try_for_each(|cpu| send_one(gic, id, cpu))
    })
}

fn sendable(id: IntId) -> Result<&'static Gic, InterruptError> {
    if id.is_sgi() {
        gic()
    } else {
        Err(InterruptError::NotSendable(id))
    }
}

/// Makes other CPUs observe earlier stores before the interrupt request that follows. A DMB would
/// not order them before the write of a system register (H20).
fn publish() {
    barrier::dsb_ishst();
}

fn send_one(gic: &Gic, id: IntId, cpu: &PerCpu) -> Result<(), InterruptError> {
    match gic {
        Gic::V2(gic) => {
            gic.send(id, cpu.index());
            Ok(())
        }
        Gic::V3(gic) => gic.send(id, cpu.affinity()),
    }
}

/// Handles one interrupt. The vectors call it, at interrupt depth 1 or more, with IRQs masked.
pub fn dispatch() {
    // If there is nothing to acknowledge (1023, "spurious"), the interrupt has gone away before,
    // and nothing must be ended.
    match GIC.get() {
        Some(Gic::V2(gic)) => {
            if let Some((raw, id)) = gic.acknowledge() {
                handle(id);
                gic.end(raw);
            }
        }
        Some(Gic::V3(gic)) => {
            if let Some(id) = gic.acknowledge() {
                handle(id);
                gic.end(id);
            }
        }
        None => {}
    }
}

#[inline(always)]
fn handle(id: IntId) {
    match handlers::find(id) {
        Some(handler) => handler(id),
        None => unexpected(id),
    }
}

/// Disables an interrupt without a handler, because a level-triggered one would arrive again
/// forever.
#[cold]
#[inline(never)]
fn unexpected(id: IntId) {
    let stopped = disable(id);
    log::warn!(
        "{id:?} arrived on CPU {} and has no handler: disabled ({stopped:?})",
        percpu::current().index()
    );
}
