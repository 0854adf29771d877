// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device trees as values that a test can change before they become a blob.

use std::iter;

const BEGIN: u32 = 1;
const END: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const LAST: u32 = 9;

/// A node with its properties and children.
#[derive(Clone, Debug, Default)]
pub struct Source {
    pub name: String,
    pub properties: Vec<(String, Vec<u8>)>,
    pub children: Vec<Source>,
}

/// Big-endian cells.
pub fn cells(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_be_bytes())
        .collect()
}

/// NUL-terminated strings.
pub fn texts(values: &[&str]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|text| [text.as_bytes(), &[0]].concat())
        .collect()
}

impl Source {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    pub fn cells(self, name: &str, values: &[u32]) -> Self {
        self.bytes(name, cells(values))
    }

    pub fn text(self, name: &str, value: &str) -> Self {
        self.bytes(name, texts(&[value]))
    }

    pub fn bytes(mut self, name: &str, value: Vec<u8>) -> Self {
        self.set(name, value);
        self
    }

    pub fn child(mut self, child: Source) -> Self {
        self.children.push(child);
        self
    }

    pub fn set(&mut self, name: &str, value: Vec<u8>) {
        self.remove(name);
        self.properties.push((name.into(), value));
    }

    pub fn remove(&mut self, name: &str) {
        self.properties.retain(|(other, _)| other != name);
    }

    /// The node at `path` below this one.
    pub fn at(&mut self, path: &str) -> &mut Source {
        path.split('/')
            .filter(|part| !part.is_empty())
            .fold(self, |node, part| {
                let child = node.children.iter_mut().find(|child| child.name == part);
                child.unwrap_or_else(|| panic!("no node {part}"))
            })
    }

    pub fn drop_child(&mut self, name: &str) {
        let before = self.children.len();
        self.children.retain(|child| child.name != name);
        assert!(self.children.len() < before, "no node {name}");
    }

    pub fn blob(&self) -> Vec<u8> {
        self.blob_with_reservations(&[])
    }

    pub fn blob_with_reservations(&self, reservations: &[(u64, u64)]) -> Vec<u8> {
        Layout::default().blob(self, reservations)
    }

    fn write(&self, structure: &mut Vec<u8>, strings: &mut Vec<u8>) {
        let cell = |structure: &mut Vec<u8>, value: u32| structure.extend(value.to_be_bytes());
        let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(4), 0);
        cell(structure, BEGIN);
        structure.extend(self.name.as_bytes());
        structure.push(0);
        pad(structure);
        for (name, value) in &self.properties {
            for word in [PROPERTY, value.len() as u32, strings.len() as u32] {
                cell(structure, word);
            }
            strings.extend(texts(&[name]));
            structure.extend(value);
            pad(structure);
        }
        for child in &self.children {
            child.write(structure, strings);
        }
        cell(structure, END);
    }
}

/// The layout of a blob; the default is that of dtc.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub version: u32,
    /// Whether the strings come before the structure.
    pub strings_first: bool,
    /// The number of no-operations before the root and after it.
    pub nops: usize,
    /// Bytes between header and blocks, and between the blocks.
    pub gap: usize,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            version: 17,
            strings_first: false,
            nops: 0,
            gap: 0,
        }
    }
}

impl Layout {
    pub fn blob(self, root: &Source, reservations: &[(u64, u64)]) -> Vec<u8> {
        let nops: Vec<u8> = cells(&[NOP]).repeat(self.nops);
        let (mut structure, mut strings) = (nops.clone(), Vec::new());
        root.write(&mut structure, &mut strings);
        structure.extend([nops, cells(&[LAST])].concat());

        let mut blob = vec![0; if self.version < 17 { 36 } else { 40 } + self.gap];
        blob.resize(blob.len().next_multiple_of(8), 0);
        let reserved = blob.len();
        for (start, size) in reservations.iter().chain(iter::once(&(0, 0))) {
            blob.extend([start.to_be_bytes(), size.to_be_bytes()].concat());
        }
        let mut offsets = [0; 2];
        let order = if self.strings_first { [1, 0] } else { [0, 1] };
        for index in order {
            blob.resize(blob.len() + self.gap, 0);
            offsets[index] = blob.len() as u32;
            blob.extend([&structure, &strings][index]);
        }
        let header = [
            0xd00d_feed,
            blob.len() as u32,
            offsets[0],
            offsets[1],
            reserved as u32,
            self.version,
            16,
            0,
            strings.len() as u32,
            structure.len() as u32,
        ];
        let header = cells(&header[..if self.version < 17 { 9 } else { 10 }]);
        blob[..header.len()].copy_from_slice(&header);
        blob
    }
}

