// SPDX-License-Identifier: MIT OR Apache-2.0
//! The devices the kernel drives: console, interrupt controller, timer.

use arrayvec::ArrayVec;

use super::Notes;
use super::description::{
    Console, ConsoleSource, InterruptController, MAX_REDISTRIBUTOR_REGIONS, Note, TimerInterrupts,
};
use super::error::{DeviceTreeError, Quoted};
use super::place::Place;
use super::tree::Tree;

const PL011: &[&str] = &["arm,pl011"];
const GIC_V2: &[&str] = &["arm,cortex-a15-gic", "arm,gic-400"];
const GIC_V3: &[&str] = &["arm,gic-v3"];
const TIMER: &[&str] = &["arm,armv8-timer"];

/// A private peripheral interrupt in the GIC binding's first cell.
const PPI: u32 = 1;
/// INTID of the first private peripheral interrupt.
const FIRST_PPI_INTID: u32 = 16;
/// Private peripheral interrupts per CPU.
const PPIS: u32 = 16;
/// Bytes of a GIC interrupt specifier's three cells.
const MIN_INTERRUPT_CELLS: u32 = 3;

/// The UART `/chosen/stdout-path` leads to, else the first one.
///
/// The path's options (`:115200n8`) are not used: firmware has set the line up,
/// and the kernel does not know the UART's clock well enough to do it better.
pub fn console(tree: Tree<'_>, notes: &mut Notes) -> Result<Option<Console>, DeviceTreeError> {
    let chosen = tree.root().child("chosen");
    let path = match chosen {
        Some(chosen) => chosen.checked_text("stdout-path")?,
        None => None,
    };
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
    // Entry 0 is the distributor, then come the redistributor regions, then
    // the GICv2 compatibility interfaces.
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
    let stride = match node.property("redistributor-stride") {
        None => None,
        // The binding leaves the number of cells open.
        Some(value) => match (<[u8; 8]>::try_from(value), <[u8; 4]>::try_from(value)) {
            (Ok(bytes), _) => Some(u64::from_be_bytes(bytes)),
            (_, Ok(bytes)) => Some(u64::from(u32::from_be_bytes(bytes))),
            _ => return Err(node.bad_length("redistributor-stride", value.len(), 4)),
        },
    };
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
    let cells = gic.u32("#interrupt-cells")?.unwrap_or(MIN_INTERRUPT_CELLS);
    if !(MIN_INTERRUPT_CELLS..=4).contains(&cells) {
        return Err(DeviceTreeError::BadValue {
            node: gic.path(),
            property: "#interrupt-cells",
            value: Quoted::from_arguments(format_args!("{cells}")),
            allowed: "3 or 4",
        });
    }
    let unit = cells as usize * 4;
    let Some(value) = node.property("interrupts") else {
        return Err(DeviceTreeError::MissingProperty {
            node: node.path(),
            property: "interrupts",
        });
    };
    if value.is_empty() || !value.len().is_multiple_of(unit) {
        return Err(node.bad_length("interrupts", value.len(), unit));
    }
    let intid = |wanted: &str, default: usize| -> Result<Option<u32>, DeviceTreeError> {
        let index = match node.property("interrupt-names") {
            Some(_) => node
                .texts("interrupt-names")
                .position(|name| name == wanted),
            None => Some(default),
        };
        let Some(specifier) = index.and_then(|index| value.chunks_exact(unit).nth(index)) else {
            return Ok(None);
        };
        let cell = |index: usize| {
            let bytes = specifier.get(index * 4..).and_then(<[u8]>::first_chunk);
            bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
        };
        let (kind, number) = (cell(0), cell(1));
        if kind == PPI && number < PPIS {
            Ok(Some(FIRST_PPI_INTID + number))
        } else {
            Err(DeviceTreeError::BadValue {
                node: node.path(),
                property: "interrupts",
                value: Quoted::from_arguments(format_args!("<{kind} {number}>")),
                allowed: "a private interrupt, <1 0> to <1 15>",
            })
        }
    };
    // Order without names: secure physical, non-secure physical, virtual,
    // hypervisor.
    Ok(TimerInterrupts {
        physical_timer: intid("phys", 1)?,
        virtual_timer: intid("virt", 2)?,
    })
}
