// SPDX-License-Identifier: MIT OR Apache-2.0

//! Boots whose end is the test: the demonstration, refused input, panic,
//! exception, overflow, hang; and on a Raspberry Pi 4 what its firmware may do.
//!
//! Each must end with its status and say what it should on the way. The
//! demonstration must also print what docs/demonstration.md shows.

use super::boots::Bench;
use super::odd::{Files, Loaded, Odd};
use super::odd_tree;
use super::summary::{Failed, Row};
use crate::failure;
use crate::glob;
use crate::guest;
use crate::qemu::Input;
use crate::qemu::boot::{Watch, with_defaults};
use crate::qemu::machine::Board::{self, Raspi4b, Virt};
use crate::qemu::machine::{ExceptionLevel, Gic, Memory};
use crate::qemu::{Boot, Machine, Verdict};
use crate::run::again;
use anyhow::{Context, Result};
use std::fs;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::{Duration, Instant};
use vm_fdt::FdtWriter;

/// Name of the row, and first part of the names of its tests.
const ROW: &str = "endings";

/// Where the transcript of docs/demonstration.md begins.
const TRANSCRIPT: &str = "<!-- transcript: cargo xtask run -->\n```text\n";

/// What the kernel is given in place of a device tree that is in order.
#[derive(Clone, Copy)]
enum Tree {
    /// QEMU's own.
    Usual,
    /// None.
    Missing,
    /// None, and the ELF file at EL3.
    MissingAtEl3,
    /// One that says nothing but how addresses are written.
    Bare,
    /// Something odd: an image at a wrong place, a tree that lies.
    Odd(Odd),
    /// One that is read, with a GICv3.
    WithGicV3,
}

/// A boot and how it must end.
struct Ending {
    name: &'static str,
    board: Board,
    smp: u32,
    mebibytes: u32,
    tree: Tree,
    bootargs: &'static str,
    status: u8,
    /// What must be on the console, or in QEMU's messages, in this order; * stands for any
    /// characters of a line.
    says: &'static [&'static str],
}

const GIB: u32 = 1024;