/// Overwrites the node called `name` and its contents with no-operations, as libfdt's
/// `fdt_nop_node` does.
pub fn nop_node(blob: &mut [u8], name: &str) {
    let word = |blob: &[u8], at: usize| u32::from_be_bytes(blob[at..at + 4].try_into().unwrap());
    let text_end = |blob: &[u8], at: usize| {
        let length = blob[at..].iter().position(|byte| *byte == 0).unwrap();
        (at + length + 1).next_multiple_of(4)
    };
    let wanted = [&BEGIN.to_be_bytes(), name.as_bytes(), &[0]].concat();
    let start = blob
        .windows(wanted.len())
        .position(|bytes| bytes == wanted)
        .unwrap_or_else(|| panic!("no node {name}"));
    let (mut at, mut depth) = (start, 0);
    loop {
        let token = word(blob, at);
        at += 4;
        match token {
            BEGIN => {
                depth += 1;
                at = text_end(blob, at);
            }
            PROPERTY => at = (at + 8 + word(blob, at) as usize).next_multiple_of(4),
            END => depth -= 1,
            _ => panic!("token {token}"),
        }
        if depth == 0 {
            break;
        }
    }
    for bytes in blob[start..at].chunks_exact_mut(4) {
        bytes.copy_from_slice(&NOP.to_be_bytes());
    }
}

/// The essentials of QEMU virt with a GICv2.
pub fn virt() -> Source {
    let cpu = |number: u32| {
        Source::new(&format!("cpu@{number}"))
            .text("device_type", "cpu")
            .cells("reg", &[number])
            .text("enable-method", "psci")
    };
    Source::new("")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[2])
        .cells("interrupt-parent", &[1])
        .text("model", "a model")
        .bytes("compatible", texts(&["linux,dummy-virt", "other"]))
        .child(
            Source::new("psci")
                .bytes("compatible", texts(&["arm,psci-1.0", "arm,psci-0.2"]))
                .text("method", "hvc"),
        )
        .child(
            Source::new("memory@40000000")
                .text("device_type", "memory")
                .cells("reg", &[0, 0x4000_0000, 0, 0x800_0000]),
        )
        .child(
            Source::new("pl011@9000000")
                .bytes("compatible", texts(&["arm,pl011", "arm,primecell"]))
                .cells("reg", &[0, 0x900_0000, 0, 0x1000]),
        )
        .child(
            Source::new("pl011@9040000")
                .bytes("compatible", texts(&["arm,pl011", "arm,primecell"]))
                .cells("reg", &[0, 0x904_0000, 0, 0x1000]),
        )
        .child(
            Source::new("intc@8000000")
                .text("compatible", "arm,cortex-a15-gic")
                .cells("phandle", &[1])
                .cells("#interrupt-cells", &[3])
                .cells(
                    "reg",
                    &[0, 0x800_0000, 0, 0x1_0000, 0, 0x801_0000, 0, 0x1_0000],
                ),
        )
        .child(
            Source::new("cpus")
                .cells("#address-cells", &[1])
                .cells("#size-cells", &[0])
                .child(Source::new("cpu-map"))
                .child(cpu(0))
                .child(cpu(1)),
        )
        .child(
            Source::new("timer")
                .text("compatible", "arm,armv8-timer")
                .cells(
                    "interrupts",
                    &[1, 13, 0x304, 1, 14, 0x304, 1, 11, 0x304, 1, 10, 0x304],
                ),
        )
        .child(Source::new("aliases").text("serial0", "/pl011@9040000"))
        .child(
            Source::new("chosen")
                .text("stdout-path", "serial0:115200n8")
                .text("bootargs", "mode=selftest log=debug"),
        )
}

