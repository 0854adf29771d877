// SPDX-License-Identifier: GPL-2.0-or-later

//! A QEMU plugin that counts what an arm64 guest executes between two markers: instructions, DSB and
//! DMB by domain and type, ISB, TLBI by operation, ERET, and exceptions taken.
//!
//! ```text
//! qemu-system-aarch64 -plugin libplugin.so,out=windows.jsonl ...
//! ```
//!
//! The guest says what is of interest by hints that no extension has taken, so that every CPU
//! executes them as NOPs, at every exception level ([`Marker`]). Windows nest. Each that ends is one
//! line of JSON in the file `out`:
//!
//! ```text
//! {"id":134217732,"op":8,"pages":4,"execution":1,"vcpu":0,"instructions":338,"dsb":{"ishst":1},
//!  "dmb":{},"tlbi":{},"isb":1,"eret":0,"exceptions":0}
//! ```
//!
//! # What is counted, and when
//!
//! - Each instruction is counted by an inline addition of its own when it is attempted: one that faults
//!   is counted, and again when it is executed after the fault. (An addition for a whole block at its
//!   start would be wrong, because a fault leaves a block in its middle.) Markers are not counted.
//! - All counts run all the time; a window takes their difference. So an instruction costs the same in
//!   a window and outside.
//! - *Exceptions*: version 4 of the plugin interface does not report them. They are counted where
//!   they arrive: a block that begins at one of the 16 vectors (`VBAR_ELx` of the level at which it is
//!   executed, plus n x 0x80) is an exception taken to that level. A branch to
//!   a vector's first instruction is counted, too; a call that QEMU itself answers (PSCI) is not.
//! - Encodings are those of A64. A guest that executes AArch32 code has its instructions counted, and some of
//!   them may look like barriers.
//!
//! # CPUs
//!
//! Counts and windows belong to a CPU: a window ends on the CPU on which it began. Where several share
//! a thread (`-icount`, or `thread=single`), QEMU 10.0 crashes, and if it did not, would name the wrong
//! one, because the number of the CPU is translated into blocks that all of them execute. The plugin
//! refuses that. One CPU with `-icount` is right, and so are several with a thread each.

pub mod decode;
mod vcpu;
pub mod windows;

use decode::{EXCEPTIONS, INSTRUCTIONS, Marker};
use qemu_plugin::install::{Args, Info};
use qemu_plugin::sys::qemu_plugin_tb;
use qemu_plugin::{
    CallbackFlags, HasCallbacks, Instruction, PluginId, Register, Result, TranslationBlock,
    VCPUIndex, qemu_plugin_register_atexit_cb, qemu_plugin_register_vcpu_init_cb,
    qemu_plugin_register_vcpu_tb_trans_cb, register,
};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::process;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use vcpu::{Board, Registers};
use windows::Windows;

/// Bytes between two exception vectors, and bytes of all 16.
const VECTOR: u64 = 0x80;
const VECTORS: u64 = 16 * VECTOR;

/// What QEMU creates when it loads the plugin.
struct Plugin;

register!(Plugin);

impl HasCallbacks for Plugin {}

impl Register for Plugin {
    fn register_default(&mut self, id: PluginId, args: &Args, info: &Info) -> Result<()> {
        if info.target_name != "aarch64" || info.system.is_none() {
            refuse("it counts what qemu-system-aarch64 executes, nothing else");
        }
        let path = match args.raw.as_slice() {
            [one] => one.strip_prefix("out="),
            _ => None,
        };
        let Some(path) = path else {
            refuse("it needs out=FILE, and takes nothing else");
        };
        let out = File::create(path)
            .unwrap_or_else(|error| refuse(&format!("cannot create {path}: {error}")));
        let _ = BOARD.set(Board::new());
        state().out = Some((out, path.to_owned()));
        qemu_plugin_register_vcpu_init_cb(id, Some(on_cpu))?;
        qemu_plugin_register_vcpu_tb_trans_cb(id, Some(on_block))?;
        qemu_plugin_register_atexit_cb(id, |_| {
            let mut state = state();
            let report = state.windows.finish();
            state.write(&report);
        })
    }
}

/// The counts of every CPU, which the translated code adds to.
static BOARD: OnceLock<Board> = OnceLock::new();
/// Everything else.
static STATE: Mutex<State> = Mutex::new(State {
    windows: Windows::NONE,
    cpus: BTreeMap::new(),
    out: None,
});