#[rustfmt::skip]
const ENDINGS: [Ending; 40] = [
    Ending { name: "demo", board: Virt, smp: 2, mebibytes: GIB, tree: Tree::Usual, bootargs: "", status: 0,
        says: &["== 1.", "== 2.", "65536  lazy, range known", "== 3.", "== 4.", "== 5.", "moves to CPU 1 and back", "lazymmu: exit 0"] },
    Ending { name: "demo_in_little_memory", board: Virt, smp: 1, mebibytes: 128, tree: Tree::Usual, bootargs: "", status: 0,
        says: &["RAM is too small for 65536 different frames", "There is one CPU: with --smp 2", "lazymmu: exit 0"] },
    Ending { name: "panic", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=panic", status: 2,
        says: &["panic: provoked", "at kernel/src/selftest/provoke.rs:", "0 interrupts deep", "backtrace:",
            "provoke::run::{{closure}}", "provoke::outer", "provoke::run", "kernel_main at", "lazymmu: exit 2"] },
    Ending { name: "panic_elsewhere", board: Virt, smp: 4, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=panic-elsewhere", status: 2,
        says: &["4 of 4 CPUs are online", "registered: Ok(())", "panic: provoked by another CPU", "at kernel/src/selftest/provoke.rs:",
            "  CPU *, 1 interrupts deep", "backtrace:", "provoke::panic_on_the_other_cpus", "secondary_cpu", "lazymmu: exit 2"] },
    Ending { name: "exception", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=exception", status: 3,
        says: &["exception: data abort from EL1, translation fault at level 0, write, at 0xffff80",
            "in the vmap area; level 0: invalid", "backtrace:", "write_to_an_unmapped_page",
            "provoke::outer", "provoke::run", "kernel_main at", "lazymmu: exit 3"] },
    Ending { name: "jump", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=jump", status: 3,
        says: &["exception: instruction abort from EL1, translation fault at level 0, instruction fetch, at 0xffff80",
            "in the vmap area; level 0: invalid", "  jumped to 0xffff80", "backtrace:", "  #0 0xffff80",
            "  #1 0x*provoke::jump_to_an_unmapped_page", "  #2 0x*provoke::outer", "provoke::run", "kernel_main at", "lazymmu: exit 3"] },
    Ending { name: "stack_overflow", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=stack-overflow", status: 3,
        says: &["exception: kernel stack overflow: SP 0xffffffff80", "  found by: exception: data abort from EL1, translation fault at level 3, write",
            "guard page below the boot stack", "backtrace:", "  #0 0x*provoke::recurse at", "  #1 0x*provoke::recurse at", "... more than 32 frames",
            "lazymmu: exit 3"] },
    Ending { name: "stack_overflow_of_a_task", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=task-overflow", status: 3,
        says: &["exception: kernel stack overflow: SP 0xffffa0", "  found by: exception: data abort from EL1, translation fault at level 3, write",
            "CPU 0, task deep, 0 interrupts deep", "among the stacks of tasks", "backtrace:", "  #0 0x*provoke::recurse at", "lazymmu: exit 3"] },
    Ending { name: "sleep_in_a_section", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=sleep-in-section", status: 2,
        says: &["in a section: Ok(())", "panic: task main would sleep in a lazy MMU section, 1 deep, opened at kernel/src/selftest/provoke.rs:*that backend defer-stores keeps on its CPU",
            "at kernel/src/selftest/provoke.rs:", "CPU 0, task main, 0 interrupts deep",
            "provoke::sleep_in_a_section", "lazymmu: exit 2"] },
    Ending { name: "lock_in_an_interrupt", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=lock-in-interrupt", status: 2,
        says: &["panic: an interrupt handler asked for the kernel's address space", "1 interrupts deep", "backtrace:",
            "kernel_space::lock", "exception_handler", "exception_save", "provoke::lock_in_an_interrupt",
            "provoke::outer", "kernel_main at", "lazymmu: exit 2"] },
    Ending { name: "hang", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=hang", status: failure::HUNG,
        says: &["provoking: Hang", "the guest hangs", "provoke::"] },
    Ending { name: "litmus", board: Virt, smp: 2, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=litmus iterations=100", status: 0,
        says: &["no barrier * 0 / 100", "dsb ishst + isb * 0 / 100", "eager * 0 / 100", "lazy, section ended * 0 / 100",
            "hw-only: QEMU has no store buffer, so these zeros mean nothing", "Cycles are not shown: under QEMU", "lazymmu: exit 0"] },
    Ending { name: "unknown_argument", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "lasy=eager", status: 1,
        says: &["error: boot argument 'lasy' is not known; allowed are mode="] },
    Ending { name: "bad_value", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "lazy=later", status: 1,
        says: &["error: boot argument lazy='later' is not allowed: use lazy=eager|"] },
    Ending { name: "word_without_value", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "quiet", status: 1,
        says: &["error: boot argument 'quiet' has no value"] },
    Ending { name: "policy_the_cpu_lacks", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "policy=ets2", status: 1,
        says: &["error: barrier policy ets2 needs FEAT_ETS2"] },
    Ending { name: "filter_without_tests", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=selftest filter=no.such", status: 1,
        says: &["error: no self-test matches filter=no.such"] },
    Ending { name: "counts_without_a_counter", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=counts", status: 1,
        says: &["error: a loop of 20000 instructions took * ticks of the timer, and one of twice as many took *. The timer counts *use cargo xtask counts"] },
    Ending { name: "too_little_memory", board: Virt, smp: 1, mebibytes: 32, tree: Tree::Usual, bootargs: "", status: 1,
        says: &["KiB of memory are usable, the kernel needs", "--memory 128M"] },
    Ending { name: "no_device_tree", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Missing, bootargs: "", status: 1,
        says: &["error: no device tree: x0 was 0x0", "lazymmu: exit 1", "no device tree: x0 was 0x0 *(the kernel's error; it ended with status 1)"] },
    Ending { name: "bare_device_tree", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Bare, bootargs: "", status: 1,
        says: &["error: device tree has no interrupt controller the kernel knows"] },
    // On the console, and not only to the host: then the status comes from what the kernel has announced there.
    Ending { name: "control_characters", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "mode=\u{1b}[31mred\u{7}\u{9b}x", status: 1,
        says: &[r"error: boot argument mode='\u{1b}[31mred\u{7}\u{9b}x' is not allowed", "ended with status 1"] },
    Ending { name: "control_characters_in_the_log", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Usual, bootargs: "\u{1b}]0;title\u{7} lazymmu mode=selftest filter=boot-arguments.*", status: 0,
        says: &[r"passed over: \u{1b}]0;title\u{7}", "lazymmu: exit 0"] },
    Ending { name: "image_at_a_wrong_offset", board: Virt, smp: 2, mebibytes: GIB, tree: Tree::Odd(Odd::Offset(0)), bootargs: "", status: 1,
        says: &["error: the image lies at 0x40200000, and runs only 0x80000 bytes above", "lazymmu: exit 1", "ended with status 1"] },
    Ending { name: "image_without_alignment", board: Virt, smp: 2, mebibytes: GIB, tree: Tree::Odd(Odd::Offset(0x8_0004)), bootargs: "", status: 1,
        says: &["error: the image lies at 0x40080004,", "lazymmu: exit 1", "ended with status 1"] },
    Ending { name: "another_cpu_enters_at_el3", board: Virt, smp: 2, mebibytes: GIB, tree: Tree::Odd(Odd::WithoutCpu0), bootargs: "", status: 1,
        says: &["error: CPU 0x80000001 (MPIDR_EL1) has entered at EL3, where the boot CPU has affinity 0.0.0.0", "lazymmu: exit 1", "ended with status 1"] },
    Ending { name: "image_larger_than_memory", board: Virt, smp: 1, mebibytes: 3, tree: Tree::Odd(Odd::Loaded(Loaded::USUAL)), bootargs: "", status: 3,
        says: &["exception: vector 0x4 of EL1, where nothing handles it: elr 0x402*, esr 0x96000*, far 0x403", "lazymmu: exit 3", "the kernel met an unexpected exception"] },
    Ending { name: "another_cpu_boots", board: Virt, smp: 2, mebibytes: GIB, tree: Tree::Odd(Odd::Loaded(Loaded { boot_cpu: 1, ..Loaded::USUAL })),
        bootargs: "mode=selftest filter=smp.each*", status: 0, says: &["2 of 2 CPUs are online", "fail:0", "lazymmu: exit 0"] },
    Ending { name: "x0_where_nothing_is", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Odd(Odd::Loaded(Loaded { x0: 0x70_0000_0000, tree_at: 0x4100_0000, ..Loaded::USUAL })),
        bootargs: "", status: 1, says: &["error: no device tree: x0 was 0x7000000000", "lazymmu: exit 1", "ended with status 1"] },
    Ending { name: "tree_beyond_memory", board: Virt, smp: 1, mebibytes: GIB,
        tree: Tree::Odd(Odd::Loaded(Loaded { x0: 0x7fff_f000, tree_at: 0x7fff_f000, tree_size: Some(0x10_0000), ..Loaded::USUAL })),
        bootargs: "", status: 1, says: &["error: the device tree at 0x7ffff000 says that it has 1048576 bytes, and the last of them cannot be read", "ended with status 1"] },
    Ending { name: "console_in_memory", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Odd(Odd::Loaded(Loaded { uart: 0x5000_0000, ..Loaded::USUAL })),
        bootargs: "", status: 1, says: &["error: the device tree puts the registers of the console, *, into memory", "ended with status 1"] },
    Ending { name: "console_in_memory_and_another_fault", board: Virt, smp: 1, mebibytes: GIB,
        tree: Tree::Odd(Odd::Loaded(Loaded { uart: 0x5000_0000, has_gic: false, ..Loaded::USUAL })),
        bootargs: "", status: 1, says: &["error: device tree has no interrupt controller the kernel knows", "ended with status 1"] },
    Ending { name: "console_where_nothing_is", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Odd(Odd::Loaded(Loaded { uart: 0x70_0000_0000, ..Loaded::USUAL })),
        bootargs: "", status: 1, says: &["error: nothing answers at 0x7000000000..0x7000001000, where the device tree has the console", "ended with status 1"] },
    Ending { name: "psci_by_smc_that_nobody_serves", board: Virt, smp: 2, mebibytes: GIB, tree: Tree::Odd(Odd::Loaded(Loaded { psci: "smc", ..Loaded::USUAL })),
        bootargs: "mode=selftest filter=boot-arguments.*", status: 0,
        says: &["CPU with affinity 0x1 stays off: the device tree says that PSCI is called by smc, which nobody serves here: it needs firmware at EL3", "1 of 2 CPUs are online", "lazymmu: exit 0"] },
    Ending { name: "cpus_that_never_come", board: Virt, smp: 1, mebibytes: GIB, tree: Tree::Odd(Odd::Loaded(Loaded { cpus: 4, spin_table: true, ..Loaded::USUAL })),
        bootargs: "mode=selftest filter=boot-arguments.*", status: 0,
        says: &["CPU with affinity 0x1 stays off: it was started and did not come", "CPU with affinity 0x2 stays off: it was started and did not come",
            "CPU with affinity 0x3 stays off: it was started and did not come", "1 of 4 CPUs are online", "lazymmu: exit 0"] },
    // Nothing implies a UART there, so the host alone hears of it.
    Ending { name: "raspi4b_image_at_a_wrong_offset", board: Raspi4b, smp: 4, mebibytes: 2 * GIB, tree: Tree::Odd(Odd::Offset(0)), bootargs: "", status: 1,
        says: &["error: the image lies at 0x200000, and runs only 0x80000 bytes above", "lazymmu: exit 1"] },
    Ending { name: "odd_device_tree", board: Virt, smp: 4, mebibytes: GIB, tree: Tree::WithGicV3, status: 0,
        bootargs: "mode=selftest filter=smp.an_interrupt_arrives_where_it_is_sent_and_only_there",
        says: &["warning: RAM at 0xc0000000..0x100000000 is stated by the device tree and is no memory: not used",
            "warning: device tree: a CPU is not started: device tree node /cpus, CPU 0x3: cpu-release-addr is 0x40090000, where the kernel's image lies",
            "info: an odd tree", "3 of 3 CPUs are online", "lazymmu: exit 0"] },
    // With the boot arguments of a board's firmware, and those of its usual cmdline.txt.
    Ending { name: "raspi4b_demo", board: Raspi4b, smp: 4, mebibytes: 2 * GIB, tree: Tree::Usual, status: 0,
        bootargs: "coherent_pool=1M 8250.nr_uarts=1 snd_bcm2835.enable_headphones=0 cgroup_disable=memory numa_policy=interleave iommu_dma_numa_policy=interleave \
            smsc95xx.macaddr=02:00:00:00:00:00 vc_mem.mem_base=0x3ec00000 vc_mem.mem_size=0x40000000  \
            console=ttyS0,115200 console=tty1 root=/dev/mmcblk0p2 rootfstype=ext4 fsck.repair=yes rootwait",
        says: &["entered at EL2, image at 0x80000,", "meant for others and passed over: coherent_pool=1M 8250.nr_uarts=1 *fsck.repair=yes rootwait",
            "info: Raspberry Pi 4 Model B", "4 of 4 CPUs are online", "== 5.", "lazymmu: exit 0"] },
    Ending { name: "raspi4b_with_atags", board: Raspi4b, smp: 4, mebibytes: 2 * GIB, tree: Tree::Missing, bootargs: "", status: 1,
        says: &["error: no device tree: x0 was 0x100", "lazymmu: exit 1", "ended with status 1"] },
    Ending { name: "raspi4b_entered_at_el3", board: Raspi4b, smp: 4, mebibytes: 2 * GIB, tree: Tree::MissingAtEl3, bootargs: "", status: 1,
        says: &["error: no device tree: x0 was 0x0 *start the flat image kernel8.img, not the ELF file", "lazymmu: exit 1"] },
];

