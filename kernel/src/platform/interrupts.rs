// SPDX-License-Identifier: MIT OR Apache-2.0

//! The interrupt controller: GICv2 or GICv3, through crate `arm-gic`.
//!
//! Protocol: [`init`] once with the mapped registers; [`register`] a handler, then [`enable`] its
//! interrupt; [`dispatch`] runs for each IRQ exception: acknowledge, handler, end of interrupt.
//! Handlers run with IRQs masked, at interrupt depth 1 or more
//! ([`percpu`]); they must not sleep.
//!
//! The kernel is on the non-secure side, where there is one, and all of its interrupts are in
//! Group 1 there. Who put them there? Firmware, or, entered at EL3, the image itself: the service
//! in [`boot::el3`]. A GICv2 without security extensions has all interrupts in Group 0 instead.
//! Either way the same registers acknowledge and end them: to a non-secure reader GICC_IAR is
//! Group 1.
//!
//! Handlers do not nest and all interrupts have one priority.

use crate::arch::{barrier, interrupts, percpu, sysreg};
use arm_gic::{
    InterruptGroup, UniqueMmioPointer,
    gicv2::{self, GicV2},
    gicv3::{self, GicCpuInterface, GicError, GicRedistributor, GicRedistributorIterator, GicV3},
};
use arrayvec::ArrayVec;
use core::{fmt, ptr::NonNull};
use spin::Mutex;

pub use arm_gic::IntId;

/// What runs when an interrupt arrives.
pub type Handler = fn(IntId);

/// How many handlers can be registered.
pub const MAX_HANDLERS: usize = 32;

/// A block of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Physical address of the first register; EL3 needs it.
    pub phys: u64,
    /// Where they are mapped as Device memory.
    pub virt: NonNull<u8>,
    /// How many bytes of them are mapped.
    pub size: u64,
}

/// A controller's registers, mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        /// The region of redistributors that has the boot CPU's, up to the one marked as last or
        /// the end of the region.
        redistributors: Registers,
        /// Bytes from one to the next, if the device tree says so.
        stride: Option<u64>,
    },
}

/// Why an interrupt or the controller cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptError {
    /// [`init`] has not succeeded yet.
    NotInitialized,
    /// The controller refused; with GICv3 for the reason given.
    Gic(GicError),
    /// The interrupt cannot be enabled: the GIC does not implement it, or the secure side owns it.
    CannotEnable(IntId),
    /// No redistributor has the affinity of this CPU.
    NoRedistributor {
        /// MPIDR_EL1.
        mpidr: u64,
    },
    /// The redistributors are not as far apart as the architecture puts them.
    Stride {
        /// Bytes from one to the next in the device tree.
        stride: u64,
        /// Bytes of a redistributor of this version.
        size: u64,
    },
    /// EL3 did not move the interrupts to Group 1.
    Group1Refused,
    /// The interrupt has a handler already.
    Taken(IntId),
    /// All [`MAX_HANDLERS`] places are taken.
    Full,
}

impl fmt::Display for InterruptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInitialized => {
                f.write_str("the interrupt controller is used before interrupts::init()")
            }
            Self::Gic(error) => write!(f, "GICv3: {error}"),
            Self::CannotEnable(id) => write!(
                f,
                "{id:?} cannot be enabled: the GIC does not have it, or it belongs to the secure side"
            ),
            Self::NoRedistributor { mpidr } => write!(
                f,
                "no GICv3 redistributor for MPIDR {mpidr:#x}: is its region first in the device \
                 tree's reg?"
            ),
            Self::Stride { stride, size } => write!(
                f,
                "redistributor-stride {stride:#x} is not supported: the redistributors must follow \
                 each other, {size:#x} bytes each"
            ),
            Self::Group1Refused => {
                f.write_str("the EL3 stub did not move the interrupts to Group 1")
            }
            Self::Taken(id) => write!(f, "{id:?} has a handler already"),
            Self::Full => write!(f, "more than {MAX_HANDLERS} interrupt handlers"),
        }
    }
}

