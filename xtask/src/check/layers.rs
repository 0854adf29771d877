// SPDX-License-Identifier: MIT OR Apache-2.0

//! The layers of the page-table library: imports run downward only, and leaves are stored in one module.
//!
//! An import is read as text: the trees of `use` declarations and paths that begin with `crate`, `super` or `self`,
//! outside of comments and of test modules. What would hide an import from this reading is refused. A `mod.rs` only
//! declares and re-exports, or lies on top of its folder, so a file that imports from its own folder's `mod.rs` closes a
//! circle and is found like any other.
//!
//! A store to an entry is recognized by the name of the method, whatever it is called on; atomic cells are told apart by
//! their `Ordering`, and the other modules that own a method of such a name are listed.

use super::Verdict;
use super::source::Source;
use std::collections::{BTreeMap, BTreeSet};

/// The name of the check.
pub const NAME: &str = "layers";

const ROOT: &str = "kernel/mmu/src/";

/// The layers from the bottom to the top, and the modules in each. A module imports from lower layers, and from its
/// own one as long as that closes no circle.
const LAYERS: [(&str, &[&str]); 9] = [
    (
        "plain values",
        &[
            "addr", "bbm", "counters", "desc", "error", "group", "policy", "strategy", "table",
            "tlbi",
        ],
    ),
    ("what a task and a CPU carry", &["batch", "task"]),
    ("instructions", &["aarch64"]),
    ("what a kernel supplies", &["hardware"]),
    ("configuration, barriers, invalidations", &["mmu"]),
    ("ready parts of a kernel", &["one_task", "table_pool"]),
    ("strategies", &["backend"]),
    ("lazy MMU mode", &["lazy"]),
    ("address spaces", &["must_not_compile", "space"]),
];

/// Modules that may write to entries through `Hardware`, and what they write.
const WRITERS: [(&str, &str); 3] = [
    ("backend/store", "leaves"),
    ("space/links", "links of tables"),
    ("space/spare", "chains of tables that no tree links"),
];

/// The methods of `Hardware` that write entries.
const WRITES: [&str; 7] = [
    "store",
    "swap",
    "compare_exchange",
    "store_linear",
    "store_frames",
    "update_run",
    "store_zero",
];

/// Modules that define these methods, or use cells and sets with methods of the same names, and write no entry of a
/// tree.
const OTHERS: [&str; 3] = ["hardware", "table", "table_pool"];

/// What would hide an import.
const HIDING: [&str; 3] = ["#[path", "extern crate self", "$crate"];

/// Runs the check and prints the layers.
pub fn run(sources: &[Source]) -> Verdict {
    let library = Library::read(sources);
    let problems = library.problems();
    for problem in &problems {
        println!("{NAME}: {problem}");
    }
    if !problems.is_empty() {
        return Verdict::Findings;
    }
    print!("{}", library.report());
    Verdict::Clean
}

/// The files of the library, by module path ("space/write"; "space" for its `mod.rs`).
#[derive(Debug, Default)]
struct Library {
    files: BTreeMap<String, File>,
}

#[derive(Debug, Default)]
struct File {
    lines: usize,
    /// Code without comments and tests, all white space in it one blank.
    code: String,
    imports: BTreeSet<String>,
}

impl Library {
    fn read(sources: &[Source]) -> Self {
        let mut files = BTreeMap::new();
        for source in sources {
            let Some(path) = source.path.strip_prefix(ROOT) else {
                continue;
            };
            let Some(path) = path.strip_suffix(".rs") else {
                continue;
            };
            let module = path.strip_suffix("/mod").unwrap_or(path).to_owned();
            let code = code_of(source);
            let file = File {
                lines: source.lines.len(),
                code,
                imports: BTreeSet::new(),
            };
            files.insert(module, file);
        }
        let modules: BTreeSet<String> = files.keys().cloned().collect();
        for (module, file) in &mut files {
            for path in paths(&file.code) {
                let target = resolve(&path, module, &modules);
                file.imports
                    .extend(target.filter(|target| target != module));
            }
        }
        Self { files }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = self.unknown_modules();
        problems.extend(self.hidden());
        problems.extend(self.upward());
        problems.extend(self.circle());
        problems.extend(self.other_writers());
        problems
    }