/// Boots them one after the other; nothing comes back when the filter selects none. `no_pi` says why
/// there is no Raspberry Pi 4.
///
/// # Errors
///
/// When QEMU cannot be started at all, or a file cannot be written.
pub fn run(bench: &Bench<'_>, no_pi: Option<&str>) -> Result<Option<Row>> {
    let selected = |ending: &&Ending| bench.selects(&format!("{ROW}.{}", ending.name));
    let mut row = Row::new(ROW);
    let start = Instant::now();
    let write = |name: &str, tree: Vec<u8>| {
        let path = bench.workspace.target().join(name);
        fs::create_dir_all(bench.workspace.target())
            .and_then(|()| fs::write(&path, tree))
            .with_context(|| format!("cannot write {}", path.display()))?;
        anyhow::Ok(path)
    };
    let bare = write("bare.dtb", bare_tree()?)?;
    let odd = write("with-gicv3.dtb", odd_tree::blob()?)?;
    for ending in ENDINGS.iter().filter(selected) {
        if guest::interrupted() {
            break;
        }
        if no_pi.is_some() && ending.board == Raspi4b {
            row.skipped += 1;
            continue;
        }
        match ending.boot(bench, [&bare, &odd])? {
            None => row.passed += 1,
            Some(failed) => row.fail(failed),
        }
    }
    row.seconds = start.elapsed().as_secs_f64();
    if row.passed + row.failed + row.skipped == 0 {
        return Ok(None);
    }
    if let (Some(why), "ok", 1..) = (no_pi, row.status.as_str(), row.skipped) {
        row.status = format!("ok; left out: {why}");
    }
    bench.progress.suspend(|| println!("{}", row.line()));
    Ok(Some(row))
}

