// SPDX-License-Identifier: MIT OR Apache-2.0

//! The flat kernel image: what a boot loader copies to memory, byte for byte.
//!
//! Made from the ELF file's loadable segments at their physical addresses; what
//! a segment only reserves (bss) is left out, and the header's `image_size` tells
//! the loader to keep that memory free. The arm64 Image header (64 bytes, Linux:
//! Documentation/arch/arm64/booting.rst) is written by the boot crate and checked
//! here, because QEMU takes a file without it in silence and boots it differently.

use anyhow::{Context, Result, bail, ensure};
use object::elf::PT_LOAD;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SectionKind};

/// Bytes that the flat image must stay below.
pub const SIZE_LIMIT: usize = 2 << 20;
/// Bytes from a 2 MiB boundary to the image, on every board.
const TEXT_OFFSET: u64 = 0x8_0000;
const TWO_MIB: u64 = 2 << 20;
const MAGIC: [u8; 4] = *b"ARM\x64";

/// Flattens the kernel's ELF file.
///
/// # Errors
///
/// When the file has no loadable segment, segments overlap or leave the file,
/// the Image header does not fit what is linked, or the image reaches
/// [`SIZE_LIMIT`]; that error names the largest symbols.
pub fn from_elf(elf: &[u8]) -> Result<Vec<u8>> {
    let file = ElfFile64::<Endianness>::parse(elf).context("the kernel is no 64-bit ELF file")?;
    let endian = file.endian();
    let mut segments = Vec::from_iter(file.elf_program_headers());
    segments.retain(|segment| segment.p_type(endian) == PT_LOAD && segment.p_memsz(endian) > 0);
    segments.sort_by_key(|segment| segment.p_paddr(endian));
    let first = segments.first();
    let base = first
        .context("the kernel has no loadable segment; check linker.ld")?
        .p_paddr(endian);

    // Sizes first: a segment with a wrong physical address would otherwise ask
    // for an image of exabytes.
    let (mut file_end, mut memory_end) = (base, base);
    for segment in &segments {
        let start = segment.p_paddr(endian);
        ensure!(
            start >= memory_end,
            "linker.ld: the segment at physical {start:#x} overlaps the one that ends at {memory_end:#x}"
        );
        memory_end = start
            .checked_add(segment.p_memsz(endian))
            .with_context(|| {
                format!("linker.ld: the segment at physical {start:#x} wraps around")
            })?;
        if segment.p_filesz(endian) > 0 {
            file_end = start + segment.p_filesz(endian);
        }
    }
    let size = file_end - base;
    if size >= SIZE_LIMIT as u64 {
        bail!(
            "the flat image is {size} bytes (physical {base:#x}..{file_end:#x}); it must stay below {SIZE_LIMIT}\n{}",
            largest(&file)
        );
    }

    let mut image = vec![0; usize::try_from(size)?];
    for segment in &segments {
        let bytes = segment.data(endian, elf).ok();
        let bytes = bytes.context("the kernel's ELF file is shorter than its segments say")?;
        if !bytes.is_empty() {
            let start = usize::try_from(segment.p_paddr(endian) - base)?;
            image[start..start + bytes.len()].copy_from_slice(bytes);
        }
    }
    check_header(&image, base, memory_end - base)?;
    Ok(image)
}

/// Checks the arm64 Image header against the linked addresses.
fn check_header(image: &[u8], base: u64, memory_size: u64) -> Result<()> {
    let Some(header) = image.first_chunk::<64>() else {
        bail!(
            "the flat image is {} bytes, less than the 64 of an arm64 Image header",
            image.len()
        );
    };
    let field = |index: usize| u64::from_le_bytes(header.as_chunks().0[index]);
    let (text_offset, image_size, flags) = (field(1), field(2), field(3));
    let magic = &header[0x38..0x3c];
    ensure!(
        *magic == MAGIC,
        "no arm64 Image header: bytes 0x38..0x3c are {magic:02x?}, not \"ARM\\x64\"; \
         the header's section must come first in linker.ld"
    );
    ensure!(
        text_offset == TEXT_OFFSET && base % TWO_MIB == TEXT_OFFSET,
        "arm64 Image header: text_offset is {text_offset:#x} and the image is linked at physical {base:#x}; \
         both must be {TEXT_OFFSET:#x} modulo 2 MiB"
    );
    ensure!(
        image_size >= memory_size,
        "arm64 Image header: image_size is {image_size:#x}, but the kernel with its bss needs {memory_size:#x}; \
         a loader would put the device tree into the bss"
    );
    ensure!(
        flags & 0b111 == 0b010,
        "arm64 Image header: flags are {flags:#x}; bits 2:0 must be 0b010 (little-endian, 4 KiB pages)"
    );
    Ok(())
}

