// SPDX-License-Identifier: MIT OR Apache-2.0

//! Layers: the imports of a crate run downward only, and in no circle.
//!
//! Imports are read from the tokens of each file, outside of comments and of test modules: the trees of `use`
//! declarations, and the paths that begin with `crate`, `super` or `self`, in macros, too. Tokens that would hide an
//! import from this reading are refused. A `mod.rs` only declares and re-exports, or lies on top of its folder, so a
//! file that imports from its own folder's `mod.rs` closes a circle and is found like any other.

use super::source::Source;
use ra_ap_rustc_lexer::{FrontmatterAllowed, TokenKind, tokenize};
use std::collections::{BTreeMap, BTreeSet};

/// The name of the check.
pub const NAME: &str = "layers";

/// A crate and its layers.
#[derive(Debug)]
struct Crate {
    /// The folder of its `lib.rs`.
    root: &'static str,
    /// The layers from the bottom to the top: a name, and the modules, separated by blanks. A module
    /// imports from lower layers, and from its own layer as long as that closes no circle of files. A `|`
    /// separates modules of one layer that do not import each other. What `lib.rs` defines is the module `lib`;
    /// no other module imports from it if it is in no layer.
    layers: &'static [(&'static str, &'static str)],
    /// Files that import from a higher layer or in a circle nevertheless, and from where.
    exceptions: &'static [(&'static str, &'static str)],
    /// Modules whose own files may import each other in circles.
    circles: &'static [&'static str],
    /// Tokens that would hide an import.
    hiding: &'static [&'static [&'static str]],
}

/// All crates with layers.
const CRATES: [Crate; 2] = [LIBRARY, KERNEL];

const LIBRARY: Crate = Crate {
    root: "kernel/mmu/src/",
    layers: &[
        (
            "plain values",
            "addr bbm counters desc error group policy strategy table tlbi",
        ),
        ("the data of a CPU and of a task", "batch task"),
        ("instructions", "aarch64"),
        ("traits that a kernel implements", "hardware"),
        ("configuration, barriers, invalidations", "mmu"),
        ("ready parts of a kernel", "one_task table_pool"),
        ("strategies", "backend"),
        ("lazy MMU mode", "lazy"),
        ("address spaces", "must_not_compile space"),
    ],
    exceptions: &[],
    circles: &[],
    hiding: &HIDING,
};

const KERNEL: Crate = Crate {
    root: "kernel/src/",
    layers: &[
        (
            "shared types and macros",
            "lib errors filter machine stack text",
        ),
        ("CPU", "arch"),
        ("locks", "sync"),
        ("drivers and device tree", "platform"),
        ("memory", "mm"),
        ("tasks", "sched"),
        ("all CPUs, bad ends", "exceptions panic smp spurious"),
        ("boot", "start"),
        ("measured code", "bench"),
        ("modes", "demo | litmus | selftest | soak"),
        ("binary", "main"),
    ],
    // The lock of the kernel's address space turns preemption off, which is a matter of tasks.
    exceptions: &[("mm/kernel_space", "sched")],
    circles: &["platform", "sched", "soak"],
    // Macros are the crate's, and every module uses them.
    hiding: HIDING.split_at(2).0,
};

/// Tokens that would hide an import.
const HIDING: [&[&str]; 3] = [
    &["#", "[", "path"],
    &["extern", "crate", "self"],
    &["$", "crate"],
];

/// Runs the check, prints the layers or what breaks them, and tells whether nothing does.
pub fn run(sources: &[Source]) -> bool {
    let mut is_clean = true;
    for layered in &CRATES {
        let problems = layered.problems(sources);
        for problem in &problems {
            println!("{NAME}: {}{problem}", layered.root);
        }
        if problems.is_empty() {
            println!("{}: each layer imports from those below it", layered.root);
            for (name, modules) in layered.layers.iter().rev() {
                println!("  {name}: {modules}");
            }
        }
        is_clean &= problems.is_empty();
    }
    is_clean
}

