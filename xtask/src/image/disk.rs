// SPDX-License-Identifier: MIT OR Apache-2.0

//! A card as the bytes of a disk: a partition table (MBR) and one FAT32 volume.
//!
//! The loader in the board's EEPROM reads FAT16 and FAT32 in the first partition of an MBR.
//! A volume is FAT32 if it has at least 65525 clusters, so a card with 3 MiB of files has 64 MiB.
//!
//! The same files give the same bytes: identifiers are constants, and every time stamp is the first
//! one of FAT, the beginning of 1980.

use super::card::{Card, File};
use anyhow::{Context, Result, ensure};
use fatfs::{
    Date, DateTime, FatType, FileSystem, FormatVolumeOptions, FsOptions, Time, TimeProvider,
};
use mbrman::{BOOT_INACTIVE, CHS, MBR, MBRPartitionEntry};
use std::io::{Cursor, Read, Write};

/// Size of a disk in bytes.
pub const SIZE: usize = 64 << 20;
const SECTOR: usize = 512;
/// Where the volume begins, in sectors: at 1 MiB, as partitioning tools place it.
const FIRST: u32 = 2048;
/// FAT32, addressed by sector number.
const TYPE_FAT32_LBA: u8 = 0x0c;
/// "The sector number is too large for this": cylinder, head and sector of old are not used.
const NO_CHS: CHS = CHS {
    cylinder: 1023,
    head: 254,
    sector: 63,
};
/// Identifies the disk, and the volume.
const SIGNATURE: u32 = 0x6c7a_6d75;
const LABEL: [u8; 11] = *b"LAZYMMU    ";
/// Where a volume says how many sectors are before it (FAT32: BPB_HiddSec), and the copy of its
/// first sector.
const HIDDEN_SECTORS: usize = 28;
const BACKUP: usize = 6 * SECTOR;

/// The clock of a volume; without one the crate writes a month 0.
#[derive(Debug)]
struct Epoch;

impl TimeProvider for Epoch {
    fn get_current_date(&self) -> Date {
        Date {
            year: 1980,
            month: 1,
            day: 1,
        }
    }

    fn get_current_date_time(&self) -> DateTime {
        DateTime {
            date: self.get_current_date(),
            time: Time {
                hour: 0,
                min: 0,
                sec: 0,
                millis: 0,
            },
        }
    }
}

/// The disk that holds `card`.
///
/// # Errors
///
/// When the files do not fit.
pub fn with(card: &Card) -> Result<Vec<u8>> {
    let first = FIRST as usize * SECTOR;
    let mut disk = Cursor::new(vec![0; SIZE]);
    let mut table = MBR::new_from(&mut disk, SECTOR as u32, SIGNATURE.to_le_bytes())?;
    table[1] = MBRPartitionEntry {
        boot: BOOT_INACTIVE,
        first_chs: NO_CHS,
        sys: TYPE_FAT32_LBA,
        last_chs: NO_CHS,
        starting_lba: FIRST,
        sectors: ((SIZE - first) / SECTOR) as u32,
    };
    table.write_into(&mut disk)?;
    let mut disk = disk.into_inner();
    format_volume(&mut disk[first..])?;
    fill_volume(&mut disk[first..], &card.files)?;
    Ok(disk)
}

fn format_volume(volume: &mut [u8]) -> Result<()> {
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(SECTOR as u32)
        .volume_id(SIGNATURE)
        .volume_label(LABEL);
    fatfs::format_volume(Cursor::new(&mut volume[..]), options)?;
    for sector in [0, BACKUP] {
        let field = sector + HIDDEN_SECTORS;
        volume[field..field + 4].copy_from_slice(&FIRST.to_le_bytes());
    }
    Ok(())
}

fn fill_volume(volume: &mut [u8], files: &[File]) -> Result<()> {
    let options = FsOptions::new().time_provider(&Epoch);
    let volume = FileSystem::new(Cursor::new(volume), options)?;
    let root = volume.root_dir();
    for File { path, bytes } in files {
        if let Some((folder, _)) = path.rsplit_once('/') {
            root.create_dir(folder)?;
        }
        root.create_file(path)
            .and_then(|mut file| file.write_all(bytes))
            .with_context(|| {
                let (size, room) = (bytes.len(), SIZE >> 20);
                format!("{path} ({size} bytes) does not fit on the card of {room} MiB")
            })?;
    }
    drop(root);
    Ok(volume.unmount()?)
}

