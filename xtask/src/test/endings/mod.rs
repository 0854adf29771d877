// SPDX-License-Identifier: MIT OR Apache-2.0

//! Boots whose end is the test: the demonstration, refused input, panic,
//! exception, overflow, hang; and on a Raspberry Pi 4 what its firmware may do.
//!
//! Each must end with its status and say what it should on the way. The
//! demonstration must also print what docs/demonstration.md shows.

mod given;
mod said;
mod trees;

use super::boots::Bench;
use super::summary::Row;
use crate::failure::HUNG;
use crate::qemu::boot::with_defaults;
use crate::qemu::machine::Board::{self, Raspi4b, Virt};
use crate::qemu::machine::{ExceptionLevel, Gic, Memory};
use crate::qemu::{Boot, Machine};
use crate::scratch;
use anyhow::Result;
use given::{Given, Loaded};
use std::num::NonZeroU32;
use std::time::Duration;
use trees::Described;

/// Name of the row, and first part of the names of its tests.
const ROW: &str = "endings";

/// A boot and how it must end.
struct Ending {
    name: &'static str,
    board: Board,
    smp: u32,
    mebibytes: u32,
    given: Given,
    bootargs: &'static str,
    status: u8,
    /// What must be on the console, or in QEMU's messages, in this order; `*` matches any
    /// characters of a line.
    says: &'static [&'static str],
}

const ON_ONE_CPU: Ending = Ending {
    name: "",
    board: Virt,
    smp: 1,
    mebibytes: 1024,
    given: Given::Usual,
    bootargs: "",
    status: 0,
    says: &[],
};

const ON_A_PI: Ending = Ending {
    board: Raspi4b,
    smp: 4,
    mebibytes: 2048,
    ..ON_ONE_CPU
};

