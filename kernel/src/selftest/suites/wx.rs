// SPDX-License-Identifier: MIT OR Apache-2.0
//! W^X, tested by trying: the tests write to what must not be writable, jump to what must not be
//! executable, and check the fault.

use lazymmu::{Desc, PAGE_SIZE, Prot, VirtAddr};

use super::fixture::{Pages, store};
use crate::arch::exceptions::esr::Status;
use crate::arch::probe::{Fault, try_exec, try_read_u64};
use crate::mm::kernel_space;
use crate::mm::layout::linear_virt;
use crate::selftest::prelude::*;
use crate::start;

suite! {
    name: "wx",
    order: 15,
    tests: [
        case!(QemuVisible, no_entry_is_writable_and_executable),
        case!(QemuVisible, only_text_is_executable),
        case!(QemuVisible, text_cannot_be_written),
        case!(QemuVisible, nothing_read_only_is_writable_in_the_linear_map),
        case!(QemuVisible, rodata_cannot_be_written),
        case!(QemuVisible, rodata_cannot_be_executed),
        case!(QemuVisible, data_cannot_be_executed),
        case!(QemuVisible, stack_cannot_be_executed),
        case!(QemuVisible, linear_map_cannot_be_executed),
        case!(QemuVisible, vmap_area_cannot_be_executed),
        case!(QemuVisible, text_mapping_can_be_executed),
    ],
}

/// `ret`, the shortest function.
const RET: u64 = 0xd65f_03c0;

fn is_permission(fault: &Fault) -> bool {
    matches!(fault.esr.status(), Some(Status::Permission(_)))
}

fn no_entry_is_writable_and_executable() -> TestResult {
    let mut wrong = None;
    kernel_space::lock().for_each_leaf(|virt, _, entry| {
        if entry.is_writable() && entry.is_executable() {
            wrong.get_or_insert(virt);
        }
    });
    expect_eq!(wrong, None);
    Ok(())
}

fn only_text_is_executable() -> TestResult {
    let text = start::machine().image.parts()[0].pages;
    let mut pages = 0;
    let (mut outside, mut for_el0) = (None, None);
    kernel_space::lock().for_each_leaf(|virt, _, entry: Desc| {
        if entry.is_executable() {
            pages += 1;
            if !(text.start().as_u64()..text.end()).contains(&virt) {
                outside.get_or_insert(virt);
            }
            // The bit UXN is written out: text is executable at EL1 only.
            if entry.as_u64() >> 54 & 1 == 0 {
                for_el0.get_or_insert(virt);
            }
        }
    });
    expect_eq!((outside, for_el0), (None, None));
    expect_eq!(pages, text.pages());
    Ok(())
}

/// Expects a write to `virt` to be refused and to change nothing.
fn refuses_write(virt: u64) -> TestResult {
    let before = expect_ok!(try_read_u64(virt));
    let fault = expect_err!(store(virt, !before));
    expect!(is_permission(&fault));
    expect_eq!(fault.far, virt);
    expect_eq!(try_read_u64(virt), Ok(before));
    Ok(())
}

/// Expects a jump to `virt` to be refused.
fn refuses_jump(virt: u64) -> TestResult {
    // SAFETY: the jump must fault, which is tested. If it did not, it would execute a `ret` or
    // bytes that fault.
    let fault = expect_err!(unsafe { try_exec(virt) });
    expect!(is_permission(&fault));
    expect_eq!(fault.far, virt);
    Ok(())
}

fn text_cannot_be_written() -> TestResult {
    refuses_write(start::machine().image.parts()[0].pages.start().as_u64())
}

fn nothing_read_only_is_writable_in_the_linear_map() -> TestResult {
    let image = start::machine().image;
    // The pages come from the parts of the image, because the kernel computes the range that it
    // protects in another way.
    for part in &image.parts()[..2] {
        let alias = image.frames(part.pages);
        for phys in (alias.start()..alias.end()).step_by(PAGE_SIZE as usize) {
            let found =
                VirtAddr::new(linear_virt(phys)).and_then(|virt| kernel_space::lock().query(virt));
            expect!(
                found.is_some_and(|found| !found.entry.is_writable()),
                "the alias of {} at {phys:#x}",
                part.name
            );
        }
        refuses_write(linear_virt(alias.start()))?;
        refuses_write(linear_virt(alias.end() - 8))?;
    }
    Ok(())
}

fn rodata_cannot_be_written() -> TestResult {
    refuses_write(start::machine().image.parts()[1].pages.start().as_u64())
}

fn rodata_cannot_be_executed() -> TestResult {
    static CODE: u64 = RET;
    refuses_jump((&raw const CODE).addr() as u64)
}

fn data_cannot_be_executed() -> TestResult {
    use core::sync::atomic::{AtomicU64, Ordering};
    static CODE: AtomicU64 = AtomicU64::new(0);
    CODE.store(RET, Ordering::Relaxed);
    refuses_jump((&raw const CODE).addr() as u64)
}

fn stack_cannot_be_executed() -> TestResult {
    let code = [RET; 2];
    refuses_jump(code.as_ptr().expose_provenance() as u64)
}

fn linear_map_cannot_be_executed() -> TestResult {
    let pages = expect_ok!(Pages::unmapped(1));
    pages.fill(0, RET);
    refuses_jump(linear_virt(pages.frames()[0].as_u64()))
}

fn vmap_area_cannot_be_executed() -> TestResult {
    let pages = expect_ok!(Pages::mapped(1));
    pages.fill(0, RET);
    refuses_jump(pages.virt(0))?;
    expect_ok!(kernel_space::lock().protect(pages.area.pages(), Prot::KERNEL_RO));
    refuses_jump(pages.virt(0))
}

/// The positive control of the refusals above.
fn text_mapping_can_be_executed() -> TestResult {
    let pages = expect_ok!(Pages::mapped(1));
    pages.fill(0, RET);
    expect_ok!(kernel_space::lock().protect(pages.area.pages(), Prot::KERNEL_ROX));
    // The cache operations use the address at which the code is executed. IC IVAU by the linear
    // alias need not reach the lines that a VIPT instruction cache holds for this address
    // (CTR_EL0.L1Ip).
    let code = pages.virt(0);
    crate::arch::cache::sync_instructions(code..code + 8);
    // SAFETY: the page holds a `ret`, made visible to instruction fetch above.
    expect_ok!(unsafe { try_exec(pages.virt(0)) });
    expect!(is_permission(&expect_err!(store(pages.virt(0), 0))));
    Ok(())
}
