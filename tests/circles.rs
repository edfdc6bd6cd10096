//! No files of the library import each other in a circle, however long the way.
//!
//! An import leads to the file that defines the name: files that only hand names on are looked through.

mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{Source, expect_none, is_word, sources};

#[test]
fn no_files_of_the_library_import_each_other_in_a_circle() {
    let mut library = sources("src");
    let only_tests: Vec<String> = library.iter().flat_map(only_in_tests).collect();
    library.retain(|file| {
        let of_tests = |stem: &String| file.is_module(stem);
        !file.name.starts_with("src/bin/") && !only_tests.iter().any(of_tests)
    });
    assert!(library.len() > 50, "{} files", library.len());
    expect_none(&House::of(&library).circles());
}

#[test]
fn a_circle_is_found_through_names_that_are_handed_on() {
    let circles = |files: &[(&str, &str)]| {
        let files: Vec<Source> =
            files.iter().map(|(name, text)| Source::new((*name).into(), (*text).into())).collect();
        House::of(&files).circles()
    };
    let root = ("src/lib.rs", "mod a; mod b; mod c; pub use a::A; pub use b::*;");
    let straight = [root, ("src/a.rs", "use crate::b::B;"), ("src/b.rs", "use crate::c::C;")];
    assert_eq!(circles(&[&straight[..], &[("src/c.rs", "")]].concat()), [""; 0]);
    for back in
        ["use crate::A;", "use crate::{c, b::B, a::{X, A as Y}};", "fn f() { super::a::g() }"]
    {
        let found = circles(&[&straight[..], &[("src/c.rs", back)]].concat());
        assert_eq!(found, ["src/a.rs -> src/b.rs -> src/c.rs -> src/a.rs"], "{back}");
    }
    // A parent that hands on what its children define is no part of a circle; one that uses it is.
    let child = ("src/a/x.rs", "use super::B; pub(in crate::a) struct X;");
    let lib = ("src/lib.rs", "mod a;");
    let b = "mod x; pub struct B;";
    assert_eq!(circles(&[lib, ("src/a.rs", &format!("{b} pub use x::X;")), child]), [""; 0]);
    for used in ["use x::X;", "fn f() -> x::X { x::X }", "fn f() { self::x::g() }"] {
        let found = circles(&[lib, ("src/a.rs", &format!("{b} {used}")), child]);
        assert_eq!(found, ["src/a.rs -> src/a/x.rs -> src/a.rs"], "{used}");
    }
}

/// The modules that a file has for tests alone, as the stems of their files.
fn only_in_tests(file: &Source) -> Vec<String> {
    let stem = file.name.trim_end_matches(".rs");
    let folder = ["/mod", "/lib"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem);
    let declared = file.code.match_indices("mod ").filter(|(at, _)| file.is_in_tests(*at));
    let names = declared.filter_map(|(at, word)| file.code[at + word.len()..].split_once(';'));
    names
        .filter(|(name, _)| name.chars().all(is_word))
        .map(|(name, _)| format!("{folder}/{name}"))
        .collect()
}

/// The files as a tree of modules, and what each imports.
struct House<'a> {
    files: &'a [Source],
    /// By its path from the root of the crate.
    modules: BTreeMap<Vec<String>, Module>,
}

struct Module {
    file: usize,
    imports: Vec<Import>,
    /// Paths in its code that no import made.
    inline: Vec<Vec<String>>,
}

struct Import {
    handed_on: bool,
    path: Vec<String>,
    name: String,
}

impl<'a> House<'a> {
    fn of(files: &'a [Source]) -> Self {
        let path_of = |name: &str| -> Vec<String> {
            let stem = name.trim_start_matches("src/").trim_end_matches(".rs");
            let mut path: Vec<String> = stem.split('/').map(str::to_owned).collect();
            path.pop_if(|last| ["lib", "mod"].contains(&last.as_str()));
            path
        };
        let read = |(file, source): (usize, &Source)| {
            let (imports, inline) = read(&source.shipped);
            (path_of(&source.name), Module { file, imports, inline })
        };
        Self { files, modules: files.iter().enumerate().map(read).collect() }
    }

    /// Each circle once, as the shortest way around.
    fn circles(&self) -> Vec<String> {
        let targets: BTreeMap<usize, BTreeSet<usize>> = self
            .modules
            .iter()
            .map(|(path, module)| (module.file, self.targets(path, module)))
            .collect();
        let mut found: Vec<String> = Vec::new();
        let mut in_one: BTreeSet<usize> = BTreeSet::new();
        for &start in targets.keys() {
            if in_one.contains(&start) {
                continue;
            }
            let Some(way) = shortest_way_back(&targets, start) else { continue };
            in_one.extend(&way);
            let names: Vec<&str> = way.iter().map(|file| self.files[*file].name.as_str()).collect();
            found.push(format!("{} -> {}", names.join(" -> "), names[0]));
        }
        found
    }

    fn targets(&self, path: &[String], module: &Module) -> BTreeSet<usize> {
        let imported = module.imports.iter().filter(|import| !import.handed_on);
        let paths = imported.map(|import| &import.path).chain(&module.inline);
        let mut targets: BTreeSet<usize> =
            paths.filter_map(|to| self.resolve(path, to, 0)).collect();
        targets.remove(&module.file);
        targets
    }