impl From<GicError> for InterruptError {
    fn from(error: GicError) -> Self {
        Self::Gic(error)
    }
}

/// The controller in use.
enum Gic {
    V2(GicV2<'static>),
    /// With the index of the boot CPU's redistributor.
    V3(GicV3<'static>, usize),
}

static GIC: Mutex<Option<Gic>> = Mutex::new(None);

static HANDLERS: Mutex<ArrayVec<(IntId, Handler), MAX_HANDLERS>> =
    Mutex::new(ArrayVec::new_const());

/// Initializes distributor and CPU interface, for the boot CPU; everything is disabled afterwards,
/// the CPU's own IRQ mask is untouched.
///
/// `entry_el` is where the image was entered: at 3, EL3's service is used.
///
/// # Errors
///
/// [`InterruptError::NoRedistributor`], [`InterruptError::Group1Refused`], or what the GIC says.
///
/// # Safety
///
/// The registers are those of the machine's GIC, of the version given, mapped as Device memory for
/// ever, and nobody else uses them.
pub unsafe fn init(controller: Controller, entry_el: u64) -> Result<(), InterruptError> {
    let gic = match controller {
        Controller::V2 {
            distributor,
            cpu_interface,
        } => {
            if entry_el == 3 {
                move_to_group_1([2, distributor.phys, cpu_interface.phys, 0])?;
            }
            // SAFETY: the caller vouches for both blocks.
            let mut gic = unsafe {
                GicV2::new(
                    distributor.virt.as_ptr().cast(),
                    cpu_interface.virt.as_ptr().cast(),
                )
            };
            gic.enable_all_interrupts(false);
            gic.setup();
            // `setup` enables Group 1 by bit 1 if there are security extensions. That is the
            // secure view of GICD_CTLR; in the non-secure one bit 0 enables Group 1 and bit 1 is
            // reserved (IHI 0048B 4.3.1). Without the extensions bit 0 is set already.
            gic.enable_group0(true);
            Gic::V2(gic)
        }
        Controller::V3 {
            distributor,
            redistributors,
            stride,
        } => {
            let (index, count) = find_redistributor(redistributors, stride)?;
            if entry_el == 3 {
                move_to_group_1([3, distributor.phys, redistributors.phys, count as u64])?;
            }
            // SAFETY: the caller vouches for the block.
            let registers = unsafe { UniqueMmioPointer::new(distributor.virt.cast()) };
            let base = redistributors.virt.cast();
            // SAFETY: as above; `count` redistributors were found there.
            let mut gic = unsafe { GicV3::new(registers, base, count) }?;
            // `init_cpu` writes ICC_SRE_EL1.SRE and, without an ISB, ICC_CTLR_EL1, which is UNDEFINED
            // until that has taken effect: so let it take effect first.
            GicCpuInterface::enable_system_register_el1();
            barrier::isb();
            gic.init_cpu(index);
            gic.redistributor(index)?.configure_default_settings();
            gic.distributor().enable_all_interrupts(false);
            gic.distributor().configure_default_settings();
            GicCpuInterface::set_priority_mask(0xff);
            GicCpuInterface::enable_group1(true);
            barrier::isb();
            Gic::V3(gic, index)
        }
    };
    interrupts::without(|| *GIC.lock() = Some(gic));
    Ok(())
}

/// Index of this CPU's redistributor, and how many there are.
fn find_redistributor(
    region: Registers,
    stride: Option<u64>,
) -> Result<(usize, usize), InterruptError> {
    let mpidr = sysreg::mpidr();
    /// Affinity fields of MPIDR_EL1.
    const AFFINITY: u64 = 0xff_00ff_ffff;
    /// Two frames of 64 KiB, and
    const SIZE: u64 = 0x2_0000;
    /// two more with virtual LPIs.
    const SIZE_VIRTUAL: u64 = 0x4_0000;
    if region.size < SIZE {
        return Err(InterruptError::NoRedistributor { mpidr });
    }
    let base: NonNull<gicv3::registers::GicrSgi> = region.virt.cast();
    // SAFETY: `init`'s caller vouches for the region, which has room for one, and no other
    // reference to it exists yet.
    let first = GicRedistributor::new(unsafe { UniqueMmioPointer::new(base) });
    let size = if first.typer().virtual_lpis_supported() {
        SIZE_VIRTUAL
    } else {
        SIZE
    };
    if let Some(stride) = stride.filter(|stride| *stride != size) {
        return Err(InterruptError::Stride { stride, size });
    }
    // SAFETY: as above, `first` is not used any more; no more are asked for than fit.
    let redistributors = unsafe { GicRedistributorIterator::new(base) }?;
    let (mut index, mut count) = (None, 0);
    for redistributor in redistributors.take((region.size / size) as usize) {
        if redistributor.typer().core_mpidr() == mpidr & AFFINITY {
            index = Some(count);
        }
        count += 1;
    }
    index
        .map(|index| (index, count))
        .ok_or(InterruptError::NoRedistributor { mpidr })
}

/// Has EL3 put all interrupts into Group 1; [`boot::el3`] says what `arguments` are.
fn move_to_group_1(arguments: [u64; 4]) -> Result<(), InterruptError> {
    let mut registers = [0; 17];
    registers[..4].copy_from_slice(&arguments);
    match smccc::smc64(boot::el3::GROUP1_CALL as u32, registers)[0] {
        0 => Ok(()),
        _ => Err(InterruptError::Group1Refused),
    }
}

/// Runs `action` on the controller with IRQs masked.
fn with_gic<R>(
    action: impl FnOnce(&mut Gic) -> Result<R, InterruptError>,
) -> Result<R, InterruptError> {
    interrupts::without(|| action(GIC.lock().as_mut().ok_or(InterruptError::NotInitialized)?))
}

/// Makes `handler` run for interrupt `id`, which still has to be [enabled](enable).
///
/// # Errors
///
/// [`InterruptError::Taken`], [`InterruptError::Full`].
pub fn register(id: IntId, handler: Handler) -> Result<(), InterruptError> {
    interrupts::without(|| {
        let mut handlers = HANDLERS.lock();
        if handlers.iter().any(|(taken, _)| *taken == id) {
            return Err(InterruptError::Taken(id));
        }
        handlers
            .try_push((id, handler))
            .map_err(|_| InterruptError::Full)
    })
}

/// Disables interrupt `id` and forgets its handler, if it has one.
///
/// # Errors
///
/// Those of [`disable`].
pub fn unregister(id: IntId) -> Result<(), InterruptError> {
    disable(id)?;
    interrupts::without(|| HANDLERS.lock().retain(|(taken, _)| *taken != id));
    Ok(())
}

/// Lets interrupt `id` through; private ones for the boot CPU.
///
/// # Errors
///
/// [`InterruptError::CannotEnable`], or what the GIC says.
pub fn enable(id: IntId) -> Result<(), InterruptError> {
    with_gic(|gic| match gic {
        Gic::V2(gic) => gic.enable_interrupt(id, true).map_err(|error| match error {
            gicv2::Error::CannotEnable(id) => InterruptError::CannotEnable(id),
        }),
        Gic::V3(gic, cpu) => Ok(gic.enable_interrupt(id, Some(*cpu), true)?),
    })
}

/// Stops interrupt `id`. One that is pending in the CPU already may still arrive.
///
/// # Errors
///
/// What the GIC says.
pub fn disable(id: IntId) -> Result<(), InterruptError> {
    with_gic(|gic| match gic {
        Gic::V2(gic) => gic
            .enable_interrupt(id, false)
            .map_err(|error| match error {
                gicv2::Error::CannotEnable(id) => InterruptError::CannotEnable(id),
            }),
        Gic::V3(gic, cpu) => {
            gic.enable_interrupt(id, Some(*cpu), false)?;
            Ok(gic.gicr_barrier(*cpu)?)
        }
    })
}

/// Sends software-generated interrupt `id` to the calling CPU. It arrives as soon as IRQs are
/// unmasked, not necessarily before this returns.
///
/// # Errors
///
/// [`InterruptError::NotInitialized`], or an `id` that is none of the sixteen.
pub fn send_to_self(id: IntId) -> Result<(), InterruptError> {
    if !id.is_sgi() {
        return Err(InterruptError::Gic(GicError::InvalidGicCpuIntid(id)));
    }
    with_gic(|gic| match gic {
        Gic::V2(gic) => {
            gic.send_sgi(
                id,
                gicv2::SgiTarget::List {
                    target_list_filter: gicv2::SgiTargetListFilter::ForwardSelfOnly,
                    target_list: 0,
                },
            );
            Ok(())
        }
        Gic::V3(..) => {
            let mpidr = sysreg::mpidr();
            let affinity = |shift: u32| (mpidr >> shift & 0xff) as u8;
            GicCpuInterface::send_sgi(
                id,
                gicv3::SgiTarget::List {
                    affinity3: affinity(32),
                    affinity2: affinity(16),
                    affinity1: affinity(8),
                    target_list: 1 << (mpidr & 0xf),
                },
                gicv3::SgiTargetGroup::CurrentGroup1,
            )?;
            // The register write takes effect now, not at some later context synchronization.
            barrier::isb();
            Ok(())
        }
    })
}

/// An acknowledged interrupt, as the GIC named it: with GICv2 an SGI carries its sender, and has
/// to be ended with it.
struct Acknowledged(IntId);

impl Acknowledged {
    /// The interrupt without its sender.
    fn id(&self) -> IntId {
        const INTID: u32 = 0x3ff;
        let raw = self.0.raw_value();
        if raw & INTID < IntId::SGI_COUNT {
            IntId::sgi(raw & INTID)
        } else {
            self.0
        }
    }
}

/// Handles one interrupt. Called from the vectors, at interrupt depth 1 or more, IRQs masked.
pub fn dispatch() {
    debug_assert!(percpu::current().in_interrupt());
    let Some(acknowledged) = acknowledge() else {
        // Gone before it was acknowledged: 1023, "spurious". Nothing to end.
        return;
    };
    let id = acknowledged.id();
    let handler = HANDLERS
        .lock()
        .iter()
        .find_map(|(registered, handler)| (*registered == id).then_some(*handler));
    match handler {
        Some(handler) => handler(id),
        None => {
            // A level-triggered one would come again at once, for ever.
            let stopped = disable(id);
            log::warn!("{id:?} arrived and has no handler: disabled ({stopped:?})");
        }
    }
    end(acknowledged);
}

fn acknowledge() -> Option<Acknowledged> {
    let id = match GIC.lock().as_mut()? {
        Gic::V2(gic) => gic.get_and_acknowledge_interrupt(InterruptGroup::Group0),
        Gic::V3(..) => {
            let id = GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1);
            // The acknowledgement is complete before the handler touches its device
            // (IHI 0069 4.1.1).
            barrier::dsb_sy();
            id
        }
    }?;
    // 1020 to 1022 are for the secure side or for other groups.
    (id < IntId::SPECIAL_SECURE || id > IntId::SPECIAL_NONE).then_some(Acknowledged(id))
}

fn end(acknowledged: Acknowledged) {
    match GIC.lock().as_mut() {
        Some(Gic::V2(gic)) => gic.end_interrupt(acknowledged.0, InterruptGroup::Group0),
        Some(Gic::V3(..)) => {
            GicCpuInterface::end_interrupt(acknowledged.0, InterruptGroup::Group1);
            barrier::isb();
        }
        None => {}
    }
}
