// SPDX-License-Identifier: MIT OR Apache-2.0

//! The lines in which the kernel says what it has measured (kernel/src/bench), and which the
//! committed report repeats.

use super::events::{EVENTS, Event, WAKES};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::fmt;

/// The operation that writes no entries.
const FLUSH: u8 = 10;

/// Between these two sizes the marginal cost of a page is taken.
const MARGINAL: [u64; 2] = [512, 4096];

/// Who has counted the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// The kernel, which says them (`mode=counts`).
    Inside,
    /// Somebody outside (`mode=bench`): the lines say barriers only, and 0 stands for the rest.
    Outside,
}

/// What one window costs: the call of an operation on so many pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Instructions of the cheapest repetition.
    pub instructions: u64,
    /// By how many the dearest one had more.
    pub spread: u64,
    /// Entries written.
    pub ptes: u64,
    /// Executed DSB.
    pub dsb: u64,
    /// Executed ISB.
    pub isb: u64,
    /// Executed TLBI.
    pub tlbi: u64,
    /// Those of the DSB that are `DSB ISH`; the others are `DSB ISHST`.
    pub ish: u64,
    /// Executed DMB.
    pub dmb: u64,
}

/// What one event of the scheduler costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventCost {
    /// Instructions of the cheapest repetition.
    pub instructions: u64,
    /// By how many the dearest one had more.
    pub spread: u64,
    /// Executed DSB.
    pub dsb: u64,
    /// Executed ISB.
    pub isb: u64,
}

/// What one page more costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PerPage {
    /// Instructions.
    pub instructions: f64,
    /// Executed DSB.
    pub dsb: f64,
    /// Executed ISB.
    pub isb: f64,
    /// Executed TLBI.
    pub tlbi: f64,
}

/// Everything that one boot has measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Backend and policy, as the kernel says them.
    pub terms: String,
    /// By operation and pages.
    pub costs: BTreeMap<(u8, u64), Cost>,
    /// By name, one of [`EVENTS`].
    pub events: BTreeMap<&'static str, EventCost>,
}

impl Measured {
    /// Reads the kernel's lines out of a console log or a report, and leaves the other lines alone.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text, Counter::Inside)
    }

    /// The same, with who has counted the instructions.
    ///
    /// # Errors
    ///
    /// A line that lacks something, says it twice, did not write one entry per page, or names an event
    /// that nobody knows; no line at all.
    pub fn read(text: &str, counter: Counter) -> Result<Self> {
        let mut measured = Self::default();
        for line in text.lines() {
            if let Some(terms) = line.strip_prefix("counts ") {
                measured.terms = terms.trim_end().to_owned();
            } else if let Some(words) = line.strip_prefix("count ") {
                let (key, cost) = window(words, counter).with_context(|| format!("in `{line}`"))?;
                ensure!(
                    measured.costs.insert(key, cost).is_none(),
                    "`{line}` is the second one of its kind"
                );
            } else if let Some(words) = line.strip_prefix("event ") {
                let (name, cost) = event(words, counter).with_context(|| format!("in `{line}`"))?;
                ensure!(
                    measured.events.insert(name, cost).is_none(),
                    "`{line}` is the second one of its kind"
                );
            }
        }
        ensure!(
            !measured.costs.is_empty() && !measured.terms.is_empty(),
            "no `counts backend=... policy=...` followed by `count op=... pages=...`"
        );
        Ok(measured)
    }

    /// The windows of one operation, smallest first.
    pub fn of(&self, op: u8) -> impl Iterator<Item = (u64, &Cost)> {
        self.costs
            .range((op, 0)..=(op, u64::MAX))
            .map(|((_, pages), cost)| (*pages, cost))
    }

    /// The marginal cost of a page, if the operation was measured.
    pub fn per_page(&self, op: u8) -> Option<PerPage> {
        let [few, many] = MARGINAL.map(|pages| self.costs.get(&(op, pages)));
        let (few, many) = (few?, many?);
        let slope = |of: fn(&Cost) -> u64| {
            let more = of(many) as f64 - of(few) as f64;
            more / (MARGINAL[1] - MARGINAL[0]) as f64
        };
        Some(PerPage {
            instructions: slope(|cost| cost.instructions),
            dsb: slope(|cost| cost.dsb),
            isb: slope(|cost| cost.isb),
            tlbi: slope(|cost| cost.tlbi),
        })
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "counts {}", self.terms)?;
        for ((op, pages), cost) in &self.costs {
            writeln!(
                f,
                "count op={op} pages={pages} instructions={} spread={} ptes={} dsb={} isb={} tlbi={} ish={} dmb={}",
                cost.instructions,
                cost.spread,
                cost.ptes,
                cost.dsb,
                cost.isb,
                cost.tlbi,
                cost.ish,
                cost.dmb
            )?;
        }
        for event in EVENTS.iter().chain(&WAKES) {
            if let Some(cost) = self.events.get(event.name) {
                writeln!(
                    f,
                    "event name={} instructions={} spread={} dsb={} isb={}",
                    event.name, cost.instructions, cost.spread, cost.dsb, cost.isb
                )?;
            }
        }
        Ok(())
    }
}

/// The words of a line, `name=value` each.
struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Fields<'a> {
    fn read(words: &'a str) -> Result<Self> {
        let mut values = BTreeMap::new();
        for word in words.split_whitespace() {
            let (name, value) = word
                .split_once('=')
                .with_context(|| format!("`{word}` is no name=value"))?;
            if values.insert(name, value).is_some() {
                bail!("`{name}` stands there twice");
            }
        }
        Ok(Self(values))
    }

    fn text(&self, name: &str) -> Result<&'a str> {
        let value = self.0.get(name).copied();
        value.with_context(|| format!("`{name}=` is missing"))
    }

    fn number(&self, name: &str) -> Result<u64> {
        let value = self.text(name)?;
        value
            .parse()
            .with_context(|| format!("`{name}={value}` has no number"))
    }
}

