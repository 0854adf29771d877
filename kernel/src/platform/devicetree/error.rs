// SPDX-License-Identifier: MIT OR Apache-2.0
//! The errors of a device tree, with messages that say what to do.

use core::fmt;

use crate::text::Text;

/// The greatest length of a node's path in a message, in bytes.
pub const MAX_PATH: usize = 80;

/// The name of a node in messages: its path. The beginning of a very long path is left out.
pub type NodePath = Text<MAX_PATH>;

/// A value quoted in a message.
pub type Quoted = Text<40>;

/// Why a device tree blob does not describe a machine.
///
/// Each message names the place, the value found there, the rule, and the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceTreeError {
    /// There is no blob.
    Missing,
    /// The blob does not start with the magic number of a device tree.
    BadMagic {
        /// The first four bytes, big-endian.
        found: u32,
    },
    /// The blob is shorter than its own header says.
    Truncated {
        /// Bytes that there should be.
        needed: usize,
        /// Bytes that there are.
        available: usize,
    },
    /// A header field contradicts the header or the length of the blob.
    BadHeader {
        /// Name of the field in the specification.
        field: &'static str,
        /// Its value.
        value: u32,
        /// What must hold.
        rule: &'static str,
    },
    /// The kernel does not support this version of the format.
    BadVersion {
        /// The version of the blob.
        version: u32,
        /// The oldest version whose readers can read it.
        last_compatible: u32,
    },
    /// The structure or strings block is damaged.
    BadStructure {
        /// Offset in the structure block, in bytes.
        offset: usize,
        /// What is wrong there.
        problem: &'static str,
    },
    /// Nodes are nested deeper than in any real tree.
    TooDeep {
        /// Number of levels allowed, the root included.
        limit: usize,
    },
    /// A required property is missing.
    MissingProperty {
        /// Path of the node.
        node: NodePath,
        /// Name of the property.
        property: &'static str,
    },
    /// A property's length does not match its type.
    BadLength {
        /// Path of the node.
        node: NodePath,
        /// Name of the property.
        property: &'static str,
        /// Its length in bytes.
        length: usize,
        /// The length must be a multiple of this, in bytes, and not zero.
        unit: usize,
    },
    /// A property has a value that its binding does not allow.
    BadValue {
        /// Path of the node.
        node: NodePath,
        /// Name of the property.
        property: &'static str,
        /// The value found.
        value: Quoted,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A property that must be a string is not NUL-terminated UTF-8.
    BadString {
        /// Path of the node.
        node: NodePath,
        /// Name of the property.
        property: &'static str,
    },
    /// An address range is empty or reaches beyond 2^64 - 1.
    BadRange {
        /// Path of the node.
        node: NodePath,
        /// First byte address.
        start: u64,
        /// Length in bytes.
        size: u64,
    },
    /// A device's address cannot be translated to an address of the CPU.
    Untranslatable {
        /// Path of the device's node.
        node: NodePath,
        /// Path of the bus that does not translate the address.
        bus: NodePath,
        /// The address in the bus's own address space.
        address: u64,
    },
    /// The tree states no memory.
    NoMemory,
    /// The tree has more of something than the kernel can keep.
    TooMany {
        /// The name of what there is too much of.
        what: &'static str,
        /// The greatest number that the kernel can keep.
        limit: usize,
    },
    /// No interrupt controller of a known kind.
    NoInterruptController {
        /// `compatible` of the root's interrupt controller, empty if the tree names none.
        found: Quoted,
    },
    /// Two CPU nodes have the same MPIDR affinity.
    DuplicateCpu {
        /// Path of the second node.
        node: NodePath,
        /// The affinity fields, as in `reg`.
        mpidr: u64,
    },
    /// A CPU waits for a word that is not in memory, or in memory that is in use.
    BadReleaseAddress {
        /// The affinity fields of the CPU, as in `reg`.
        mpidr: u64,
        /// The word's physical address.
        release_address: u64,
        /// The contents of that address, with a verb.
        what: &'static str,
    },
    /// `/chosen/bootargs` is longer than the kernel can keep.
    BootArgumentsTooLong {
        /// Its length in bytes.
        length: usize,
        /// The greatest length in bytes.
        limit: usize,
    },
}

