// SPDX-License-Identifier: MIT OR Apache-2.0

//! The plugin (xtask/plugin) against programs whose counts are known by hand: one test each.

mod cases;
mod program;

use super::LAB;
use Expected::{Lines, Refusal};
use Machine::{El2, HostClock, OneThread, TwoThreads, Usual};
use anyhow::{Context, Result, ensure};
use program::{ISB, NOP, Program, id, load};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;
use xtask::console::Console;
use xtask::guest::{End, Guest, Limits};
use xtask::qemu::{Plugin, Qemu, option_of};
use xtask::scratch;
use xtask::windows::Windows;

/// For a program of a few instructions, on a busy host.
const LIMITS: Limits = Limits {
    silence: Duration::from_secs(60),
    total: Duration::from_secs(60),
};

static PLUGIN: LazyLock<Plugin> =
    LazyLock::new(|| Plugin::build(&LAB.workspace).expect("the plugin can be built"));

/// What is special about the machine; it is `virt` with the CPU `max` and `-icount`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Machine {
    /// Nothing.
    Usual,
    /// The host's clock.
    HostClock,
    /// The guest begins at EL2.
    El2,
    /// Two CPUs with a thread each.
    TwoThreads,
    /// Two CPUs in one thread.
    OneThread,
}

/// What comes of a program.
enum Expected {
    /// These windows, and these problems behind them.
    Lines(&'static [&'static str]),
    /// QEMU ends before the guest begins, and says this.
    Refusal(&'static str),
}

/// A test for each program: the machine, what writes the program, and what comes of it.
macro_rules! programs {
    ($($name:ident: $machine:expr, $write:expr, $expected:expr;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            ended_as($machine, $write, $expected)
        })*
    };
}

programs! {
    empty_window: Usual, |p| p.window(id(0, 0), &[]),
        Lines(&["op=0 pages=0 execution=1 vcpu=0 instructions=0"]);
    instructions: Usual, cases::instructions,
        Lines(&["op=1 pages=16 execution=1 vcpu=0 instructions=26"]);
    instructions_by_the_hosts_clock: HostClock, cases::instructions,
        Lines(&["op=1 pages=16 execution=1 vcpu=0 instructions=26"]);
    dsb: Usual, |p| cases::barriers(p, program::dsb),
        Lines(&["op=2 pages=1 execution=1 vcpu=0 instructions=78 dsb.ish=9 dsb.ishld=7 dsb.ishst=8 \
            dsb.ld=10 dsb.nsh=6 dsb.nshld=4 dsb.nshst=5 dsb.osh=3 dsb.oshld=1 dsb.oshst=2 dsb.st=11 dsb.sy=12"]);
    dmb: Usual, |p| cases::barriers(p, program::dmb),
        Lines(&["op=2 pages=1 execution=1 vcpu=0 instructions=78 dmb.ish=9 dmb.ishld=7 dmb.ishst=8 \
            dmb.ld=10 dmb.nsh=6 dmb.nshld=4 dmb.nshst=5 dmb.osh=3 dmb.oshld=1 dmb.oshst=2 dmb.st=11 dmb.sy=12"]);
    isb: Usual, |p| p.window(id(3, 1), &[ISB, NOP, ISB, ISB]),
        Lines(&["op=3 pages=1 execution=1 vcpu=0 instructions=4 isb=3"]);
    tlbi: Usual, cases::invalidations,
        Lines(&["op=4 pages=1 execution=1 vcpu=0 instructions=66 tlbi.aside1is=3 tlbi.rvaale1is=10 \
            tlbi.rvae1is=9 tlbi.vaae1is=4 tlbi.vaale1is=6 tlbi.vae1=8 tlbi.vae1is=2 tlbi.vale1is=5 \
            tlbi.vmalle1=1 tlbi.vmalle1is=7 tlbi.vmalle1os=11"]);
    flush_in_a_loop: Usual, cases::flush_in_a_loop,
        Lines(&["op=10 pages=300 execution=1 vcpu=0 instructions=905 dsb.ish=1 dsb.ishst=1 \
            tlbi.vaale1is=300 isb=1"]);
    exceptions: Usual, cases::exceptions,
        Lines(&["op=5 pages=1 execution=1 vcpu=0 instructions=7 eret=3 exceptions=3"]);
    exceptions_at_el2: El2, cases::exceptions_at_el2,
        Lines(&["op=5 pages=2 execution=1 vcpu=0 instructions=7 tlbi.alle1is=1 tlbi.vae2is=1 \
            tlbi.vmalls12e1is=1 eret=2 exceptions=2"]);
    el0_and_back: Usual, cases::el0_and_back,
        Lines(&["op=6 pages=2 execution=1 vcpu=0 instructions=3",
            "op=6 pages=1 execution=1 vcpu=0 instructions=13 eret=1 exceptions=1"]);
    // The load is tried, fails, and is executed.
    fault: Usual, cases::fault,
        Lines(&["op=5 pages=3 execution=1 vcpu=0 instructions=6 eret=1 exceptions=1"]);
    fault_by_the_hosts_clock: HostClock, cases::fault,
        Lines(&["op=5 pages=3 execution=1 vcpu=0 instructions=6 eret=1 exceptions=1"]);
    interrupt: Usual, cases::interrupt,
        Lines(&["op=5 pages=4 execution=1 vcpu=0 instructions=6 isb=1 eret=1 exceptions=1"]);
    // With -icount QEMU begins a block anew that has such a load in its middle.
    device_register: Usual, |p| { p.set(4, cases::UART); p.window(id(7, 1), &[NOP, load(5, 4), NOP, NOP]); },
        Lines(&["op=7 pages=1 execution=1 vcpu=0 instructions=4"]);
    // Sets x0 twice on the way, by two instructions each time; the markers do not count.
    nested: Usual, cases::nested,
        Lines(&["op=2 pages=0 execution=1 vcpu=0 instructions=2 isb=1",
            "op=1 pages=0 execution=1 vcpu=0 instructions=8 isb=1"]);
    executed_again: Usual, cases::executed_again,
        Lines(&["op=8 pages=1 execution=1 vcpu=0 instructions=1", "op=8 pages=1 execution=2 vcpu=0 instructions=1",
            "op=8 pages=1 execution=3 vcpu=0 instructions=1"]);
    forget: Usual, cases::forget,
        Lines(&["op=8 pages=1 execution=1 vcpu=0 instructions=2"]);
    // What was reported cannot be forgotten.
    report: Usual, cases::report,
        Lines(&["op=8 pages=1 execution=1 vcpu=0 instructions=1", "op=8 pages=1 execution=1 vcpu=0 instructions=2"]);
    unpaired: Usual, |p| { p.set(0, id(9, 1)); p.add(&[program::END]); p.begin(id(9, 2)); },
        Lines(&["window 0x9000001 (op 9, 1 pages) ended here, where it had not begun",
            "window 0x9000002 (op 9, 2 pages) began here and did not end"]);
    two_cpus: TwoThreads, cases::two_cpus,
        Lines(&["op=4 pages=1 execution=1 vcpu=1 instructions=3 isb=1", "op=4 pages=1 execution=2 vcpu=0 instructions=5"]);
    two_cpus_in_one_thread: OneThread, cases::two_cpus,
        Refusal("several CPUs in one thread");
}

