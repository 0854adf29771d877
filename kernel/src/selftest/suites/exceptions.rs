// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exceptions: they are decoded correctly, and a test that asks for one survives it.

use lazymmu::{PAGE_SIZE, Prot};

use super::fixture::{Pages, store};
use crate::arch::exceptions::esr::{Class, Status};
use crate::arch::probe::{registers_changed_by_fault, try_exec, try_read_u8, try_read_u64};
use crate::mm::kernel_space;
use crate::mm::layout::{LINEAR, LINEAR_SIZE, VMAP, VMAP_SIZE};
use crate::selftest::prelude::*;

suite! {
    name: "exceptions",
    order: 5,
    tests: [
        case!(QemuVisible, a_caught_fault_continues),
        case!(QemuVisible, translation_faults_name_the_level),
        case!(QemuVisible, permission_faults_name_the_level),
        case!(QemuVisible, reads_and_writes_are_told_apart),
        case!(QemuVisible, instruction_fetch_is_told_apart),
        case!(QemuVisible, far_is_the_exact_byte),
        case!(QemuVisible, non_canonical_addresses_fault),
        case!(QemuVisible, registers_survive_a_fault),
        case!(QemuVisible, many_faults_in_a_row),
    ],
}

fn a_caught_fault_continues() -> TestResult {
    let fault = expect_err!(try_read_u8(0x10));
    expect_eq!(fault.esr.class(), Class::DataAbortSame);
    let value = 42_u64;
    expect_eq!(try_read_u64((&raw const value).addr() as u64), Ok(42));
    Ok(())
}

fn translation_faults_name_the_level() -> TestResult {
    // The top-level entry of the last 512 GiB of each region is empty.
    let level0 = [
        VMAP + VMAP_SIZE - PAGE_SIZE,
        LINEAR + LINEAR_SIZE - PAGE_SIZE,
    ];
    for virt in level0 {
        let fault = expect_err!(try_read_u8(virt));
        expect_eq!(fault.esr.status(), Some(Status::Translation(0)));
    }
    let pages = expect_ok!(Pages::mapped(1));
    let base = pages.virt(0);
    for (distance, level) in [(PAGE_SIZE, 3), (2 << 20, 2), (1 << 30, 1)] {
        let fault = expect_err!(try_read_u8(base + distance));
        expect_eq!(fault.esr.status(), Some(Status::Translation(level)));
    }
    Ok(())
}

fn permission_faults_name_the_level() -> TestResult {
    let pages = expect_ok!(Pages::mapped(1));
    expect_ok!(kernel_space::lock().protect(pages.area.pages(), Prot::KERNEL_RO));
    let fault = expect_err!(store(pages.virt(0), 0));
    expect_eq!(fault.esr.status(), Some(Status::Permission(3)));
    Ok(())
}

fn reads_and_writes_are_told_apart() -> TestResult {
    expect!(!expect_err!(try_read_u8(0)).esr.is_write());
    expect!(expect_err!(store(0, 0)).esr.is_write());
    Ok(())
}

fn instruction_fetch_is_told_apart() -> TestResult {
    let pages = expect_ok!(Pages::mapped(1));
    // SAFETY: nothing is executed: the page is not executable.
    let fault = expect_err!(unsafe { try_exec(pages.virt(0)) });
    expect_eq!(fault.esr.class(), Class::InstructionAbortSame);
    expect_eq!(fault.esr.status(), Some(Status::Permission(3)));
    // SAFETY: nothing is executed: nothing is mapped there.
    let fault = expect_err!(unsafe { try_exec(pages.virt(1)) });
    expect_eq!(fault.esr.status(), Some(Status::Translation(3)));
    Ok(())
}

fn far_is_the_exact_byte() -> TestResult {
    let pages = expect_ok!(Pages::unmapped(1));
    for offset in [0, 1, 0x7ff, 0xfff] {
        let fault = expect_err!(try_read_u8(pages.virt(0) + offset));
        expect_eq!(fault.far, pages.virt(0) + offset);
    }
    Ok(())
}

fn non_canonical_addresses_fault() -> TestResult {
    let fault = expect_err!(try_read_u8(1 << 52));
    expect_eq!(fault.esr.class(), Class::DataAbortSame);
    expect_eq!(fault.esr.status(), Some(Status::Translation(0)));
    Ok(())
}

fn registers_survive_a_fault() -> TestResult {
    expect_eq!(registers_changed_by_fault(0), 0);
    Ok(())
}

fn many_faults_in_a_row() -> TestResult {
    for i in 0..1000 {
        let fault = expect_err!(try_read_u8(i * 8));
        expect_eq!(fault.far, i * 8);
    }
    Ok(())
}
