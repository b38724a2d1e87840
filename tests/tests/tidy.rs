//! Architecture rules as tests: allowed imports, where `unsafe` may be used, the length of files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sidegate_common::sync::Alarm;
use syn::spanned::Spanned;
use syn::visit::Visit;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Every Rust file of the project, relative to its root.
fn sources() -> Vec<(String, String)> {
    fn visit(folder: &Path, out: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "fuzz" && name != "node_modules" {
                    visit(&path, out);
                }
            } else if name.ends_with(".rs") {
                out.push(path);
            }
        }
    }
    let root = root();
    let mut paths = Vec::new();
    visit(&root, &mut paths);
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
        (name, std::fs::read_to_string(&path).expect("a source file"))
    };
    paths.into_iter().map(read).collect()
}

/// The lines of test-only items.
#[derive(Default)]
struct TestLines(Vec<std::ops::RangeInclusive<usize>>);

impl TestLines {
    fn note(&mut self, attributes: &[syn::Attribute], item: &impl Spanned) -> bool {
        let test = attributes.iter().any(is_for_tests);
        if test {
            let span = item.span();
            self.0.push(span.start().line..=span.end().line);
        }
        test
    }
}

/// `#[cfg(test)]`, or `#[cfg(all(test, …))]`.
fn is_for_tests(attribute: &syn::Attribute) -> bool {
    let demands_test = |meta: &syn::Meta| meta.path().is_ident("test");
    attribute.path().is_ident("cfg")
        && attribute.parse_args::<syn::Meta>().is_ok_and(|meta| match &meta {
            syn::Meta::List(list) if list.path.is_ident("all") => list
                .parse_args_with(syn::punctuated::Punctuated::<syn::Meta, syn::Token![,]>::parse_terminated)
                .is_ok_and(|all| all.iter().any(demands_test)),
            meta => demands_test(meta),
        })
}

