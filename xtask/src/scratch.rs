// SPDX-License-Identifier: MIT OR Apache-2.0

//! Folders for files that a command needs only while it runs.
//!
//! They are below the target folder, not in the system's temporary directory, which can be missing,
//! full, or have a name that another program does not take. A folder is removed when its owner is
//! dropped, or by [`remove_all`] when xtask ends before that. Every xtask with such a folder holds a
//! shared lock. An xtask that gets the lock alone therefore removes all folders: their owners were killed.

use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tempfile::TempDir;

/// The shared lock, and the folders that were made.
static OURS: Mutex<Option<(File, Vec<PathBuf>)>> = Mutex::new(None);

/// A new folder, which is removed when it is dropped.
///
/// # Errors
///
/// When it cannot be made; the error names the place.
pub fn folder(workspace: &Workspace) -> Result<TempDir> {
    let home = workspace.target().join("scratch");
    let make = || {
        let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
        fs::create_dir_all(&home)?;
        if ours.is_none() {
            *ours = Some((enter(&home)?, Vec::new()));
        }
        let folder = TempDir::new_in(&home)?;
        if let Some((_, folders)) = &mut *ours {
            folders.push(folder.path().to_owned());
        }
        io::Result::Ok(folder)
    };
    make().with_context(|| format!("cannot make a folder in {}", home.display()))
}

/// Takes the lock of `home`, and removes what has no owner.
fn enter(home: &Path) -> io::Result<File> {
    let lock = File::create(home.join("lock"))?;
    if lock.try_lock().is_ok() {
        for entry in fs::read_dir(home)?.flatten() {
            // A folder that cannot be removed disturbs no other one; the lock is no folder.
            let _ = fs::remove_dir_all(entry.path());
        }
        lock.unlock()?;
    }
    // On a file system without locks nothing is removed.
    let _ = lock.lock_shared();
    Ok(lock)
}

/// Removes all folders of this process, which is about to end.
pub fn remove_all() {
    let ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    for folder in ours.iter().flat_map(|(_, folders)| folders) {
        let _ = fs::remove_dir_all(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_owner_is_removed_and_what_has_one_stays() {
        let home = tempfile::tempdir().expect("there is room");
        let stale = home.path().join("stale");
        let make = || fs::create_dir_all(stale.join("deep")).expect("there is room");
        make();
        let first = enter(home.path()).expect("it can be locked");
        assert!(!stale.exists());
        make();
        let second = enter(home.path()).expect("it can be locked by two");
        assert!(stale.exists(), "it may be the first one's");
        drop((first, second));
        enter(home.path()).expect("it can be locked");
        assert!(!stale.exists());
    }

    #[test]
    fn folders_are_below_the_target_folder() {
        let target = tempfile::tempdir().expect("there is room");
        let workspace = Workspace::at("/".into(), target.path().to_owned());
        let folder = folder(&workspace).expect("it can be made");
        let parent = folder.path().parent();
        assert_eq!(parent, Some(&*target.path().join("scratch")));
    }

    #[test]
    fn a_place_that_takes_no_folder_is_named() {
        let file = tempfile::NamedTempFile::new().expect("there is room");
        let workspace = Workspace::at("/".into(), file.path().to_owned());
        let error = format!("{:#}", folder(&workspace).expect_err("it is a file"));
        assert!(
            error.contains(&format!("{}", file.path().display())),
            "{error}"
        );
    }
}
