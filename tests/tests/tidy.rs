//! Architecture rules as tests: allowed imports, where `unsafe` may be used, the length of files.

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

#[test]
fn unsafe_code_is_confined_to_one_crate() {
    let opens = |text: &str| code(text).any(|line| line.contains("allow(unsafe_code)"));
    let found: Vec<_> =
        sources().into_iter().filter(|(name, text)| opens(text) && name != "tests/tests/tidy.rs").collect();
    let names: Vec<_> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["common/shm/src/words.rs"], "the only file that may opt out of unsafe_code = deny");
}

#[test]
fn every_crate_forbids_unsafe_code_or_is_the_one_that_holds_it() {
    for (name, text) in sources() {
        let is_root = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
        let exempt = ["common/shm/src/lib.rs", "common/proto/src/lib.rs"].contains(&name.as_str());
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