/// Reads the file at `path` from a disk, as a board's loader does: by the partition table and the
/// volume's own description.
///
/// # Errors
///
/// When the disk has no FAT32 volume in its first partition, or the volume no such file.
pub fn read(disk: &[u8], path: &str) -> Result<Vec<u8>> {
    let table = MBR::read_from(&mut Cursor::new(disk), SECTOR as u32)
        .context("the disk has no partition table")?;
    let partition = &table[1];
    ensure!(
        partition.sys == TYPE_FAT32_LBA,
        "the first partition has type {:#04x}, {TYPE_FAT32_LBA:#04x} is FAT32",
        partition.sys
    );
    let first = partition.starting_lba as usize * SECTOR;
    let end = first + partition.sectors as usize * SECTOR;
    let volume = disk
        .get(first..end)
        .context("the first partition reaches beyond the end of the disk")?;
    // The crate opens for reading and writing only.
    let volume = FileSystem::new(Cursor::new(volume.to_vec()), FsOptions::new())
        .context("the first partition has no FAT volume")?;
    ensure!(
        volume.fat_type() == FatType::Fat32,
        "the volume is not FAT32"
    );
    let mut bytes = Vec::new();
    volume
        .root_dir()
        .open_file(path)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .with_context(|| format!("the card has no readable {path}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel of more clusters than one, no two of them alike.
    fn card() -> Card {
        let kernel = (0..500_000_u32)
            .flat_map(|n| n.to_le_bytes())
            .take(500_001)
            .collect();
        let firmware = vec![
            File::new("start4.elf", vec![0x7f; 70_000]),
            File::new("bcm2711-rpi-4-b.dtb", "tree"),
            File::new("overlays/disable-bt.dtbo", "overlay"),
        ];
        Card::new(kernel, "mode=selftest", firmware).expect("it is one line")
    }

    #[test]
    fn every_file_is_read_back() {
        let card = card();
        let disk = with(&card).expect("it fits");
        assert_eq!(disk.len(), SIZE);
        for File { path, bytes } in &card.files {
            let found = read(&disk, path).expect(path);
            assert!(found == *bytes, "{path} has other contents");
        }
        let error = read(&disk, "fixup4.dat").expect_err("it was not written");
        assert!(error.to_string().contains("fixup4.dat"), "{error}");
    }

    #[test]
    fn same_files_make_the_same_bytes() {
        assert!(with(&card()).expect("it fits") == with(&card()).expect("it fits"));
    }

    /// Offsets and values from Microsoft's FAT specification and from the MBR's layout, not from
    /// the crates that wrote them.
    #[test]
    fn a_loader_finds_what_the_specifications_say() {
        let disk = with(&card()).expect("it fits");
        let word = |at: usize| u32::from_le_bytes(disk[at..at + 4].try_into().expect("4 bytes"));
        let half = |at: usize| u16::from_le_bytes(disk[at..at + 2].try_into().expect("2 bytes"));
        assert_eq!(disk[510..512], [0x55, 0xaa]);
        let entry = 446;
        assert_eq!(disk[entry + 4], 0x0c);
        assert_eq!((word(entry + 8), word(entry + 12)), (2048, 63 * 2048));
        assert!(disk[entry + 16..510].iter().all(|byte| *byte == 0));

        let volume = 1 << 20;
        assert_eq!(disk[volume + 510..volume + 512], [0x55, 0xaa]);
        assert_eq!(&disk[volume + 82..volume + 90], b"FAT32   ");
        assert_eq!(half(volume + 11), 512);
        assert_eq!(word(volume + 28), 2048, "sectors before the volume");
        assert_eq!(word(volume + 32), 63 * 2048);
        let per_cluster = u32::from(disk[volume + 13]);
        let tables = u32::from(disk[volume + 16]) * word(volume + 36);
        let clusters = (63 * 2048 - u32::from(half(volume + 14)) - tables) / per_cluster;
        assert!(clusters >= 65525, "{clusters} clusters are FAT16");
        let backup = volume + usize::from(half(volume + 50)) * 512;
        assert!(disk[volume..volume + 512] == disk[backup..backup + 512]);

        // The root directory, in cluster 2: the label, then the first file with its long name.
        let root = volume + (usize::from(half(volume + 14)) + tables as usize) * 512;
        let entries = disk[root..root + 512].chunks_exact(32);
        let files: Vec<&[u8]> = entries
            .filter(|entry| entry[11] & 0x18 == 0 && entry[0] != 0)
            .collect();
        assert_eq!(&files[0][..11], b"CONFIG  TXT");
        let first_day = ((1 << 5) | 1_u16).to_le_bytes();
        for file in files {
            assert_eq!(
                file[24..26],
                first_day,
                "written on the first of January 1980"
            );
            assert_eq!(file[16..18], first_day, "created on the same day");
        }
    }

    #[test]
    fn damaged_disks_are_refused() {
        let disk = with(&card()).expect("it fits");
        let broken = |at: usize, value: u8| {
            let mut disk = disk.clone();
            disk[at] = value;
            read(&disk, "kernel8.img").is_err()
        };
        assert!(broken(510, 0), "no partition table");
        assert!(broken(450, 0x83), "no FAT32 partition");
        assert!(broken(461, 0xff), "a partition beyond the end");
        assert!(broken((1 << 20) + 510, 0), "no volume");
    }

    #[test]
    fn too_large_a_file_is_named() {
        let mut card = card();
        card.files[2].bytes = vec![1; SIZE];
        let error = with(&card).expect_err("it is as large as the disk");
        assert!(
            error.to_string().contains("kernel8.img (67108864 bytes)"),
            "{error}"
        );
    }
}