impl Fields<'_> {
    /// What the kernel says only if it has counted it.
    fn counted(&self, name: &str, counter: Counter) -> Result<u64> {
        match counter {
            Counter::Inside => self.number(name),
            Counter::Outside => Ok(0),
        }
    }
}

/// Reads `op=8 pages=512 instructions=...`.
fn window(words: &str, counter: Counter) -> Result<((u8, u64), Cost)> {
    let fields = Fields::read(words)?;
    let (op, pages) = (u8::try_from(fields.number("op")?)?, fields.number("pages")?);
    let cost = Cost {
        instructions: fields.counted("instructions", counter)?,
        spread: fields.counted("spread", counter)?,
        ptes: fields.number("ptes")?,
        dsb: fields.number("dsb")?,
        isb: fields.number("isb")?,
        tlbi: fields.number("tlbi")?,
        ish: fields.number("ish")?,
        dmb: fields.number("dmb")?,
    };
    ensure!(
        cost.ptes == pages || op == FLUSH && cost.ptes == 0,
        "{} entries were written for {pages} pages: the window did something else",
        cost.ptes
    );
    Ok(((op, pages), cost))
}

/// Reads `name=switch instructions=...`.
fn event(words: &str, counter: Counter) -> Result<(&'static str, EventCost)> {
    let fields = Fields::read(words)?;
    let name = fields.text("name")?;
    let known = Event::named(name).with_context(|| {
        format!("event {name} is not known; describe it in xtask/src/counts/events.rs")
    })?;
    let cost = EventCost {
        instructions: fields.counted("instructions", counter)?,
        spread: fields.counted("spread", counter)?,
        dsb: fields.number("dsb")?,
        isb: fields.number("isb")?,
    };
    Ok((known.name, cost))
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
    fn a_log_is_read_and_shown_as_it_was() {
        let measured = Measured::parse(LOG).unwrap();
        assert_eq!(measured.terms, "backend=defer-barriers policy=classic");
        let shown = measured.to_string();
        let expected: Vec<&str> = LOG
            .lines()
            .filter(|l| l.starts_with("count") || l.starts_with("event"))
            .collect();
        assert_eq!(shown.lines().collect::<Vec<_>>(), expected);
        let costs: Vec<_> = measured
            .of(8)
            .map(|(pages, cost)| (pages, cost.spread))
            .collect();
        assert_eq!(costs, [(512, 0), (4096, 3)]);
        assert_eq!(measured.of(9).count(), 0);
        let events: Vec<_> = measured
            .events
            .iter()
            .map(|(name, cost)| (*name, cost.instructions, cost.dsb))
            .collect();
        assert_eq!(events, [("switch", 140, 1), ("tick", 231, 0)]);
    }

    #[test]
    fn who_has_not_counted_instructions_need_not_say_them() {
        let bare = LOG.replace(" instructions=1000 spread=0", "");
        assert!(Measured::parse(&bare).is_err());
        let read = Measured::read(&bare, Counter::Outside).unwrap();
        let cost = read.costs[&(8, 512)];
        assert_eq!((cost.instructions, cost.ptes, cost.dsb), (0, 512, 1));
        let wake = "event name=wake op=135 dsb=2 isb=0\n";
        let read = Measured::read(&format!("{bare}{wake}"), Counter::Outside).unwrap();
        assert_eq!(read.events["wake"].dsb, 2);
        assert!(
            read.to_string()
                .ends_with("event name=wake instructions=0 spread=0 dsb=2 isb=0\n")
        );
    }

    #[test]
    fn marginal_cost_is_taken_between_two_sizes() {
        let per_page = Measured::parse(LOG).unwrap().per_page(8).unwrap();
        assert_eq!((per_page.instructions, per_page.tlbi), (2.0, 2.0));
        assert_eq!((per_page.dsb, per_page.isb), (0.0, 0.0));
        let small = LOG.replace("4096", "16");
        assert_eq!(Measured::parse(&small).unwrap().per_page(8), None);
    }

    #[test]
    fn a_line_that_says_something_else_is_refused() {
        let cases = [
            ("tlbi=0", "", "`tlbi=` is missing"),
            ("dsb=1", "dsb=one", "`dsb=one` has no number"),
            ("dsb=1", "dsb=1 dsb=1", "`dsb` stands there twice"),
            ("spread=0", "spread", "`spread` is no name=value"),
            (
                "pages=4096",
                "pages=512",
                "4096 entries were written for 512 pages",
            ),
            ("op=8 pages=4096", "op=300 pages=4096", "out of range"),
            ("name=tick", "name=switch", "is the second one of its kind"),
            ("name=tick", "name=tock", "event tock is not known"),
            ("name=tick ", "", "`name=` is missing"),
            ("=231", "=many", "`instructions=many` has no number"),
            ("count op", "xcount op", "no `counts backend="),
            ("counts b", "x", "no `counts backend="),
            (
                "pages=4096 instructions=8168 spread=3 ptes=4096",
                "pages=512 instructions=0 spread=0 ptes=512",
                "is the second one of its kind",
            ),
        ];
        for (from, to, expected) in cases {
            let error = Measured::parse(&LOG.replace(from, to)).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{to}: {error:#}");
        }
    }
}
