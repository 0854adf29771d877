// SPDX-License-Identifier: MIT OR Apache-2.0

//! Power control by firmware (PSCI, DEN 0022), through crate `smccc`.
//!
//! Whether there is any, and by which instruction it is called, stands in the device tree. Without
//! it every function here does nothing: an `smc` or `hvc` that nobody serves is undefined, or
//! lands in somebody else's handler.

use super::devicetree::Conduit;
use smccc::{Hvc, Smc, psci};
use spin::Once;

static CONDUIT: Once<Conduit> = Once::new();

/// Says how firmware is called. The first call counts.
pub fn init(conduit: Conduit) {
    CONDUIT.call_once(|| conduit);
}

/// Turns the machine off. Returns if there is no PSCI, or if it refuses.
pub fn system_off() {
    // The result could only be an error, and the caller has its next method for that.
    let _ = match CONDUIT.get() {
        None => Ok(()),
        Some(Conduit::Hvc) => psci::system_off::<Hvc>(),
        Some(Conduit::Smc) => psci::system_off::<Smc>(),
    };
}
