//! The rules of the source tree, each a test: who may import whom, file length, where `unsafe`
//! may be, what shipped code must not contain, and documents that match the tree.
//!
//! The rules look at code: comments, strings and character literals are blanked first, so that
//! prose may name anything.

mod source;

use std::fs;
use std::path::Path;

use source::{
    Source, blank_prose, expect_none, has_word, is_word, line_of, numbered, read, root, sources,
    word_at,
};

/// Lines of a source file, its tests included: what a reader can still hold in mind.
const SOURCE_LINES_MAX: usize = 500;

/// Lines of a test program, which is read test by test.
const TEST_LINES_MAX: usize = 700;

/// What a test says that has to sleep for a reason other than waiting for something to happen.
const SLEEP_EXCUSE: &str = "// not synchronisation:";

// ---- the rules ---------------------------------------------------------------------------------

#[test]
fn the_bottom_layer_imports_nothing_above_it() {
    let bottom = |file: &Source| {
        ["src/frame", "src/identity", "src/config", "src/error", "src/restart"]
            .iter()
            .any(|stem| file.is_module(stem))
    };
    expect_none(&modules_named(bottom, &["actors", "transport", "registry"]));
}

#[test]
fn the_transport_knows_no_actor_no_registry_and_no_ractor() {
    let transport = |file: &Source| file.is_module("src/transport");
    let mut found = modules_named(transport, &["actors", "registry"]);
    found.extend(words_named(transport, &["ractor"]));
    expect_none(&found);
}

#[test]
fn the_registry_knows_no_actor_and_no_transport() {
    let registry = |file: &Source| file.is_module("src/registry");
    expect_none(&modules_named(registry, &["actors", "transport"]));
}

/// `src/testing` is behind a feature: what is built on it would be as well.
#[test]
fn nothing_is_built_on_the_tools_for_tests() {
    let others = |file: &Source| !file.is_module("src/testing");
    expect_none(&modules_named(others, &["testing"]));
}

#[test]
fn sessions_know_no_actor_no_transport_and_no_runtime() {
    let session = |file: &Source| file.is_module("src/session");
    let mut found = modules_named(session, &["actors", "transport", "registry", "lock"]);
    found.extend(words_named(session, &["ractor", "tokio", "msquic", "Mutex", "SystemTime"]));
    expect_none(&found);
}

#[test]
fn certificates_are_parsed_in_identity_alone() {
    expect_none(&words_named(|file| !file.is_module("src/identity"), &["x509_parser"]));
}

/// A clock that is set must not reach a deadline, a wait or a session: those go by one that only runs on.
#[test]
fn the_wall_clock_judges_and_makes_certificates_and_nothing_else() {
    let judges = "src/transport/core/callbacks.rs";
    let others = |file: &Source| !file.is_module("src/identity") && file.name != judges;
    expect_none(&words_named(others, &["SystemTime", "UNIX_EPOCH"]));
    let mut read = Vec::new();
    for file in sources("src") {
        for (_, line) in numbered(&file.shipped) {
            if line.contains("SystemTime::now") {
                read.push((file.name.clone(), line.contains(".judge(")));
            }
        }
    }
    let makes = ("src/identity/credential.rs".to_owned(), false);
    assert_eq!(read, [makes, (judges.to_owned(), true)]);
}

#[test]
fn unsafe_is_in_the_ffi_module_alone() {
    expect_none(&words_named(|file| !file.is_module("src/transport/ffi"), &["unsafe"]));
}

#[test]
fn files_are_short() {
    let folders = [
        ("src", SOURCE_LINES_MAX),
        ("bench/src", SOURCE_LINES_MAX),
        ("interop/src", SOURCE_LINES_MAX),
        ("benches", SOURCE_LINES_MAX),
        ("examples", SOURCE_LINES_MAX),
        ("fuzz", SOURCE_LINES_MAX),
        ("tests", TEST_LINES_MAX),
        ("bench/tests", TEST_LINES_MAX),
        ("interop/tests", TEST_LINES_MAX),
    ];
    let mut found = Vec::new();
    for (folder, lines_max) in folders {
        for file in sources(folder) {
            let lines = file.text.lines().count();
            if lines > lines_max {
                found.push(format!("{}: {lines} lines, at most {lines_max}", file.name));
            }
        }
    }
    expect_none(&found);
}