impl Crate {
    /// What breaks the layers. A file is named by its module path ("space/write"; "space" for its `mod.rs`).
    fn problems(&self, sources: &[Source]) -> Vec<String> {
        let mut codes = BTreeMap::new();
        for source in sources {
            let path = source.path.strip_prefix(self.root);
            if let Some(path) = path.and_then(|path| path.strip_suffix(".rs")) {
                let module = path.strip_suffix("/mod").unwrap_or(path);
                if module.split('/').any(|part| part == "tests") {
                    continue;
                }
                codes.insert(module.to_owned(), code_of(source));
            }
        }
        let mut problems = Vec::new();
        let mut imports = BTreeMap::new();
        for (module, code) in &codes {
            let tokens = tokens_of(code);
            for what in self.hiding {
                if tokens.windows(what.len()).any(|some| some == *what) {
                    let what = what.concat();
                    problems.push(format!("{module} contains {what}, which hides imports"));
                }
            }
            let mut from: BTreeSet<String> = paths(&tokens)
                .iter()
                .filter_map(|path| resolve(path, module, |path| codes.contains_key(path)))
                .collect();
            from.retain(|from| from != module && !self.exceptions.contains(&(module, from)));
            problems.extend(self.upward(module, &from));
            let may_circle = self.circles.contains(&top(module));
            from.retain(|from| !may_circle || top(from) != top(module));
            imports.insert(module.as_str(), from);
        }
        let (mut way, mut done) = (Vec::new(), BTreeSet::new());
        problems.extend(
            codes
                .keys()
                .find_map(|module| circle(&imports, module, &mut way, &mut done)),
        );
        problems
    }

    /// What is wrong with the layers of `module` and of what it imports.
    fn upward(&self, module: &str, imports: &BTreeSet<String>) -> Vec<String> {
        // The layer, and the part of it between two `|`.
        let place = |module: &str| {
            let has = |modules: &str| modules.split(' ').any(|name| name == top(module));
            let layers = self.layers.iter().enumerate();
            layers
                .flat_map(|(layer, (_, modules))| modules.split('|').map(move |part| (layer, part)))
                .find(|(_, part)| has(part))
        };
        let own = place(module);
        let is_below = |import: &str| {
            place(import)
                .zip(own)
                .is_some_and(|(from, to)| from.0 < to.0 || from == to)
        };
        match own {
            _ if module == "lib" => Vec::new(),
            None => vec![format!("{module} is in no layer of xtask/src/check/layers.rs")],
            Some(_) => imports
                .iter()
                .filter(|import| !is_below(import))
                .map(|import| {
                    format!("{module} imports {import}, which lies above it or beside it: move what both need to a lower layer")
                })
                .collect(),
        }
    }
}

/// The first part of a module path.
fn top(module: &str) -> &str {
    module.split('/').next().unwrap_or(module)
}

/// A circle of imports that `way` and the imports of `module` close; `done` are modules from which none is reached.
fn circle<'a>(
    imports: &'a BTreeMap<&str, BTreeSet<String>>,
    module: &'a str,
    way: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<String> {
    if let Some(start) = way.iter().position(|passed| *passed == module) {
        let circle = way[start..].join(" -> ");
        return Some(format!("{circle} -> {module} is a circle of imports"));
    }
    if !done.insert(module) {
        return None;
    }
    way.push(module);
    let mut next = imports.get(module)?.iter();
    let found = next.find_map(|next| circle(imports, next, way, done));
    way.pop();
    found
}

/// The code of a file without modules that are compiled for tests only.
fn code_of(source: &Source) -> String {
    let mut code = String::new();
    let mut lines = source.lines.iter().peekable();
    while let Some(line) = lines.next() {
        let next = lines.peek().map_or("", |next| next.code.as_str());
        if line.code.trim() == "#[cfg(test)]" && next.starts_with("mod ") {
            // To the brace that closes the module.
            lines.find(|line| line.text == "}");
            continue;
        }
        code += &line.code;
        code.push(' ');
    }
    code
}

/// The tokens of `code`, which has no comments.
fn tokens_of(code: &str) -> Vec<&str> {
    let mut rest = code;
    let mut tokens = Vec::new();
    for token in tokenize(code, FrontmatterAllowed::No) {
        let (text, after) = rest.split_at(token.len as usize);
        if token.kind != TokenKind::Whitespace {
            tokens.push(text);
        }
        rest = after;
    }
    tokens
}

