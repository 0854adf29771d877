// SPDX-License-Identifier: MIT OR Apache-2.0
//! The kernel binary: it calls the steps of the boot in order.

#![cfg_attr(target_os = "none", no_std, no_main)]

/// On the host there is nothing to run; only the library's tests are built there.
#[cfg(not(target_os = "none"))]
fn main() {}

#[cfg(target_os = "none")]
mod kernel_main {
    use core::fmt::Write;

    use boot::Handoff;
    use kernel::arch::window::{self, WindowId};
    use kernel::bench::{self, Counter};
    use kernel::platform::bootargs::Mode;
    use kernel::platform::console::{self, Emergency};
    use kernel::platform::exit::{Status, exit};
    use kernel::start::{self, StartError};
    use kernel::text::Line;
    use kernel::{demo, litmus, selftest, soak};

    /// The function that `boot` calls on the boot CPU: EL1, MMU on, upper half.
    #[unsafe(no_mangle)]
    extern "C" fn kernel_main(handoff: &'static Handoff) -> ! {
        start::cpu(handoff);
        window::end(WindowId::new(boot::TO_KERNEL_MAIN, 0));
        match run(handoff) {
            Ok(status) => exit(status),
            Err(error) => {
                console::tell_everybody();
                // This writer never fails.
                let _ = writeln!(Emergency::new(), "error: {}", Line(error));
                exit(Status::Failure)
            }
        }
    }

    /// The function that `boot` calls on a secondary CPU: EL1, MMU on, upper half, on the stack of
    /// its slot.
    #[unsafe(no_mangle)]
    extern "C" fn secondary_main(slot: u64) -> ! {
        start::secondary_cpu(slot as usize)
    }

    fn run(handoff: &Handoff) -> Result<Status, StartError> {
        let (handoff, tree) = start::device_tree(handoff)?;
        let description = start::describe(&tree)?;
        start::power(&description);
        let arguments = start::memory(&handoff, description)?;
        start::interrupt_controller()?;
        start::scheduler()?;
        start::other_cpus(&arguments)?;
        window::end(WindowId::new(boot::TO_THE_END_OF_BOOT, 0));
        Ok(match arguments.mode {
            Mode::Demo => demo::main(),
            Mode::Selftest => selftest::main(arguments.filter),
            Mode::Counts => bench::main(Counter::Timer, arguments.pages),
            Mode::Bench => bench::main(Counter::Outside, arguments.pages),
            Mode::Litmus => litmus::main(arguments.iterations),
            Mode::Soak => soak::main(arguments.seconds.into(), arguments.seed.into()),
            Mode::Provoke(end) => selftest::provoke::run(end),
        })
    }
}
