// SPDX-License-Identifier: MIT OR Apache-2.0

//! GICv2 (IHI 0048B): the distributor and the CPU interfaces, both by memory-mapped registers.
//!
//! CPUs share the block of registers. Therefore each access uses a pointer of its own that lives
//! for this access only (crate `safe-mmio`). There are three kinds of registers:
//!
//! - *banked* registers belong to the CPU that accesses them: the CPU interface, and everything in
//!   the distributor about the 32 private interrupts;
//! - GICD_SGIR and GICD_ICENABLER are only written, and a write affects only the interrupts that it
//!   names;
//! - all other registers are accessed under [`GicV2::shared`].
//!
//! Crate `arm-gic` supports only one CPU for a GICv2, so only its numbers are used.
//!
//! If there is a non-secure side, the kernel runs there. It reads and writes the same registers
//! with and without one: for a non-secure reader GICC_IAR is Group 1, and bit 0 of both control
//! registers enables Group 1 (4.3.1, 4.4.1).

use super::{IntId, InterruptError, Registers};
use crate::{arch::percpu, machine::MAX_CPUS, sync::IrqLock};
use arm_gic::UniqueMmioPointer;
use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU8, Ordering, fence},
};
use safe_mmio::fields::ReadPureWrite;

/// Offsets of the distributor's registers, in bytes (table 4-1).
mod gicd {
    pub(super) const CTLR: usize = 0x000;
    pub(super) const TYPER: usize = 0x004;
    pub(super) const IGROUPR: usize = 0x080;
    pub(super) const ISENABLER: usize = 0x100;
    pub(super) const ICENABLER: usize = 0x180;
    pub(super) const IPRIORITYR: usize = 0x400;
    pub(super) const ITARGETSR: usize = 0x800;
    pub(super) const SGIR: usize = 0xf00;
}

/// Offsets of the CPU interface's registers, in bytes (table 4-2).
mod gicc {
    pub(super) const CTLR: usize = 0x000;
    pub(super) const PMR: usize = 0x004;
    pub(super) const IAR: usize = 0x00c;
    pub(super) const EOIR: usize = 0x010;
}

/// The interrupt number in GICC_IAR. The bits above it are the sender of an SGI.
const INTID: u32 = 0x3ff;
/// The same medium priority for all interrupts, in each of the four bytes of a register.
const PRIORITIES: u32 = 0x8080_8080;

/// The controller.
pub(super) struct GicV2 {
    distributor: Registers,
    cpu_interface: Registers,
    /// Held during accesses to the distributor's registers that are not banked.
    shared: IrqLock<()>,
    /// The bit of each CPU in target lists, by the kernel's number; 0 before [`Self::init_cpu`].
    targets: [AtomicU8; MAX_CPUS],
}

// SAFETY: the pointers in `Registers` point to device memory that is mapped forever and on all
// CPUs; the module's head says which CPU accesses which register under which lock.
unsafe impl Send for GicV2 {}
// SAFETY: as above.
unsafe impl Sync for GicV2 {}

impl GicV2 {
    /// # Safety
    /// As [`super::init`].
    pub(super) unsafe fn new(distributor: Registers, cpu_interface: Registers) -> Self {
        Self {
            distributor,
            cpu_interface,
            shared: IrqLock::new(()),
            targets: [const { AtomicU8::new(0) }; MAX_CPUS],
        }
    }

    /// Physical addresses of both blocks, for EL3.
    pub(super) fn physical(&self) -> [u64; 2] {
        [self.distributor.phys, self.cpu_interface.phys]
    }

    /// Disables all shared interrupts, and enables the distributor. The boot CPU calls it.
    pub(super) fn init(&self) {
        /// GICD_TYPER: there are two security states.
        const SECURITY: u32 = 1 << 10;
        let _shared = self.shared.lock();
        let typer = self.gicd(gicd::TYPER).read();
        let blocks = (typer & 0x1f) as usize + 1;
        for block in 1..blocks {
            self.gicd(gicd::ICENABLER + 4 * block).write(u32::MAX);
            // Without security states, Group 0 is enabled below. With them, only the secure side
            // can change the groups, and this write is ignored.
            self.gicd(gicd::IGROUPR + 4 * block)
                .write(if typer & SECURITY == 0 { 0 } else { u32::MAX });
            for register in 8 * block..8 * block + 8 {
                self.gicd(gicd::IPRIORITYR + 4 * register).write(PRIORITIES);
            }
        }
        self.gicd(gicd::CTLR).write(1);
    }

