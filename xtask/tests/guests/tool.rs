// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask run` as a process, with a guest: its reader leaves, its output is a full device, it
//! is killed, and there is no temporary directory. What needs no guest is in `tests/tool.rs`.

use super::LAB;
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use xtask::failure::READER_GONE;
use xtask::{process, scratch};

/// Time for a guest to end when xtask was killed, on a busy host.
const CLOSED: Duration = Duration::from_secs(20);
/// Time for a build that is up to date, a boot and the end of xtask, on a busy host.
const PATIENCE: Duration = Duration::from_secs(120);
/// A guest that would go on.
const ENDLESS: &str = "mode=hang";
/// What it prints last.
const LAST: &str = "provoking: Hang";

fn xtask_run(bootargs: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    // Long before this counts the guest as hung, the test does.
    command
        .args(["run", "--timeout", "1000", "--"])
        .args(bootargs);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What xtask has said and how it ended; an error if it goes on with its guest. Nothing else ends
/// that one.
fn end_of(mut xtask: Child) -> Result<Output> {
    let until = Instant::now() + PATIENCE;
    while xtask.try_wait()?.is_none() {
        if Instant::now() > until {
            xtask.kill()?;
            xtask.wait()?;
            bail!("it goes on with its guest");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(xtask.wait_with_output()?)
}

#[test]
fn a_reader_that_leaves_ends_the_guest() -> Result<()> {
    let mut xtask = xtask_run(&[ENDLESS]).spawn()?;
    let stdout = xtask.stdout.take().context("it is piped")?;
    BufReader::new(stdout).read_line(&mut String::new())?;
    let output = end_of(xtask)?;
    let (status, stderr) = (output.status, String::from_utf8_lossy(&output.stderr));
    ensure!(
        status.code() == Some(READER_GONE.into()),
        "it ended with {status}: {stderr}"
    );
    ensure!(
        !stderr.contains("error") && !stderr.contains("panic"),
        "it said: {stderr}"
    );
    Ok(())
}

#[test]
fn a_full_device_ends_the_guest() -> Result<()> {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        // Linux has it.
        return Ok(());
    };
    let output = end_of(xtask_run(&[ENDLESS]).stdout(full).spawn()?)?;
    let (status, stderr) = (output.status, String::from_utf8_lossy(&output.stderr));
    ensure!(status.code() == Some(1), "it ended with {status}: {stderr}");
    let errors: Vec<&str> = stderr
        .lines()
        .filter(|line| line.contains("error"))
        .collect();
    let is_told = errors
        .iter()
        .all(|line| line.starts_with("error: cannot write to standard output: "));
    ensure!(errors.len() == 1 && is_told, "it said: {stderr}");
    Ok(())
}

#[test]
fn a_guest_ends_with_a_killed_run() -> Result<()> {
    let folder = scratch::folder(&LAB.workspace)?;
    let (pipe, qemu) = (folder.path().join("pipe"), folder.path().join("qemu"));
    let made = Command::new("mkfifo").arg(&pipe).status()?;
    ensure!(made.success(), "mkfifo failed");
    // The guest keeps the pipe open as long as it lives.
    let script = "#!/bin/sh\ncase \"$*\" in *-append*) exec 9<>\"${0%/*}/pipe\"; echo $$ > \"${0%/*}/pid\";; esac\nexec \"$QEMU\" \"$@\"\n";
    fs::write(&qemu, script)?;
    fs::set_permissions(&qemu, Permissions::from_mode(0o755))?;
    let mut command = xtask_run(&[ENDLESS]);
    command.env("LAZYMMU_QEMU", &qemu);
    command.env("QEMU", LAB.qemu.command().get_program());
    let mut xtask = command.stderr(Stdio::null()).spawn()?;
    let stdout = BufReader::new(xtask.stdout.take().context("it is piped")?);
    let hangs = stdout
        .lines()
        .map_while(Result::ok)
        .any(|line| line.contains(LAST));
    let opened = hangs.then(|| File::open(&pipe)).transpose()?;
    xtask.kill()?;
    xtask.wait()?;
    let mut opened = opened.context("the guest did not come to its hang")?;
    let (sender, ended) = mpsc::channel();
    // To its end, which is the guest's.
    thread::spawn(move || sender.send(opened.read_to_end(&mut Vec::new())));
    if ended.recv_timeout(CLOSED).is_err() {
        let pid = fs::read_to_string(folder.path().join("pid"))?;
        process::output("sh", &["-c", &format!("kill -9 {pid}")])?;
        bail!("the guest went on without it");
    }
    Ok(())
}

#[test]
fn no_temporary_directory_is_needed() -> Result<()> {
    let missing = format!("/none, such 'folder'/{}", "x".repeat(200));
    let output = xtask_run(&["mode=selftest", "filter=boot-arguments*"])
        .env("TMPDIR", missing)
        .output()?;
    let (status, stderr) = (output.status, String::from_utf8_lossy(&output.stderr));
    ensure!(status.success(), "it ended with {status}: {stderr}");
    Ok(())
}
