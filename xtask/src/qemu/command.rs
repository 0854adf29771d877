// SPDX-License-Identifier: MIT OR Apache-2.0

//! QEMU's command line for one boot.
//!
//! How a kernel is entered on `virt`, as tried with QEMU 10.0.2:
//!
//! | entry | QEMU is given | device tree |
//! |---|---|---|
//! | EL1 | the flat image | x0 points at it |
//! | EL2 | the flat image, `virtualization=on` | x0 points at it |
//! | EL3 | the ELF file, `secure=on` | x0 = 0; at the start of memory |
//!
//! QEMU enters a flat Image the way Linux wants it, never at EL3; an ELF file it
//! starts where the CPU resets. The ELF file's segments are the flat image's
//! bytes. linker.ld places them 2 MiB above the start of memory: QEMU pads its
//! device tree to 1 MiB and leaves it out in silence where that does not fit.
//! (The flat image by `-device loader` enters at EL3 too, but then QEMU refuses
//! `-append`.) With more than one CPU, all of them start at the entry point.
//!
//! And on `raspi4b`, which takes no option and makes no device tree:
//!
//! | entry | QEMU is given | device tree |
//! |---|---|---|
//! | EL2 | the flat image, `-dtb` | x0 points at it ([`raspi4b_tree`](super::raspi4b_tree)) |
//! | EL2 | the flat image | none: x0 = 0x100, where ATAGS are |
//! | EL3 | the ELF file | none, with `-dtb` neither: x0 = 0 |

use super::machine::{Board, Clock, ExceptionLevel, Gic, Machine};
use crate::build::Artifacts;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Where the guest's UART ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Uart {
    /// At QEMU's standard output.
    #[default]
    Output,
    /// At a pseudo terminal, as a board's at a serial port. There is no semihosting then, as on a
    /// board, and the guest waits: what it prints before the terminal is read is lost.
    Terminal,
}

/// Where QEMU listens for a debugger, and where the console is.
#[derive(Debug, Default)]
pub struct Sockets<'a> {
    /// The console.
    pub uart: Uart,
    /// Socket for a debugger; the guest waits for it.
    pub debugger: Option<&'a Path>,
}

/// What QEMU is given in place of the usual.
#[derive(Clone, Debug, Default)]
pub enum Input {
    /// The kernel in the form that fits the entry, and QEMU's own device tree if it makes one.
    #[default]
    Usual,
    /// The ELF file at any entry: x0 is 0, and below EL3 the kernel looks for a tree nowhere else.
    Elf,
    /// The flat image, and no device tree unless QEMU makes one.
    NoTree,
    /// This device tree. QEMU adds memory and boot arguments to it.
    Tree(PathBuf),
    /// This flat image in place of the kernel's.
    Image(PathBuf),
    /// These files at these addresses, and no kernel that QEMU knows of, hence no boot arguments.
    /// The CPU of this number starts at the first one.
    Raw(Vec<(PathBuf, u64)>, u32),
}

/// The command line of a boot, without the program.
pub fn boot(
    machine: &Machine,
    bootargs: &str,
    artifacts: &Artifacts,
    input: &Input,
    sockets: &Sockets<'_>,
) -> Vec<OsString> {
    let mut arguments = on(machine);
    let mut add = |option: &str, value: OsString| arguments.extend([option.into(), value]);
    // The default network card needs a ROM file that Debian packs separately.
    add("-nic", "none".into());
    add("-display", "none".into());
    add("-monitor", "none".into());
    match sockets.uart {
        Uart::Output => {
            add("-serial", "stdio".into());
            add("-semihosting-config", "enable=on,target=native".into());
        }
        Uart::Terminal => add("-serial", "pty".into()),
    }
    let kernel = match (machine.el, input) {
        (ExceptionLevel::El3, _) | (_, Input::Elf) => &artifacts.elf,
        (ExceptionLevel::El1 | ExceptionLevel::El2, _) => &artifacts.image,
    };
    match input {
        Input::Raw(files, cpu) => {
            for (i, (path, address)) in files.iter().enumerate() {
                let starts = match i {
                    0 => format!(",cpu-num={cpu}"),
                    _ => String::new(),
                };
                let before = format!("loader,addr={address:#x},force-raw=on{starts},file=");
                add("-device", option_of(&before, path));
            }
        }
        Input::Image(image) => add("-kernel", image.into()),
        _ => add("-kernel", kernel.into()),
    }
    if let Input::Tree(path) = input {
        add("-dtb", path.into());
    }
    if !matches!(input, Input::Raw(..)) {
        add("-append", bootargs.into());
    }
    if let Some(path) = sockets.debugger {
        let socket = option_of("socket,id=gdb,server=on,wait=off,path=", path);
        add("-chardev", socket);
        add("-gdb", "chardev:gdb".into());
    }
    if sockets.debugger.is_some() || sockets.uart == Uart::Terminal {
        arguments.push("-S".into());
    }
    arguments
}

/// The options that make the machine.
pub fn on(machine: &Machine) -> Vec<OsString> {
    let board = machine.board.name();
    let gic = match machine.gic {
        Gic::V2 => "2",
        Gic::V3 => "3",
    };
    let level = match machine.el {
        ExceptionLevel::El1 => "",
        ExceptionLevel::El2 => ",virtualization=on",
        ExceptionLevel::El3 => ",virtualization=on,secure=on",
    };
    let board = match machine.board {
        Board::Virt => format!("{board},gic-version={gic}{level}"),
        Board::Raspi4b => board.to_owned(),
    };
    let mut arguments = Vec::new();
    let mut add = |option: &str, value: OsString| arguments.extend([option.into(), value]);
    add("-machine", board.into());
    add("-cpu", machine.cpu.clone().into());
    add("-smp", machine.smp.to_string().into());
    add("-m", machine.memory.to_string().into());
    if machine.clock == Clock::Instructions {
        add("-icount", "shift=0,sleep=off".into());
    }
    arguments
}

