// SPDX-License-Identifier: MIT OR Apache-2.0
//! A strict reader of KTAP logs, for tests of the writer.
//!
//! It accepts the grammar of [`ktap`](super::ktap) and nothing beyond, and adds
//! what Linux's parser would trip over: that parser does not read indentation,
//! so a line of free text must not look like protocol at any indentation.

use std::iter::Peekable;
use std::str::Lines;

use super::ktap::Tally;

/// A suite, group or test as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub verdict: Verdict,
    /// Text of the diagnostic lines before the result, without `# `.
    pub diagnostics: Vec<String>,
    /// Empty for a test.
    pub children: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    Fail,
    Skip(String),
}

impl Entry {
    fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        if self.children.is_empty() {
            match self.verdict {
                Verdict::Pass => tally.pass = 1,
                Verdict::Fail => tally.fail = 1,
                Verdict::Skip(_) => tally.skip = 1,
            }
        }
        for child in &self.children {
            tally.add(child.tally());
        }
        tally
    }
}

/// Reads a whole log. Lines before the version line are not looked at, as an
/// emulator's or firmware's output is.
pub fn parse(log: &str) -> Result<(Vec<Entry>, Tally), String> {
    if !log.ends_with('\n') {
        return Err("the last line has no end".into());
    }
    let mut lines = log.lines().peekable();
    while lines.next_if(|line| *line != "KTAP version 1").is_some() {}
    let mut parser = Parser { lines };
    parser.exact("KTAP version 1")?;
    let suites = parser.children("", 0, None)?;
    let mut tally = Tally::default();
    for suite in &suites {
        tally.add(suite.tally());
    }
    parser.exact(&format!("# Totals: {tally}"))?;
    match parser.lines.find(|line| is_protocol(line)) {
        Some(line) => Err(format!("behind the end: {line:?}")),
        None => Ok((suites, tally)),
    }
}

struct Parser<'a> {
    lines: Peekable<Lines<'a>>,
}

