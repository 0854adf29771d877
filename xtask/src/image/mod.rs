// SPDX-License-Identifier: MIT OR Apache-2.0

//! `cargo xtask image`: the card that a Raspberry Pi 4 boots from.
//!
//! The card is `target/sdcard.img`, to be written as a whole, and `target/sdcard/`, the same files
//! to be copied. The kernel's symbols stay beside them in `target/sdcard.elf`, so that a later
//! build does not take them from the kernel that is on the card; `cargo xtask serial` reads them.
//! All three are complete or as they were: they are written to another folder first.

pub mod card;
pub mod disk;
mod firmware;

use crate::build;
use crate::workspace::{CARD_SYMBOLS, Workspace};
use anyhow::{Context, Result};
use card::Card;
use clap::Args;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Write target/sdcard.img, a bootable SD card for a Raspberry Pi 4, and its files to target/sdcard/
///
/// The firmware's own files are not part of lazymmu: --firmware says where they are. Without it
/// the card is written without them and does not boot.
#[derive(Args, Debug)]
pub struct Image {
    /// Folder with start4.elf, fixup4.dat, bcm2711-rpi-4-b.dtb and overlays/disable-bt.dtbo: the
    /// folder `boot` of the repository raspberrypi/firmware on GitHub, or the first partition of
    /// a card with Raspberry Pi OS
    #[arg(long, value_name = "DIR")]
    firmware: Option<PathBuf>,

    /// Boot arguments for the kernel, for cmdline.txt, e.g. -- mode=selftest
    // The kernel does the same without, but a card is looked at long after it was made.
    #[arg(last = true, value_name = "BOOTARGS", default_value = "mode=demo")]
    bootargs: Vec<String>,
}

