// SPDX-License-Identifier: MIT OR Apache-2.0

//! xtask from outside: what it does when its output is not taken, when it gets a signal, and when
//! something is missing. Scripts take the place of cargo, rustc and QEMU, so nothing is built or
//! booted.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Makes a file, which shows that the script was started.
const STARTED: &str = "touch \"$0.started\"";

/// A folder for scripts and for what they write; the only one in PATH, beside what scripts need.
struct Host {
    folder: TempDir,
}

impl Host {
    /// A host on which cargo builds nothing and the Rust target is there.
    fn new() -> Self {
        let host = Self {
            folder: tempfile::tempdir().expect("there is room"),
        };
        host.script("cargo", STARTED);
        host.script("rustc", "echo /");
        for tool in ["sh", "sleep", "cat", "touch"] {
            let path = std::env::split_paths(&std::env::var_os("PATH").expect("there is one"))
                .map(|folder| folder.join(tool))
                .find(|path| path.exists());
            let path = path.expect("the system has it");
            std::os::unix::fs::symlink(path, host.path(tool)).expect("there is room");
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("there is room");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("it is ours");
    }

    /// A QEMU that knows `virt`, and does `otherwise` with it. `answer TEXT` is its answer on the
    /// control socket.
    fn qemu(&self, otherwise: &str) {
        let text = format!(
            "all=\"$*\"\n\
             answer() {{\n\
             file=\"${{all##*,fd=}}\"; file=\"${{file%% *}}\"\n\
             read -r line <&\"$file\"; echo \"$1, \\\"id\\\": \\\"last\\\"\" >&\"$file\"\n\
             }}\n\
             case \"$all\" in\n\
             --version) echo 'QEMU emulator version 10.0.2';;\n\
             '-machine help') echo 'virt x';;\n\
             *) {otherwise};;\n\
             esac"
        );
        self.script("qemu-system-aarch64", &text);
    }

    fn xtask(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command
            .args(arguments.split_whitespace())
            .env("PATH", self.folder.path())
            .env("CARGO", self.path("cargo"))
            .env("CARGO_TARGET_DIR", self.path("target"))
            .env("TMPDIR", self.path("none, such 'folder'"))
            .env_remove("LAZYMMU_QEMU")
            .stdin(Stdio::null());
        command
    }

    /// How xtask ends with its status, and what it says on standard error.
    fn said(&self, arguments: &str) -> (Option<i32>, String) {
        said(&self.xtask(arguments).output().expect("it starts"))
    }

    fn has_built(&self) -> bool {
        self.path("cargo.started").exists()
    }
}

fn said(output: &Output) -> (Option<i32>, String) {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), stderr)
}

/// Commands that print, by clap and by xtask itself.
const PRINTING: [&str; 4] = ["--help", "run --help", "check spdx", "check layers"];

