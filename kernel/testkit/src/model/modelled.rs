// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Modelled`]: what scenarios and programs require of a kernel that runs on the model.

use super::{Executed, Saboteur, Sim};
use lazymmu::{Kernel, LazyMmuState};

/// A kernel that runs on a [`Sim`].
///
/// Its [`lazymmu::TableFrames`] must call that of the `Sim`, because the model knows only the
/// tables of its own pool. Its [`lazymmu::Hardware`] calls the method of the `Sim` for each
/// instruction that it executes. Its [`lazymmu::Context`] may have states and counters of its own;
/// then it overrides the methods below.
pub trait Modelled: Kernel {
    /// The machine below the kernel.
    fn sim(&self) -> &Sim;

    /// The lazy state of a task, by its number in the `Sim`. [`lazymmu::Context::lazy`] returns
    /// that of the task `sim.running(sim.cpu())`.
    fn lazy_of(&self, task: usize) -> &LazyMmuState {
        self.sim().lazy_of(task)
    }

    /// What the library has executed by its own counters, summed over all counters of the kernel.
    fn counted(&self) -> Executed {
        self.sim().counted()
    }

    /// Whether instructions are left out on purpose, so that the library's counters may be wrong.
    fn is_spoiled(&self) -> bool {
        false
    }

    /// Marks the start of the instructions that a scenario tests.
    fn arm(&self) {}

    /// Marks the end of these instructions.
    fn disarm(&self) {}
}

impl Modelled for Sim {
    fn sim(&self) -> &Sim {
        self
    }
}

impl Modelled for Saboteur {
    fn sim(&self) -> &Sim {
        &self.sim
    }

    fn is_spoiled(&self) -> bool {
        Self::is_spoiled(self)
    }

    fn arm(&self) {
        Self::arm(self);
    }

    fn disarm(&self) {
        Self::disarm(self);
    }
}
