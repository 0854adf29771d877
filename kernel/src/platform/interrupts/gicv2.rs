// SPDX-License-Identifier: MIT OR Apache-2.0

//! GICv2 (IHI 0048B): the distributor and the CPU interfaces, both by memory-mapped registers.
//!
//! Each register is accessed through a pointer of its own that lives for one access (crate
//! `safe-mmio`), because CPUs share the block: what is *banked* (the CPU interface, and of the
//! distributor everything about the 32 private interrupts) belongs to the CPU that accesses it, and
//! what is not is accessed under [`GicV2::shared`], or is a register that is only written and takes
//! requests from everybody (GICD_SGIR). Crate `arm-gic` knows one CPU here, so only its numbers are
//! used.
//!
//! The kernel is on the non-secure side, where there is one, and reads and writes the same registers
//! either way: to a non-secure reader GICC_IAR is Group 1, and bit 0 of both control registers
//! enables Group 1 (4.3.1, 4.4.1).

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

/// Interrupt number in GICC_IAR; above it the sender of an SGI.
const INTID: u32 = 0x3ff;
/// The same priority for all, in the middle, in each of the four bytes of a register.
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

// SAFETY: the pointers in `Registers` lead to device memory that is mapped for ever and on all CPUs;
// the module's head says who accesses which register when.
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

    /// Disables all shared interrupts, and enables the distributor. By the boot CPU.
    pub(super) fn init(&self) {
        /// GICD_TYPER: there are two security states.
        const SECURITY: u32 = 1 << 10;
        let _shared = self.shared.lock();
        let typer = self.gicd(gicd::TYPER).read();
        let blocks = (typer & 0x1f) as usize + 1;
        for block in 1..blocks {
            self.gicd(gicd::ICENABLER + 4 * block).write(u32::MAX);
            // Without security states Group 0 is what is enabled below; with them the groups are
            // the secure side's to say, and this is ignored.
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
        // The targets of private interrupts read as the CPU that reads; with a single CPU as 0.
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

    /// Lets `id` through; a private one on the calling CPU, a shared one to the calling CPU.
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

    /// Stops `id`; a private one on the calling CPU.
    pub(super) fn disable(&self, id: IntId) {
        let (offset, bit) = place(id);
        // Writing 1 clears that bit and no other: no lock.
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
            // A controller with one CPU ignores target lists: it is the calling one.
            return self.send_to_self(id);
        }
        self.gicd(gicd::SGIR)
            .write(u32::from(target) << 16 | id.raw_value());
    }

    /// Acknowledges the next interrupt: what GICC_IAR says, which has to be given to [`Self::end`],
    /// and the interrupt.
    #[inline(always)]
    pub(super) fn acknowledge(&self) -> Option<(u32, IntId)> {
        let raw = self.gicc(gicc::IAR).read();
        let id = int_id(raw & INTID)?;
        // What the sender of an SGI stored before is observed by what the handler loads (H20).
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

/// The register `offset` bytes into a block of this module's constants.
#[inline(always)]
fn register<'a>(base: NonNull<u8>, offset: usize) -> UniqueMmioPointer<'a, ReadPureWrite<u32>> {
    // SAFETY: all offsets of this module are within the 4 KiB that both blocks have at least.
    let register = unsafe { base.add(offset) };
    // SAFETY: mapped as Device memory for ever (`GicV2::new`); the pointer lives for one access, and
    // no other one to this register exists on this CPU; between CPUs see the module's head.
    unsafe { UniqueMmioPointer::new(register.cast()) }
}

/// Where the bit of `id` is in registers with one bit each: byte offset and mask.
const fn place(id: IntId) -> (usize, u32) {
    let number = id.raw_value();
    ((number / 32 * 4) as usize, 1 << (number % 32))
}

/// The interrupt with this number; `None` for 1020 to 1023, which are none.
#[inline(always)]
const fn int_id(number: u32) -> Option<IntId> {
    match number {
        0..16 => Some(IntId::sgi(number)),
        16..32 => Some(IntId::ppi(number - 16)),
        32..1020 => Some(IntId::spi(number - 32)),
        _ => None,
    }
}
