// SPDX-License-Identifier: MIT OR Apache-2.0

//! The files on a card: three of lazymmu, and those of the firmware if their folder is given.

use super::firmware::PARTS;
use anyhow::{Context, Result, anyhow, ensure};
use kernel::platform::bootargs::{BootArguments, MARKER};
use std::fs;
use std::path::Path;

/// How the firmware is configured; each line of it says why.
const CONFIG: &str = include_str!("config.txt");

/// The kernel, under the name that `config.txt` gives.
pub const KERNEL: &str = "kernel8.img";
/// The boot arguments: the firmware adds its own and hands them over in the device tree.
pub const COMMAND_LINE: &str = "cmdline.txt";
const CONFIGURATION: &str = "config.txt";

/// A file on a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path from the root, with slashes.
    pub path: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl File {
    /// A file.
    pub fn new(path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            path: path.to_owned(),
            bytes: bytes.into(),
        }
    }
}

/// All files of a card.
#[derive(Clone, Debug)]
pub struct Card {
    /// In the order in which they are written.
    pub files: Vec<File>,
}

impl Card {
    /// A card with `kernel`, which is started with `bootargs`, and the firmware's files.
    ///
    /// # Errors
    ///
    /// Those of [`command_line`].
    pub fn new(kernel: Vec<u8>, bootargs: &str, firmware: Vec<File>) -> Result<Self> {
        let mut files = vec![
            File::new(CONFIGURATION, CONFIG),
            File::new(COMMAND_LINE, command_line(bootargs)?),
            File::new(KERNEL, kernel),
        ];
        files.extend(firmware);
        Ok(Self { files })
    }

    /// The firmware's files that it lacks.
    pub fn lacks(&self) -> Vec<&'static str> {
        PARTS
            .iter()
            .map(|part| part.path)
            .filter(|path| !self.files.iter().any(|file| file.path == *path))
            .collect()
    }

    /// Writes the files below `folder`, which must not exist.
    ///
    /// # Errors
    ///
    /// When a file cannot be written.
    pub fn write_folder(&self, folder: &Path) -> Result<()> {
        for file in &self.files {
            let path = folder.join(&file.path);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&path, &file.bytes))
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(())
    }
}

/// The text of [`COMMAND_LINE`]: `bootargs` after the word that separates them from the firmware's.
///
/// # Errors
///
/// When they are not one line of plain text, or the kernel would refuse them.
pub fn command_line(bootargs: &str) -> Result<String> {
    // The firmware reads the first line, as bytes.
    ensure!(
        bootargs
            .bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic()),
        "the boot arguments {bootargs:?} are not one line of ASCII text, which is all that {COMMAND_LINE} can hold"
    );
    let line = format!("{MARKER} {bootargs}");
    if let Err(error) = BootArguments::parse(&line) {
        return Err(anyhow!("the kernel would refuse this card: {error}"));
    }
    Ok(line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings in [`CONFIG`], in their order.
    fn settings() -> Vec<(&'static str, &'static str)> {
        CONFIG
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(|line| line.split_once('=').expect("a setting has a value"))
            .collect()
    }

    #[test]
    fn configuration_sets_what_the_kernel_counts_on() {
        let settings = settings();
        for needed in [
            ("arm_64bit", "1"),
            ("kernel", KERNEL),
            ("kernel_address", "0x80000"),
            ("enable_uart", "1"),
            ("dtoverlay", "disable-bt"),
            ("init_uart_clock", "48000000"),
            ("init_uart_baud", "115200"),
            ("enable_gic", "1"),
            ("uart_2ndstage", "1"),
        ] {
            assert!(settings.contains(&needed), "{needed:?}");
        }
        let mut keys: Vec<_> = settings.iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), settings.len(), "a key is there twice");
        // The overlay's name and that of its file.
        assert!(
            PARTS
                .iter()
                .any(|part| part.path == "overlays/disable-bt.dtbo")
        );
    }

    #[test]
    fn configuration_is_what_the_firmware_can_read_and_gives_reasons() {
        let mut reason = false;
        for line in CONFIG.lines() {
            assert!(line.len() <= 78 && line.is_ascii(), "{line}");
            match line.as_bytes() {
                [] => reason = false,
                [b'#', ..] => reason = true,
                _ => assert!(reason, "no reason above {line}"),
            }
        }
    }

    #[test]
    fn boot_arguments_are_one_line() {
        let line = |bootargs| {
            Card::new(Vec::new(), bootargs, Vec::new()).map(|card| card.files[1].bytes.clone())
        };
        assert_eq!(
            line("mode=selftest filter=lazy*").ok(),
            Some(b"lazymmu mode=selftest filter=lazy*\n".to_vec())
        );
        for bad in ["mode=demo\nlog=debug", "mode=d\u{e9}mo", "a\tb"] {
            assert!(line(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_the_kernel_refuses_is_refused_in_its_words() {
        for bad in [
            "mode=bogus",
            "mode",
            "lasy=eager",
            "log=info log=info",
            "lazymmu",
            "filter=a..b",
        ] {
            let kernels = BootArguments::parse(&format!("lazymmu {bad}"))
                .expect_err(bad)
                .to_string();
            let ours = command_line(bad).expect_err(bad).to_string();
            assert!(ours.ends_with(&kernels), "{ours}");
        }
    }

    #[test]
    fn what_a_card_lacks_is_known() {
        let card = |firmware| Card::new(Vec::new(), "mode=demo", firmware).expect("it is one line");
        assert_eq!(card(Vec::new()).lacks(), PARTS.map(|part| part.path));
        let firmware = vec![File::new("start4.elf", "x")];
        assert_eq!(
            card(firmware).lacks(),
            PARTS[1..].iter().map(|part| part.path).collect::<Vec<_>>()
        );
    }
}
