// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory map: what is mapped where, and what is no longer mapped.

use arrayvec::ArrayVec;
use lazymmu::{Frame, MemoryType, PAGE_SIZE, VirtAddr, bits};

use super::fixture::{Pages, store};
use crate::arch::exceptions::esr::Status;
use crate::arch::probe::try_read_u8;
use crate::mm::device::{self, DeviceError};
use crate::mm::frames::FrameList;
use crate::mm::kernel_space;
use crate::mm::layout::{DEVICE, DEVICE_SIZE, linear_virt};
use crate::platform::devicetree::InterruptController;
use crate::platform::phys_range::PhysRange;
use crate::selftest::prelude::*;
use crate::start;

suite! {
    name: "memory",
    order: 10,
    tests: [
        case!(QemuVisible, linear_map_shows_all_ram),
        case!(QemuVisible, linear_map_is_made_of_pages),
        case!(QemuVisible, identity_map_is_gone),
        case!(QemuVisible, boot_window_is_gone),
        case!(QemuVisible, null_page_faults),
        case!(QemuVisible, stack_guards_fault),
        case!(QemuVisible, area_guard_faults),
        case!(QemuVisible, device_registers_are_device_memory),
        case!(QemuVisible, devices_have_a_guard_behind_them),
        case!(QemuVisible, no_memory_is_mapped_as_a_device),
    ],
}

fn query(virt: u64) -> Option<lazymmu::Mapping> {
    kernel_space::lock().query(VirtAddr::new(virt)?)
}

fn linear_map_shows_all_ram() -> TestResult {
    for range in start::machine().memory.linear() {
        let (first, last) = (range.bytes().start(), range.bytes().end() - PAGE_SIZE);
        for phys in [
            first,
            last,
            first + (last - first) / 2 / PAGE_SIZE * PAGE_SIZE,
        ] {
            let Some(found) = query(linear_virt(phys)) else {
                fail!("{phys:#x} is RAM and not in the linear map");
            };
            expect_eq!(Some(found.entry.frame()), Frame::from_u64(phys));
            expect_eq!(found.entry.as_u64() & bits::ATTR_INDX, 0);
            // The bits for inner shareable are written out: other CPUs and their walkers see the
            // same memory.
            expect_eq!(found.entry.as_u64() >> 8 & 0b11, 0b11);
        }
    }
    Ok(())
}

fn linear_map_is_made_of_pages() -> TestResult {
    let expected: u64 = start::machine()
        .memory
        .linear()
        .iter()
        .map(|range| range.frames())
        .sum();
    let (mut pages, mut blocks) = (0, 0);
    kernel_space::lock().for_each_leaf(|virt, level, _| {
        if crate::mm::layout::linear_frame(virt).is_some() {
            match level {
                lazymmu::Level::L3 => pages += 1,
                _ => blocks += 1,
            }
        }
    });
    expect_eq!((pages, blocks), (expected, 0));
    Ok(())
}

fn identity_map_is_gone() -> TestResult {
    let image = start::machine().image.range().start();
    let fault = expect_err!(try_read_u8(image));
    expect_matches!(fault.esr.status(), Some(Status::Translation(_)));
    Ok(())
}

fn boot_window_is_gone() -> TestResult {
    let fault = expect_err!(try_read_u8(boot::window::WINDOW));
    expect_matches!(fault.esr.status(), Some(Status::Translation(_)));
    Ok(())
}

fn null_page_faults() -> TestResult {
    let fault = expect_err!(try_read_u8(0));
    expect_eq!(fault.far, 0);
    let fault = expect_err!(store(8, 1));
    expect_eq!(fault.far, 8);
    Ok(())
}

fn stack_guards_fault() -> TestResult {
    for guard in start::machine().image.stack_guards() {
        expect!(query(guard).is_none());
        expect_err!(try_read_u8(guard));
        expect_err!(try_read_u8(guard + PAGE_SIZE - 1));
        expect_ok!(try_read_u8(guard + PAGE_SIZE));
    }
    Ok(())
}

fn area_guard_faults() -> TestResult {
    let pages = expect_ok!(Pages::mapped(3));
    expect_ok!(try_read_u8(pages.virt(2) + PAGE_SIZE - 1));
    expect_err!(try_read_u8(pages.virt(3)));
    // The neighbor starts after the guard page, not in it.
    let neighbor = expect_ok!(Pages::mapped(1));
    expect!(neighbor.virt(0) != pages.virt(3));
    Ok(())
}

fn device_registers_are_device_memory() -> TestResult {
    let mut mapped = 0;
    let mut wrong = 0;
    kernel_space::lock().for_each_leaf(|virt, _, entry| {
        if (DEVICE..DEVICE + DEVICE_SIZE).contains(&virt) {
            mapped += 1;
            let memory = (entry.as_u64() & bits::ATTR_INDX) >> bits::ATTR_INDX_SHIFT;
            if memory != MemoryType::DeviceNGnRE as u64 || entry.is_executable() {
                wrong += 1;
            }
        }
    });
    expect!(mapped > 0);
    expect_eq!(wrong, 0);
    Ok(())
}

/// A run of addresses of the device area that are mapped without a gap: the first address, its
/// frame, and the number of pages.
type Stretch = (u64, Frame, u64);

fn device_stretches() -> ArrayVec<Stretch, 16> {
    let mut stretches: ArrayVec<Stretch, 16> = ArrayVec::new();
    kernel_space::lock().for_each_leaf(|virt, _, entry| {
        if !(DEVICE..DEVICE + DEVICE_SIZE).contains(&virt) {
            return;
        }
        match stretches.last_mut() {
            Some((start, _, pages)) if *start + *pages * PAGE_SIZE == virt => *pages += 1,
            _ => {
                let _ = stretches.try_push((virt, entry.frame(), 1));
            }
        }
    });
    stretches
}

fn devices_have_a_guard_behind_them() -> TestResult {
    let description = &start::machine().description;
    let distributor = match &description.interrupt_controller {
        InterruptController::GicV2 { distributor, .. }
        | InterruptController::GicV3 { distributor, .. } => *distributor,
    };
    let stretches = device_stretches();
    let console = description.console.map(|console| console.registers);
    for registers in console.into_iter().chain([distributor]) {
        let pages = registers.grown_to_pages();
        let wanted = (Frame::from_u64(pages.start()), pages.size() / PAGE_SIZE);
        // Without an unmapped page in between, two devices would be one run.
        let found = stretches
            .iter()
            .any(|&(_, frame, pages)| (Some(frame), pages) == wanted);
        expect!(found, "{registers} is not mapped apart from others");
    }
    for (start, _, pages) in stretches {
        expect_err!(try_read_u8(start + pages * PAGE_SIZE));
    }
    Ok(())
}

/// Frames have owners that give them back, while device mappings stay forever.
fn no_memory_is_mapped_as_a_device() -> TestResult {
    let list = expect_ok!(FrameList::alloc(1));
    let phys = list[0].as_u64();
    for (start, size) in [(phys, PAGE_SIZE), (phys + PAGE_SIZE - 8, 8)] {
        let refused = PhysRange::new(start, size).map(device::map);
        expect_matches!(refused, Some(Err(DeviceError::Memory(_))));
    }
    Ok(())
}