/// The paths of all `use` declarations, with their trees expanded, and all paths that begin with `crate::`, `super::` or
/// `self::`.
fn paths<'a>(tokens: &[&'a str]) -> Vec<Vec<&'a str>> {
    let (mut found, mut rest) = (Vec::new(), tokens);
    loop {
        rest = match rest {
            [] => return found,
            // Not the `use<'a>` of a type.
            ["use", "<", after @ ..] => after,
            ["use", tree @ ..] => expand(tree, &[], &mut found),
            ["crate" | "super" | "self", ":", ":", ..] => expand(rest, &[], &mut found),
            [_, after @ ..] => after,
        };
    }
}

/// Adds the paths of the `use` tree that `tokens` begin with, below `parent`; returns the tokens after it.
fn expand<'a, 'b>(
    mut tokens: &'b [&'a str],
    parent: &[&'a str],
    found: &mut Vec<Vec<&'a str>>,
) -> &'b [&'a str] {
    let mut path = parent.to_vec();
    while let [name, ":", ":", rest @ ..] = tokens {
        path.push(name);
        tokens = rest;
    }
    if let ["{", rest @ ..] = tokens {
        tokens = rest;
        loop {
            tokens = match tokens {
                [",", rest @ ..] => rest,
                ["}", rest @ ..] => return rest,
                [] => return tokens,
                _ => expand(tokens, &path, found),
            };
        }
    }
    let ([name, "as", _, rest @ ..] | [name, rest @ ..]) = tokens else {
        return tokens;
    };
    path.push(name);
    found.push(path);
    rest
}