impl Ending {
    /// Boots; a failure comes back if it ends in another way.
    fn boot(&self, bench: &Bench<'_>, [bare, odd_tree]: [&Path; 2]) -> Result<Option<Failed>> {
        if self.status != failure::HUNG {
            return self.boot_within(60, bench, [bare, odd_tree]);
        }
        // Half of it in silence is a hang. That is waited for, and a busy host may need more to come to the one
        // that is meant.
        let mut seconds = 6;
        loop {
            match self.boot_within(seconds, bench, [bare, odd_tree])? {
                Some(failed)
                    if seconds < 60
                        && failed.detail.iter().any(|it| it.ends_with(self.says[0])) =>
                {
                    seconds *= 2;
                }
                ended => return Ok(ended),
            }
        }
    }

    fn boot_within(
        &self,
        seconds: u64,
        bench: &Bench<'_>,
        [bare, odd_tree]: [&Path; 2],
    ) -> Result<Option<Failed>> {
        let name = format!("{ROW}.{}", self.name);
        let usual = self.board.usual();
        let machine = Machine {
            smp: NonZeroU32::new(self.smp).unwrap_or(NonZeroU32::MIN),
            memory: Memory::mebibytes(self.mebibytes),
            el: match self.tree {
                Tree::MissingAtEl3 | Tree::Odd(Odd::WithoutCpu0) => ExceptionLevel::El3,
                Tree::Usual | Tree::Missing | Tree::Bare | Tree::Odd(_) | Tree::WithGicV3 => {
                    usual.el
                }
            },
            gic: match self.tree {
                Tree::WithGicV3 => Gic::V3,
                _ => usual.gic,
            },
            ..usual
        };
        let repeat = again(&machine.options(), self.bootargs);
        let odd = match self.tree {
            Tree::Odd(odd) => {
                let bootargs = with_defaults(self.bootargs);
                let target = bench.workspace.target();
                Some(odd.write(target, &bench.artifacts.image, &bootargs)?)
            }
            _ => None,
        };
        let boot = Boot {
            machine: &machine,
            bootargs: self.bootargs,
            artifacts: bench.artifacts,
            input: match self.tree {
                Tree::Usual | Tree::MissingAtEl3 => Input::Usual,
                Tree::Missing if self.board == Raspi4b => Input::NoTree,
                Tree::Missing => Input::Elf,
                Tree::Bare => Input::Tree(bare),
                Tree::Odd(_) => odd.as_ref().map_or(Input::Usual, Files::input),
                Tree::WithGicV3 => Input::Tree(odd_tree),
            },
            watch: Watch::Timeout(Duration::from_secs(seconds)),
            again: repeat.clone(),
        };
        let mut lines = Vec::new();
        let outcome = boot.run(bench.workspace, bench.qemu, |line| {
            // Several lines for one where the backtrace shows inlined functions.
            lines.extend(line.split('\n').map(str::to_owned));
        })?;
        bench.keep(&name, &(lines.join("\n") + "\n"))?;
        let status = match &outcome.verdict {
            Verdict::Success => 0,
            Verdict::Failed(failure) | Verdict::Broken(failure) => {
                // What did not come over the console: QEMU's messages, where a hang is.
                lines.extend(failure.report.lines().map(str::to_owned));
                failure.status
            }
        };
        let mut problems = Vec::new();
        if status != self.status {
            problems.push(format!("ended with {status}, expected {}", self.status));
        }
        if let Some(missing) = first_missing(&lines, self.says) {
            problems.push(format!("did not say (in this place): {missing}"));
        }
        if let Some(second) = second_report(&lines) {
            problems.push(format!("a second CPU reports its end: {second}"));
        }
        if self.name == "demo" {
            problems.extend(differs_from_the_book(bench, &lines)?);
        }
        if problems.is_empty() {
            return Ok(None);
        }
        problems.extend(
            lines
                .iter()
                .rev()
                .take(12)
                .rev()
                .map(|line| format!("| {line}")),
        );
        let mut failed = Failed::new(&name, problems);
        if matches!(self.tree, Tree::Usual | Tree::MissingAtEl3) {
            failed.again = format!("again: {repeat}");
        }
        Ok(Some(failed))
    }
}