/// `before` and a path, in which QEMU takes two commas for one that is meant.
pub fn option_of(before: &str, path: &Path) -> OsString {
    let mut text = before.as_bytes().to_vec();
    for byte in path.as_os_str().as_bytes() {
        text.push(*byte);
        text.extend((*byte == b',').then_some(b','));
    }
    OsString::from_vec(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::machine::Memory;
    use std::num::NonZeroU32;
    use std::path::PathBuf;

    fn shown(machine: &Machine, sockets: &Sockets<'_>) -> String {
        shown_with(machine, &Input::Usual, sockets)
    }

    fn shown_with(machine: &Machine, input: &Input, sockets: &Sockets<'_>) -> String {
        let artifacts = Artifacts {
            elf: "kernel.elf".into(),
            image: "kernel8.img".into(),
            size: 0,
        };
        let bootargs = "mode=demo exit=semihosting";
        boot(machine, bootargs, &artifacts, input, sockets)
            .iter()
            .map(|argument| argument.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn plain_machine_is_entered_at_el1_by_the_flat_image() {
        assert_eq!(
            shown(&Machine::default(), &Sockets::default()),
            "-machine virt,gic-version=2 -cpu cortex-a72 -smp 2 -m 1G \
             -nic none -display none -monitor none -serial stdio \
             -semihosting-config enable=on,target=native \
             -kernel kernel8.img -append mode=demo exit=semihosting"
        );
    }

    #[test]
    fn el2_has_virtualization() {
        let machine = Machine {
            cpu: "max".to_owned(),
            smp: NonZeroU32::new(4).expect("4 is not 0"),
            memory: Memory::mebibytes(8192),
            gic: Gic::V3,
            el: ExceptionLevel::El2,
            clock: Clock::Instructions,
            ..Machine::default()
        };
        assert_eq!(
            shown(&machine, &Sockets::default()),
            "-machine virt,gic-version=3,virtualization=on -cpu max -smp 4 -m 8G \
             -icount shift=0,sleep=off -nic none -display none -monitor none -serial stdio \
             -semihosting-config enable=on,target=native \
             -kernel kernel8.img -append mode=demo exit=semihosting"
        );
    }

    #[test]
    fn el3_takes_the_elf_file_and_a_debugger_may_be_waited_for() {
        let machine = Machine {
            el: ExceptionLevel::El3,
            ..Machine::default()
        };
        let sockets = Sockets {
            debugger: Some(Path::new("target/gdb.sock")),
            ..Sockets::default()
        };
        assert_eq!(
            shown(&machine, &sockets),
            "-machine virt,gic-version=2,virtualization=on,secure=on -cpu cortex-a72 -smp 2 -m 1G \
             -nic none -display none -monitor none -serial stdio \
             -semihosting-config enable=on,target=native \
             -kernel kernel.elf -append mode=demo exit=semihosting \
             -chardev socket,id=gdb,server=on,wait=off,path=target/gdb.sock -gdb chardev:gdb -S"
        );
    }

    #[test]
    fn a_pi_has_no_options_of_its_machine_and_a_tree_given() {
        let machine = Board::Raspi4b.usual();
        let tree = Input::Tree("pi.dtb".into());
        assert_eq!(
            shown_with(&machine, &tree, &Sockets::default()),
            "-machine raspi4b -cpu cortex-a72 -smp 4 -m 2G \
             -nic none -display none -monitor none -serial stdio \
             -semihosting-config enable=on,target=native \
             -kernel kernel8.img -dtb pi.dtb -append mode=demo exit=semihosting"
        );
        let at_el3 = Machine {
            el: ExceptionLevel::El3,
            ..machine
        };
        let command = shown(&at_el3, &Sockets::default());
        assert!(
            command.contains("-machine raspi4b -cpu")
                && command.contains("-kernel kernel.elf -append"),
            "{command}"
        );
    }

    #[test]
    fn a_path_may_have_any_bytes() {
        let path = PathBuf::from(OsString::from_vec(b"/a,b \xff'/c".to_vec()));
        assert_eq!(option_of("x=", &path).as_bytes(), b"x=/a,,b \xff'/c");
    }

    #[test]
    fn raw_files_take_the_place_of_a_kernel() {
        let files = vec![
            (PathBuf::from("firmware.bin"), 0x4018_0000),
            (PathBuf::from("kernel8.img"), 0x4028_0000),
        ];
        let input = Input::Raw(files, 0);
        let command = shown_with(&Machine::default(), &input, &Sockets::default());
        assert!(
            command.ends_with(
                "-semihosting-config enable=on,target=native \
                 -device loader,addr=0x40180000,force-raw=on,cpu-num=0,file=firmware.bin \
                 -device loader,addr=0x40280000,force-raw=on,file=kernel8.img"
            ),
            "{command}"
        );
    }

    #[test]
    fn on_a_terminal_the_guest_waits_and_has_no_semihosting() {
        let sockets = Sockets {
            uart: Uart::Terminal,
            ..Sockets::default()
        };
        assert_eq!(
            shown(&Machine::default(), &sockets),
            "-machine virt,gic-version=2 -cpu cortex-a72 -smp 2 -m 1G \
             -nic none -display none -monitor none -serial pty \
             -kernel kernel8.img -append mode=demo exit=semihosting -S"
        );
    }
}