#[rustfmt::skip]
const ENDINGS: [Ending; 40] = [
    Ending { name: "demo", smp: 2,
        says: &["== 1.", "== 2.", "65536  lazy, range known", "== 3.", "== 4.", "== 5.", "moves to CPU 1 and back", "lazymmu: exit 0"], ..ON_ONE_CPU },
    Ending { name: "demo_in_little_memory", mebibytes: 128,
        says: &["RAM is too small for 65536 different frames", "There is one CPU: with --smp 2", "lazymmu: exit 0"], ..ON_ONE_CPU },
    Ending { name: "panic", bootargs: "mode=panic", status: 2,
        says: &["panic: provoked", "at kernel/src/selftest/provoke.rs:", "0 interrupts deep", "backtrace:",
            "provoke::run::{{closure}}", "provoke::outer", "provoke::run", "kernel_main at", "lazymmu: exit 2"], ..ON_ONE_CPU },
    Ending { name: "panic_elsewhere", smp: 4, bootargs: "mode=panic-elsewhere", status: 2,
        says: &["4 of 4 CPUs are online", "registered: Ok(())", "panic: provoked by another CPU", "at kernel/src/selftest/provoke.rs:",
            "  CPU *, 1 interrupts deep", "backtrace:", "provoke::panic_on_the_other_cpus", "secondary_cpu", "lazymmu: exit 2"], ..ON_ONE_CPU },
    Ending { name: "exception", bootargs: "mode=exception", status: 3,
        says: &["exception: data abort from EL1, translation fault at level 0, write, at 0xffff80",
            "in the vmap area; level 0: invalid", "backtrace:", "write_to_an_unmapped_page",
            "provoke::outer", "provoke::run", "kernel_main at", "lazymmu: exit 3"], ..ON_ONE_CPU },
    Ending { name: "jump", bootargs: "mode=jump", status: 3,
        says: &["exception: instruction abort from EL1, translation fault at level 0, instruction fetch, at 0xffff80",
            "in the vmap area; level 0: invalid", "  jumped to 0xffff80", "backtrace:", "  #0 0xffff80",
            "  #1 0x*provoke::jump_to_an_unmapped_page", "  #2 0x*provoke::outer", "provoke::run", "kernel_main at", "lazymmu: exit 3"], ..ON_ONE_CPU },
    Ending { name: "stack_overflow", bootargs: "mode=stack-overflow", status: 3,
        says: &["exception: kernel stack overflow: SP 0xffffffff80", "  found by: exception: data abort from EL1, translation fault at level 3, write",
            "guard page below the boot stack", "backtrace:", "  #0 0x*provoke::recurse at", "  #1 0x*provoke::recurse at", "... more than 32 frames",
            "lazymmu: exit 3"], ..ON_ONE_CPU },
    Ending { name: "stack_overflow_of_a_task", bootargs: "mode=task-overflow", status: 3,
        says: &["exception: kernel stack overflow: SP 0xffffa0", "  found by: exception: data abort from EL1, translation fault at level 3, write",
            "CPU 0, task deep, 0 interrupts deep", "among the stacks of tasks", "backtrace:", "  #0 0x*provoke::recurse at", "lazymmu: exit 3"], ..ON_ONE_CPU },
    Ending { name: "sleep_in_a_section", bootargs: "mode=sleep-in-section", status: 2,
        says: &["in a section: Ok(())", "panic: task main would sleep in a lazy MMU section, 1 deep, opened at kernel/src/selftest/provoke.rs:*that backend defer-stores keeps on its CPU",
            "at kernel/src/selftest/provoke.rs:", "CPU 0, task main, 0 interrupts deep",
            "provoke::sleep_in_a_section", "lazymmu: exit 2"], ..ON_ONE_CPU },
    Ending { name: "lock_in_an_interrupt", bootargs: "mode=lock-in-interrupt", status: 2,
        says: &["panic: an interrupt handler asked for the kernel's address space", "1 interrupts deep", "backtrace:",
            "kernel_space::lock", "exception_handler", "exception_save", "provoke::lock_in_an_interrupt",
            "provoke::outer", "kernel_main at", "lazymmu: exit 2"], ..ON_ONE_CPU },
    Ending { name: "hang", bootargs: "mode=hang", status: HUNG,
        says: &["provoking: Hang", "the guest hangs", "provoke::"], ..ON_ONE_CPU },
    Ending { name: "litmus", smp: 2, bootargs: "mode=litmus iterations=100",
        says: &["no barrier * 0 / 100", "dsb ishst + isb * 0 / 100", "eager * 0 / 100", "lazy, section ended * 0 / 100",
            "hw-only: QEMU has no store buffer, so these zeros mean nothing", "Cycles are not shown: under QEMU", "lazymmu: exit 0"], ..ON_ONE_CPU },
    Ending { name: "unknown_argument", bootargs: "lasy=eager", status: 1,
        says: &["error: boot argument 'lasy' is not known; allowed are mode="], ..ON_ONE_CPU },
    Ending { name: "bad_value", bootargs: "lazy=later", status: 1,
        says: &["error: boot argument lazy='later' is not allowed: use lazy=eager|"], ..ON_ONE_CPU },
    Ending { name: "word_without_value", bootargs: "quiet", status: 1,
        says: &["error: boot argument 'quiet' has no value"], ..ON_ONE_CPU },
    Ending { name: "policy_the_cpu_lacks", bootargs: "policy=ets2", status: 1,
        says: &["error: barrier policy ets2 needs FEAT_ETS2"], ..ON_ONE_CPU },
    Ending { name: "filter_without_tests", bootargs: "mode=selftest filter=no.such", status: 1,
        says: &["error: no self-test matches filter=no.such"], ..ON_ONE_CPU },
    Ending { name: "counts_without_a_counter", bootargs: "mode=counts", status: 1,
        says: &["error: a loop of 20000 instructions took * ticks of the timer, and one of twice as many took *. The timer counts *use cargo xtask counts"], ..ON_ONE_CPU },
    Ending { name: "too_little_memory", mebibytes: 32, status: 1,
        says: &["KiB of memory are usable, the kernel needs", "--memory 128M"], ..ON_ONE_CPU },
    Ending { name: "no_device_tree", given: Given::Elf, status: 1,
        says: &["error: no device tree: x0 was 0x0", "lazymmu: exit 1", "no device tree: x0 was 0x0 *(the kernel's error; it ended with status 1)"], ..ON_ONE_CPU },
    Ending { name: "bare_device_tree", given: Given::BareTree, status: 1,
        says: &["error: device tree has no interrupt controller the kernel knows"], ..ON_ONE_CPU },
    // On the console, and not only to the host: then the status comes from what the kernel has
    // announced there.
    Ending { name: "control_characters", bootargs: "mode=\u{1b}[31mred\u{7}\u{9b}x", status: 1,
        says: &[r"error: boot argument mode='\u{1b}[31mred\u{7}\u{9b}x' is not allowed", "ended with status 1"], ..ON_ONE_CPU },
    Ending { name: "control_characters_in_the_log", bootargs: "\u{1b}]0;title\u{7} lazymmu mode=selftest filter=boot-arguments.*",
        says: &[r"passed over: \u{1b}]0;title\u{7}", "lazymmu: exit 0"], ..ON_ONE_CPU },
    Ending { name: "image_at_a_wrong_offset", smp: 2, given: Given::Offset(0), status: 1,
        says: &["error: the image lies at 0x40200000, and runs only 0x80000 bytes above", "lazymmu: exit 1", "ended with status 1"], ..ON_ONE_CPU },
    Ending { name: "image_without_alignment", smp: 2, given: Given::Offset(0x8_0004), status: 1,
        says: &["error: the image lies at 0x40080004,", "lazymmu: exit 1", "ended with status 1"], ..ON_ONE_CPU },
    Ending { name: "another_cpu_enters_at_el3", smp: 2, given: Given::WithoutCpu0, status: 1,
        says: &["error: CPU 0x80000001 (MPIDR_EL1) has entered at EL3, where the boot CPU has affinity 0.0.0.0", "lazymmu: exit 1", "ended with status 1"], ..ON_ONE_CPU },
    Ending { name: "image_larger_than_memory", mebibytes: 3, given: Given::Loaded(Loaded::USUAL), status: 3,
        says: &["exception: vector 0x4 of EL1, where nothing handles it: elr 0x402*, esr 0x96000*, far 0x403", "lazymmu: exit 3", "the kernel met an unexpected exception"], ..ON_ONE_CPU },
    Ending { name: "another_cpu_boots", smp: 2, given: Given::Loaded(Loaded { boot_cpu: 1, ..Loaded::USUAL }), bootargs: "mode=selftest filter=smp.each*",
        says: &["2 of 2 CPUs are online", "fail:0", "lazymmu: exit 0"], ..ON_ONE_CPU },
    Ending { name: "x0_where_nothing_is", given: Given::Loaded(Loaded { x0: 0x70_0000_0000, tree_at: 0x4100_0000, ..Loaded::USUAL }), status: 1,
        says: &["error: no device tree: x0 was 0x7000000000", "lazymmu: exit 1", "ended with status 1"], ..ON_ONE_CPU },
    Ending { name: "tree_beyond_memory", given: Given::Loaded(Loaded { x0: 0x7fff_f000, tree_at: 0x7fff_f000, tree_size: Some(0x10_0000), ..Loaded::USUAL }), status: 1,
        says: &["error: the device tree at 0x7ffff000 says that it has 1048576 bytes, and the last of them cannot be read", "ended with status 1"], ..ON_ONE_CPU },
    Ending { name: "console_in_memory", given: Given::Loaded(Loaded { tree: Described { uart: 0x5000_0000, ..Described::USUAL }, ..Loaded::USUAL }), status: 1,
        says: &["error: the device tree puts the registers of the console, *, into memory", "ended with status 1"], ..ON_ONE_CPU },
    Ending { name: "console_in_memory_and_another_fault", given: Given::Loaded(Loaded { tree: Described { uart: 0x5000_0000, has_gic: false, ..Described::USUAL }, ..Loaded::USUAL }), status: 1,
        says: &["error: device tree has no interrupt controller the kernel knows", "ended with status 1"], ..ON_ONE_CPU },
    Ending { name: "console_where_nothing_is", given: Given::Loaded(Loaded { tree: Described { uart: 0x70_0000_0000, ..Described::USUAL }, ..Loaded::USUAL }), status: 1,
        says: &["error: nothing answers at 0x7000000000..0x7000001000, where the device tree has the console", "ended with status 1"], ..ON_ONE_CPU },
    Ending { name: "psci_by_smc_that_nobody_serves", smp: 2, given: Given::Loaded(Loaded { tree: Described { psci: "smc", ..Described::USUAL }, ..Loaded::USUAL }), bootargs: "mode=selftest filter=boot-arguments.*",
        says: &["CPU with affinity 0x1 stays off: the device tree says that PSCI is called by smc, which nobody serves here: it needs firmware at EL3", "1 of 2 CPUs are online", "lazymmu: exit 0"], ..ON_ONE_CPU },
    Ending { name: "cpus_that_never_come", given: Given::Loaded(Loaded { tree: Described { cpus: 4, spin_table: true, ..Described::USUAL }, ..Loaded::USUAL }), bootargs: "mode=selftest filter=boot-arguments.*",
        says: &["CPU with affinity 0x1 stays off: it was started and did not come", "CPU with affinity 0x2 stays off: it was started and did not come",
            "CPU with affinity 0x3 stays off: it was started and did not come", "1 of 4 CPUs are online", "lazymmu: exit 0"], ..ON_ONE_CPU },
    // Nothing implies a UART there, so the host alone hears of it.
    Ending { name: "raspi4b_image_at_a_wrong_offset", given: Given::Offset(0), status: 1,
        says: &["error: the image lies at 0x200000, and runs only 0x80000 bytes above", "lazymmu: exit 1"], ..ON_A_PI },
    Ending { name: "odd_device_tree", smp: 4, given: Given::TreeWithGicV3, bootargs: "mode=selftest filter=smp.an_interrupt_arrives_where_it_is_sent_and_only_there",
        says: &["warning: RAM at 0xc0000000..0x100000000 is stated by the device tree and is no memory: not used",
            "warning: device tree: a CPU is not started: device tree node /cpus, CPU 0x3: cpu-release-addr is 0x40090000, where the kernel's image lies",
            "info: an odd tree", "3 of 3 CPUs are online", "lazymmu: exit 0"], ..ON_ONE_CPU },
    // With the boot arguments of a board's firmware, and those of its usual cmdline.txt.
    Ending { name: "raspi4b_demo", bootargs: "coherent_pool=1M 8250.nr_uarts=1 snd_bcm2835.enable_headphones=0 cgroup_disable=memory numa_policy=interleave iommu_dma_numa_policy=interleave \
            smsc95xx.macaddr=02:00:00:00:00:00 vc_mem.mem_base=0x3ec00000 vc_mem.mem_size=0x40000000  \
            console=ttyS0,115200 console=tty1 root=/dev/mmcblk0p2 rootfstype=ext4 fsck.repair=yes rootwait",
        says: &["entered at EL2, image at 0x80000,", "meant for others and passed over: coherent_pool=1M 8250.nr_uarts=1 *fsck.repair=yes rootwait",
            "info: Raspberry Pi 4 Model B", "4 of 4 CPUs are online", "== 5.", "lazymmu: exit 0"], ..ON_A_PI },
    Ending { name: "raspi4b_with_atags", given: Given::NoTree, status: 1,
        says: &["error: no device tree: x0 was 0x100", "lazymmu: exit 1", "ended with status 1"], ..ON_A_PI },
    Ending { name: "raspi4b_entered_at_el3", given: Given::AtEl3, status: 1,
        says: &["error: no device tree: x0 was 0x0 *start the flat image kernel8.img, not the ELF file", "lazymmu: exit 1"], ..ON_A_PI },
];