impl<'ast> Visit<'ast> for TestLines {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Const(item) => &item.attrs,
            syn::Item::Enum(item) => &item.attrs,
            syn::Item::ExternCrate(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Macro(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Static(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Trait(item) => &item.attrs,
            syn::Item::Type(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if !self.note(attributes, item) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.attrs, item);
    }
}

/// A file without its test-only items.
fn product(name: &str, text: &str) -> String {
    let file = syn::parse_file(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut tests = TestLines::default();
    tests.visit_file(&file);
    let kept = text.lines().enumerate().filter(|(at, _)| !tests.0.iter().any(|lines| lines.contains(&(at + 1))));
    kept.map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

#[test]
fn only_test_items_are_left_out() {
    let file = "use a;\n#[cfg(test)]\nuse b;\nimpl C {\n    #[cfg(test)]\n    fn d() {\n    }\n    fn e() {}\n}\n\
                /// Doc.\n#[cfg(all(test, unix))]\nmod f {\n}\n#[cfg(not(test))]\nfn g() {}\n";
    let left = product("file", file);
    assert_eq!(left, "use a;\nimpl C {\n    fn e() {}\n}\n#[cfg(not(test))]\nfn g() {}");
}

fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(str::trim).filter(|line| !line.starts_with("//"))
}

/// Words that must not appear below a folder: the arrow is wire -> domain -> store.
const WALLS: &[(&str, &[&str])] = &[
    (
        "common/src/",
        &[
            "tokio",
            "redis::",
            "sqlx::",
            "hyper::",
            "std::net",
            "std::os::unix::net",
            "std::fs::",
            "SystemTime",
            "Instant::now",
        ],
    ),
    (
        "issuer/src/domain/",
        &[
            "crate::http",
            "crate::store",
            "crate::config",
            "crate::app",
            "axum",
            "hyper",
            "redis::",
            "sqlx",
            "std::net",
            "SystemTime",
            "sidegate_runtime",
        ],
    ),
    ("issuer/src/http/", &["crate::store", "redis::", "sqlx"]),
    ("issuer/src/store/", &["crate::http", "crate::app", "axum", "hyper"]),
    (
        "verifier/src/domain/",
        &[
            "crate::wire",
            "crate::config",
            "crate::app",
            "hyper",
            "tonic::",
            "redis::",
            "std::net",
            "SystemTime",
            "sidegate_runtime",
        ],
    ),
    ("verifier/src/wire/", &["redis::", "crate::app"]),
    ("common/shm/src/", &["tokio", "sidegate_common", "std::fs::write"]),
    ("clients/envoy/src/", &["tokio", "sidegate_shm", "sidegate_runtime"]),
    ("clients/rust/src/", &["tokio::runtime", "sidegate_common", "sidegate_runtime"]),
];

/// Test modules may import across walls.
fn is_test_file(name: &str) -> bool {
    let folders = ["/tests/", "/examples/", "/benches/", "/sync/simulation/"];
    folders.iter().any(|folder| name.contains(folder)) || name.ends_with("tests.rs") || name.ends_with("/sync/model.rs")
}

#[test]
fn no_module_imports_across_a_wall() {
    let mut faults = Vec::new();
    for (name, text) in sources() {
        let walls: Vec<_> = WALLS.iter().filter(|(folder, _)| name.starts_with(folder)).collect();
        if walls.is_empty() || is_test_file(&name) {
            continue;
        }
        let body = product(&name, &text);
        for (_, words) in walls {
            for word in *words {
                if code(&body).any(|line| line.contains(word)) {
                    faults.push(format!("{name} must not know `{word}`"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// The modules that a file names by a path of its own crate: `use` trees, and paths in the code.
struct Imports<'a> {
    crate_name: &'a str,
    /// The file's module, and the modules inside it that are being visited.
    at: Vec<String>,
    found: Vec<Vec<String>>,
}

impl Imports<'_> {
    /// A path from the crate's root, if `segments` is one of this crate or relative to this module.
    fn note(&mut self, segments: &[String]) {
        let mut path = match segments.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.at.clone(),
            // A binary names its library by the package's name.
            Some(name) if name == self.crate_name => Vec::new(),
            _ => return,
        };
        for segment in segments {
            match segment.as_str() {
                "super" => drop(path.pop()),
                "crate" | "self" => {}
                name if name == self.crate_name => {}
                name => path.push(name.to_owned()),
            }
        }
        self.found.push(path);
    }

    fn note_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let joined = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.note_tree(&joined(&path.ident), &path.tree),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(before, tree)),
            syn::UseTree::Name(name) => self.note(&joined(&name.ident)),
            syn::UseTree::Rename(rename) => self.note(&joined(&rename.ident)),
            syn::UseTree::Glob(_) => self.note(before),
        }
    }
}

impl<'ast> Visit<'ast> for Imports<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.note_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.note(&path.segments.iter().map(|segment| segment.ident.to_string()).collect::<Vec<_>>());
        syn::visit::visit_path(self, path);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.at.push(item.ident.to_string());
        syn::visit::visit_item_mod(self, item);
        self.at.pop();
    }
}

/// Each file of a crate, and the files that it imports. A module and those inside it are one another's
/// affair.
fn import_graph(folder: &str, crate_name: &str, files: &[(String, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let module = |name: &str| -> Vec<String> {
        let path = name[folder.len()..].trim_end_matches(".rs");
        let parts = path.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
        parts.map(str::to_owned).collect()
    };
    let modules: BTreeSet<Vec<String>> = files.iter().map(|(name, _)| module(name)).collect();
    let mut graph = BTreeMap::new();
    for (name, text) in files {
        let own = module(name);
        let file = syn::parse_file(&product(name, text)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut imports = Imports { crate_name, at: own.clone(), found: Vec::new() };
        imports.visit_file(&file);
        let of = |path: Vec<String>| (0..=path.len()).rev().map(|n| path[..n].to_vec()).find(|at| modules.contains(at));
        let others = imports.found.into_iter().filter_map(of);
        let others = others.filter(|other| !own.starts_with(other) && !other.starts_with(&own));
        graph.insert(own.join("::"), others.map(|other| other.join("::")).collect());
    }
    graph
}

/// A way from a module back to itself.
fn circle(graph: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn walk(
        graph: &BTreeMap<String, BTreeSet<String>>,
        at: &str,
        way: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if way.iter().any(|module| module == at) {
            way.push(at.to_owned());
            return true;
        }
        if done.contains(at) {
            return false;
        }
        way.push(at.to_owned());
        if graph.get(at).into_iter().flatten().any(|next| walk(graph, next, way, done)) {
            return true;
        }
        way.pop();
        done.insert(at.to_owned());
        false
    }
    let (mut way, mut done) = (Vec::new(), BTreeSet::new());
    let found = graph.keys().any(|module| walk(graph, module, &mut way, &mut done));
    let start = way.last().and_then(|last| way.iter().position(|module| module == last))?;
    found.then(|| way.split_off(start))
}

#[test]
fn no_modules_import_one_another() {
    let sources = sources();
    let mut faults = Vec::new();
    for (folder, manifest) in manifests().into_iter().filter(|(folder, _)| !folder.starts_with("tests")) {
        let folder = format!("{folder}/src/");
        let name = manifest["package"]["name"].as_str().expect("a name").replace('-', "_");
        let own = |name: &str| name.starts_with(&folder) && !is_test_file(name);
        let files: Vec<_> = sources.iter().filter(|(name, _)| own(name)).cloned().collect();
        if let Some(way) = circle(&import_graph(&folder, &name, &files)) {
            faults.push(format!("{name}: {}", way.join(" -> ")));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn circles_of_imports_are_found() {
    let file = |name: &str, text: &str| (format!("c/src/{name}.rs"), text.to_owned());
    let graph = |b: &str| {
        let files = [
            file("lib", "mod a; mod b; mod d;"),
            file("a", "use crate::b::{B, C as E};"),
            file("b", b),
            file("d", "mod e; use self::e::E; fn f() { crate::a::g() }"),
            file("d/e", "use super::E;"),
        ];
        circle(&import_graph("c/src/", "c", &files))
    };
    assert_eq!(graph("struct B;"), None);
    assert_eq!(graph("#[cfg(test)] use super::a::A;"), None);
    assert_eq!(graph("use super::a::A;"), Some(["a", "b", "a"].map(str::to_owned).to_vec()));
    assert_eq!(graph("fn f() { crate::d::g() }").map(|way| way.join(" ")).as_deref(), Some("a b d a"));
    assert_eq!(graph("mod i { fn f() { super::super::d::g() } }").map(|way| way.join(" ")).as_deref(), Some("a b d a"));
}

#[test]
fn unsafe_code_is_confined_to_two_files() {
    let opens = |text: &str| code(text).any(|line| line.contains("allow(unsafe_code)"));
    let found: Vec<_> =
        sources().into_iter().filter(|(name, text)| opens(text) && name != "tests/tests/tidy.rs").collect();
    let mut names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let allowed = ["clients/envoy/src/abi.rs", "common/shm/src/words.rs"];
    assert_eq!(names, allowed, "the only files that may opt out of unsafe_code = deny");
}

#[test]
fn every_crate_forbids_unsafe_code_or_is_the_one_that_holds_it() {
    for (name, text) in sources() {
        let is_root = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
        let exempt =
            ["clients/envoy/src/lib.rs", "common/shm/src/lib.rs", "common/proto/src/lib.rs"].contains(&name.as_str());
        if is_root && !exempt && !name.starts_with("clients/python") {
            assert!(text.contains("#![forbid(unsafe_code)]"), "{name} must say #![forbid(unsafe_code)]");
        }
    }
}

#[test]
fn every_file_starts_with_a_description() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(name, _)| name).collect();
    assert!(silent.is_empty(), "these files do not open with one //! sentence: {silent:?}");
}

/// Files that may be longer than 600 lines, and how long: the state machine, whose transitions are
/// read together.
const LONGER: &[(&str, usize)] = &[("common/src/sync/machine.rs", 900)];

#[test]
fn files_are_short() {
    // The aim is 400 lines of code, without tests in the same file. This bound only stops files
    // that are unreadable.
    let long = |name: &str, text: &str| product(name, text).lines().count();
    let found: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| text.lines().count() > 600)
        .map(|(name, text)| (long(&name, &text), name))
        .filter(|(lines, name)| {
            *lines > LONGER.iter().find(|(longer, _)| longer == name).map_or(600, |(_, most)| *most)
        })
        .collect();
    assert!(found.is_empty(), "longer than 600 lines: {found:?}");
}

/// Files that hold the same lines, and why they are not one idea.
const SAME_LINES: &[(&str, &str, &str)] = &[
    ("common/shm/src/words.rs", "common/shm/src/words.rs", "one trait for read-only and for writable memory"),
    ("common/runtime/src/request_line.rs", "common/runtime/src/connection_io.rs", "AsyncWrite passed on to a field"),
];

#[test]
fn no_ten_lines_stand_twice() {
    const RUN: usize = 10;
    let mut places: BTreeMap<String, (String, usize)> = BTreeMap::new();
    let mut faults = Vec::new();
    let skipped = |line: &str| {
        line.is_empty()
            || ["//", "#[", "use ", "pub use ", "mod ", "pub mod "].iter().any(|start| line.starts_with(start))
    };
    for (name, text) in sources().into_iter().filter(|(name, _)| !is_test_file(name) && !name.starts_with("tests/")) {
        let body = product(&name, &text);
        let lines: Vec<(usize, &str)> =
            body.lines().map(str::trim).enumerate().filter(|(_, line)| !skipped(line)).collect();
        for run in lines.windows(RUN) {
            let joined = run.iter().map(|(_, line)| *line).collect::<Vec<_>>().join("\n");
            let here = (name.clone(), run[0].0 + 1);
            if let Some((other, line)) = places.get(&joined) {
                let pair = |a: &str, b: &str| (a == other && b == name) || (b == other && a == name);
                if !SAME_LINES.iter().any(|(a, b, _)| pair(a, b)) {
                    faults.push(format!("{name}:{} and {other}:{line}", here.1));
                }
            } else {
                places.insert(joined, here);
            }
        }
    }
    assert!(faults.is_empty(), "the same ten lines or more: {faults:#?}");
}

/// Dependencies that no source names, and why a manifest names them.
const UNNAMED_DEPENDENCIES: &[(&str, &str, &str)] = &[
    ("common/proto", "prost", "in the code that is generated from the .proto files"),
    ("common/proto", "prost-types", "in the code that is generated from the .proto files"),
    ("common/proto", "tonic-prost", "in the code that is generated from the .proto files"),
    ("common/runtime", "tokio-util", "goes with the next update: without it everything is built with other features"),
    ("tests", "proc-macro2", "named for its feature, which gives syn the numbers of lines"),
];

/// An unused dependency is still built, audited and updated.
#[test]
fn every_dependency_is_used() {
    let sources = sources();
    let mut faults = Vec::new();
    for (folder, manifest) in manifests() {
        let own = |name: &str| name.strip_prefix(&format!("{folder}/")).is_some_and(|rest| !rest.contains("/target/"));
        let of = |product_only: bool| {
            let of_product = |name: &str| {
                let rest = &name[folder.len() + 1..];
                rest.starts_with("src/") || rest == "build.rs" || folder.starts_with("tests")
            };
            sources
                .iter()
                .filter(|(name, _)| own(name) && (!product_only || of_product(name)))
                .map(|(_, text)| text.as_str())
                .collect::<Vec<_>>()
        };
        for (table, product_only) in [("dependencies", true), ("dev-dependencies", false)] {
            let texts = of(product_only);
            for dependency in
                manifest.get(table).and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys)
            {
                let excused = UNNAMED_DEPENDENCIES.iter().any(|(of, name, _)| *of == folder && name == dependency);
                let word = dependency.replace('-', "_");
                if !excused && !texts.iter().any(|text| code(text).any(|line| names(line, &word))) {
                    faults.push(format!("{folder}/Cargo.toml: {dependency} in [{table}]"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "no source names these: {faults:#?}");
}

/// True if `line` contains `word` as a whole identifier.
fn names(line: &str, word: &str) -> bool {
    let part = |character: char| character.is_ascii_alphanumeric() || character == '_';
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

/// The manifests of the workspace's members, by folder.
fn manifests() -> Vec<(String, toml::Table)> {
    let read =
        |path: &Path| -> toml::Table { std::fs::read_to_string(path).expect("a manifest").parse().expect("TOML") };
    let workspace = read(&root().join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().expect("members").clone();
    members
        .iter()
        .map(|member| member.as_str().expect("a folder").to_owned())
        .map(|member| (member.clone(), read(&root().join(&member).join("Cargo.toml"))))
        .collect()
}

#[test]
fn no_registry_or_machine_is_named() {
    let output = std::process::Command::new("git").args(["ls-files"]).current_dir(root()).output();
    let Ok(output) = output else {
        println!("skipped: no git");
        return;
    };
    // Split so that this file does not match.
    let words = [
        ["registry.npm", "js.org"],
        ["files.python", "hosted.org"],
        ["pypi", ".org"],
        ["deb.deb", "ian.org"],
        ["index.cra", "tes.io"],
        ["/work", "/main"],
        ["/work", "/wt"],
    ];
    let mut faults = Vec::new();
    for name in String::from_utf8_lossy(&output.stdout).lines() {
        if name.ends_with("Cargo.lock") {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root().join(name)) else { continue };
        for word in words.iter().map(|halves| halves.concat()) {
            if text.contains(&word) {
                faults.push(format!("{name} names {word}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// An operator looks up an alarm by its name.
#[test]
fn every_alarm_is_documented() {
    let page = std::fs::read_to_string(root().join("docs/guarantees.md")).expect("the page");
    let missing: Vec<_> =
        Alarm::ALL.iter().filter(|alarm| !page.contains(&format!("| `{}` |", alarm.name()))).collect();
    assert!(missing.is_empty(), "docs/guarantees.md does not explain {missing:?}");
}

/// Each class of docs/attacks.md ends with `*Tests: …*`, and every name there exists.
#[test]
fn every_attack_names_tests_that_exist() {
    let doc = std::fs::read_to_string(root().join("docs/attacks.md")).expect("docs/attacks.md");
    let sources = sources();
    let any = |what: &str| sources.iter().any(|(name, text)| name != "tests/tests/tidy.rs" && text.contains(what));
    let mut faults = Vec::new();
    for class in doc.split("\n\n").filter(|paragraph| paragraph.starts_with("**")) {
        let name = class.split("**").nth(1).unwrap_or_default();
        let Some((_, tests)) = class.split_once("*Tests:") else {
            faults.push(format!("{name} names no tests"));
            continue;
        };
        let tests = tests.split_whitespace().collect::<Vec<_>>().join(" ");
        for category in tests.split('"').skip(1).step_by(2) {
            if !any(&format!("category(\"{category}\")")) {
                faults.push(format!("{name}: the corpus has no category {category:?}"));
            }
        }
        for named in tests.split('`').skip(1).step_by(2).filter(|named| !named.ends_with('_')) {
            let exists = if named.contains('/') { root().join(named).exists() } else { any(&format!("fn {named}(")) };
            if !exists {
                faults.push(format!("{name}: there is no {named}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}