    fn unknown_modules(&self) -> Vec<String> {
        let tops: BTreeSet<&str> = self.files.keys().map(|module| top(module)).collect();
        tops.into_iter()
            .filter(|name| *name != "lib" && layer(name).is_none())
            .map(|name| {
                format!(
                    "{ROOT}{name} is in no layer: add it to LAYERS in xtask/src/check/layers.rs"
                )
            })
            .collect()
    }

    /// What this check could not see through.
    fn hidden(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (module, file) in &self.files {
            for what in HIDING.iter().filter(|what| file.code.contains(**what)) {
                found.push(format!(
                    "{ROOT}{module} contains {what}, which hides imports: write the path"
                ));
            }
        }
        found
    }

    /// Imports from a higher layer.
    fn upward(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (module, file) in self.files.iter().filter(|(module, _)| *module != "lib") {
            for import in &file.imports {
                let (from, to) = (layer(top(module)), layer(top(import)));
                if import == "lib" || from < to {
                    found.push(format!(
                        "{ROOT}{module} imports {import}, which lies above it: move what both need to a lower layer"
                    ));
                }
            }
        }
        found
    }

    /// A circle of imports, if there is one: what is left after files whose imports are all gone are removed.
    fn circle(&self) -> Option<String> {
        let mut left: BTreeSet<&str> = self.files.keys().map(String::as_str).collect();
        loop {
            let (rest, gone): (BTreeSet<&str>, BTreeSet<&str>) = left.iter().partition(|module| {
                self.files[**module]
                    .imports
                    .iter()
                    .any(|import| left.contains(import.as_str()))
            });
            if gone.is_empty() {
                break;
            }
            left = rest;
        }
        // Follow first imports until one comes again.
        let mut way = vec![*left.first()?];
        loop {
            let imports = &self.files[*way.last()?].imports;
            let next = imports
                .iter()
                .find(|import| left.contains(import.as_str()))?;
            if let Some(start) = way.iter().position(|module| module == next) {
                way.push(next);
                return Some(format!(
                    "imports run in a circle: {}",
                    way[start..].join(" -> ")
                ));
            }
            way.push(next);
        }
    }

    /// Modules that write to entries and are none of [`WRITERS`].
    fn other_writers(&self) -> Vec<String> {
        let writes_entries = |module: &str| WRITERS.iter().any(|(writer, _)| *writer == module);
        let is_other = |module: &str| OTHERS.contains(&module) || top(module) == "aarch64";
        self.files
            .iter()
            .filter(|(module, _)| !writes_entries(module) && !is_other(module))
            .flat_map(|(module, file)| {
                writes(&file.code).into_iter().map(move |write| {
                    format!(
                        "{ROOT}{module} calls {write}: leaves are stored by backend/store, links by space/links"
                    )
                })
            })
            .collect()
    }

    fn report(&self) -> String {
        let mut text = format!("{ROOT}: each layer imports from those below it only\n");
        for (name, modules) in LAYERS.iter().rev() {
            let shown: Vec<String> = modules
                .iter()
                .map(|module| {
                    let files = self.files.iter().filter(|(path, _)| top(path) == *module);
                    let lines: usize = files.map(|(_, file)| file.lines).sum();
                    format!("{module} {lines}")
                })
                .collect();
            text += &format!("  {name}: {}\n", shown.join(", "));
        }
        for (writer, what) in WRITERS {
            let users: Vec<&str> = self
                .files
                .iter()
                .filter(|(_, file)| file.imports.contains(writer))
                .map(|(module, _)| module.as_str())
                .collect();
            text += &format!("  {writer} stores {what}, for {}\n", users.join(", "));
        }
        text
    }
}

/// The first part of a module path.
fn top(module: &str) -> &str {
    module.split('/').next().unwrap_or(module)
}

fn layer(name: &str) -> Option<usize> {
    LAYERS
        .iter()
        .position(|(_, modules)| modules.contains(&name))
}

