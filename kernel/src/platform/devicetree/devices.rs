// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices that the kernel drives: console, interrupt controller, timer.

use arrayvec::ArrayVec;

use super::Notes;
use super::description::{
    Console, ConsoleSource, InterruptController, MAX_REDISTRIBUTOR_REGIONS, Note, TimerInterrupts,
};
use super::error::{DeviceTreeError, Quoted};
use super::flat::{CELL, MAX_DEPTH};
use super::place::Place;
use super::tree::Tree;

const PL011: &[&str] = &["arm,pl011"];
const GIC_V2: &[&str] = &[
    "arm,cortex-a15-gic",
    "arm,gic-400",
    "arm,cortex-a7-gic",
    "qcom,msm-qgic2",
];
const GIC_V3: &[&str] = &["arm,gic-v3"];
/// The older name is for CPUs with AArch32; trees of some CPUs with both states use it.
const TIMER: &[&str] = &["arm,armv8-timer", "arm,armv7-timer"];

/// The greatest number of interrupts of a timer, by its binding.
const TIMER_INTERRUPTS: usize = 5;

/// A private peripheral interrupt in the GIC binding's first cell.
const PPI: u32 = 1;
/// INTID of the first private peripheral interrupt.
const FIRST_PPI_INTID: u32 = 16;
/// Private peripheral interrupts per CPU.
const PPIS: u32 = 16;
/// Cells of a GIC interrupt specifier; a fourth one chooses a set of CPUs.
const MIN_INTERRUPT_CELLS: u32 = 3;
/// The greatest number of cells; Linux has the same limit for all controllers.
const MAX_INTERRUPT_CELLS: u32 = 16;

/// Bytes of a register frame of a redistributor, which has at least two frames.
const FRAME: u64 = 0x1_0000;
const MIN_STRIDE: u64 = 2 * FRAME;

/// The UART that `/chosen/stdout-path` names, or else the first one.
///
/// The path's options (`:115200n8`) are ignored: firmware has set the line up, and the kernel does
/// not know the UART's clock.
pub fn console(tree: Tree<'_>, notes: &mut Notes) -> Result<Option<Console>, DeviceTreeError> {
    let path = stdout_path(tree)?;
    if let Some(path) = path {
        let place = path.split(':').next().and_then(|path| tree.find(path));
        match place.filter(|place| place.is_enabled() && place.is_compatible(PL011)) {
            Some(uart) => {
                return Ok(Some(Console {
                    registers: uart.registers(0)?,
                    source: ConsoleSource::StdoutPath,
                }));
            }
            None => notes.add(Note::StdoutPathUnusable {
                path: Quoted::from_line(path),
            }),
        }
    } else {
        notes.add(Note::NoStdoutPath);
    }
    match tree.find_compatible(PL011) {
        Some(uart) => Ok(Some(Console {
            registers: uart.registers(0)?,
            source: ConsoleSource::FirstUart,
        })),
        None => {
            notes.add(Note::NoConsole);
            Ok(None)
        }
    }
}

/// The name of the console in `/chosen`; an empty name counts as absent.
fn stdout_path(tree: Tree<'_>) -> Result<Option<&str>, DeviceTreeError> {
    let Some(chosen) = tree.root().child("chosen") else {
        return Ok(None);
    };
    let path = match chosen.checked_text("stdout-path")? {
        None => chosen.checked_text("linux,stdout-path")?,
        path => path,
    };
    Ok(path.filter(|path| !path.is_empty()))
}

/// The interrupt controller and its node.
pub fn interrupt_controller(
    tree: Tree<'_>,
) -> Result<(InterruptController, Place<'_>), DeviceTreeError> {
    if let Some(node) = tree.find_compatible(GIC_V2) {
        let controller = InterruptController::GicV2 {
            distributor: node.registers(0)?,
            cpu_interface: node.registers(1)?,
        };
        return Ok((controller, node));
    }
    if let Some(node) = tree.find_compatible(GIC_V3) {
        return Ok((gic_v3(&node)?, node));
    }
    let named = match tree.root().u32("interrupt-parent")? {
        Some(phandle) => tree.find_phandle(phandle),
        None => None,
    };
    let compatible = named.and_then(|node| node.texts("compatible").next());
    Err(DeviceTreeError::NoInterruptController {
        found: Quoted::from_line(compatible.unwrap_or_default()),
    })
}