#[test]
fn shipped_code_has_no_unfinished_or_careless_call() {
    let mut found = Vec::new();
    for file in sources("src") {
        for (number, line) in numbered(&file.shipped) {
            for call in ["todo!", "unimplemented!", "dbg!", ".unwrap()"] {
                if line.contains(call) {
                    found.push(format!("{}:{number}: {call}", file.name));
                }
            }
        }
    }
    expect_none(&found);
}

#[test]
fn tests_wait_for_what_they_mean_and_never_sleep() {
    let mut found = Vec::new();
    for file in ["tests", "interop", "bench/tests"].into_iter().flat_map(sources) {
        found.extend(unexcused_sleeps(&file, |_| true));
    }
    for file in sources("src") {
        // Shipped code may sleep, its tests may not.
        found.extend(unexcused_sleeps(&file, |at| file.is_in_tests(at)));
    }
    expect_none(&found);
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let mut found = Vec::new();
    for file in sources("src") {
        if !file.text.starts_with("//! ") {
            found.push(format!("{}:1: does not start with a `//!` module doc", file.name));
        }
    }
    expect_none(&found);
}

#[test]
fn architecture_names_every_module_there_is() {
    let document = read("ARCHITECTURE.md");
    let named = paths_named(&document);
    let mut found = Vec::new();
    for path in files_to_name() {
        if !named.contains(&path) {
            found.push(format!("ARCHITECTURE.md: does not name {path}"));
        }
    }
    expect_none(&found);
}

#[test]
fn documents_name_no_file_that_is_not_there() {
    let mut found = Vec::new();
    for document in documents() {
        for (number, line) in numbered(&read(&document)) {
            for word in line.split(|c: char| !(c.is_alphanumeric() || "/_.-".contains(c))) {
                let in_tree =
                    ["src/", "tests/", "examples/", "docs/"].iter().any(|d| word.starts_with(d));
                let is_file = word.ends_with(".rs") || word.ends_with(".md");
                if in_tree && is_file && !root().join(word).exists() {
                    found.push(format!("{document}:{number}: {word} does not exist"));
                }
            }
        }
    }
    expect_none(&found);
}

/// What is written as code has to be there, or the glossary explains another program.
#[test]
fn the_glossary_names_what_is_in_the_code() {
    let code: String = sources("src").into_iter().map(|file| file.code).collect();
    let mut found = Vec::new();
    for (number, line) in numbered(&read("docs/glossary.md")) {
        for span in line.split('`').skip(1).step_by(2) {
            let file = span.ends_with(".rs");
            for word in span.split("::").filter(|_| !file) {
                if !has_word(&code, word) {
                    found.push(format!("docs/glossary.md:{number}: {word} is nowhere in src"));
                }
            }
        }
    }
    expect_none(&found);
}

#[test]
fn architecture_links_every_decision_and_no_other() {
    let document = read("ARCHITECTURE.md");
    let links = document.split("](docs/decisions/").skip(1);
    let mut linked: Vec<&str> = links.filter_map(|rest| rest.split(')').next()).collect();
    let folder = fs::read_dir(root().join("docs/decisions")).expect("a readable folder");
    let name = |entry: std::io::Result<fs::DirEntry>| {
        entry.expect("a readable folder").file_name().into_string().expect("UTF-8")
    };
    let mut there: Vec<String> = folder.map(name).collect();
    linked.sort_unstable();
    there.sort_unstable();
    assert_eq!(linked, there);
}

#[test]
fn the_document_on_testing_shows_its_example() {
    let example = read("examples/chaos.rs");
    let (_, code) = example.split_once("\n\n").expect("its documentation comes first");
    assert!(read("docs/testing.md").contains(&format!("```rust\n{code}```\n")));
}

