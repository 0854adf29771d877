// SPDX-License-Identifier: MIT OR Apache-2.0
//! Facts about the machine that all parts of the kernel use: how many CPUs there may be, and
//! whether the machine is emulated.

/// The greatest number of CPUs that the kernel supports.
pub const MAX_CPUS: usize = 16;

/// The kind of machine on which the kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// QEMU's TCG. It models neither store buffers nor contiguous TLB entries, so tests that need
    /// real hardware are skipped.
    Emulated,
    /// A real CPU.
    Hardware,
}

impl Kind {
    /// The kind of a machine from the first `compatible` string of its device tree, and from the
    /// ticks per second of its counter.
    #[must_use]
    pub fn of(compatible: &str, frequency: u64) -> Self {
        /// QEMU's default; a Raspberry Pi 4 has 54 MHz.
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
        // Other boards may also have a counter of this frequency.
        assert_eq!(Kind::of("acme,board", 62_500_000), Kind::Hardware);
    }
}