impl Image {
    /// Builds the kernel, writes the card and says what to do with it.
    pub fn execute(self) -> Result<()> {
        let workspace = Workspace::find();
        // Before the build: what is wrong with it can be said at once.
        let firmware = match &self.firmware {
            Some(folder) => firmware::read(folder)?,
            None => Vec::new(),
        };
        let bootargs = self.bootargs.join(" ");
        card::command_line(&bootargs)?;
        let artifacts = build::build(&workspace)?;
        let kernel = read(&artifacts.image)?;
        let card = Card::new(kernel, &bootargs, firmware)?;
        let symbols = read(&artifacts.elf)?;
        let places = Places::below(workspace.target());
        places.write(&card, &symbols)?;
        print!("{}", summary(&card, &places, &workspace));
        Ok(())
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Where a card is written.
#[derive(Debug)]
pub struct Places {
    /// The card as a whole.
    pub image: PathBuf,
    /// Its files.
    folder: PathBuf,
    /// The symbols of its kernel.
    symbols: PathBuf,
}

impl Places {
    /// The usual names in `target`.
    pub fn below(target: &Path) -> Self {
        Self {
            image: target.join("sdcard.img"),
            folder: target.join("sdcard"),
            symbols: target.join(CARD_SYMBOLS),
        }
    }

    /// Writes everything to another folder, then renames.
    ///
    /// # Errors
    ///
    /// When the files do not fit on a card, or cannot be written.
    pub fn write(&self, card: &Card, symbols: &[u8]) -> Result<()> {
        let partial = self.folder.with_added_extension("partial");
        remove_folder(&partial)?;
        let new = Self::below(&partial);
        card.write_folder(&new.folder)?;
        for (path, bytes) in [
            (&new.image, &disk::with(card)?[..]),
            (&new.symbols, symbols),
        ] {
            fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        remove_folder(&self.folder)?;
        let renamed = [
            (&new.folder, &self.folder),
            (&new.image, &self.image),
            (&new.symbols, &self.symbols),
        ];
        for (from, to) in renamed {
            fs::rename(from, to).with_context(|| format!("cannot write {}", to.display()))?;
        }
        remove_folder(&partial)
    }
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// What was written, and what a person does next.
fn summary(card: &Card, places: &Places, workspace: &Workspace) -> String {
    let image = workspace.shown(&places.image);
    let folder = workspace.shown(&places.folder);
    let mut text = format!(
        "{image} ({} MiB, one FAT32 partition), and its files in {folder}/:\n",
        disk::SIZE >> 20
    );
    for file in &card.files {
        text.push_str(&format!("  {:8} {}\n", file.bytes.len(), file.path));
    }
    let lacks = card.lacks();
    if lacks.is_empty() {
        text.push_str(&format!(
            "Next: write {image} to a card with Raspberry Pi Imager (\"Use custom\"), or copy what is in {folder}/\n\
             to an empty card with FAT32. Then type `cargo xtask serial` and switch the board on; docs/raspberry-pi-4.md\n\
             has the wiring. The firmware's files have licenses of their own: mind them before you pass the image on.\n"
        ));
    } else {
        text.push_str(&format!(
            "This card does NOT boot yet. It lacks the firmware's files:\n  {}\n{}\n\
             Next: put them into a folder and type `cargo xtask image --firmware FOLDER`, or copy them to the card.\n",
            lacks.join("\n  "),
            firmware::SOURCES
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use card::File;

    fn card(firmware: Vec<File>) -> Card {
        Card::new(b"kernel".to_vec(), "mode=demo", firmware).expect("it is one line")
    }

    fn complete() -> Card {
        card(
            firmware::PARTS
                .iter()
                .map(|part| File::new(part.path, part.path))
                .collect(),
        )
    }

    #[test]
    fn folder_and_image_hold_the_same_and_replace_what_was_there() {
        let target = tempfile::tempdir().expect("there is room");
        let places = Places::below(target.path());
        places.write(&complete(), b"old").expect("there is room");
        let card = card(vec![File::new("overlays/disable-bt.dtbo", "other")]);
        places.write(&card, b"symbols").expect("there is room");

        let disk = fs::read(&places.image).expect("it was written");
        for file in &card.files {
            let copy = fs::read(places.folder.join(&file.path)).expect("it was written");
            assert_eq!(copy, file.bytes, "{}", file.path);
            assert_eq!(disk::read(&disk, &file.path).expect("it is there"), copy);
        }
        assert!(!places.folder.join("start4.elf").exists());
        assert_eq!(
            fs::read(&places.symbols).expect("it was written"),
            b"symbols"
        );
        let entries = fs::read_dir(target.path()).expect("it is there").count();
        assert_eq!(entries, 3, "something partial was left");
    }

    #[test]
    fn failure_leaves_everything_as_it_was() {
        let target = tempfile::tempdir().expect("there is room");
        let places = Places::below(target.path());
        places.write(&complete(), b"old").expect("there is room");
        let before = fs::read(&places.image).expect("it was written");
        let too_large = card(vec![File::new("start4.elf", vec![0; disk::SIZE])]);
        places
            .write(&too_large, b"new")
            .expect_err("it does not fit");
        assert!(fs::read(&places.image).expect("it is there") == before);
        assert_eq!(fs::read(&places.symbols).expect("it is there"), b"old");
        let old = fs::read(places.folder.join("start4.elf")).expect("it is there");
        assert_eq!(old, b"start4.elf");
    }

    #[test]
    fn summary_says_what_to_do_next_and_names_no_device() {
        let workspace = Workspace::at("/checkout".into(), "/checkout/target".into());
        let places = Places::below(workspace.target());
        let text = summary(&complete(), &places, &workspace);
        assert!(
            text.contains("Next: write target/sdcard.img to a card"),
            "{text}"
        );
        assert!(!text.contains("NOT boot"), "{text}");
        let text = summary(&card(Vec::new()), &places, &workspace);
        for part in firmware::PARTS {
            assert!(text.contains(part.path), "{text}");
        }
        assert!(text.contains("does NOT boot yet"), "{text}");
        assert!(!text.contains("/dev/"), "{text}");
    }
}
