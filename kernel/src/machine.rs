// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every floor of the kernel knows about the machine: how many CPUs there may be, and whether
//! it is emulated.

/// CPUs that the kernel keeps, at most.
pub const MAX_CPUS: usize = 16;

/// What the kernel runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// QEMU's TCG, which models neither store buffers nor contiguous TLB
    /// entries: tests that need real hardware are skipped.
    Emulated,
    /// A real CPU.
    Hardware,
}

impl Kind {
    /// The kind of a machine whose device tree begins with `compatible`, and whose counter has
    /// `frequency` ticks per second.
    #[must_use]
    pub fn of(compatible: &str, frequency: u64) -> Self {
        /// QEMU's, unless it is told otherwise; a Raspberry Pi 4 has 54 MHz.
        const QEMU: u64 = 62_500_000;
        match (compatible, frequency) {
            ("linux,dummy-virt", _) | ("raspberrypi,4-model-b", QEMU) => Self::Emulated,
            _ => Self::Hardware,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn a_raspberry_pi_is_emulated_if_its_counter_is_qemus() {
        assert_eq!(
            Kind::of("raspberrypi,4-model-b", 54_000_000),
            Kind::Hardware
        );
        assert_eq!(
            Kind::of("raspberrypi,4-model-b", 62_500_000),
            Kind::Emulated
        );
        assert_eq!(Kind::of("raspberrypi,4-model-b", 0), Kind::Hardware);
        assert_eq!(Kind::of("linux,dummy-virt", 54_000_000), Kind::Emulated);
        // Some board may have such a counter.
        assert_eq!(Kind::of("acme,board", 62_500_000), Kind::Hardware);
    }
}
