// SPDX-License-Identifier: GPL-2.0-or-later

//! What QEMU has of a CPU: the counts that translated code adds to, and the registers.

use crate::decode::{SLOTS, Slot};
use crate::windows::Counts;
use qemu_plugin::sys::{
    qemu_plugin_scoreboard, qemu_plugin_scoreboard_find, qemu_plugin_scoreboard_new,
};
use qemu_plugin::{
    CallbackFlags, Error, Instruction, PluginCondition, PluginOp, PluginU64, RegisterDescriptor,
    Result, VCPUIndex, qemu_plugin_get_registers,
    qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu, qemu_plugin_u64_add, qemu_plugin_u64_set,
};
use std::thread::{self, ThreadId};

/// Place of the number of windows that are open on a CPU, after its counts.
const OPEN: Slot = SLOTS;

/// The arrays of all CPUs. QEMU allocates them, zeroed, and never frees them.
#[derive(Clone, Copy, Debug)]
pub struct Board {
    /// The address of QEMU's object, which has locks of its own.
    scoreboard: usize,
}

impl Board {
    /// Lets QEMU allocate the arrays.
    pub fn new() -> Self {
        let size = size_of::<Counts>() + size_of::<u64>();
        // SAFETY: takes a size, and is called by QEMU's leave, from a callback.
        let scoreboard = unsafe { qemu_plugin_scoreboard_new(size) };
        Self {
            scoreboard: scoreboard as usize,
        }
    }

    /// Adds one to a count of the CPU that executes `instruction`, whenever it does.
    pub fn add_one(self, instruction: &Instruction<'_>, slot: Slot) {
        qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
            instruction.clone(),
            PluginOp::QEMU_PLUGIN_INLINE_ADD_U64,
            self.place(slot),
            1,
        );
    }

    /// Calls `callback` whenever `instruction` is executed by a CPU with a window open; it may read registers.
    pub fn call_in_windows(
        self,
        instruction: &Instruction<'_>,
        callback: impl Fn(VCPUIndex) + Send + Sync + 'static,
    ) {
        instruction.register_conditional_execute_callback_flags(
            callback,
            CallbackFlags::QEMU_PLUGIN_CB_R_REGS,
            PluginCondition::QEMU_PLUGIN_COND_NE,
            self.place(OPEN),
            0,
        );
    }

    /// Adds one to a count of `cpu` now.
    ///
    /// # Errors
    ///
    /// None that QEMU reports.
    pub fn add(self, cpu: VCPUIndex, slot: Slot) -> Result<()> {
        qemu_plugin_u64_add(self.place(slot), cpu, 1)
    }

    /// Says how many windows `cpu` has open.
    pub fn set_open(self, cpu: VCPUIndex, open: usize) {
        qemu_plugin_u64_set(self.place(OPEN), cpu, open as u64);
    }

    /// The counts of `cpu`, whose thread must be the caller's.
    pub fn counts(self, cpu: VCPUIndex) -> Box<Counts> {
        // SAFETY: the scoreboard was made by `new`, and QEMU names the CPUs that it has.
        let entry = unsafe { qemu_plugin_scoreboard_find(self.object(), cpu) };
        // SAFETY: the entry begins with zeroed `Counts`, which is a valid one. Only translated code of this
        // CPU writes there, and its thread is here.
        let counts = unsafe { &*entry.cast::<Counts>() };
        Box::new(*counts)
    }

    fn place(self, slot: Slot) -> PluginU64 {
        assert!(slot <= OPEN, "no count is beyond the array");
        PluginU64 {
            score: self.object(),
            offset: slot * size_of::<u64>(),
        }
    }

    fn object(self) -> *mut qemu_plugin_scoreboard {
        self.scoreboard as *mut qemu_plugin_scoreboard
    }
}

/// The registers of one CPU that are of interest.
#[derive(Debug)]
pub struct Registers {
    x0: RegisterDescriptor<'static>,
    cpsr: RegisterDescriptor<'static>,
    /// By exception level from 1 on; a CPU may lack the upper ones.
    vbar: [Option<RegisterDescriptor<'static>>; 3],
    /// The thread that executes it.
    pub thread: ThreadId,
}

impl Registers {
    /// Finds them. To be called when QEMU has initialized the CPU, on its thread.
    ///
    /// # Errors
    ///
    /// When one is missing, which the error names.
    pub fn of_this_cpu() -> Result<Self> {
        let all = qemu_plugin_get_registers()?;
        let find = |name: &str| all.iter().find(|register| register.name == name).cloned();
        let need = |name: &str| {
            let name = name.to_owned();
            find(&name).ok_or(Error::RegisterReadError { name })
        };
        Ok(Self {
            x0: need("x0")?,
            cpsr: need("cpsr")?,
            vbar: [Some(need("VBAR")?), find("VBAR_EL2"), find("VBAR_EL3")],
            thread: thread::current().id(),
        })
    }

    /// The id that a marker is about.
    ///
    /// # Errors
    ///
    /// When QEMU does not let it be read.
    pub fn id(&self) -> Result<u64> {
        value(&self.x0)
    }

    /// The address of the vectors of the exception level at which the CPU is; none at EL0.
    ///
    /// # Errors
    ///
    /// When QEMU does not let a register be read.
    pub fn vectors(&self) -> Result<Option<u64>> {
        let level = value(&self.cpsr)? >> 2 & 3;
        let vbar = (level as usize)
            .checked_sub(1)
            .and_then(|at| self.vbar[at].as_ref());
        vbar.map(value).transpose()
    }
}

/// A register's value; QEMU keeps all of an arm64 CPU in little-endian order.
fn value(register: &RegisterDescriptor<'_>) -> Result<u64> {
    let mut bytes = [0; 8];
    let read = register.read()?;
    let length = read.len().min(bytes.len());
    bytes[..length].copy_from_slice(&read[..length]);
    Ok(u64::from_le_bytes(bytes))
}