/// The code of a file without comments and without modules that are compiled for tests only.
fn code_of(source: &Source) -> String {
    let mut code = String::new();
    let mut lines = source.lines.iter().peekable();
    while let Some(line) = lines.next() {
        let starts_tests = line.code.trim() == "#[cfg(test)]"
            && lines
                .peek()
                .is_some_and(|next| next.code.starts_with("mod "));
        if starts_tests {
            // To the brace that closes the module.
            lines.find(|line| line.text == "}");
            continue;
        }
        code += &line.code;
        code.push(' ');
    }
    code.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The paths of all `use` declarations, with their trees expanded, and all paths that begin with `crate::`, `super::` or
/// `self::`.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("use ") {
        let is_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if let Some((tree, _)) = code[at + 4..].split_once(';').filter(|_| is_word) {
            expand(tree, &[], &mut found);
        }
    }
    for first in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(first) {
            let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            // In the middle of a longer path.
            if code[..at].ends_with(is_path) {
                continue;
            }
            let end = code[at..].find(|c| !is_path(c)).unwrap_or(code.len() - at);
            // A tree of a declaration ends with an empty name, and was expanded above.
            let path = code[at..at + end]
                .split("::")
                .filter(|name| !name.is_empty());
            let path: Vec<String> = path.map(str::to_owned).collect();
            if path.len() > 1 && !code[..at].ends_with("use ") {
                found.push(path);
            }
        }
    }
    found
}

/// Adds the paths of one `use` tree below `prefix`.
fn expand(tree: &str, prefix: &[String], found: &mut Vec<Vec<String>>) {
    let mut depth = 0;
    let mut start = 0;
    let mut parts = Vec::new();
    for (at, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    for part in parts
        .into_iter()
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (head, rest) = match part.split_once('{') {
            Some((head, rest)) => (head, rest.strip_suffix('}')),
            None => (part, None),
        };
        let head = head.split(" as ").next().unwrap_or(head);
        let mut path = prefix.to_vec();
        path.extend(
            head.split("::")
                .map(|name| name.trim().to_owned())
                .filter(|name| !name.is_empty()),
        );
        match rest {
            Some(rest) => expand(rest, &path, found),
            None => found.push(path),
        }
    }
}

/// The file that `path`, used in `module`, takes its item from; `None` if it is of another crate.
fn resolve(path: &[String], module: &str, modules: &BTreeSet<String>) -> Option<String> {
    let parent = |module: &str| module.rsplit_once('/').map(|(parent, _)| parent.to_owned());
    let mut names = path.iter().peekable();
    let mut at = match names.next()?.as_str() {
        "crate" => String::new(),
        "self" => module.to_owned(),
        "super" => parent(module).unwrap_or_default(),
        // A child of this module, or another crate.
        child => {
            let child = join(if module == "lib" { "" } else { module }, child);
            if !modules.contains(&child) {
                return None;
            }
            child
        }
    };
    while names.next_if(|name| *name == "super").is_some() {
        at = parent(&at).unwrap_or_default();
    }
    for name in names {
        let deeper = join(&at, name);
        if !modules.contains(&deeper) {
            break;
        }
        at = deeper;
    }
    if at.is_empty() {
        at = "lib".into();
    }
    Some(at)
}

fn join(parent: &str, child: &str) -> String {
    match parent {
        "" => child.to_owned(),
        _ => format!("{parent}/{child}"),
    }
}

/// The calls in `code` that may write entries: methods of these names, and paths to them.
fn writes(code: &str) -> Vec<String> {
    let code = code.replace(" .", ".");
    let mut found = Vec::new();
    for method in WRITES {
        for call in [
            format!(".{method}("),
            format!("Hardware::{method}"),
            format!("K::{method}"),
            format!("Pte::{method}"),
        ] {
            for (at, _) in code.match_indices(&call) {
                let arguments = arguments(&code[at + call.len()..]);
                // A cell that the CPUs share, such as a task's state.
                let is_atomic = call.starts_with('.')
                    && ["Ordering::", "RELAXED"]
                        .iter()
                        .any(|order| arguments.contains(order));
                if !is_atomic {
                    found.push(format!("{call}{arguments}"));
                }
            }
        }
    }
    found
}