struct State {
    windows: Windows,
    cpus: BTreeMap<VCPUIndex, Registers>,
    /// Where it writes, and the name of that.
    out: Option<(File, String)>,
}

impl State {
    fn write(&mut self, report: &str) {
        let Some((out, path)) = &mut self.out else {
            return;
        };
        if let Err(error) = out.write_all(report.as_bytes()) {
            complain(&format!("cannot write {path}: {error}"));
            self.out = None;
        }
    }
}

fn board() -> &'static Board {
    BOARD.get_or_init(Board::new)
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends QEMU, as it does itself when a plugin cannot be loaded.
fn refuse(why: &str) -> ! {
    complain(why);
    process::exit(1)
}

/// Unlike `eprintln!` it does not panic, which would end QEMU by a signal.
fn complain(what: &str) {
    let _ = writeln!(io::stderr(), "plugin: {what}");
}

/// A CPU comes to life, on its thread.
extern "C" fn on_cpu(_: PluginId, cpu: VCPUIndex) {
    let registers = match Registers::of_this_cpu() {
        Ok(registers) => registers,
        Err(error) => refuse(&format!("CPU {cpu}: {error}")),
    };
    let mut state = state();
    if state
        .cpus
        .values()
        .any(|other| other.thread == registers.thread)
    {
        drop(state);
        refuse(
            "several CPUs in one thread are counted wrongly by QEMU: take one CPU (-smp 1), \
             or leave out -icount and thread=single",
        );
    }
    state.cpus.insert(cpu, registers);
}

/// A block is translated: each of its instructions gets its additions.
extern "C" fn on_block(_: PluginId, block: *mut qemu_plugin_tb) {
    let block = TranslationBlock::from(block);
    let board = *board();
    for (i, instruction) in block.instructions().enumerate() {
        if i == 0 && instruction.vaddr() % VECTOR == 0 {
            let address = instruction.vaddr();
            board.call_in_windows(&instruction, move |cpu| must(cpu, on_vector(cpu, address)));
        }
        let word = word(&instruction);
        if let Some(marker) = word.and_then(Marker::of) {
            let on_marker = move |cpu| must(cpu, on_marker(cpu, marker));
            instruction
                .register_execute_callback_flags(on_marker, CallbackFlags::QEMU_PLUGIN_CB_R_REGS);
            continue;
        }
        board.add_one(&instruction, INSTRUCTIONS);
        if let Some(slot) = word.and_then(decode::slot) {
            board.add_one(&instruction, slot);
        }
    }
}

/// The instruction's encoding; none for one of Thumb with two bytes.
fn word(instruction: &Instruction<'_>) -> Option<u32> {
    let mut bytes = [0; 4];
    (instruction.size() == 4 && instruction.read_data(&mut bytes) == 4)
        .then(|| u32::from_le_bytes(bytes))
}

/// A block is executed that begins where a vector can be, and a window is open.
fn on_vector(cpu: VCPUIndex, address: u64) -> Result<()> {
    let vectors = match state().cpus.get(&cpu) {
        Some(registers) => registers.vectors()?,
        None => None,
    };
    match vectors {
        Some(vectors) if address.wrapping_sub(vectors) < VECTORS => board().add(cpu, EXCEPTIONS),
        _ => Ok(()),
    }
}

/// A marker is executed.
fn on_marker(cpu: VCPUIndex, marker: Marker) -> Result<()> {
    let mut state = state();
    let id = match state.cpus.get(&cpu) {
        Some(registers) => registers.id()?,
        None => return Ok(()),
    };
    match marker {
        Marker::Begin => {
            let open = state.windows.begin(cpu as usize, id, board().counts(cpu));
            board().set_open(cpu, open);
        }
        Marker::End => {
            let open = state.windows.end(cpu as usize, id, &board().counts(cpu));
            board().set_open(cpu, open);
        }
        Marker::Report => {
            let report = state.windows.take();
            state.write(&report);
        }
        Marker::Forget => state.windows.forget(),
    }
    Ok(())
}

/// Goes on, or ends QEMU: a count that is wrong is worse than none.
fn must(cpu: VCPUIndex, result: Result<()>) {
    if let Err(error) = result {
        refuse(&format!("CPU {cpu}: {error}"));
    }
}
