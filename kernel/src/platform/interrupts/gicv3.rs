// SPDX-License-Identifier: MIT OR Apache-2.0

//! GICv3 and GICv4 (IHI 0069), through crate `arm-gic`: the distributor for shared interrupts, a
//! redistributor for the private interrupts of each CPU, and system registers for the rest.
//!
//! The redistributors lie in one or more regions. Only its own CPU uses a redistributor, with
//! interrupts masked. Of the other redistributors a CPU reads GICR_TYPER only, to find its own.
//! Each CPU has its own system registers. Therefore only the distributor has a lock.

use super::{IntId, InterruptError, Registers};
use crate::{
    arch::{barrier, interrupts, percpu, sysreg},
    machine::MAX_CPUS,
    platform::devicetree::MAX_REDISTRIBUTOR_REGIONS,
    sync::IrqLock,
};
use arm_gic::{
    InterruptGroup, UniqueMmioPointer,
    gicv3::{
        GicCpuInterface, GicDistributor, GicRedistributor, SgiTarget, SgiTargetGroup,
        registers::GicrSgi,
    },
};
use arrayvec::ArrayVec;
use core::{
    ptr::{self, NonNull},
    sync::atomic::{AtomicPtr, Ordering},
};
use safe_mmio::fields::ReadPure;

/// Bytes of a redistributor without virtual LPIs: two frames of 64 KiB.
const SIZE: u64 = 0x2_0000;
/// Bytes of a redistributor with virtual LPIs: four frames.
const SIZE_VIRTUAL: u64 = 0x4_0000;

/// GICR_TYPER: the redistributor has virtual LPIs.
const TYPER_VLPIS: u32 = 1 << 1;
/// GICR_TYPER: the redistributor is the last of its region.
const TYPER_LAST: u32 = 1 << 4;

/// The controller.
pub(super) struct GicV3 {
    distributor: IrqLock<GicDistributor<'static>>,
    distributor_phys: u64,
    /// The regions of redistributors.
    regions: ArrayVec<Registers, MAX_REDISTRIBUTOR_REGIONS>,
    /// Distance in bytes between two redistributors of a region, if the device tree states it.
    stride: Option<u64>,
    /// The redistributor of each CPU, by the kernel's number; null before [`Self::init_cpu`].
    own: [AtomicPtr<GicrSgi>; MAX_CPUS],
}

// SAFETY: the pointers in `regions` point to device memory that is mapped forever and on all CPUs;
// the module's head says which CPU accesses what.
unsafe impl Send for GicV3 {}
// SAFETY: as above.
unsafe impl Sync for GicV3 {}