#[test]
fn a_reader_that_has_gone_ends_it_without_a_word() {
    let host = Host::new();
    for arguments in PRINTING {
        let (reader, writer) = io::pipe().expect("there are numbers left");
        drop(reader);
        let output = host.xtask(arguments).stdout(writer).output();
        let ended = said(&output.expect("it starts"));
        assert_eq!(ended, (Some(141), String::new()), "{arguments}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_device_ends_it_with_one_line() {
    let full = || {
        File::options()
            .write(true)
            .open("/dev/full")
            .expect("Linux has it")
    };
    let host = Host::new();
    for arguments in PRINTING {
        let output = host.xtask(arguments).stdout(full()).output();
        let (status, text) = said(&output.expect("it starts"));
        assert_eq!(status, Some(1), "{arguments}");
        assert!(
            text.starts_with("error: cannot write to standard output: ")
                && text.lines().count() == 1,
            "{arguments}: {text}"
        );
    }
    for (arguments, status) in [
        ("check spdx", 0),
        ("check none", 1),
        ("--bad", 1),
        ("run", 1),
    ] {
        let ended = host
            .xtask(arguments)
            .stdout(Stdio::null())
            .stderr(full())
            .status();
        assert_eq!(
            ended.expect("it starts").code(),
            Some(status),
            "{arguments}"
        );
    }
}

#[test]
fn a_signal_ends_what_is_being_built_or_tested() {
    let host = Host::new();
    // Both processes hold the pipe open: its end is theirs. The second is what cargo starts.
    let pipe = host.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("the system has it").success());
    let slow = format!(
        "exec 3>'{}'\n(sleep 30; echo survived >&3) & echo ready >&3; wait",
        pipe.display()
    );
    host.script("cargo", &slow);
    for arguments in ["build", "test --host"] {
        for signal in ["INT", "TERM", "HUP", "KILL"] {
            let mut xtask = host
                .xtask(arguments)
                .stdout(Stdio::null())
                .spawn()
                .expect("it starts");
            let mut reader = BufReader::new(File::open(&pipe).expect("it is there"));
            let mut said = String::new();
            reader.read_line(&mut said).expect("it is text");
            assert_eq!(said, "ready\n");
            let kill = format!("kill -{signal} {}", xtask.id());
            let sent = Command::new("sh").args(["-c", &kill]).status();
            assert!(sent.expect("there is a shell").success());
            let ended = xtask.wait().expect("it is ours");
            match signal {
                "KILL" => assert_eq!(ended.signal(), Some(9)),
                _ => assert_eq!(ended.code(), Some(130), "{arguments}, {signal}"),
            }
            said.clear();
            reader.read_to_string(&mut said).expect("it is text");
            assert_eq!(said, "", "{arguments}, {signal}");
        }
    }
}

#[test]
fn a_missing_qemu_is_told_before_anything_is_built() {
    let host = Host::new();
    for arguments in ["run", "test", "counts", "bench", "mutants"] {
        let (status, text) = host.said(arguments);
        assert_eq!(status, Some(1), "{arguments}");
        assert!(
            text.contains("qemu-system-aarch64 is missing. Type: "),
            "{arguments}: {text}"
        );
        assert!(!text.contains("sudo"), "there is none: {text}");
        assert!(!host.has_built(), "{arguments}");
    }
}

#[test]
fn an_empty_name_of_qemu_is_told_as_such() {
    let host = Host::new();
    let output = host.xtask("run").env("LAZYMMU_QEMU", "").output();
    let (status, text) = said(&output.expect("it starts"));
    assert_eq!(status, Some(1));
    assert!(
        text.contains("LAZYMMU_QEMU is empty: set it to a"),
        "{text}"
    );
}

#[test]
fn a_machine_that_qemu_does_not_make_is_told_before_anything_is_built() {
    let host = Host::new();
    let refusals = [
        (
            "run --cpu cortex-a15",
            "answer R00=00000000",
            "--cpu cortex-a15 is a 32-bit CPU",
        ),
        (
            "test --cpu cortex-a15",
            "answer R00=00000000",
            "--cpu cortex-a15 is a 32-bit CPU",
        ),
        (
            "run --cpu none",
            "echo unable to find it >&2; exit 1",
            "--cpu none: unable to find it;",
        ),
        (
            "test --smp 600 --gic 3",
            "echo 512 at most >&2; exit 1",
            "--smp 600 --gic 3: 512 at most;",
        ),
        ("run --smp 9", "true", "add --gic 3"),
    ];
    for (arguments, monitor, expected) in refusals {
        host.qemu(monitor);
        let (status, text) = host.said(arguments);
        assert_eq!(status, Some(1), "{arguments}");
        assert!(
            text.contains(expected) && text.lines().count() == 1,
            "{arguments}: {text}"
        );
        assert!(!host.has_built(), "{arguments}");
    }
    // One that it makes is built for.
    host.qemu("answer ' PC=0000000000000000'");
    host.said("run --cpu cortex-a57");
    assert!(host.has_built());
}

#[test]
fn a_place_that_takes_no_file_is_named_in_one_line() {
    let host = Host::new();
    host.qemu("true");
    let target = host.path("target");
    let built = target.join("aarch64-unknown-none-softfloat/release/kernel");
    let (status, text) = host.said("run");
    assert_eq!(status, Some(1));
    assert!(text.contains(&format!("{}", built.display())), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
}