/// Boots what the filter selects. `no_pi` says why there is no Raspberry Pi 4.
///
/// # Errors
///
/// When QEMU cannot be started at all, or a file cannot be written.
pub fn run(bench: &Bench<'_>, no_pi: Option<&str>) -> Result<Vec<Row>> {
    let name = |ending: &Ending| ending.name.to_owned();
    let mut row = bench.row(ROW, &ENDINGS, name, |name, ending| {
        match no_pi.is_some() && ending.board == Raspi4b {
            true => Ok(None),
            false => ending.problems(bench, name).map(Some),
        }
    })?;
    if let (Some(why), Some(row)) = (no_pi, &mut row)
        && row.skipped > 0
        && row.status == "ok"
    {
        row.status = format!("ok; left out: {why}");
    }
    Ok(row.into_iter().collect())
}

impl Ending {
    /// Boots, and says what is not as expected.
    fn problems(&self, bench: &Bench<'_>, name: &str) -> Result<Vec<String>> {
        if self.status != HUNG {
            return self.problems_within(60, bench, name);
        }
        // Half of it in silence is a hang. That is waited for, and a busy host may need more to
        // come to the one that is meant.
        let mut seconds = 6;
        loop {
            let problems = self.problems_within(seconds, bench, name)?;
            let is_early = problems.iter().any(|it| it.ends_with(self.says[0]));
            if !is_early || seconds >= 60 {
                return Ok(problems);
            }
            seconds *= 2;
        }
    }