/// The first of `wanted` that no line has after the lines of those before it.
fn first_missing<'w>(lines: &[String], wanted: &[&'w str]) -> Option<&'w str> {
    let mut rest = lines.iter();
    wanted
        .iter()
        .find(|text| {
            let pattern = format!("*{text}*");
            !rest.any(|line| glob::matches(&pattern, line))
        })
        .copied()
}

/// The first line of a second report: reports of one CPU in another one say so. Before it has a console, the kernel reports
/// on the UART and to the host, in the same words.
fn second_report(lines: &[String]) -> Option<&str> {
    let mut reports = lines
        .iter()
        .filter(|line| line.starts_with("panic: ") || line.starts_with("exception: "))
        .filter(|line| !line.ends_with("while reporting"))
        .map(String::as_str);
    let first = reports.next()?;
    reports.find(|line| *line != first)
}

/// Compares the demonstration with the transcript of docs/demonstration.md.
fn differs_from_the_book(bench: &Bench<'_>, lines: &[String]) -> Result<Option<String>> {
    let path = bench.workspace.root().join("docs/demonstration.md");
    let book =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some(transcript) = book
        .split_once(TRANSCRIPT)
        .and_then(|(_, rest)| rest.split_once("\n```"))
    else {
        return Ok(Some("docs/demonstration.md has no transcript".to_owned()));
    };
    let mut shown = transcript.0.lines().map(comparable);
    let mut printed = lines.iter().map(|line| comparable(line));
    loop {
        match (shown.next(), printed.next()) {
            (None, None) => return Ok(None),
            (shown, printed) if shown == printed => {}
            (shown, printed) => {
                return Ok(Some(format!(
                    "docs/demonstration.md is not what `cargo xtask run` prints (scripts/update-demonstration.sh mends that):\n  there:   {}\n  printed: {}",
                    shown.unwrap_or_default(),
                    printed.unwrap_or_default()
                )));
            }
        }
    }
}

