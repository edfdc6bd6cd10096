//! Each marked branch (`src/marks.rs`) is covered by a test that names it.

mod source;

use std::collections::BTreeMap;

use source::{expect_none, line_of, sources};

/// Where something is said with a name.
fn places(said: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources("src").iter().filter(|file| !file.is_module("src/marks")) {
        for (at, _) in file.code.match_indices(said) {
            let rest = &file.text[at + said.len()..];
            let name = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
            let place = format!("{}:{}", file.name, line_of(&file.code, at));
            found.entry(name.unwrap_or_default().to_owned()).or_default().push(place);
        }
    }
    found
}

#[test]
fn each_mark_is_covered_and_nothing_else_is() {
    let (marks, covered) = (places("mark!("), places("covers!("));
    assert!(marks.len() >= 12, "{} marks", marks.len());
    let mut found = Vec::new();
    for (name, at) in &marks {
        if !covered.contains_key(name) {
            found.push(format!("{}: no test covers {name:?}", at[0]));
        }
        if at.len() > 1 {
            found.push(format!("{}: {name:?} is marked elsewhere as well", at[1]));
        }
    }
    for (name, at) in &covered {
        if !marks.contains_key(name) {
            found.push(format!("{}: nothing is marked {name:?}", at[0]));
        }
    }
    expect_none(&found);
}
