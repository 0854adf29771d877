// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory map: what is mapped where, and what is not mapped any more.

use mmu::{Frame, MemoryType, PAGE_SIZE, VirtAddr, bits};

use super::fixture::{Pages, store};
use crate::arch::exceptions::esr::Status;
use crate::arch::probe::try_read_u8;
use crate::mm::frames::{self, FrameList};
use crate::mm::kernel_space;
use crate::mm::layout::{DEVICE, linear_virt};
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
        case!(QemuVisible, stack_guard_faults),
        case!(QemuVisible, area_guard_faults),
        case!(QemuVisible, device_registers_are_device_memory),
        case!(QemuVisible, frames_are_distinct_and_zeroed),
        case!(QemuVisible, contiguous_frames_are_aligned),
        case!(QemuVisible, out_of_frames_is_an_error),
        case!(QemuVisible, heap_grows_and_gives_back),
    ],
}

fn query(virt: u64) -> Option<mmu::Mapping> {
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
                mmu::Level::L3 => pages += 1,
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

fn stack_guard_faults() -> TestResult {
    let guard = start::machine().image.stack_guard();
    expect!(query(guard).is_none());
    expect_err!(try_read_u8(guard));
    expect_err!(try_read_u8(guard + PAGE_SIZE - 1));
    expect_ok!(try_read_u8(guard + PAGE_SIZE));
    Ok(())
}

fn area_guard_faults() -> TestResult {
    let pages = expect_ok!(Pages::mapped(3));
    expect_ok!(try_read_u8(pages.virt(2) + PAGE_SIZE - 1));
    expect_err!(try_read_u8(pages.virt(3)));
    // The neighbor starts behind the guard, not in it.
    let neighbor = expect_ok!(Pages::mapped(1));
    expect!(neighbor.virt(0) != pages.virt(3));
    Ok(())
}

fn device_registers_are_device_memory() -> TestResult {
    let mut mapped = 0;
    let mut wrong = 0;
    kernel_space::lock().for_each_leaf(|virt, _, entry| {
        if (DEVICE..DEVICE + crate::mm::layout::DEVICE_SIZE).contains(&virt) {
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

fn frames_are_distinct_and_zeroed() -> TestResult {
    let list = expect_ok!(FrameList::alloc(100));
    for (i, frame) in list.iter().enumerate() {
        expect!(!list[..i].contains(frame));
    }
    let dirty = list[0];
    expect_ok!(store(linear_virt(dirty.as_u64()) + 64, u64::MAX));
    drop(list);
    // The list is last in, first out: the dirty frame is among the next.
    for _ in 0..2 {
        let mut found = None;
        for _ in 0..100 {
            let frame = expect_ok!(frames::alloc_zeroed());
            let value = crate::arch::probe::try_read_u64(linear_virt(frame.as_u64()) + 64);
            // SAFETY: taken a line above and not mapped anywhere.
            unsafe { frames::free(frame) };
            expect_eq!(value, Ok(0));
            found = Some(frame);
        }
        expect!(found.is_some());
    }
    Ok(())
}

fn contiguous_frames_are_aligned() -> TestResult {
    for count in [1, 16, 100, 512] {
        let before = frames::usage().used;
        let first = expect_ok!(frames::alloc_contiguous(count));
        let aligned = first
            .as_u64()
            .is_multiple_of(count.next_power_of_two() as u64 * PAGE_SIZE);
        // SAFETY: taken above with the same count, not mapped anywhere.
        unsafe { frames::free_contiguous(first, count) };
        expect!(aligned);
        expect_eq!(frames::usage().used, before);
    }
    Ok(())
}

fn out_of_frames_is_an_error() -> TestResult {
    let before = frames::usage().used;
    frames::set_budget(Some(3));
    let list = FrameList::alloc(4);
    frames::set_budget(None);
    expect_err!(list);
    expect_eq!(frames::usage().used, before);
    expect_err!(frames::alloc_contiguous(frames::usage().total + 1));
    Ok(())
}

fn heap_grows_and_gives_back() -> TestResult {
    let before = crate::mm::heap::bytes_used();
    let big = alloc::vec![7_u8; 3 << 20];
    expect_eq!(big[big.len() - 1], 7);
    expect!(crate::mm::heap::bytes_used() >= before + big.len());
    drop(big);
    expect_eq!(crate::mm::heap::bytes_used(), before);
    Ok(())
}