impl Parser<'_> {
    fn exact(&mut self, expected: &str) -> Result<(), String> {
        match self.lines.next() {
            Some(line) if line == expected => Ok(()),
            other => Err(format!("expected {expected:?}, found {other:?}")),
        }
    }

    /// A plan and as many entries, whose result lines start with `indent`.
    fn children(
        &mut self,
        indent: &str,
        depth: usize,
        parent: Option<&str>,
    ) -> Result<Vec<Entry>, String> {
        let line = self.lines.next().unwrap_or("");
        let plan = line
            .strip_prefix(indent)
            .and_then(|line| line.strip_prefix("1.."));
        let count: usize = plan
            .and_then(|count| count.parse().ok())
            .filter(|count| *count > 0)
            .ok_or_else(|| format!("expected a plan of 1 or more, found {line:?}"))?;
        let mut entries: Vec<Entry> = Vec::new();
        for number in 1..=count {
            let entry = self.entry(indent, depth, number)?;
            if Some(entry.name.as_str()) == parent {
                return Err(format!("{} is called as its parent", entry.name));
            }
            if entries.iter().any(|other| other.name == entry.name) {
                return Err(format!("{} is there twice", entry.name));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn entry(&mut self, indent: &str, depth: usize, number: usize) -> Result<Entry, String> {
        let deeper = format!("{indent}    ");
        let mut subtest = None;
        let mut children = Vec::new();
        let mut diagnostics = Vec::new();
        loop {
            let line = self.lines.next().ok_or("the log ends inside a plan")?;
            if line == format!("{deeper}KTAP version 1") {
                if subtest.is_some() || !diagnostics.is_empty() {
                    return Err("a version line is not at the start of a group".into());
                }
                let header = self.lines.next().unwrap_or("");
                let name = header
                    .strip_prefix(&format!("{deeper}# Subtest: "))
                    .ok_or_else(|| format!("expected a subtest header, found {header:?}"))?;
                children = self.children(&deeper, depth + 1, Some(name))?;
                subtest = Some(name.to_owned());
                continue;
            }
            let inner = line.strip_prefix(indent).unwrap_or(line);
            if let Some(text) = inner.strip_prefix("# ") {
                diagnostics.push(text.to_owned());
                continue;
            }
            let Some((name, verdict)) = result(inner, number)? else {
                if is_protocol(line) {
                    return Err(format!("free text looks like protocol: {line:?}"));
                }
                continue;
            };
            if depth == 0 && subtest.is_none() {
                return Err(format!("{name} is a test outside any suite"));
            }
            let entry = Entry {
                name,
                verdict,
                diagnostics,
                children,
            };
            return match subtest {
                Some(header) => checked_group(entry, &header),
                None => Ok(entry),
            };
        }
    }
}

/// A result line with the expected number.
fn result(line: &str, number: usize) -> Result<Option<(String, Verdict)>, String> {
    let (ok, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Ok(None),
    };
    let (found, rest) = rest.split_once(' ').ok_or("a result without name")?;
    if found != number.to_string() {
        return Err(format!("expected result {number}, found {line:?}"));
    }
    let (name, verdict) = match (rest.split_once(" # "), ok) {
        (None, true) => (rest, Verdict::Pass),
        (None, false) => (rest, Verdict::Fail),
        (Some((name, directive)), true) => {
            let reason = directive
                .strip_prefix("SKIP ")
                .filter(|reason| !reason.is_empty())
                .ok_or_else(|| format!("unknown directive in {line:?}"))?;
            (name, Verdict::Skip(reason.to_owned()))
        }
        (Some(_), false) => return Err(format!("a directive after not ok: {line:?}")),
    };
    if name.is_empty() || name.contains('#') || name.trim() != name {
        return Err(format!("bad name in {line:?}"));
    }
    Ok(Some((name.to_owned(), verdict)))
}

/// A group's result must say what its children say.
fn checked_group(entry: Entry, header: &str) -> Result<Entry, String> {
    if entry.name != header {
        return Err(format!("subtest {header} ends as {}", entry.name));
    }
    let tally = entry.tally();
    let agrees = match entry.verdict {
        Verdict::Fail => tally.fail > 0,
        Verdict::Skip(_) => tally.skip == tally.total(),
        Verdict::Pass => tally.fail == 0 && tally.pass > 0,
    };
    if !agrees {
        return Err(format!("{header} is {:?} with {tally}", entry.verdict));
    }
    if entry.diagnostics != [format!("{header}: {tally}")] {
        return Err(format!("{header}: summary is {:?}", entry.diagnostics));
    }
    Ok(entry)
}

/// Whether Linux's parser, which skips leading blanks, would read this line as
/// protocol.
fn is_protocol(line: &str) -> bool {
    let line = line.trim_start();
    let numbered = |rest: &str| rest.starts_with(|first: char| first.is_ascii_digit());
    line.strip_prefix("ok ").is_some_and(numbered)
        || line.strip_prefix("not ok ").is_some_and(numbered)
        || line.strip_prefix("1..").is_some_and(numbered)
        || line.starts_with("KTAP version ")
        || line.starts_with("TAP version ")
        || line.starts_with("# Subtest: ")
}

#[cfg(test)]
mod tests {
    use super::parse;

    const GOOD: &str = "\
boot messages
KTAP version 1
1..2
    KTAP version 1
    # Subtest: tables
    1..2
    # map.tag: qemu-visible
some free text
    ok 1 map
        KTAP version 1
        # Subtest: fold
        1..1
        # one.tag: hw-only
        ok 1 one # SKIP no hardware
    # fold: pass:0 fail:0 skip:1 total:1
    ok 2 fold # SKIP all tests skipped
# tables: pass:1 fail:0 skip:1 total:2
ok 1 tables
    KTAP version 1
    # Subtest: lazy
    1..1
    not ok 1 flush
# lazy: pass:0 fail:1 skip:0 total:1
not ok 2 lazy
# Totals: pass:1 fail:1 skip:1 total:3
bye
";

    #[test]
    fn reads_a_good_log() {
        let (suites, tally) = parse(GOOD).unwrap();
        assert_eq!(tally.to_string(), "pass:1 fail:1 skip:1 total:3");
        assert_eq!(suites[0].children[1].children[0].name, "one");
        assert_eq!(suites[0].children[0].diagnostics, ["map.tag: qemu-visible"]);
    }

    #[test]
    fn refuses_every_kind_of_damage() {
        let damages = [
            ("1..2\n    KTAP", "1..3\n    KTAP"),
            ("1..2\n    KTAP", "1..1\n    KTAP"),
            ("1..2\n    KTAP", "1..0\n    KTAP"),
            ("    ok 1 map", "    ok 2 map"),
            ("    ok 1 map", "  ok 1 map"),
            ("    ok 1 map", "    ok 1 tables"),
            ("    ok 1 map", "    ok 1 map # TODO later"),
            ("    ok 1 map", "    ok 1 m#ap"),
            ("some free text", "  ok 7 free text"),
            ("some free text", "1..5"),
            ("    # Subtest: tables\n", ""),
            ("ok 1 tables", "ok 1 table"),
            ("ok 1 tables", "not ok 1 tables"),
            ("not ok 2 lazy", "ok 2 lazy"),
            ("not ok 2 lazy", "not ok 2 lazy # SKIP x"),
            ("# tables: pass:1", "# tables: pass:2"),
            ("# Totals: pass:1", "# Totals: pass:2"),
            ("# Totals: pass:1 fail:1 skip:1 total:3\n", ""),
            ("bye", "ok 3 late"),
            ("ok 2 fold # SKIP all tests skipped", "ok 2 fold"),
        ];
        for (from, to) in damages {
            assert!(GOOD.contains(from), "{from}");
            let log = GOOD.replacen(from, to, 1);
            assert!(parse(&log).is_err(), "{from:?} -> {to:?} was accepted");
        }
    }
}
