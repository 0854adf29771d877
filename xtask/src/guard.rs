// SPDX-License-Identifier: MIT OR Apache-2.0

//! Ends the programs that xtask has started when xtask ends, even by SIGKILL, which no handler sees.
//!
//! Each command that may take long leads a process group of its own, whose number a shell, the guard,
//! reads from a pipe. When xtask ends, the system closes the pipe, and the guard kills the groups that
//! are left. It is in a group of its own, too, so that a signal to xtask's group does not reach it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Keeps the groups that were told and not taken back.
const SCRIPT: &str = r#"
groups=' '
while read -r sign group; do
    case $sign in
    +) groups="$groups$group " ;;
    -) groups="${groups%% $group *} ${groups#* $group }" ;;
    esac
done
for group in $groups; do kill -s KILL -- "-$group"; done
"#;

static GUARD: Mutex<Option<Child>> = Mutex::new(None);

/// Starts `command` as the leader of a process group that ends with xtask.
///
/// # Errors
///
/// When it, or the guard, cannot be started.
pub fn start(command: &mut Command) -> io::Result<Child> {
    let mut guard = GUARD.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        let mut shell = Command::new("sh");
        shell.args(["-c", SCRIPT]).process_group(0);
        shell.stdin(Stdio::piped()).stdout(Stdio::null());
        *guard = Some(shell.stderr(Stdio::null()).spawn()?);
    }
    let pipe = guard.as_ref().and_then(|guard| guard.stdin.as_ref());
    let pipe = pipe.expect("it is piped").as_fd().try_clone_to_owned()?;
    let pipe = File::from(pipe);
    // The child itself tells its number, before it becomes the program: xtask may end any moment.
    let told = move || {
        let mut line = [b' '; 16];
        writeln!(&mut line[..], "+ {}", std::process::id())?;
        // If the guard was killed, the program that killed it ends the rest as well.
        let _ = (&pipe).write_all(&line);
        Ok(())
    };
    // SAFETY: between fork and exec it allocates nothing and takes no lock: it formats a number and writes to a pipe.
    unsafe { command.pre_exec(told) };
    // If the program cannot be started, its group is empty when the guard looks for it.
    command.process_group(0).spawn()
}

/// Takes back the number of a child that was waited for: it may be another one's from now on.
pub fn forget(group: u32) {
    let guard = GUARD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(mut pipe) = guard.as_ref().and_then(|guard| guard.stdin.as_ref()) {
        let _ = pipe.write_all(format!("- {group}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The guard's script with `lines` on its standard input, and an `echo` in place of `kill`.
    fn killed(lines: &str) -> String {
        let mut shell = Command::new("sh");
        shell.args(["-c", &SCRIPT.replace("kill -s KILL --", "echo")]);
        let mut shell = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut pipe = shell.stdin.take().expect("it is piped");
        pipe.write_all(lines.as_bytes()).expect("it reads");
        drop(pipe);
        let output = shell.wait_with_output().expect("it ends");
        String::from_utf8_lossy(&output.stdout).replace('\n', " ")
    }

    #[test]
    fn groups_that_were_taken_back_are_spared() {
        assert_eq!(killed(""), "");
        assert_eq!(killed("+ 12\n+ 1\n+ 2\n- 1\n"), "-12 -2 ");
        assert_eq!(killed("+ 12\n+ 3\n- 12\n+ 123\n- 3\n"), "-123 ");
        assert_eq!(killed("+ 1\n- 1\n+ 1\n"), "-1 ");
    }
}