impl GicV3 {
    /// The GIC with these registers.
    ///
    /// # Safety
    /// As [`super::init`].
    pub(super) unsafe fn new(
        distributor: Registers,
        regions: ArrayVec<Registers, MAX_REDISTRIBUTOR_REGIONS>,
        stride: Option<u64>,
    ) -> Self {
        // SAFETY: the caller vouches for the block, which nothing else uses.
        let registers = unsafe { UniqueMmioPointer::new(distributor.virt.cast()) };
        Self {
            distributor: IrqLock::new(GicDistributor::new(registers)),
            distributor_phys: distributor.phys,
            regions,
            stride,
            own: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_CPUS],
        }
    }

    /// The arguments for EL3: physical addresses of the distributor and of the calling CPU's
    /// redistributor, and the number of redistributors, which is 1.
    pub(super) fn physical(&self) -> Result<[u64; 3], InterruptError> {
        let own = self.find(percpu::current().affinity())?;
        Ok([self.distributor_phys, own.phys, 1])
    }

    /// Disables all shared interrupts, and enables the distributor. The boot CPU calls it.
    pub(super) fn init(&self) {
        let mut distributor = self.distributor.lock();
        distributor.enable_all_interrupts(false);
        distributor.configure_default_settings();
    }

    /// Wakes the calling CPU's redistributor, disables its private interrupts, and enables its CPU
    /// interface.
    pub(super) fn init_cpu(&self) -> Result<(), InterruptError> {
        let cpu = percpu::current();
        let affinity = cpu.affinity();
        let own = self.find(affinity)?;
        // SGIs can be sent to CPUs whose Aff0 is below 16, because ICC_SGI1R_EL1.RS stays 0.
        if affinity & 0xff >= 16 {
            return Err(InterruptError::Unreachable { affinity });
        }
        let registers = own.virt.cast::<GicrSgi>();
        self.own[cpu.index() as usize].store(registers.as_ptr(), Ordering::Relaxed);
        // The registers that ICC_SRE_EL1.SRE enables are UNDEFINED until it has taken effect.
        GicCpuInterface::enable_system_register_el1();
        barrier::isb();
        self.redistributor(|redistributor| {
            // An error means that it is already awake.
            let _ = redistributor.mark_core_awake();
            redistributor.configure_default_settings();
        })?;
        sysreg::clear_icc_ctlr();
        GicCpuInterface::set_priority_mask(0xff);
        GicCpuInterface::enable_group1(true);
        // The writes take effect before the caller unmasks. Other instructions than reads of the
        // register see a write of a system register only after a context synchronization event. No
        // witness: QEMU lets them take effect at once.
        barrier::isb();
        Ok(())
    }

    /// The redistributor of the CPU with these affinity fields.
    fn find(&self, affinity: u64) -> Result<Registers, InterruptError> {
        // In GICR_TYPER[63:32], Aff3 is directly above the other fields.
        let wanted = (affinity >> 8 & 0xff00_0000 | affinity & 0xff_ffff) as u32;
        for region in &self.regions {
            let mut offset = 0_u64;
            // The stride comes from the device tree, so a sum may exceed all addresses.
            let fits = |offset: u64| {
                let end = offset.checked_add(SIZE);
                end.is_some_and(|end| end <= region.size)
            };
            while fits(offset) {
                // SAFETY: by the loop's condition the two frames from there are in the region.
                let frame = unsafe { region.virt.add(offset as usize) };
                // SAFETY: as above.
                let [low, high] = unsafe { typer(frame) };
                if high == wanted {
                    return Ok(Registers {
                        phys: region.phys + offset,
                        virt: frame,
                        size: SIZE,
                    });
                }
                if low & TYPER_LAST != 0 {
                    break;
                }
                offset = offset.saturating_add(match self.stride {
                    Some(stride) => stride,
                    None if low & TYPER_VLPIS != 0 => SIZE_VIRTUAL,
                    None => SIZE,
                });
            }
        }
        Err(InterruptError::NoRedistributor { affinity })
    }

    /// Runs `action` on the calling CPU's redistributor.
    fn redistributor<R>(
        &self,
        action: impl FnOnce(&mut GicRedistributor<'_>) -> R,
    ) -> Result<R, InterruptError> {
        interrupts::without(|| {
            let own = self.own[percpu::current().index() as usize].load(Ordering::Relaxed);
            let own = NonNull::new(own).ok_or(InterruptError::NotInitialized)?;
            // SAFETY: `init_cpu` found it, so it belongs to this CPU. Nothing else uses it, and
            // nothing on this CPU can interrupt the use.
            let registers = unsafe { UniqueMmioPointer::new(own) };
            Ok(action(&mut GicRedistributor::new(registers)))
        })
    }

    /// Enables `id`: a private one on the calling CPU, a shared one for delivery to the calling
    /// CPU.
    pub(super) fn enable(&self, id: IntId) -> Result<(), InterruptError> {
        if id.is_private() {
            self.redistributor(|own| own.enable_interrupt(id, true))??;
        } else {
            let mut distributor = self.distributor.lock();
            distributor.set_routing(id, Some(percpu::current().affinity()))?;
            distributor.enable_interrupt(id, true)?;
        }
        Ok(())
    }

    /// Disables `id`; a private one on the calling CPU.
    pub(super) fn disable(&self, id: IntId) -> Result<(), InterruptError> {
        if id.is_private() {
            self.redistributor(|own| {
                let disabled = own.enable_interrupt(id, false);
                own.wait_for_pending_write();
                disabled
            })??;
        } else {
            let mut distributor = self.distributor.lock();
            distributor.enable_interrupt(id, false)?;
            distributor.wait_for_pending_write();
        }
        Ok(())
    }

    /// Sends SGI `id` to the CPU with these affinity fields.
    pub(super) fn send(&self, id: IntId, affinity: u64) -> Result<(), InterruptError> {
        let field = |shift: u32| (affinity >> shift & 0xff) as u8;
        GicCpuInterface::send_sgi(
            id,
            SgiTarget::List {
                affinity3: field(32),
                affinity2: field(16),
                affinity1: field(8),
                target_list: 1 << (affinity & 0xf),
            },
            SgiTargetGroup::CurrentGroup1,
        )?;
        // The register write takes effect now, not at a later context synchronization event.
        barrier::isb();
        Ok(())
    }

    /// Acknowledges the next interrupt.
    #[inline(always)]
    pub(super) fn acknowledge(&self) -> Option<IntId> {
        let id = GicCpuInterface::get_and_acknowledge_interrupt(InterruptGroup::Group1)?;
        // The acknowledgement completes before the handler accesses its device (H20; IHI 0069
        // 4.1.1).
        barrier::dsb_sy();
        // 1020 to 1022 are for the secure side or other groups.
        (id < IntId::SPECIAL_SECURE || id > IntId::SPECIAL_NONE).then_some(id)
    }

    /// Ends an acknowledged interrupt.
    #[inline(always)]
    pub(super) fn end(&self, id: IntId) {
        GicCpuInterface::end_interrupt(id, InterruptGroup::Group1);
        // The priority drops before any code unmasks. This code does not always leave by an ERET: a
        // preemption switches to a task that unmasks by itself. No witness, as above.
        barrier::isb();
    }
}

/// Reads GICR_TYPER of the redistributor at `frame` as two words, because not all buses split 64
/// bits.
///
/// # Safety
/// The frame is mapped as Device memory forever.
unsafe fn typer(frame: NonNull<u8>) -> [u32; 2] {
    [0x8, 0xc].map(|offset| {
        // SAFETY: within the frame of 64 KiB.
        let word = unsafe { frame.add(offset) }.cast::<ReadPure<u32>>();
        // SAFETY: mapped by the contract; the pointer lives for one read of a register that is
        // never written.
        let word = unsafe { UniqueMmioPointer::new(word) };
        word.read()
    })
}
