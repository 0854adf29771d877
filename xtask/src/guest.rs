// SPDX-License-Identifier: MIT OR Apache-2.0

//! One supervised QEMU process: started, read, timed, and never left behind. A round of
//! `--soak` is supervised in the same way.
//!
//! A guest dies with xtask, whatever ends xtask: dropping [`Guest`] kills it, so
//! do the signal handler and the panic hook (panics abort, nothing is dropped),
//! and on Linux the kernel kills it when xtask itself is killed. QEMU stands in a
//! process group of its own, so that Ctrl-C reaches xtask alone and is answered
//! in one place.

use crate::console::Console;
use crate::failure;
use anyhow::{Context, Result};
use std::io::{ErrorKind, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a waiting supervisor looks at the clock and at Ctrl-C.
const TICK: Duration = Duration::from_millis(50);
/// Time for QEMU to end after the kernel announced its end.
const GOODBYE: Duration = Duration::from_secs(2);

static GUESTS: Mutex<Vec<Arc<Mutex<Child>>>> = Mutex::new(Vec::new());
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

/// Sets up that no guest outlives xtask: a signal handler and a panic hook.
pub fn leave_none_behind() {
    let installed = ctrlc::set_handler(|| {
        let first = !INTERRUPTED.swap(true, Ordering::SeqCst);
        // With a guest, its supervisor reports and cleans up, and so does who has said so; a
        // second signal or nobody to do it ends at once.
        let nobody = kill_all() == 0 && ANSWERING.load(Ordering::SeqCst) == 0;
        if nobody || !first {
            std::process::exit(i32::from(failure::INTERRUPTED));
        }
    });
    if let Err(error) = installed {
        eprintln!("warning: Ctrl-C will not be handled: {error}");
    }
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        kill_all();
        hook(info);
    }));
}

/// Tells whether Ctrl-C was pressed.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// While it lives, Ctrl-C only makes [`interrupted`] true: its owner looks there often, and leaves
/// things as they should be.
#[derive(Debug)]
pub struct Answering(());

impl Answering {
    /// From now on.
    pub fn new() -> Self {
        ANSWERING.fetch_add(1, Ordering::SeqCst);
        Self(())
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        ANSWERING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Kills every running guest and returns how many there were.
fn kill_all() -> usize {
    let guests = lock(&GUESTS);
    for guest in guests.iter() {
        kill(&mut lock(guest));
    }
    guests.len()
}

/// Kills a guest and what it may have started: `LAZYMMU_QEMU` can be a script.
fn kill(child: &mut Child) {
    // Once it is waited for, its number may be another process's.
    if let Ok(None) = child.try_wait()
        && let Ok(group) = libc::pid_t::try_from(child.id())
    {
        // SAFETY: kill takes plain numbers. The child leads a process group of its own
        // (`Guest::start`) and was not waited for, so the group has this number still.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

/// Locks even after a panic elsewhere: killing guests must always work.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running QEMU.
#[derive(Debug)]
pub struct Guest {
    child: Arc<Mutex<Child>>,
    output: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    started: Instant,
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
            .stderr(Stdio::piped())
            .process_group(0);
        die_with_parent(&mut command);
        // The list is locked across the start, so that a signal between start
        // and entry cannot miss the child.
        let mut guests = lock(&GUESTS);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdout = child.stdout.take();
        let errors = child.stderr.take();
        let child = Arc::new(Mutex::new(child));
        guests.push(Arc::clone(&child));
        drop(guests);

        let (sender, output) = mpsc::channel();
        if let Some(stdout) = stdout {
            thread::spawn(move || pump(stdout, &sender));
        }
        let (stderr_sender, stderr) = mpsc::channel();
        if let Some(mut errors) = errors {
            thread::spawn(move || {
                let mut text = Vec::new();
                // What was read before an error is still worth showing, and nobody may wait for it.
                let _ = errors.read_to_end(&mut text);
                let _ = stderr_sender.send(text);
            });
        }
        Ok(Self {
            child,
            output,
            stderr,
            started: Instant::now(),
        })
    }

    /// Tells whether it runs.
    pub fn is_running(&self) -> bool {
        matches!(lock(&self.child).try_wait(), Ok(None))
    }

    /// Ends the guest and returns what QEMU itself had to say.
    pub fn stop(self) -> String {
        kill(&mut lock(&self.child));
        let stderr = self.stderr.recv_timeout(GOODBYE).unwrap_or_default();
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
        self,
        limits: Option<Limits>,
        console: &mut Console,
        mut sink: impl FnMut(&str),
        inspect: impl FnOnce(&Console) -> Vec<String>,
    ) -> Result<Ended> {
        let mut heard = Instant::now();
        let mut farewell: Option<Instant> = None;
        let mut stuck_at = Vec::new();
        let end = loop {
            match self.output.recv_timeout(TICK) {
                Ok(bytes) => {
                    heard = Instant::now();
                    console.feed(&bytes, &mut sink);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    // Its standard output is closed; the process follows.
                    if let Some(status) = lock(&self.child).try_wait()? {
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
        kill(&mut lock(&self.child));
        // Its standard error ends with it, unless something escaped from its group.
        let stderr = self.stderr.recv_timeout(GOODBYE).unwrap_or_default();
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
        lock(&GUESTS).retain(|guest| !Arc::ptr_eq(guest, &self.child));
        let mut child = lock(&self.child);
        kill(&mut child);
        // An error says that it was waited for before.
        let _ = child.wait();
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

/// Lets Linux kill the child when the thread that starts it ends, as it does when
/// xtask is killed by SIGKILL, which no handler sees.
#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command) {
    let set = || {
        // SAFETY: prctl(PR_SET_PDEATHSIG) takes plain numbers, touches no memory of
        // ours, and is a bare system call, hence async-signal-safe.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure runs between fork and exec and makes one
    // async-signal-safe system call; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(set) };
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: &mut Command) {}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (ended, lines) = supervise("echo one; exec sleep 60", limits);
        assert!(matches!(ended.end, End::Hung(why) if why.contains("printed nothing")));
        assert_eq!(ended.stuck_at, ["in a loop"]);
        assert_eq!(lines, ["one"]);
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
        let started = Instant::now();
        let limits = Limits {
            silence: Duration::from_millis(200),
            ..PATIENT
        };
        let (ended, _) = supervise("sleep 60 & wait", limits);
        assert!(matches!(ended.end, End::Hung(_)));
        assert!(
            started.elapsed() < GOODBYE,
            "the sleeping process keeps standard error open"
        );
    }

    #[test]
    fn stopped_guest_leaves_its_last_words() {
        let guest = Guest::start(script("echo why >&2; exec sleep 60")).expect("sh starts");
        assert!(guest.is_running());
        // It has written once its standard error is a pipe with something in it.
        thread::sleep(Duration::from_millis(300));
        assert_eq!(guest.stop(), "why");
        let ended = Guest::start(script("exit 1")).expect("sh starts");
        while ended.is_running() {
            thread::sleep(TICK);
        }
    }

    #[test]
    fn dropping_a_guest_kills_it() {
        let guest = Guest::start(script("exec sleep 60")).expect("sh starts");
        let child = Arc::clone(&guest.child);
        drop(guest);
        let status = lock(&child).try_wait().expect("it was waited for");
        assert!(status.is_some_and(|status| !status.success()));
    }
}