/// A line without what differs from build to build: the time in front of it, and addresses.
fn comparable(line: &str) -> String {
    let line = match line.split_once("] ") {
        Some((time, rest)) if time.starts_with('[') => rest,
        _ => line,
    };
    let mut words = line.split("0x");
    let mut result = words.next().unwrap_or_default().to_owned();
    for word in words {
        let end = word
            .find(|c: char| !c.is_ascii_hexdigit())
            .unwrap_or(word.len());
        result.push_str("0x*");
        result.push_str(&word[end..]);
    }
    result
}

/// A flattened device tree (Devicetree Specification, chapter 5) whose root has
/// nothing but its cell counts.
fn bare_tree() -> Result<Vec<u8>> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.end_node(root)?;
    Ok(tree.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_what_is_said_matters() {
        let lines = ["a b", "c", "d"].map(str::to_owned);
        assert_eq!(first_missing(&lines, &["b", "c", "d"]), None);
        assert_eq!(first_missing(&lines, &["c", "b"]), Some("b"));
        assert_eq!(first_missing(&lines, &["e"]), Some("e"));
        assert_eq!(first_missing(&lines, &["a*b", "d"]), None);
        assert_eq!(first_missing(&lines, &["a*c"]), Some("a*c"));
    }

    #[test]
    fn one_report_is_enough() {
        let lines = [
            "panic: a",
            "  CPU 1",
            "exception: b, while reporting",
            "exception: c",
            "panic: d",
        ]
        .map(str::to_owned);
        assert_eq!(second_report(&lines), Some("exception: c"));
        assert_eq!(second_report(&lines[..3]), None);
    }

    #[test]
    fn times_and_addresses_do_not_count() {
        assert_eq!(
            comparable("[    0.013] info: at 0x40080000, 12 pages"),
            "info: at 0x*, 12 pages"
        );
        assert_eq!(comparable("  0x0060 -> 0xffff: x"), "  0x* -> 0x*: x");
        assert_ne!(comparable("12 DSB"), comparable("13 DSB"));
    }

    #[test]
    fn bare_tree_has_the_size_it_says() {
        let blob = bare_tree().expect("the tree is well-formed");
        assert_eq!(blob[..4], [0xd0, 0x0d, 0xfe, 0xed]);
        assert_eq!(blob[4..8], (blob.len() as u32).to_be_bytes());
    }
}