    /// Disables all private interrupts of the calling CPU, and enables its interface.
    pub(super) fn init_cpu(&self) -> Result<(), InterruptError> {
        self.gicd(gicd::ICENABLER).write(u32::MAX);
        for register in 0..8 {
            self.gicd(gicd::IPRIORITYR + 4 * register).write(PRIORITIES);
        }
        // The targets of private interrupts read as the CPU that reads them, or as 0 if there is
        // only one CPU.
        let own = (0..8)
            .map(|register| self.gicd(gicd::ITARGETSR + 4 * register).read())
            .find(|targets| *targets != 0)
            .map_or(0, |targets| {
                targets
                    .to_le_bytes()
                    .into_iter()
                    .fold(0, |all, one| all | one)
            });
        let cpu = percpu::current();
        if own == 0 && cpu.index() != 0 {
            return Err(InterruptError::Unreachable {
                affinity: cpu.affinity(),
            });
        }
        self.targets[cpu.index() as usize].store(own, Ordering::Relaxed);
        self.gicc(gicc::PMR).write(0xff);
        self.gicc(gicc::CTLR).write(1);
        Ok(())
    }

    /// Enables `id`: a private one on the calling CPU, a shared one for delivery to the calling
    /// CPU.
    pub(super) fn enable(&self, id: IntId) -> Result<(), InterruptError> {
        let (offset, bit) = place(id);
        let _shared = self.shared.lock();
        if !id.is_private() {
            let own = self.targets[percpu::current().index() as usize].load(Ordering::Relaxed);
            let number = id.raw_value();
            let mut targets = self.gicd(gicd::ITARGETSR + (number & !3) as usize);
            let shift = 8 * (number & 3);
            let others = targets.read() & !(0xff << shift);
            targets.write(others | u32::from(own) << shift);
        }
        self.gicd(gicd::ISENABLER + offset).write(bit);
        if self.gicd(gicd::ISENABLER + offset).read() & bit == 0 {
            return Err(InterruptError::CannotEnable(id));
        }
        Ok(())
    }

    /// Disables `id`; a private one on the calling CPU.
    pub(super) fn disable(&self, id: IntId) {
        let (offset, bit) = place(id);
        // Writing 1 clears that bit and no other, so no lock is needed.
        self.gicd(gicd::ICENABLER + offset).write(bit);
    }

    /// Sends SGI `id` to the calling CPU.
    pub(super) fn send_to_self(&self, id: IntId) {
        /// GICD_SGIR: target list filter "self".
        const SELF: u32 = 0b10 << 24;
        self.gicd(gicd::SGIR).write(SELF | id.raw_value());
    }

    /// Sends SGI `id` to CPU `index`, which is online.
    pub(super) fn send(&self, id: IntId, index: u32) {
        let target = self.targets[index as usize].load(Ordering::Relaxed);
        if target == 0 {
            // A controller with one CPU ignores target lists; the target is the calling CPU.
            return self.send_to_self(id);
        }
        self.gicd(gicd::SGIR)
            .write(u32::from(target) << 16 | id.raw_value());
    }

    /// Acknowledges the next interrupt. Returns the value of GICC_IAR, which must be passed to
    /// [`Self::end`], and the interrupt.
    #[inline(always)]
    pub(super) fn acknowledge(&self) -> Option<(u32, IntId)> {
        let raw = self.gicc(gicc::IAR).read();
        let id = int_id(raw & INTID)?;
        // The handler's loads observe what the sender of an SGI has stored before (H20).
        fence(Ordering::Acquire);
        Some((raw, id))
    }

    /// Ends an acknowledged interrupt.
    #[inline(always)]
    pub(super) fn end(&self, raw: u32) {
        self.gicc(gicc::EOIR).write(raw);
    }

    #[inline(always)]
    fn gicd(&self, offset: usize) -> UniqueMmioPointer<'_, ReadPureWrite<u32>> {
        register(self.distributor.virt, offset)
    }

    #[inline(always)]
    fn gicc(&self, offset: usize) -> UniqueMmioPointer<'_, ReadPureWrite<u32>> {
        register(self.cpu_interface.virt, offset)
    }
}

/// The register `offset` bytes into a block; `offset` is a constant of this module.
#[inline(always)]
fn register<'a>(base: NonNull<u8>, offset: usize) -> UniqueMmioPointer<'a, ReadPureWrite<u32>> {
    // SAFETY: all offsets of this module are within 4 KiB, and both blocks have at least this size.
    let register = unsafe { base.add(offset) };
    // SAFETY: mapped as Device memory forever (`GicV2::new`). The pointer lives for one access, and
    // there is no other one to this register on this CPU. For other CPUs see the module's head.
    unsafe { UniqueMmioPointer::new(register.cast()) }
}

/// Byte offset and mask of the bit of `id` in registers with one bit for each interrupt.
const fn place(id: IntId) -> (usize, u32) {
    let number = id.raw_value();
    ((number / 32 * 4) as usize, 1 << (number % 32))
}

/// The interrupt with this number; `None` for 1020 to 1023, which are not interrupts.
#[inline(always)]
const fn int_id(number: u32) -> Option<IntId> {
    match number {
        0..16 => Some(IntId::sgi(number)),
        16..32 => Some(IntId::ppi(number - 16)),
        32..1020 => Some(IntId::spi(number - 32)),
        _ => None,
    }
}
