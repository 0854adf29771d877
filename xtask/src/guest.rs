// SPDX-License-Identifier: MIT OR Apache-2.0

//! One supervised QEMU process: started, read, timed, and never left behind. A round of
//! `--soak` is supervised in the same way.
//!
//! A guest dies with xtask, however that ends: dropping [`Guest`] kills it, and so does the
//! [guard](crate::guard). QEMU has a process group of its own, so that Ctrl-C reaches xtask alone
//! and is answered in one place.

use crate::console::{self, Console};
use crate::failure::{self, Failure};
use crate::{guard, scratch};
use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// How often a waiting supervisor looks at the clock and at Ctrl-C.
const TICK: Duration = Duration::from_millis(50);
/// Time for QEMU to end after the kernel announced its end.
const GOODBYE: Duration = Duration::from_secs(2);
/// Time for the standard error of a guest that has ended to be closed.
const CLOSED: Duration = Duration::from_secs(20);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// How many [`Answering`] there are.
static ANSWERING: AtomicUsize = AtomicUsize::new(0);

/// How long a guest may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest time without a byte on the console.
    pub silence: Duration,
    /// Longest time in all.
    pub total: Duration,
}

/// How a guest ended.
#[derive(Debug)]
pub enum End {
    /// QEMU ended by itself.
    Exited(ExitStatus),
    /// The kernel announced its end but left QEMU running.
    Halted,
    /// A limit passed; the text says which.
    Hung(String),
    /// Ctrl-C.
    Interrupted,
}

/// What remains of a guest.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub end: End,
    /// How long it ran.
    pub duration: Duration,
    /// What QEMU itself had to say.
    pub stderr: String,
    /// Where the guest's CPUs were when it hung, empty otherwise.
    pub stuck_at: Vec<String>,
}

/// Answers SIGINT, SIGTERM and SIGHUP from now on.
pub fn answer_signals() {
    if let Err(error) = ctrlc::set_handler(|| interrupt(failure::INTERRUPTED)) {
        eprintln!("warning: Ctrl-C will not be handled: {error}");
    }
}

/// Interrupts xtask. While there is a guest or an [`Answering`], its owner reports and cleans up;
/// without such a one, and when called again, xtask ends at once with `status`.
pub fn interrupt(status: u8) {
    let first = !INTERRUPTED.swap(true, Ordering::SeqCst);
    if !first || ANSWERING.load(Ordering::SeqCst) == 0 {
        scratch::remove_all();
        process::exit(status.into());
    }
}

/// Tells whether Ctrl-C was pressed, or xtask has another reason to end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// An error after Ctrl-C, with `report`: what a boot or a build said then means nothing.
pub fn stop_if_interrupted(report: &str) -> Result<()> {
    if interrupted() {
        return Err(Failure::new(failure::INTERRUPTED, report).into());
    }
    Ok(())
}

/// While it lives, Ctrl-C only makes [`interrupted`] true: its owner looks there often, and leaves
/// things as they should be.
#[derive(Debug)]
pub struct Answering(());