    /// The file that defines what `path` means in the module `from`; none for other crates.
    fn resolve(&self, from: &[String], path: &[String], depth: usize) -> Option<usize> {
        let mut at = from.to_vec();
        let mut segments = path.iter().peekable();
        match segments.peek()?.as_str() {
            "crate" => at.clear(),
            "self" | "super" => {}
            first => {
                at.push(first.to_owned());
                if !self.modules.contains_key(&at) {
                    return None;
                }
                at.pop();
            }
        }
        for segment in segments {
            match segment.as_str() {
                "crate" | "self" => {}
                "super" => drop(at.pop()),
                name => {
                    at.push(name.to_owned());
                    if self.modules.contains_key(&at) {
                        continue;
                    }
                    at.pop();
                    let module = self.modules.get(&at)?;
                    let by_name = |import: &&Import| import.handed_on && import.name == name;
                    let handed_on = module.imports.iter().find(by_name);
                    let through = handed_on.filter(|_| depth < 8);
                    let further = through.and_then(|to| self.resolve(&at, &to.path, depth + 1));
                    return Some(further.unwrap_or(module.file));
                }
            }
        }
        self.modules.get(&at).map(|module| module.file)
    }
}

fn shortest_way_back(
    targets: &BTreeMap<usize, BTreeSet<usize>>,
    start: usize,
) -> Option<Vec<usize>> {
    let mut ways = vec![vec![start]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for &next in &targets[way.last()?] {
                if next == start {
                    return Some(way);
                }
                if seen.insert(next) {
                    longer.push([&way[..], &[next]].concat());
                }
            }
        }
        ways = longer;
    }
    None
}

/// The imports of a file, and the other paths in it that may lead to a file.
fn read(code: &str) -> (Vec<Import>, Vec<Vec<String>>) {
    let (mut imports, mut rest) = (Vec::new(), String::new());
    let mut at = 0;
    while let Some(found) = next_word(code, at, "use") {
        let Some(length) = code[found..].find(';') else { break };
        // `impl Trait + use<'a>` is none.
        if code[found + 3..].trim_start().starts_with('<') {
            rest.push_str(&code[at..found + 3]);
            at = found + 3;
            continue;
        }
        rest.push_str(&code[at..found]);
        let before = code[..found].trim_end();
        let handed_on = before.ends_with("pub")
            || (before.ends_with(')')
                && before.rfind("pub(").is_some_and(|from| !before[from..].contains([';', '}'])));
        leaves(&[], code[found + 3..found + length].trim(), handed_on, &mut imports);
        at = found + length + 1;
    }
    rest.push_str(&code[at..]);
    (imports, paths_in(&rest))
}

fn next_word(code: &str, from: usize, word: &str) -> Option<usize> {
    code[from..].match_indices(word).map(|(at, _)| from + at).find(|at| {
        let (before, after) = (&code[..*at], &code[at + word.len()..]);
        !before.ends_with(is_word) && !after.starts_with(is_word)
    })
}

/// The names of a tree of imports.
fn leaves(prefix: &[String], tree: &str, handed_on: bool, imports: &mut Vec<Import>) {
    let tree = tree.trim();
    if let Some(open) = tree.find('{') {
        let segments = tree[..open].split("::").map(|segment| segment.trim().to_owned());
        let prefix: Vec<String> = prefix.iter().cloned().chain(segments).collect();
        let prefix: Vec<String> =
            prefix.into_iter().filter(|segment| !segment.is_empty()).collect();
        let inside = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
        let (mut depth, mut from) = (0_usize, 0);
        for (at, c) in inside.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    leaves(&prefix, &inside[from..at], handed_on, imports);
                    from = at + 1;
                }
                _ => {}
            }
        }
        leaves(&prefix, &inside[from..], handed_on, imports);
    } else if !tree.is_empty() {
        let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(p, a)| (p, Some(a)));
        let mut path: Vec<String> = prefix
            .iter()
            .cloned()
            .chain(path.split("::").map(|segment| segment.trim().to_owned()))
            .filter(|segment| !segment.is_empty() && segment != "*")
            .collect();
        if path.len() > 1 {
            path.pop_if(|last| last == "self");
        }
        let name = alias.map_or_else(|| path.last().cloned().unwrap_or_default(), str::to_owned);
        imports.push(Import { handed_on, path, name: name.trim().to_owned() });
    }
}

/// Paths of two names and more that are written where they are used.
fn paths_in(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(offset) = code[at..].find("::") {
        let middle = at + offset;
        let start = code[..middle].rfind(|c| !is_word(c)).map_or(0, |before| before + 1);
        let mut end = middle;
        while code[end..].starts_with("::") && code[end + 2..].starts_with(is_word) {
            let name = code[end + 2..].find(|c| !is_word(c));
            end = name.map_or(code.len(), |length| end + 2 + length);
        }
        // `pub(in crate::transport)` says who may see it.
        let is_visibility = code[..start].trim_end().ends_with("(in");
        let continues = code[..start].ends_with("::");
        if start < middle && end > middle && !is_visibility && !continues {
            found.push(code[start..end].split("::").map(str::to_owned).collect());
        }
        at = end.max(middle + 2);
    }
    found
}