/// Lists the symbols that take the most room in the image, which has no bss.
fn largest(file: &ElfFile64<'_>) -> String {
    let mut symbols = Vec::new();
    for symbol in file.symbols() {
        let section = symbol.section_index();
        let section = section.and_then(|index| file.section_by_index(index).ok());
        if section.is_some_and(|section| section.kind() != SectionKind::UninitializedData) {
            symbols.push((symbol.size(), symbol.name().unwrap_or("?")));
        }
    }
    symbols.sort_unstable_by_key(|symbol| std::cmp::Reverse(symbol.0));
    let mut text = String::from("largest symbols:\n");
    for (size, name) in symbols.iter().take(12) {
        let name = rustc_demangle::demangle(name);
        text += &format!("{size:>10}  {name:#}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A segment: physical address, bytes in the file, bytes in memory.
    type Segment<'a> = (u64, &'a [u8], u64);

    const BASE: u64 = 0x4028_0000;

    /// An ELF file of these segments and nothing else.
    fn elf(segments: &[Segment<'_>]) -> Vec<u8> {
        let (header, entry) = (64, 56);
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        file.extend([2, 0, 183, 0, 1, 0, 0, 0]); // ET_EXEC, EM_AARCH64, version
        file.extend([0; 8]); // e_entry
        file.extend((header as u64).to_le_bytes()); // e_phoff
        file.extend([0; 12]); // e_shoff, e_flags
        for half in [header, entry, segments.len(), 64, 0, 0] {
            file.extend((half as u16).to_le_bytes());
        }
        let mut offset = header + entry * segments.len();
        for (address, bytes, memory) in segments {
            file.extend([1, 0, 0, 0, 4, 0, 0, 0]); // PT_LOAD, PF_R
            let virt = address
                .wrapping_sub(BASE)
                .wrapping_add(0xffff_ffff_8008_0000);
            for field in [
                offset as u64,
                virt,
                *address,
                bytes.len() as u64,
                *memory,
                0,
            ] {
                file.extend(field.to_le_bytes());
            }
            offset += bytes.len();
        }
        segments
            .iter()
            .for_each(|(_, bytes, _)| file.extend(*bytes));
        file
    }

    /// An arm64 Image header and one more word.
    fn text(image_size: u64) -> Vec<u8> {
        let mut text = vec![0; 8];
        for field in [TEXT_OFFSET, image_size, 0xa, 0, 0, 0] {
            text.extend(u64::to_le_bytes(field));
        }
        text.extend(MAGIC);
        text.extend([0; 4]);
        text.extend(b"text");
        text
    }

    fn message(elf: &[u8]) -> String {
        format!("{:#}", from_elf(elf).expect_err("the kernel is refused"))
    }

    #[test]
    fn segments_stand_at_their_physical_distance_and_bss_is_left_out() {
        let text = text(0x4000);
        let elf = elf(&[(BASE + 0x1000, b"data", 0x3000), (BASE, &text, 68)]);
        let image = from_elf(&elf).expect("the kernel is well formed");
        assert_eq!(image.len(), 0x1004);
        assert_eq!(image[..68], text);
        assert!(image[68..0x1000].iter().all(|byte| *byte == 0));
        assert_eq!(image[0x1000..], *b"data");
    }

    #[test]
    fn image_size_must_cover_the_bss() {
        let text = text(0x3fff);
        let error = message(&elf(&[(BASE, &text, 68), (BASE + 0x1000, b"data", 0x3000)]));
        assert!(
            error.contains("image_size is 0x3fff") && error.contains("0x4000"),
            "{error}"
        );
    }

    #[test]
    fn header_must_be_there_and_fit() {
        assert!(message(&elf(&[(BASE, b"short", 5)])).contains("less than the 64"));
        assert!(message(&elf(&[(BASE, &[0; 80], 80)])).contains("no arm64 Image header"));
        assert!(message(&elf(&[(BASE + 0x1000, &text(0x100), 68)])).contains("modulo 2 MiB"));
        let mut big_endian = text(0x100);
        big_endian[24] |= 1;
        assert!(message(&elf(&[(BASE, &big_endian, 68)])).contains("bits 2:0"));
    }

    #[test]
    fn size_is_refused_before_it_is_allocated() {
        let text = text(0x1000);
        let stray = elf(&[(BASE, &text, 68), (0xffff_ffff_8008_0000, b"stray", 5)]);
        assert!(message(&stray).contains("must stay below 2097152"));
        let large = vec![0; SIZE_LIMIT];
        assert!(message(&elf(&[(BASE, &large, 0x8_0000)])).contains("must stay below 2097152"));
    }

    #[test]
    fn segments_must_not_overlap_or_wrap_around() {
        let text = text(0x1000);
        assert!(message(&elf(&[(BASE, &text, 68), (BASE + 64, b"more", 4)])).contains("overlaps"));
        assert!(message(&elf(&[(u64::MAX - 1, b"more", 4)])).contains("wraps around"));
        assert!(message(&elf(&[])).contains("no loadable segment"));
        assert!(message(b"not ELF").contains("ELF"));
    }
}