impl Answering {
    /// From now on.
    pub fn begin() -> Self {
        ANSWERING.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        ANSWERING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Kills a guest and what it may have started: `LAZYMMU_QEMU` can be a script.
fn kill(child: &mut Child) {
    // Once it is waited for, its number may be another process's.
    if let Ok(None) = child.try_wait()
        && let Ok(group) = i32::try_from(child.id())
    {
        // The child leads a process group of its own (`guard::start`).
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

/// A running QEMU.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    output: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    started: Instant,
    _answering: Answering,
}

impl Guest {
    /// Starts `command` with its output captured.
    ///
    /// # Errors
    ///
    /// When the program cannot be started.
    pub fn start(mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let _answering = Answering::begin();
        let mut child = guard::start(&mut command)
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdout = child.stdout.take();
        let errors = child.stderr.take();

        let (sender, output) = mpsc::channel();
        if let Some(stdout) = stdout {
            thread::spawn(move || pump(stdout, &sender));
        }
        let (stderr_sender, stderr) = mpsc::channel();
        if let Some(mut errors) = errors {
            thread::spawn(move || {
                let mut text = Vec::new();
                // What was read before an error is still worth showing. The receiver may be gone.
                let _ = errors.read_to_end(&mut text);
                let _ = stderr_sender.send(text);
            });
        }
        Ok(Self {
            child,
            output,
            stderr,
            started: Instant::now(),
            _answering,
        })
    }

    /// Ends the guest and returns what QEMU itself had to say.
    pub fn stop(mut self) -> String {
        kill(&mut self.child);
        let stderr = self.stderr.recv_timeout(CLOSED).unwrap_or_default();
        String::from_utf8_lossy(&stderr).trim().to_owned()
    }

    /// Follows the guest to its end.
    ///
    /// Every console line goes through `console` to `sink`. When a limit passes,
    /// `inspect` is asked where the CPUs are before the guest is killed.
    ///
    /// # Errors
    ///
    /// When the process cannot be waited for.
    pub fn supervise(
        mut self,
        limits: Option<Limits>,
        console: &mut Console,
        mut sink: impl FnMut(&str),
        inspect: impl FnOnce(&Console) -> Vec<String>,
    ) -> Result<Ended> {
        let mut heard = Instant::now();
        let mut farewell: Option<Instant> = None;
        let mut stuck_at = Vec::new();
        let mut end = loop {
            match self.output.recv_timeout(TICK) {
                Ok(bytes) => {
                    heard = Instant::now();
                    console.feed(&bytes, &mut sink);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // Its standard output is closed; the process follows.
                    if let Some(status) = self.child.try_wait()? {
                        break End::Exited(status);
                    }
                    thread::sleep(TICK / 10);
                }
            }
            if interrupted() {
                break End::Interrupted;
            }
            if console.announced().is_some()
                && farewell.get_or_insert_with(Instant::now).elapsed() > GOODBYE
            {
                break End::Halted;
            }
            if let Some(why) =
                limits.and_then(|limits| limits.passed(self.started.elapsed(), heard.elapsed()))
            {
                stuck_at = inspect(console);
                break End::Hung(why);
            }
        };
        console.flush(&mut sink);
        kill(&mut self.child);
        // Its standard error ends with it, unless something escaped from its group.
        let mut stderr = self.stderr.recv_timeout(CLOSED).unwrap_or_default();
        if console::announces_end(&stderr) {
            // The kernel found no UART, and printed by semihosting.
            console.feed(&std::mem::take(&mut stderr), &mut sink);
            if let End::Hung(_) = end {
                end = End::Halted;
            }
        }
        Ok(Ended {
            end: if interrupted() { End::Interrupted } else { end },
            duration: self.started.elapsed(),
            stderr: String::from_utf8_lossy(&stderr).trim().to_owned(),
            stuck_at,
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        kill(&mut self.child);
        // An error says that it was waited for before.
        let _ = self.child.wait();
        guard::forget(self.child.id());
    }
}

impl Limits {
    /// Says which limit has passed.
    fn passed(self, total: Duration, silence: Duration) -> Option<String> {
        if total > self.total {
            Some(format!("it did not end within {} s", self.total.as_secs()))
        } else if silence > self.silence {
            Some(format!(
                "it printed nothing for {} s",
                self.silence.as_secs()
            ))
        } else {
            None
        }
    }
}

/// Sends what the guest prints until it closes its output.
fn pump(mut from: impl Read, to: &Sender<Vec<u8>>) {
    let mut chunk = [0; 4096];
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return,
            Ok(length) => {
                if to.send(chunk[..length].to_vec()).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Lets `command` have `file` under the number that it has here.
pub fn hand_over(command: &mut Command, file: OwnedFd) {
    let keep = move || {
        fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: the closure runs between fork and exec and makes one
    // async-signal-safe system call; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(keep) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    const PATIENT: Limits = Limits {
        silence: Duration::from_secs(20),
        total: Duration::from_secs(20),
    };

    fn script(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    fn supervise(text: &str, limits: Limits) -> (Ended, Vec<String>) {
        let mut console = Console::default();
        let mut lines = Vec::new();
        let guest = Guest::start(script(text)).expect("sh starts");
        let ended = guest
            .supervise(
                Some(limits),
                &mut console,
                |line| lines.push(line.to_owned()),
                |_| vec!["in a loop".to_owned()],
            )
            .expect("sh can be waited for");
        (ended, lines)
    }

    #[test]
    fn exit_status_output_and_errors_are_kept() {
        let (ended, lines) = supervise("echo one; printf two; echo why >&2; exit 3", PATIENT);
        assert!(matches!(ended.end, End::Exited(status) if status.code() == Some(3)));
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(ended.stderr, "why");
    }

    #[test]
    fn silence_is_a_hang() {
        let limits = Limits {
            silence: Duration::from_millis(200),
            ..PATIENT
        };
        let (ended, _) = supervise("exec sleep 60", limits);
        assert!(matches!(ended.end, End::Hung(why) if why.contains("printed nothing")));
        assert_eq!(ended.stuck_at, ["in a loop"]);
    }

    #[test]
    fn endless_chatter_is_a_hang_too() {
        let limits = Limits {
            total: Duration::from_millis(300),
            ..PATIENT
        };
        let (ended, _) = supervise("while :; do echo again; sleep 0.05; done", limits);
        assert!(matches!(ended.end, End::Hung(why) if why.contains("did not end")));
    }

    #[test]
    fn announced_end_without_power_off_is_no_hang() {
        let (ended, _) = supervise("echo 'lazymmu: exit 0'; exec sleep 60", PATIENT);
        assert!(matches!(ended.end, End::Halted));
    }

    #[test]
    fn what_a_script_started_dies_with_it() {
        let text = "echo why >&2; sleep 60 & echo 'lazymmu: exit 0'; wait";
        let (ended, _) = supervise(text, PATIENT);
        // The sleeping process keeps standard error open, which is read to its end.
        assert_eq!(ended.stderr, "why");
    }

    #[test]
    fn what_a_kernel_prints_by_semihosting_is_its_log() {
        let text = "echo 'error: odd' >&2; echo 'lazymmu: exit 1' >&2; exit 1";
        let mut console = Console::default();
        let ended = Guest::start(script(text))
            .and_then(|guest| guest.supervise(None, &mut console, |_| {}, |_| Vec::new()))
            .expect("sh can be waited for");
        assert_eq!(console.announced(), Some(1));
        assert_eq!(console.tail().next(), Some("error: odd"));
        assert_eq!(ended.stderr, "");
    }

    #[test]
    fn stopped_guest_leaves_its_last_words() {
        let text = "echo why >&2; echo; exec sleep 60";
        let guest = Guest::start(script(text)).expect("sh starts");
        guest.output.recv().expect("it prints");
        assert_eq!(guest.stop(), "why");
    }

    #[test]
    fn dropping_a_guest_kills_it() {
        let guest = Guest::start(script("exec sleep 60")).expect("sh starts");
        let asked = format!("kill -0 {}", guest.child.id());
        let lives = || crate::process::output("sh", &["-c", &asked]).is_ok();
        assert!(lives());
        drop(guest);
        assert!(!lives());
    }

    #[test]
    fn a_file_is_handed_over_under_its_number() {
        let (_ours, theirs) = UnixStream::pair().expect("there are numbers left");
        // Not by a redirection, which some shells know with one digit only.
        let mut command = script(&format!("test -S /dev/fd/{}", theirs.as_raw_fd()));
        hand_over(&mut command, theirs.into());
        let ended = Guest::start(command)
            .and_then(|guest| {
                guest.supervise(None, &mut Console::default(), |_| {}, |_| Vec::new())
            })
            .expect("sh can be waited for");
        assert!(matches!(ended.end, End::Exited(status) if status.success()));
    }
}