impl fmt::Display for DeviceTreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str(
                "no device tree: firmware must pass its address in x0; under QEMU start the flat \
                 kernel8.img, not the ELF, and give -dtb on machines that make none (raspi4b)",
            ),
            Self::BadMagic { found } => write!(
                f,
                "device tree starts with {found:#010x}, not with the magic 0xd00dfeed: what firmware \
                 passes in x0 is no flattened device tree; check the -dtb file or the loader"
            ),
            Self::Truncated { needed, available } => write!(
                f,
                "device tree needs {needed} bytes by its header, but {available} are there: the blob \
                 is cut off or its totalsize is wrong; load the whole .dtb file"
            ),
            Self::BadHeader { field, value, rule } => write!(
                f,
                "device tree header: {field} is {value:#x}, but {rule}: the blob is damaged; \
                 rebuild it with dtc or fetch it again"
            ),
            Self::BadVersion {
                version,
                last_compatible,
            } => write!(
                f,
                "device tree version {version} is not supported (compatible with {last_compatible}): \
                 the kernel reads 16 and 17; convert it with `dtc -I dtb -O dtb -V 17`"
            ),
            Self::BadStructure { offset, problem } => write!(
                f,
                "device tree structure: {problem}, at offset {offset:#x} of the structure block: the \
                 blob is damaged; check it with `dtc -I dtb -O dts`"
            ),
            Self::TooDeep { limit } => write!(
                f,
                "device tree nests nodes deeper than {limit} levels: no real machine does; check the \
                 blob with `dtc -I dtb -O dts`"
            ),
            Self::MissingProperty { node, property } => write!(
                f,
                "device tree node {node} has no {property}, which its binding requires: add it to \
                 the device tree source"
            ),
            Self::BadLength {
                node,
                property,
                length,
                unit,
            } => write!(
                f,
                "device tree node {node}: {property} is {length} bytes long, but must be a non-zero \
                 multiple of {unit}: compare it with #address-cells, #size-cells and \
                 #interrupt-cells above it"
            ),
            Self::BadValue {
                node,
                property,
                value,
                allowed,
            } => write!(
                f,
                "device tree node {node}: {property} is {value}, allowed is {allowed}: correct the \
                 device tree source"
            ),
            Self::BadString { node, property } => write!(
                f,
                "device tree node {node}: {property} is no NUL-terminated UTF-8 string: correct the \
                 device tree source"
            ),
            Self::BadRange { node, start, size } => write!(
                f,
                "device tree node {node}: the {size:#x} bytes from {start:#x} are empty or wrap \
                 around 2^64: correct its reg property"
            ),
            Self::Untranslatable { node, bus, address } => write!(
                f,
                "device tree node {node}: address {address:#x} is not in the ranges of its bus {bus}, \
                 so the CPU cannot reach it: add it to that ranges property"
            ),
            Self::NoMemory => f.write_str(
                "device tree states no memory: it needs a /memory node with device_type \"memory\" \
                 and a non-empty reg; on a board the firmware fills it in, so check which .dtb is loaded",
            ),
            Self::TooMany { what, limit } => write!(
                f,
                "device tree has more than {limit} {what}, which is all the kernel keeps: merge them \
                 in the tree or raise the limit in platform/devicetree"
            ),
            Self::NoInterruptController { found } if found.as_str().is_empty() => f.write_str(
                "device tree has no interrupt controller the kernel knows: it needs an enabled GICv2 \
                 (arm,cortex-a15-gic, arm,gic-400) or GICv3 (arm,gic-v3); under QEMU choose --gic 2 or 3",
            ),
            Self::NoInterruptController { found } => write!(
                f,
                "device tree's interrupt controller is {found}, which the kernel does not know: it \
                 needs a GICv2 (arm,cortex-a15-gic, arm,gic-400) or GICv3 (arm,gic-v3); under QEMU \
                 choose --gic 2 or 3"
            ),
            Self::DuplicateCpu { node, mpidr } => write!(
                f,
                "device tree node {node}: CPU {mpidr:#x} is there twice: each cpu node needs its own \
                 reg, the affinity fields of its MPIDR_EL1"
            ),
            Self::BadReleaseAddress {
                mpidr,
                release_address,
                what,
            } => write!(
                f,
                "device tree node /cpus, CPU {mpidr:#x}: cpu-release-addr is {release_address:#x}, where \
                 {what}: correct it"
            ),
            Self::BootArgumentsTooLong { length, limit } => write!(
                f,
                "/chosen/bootargs is {length} bytes long, the kernel keeps {limit}: shorten the boot \
                 arguments"
            ),
        }
    }
}

impl core::error::Error for DeviceTreeError {}