#[test]
fn the_make_commands_in_the_documents_exist() {
    let makefile = read("Makefile");
    let targets: Vec<&str> = makefile
        .lines()
        .filter(|line| !line.starts_with(['\t', '.', '#', ' ']))
        .filter_map(|line| line.split_once(':'))
        .filter(|(_, rest)| !rest.starts_with('='))
        .map(|(target, _)| target.trim())
        .collect();
    let mut found = Vec::new();
    for document in documents() {
        for (number, target) in make_commands(&read(&document)) {
            if !targets.contains(&target.as_str()) {
                found.push(format!("{document}:{number}: make {target} is no target"));
            }
        }
    }
    expect_none(&found);
}

#[test]
fn the_readme_gives_the_two_commands() {
    let quoted = make_commands(&read("README.md"));
    for target in ["demo", "test"] {
        assert!(quoted.iter().any(|(_, t)| t == target), "README.md: does not quote make {target}");
    }
}

/// Documents that a user of the crate has use for refer to what the crate comes with.
#[test]
fn the_package_holds_what_its_users_need_and_nothing_of_the_workshop() {
    let (list, said) = cargo(&["package", "--list", "--allow-dirty", "-p", "moorline"]);
    assert!(!said.contains("warning"), "{said}");
    let files: Vec<&str> = list.lines().collect();
    let mut found = Vec::new();
    for file in &files {
        let source = ["src/", "benches/", "examples/", "docs/"].iter().any(|d| file.starts_with(d));
        let generated = ["Cargo.toml", "Cargo.toml.orig", "Cargo.lock", ".cargo_vcs_info.json"];
        let at_root = file.ends_with(".md") || file.starts_with("LICENSE-");
        if !source && !generated.contains(file) && (!at_root || file.contains('/')) {
            found.push(format!("{file}: nobody outside has use for it"));
        }
    }
    for needed in ["src/lib.rs", "src/bin/node.rs", "LICENSE-APACHE", "LICENSE-MIT", "README.md"] {
        if !files.contains(&needed) {
            found.push(format!("{needed}: is not packed"));
        }
    }
    for (number, line) in numbered(&read("README.md")) {
        for target in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !target.contains("://") && !files.contains(&target) {
                found.push(format!("README.md:{number}: {target} is not packed"));
            }
        }
    }
    expect_none(&found);
}

#[test]
fn nothing_that_is_not_released_yet_is_built_upon() {
    let mut found = Vec::new();
    for package in read("Cargo.lock").split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name));
            line.expect("each package has it").trim_matches('"')
        };
        let (name, version) = (field("name = "), field("version = "));
        let released = version.split('+').next().unwrap_or(version);
        // There is no other of MsQuic 2.5.
        if released.contains('-') && name != "msquic" {
            found.push(format!("Cargo.lock: {name} {version}"));
        }
    }
    expect_none(&found);
}

/// Each crate that comes twice is compiled twice, and its types do not fit each other. These do for
/// reasons of crates above them: ring and rand, msquic and tokio, older and newer macros.
#[test]
fn no_crate_is_built_twice_but_those_that_others_need() {
    let words = ["tree", "--duplicates", "-p", "moorline", "-e", "normal,build", "--depth", "0"];
    let (tree, _) = cargo(&[&words[..], &["--prefix", "none"]].concat());
    let mut names: Vec<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    names.retain(|name| !name.is_empty());
    names.dedup();
    assert_eq!(names, ["getrandom", "socket2", "syn"]);
}

// ---- the rules look at themselves --------------------------------------------------------------

