// SPDX-License-Identifier: MIT OR Apache-2.0

//! Child processes other than QEMU: nested cargo calls and plain commands.
//!
//! A nested cargo runs in a cleaned environment. What the outer `cargo run` set
//! for xtask (`CARGO_PKG_*`, `CARGO_MANIFEST_DIR`) and what a caller set for the
//! host build (`RUSTFLAGS`, `CARGO_BUILD_*`) must not leak into the kernel
//! build: `RUSTFLAGS`, for one, silently replaces the target's own flags.
//! `RUSTUP_TOOLCHAIN` stays, so `cargo +nightly xtask` means nightly all the way.

use crate::guard;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::env;
use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};

/// `CARGO_*` variables that say where cargo lives and how it fetches and
/// prints, not what it builds.
const KEPT: [&str; 9] = [
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_INCREMENTAL",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
    "CARGO_TARGET_DIR",
    "CARGO_TERM_",
];

/// Tells whether a nested cargo must not see the variable.
fn leaks(variable: &str) -> bool {
    match variable {
        "RUSTFLAGS" | "RUSTDOCFLAGS" | "CARGO" => true,
        _ => {
            variable.starts_with("CARGO_")
                && !KEPT.iter().any(|kept| match kept.strip_suffix('_') {
                    Some(_) => variable.starts_with(kept),
                    None => variable == *kept,
                })
        }
    }
}

/// A cargo command in the workspace's root with a cleaned environment.
pub fn cargo(workspace: &Workspace) -> Command {
    let cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cleaned(cargo, workspace)
}

/// The same with the cargo of another toolchain.
pub fn cargo_of(toolchain: &str, workspace: &Workspace) -> Command {
    // Not `cargo +toolchain`: what the outer cargo puts into PATH may be no rustup proxy.
    let mut rustup = Command::new("rustup");
    rustup.args(["run", toolchain, "cargo"]);
    cleaned(rustup, workspace)
}

fn cleaned(mut command: Command, workspace: &Workspace) -> Command {
    command
        .current_dir(workspace.root())
        .env("CARGO_TARGET_DIR", workspace.target());
    for (variable, _) in env::vars_os() {
        if variable.to_str().is_some_and(leaks) {
            command.env_remove(variable);
        }
    }
    command
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
///
/// When it cannot be started or fails; the error carries its standard error.
pub fn output(program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<String> {
    let program = program.as_ref();
    let shown = || format!("{} {}", program.display(), arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot start `{}`", shown()))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({}): {}",
            shown(),
            output.status,
            stderr.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command that writes to the terminal itself. It ends with xtask, and so does what it
/// starts.
///
/// # Errors
///
/// When it cannot be started or fails.
pub fn run(command: &mut Command) -> Result<()> {
    let status = finish(command, Stdio::inherit(), Stdio::inherit())?.status;
    if !status.success() {
        let program = command.get_program().to_string_lossy();
        let name = program.rsplit('/').next().unwrap_or(&program);
        let arguments: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        bail!("`{name} {}` failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// Runs a command whose output is kept, also if it fails. It ends with xtask, and so does what it
/// starts.
///
/// # Errors
///
/// When it cannot be started.
pub fn capture(command: &mut Command) -> Result<Output> {
    finish(command, Stdio::piped(), Stdio::piped())
}

/// The same with the output where it is wanted.
///
/// # Errors
///
/// When it cannot be started.
pub fn finish(command: &mut Command, stdout: Stdio, stderr: Stdio) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    let child = guard::start(command)
        .with_context(|| format!("cannot start `{}`", command.get_program().display()))?;
    let group = child.id();
    let output = child.wait_with_output();
    guard::forget(group);
    Ok(output?)
}

/// A word as it is typed in a shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_settings_of_the_outer_cargo_do_not_leak() {
        for variable in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_PKG_NAME",
            "CARGO_MANIFEST_DIR",
            "CARGO_PROFILE_RELEASE_DEBUG",
            "CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_RUSTFLAGS",
            "CARGO_TARGET_DIRECTORY",
        ] {
            assert!(leaks(variable), "{variable}");
        }
    }

    #[test]
    fn a_shell_reads_what_was_meant() {
        let words = [
            "",
            "a",
            "sched*",
            "a b",
            "it's",
            "$(id)",
            "a=b,c:/d_e-f",
            "\"",
            "!",
            "~",
        ];
        let line = words.map(quoted).join(" ");
        let script = format!("printf '%s\\n' {line}");
        let printed = output("sh", &["-c", &script]).expect("it is well-formed");
        assert_eq!(printed.lines().collect::<Vec<_>>(), words);
        assert!(
            line.contains(" 'sched*' ") && line.contains(" a=b,c:/d_e-f "),
            "{line}"
        );
    }

    #[test]
    fn toolchain_choice_and_network_settings_stay() {
        for variable in [
            "RUSTUP_TOOLCHAIN",
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_REGISTRIES_MIRROR_INDEX",
            "CARGO_TARGET_DIR",
            "CARGO_TERM_COLOR",
            "PATH",
        ] {
            assert!(!leaks(variable), "{variable}");
        }
    }
}