fn gic_v3(node: &Place<'_>) -> Result<InterruptController, DeviceTreeError> {
    // Entry 0 is the distributor. The redistributor regions follow, and then the GICv2
    // compatibility interfaces.
    let regions = node.u32("#redistributor-regions")?.unwrap_or(1) as usize;
    if regions == 0 || regions > MAX_REDISTRIBUTOR_REGIONS {
        return Err(DeviceTreeError::BadValue {
            node: node.path(),
            property: "#redistributor-regions",
            value: Quoted::from_arguments(format_args!("{regions}")),
            allowed: "1 to 8",
        });
    }
    let mut redistributors = ArrayVec::new();
    for region in 0..regions {
        redistributors.push(node.registers(1 + region)?);
    }
    // The binding allows any number of cells, and 0 means that no stride is given.
    let stride = node
        .u64("redistributor-stride")?
        .filter(|stride| *stride != 0);
    if let Some(stride) = stride
        && (stride < MIN_STRIDE || !stride.is_multiple_of(FRAME))
    {
        return Err(DeviceTreeError::BadValue {
            node: node.path(),
            property: "redistributor-stride",
            value: Quoted::from_arguments(format_args!("{stride:#x}")),
            allowed: "0x20000 or more, in steps of 0x10000",
        });
    }
    Ok(InterruptController::GicV3 {
        distributor: node.registers(0)?,
        redistributors,
        stride,
    })
}

/// The timer's interrupts, as specifiers for the controller at `gic`.
pub fn timer(
    tree: Tree<'_>,
    gic: &Place<'_>,
    notes: &mut Notes,
) -> Result<TimerInterrupts, DeviceTreeError> {
    let Some(node) = tree.find_compatible(TIMER) else {
        notes.add(Note::NoTimer);
        return Ok(TimerInterrupts::default());
    };
    let names = node.property("interrupt-names").is_some();
    let intid = |wanted: &str, default: usize| -> Result<Option<u32>, DeviceTreeError> {
        let index = match names {
            true => node
                .texts("interrupt-names")
                .take(TIMER_INTERRUPTS)
                .position(|name| name == wanted),
            false => Some(default),
        };
        match index {
            Some(index) => private_interrupt(tree, &node, gic, index),
            None => Ok(None),
        }
    };
    // The order of interrupts without names: secure physical, non-secure physical, virtual,
    // hypervisor.
    Ok(TimerInterrupts {
        physical_timer: intid("phys", 1)?,
        virtual_timer: intid("virt", 2)?,
    })
}

/// INTID of interrupt `index` of `node`, which must be a private one; `None` if there is none.
fn private_interrupt(
    tree: Tree<'_>,
    node: &Place<'_>,
    gic: &Place<'_>,
    index: usize,
) -> Result<Option<u32>, DeviceTreeError> {
    let Some(interrupt) = interrupt(tree, node, gic, index)? else {
        return Ok(None);
    };
    let cell = |index: usize| {
        let bytes = interrupt
            .specifier
            .get(index * CELL..)
            .and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
    };
    let bad = |value, allowed| {
        Err(DeviceTreeError::BadValue {
            node: node.path(),
            property: interrupt.property,
            value,
            allowed,
        })
    };
    if !interrupt.controller.is(gic) {
        let value = Quoted::from_arguments(format_args!("for {}", interrupt.controller.path()));
        return bad(value, "an interrupt of the GIC");
    }
    match (cell(0), cell(1)) {
        (PPI, number) if number < PPIS => Ok(Some(FIRST_PPI_INTID + number)),
        (kind, number) => bad(
            Quoted::from_arguments(format_args!("<{kind} {number}>")),
            "a private interrupt, <1 0> to <1 15>",
        ),
    }
}

