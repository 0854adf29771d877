// SPDX-License-Identifier: MIT OR Apache-2.0

//! The firmware's files on a card: which they are, and where a person gets them.
//!
//! They are not ours, are no part of this repository, and are not fetched. `start4.elf` and
//! `fixup4.dat` come without source, under a license of their own (LICENCE.broadcom: to be passed
//! on unchanged, for use with a Raspberry Pi only); the device tree and the overlay are Linux's
//! (GPL-2.0). An image that has them is subject to these.

use super::card::File;
use anyhow::{Context, Result, bail};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

/// One of the firmware's files.
#[derive(Debug)]
pub struct Part {
    /// Its path on the card, and below the folder that is given.
    pub path: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// How it begins: what a browser saves instead begins otherwise.
    magic: &'static [u8],
}

/// How an ELF file begins, and how a flattened device tree.
const ELF: &[u8] = b"\x7fELF";
const TREE: &[u8] = &0xd00d_feed_u32.to_be_bytes();
/// The node by which an overlay finds what it changes. The firmware's trees have it, some of Linux's
/// builds of the same trees do not, and the firmware then leaves the overlay out.
const SYMBOLS: &[u8] = b"__symbols__\0";

const BOARD: &str = "bcm2711-rpi-4-b.dtb";

/// What a Raspberry Pi 4 needs besides the kernel; the loader before them is in its EEPROM.
#[rustfmt::skip]
pub const PARTS: [Part; 4] = [
    Part { path: "start4.elf", purpose: "the firmware", magic: ELF },
    Part { path: "fixup4.dat", purpose: "belongs to start4.elf, of the same release", magic: &[] },
    Part { path: BOARD, purpose: "the board's device tree", magic: TREE },
    Part { path: "overlays/disable-bt.dtbo", purpose: "gives the PL011 to the serial pins", magic: TREE },
];

/// Goes with the others where it is found.
const LICENSE: &str = "LICENCE.broadcom";

/// Where the files are to be had.
pub const SOURCES: &str = "\
All of them are in the folder `boot` of the repository raspberrypi/firmware on GitHub, and on the
first partition of any card with Raspberry Pi OS. (Debian's package raspi-firmware has the first
two only.) The first two are under a license of their own, LICENCE.broadcom in the same folder: for
use with a Raspberry Pi, to be passed on unchanged; the others are Linux's, GPL-2.0.";

/// Reads all files from `folder`.
///
/// # Errors
///
/// When files are missing, empty or cannot be read: one error names all of them.
pub fn read(folder: &Path) -> Result<Vec<File>> {
    if !folder.is_dir() {
        bail!(
            "{} is no folder; --firmware takes the one that start4.elf is in\n{SOURCES}",
            folder.display()
        );
    }
    let mut files = Vec::new();
    let mut problems = Vec::new();
    for part in PARTS {
        let path = part.path;
        match fs::read(folder.join(path)) {
            Ok(bytes) => match defect(path, part.magic, &bytes) {
                Some(defect) => problems.push(format!("  {path} {defect}")),
                None => files.push(File::new(path, bytes)),
            },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                problems.push(format!("  {path} is missing ({})", part.purpose));
            }
            Err(error) => problems.push(format!("  {path} cannot be read: {error}")),
        }
    }
    if !problems.is_empty() {
        bail!(
            "the firmware in {} is not complete, and no image was written:\n{}\n{SOURCES}",
            folder.display(),
            problems.join("\n")
        );
    }
    let license = folder.join(LICENSE);
    if license.is_file() {
        let text =
            fs::read(&license).with_context(|| format!("cannot read {}", license.display()))?;
        files.push(File::new(LICENSE, text));
    }
    Ok(files)
}

/// What is wrong with a file, as far as its bytes say.
fn defect(path: &str, magic: &[u8], bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("is empty");
    }
    if !bytes.starts_with(magic) {
        return Some(
            "is something else under that name: fetch the file itself, not the page about it",
        );
    }
    let symbols = || bytes.windows(SYMBOLS.len()).any(|part| part == SYMBOLS);
    if path == BOARD && !symbols() {
        return Some(
            "has no symbols for overlays, so disable-bt would be left out: take the firmware's own",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with these files, which look as they should.
    fn folder(paths: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        fs::create_dir(folder.path().join("overlays")).expect("it is new");
        for part in PARTS.iter().filter(|part| paths.contains(&part.path)) {
            let bytes = [part.magic, SYMBOLS].concat();
            fs::write(folder.path().join(part.path), bytes).expect("there is room");
        }
        folder
    }

    #[test]
    fn what_is_no_such_file_is_noticed() {
        let complete = folder(&PARTS.map(|part| part.path));
        for (path, bytes, problem) in [
            ("start4.elf", &b"<!DOCTYPE html>"[..], "not the page"),
            ("fixup4.dat", b"", "is empty"),
            (BOARD, b"\x7fELF", "not the page"),
            (BOARD, TREE, "no symbols for overlays"),
            ("overlays/disable-bt.dtbo", b"\xd0\x0d", "not the page"),
        ] {
            let path = complete.path().join(path);
            let good = fs::read(&path).expect("it is there");
            fs::write(&path, bytes).expect("there is room");
            let error = format!(
                "{:#}",
                read(complete.path()).expect_err("it is no such file")
            );
            assert!(error.contains(problem), "{problem}: {error}");
            fs::write(&path, good).expect("there is room");
        }
        assert!(read(complete.path()).is_ok());
    }

    #[test]
    fn complete_folder_is_read_with_its_license() {
        let paths = PARTS.map(|part| part.path);
        let complete = folder(&paths);
        let names = |folder: &Path| -> Vec<String> {
            let files = read(folder).expect("it is complete");
            files.into_iter().map(|file| file.path).collect()
        };
        assert_eq!(names(complete.path()), paths);
        fs::write(complete.path().join(LICENSE), "terms").expect("there is room");
        assert_eq!(names(complete.path()), [&paths[..], &[LICENSE]].concat());
    }

    #[test]
    fn one_error_names_everything_that_is_missing() {
        let incomplete = folder(&["start4.elf"]);
        fs::write(incomplete.path().join("fixup4.dat"), "").expect("there is room");
        let error = format!("{:#}", read(incomplete.path()).expect_err("files lack"));
        assert!(!error.contains("start4.elf is"), "{error}");
        for problem in [
            "fixup4.dat is empty",
            "bcm2711-rpi-4-b.dtb is missing",
            "overlays/disable-bt.dtbo is missing",
            "raspberrypi/firmware",
            "LICENCE.broadcom",
        ] {
            assert!(error.contains(problem), "{problem}: {error}");
        }
        let error = read(&incomplete.path().join("none")).expect_err("there is no folder");
        assert!(error.to_string().contains("is no folder"), "{error}");
    }
}
