// SPDX-License-Identifier: MIT OR Apache-2.0

//! llvm-mca and the disassembler that belongs to it.
//!
//! llvm-mca reads assembly text and does not look into `.inst`, so the words go through llvm-mc of
//! the same LLVM first: its text is what the assembler in llvm-mca takes, branch targets included, which
//! llvm-objdump writes as addresses.

use super::estimate::Estimate;
use crate::failure::Failure;
use crate::process;
use anyhow::{Context, Result, ensure};
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// The CPU whose pipelines are looked at.
pub const CPU: &str = "cortex-a72";
/// Rounds of a loop that are simulated: enough that filling the pipeline does not show.
const ITERATIONS: u32 = 1000;

/// An LLVM that has both programs.
#[derive(Debug, PartialEq, Eq)]
pub struct Mca {
    analyzer: PathBuf,
    disassembler: PathBuf,
}

impl Mca {
    /// Looks for `llvm-mca` in PATH, or else for the newest `llvm-mca-N`.
    ///
    /// # Errors
    ///
    /// When there is none; the error says what to install.
    pub fn find() -> Result<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        Self::find_in(&path).context(Failure::new(
            1,
            "llvm-mca and llvm-mc of the same version are needed; on Debian and Ubuntu type `apt install llvm`",
        ))
    }

    fn find_in(path: &OsStr) -> Option<Self> {
        let mut found: Vec<(u32, Self)> = Vec::new();
        for dir in env::split_paths(path) {
            let Ok(entries) = fs::read_dir(&dir) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name();
                let Some(suffix) = name.to_str().and_then(|name| name.strip_prefix("llvm-mca"))
                else {
                    continue;
                };
                let Some(version) = version_in(suffix) else {
                    continue;
                };
                let disassembler = dir.join(format!("llvm-mc{suffix}"));
                // The first in PATH goes before others of the same version.
                let is_new = found.iter().all(|(known, _)| *known != version);
                if is_new && entry.path().is_file() && disassembler.is_file() {
                    let analyzer = entry.path();
                    let mca = Self {
                        analyzer,
                        disassembler,
                    };
                    found.push((version, mca));
                }
            }
        }
        let newest = found.into_iter().max_by_key(|(version, _)| *version)?;
        Some(newest.1)
    }

    /// The version that llvm-mca says it has.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn version(&self) -> Result<String> {
        let text = process::output(&self.analyzer, &["--version"])?;
        let version = text.split_once("LLVM version ").map(|(_, rest)| rest);
        let version = version.and_then(|rest| rest.split_whitespace().next());
        Ok(version.unwrap_or("of unknown version").to_owned())
    }

    /// The assembly of `words`, a line each. `file` is written for llvm-mc.
    ///
    /// # Errors
    ///
    /// When llvm-mc fails, or does not know one of them.
    pub fn disassemble(&self, words: &[u32], file: &Path) -> Result<String> {
        let bytes: String = words.iter().map(|word| bytes_of(*word)).collect();
        let arguments = ["--disassemble", "-triple=aarch64", written(&bytes, file)?];
        let text = process::output(&self.disassembler, &arguments)?;
        // It leaves out what it does not know, and is content.
        let lines: Vec<_> = text.lines().filter(|line| is_instruction(line)).collect();
        ensure!(
            lines.len() == words.len(),
            "{} decodes {} of {} instructions of a loop: a newer LLVM may know them all",
            self.disassembler.display(),
            lines.len(),
            words.len()
        );
        Ok(lines.join("\n") + "\n")
    }

    /// What a loop of `assembly` costs. `file` is written for llvm-mca.
    ///
    /// # Errors
    ///
    /// When llvm-mca fails, or prints what cannot be read.
    pub fn estimate(&self, assembly: &str, file: &Path) -> Result<Estimate> {
        let (cpu, iterations) = (format!("-mcpu={CPU}"), format!("-iterations={ITERATIONS}"));
        let arguments = [
            "-mtriple=aarch64",
            &cpu,
            &iterations,
            written(assembly, file)?,
        ];
        let text = process::output(&self.analyzer, &arguments)?;
        Estimate::parse(&text)
            .with_context(|| format!("cannot read what {} prints", self.analyzer.display()))
    }
}

/// The version that a program's name ends with; a name without one goes before all.
fn version_in(suffix: &str) -> Option<u32> {
    if suffix.is_empty() {
        return Some(u32::MAX);
    }
    suffix.strip_prefix('-')?.parse().ok()
}

/// A line of bytes as llvm-mc takes them.
fn bytes_of(word: u32) -> String {
    let [a, b, c, d] = word.to_le_bytes();
    format!("{a:#04x} {b:#04x} {c:#04x} {d:#04x}\n")
}

/// Whether it is not a directive, which begins with a dot.
fn is_instruction(line: &str) -> bool {
    let line = line.trim_start();
    !line.is_empty() && !line.starts_with('.')
}

/// The name of `file`, in which `text` is now.
fn written<'f>(text: &str, file: &'f Path) -> Result<&'f str> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let name = file.to_str();
    name.with_context(|| format!("the name of {} is no UTF-8", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn directory(names: &[&str]) -> Result<TempDir> {
        let dir = TempDir::new()?;
        for name in names {
            fs::write(dir.path().join(name), "")?;
        }
        Ok(dir)
    }

    fn found(dirs: &[&TempDir]) -> Result<Option<String>> {
        let path = env::join_paths(dirs.iter().map(|dir| dir.path()))?;
        let mca = Mca::find_in(&path);
        Ok(mca.map(|mca| format!("{} {}", mca.analyzer.display(), mca.disassembler.display())))
    }

    fn pair(dir: &TempDir, suffix: &str) -> Option<String> {
        let dir = dir.path().display();
        Some(format!("{dir}/llvm-mca{suffix} {dir}/llvm-mc{suffix}"))
    }

    #[test]
    fn the_plain_name_is_preferred_then_the_newest_version() -> Result<()> {
        let versions = ["llvm-mca-9", "llvm-mc-9", "llvm-mca-14", "llvm-mc-14"];
        let (old, plain) = (directory(&versions)?, directory(&["llvm-mca", "llvm-mc"])?);
        assert_eq!(found(&[&old])?, pair(&old, "-14"));
        assert_eq!(found(&[&old, &plain])?, pair(&plain, ""));
        Ok(())
    }

    #[test]
    fn the_first_directory_goes_before_others_and_half_a_pair_is_none() -> Result<()> {
        let both = ["llvm-mca-14", "llvm-mc-14"];
        let (half, first, second) = (
            directory(&["llvm-mca", "llvm-mca-15", "llvm-mc-16", "llvm-mca-x"])?,
            directory(&both)?,
            directory(&both)?,
        );
        assert_eq!(found(&[&half, &first, &second])?, pair(&first, "-14"));
        assert_eq!(found(&[&half])?, None);
        Ok(())
    }

    #[test]
    fn words_are_bytes_for_llvm_mc_and_directives_are_no_instructions() {
        assert_eq!(bytes_of(0xa984_0d1f), "0x1f 0x0d 0x84 0xa9\n");
        assert!(is_instruction("\tb.ne\t#-24"));
        assert!(!is_instruction("\t.text"));
        assert!(!is_instruction(""));
    }
}
