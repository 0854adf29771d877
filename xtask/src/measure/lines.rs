// SPDX-License-Identifier: MIT OR Apache-2.0

//! The lines in which the kernel says what it has counted (kernel/src/bench): words of the form `name=value`.

use super::costs::{Cost, Costs};
use super::subjects::{Group, Subject};
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// The operation that writes no entries.
const FLUSH: u8 = 10;

/// All that one boot has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Backend and policy.
    pub terms: String,
    /// What it has counted. The events have the barriers of drivers and of other tasks as well, which the kernel does
    /// not count ([`Subject::drivers`], [`Subject::other_task`]), so that the plugin counts the same.
    pub costs: Costs,
}

#[derive(Deserialize)]
struct Count {
    op: u8,
    pages: u64,
    #[serde(default)]
    instructions: u64,
    #[serde(default)]
    spread: u64,
    ptes: u64,
    dsb: u64,
    isb: u64,
    tlbi: u64,
    ish: u64,
    dmb: u64,
}

#[derive(Deserialize)]
struct Event {
    name: String,
    #[serde(default)]
    instructions: u64,
    #[serde(default)]
    spread: u64,
    dsb: u64,
    isb: u64,
}

/// Reads the kernel's lines out of a console log, and leaves the other lines alone. With `mode=bench` the kernel counts
/// barriers only; 0 takes the place of the instructions.
///
/// # Errors
///
/// A line that lacks something, says it twice, did not write one entry per page, or names an event
/// that is not known; no line at all.
pub fn read(log: &str) -> Result<Said> {
    let mut said = Said::default();
    for line in log.lines() {
        let read = if let Some(terms) = line.strip_prefix("counts ") {
            said.terms = terms.trim_end().to_owned();
            continue;
        } else if let Some(words) = line.strip_prefix("count ") {
            window(words)
        } else if let Some(words) = line.strip_prefix("event ") {
            event(words)
        } else {
            continue;
        };
        let (key, cost) = read.with_context(|| format!("in `{line}`"))?;
        ensure!(
            said.costs.0.insert(key, cost).is_none(),
            "`{line}` is the second one of its kind"
        );
    }
    ensure!(
        !said.costs.0.is_empty() && !said.terms.is_empty(),
        "no `counts backend=... policy=...` followed by `count op=... pages=...`"
    );
    Ok(said)
}

/// Reads words of the form `name=value` as the fields of a `T`.
///
/// # Errors
///
/// When a word has another form or is there twice, or a field is missing or no value of its type.
pub fn fields<T: DeserializeOwned>(words: &str) -> Result<T> {
    let mut fields = Map::new();
    for word in words.split_whitespace() {
        let (name, value) = word
            .split_once('=')
            .with_context(|| format!("`{word}` is no name=value"))?;
        let value = value
            .parse::<u64>()
            .map_or_else(|_| Value::from(value), Value::from);
        ensure!(
            fields.insert(name.to_owned(), value).is_none(),
            "`{name}=` is there twice"
        );
    }
    Ok(serde_json::from_value(fields.into())?)
}

/// Reads `op=8 pages=512 instructions=...`.
fn window(words: &str) -> Result<((u8, u64), Cost)> {
    let count: Count = fields(words)?;
    let Count {
        op, pages, ptes, ..
    } = count;
    ensure!(
        ptes == pages || op == FLUSH && ptes == 0,
        "{ptes} entries were written for {pages} pages: the window did something else"
    );
    let cost = Cost {
        instructions: count.instructions,
        spread: count.spread,
        dsb: count.dsb,
        isb: count.isb,
        tlbi: count.tlbi,
        ish: count.ish,
        dmb: count.dmb,
    };
    Ok(((op, pages), cost))
}