#[test]
fn prose_and_literals_are_not_code() {
    let text = r##"a(); // unsafe
/* unsafe /* nested */ unsafe */ b("unsafe \" unsafe", r#"unsafe " unsafe"#, b'"', '\'', 'u');
fn c<'a>(unsafe_looking: &'a str) {}
"##;
    let code = blank_prose(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(code.lines().count(), text.lines().count());
    assert!(!has_word(&code, "unsafe"), "{code}");
    assert!(code.contains("fn c<'a>(unsafe_looking: &'a str) {}"), "{code}");
}

#[test]
fn tests_are_not_shipped_code_but_what_follows_them_is() {
    let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    // prose\n\n    fn b() { {} }\n}\n\
                #[cfg(test)]\nfn c<A, B>() -> A {}\nfn d() {}\n";
    let file = Source::new("src/x.rs".into(), text.into());
    let calls = |code: &str| ["a", "b", "c", "d"].map(|name| has_word(code, name));
    assert_eq!(calls(&file.shipped), [true, false, false, true], "{}", file.shipped);
    assert!(file.is_in_tests(text.find("fn b").expect("it is there")));
    assert!(!file.is_in_tests(text.find("fn d").expect("it is there")));
}

#[test]
fn grouped_and_relative_imports_are_seen() {
    let named = |code: &str| -> Vec<String> {
        modules_in(code).into_iter().map(|(_, module)| module).collect()
    };
    assert_eq!(named("use crate::{error::{A, B}, actors::C};"), ["error", "actors"]);
    assert_eq!(named("super::super::registry::Peers"), ["super", "registry"]);
    assert_eq!(named("pub(crate) use super::{super::actors, x};"), ["super", "actors", "x"]);
}

#[test]
fn trees_and_paths_in_a_document_are_read() {
    let named = paths_named(
        "src/lib.rs       docs\nsrc/transport/    MsQuic\n    mod.rs    map\n    ffi/ or so\n\
         `src/actors/supervisor.rs` and\n├── src/actors/\n│   └── listener.rs\nconfig.rs\n",
    );
    for path in [
        "src/lib.rs",
        "src/transport",
        "src/transport/mod.rs",
        "src/transport/ffi",
        "src/actors/supervisor.rs",
        "src/actors/listener.rs",
        "src/config.rs",
    ] {
        assert!(named.iter().any(|n| n == path), "{path} not in {named:?}");
    }
}

// ---- the tools of the rules ---------------------------------------------------------------------

/// Asks cargo about this package, without the network; what it answers and what it says.
fn cargo(words: &[&str]) -> (String, String) {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = std::process::Command::new(program)
        .args(words)
        .args(["--offline", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    let (answer, said) = (text(done.stdout), text(done.stderr));
    assert!(done.status.success(), "cargo {words:?}: {said}");
    (answer, said)
}

/// Every document at the root and in docs/.
fn documents() -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["", "docs"] {
        for entry in fs::read_dir(root().join(folder)).expect("a readable folder") {
            let name = entry.expect("a readable folder").file_name();
            let name = Path::new(folder).join(name).display().to_string();
            if name.ends_with(".md") {
                found.push(name);
            }
        }
    }
    found
}

// ---- what the rules look for -------------------------------------------------------------------

/// Places in the chosen files that name one of the modules by a path from the crate's root.
fn modules_named(chosen: impl Fn(&Source) -> bool, modules: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in sources("src").iter().filter(|file| chosen(file)) {
        for (at, module) in modules_in(&file.code) {
            if modules.contains(&module.as_str()) {
                let line = line_of(&file.code, at);
                found.push(format!("{}:{line}: names the module {module}", file.name));
            }
        }
    }
    found
}

/// Places in the chosen files that have one of the words in their code.
fn words_named(chosen: impl Fn(&Source) -> bool, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for file in sources("src").iter().filter(|file| chosen(file)) {
        for (number, line) in numbered(&file.code) {
            for word in words.iter().filter(|word| has_word(line, word)) {
                found.push(format!("{}:{number}: {word}", file.name));
            }
        }
    }
    found
}

/// Calls that sleep, at the chosen positions of a file, and give no reason.
fn unexcused_sleeps(file: &Source, chosen: impl Fn(usize) -> bool) -> Vec<String> {
    let lines: Vec<&str> = file.text.lines().collect();
    let excused = |line: &str| {
        line.split_once(SLEEP_EXCUSE).is_some_and(|(_, reason)| !reason.trim().is_empty())
    };
    let mut found = Vec::new();
    for call in ["sleep(", "sleep_until(", "sleep_ms("] {
        for (at, _) in file.code.match_indices(call) {
            if file.code[..at].ends_with(is_word) || !chosen(at) {
                continue;
            }
            let number = line_of(&file.code, at);
            // A long line has its reason on the line above.
            let above = number.checked_sub(2).map_or("", |index| lines[index].trim_start());
            let comment_above = above.starts_with("//") && excused(above);
            if !excused(lines[number - 1]) && !comment_above {
                found.push(format!("{}:{number}: sleeps without `{SLEEP_EXCUSE} …`", file.name));
            }
        }
    }
    found
}

/// Files and folders that ARCHITECTURE.md must name: the top-level modules, the actors, and the
/// parts of the transport. A folder is named by itself, or by the file of its name beside it.
fn files_to_name() -> Vec<String> {
    let mut paths = Vec::new();
    for folder in ["src", "src/actors", "src/transport"] {
        let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        for entry in entries {
            let name = entry.expect("a readable folder").file_name();
            let name = name.to_str().expect("file names are UTF-8");
            let file_beside = root().join(folder).join(format!("{name}.rs"));
            if name != "tests.rs" && name != "tests" && !file_beside.exists() {
                paths.push(format!("{folder}/{name}"));
            }
        }
    }
    paths.sort();
    paths
}

/// The paths a document names, in full or as the lines of a drawn tree; a name that stands under no
/// folder is taken to be in `src`.
fn paths_named(document: &str) -> Vec<String> {
    let mut named = Vec::new();
    let mut folders: Vec<(usize, String)> = Vec::new();
    for line in document.lines() {
        let text = line.trim_start_matches([' ', '\t', '│', '├', '└', '─', '|', '-', '*', '`']);
        if text.is_empty() {
            folders.clear();
            continue;
        }
        let indent = line.chars().count() - text.chars().count();
        folders.retain(|(outer, _)| *outer < indent);
        let parent = folders.last().map_or("src", |(_, folder)| folder).to_owned();
        for (index, word) in text.split(|c: char| !(is_word(c) || "/.-".contains(c))).enumerate() {
            let path = word.trim_end_matches(['/', '.']);
            let path = match path {
                "src" => path.to_owned(),
                _ if path.starts_with("src/") => path.to_owned(),
                _ => format!("{parent}/{path}"),
            };
            if word.ends_with('/') && index == 0 {
                folders.push((indent, path.clone()));
            }
            if word.ends_with('/') || word.ends_with(".rs") {
                named.push(path);
            }
        }
    }
    named
}

/// The targets of `make …` in code spans and code blocks, with their lines.
fn make_commands(document: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (number, line) in numbered(document) {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        let pieces: Vec<&str> = if in_block {
            line.split('#').take(1).flat_map(|line| line.split("&&")).collect()
        } else {
            line.split('`').skip(1).step_by(2).collect()
        };
        for piece in pieces {
            let mut words = piece.trim_start_matches([' ', '$']).split_whitespace();
            if words.next() == Some("make") {
                let target = words.find(|word| !word.contains('=') && !word.starts_with('-'));
                found.extend(target.map(|target| (number, target.to_owned())));
            }
        }
    }
    found
}

/// The names that follow `crate::` and `super::`, groups in braces opened, with their positions.
fn modules_in(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for prefix in ["crate::", "super::"] {
        for (start, _) in code.match_indices(prefix) {
            if code[..start].ends_with(is_word) {
                continue;
            }
            let at = start + prefix.len();
            if code[at..].starts_with('{') {
                found.extend(group_members(code, at + 1));
            } else {
                found.push((at, word_at(code, at)));
            }
        }
    }
    found.sort();
    found.dedup();
    found
}

/// The first names of the members of a `{…}` group whose inside starts at `start`.
fn group_members(code: &str, start: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut depth = 1;
    let mut member_starts = true;
    for (offset, c) in code[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => break,
            '}' => depth -= 1,
            ',' if depth == 1 => member_starts = true,
            c if is_word(c) && member_starts && depth == 1 => {
                found.push((start + offset, word_at(code, start + offset)));
                member_starts = false;
            }
            _ => {}
        }
    }
    found
}