    fn problems_within(&self, seconds: u64, bench: &Bench<'_>, name: &str) -> Result<Vec<String>> {
        let machine = self.machine();
        let folder = scratch::folder(bench.workspace)?;
        let image = &bench.artifacts.image;
        let bootargs = with_defaults(self.bootargs);
        let timeout = Duration::from_secs(seconds);
        let boot = Boot {
            input: self.given.input(folder.path(), image, &bootargs)?,
            ..Boot::new(&machine, self.bootargs, bench.artifacts, timeout)
        };
        let booted = bench.boot(name, &boot, bench.qemu, |_| ())?;
        let mut lines: Vec<&str> = booted.log.lines().collect();
        let failure = booted.outcome.verdict.failure();
        let status = failure.map_or(0, |failure| failure.status);
        // What did not come over the console: QEMU's messages, where a hang is.
        lines.extend(failure.iter().flat_map(|failure| failure.report.lines()));
        let mut problems = Vec::new();
        if status != self.status {
            problems.push(format!("ended with {status}, expected {}", self.status));
        }
        if let Some(missing) = said::first_missing(&lines, self.says) {
            problems.push(format!("did not say (in this place): {missing}"));
        }
        if let Some(second) = said::second_report(&lines) {
            problems.push(format!("a second CPU reports its end: {second}"));
        }
        if self.name == "demo" {
            problems.extend(said::differs_from_the_book(bench.workspace, &lines)?);
        }
        if !problems.is_empty() {
            let last = &lines[lines.len().saturating_sub(12)..];
            problems.extend(last.iter().map(|line| format!("| {line}")));
        }
        Ok(problems)
    }

    fn machine(&self) -> Machine {
        let usual = self.board.usual();
        Machine {
            smp: NonZeroU32::new(self.smp).unwrap_or(NonZeroU32::MIN),
            memory: Memory::mebibytes(self.mebibytes),
            el: match self.given {
                Given::AtEl3 | Given::WithoutCpu0 => ExceptionLevel::El3,
                _ => usual.el,
            },
            gic: match self.given {
                Given::TreeWithGicV3 => Gic::V3,
                _ => usual.gic,
            },
            ..usual
        }
    }
}