/// The file that `path`, used in `module`, takes its item from; `None` if it is of another crate.
fn resolve(path: &[&str], module: &str, is_file: impl Fn(&str) -> bool) -> Option<String> {
    let parent = |module: &str| module.rsplit_once('/').unwrap_or_default().0.to_owned();
    let join = |parent: &str, child: &str| match parent {
        "" => child.to_owned(),
        _ => format!("{parent}/{child}"),
    };
    let here = if module == "lib" { "" } else { module };
    let (first, mut names) = path.split_first()?;
    let mut at = match *first {
        "crate" => String::new(),
        "self" => here.to_owned(),
        "super" => parent(module),
        // A child of this module, or another crate.
        child => Some(join(here, child)).filter(|child| is_file(child))?,
    };
    while let ["super", rest @ ..] = names {
        at = parent(&at);
        names = rest;
    }
    for name in names {
        let deeper = join(&at, name);
        if !is_file(&deeper) {
            break;
        }
        at = deeper;
    }
    Some(if at.is_empty() { "lib".into() } else { at })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(files: &[(&str, &str)]) -> Vec<String> {
        problems_of(&LIBRARY, files)
    }

    fn problems_of(layered: &Crate, files: &[(&str, &str)]) -> Vec<String> {
        let mut sources = Vec::new();
        for (path, text) in files {
            sources.push(Source::new(&format!("{}{path}", layered.root), text));
        }
        layered.problems(&sources)
    }

    #[test]
    fn downward_imports_are_fine_and_upward_ones_are_named() {
        let importing = |text| {
            problems(&[
                ("addr.rs", "pub struct A;\n"),
                ("lazy/mod.rs", "mod mode;\n"),
                ("lazy/mode.rs", text),
                ("space/mod.rs", "mod write;\npub use write::W;\n"),
                (
                    "space/write.rs",
                    "use crate::{addr::A, lazy::mode::{Lazy as L, X}};\n",
                ),
            ])
        };
        assert_eq!(importing("use crate::addr::A;\nuse core::fmt;\n"), [""; 0]);
        for upward in [
            "use crate::{addr::A, space::{Space as S, write::W as X}};\n",
            "fn f() { crate::space::write::g() }\n",
            "fn f() { g!(super::super::space::write::G) }\n",
        ] {
            let problems = importing(upward);
            let found = problems
                .iter()
                .any(|it| it.contains("lazy/mode imports space/write"));
            assert!(found, "{upward}: {problems:?}");
        }
    }

    #[test]
    fn a_circle_inside_of_a_layer_is_found_whatever_its_length() {
        let circle = problems(&[
            ("space/mod.rs", "mod a;\n"),
            ("space/a.rs", "use super::b::B;\n"),
            (
                "space/b.rs",
                "use self::inner::I;\nuse crate::space::c::C;\n",
            ),
            ("space/c.rs", "use super::d::D;\nuse super::a::A;\n"),
            ("space/d.rs", "\n"),
        ]);
        assert_eq!(circle.len(), 1, "{circle:?}");
        assert!(
            circle[0].starts_with("space/a -> space/b -> space/c -> space/a "),
            "{circle:?}"
        );
        // A facade that its own folder imports from.
        let facade = problems(&[
            ("space/mod.rs", "pub use write::W;\n"),
            ("space/write.rs", "use super::Other;\n"),
        ]);
        assert_eq!(facade.len(), 1);
    }

    #[test]
    fn comments_tests_and_other_crates_are_no_imports() {
        let text = "// use crate::space::X;\n//! [`crate::Lazy`]\nuse core::space::Y;\n#[cfg(test)]\nmod tests {\n    use crate::space::Z;\n}\n";
        assert_eq!(problems(&[("addr.rs", text)]), [""; 0]);
    }

    #[test]
    fn an_import_cannot_hide() {
        for code in [
            "fn f() { super::space::write::g() }\n",
            "#[path = \"space/hidden.rs\"]\nmod hidden;\n",
            "extern crate self as other;\n",
            "mod tests {\n}\nuse crate::space::write::W;\n",
            "#[cfg(test)]\nmod tests {\n}\nuse crate::space::write::W;\n",
            "macro_rules! m { () => { $crate::space::write::g() } }\n",
            "use crate::*;\n",
            "use crate as c;\n",
        ] {
            let files = [
                ("addr.rs", code),
                ("space/mod.rs", "mod write;\n"),
                ("space/write.rs", "\n"),
            ];
            assert_ne!(problems(&files), [""; 0], "{code}");
        }
    }

    #[test]
    fn a_new_module_must_be_given_a_layer() {
        let problems = problems(&[("novelty.rs", "\n")]);
        assert!(
            problems[0].contains("novelty is in no layer"),
            "{problems:?}"
        );
    }

    #[test]
    fn another_crate_has_layers_and_exceptions_of_its_own() {
        let kernel = Crate {
            root: "kernel/src/",
            layers: &[("macros", "lib"), ("below", "arch"), ("above", "mm")],
            exceptions: &[("arch/report", "mm")],
            circles: &["mm"],
            hiding: &[],
        };
        let problems = |module: &str| {
            let text = "use crate::{mm::Frame, println};\n";
            let files = [("lib.rs", "mod mm;\n"), (module, text), ("mm/mod.rs", "\n")];
            problems_of(&kernel, &files)
        };
        assert_eq!(problems("arch/report.rs"), [""; 0]);
        let problems = problems("arch/other.rs");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].contains("arch/other imports mm"),
            "{problems:?}"
        );
    }

    #[test]
    fn modules_beside_each_other_and_circles_are_as_the_table_says() {
        let layered = Crate {
            root: "kernel/src/",
            layers: &[("tasks", "mm"), ("modes", "litmus | selftest")],
            exceptions: &[],
            circles: &["mm"],
            hiding: &[],
        };
        let circle = [
            ("mm/a.rs", "use super::b::B;\n"),
            ("mm/b.rs", "use super::a::A;\n"),
        ];
        assert_eq!(problems_of(&layered, &circle), [""; 0]);
        let without = Crate {
            circles: &[],
            ..layered
        };
        assert_eq!(problems_of(&without, &circle).len(), 1);
        let beside = [
            ("litmus/mod.rs", "use crate::selftest::Report;\n"),
            ("selftest/mod.rs", "use crate::mm::Frame;\n"),
            ("mm/mod.rs", "\n"),
        ];
        let problems = problems_of(&without, &beside);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].contains("litmus imports selftest"),
            "{problems:?}"
        );
    }
}