/// Runs a program and compares what came of it.
fn ended_as(machine: Machine, write: fn(&mut Program), expected: Expected) -> Result<()> {
    let scratch = scratch::folder(&LAB.workspace)?;
    let (image, out) = (scratch.path().join("program"), scratch.path().join("out"));
    let mut program = Program::new();
    write(&mut program);
    fs::write(&image, program.bytes())
        .with_context(|| format!("cannot write {}", image.display()))?;
    let command = command(machine, &PLUGIN.given_to(&LAB.qemu, &out), &image);
    let mut console = Console::default();
    let ended =
        Guest::start(command)?.supervise(Some(LIMITS), &mut console, |_| {}, |_| Vec::new())?;
    let code = match &ended.end {
        End::Exited(status) => status.code(),
        End::Hung(_) | End::Halted | End::Interrupted => None,
    };
    match expected {
        Lines(expected) => {
            ensure!(code == Some(0), "the guest did not end well: {ended:?}");
            let counted = Windows::read(&out)?;
            let windows = counted.windows.iter().map(ToString::to_string);
            let counted: Vec<String> = windows.chain(counted.problems.iter().cloned()).collect();
            assert_eq!(counted, expected);
        }
        Refusal(why) => ensure!(
            code == Some(1) && ended.stderr.contains(why),
            "expected a refusal, {why}, and not {ended:?}"
        ),
    }
    Ok(())
}

fn command(machine: Machine, qemu: &Qemu, image: &Path) -> Command {
    let board = match machine {
        El2 => "virt,virtualization=on",
        _ => "virt",
    };
    let cpus = match machine {
        TwoThreads | OneThread => "2",
        _ => "1",
    };
    let mut command = qemu.command();
    command.args(["-machine", board, "-cpu", "max", "-smp", cpus, "-m", "128M"]);
    if !matches!(machine, HostClock | TwoThreads) {
        command.args(["-icount", "shift=0,sleep=off"]);
    }
    command.args(["-nodefaults", "-display", "none"]);
    command.args(["-semihosting-config", "enable=on,target=native"]);
    // Not by -kernel: nothing is to be executed in front of it.
    let address = program::ADDRESS;
    let loader = format!("loader,addr={address:#x},cpu-num=0,force-raw=on,file=");
    command.arg("-device").arg(option_of(&loader, image));
    command
}
