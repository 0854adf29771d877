// SPDX-License-Identifier: MIT OR Apache-2.0

//! The results as JSON: one line for each window, sorted, so that two files can be compared by eye and by `diff`.

use super::counted::Terms;
use super::results::{Results, Subject, name_of};
use crate::counts::{Cost, Event, EventCost, Measured};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What the file says that it is.
const FORMAT: &str = "lazymmu bench";
/// Version of the format; one more when a reader of the old one would misunderstand.
const VERSION: u64 = 2;
/// The sections, in their order.
const SECTIONS: [&str; 4] = ["windows", "events", "boots", "wakes"];

/// The file's text.
pub fn write(results: &Results) -> String {
    let mut sections = SECTIONS.map(|_| Vec::new());
    for (subject, numbers) in results.entries() {
        let (section, mut fields) = match &subject {
            Subject::Window(terms, op, pages) => {
                let mut fields = of_terms(terms);
                fields.extend(of_window(*op, *pages));
                (0, fields)
            }
            Subject::Event(terms, name) => {
                let mut fields = of_terms(terms);
                fields.extend(of_event(name));
                (1, fields)
            }
            Subject::Boot(cpu, op, pages) => {
                let mut fields = vec![text("cpu", cpu)];
                fields.extend(of_window(*op, *pages));
                (2, fields)
            }
            Subject::Wake(cpu, name) => {
                let mut fields = vec![text("cpu", cpu)];
                fields.extend(of_event(name));
                (3, fields)
            }
        };
        fields.extend(
            numbers
                .iter()
                .map(|(name, number)| (*name, (*number).into())),
        );
        let fields: Vec<String> = fields
            .iter()
            .map(|(name, value)| format!("\"{name}\": {value}"))
            .collect();
        sections[section].push(format!("{{{}}}", fields.join(", ")));
    }
    let mut file = format!(
        "{{\n\"format\": \"{FORMAT}\",\n\"version\": {VERSION},\n\"qemu\": {}",
        Value::from(results.qemu.as_str())
    );
    for (name, lines) in SECTIONS.iter().zip(sections) {
        file.push_str(&format!(",\n\"{name}\": [\n{}\n]", lines.join(",\n")));
    }
    file + "\n}\n"
}

type Field = (&'static str, Value);

fn text(name: &'static str, value: &str) -> Field {
    (name, value.into())
}

fn of_terms(terms: &Terms) -> Vec<Field> {
    vec![
        text("cpu", &terms.cpu),
        text("policy", &terms.policy),
        text("backend", &terms.backend),
    ]
}

fn of_window(op: u8, pages: u64) -> [Field; 3] {
    [
        ("op", op.into()),
        text("name", name_of(op)),
        ("pages", pages.into()),
    ]
}

fn of_event(name: &str) -> [Field; 1] {
    [text("name", name)]
}

/// Reads such a text.
///
/// # Errors
///
/// When it is no JSON, of another version, or lacks something.
pub fn read(file: &str) -> Result<Results> {
    let file: Value = serde_json::from_str(file)?;
    let format = file["format"].as_str();
    ensure!(
        format == Some(FORMAT),
        "it is no result of `cargo xtask bench`"
    );
    let version = file["version"].as_u64().context("`version` is missing")?;
    ensure!(
        version == VERSION,
        "it has version {version}, and this xtask reads {VERSION}: measure again"
    );
    let mut results = Results {
        qemu: string(&file, "qemu")?.to_owned(),
        ..Results::default()
    };
    for section in SECTIONS {
        let lines = file[section].as_array();
        for line in lines.with_context(|| format!("the list `{section}` is missing"))? {
            entry(&mut results, section, line).with_context(|| format!("in `{line}`"))?;
        }
    }
    Ok(results)
}

fn entry(results: &mut Results, section: &str, line: &Value) -> Result<()> {
    let cpu = string(line, "cpu")?;
    let measured = match section {
        "windows" | "events" => {
            let terms = Terms::new(cpu, string(line, "policy")?, string(line, "backend")?);
            let said = terms.said();
            results.counted.entry(terms).or_insert_with(|| empty(said))
        }
        _ => results
            .boots
            .entry(cpu.to_owned())
            .or_insert_with(|| empty("boot".to_owned())),
    };
    let number = |name: &str| {
        let number = line[name].as_u64();
        number.with_context(|| format!("the number `{name}` is missing"))
    };
    let twice = match section {
        "windows" | "boots" => {
            let (op, pages) = (u8::try_from(number("op")?)?, number("pages")?);
            let cost = Cost {
                instructions: number("instructions")?,
                spread: if section == "windows" {
                    number("spread")?
                } else {
                    0
                },
                ptes: pages,
                dsb: number("dsb")?,
                isb: number("isb")?,
                tlbi: number("tlbi")?,
                ish: number("ish")?,
                dmb: number("dmb")?,
            };
            measured.costs.insert((op, pages), cost).is_some()
        }
        _ => {
            let name = string(line, "name")?;
            let event = Event::named(name).with_context(|| format!("event {name} is not known"))?;
            let cost = EventCost {
                instructions: number("instructions")?,
                spread: 0,
                dsb: number("dsb")?,
                isb: number("isb")?,
            };
            measured.events.insert(event.name, cost).is_some()
        }
    };
    ensure!(!twice, "it is the second one of its kind");
    Ok(())
}

fn empty(terms: String) -> Measured {
    Measured {
        terms,
        ..Measured::default()
    }
}

fn string<'a>(of: &'a Value, name: &str) -> Result<&'a str> {
    let text = of[name].as_str();
    text.with_context(|| format!("the text `{name}` is missing"))
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::results;
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let results = results(&[1, 512, 4096]);
        let file = write(&results);
        assert_eq!(read(&file).unwrap(), results);
        assert_eq!(write(&read(&file).unwrap()), file);
    }

    #[test]
    fn a_window_is_a_line() {
        let file = write(&results(&[512]));
        let line = "{\"cpu\": \"cortex-a72\", \"policy\": \"classic\", \"backend\": \"eager\", \"op\": 8, \
                    \"name\": \"map_scattered\", \"pages\": 512, \"instructions\": 4708, \"spread\": 0, \
                    \"dsb\": 512, \"isb\": 512, \"tlbi\": 0, \"ish\": 0, \"dmb\": 0},";
        assert!(file.lines().any(|known| known == line), "{file}");
        let mut sorted: Vec<&str> = file
            .lines()
            .filter(|line| line.contains("\"op\": 8,"))
            .collect();
        assert_eq!(sorted.len(), 15);
        sorted.dedup();
        assert_eq!(sorted.len(), 15);
    }

    #[test]
    fn what_is_something_else_is_refused() {
        let file = write(&results(&[512]));
        let first = file.lines().find(|line| line.contains("\"op\"")).unwrap();
        for (from, to, expected) in [
            ("lazymmu bench", "x", "it is no result"),
            ("\"version\": 2", "\"version\": 3", "this xtask reads 2"),
            (
                "\"events\"",
                "\"happenings\"",
                "the list `events` is missing",
            ),
            ("\"dsb\": 1", "\"dsb\": -1", "the number `dsb` is missing"),
            ("\"yield\"", "\"field\"", "event field is not known"),
            ("\"policy\": \"ets2\", ", "", "the text `policy` is missing"),
            (
                first,
                &format!("{first}\n{first}"),
                "the second one of its kind",
            ),
        ] {
            let error = read(&file.replace(from, to)).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{to}: {error:#}");
        }
        assert!(read("{").is_err());
    }
}
