// SPDX-License-Identifier: MIT OR Apache-2.0
//! What scenarios and programs need to know of a kernel that runs on the model.

use super::{Executed, Saboteur, Sim};
use lazymmu::{Kernel, LazyMmuState};

/// A kernel whose memory and instructions a [`Sim`] is told of.
///
/// Its [`lazymmu::TableFrames`] must be the `Sim`'s, because the model knows the tables of its own
/// pool only. Its [`lazymmu::Hardware`] tells the `Sim` what it executes, and its
/// [`lazymmu::Context`] may be its own: then it answers the questions below by itself.
pub trait Modelled: Kernel {
    /// The machine below the kernel.
    fn sim(&self) -> &Sim;

    /// Lazy state of a task, by the number that the `Sim` gives it. The answer of
    /// [`lazymmu::Context::lazy`] is that of the task `sim.running(sim.cpu())`.
    fn lazy_of(&self, task: usize) -> &LazyMmuState {
        self.sim().lazy_of(task)
    }

    /// What the library says that it has executed, summed over all of the kernel's counters.
    fn counted(&self) -> Executed {
        self.sim().counted()
    }

    /// Whether instructions are left out on purpose, so that the library's counters may be wrong.
    fn is_spoiled(&self) -> bool {
        false
    }

    /// The library's next instructions are what a scenario is about.
    fn arm(&self) {}

    /// They were.
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