/// The text up to the parenthesis that closes the call.
fn arguments(code: &str) -> &str {
    let mut depth = 1;
    for (at, c) in code.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &code[..=at];
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(files: &[(&str, &str)]) -> Library {
        let sources: Vec<Source> = files
            .iter()
            .map(|(path, text)| Source::new(&format!("{ROOT}{path}"), text))
            .collect();
        Library::read(&sources)
    }

    #[test]
    fn downward_imports_are_fine_and_upward_ones_are_named() {
        let good = library(&[
            ("addr.rs", "pub struct A;\n"),
            ("lazy/mod.rs", "mod mode;\n"),
            ("lazy/mode.rs", "use crate::addr::A;\nuse core::fmt;\n"),
            ("space/mod.rs", "mod write;\npub use write::W;\n"),
            (
                "space/write.rs",
                "use crate::{addr::A, lazy::mode::{Lazy as L, X}};\n",
            ),
        ]);
        assert_eq!(good.problems(), [""; 0]);
        let imports: Vec<_> = good.files["space/write"].imports.iter().collect();
        assert_eq!(imports, ["addr", "lazy/mode"]);

        let bad = library(&[
            ("addr.rs", "fn f() { crate::space::write::g() }\n"),
            ("space/mod.rs", "mod write;\n"),
            ("space/write.rs", "\n"),
        ]);
        let problems = bad.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].contains("addr imports space/write"),
            "{problems:?}"
        );
    }

    #[test]
    fn a_circle_inside_of_a_layer_is_found_whatever_its_length() {
        let circle = library(&[
            ("space/mod.rs", "mod a;\n"),
            ("space/a.rs", "use super::b::B;\n"),
            (
                "space/b.rs",
                "use self::inner::I;\nuse crate::space::c::C;\n",
            ),
            ("space/c.rs", "use super::a::A;\nuse super::d::D;\n"),
            ("space/d.rs", "\n"),
        ]);
        let problems = circle.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].ends_with("space/a -> space/b -> space/c -> space/a"),
            "{problems:?}"
        );
        // A facade that its own folder imports from.
        let facade = library(&[
            ("space/mod.rs", "pub use write::W;\n"),
            ("space/write.rs", "use super::Other;\n"),
        ]);
        assert_eq!(facade.problems().len(), 1);
    }

    #[test]
    fn comments_tests_and_other_crates_are_no_imports() {
        let library = library(&[(
            "addr.rs",
            "// use crate::space::X;\n//! [`crate::Lazy`]\nuse core::space::Y;\n#[cfg(test)]\nmod tests {\n    use crate::space::Z;\n}\n",
        )]);
        assert_eq!(library.problems(), [""; 0]);
    }

    #[test]
    fn a_store_outside_of_the_writers_is_found() {
        let call = "fn f() {\n    self.mmu()\n        .kernel()\n        .store(pte, desc);\n}\n";
        assert_eq!(library(&[("space/links.rs", call)]).problems(), [""; 0]);
        assert_eq!(library(&[("space/write.rs", call)]).problems().len(), 1);
        let other =
            "fn f() { cell.store(1, Ordering::Relaxed); store::store(kernel, pte, desc); }\n";
        assert_eq!(library(&[("space/write.rs", other)]).problems(), [""; 0]);
        for call in [
            "k.store(pte, d)",
            "kernel_ref.swap(pte, d)",
            "Hardware::store(k, pte, d)",
            "let s = K::store",
            "pte.store(d)",
            "hw.store_zero(f(run))",
        ] {
            let code = format!("fn f() {{ {call}; }}\n");
            assert_eq!(
                library(&[("space/write.rs", &code)]).problems().len(),
                1,
                "{call}"
            );
        }
    }

    #[test]
    fn an_import_cannot_hide() {
        for code in [
            "fn f() { super::space::write::g() }\n",
            "#[path = \"space/hidden.rs\"]\nmod hidden;\n",
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
            assert_ne!(library(&files).problems(), [""; 0], "{code}");
        }
    }

    #[test]
    fn a_new_module_must_be_given_a_layer() {
        let problems = library(&[("novelty.rs", "\n")]).problems();
        assert!(
            problems[0].contains("novelty is in no layer"),
            "{problems:?}"
        );
    }
}