/// An interrupt of a device.
struct Interrupt<'a> {
    controller: Place<'a>,
    /// The specifier; the controller's binding defines its format.
    specifier: &'a [u8],
    /// The property that contains it.
    property: &'static str,
}

/// Interrupt `index` of `node`, from `interrupts-extended` or else `interrupts` (Devicetree
/// Specification 2.4). `gic` is the controller if the tree names none.
fn interrupt<'a>(
    tree: Tree<'a>,
    node: &Place<'a>,
    gic: &Place<'a>,
    index: usize,
) -> Result<Option<Interrupt<'a>>, DeviceTreeError> {
    const EXTENDED: &str = "interrupts-extended";
    let Some(mut rest) = node.property(EXTENDED) else {
        let Some(value) = node.property("interrupts") else {
            return Err(node.missing("interrupts"));
        };
        let controller = interrupt_parent(tree, node)?.unwrap_or_else(|| gic.clone());
        let unit = specifier_size(&controller, gic)?;
        if value.is_empty() || !value.len().is_multiple_of(unit) {
            return Err(node.bad_length("interrupts", value.len(), unit));
        }
        let specifier = value.chunks_exact(unit).nth(index);
        return Ok(specifier.map(|specifier| Interrupt {
            controller,
            specifier,
            property: "interrupts",
        }));
    };
    let mut at = 0;
    while let Some((phandle, after)) = rest.split_first_chunk() {
        let phandle = u32::from_be_bytes(*phandle);
        // 0 is an entry for an interrupt that is not connected.
        let controller = match phandle {
            0 => None,
            _ => Some(
                tree.find_phandle(phandle)
                    .ok_or_else(|| DeviceTreeError::BadValue {
                        node: node.path(),
                        property: EXTENDED,
                        value: Quoted::from_arguments(format_args!("<{phandle:#x} ...>")),
                        allowed: "the phandle of an interrupt controller before each specifier",
                    })?,
            ),
        };
        let unit = match &controller {
            Some(controller) => specifier_size(controller, gic)?,
            None => 0,
        };
        let Some((specifier, others)) = after.split_at_checked(unit) else {
            return Err(node.bad_length(EXTENDED, after.len(), unit));
        };
        if at == index {
            return Ok(controller.map(|controller| Interrupt {
                controller,
                specifier,
                property: EXTENDED,
            }));
        }
        (rest, at) = (others, at + 1);
    }
    Ok(None)
}

/// The controller for the interrupts of `node`: the first node with `#interrupt-cells` on the path
/// upwards that `interrupt-parent` gives, or the parent node where that is absent.
fn interrupt_parent<'a>(
    tree: Tree<'a>,
    node: &Place<'a>,
) -> Result<Option<Place<'a>>, DeviceTreeError> {
    let mut place = node.clone();
    // The links of a wrong tree may form a cycle.
    for _ in 0..MAX_DEPTH {
        let above = place.parent();
        place = match place.u32("interrupt-parent")? {
            Some(phandle) => match tree.find_phandle(phandle) {
                Some(parent) => parent,
                None => return Ok(None),
            },
            None if above.is(&place) => return Ok(None),
            None => above,
        };
        if place.property("#interrupt-cells").is_some() {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// Bytes of an interrupt specifier for `controller`.
fn specifier_size(controller: &Place<'_>, gic: &Place<'_>) -> Result<usize, DeviceTreeError> {
    const NAME: &str = "#interrupt-cells";
    let cells = controller.u32(NAME)?.unwrap_or(MIN_INTERRUPT_CELLS);
    let (allowed, rule) = match controller.is(gic) {
        true => (MIN_INTERRUPT_CELLS..=4, "3 or 4"),
        false => (1..=MAX_INTERRUPT_CELLS, "1 to 16"),
    };
    if allowed.contains(&cells) {
        return Ok(cells as usize * CELL);
    }
    Err(DeviceTreeError::BadValue {
        node: controller.path(),
        property: NAME,
        value: Quoted::from_arguments(format_args!("{cells}")),
        allowed: rule,
    })
}