/// Reads `name=switch instructions=...`.
fn event(words: &str) -> Result<((u8, u64), Cost)> {
    let event: Event = fields(words)?;
    let subject = Subject::named(&event.name)
        .filter(|subject| matches!(subject.group, Group::Scheduler | Group::WakeUp))
        .with_context(|| {
            let name = &event.name;
            format!("event {name} is not known; describe it in xtask/src/measure/subjects.rs")
        })?;
    let cost = Cost {
        instructions: event.instructions,
        spread: event.spread,
        dsb: event.dsb + subject.drivers[0] + subject.other_task[0],
        isb: event.isb + subject.drivers[1] + subject.other_task[1],
        ..Cost::default()
    };
    Ok(((subject.op, 0), cost))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
[    0.001] info: lazymmu
counts backend=defer-barriers policy=classic
count op=8 pages=512 instructions=1000 spread=0 ptes=512 dsb=1 isb=1 tlbi=0 ish=0 dmb=0
count op=8 pages=4096 instructions=8168 spread=3 ptes=4096 dsb=1 isb=1 tlbi=7168 ish=0 dmb=0
event name=switch instructions=140 spread=2 dsb=1 isb=0
event name=tick instructions=231 spread=0 dsb=0 isb=0
lazymmu: exit 0
";

    #[test]
    fn a_log_is_read() {
        let said = read(LOG).unwrap();
        assert_eq!(said.terms, "backend=defer-barriers policy=classic");
        let costs: Vec<_> = said
            .costs
            .0
            .iter()
            .map(|(key, cost)| (*key, cost.spread, cost.to_string()))
            .collect();
        assert_eq!(
            costs,
            [
                ((8, 512), 0, "1000 / 1 / 1 / 0".to_owned()),
                ((8, 4096), 3, "8168 / 1 / 1 / 7168".to_owned()),
                ((130, 0), 2, "140 / 1 / 0 / 0".to_owned()),
                // With the ISB of the timer's driver.
                ((133, 0), 0, "231 / 0 / 1 / 0".to_owned()),
            ]
        );
    }

    #[test]
    fn a_kernel_that_has_not_counted_instructions_need_not_say_them() {
        let bare = LOG.replace(" instructions=1000 spread=0", "");
        let wake = "event name=wake op=135 dsb=2 isb=0\n";
        let said = read(&format!("{bare}{wake}")).unwrap();
        assert_eq!(said.costs.0[&(8, 512)].to_string(), "0 / 1 / 1 / 0");
        // With the DSB of the interrupt controller's driver.
        assert_eq!(said.costs.0[&(135, 0)].to_string(), "0 / 3 / 0 / 0");
    }

    #[test]
    fn a_line_that_says_something_else_is_refused() {
        let cases = [
            ("tlbi=0", "", "missing field `tlbi`"),
            ("dsb=1", "dsb=one", "invalid type: string \"one\""),
            ("dsb=1", "dsb=1 dsb=1", "`dsb=` is there twice"),
            ("spread=0", "spread", "`spread` is no name=value"),
            (
                "pages=4096",
                "pages=512",
                "4096 entries were written for 512 pages",
            ),
            ("op=8 pages=4096", "op=300 pages=4096", "expected u8"),
            ("name=tick", "name=switch", "is the second one of its kind"),
            ("name=tick", "name=tock", "event tock is not known"),
            ("name=tick", "name=unmap", "event unmap is not known"),
            ("name=tick ", "", "missing field `name`"),
            ("=231", "=many", "invalid type: string \"many\""),
            ("count op", "xcount op", "no `counts backend="),
            ("counts b", "x", "no `counts backend="),
            (
                "pages=4096 instructions=8168 spread=3 ptes=4096",
                "pages=512 instructions=0 spread=0 ptes=512",
                "is the second one of its kind",
            ),
        ];
        for (from, to, expected) in cases {
            let log = match from {
                "count op" => LOG.replace(from, to).replace("event ", "xevent "),
                _ => LOG.replace(from, to),
            };
            let error = read(&log).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{to}: {error:#}");
        }
    }
}