/// The essentials of a Raspberry Pi 4 with 4 GiB, as its firmware completes the tree: one-cell
/// sizes, devices on a bus with `ranges`, spin tables.
pub fn pi4() -> Source {
    let cpu = |number: u32| {
        Source::new(&format!("cpu@{number}"))
            .text("device_type", "cpu")
            .cells("reg", &[number])
            .text("enable-method", "spin-table")
            .cells("cpu-release-addr", &[0, 0xd8 + 8 * number])
    };
    Source::new("")
        .cells("#address-cells", &[2])
        .cells("#size-cells", &[1])
        .cells("interrupt-parent", &[1])
        .text("model", "Raspberry Pi 4 Model B Rev 1.4")
        .bytes(
            "compatible",
            texts(&["raspberrypi,4-model-b", "brcm,bcm2711"]),
        )
        .child(Source::new("memory@0").text("device_type", "memory").cells(
            "reg",
            &[
                0,
                0,
                0x3b40_0000,
                0,
                0x4000_0000,
                0x4000_0000,
                0,
                0x8000_0000,
                0x7c00_0000,
                0,
                0,
                0,
            ],
        ))
        .child(
            Source::new("reserved-memory")
                .cells("#address-cells", &[2])
                .cells("#size-cells", &[1])
                .bytes("ranges", Vec::new())
                .child(
                    Source::new("linux,cma")
                        .text("compatible", "shared-dma-pool")
                        .cells("size", &[0x400_0000]),
                )
                .child(
                    Source::new("nvram@1")
                        .cells("reg", &[0, 0x3ef6_4c70, 0x20])
                        .bytes("no-map", Vec::new()),
                )
                .child(
                    Source::new("nvram@0")
                        .cells("reg", &[0, 0x3ef6_4000, 0x20])
                        .text("status", "disabled"),
                ),
        )
        .child(
            Source::new("soc")
                .text("compatible", "simple-bus")
                .cells("#address-cells", &[1])
                .cells("#size-cells", &[1])
                .cells(
                    "ranges",
                    &[
                        0x7e00_0000,
                        0,
                        0xfe00_0000,
                        0x0180_0000, //
                        0x7c00_0000,
                        0,
                        0xfc00_0000,
                        0x0200_0000, //
                        0x4000_0000,
                        0,
                        0xff80_0000,
                        0x0080_0000,
                    ],
                )
                .child(
                    Source::new("interrupt-controller@40041000")
                        .text("compatible", "arm,gic-400")
                        .cells("phandle", &[1])
                        .cells("#interrupt-cells", &[3])
                        .cells(
                            "reg",
                            &[
                                0x4004_1000,
                                0x1000,
                                0x4004_2000,
                                0x2000,
                                0x4004_4000,
                                0x2000,
                            ],
                        ),
                )
                .child(
                    Source::new("serial@7e201000")
                        .bytes("compatible", texts(&["arm,pl011", "arm,primecell"]))
                        .cells("reg", &[0x7e20_1000, 0x200])
                        .text("status", "okay"),
                )
                .child(
                    Source::new("serial@7e215040")
                        .text("compatible", "brcm,bcm2835-aux-uart")
                        .cells("reg", &[0x7e21_5040, 0x40])
                        .text("status", "okay"),
                ),
        )
        .child(
            Source::new("cpus")
                .cells("#address-cells", &[1])
                .cells("#size-cells", &[0])
                .child(cpu(0))
                .child(cpu(1))
                .child(cpu(2))
                .child(cpu(3)),
        )
        .child(
            Source::new("timer")
                .text("compatible", "arm,armv8-timer")
                .cells(
                    "interrupts",
                    &[1, 13, 0xf08, 1, 14, 0xf08, 1, 11, 0xf08, 1, 10, 0xf08],
                ),
        )
        .child(
            Source::new("aliases")
                .text("serial0", "/soc/serial@7e201000")
                .text("serial1", "/soc/serial@7e215040"),
        )
        .child(Source::new("chosen").text("stdout-path", "serial0:115200n8"))
}
