//! Every shell block of the documents, as a reader would run it: in an empty folder, with the command
//! on the PATH. What cannot run here is marked, and looked up word by word. The figures that documents
//! state are held in `figures`.
//!
//! | mark | what it says | what is done |
//! |---|---|---|
//! | ```` ```sh ```` | runs to its end | it is run, and must succeed |
//! | ```` ```sh stays ```` | runs until it is stopped | it is started, and must stop in order |
//! | ```` ```sh checked ```` | takes too long, or changes the machine | its commands are looked up |
#![cfg(all(feature = "node", unix))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod command;
mod figures;
mod source;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use command::{LIMIT, Scratch, closed_port, ended, lines};

/// The address that the documents use; here each run has its own.
const ADDRESS: &str = "127.0.0.1:4433";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every document at the root and in docs/.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in [root().to_owned(), root().join("docs")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() >= 6, "{found:?}");
    found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Runs,
    Stays,
    Checked,
}

#[derive(Debug)]
struct Block {
    /// Document and line.
    place: String,
    mark: Mark,
    text: String,
}

/// The shell blocks of a document. A language or a mark that nobody knows is an error.
fn blocks(name: &str, document: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<(String, Option<Mark>, String)> = None;
    for (index, line) in document.lines().enumerate() {
        let place = format!("{name}:{}", index + 1);
        match (line.trim_start().strip_prefix("```"), open.take()) {
            (Some(""), Some((place, mark, text))) => {
                found.extend(mark.map(|mark| Block { place, mark, text }));
            }
            (Some(info), None) => {
                let mark = match info {
                    "sh" => Some(Mark::Runs),
                    "sh stays" => Some(Mark::Stays),
                    "sh checked" => Some(Mark::Checked),
                    "rust" | "toml" | "text" => None,
                    other => panic!("{place}: a block of {other:?}"),
                };
                open = Some((place, mark, String::new()));
            }
            (_, Some((place, mark, mut text))) => {
                text += line;
                text.push('\n');
                open = Some((place, mark, text));
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{name}: a block without an end");
    found
}

/// Runs the blocks of one document, one after the other, in one folder.
struct Reader {
    scratch: Scratch,
    address: String,
    staying: Vec<(String, Child)>,
}

impl Reader {
    fn new() -> Self {
        Self { scratch: Scratch::new(), address: closed_port(), staying: Vec::new() }
    }

    fn shell(&self, block: &Block) -> Command {
        let command = Path::new(env!("CARGO_BIN_EXE_moorline")).parent().unwrap();
        let path = format!("{}:{}", command.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell
            .args(["-eu", "-c", &block.text.replace(ADDRESS, &self.address)])
            .current_dir(&self.scratch.0)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        shell
    }

    fn read(&mut self, block: &Block) {
        match block.mark {
            Mark::Runs => self.run(block),
            Mark::Stays => self.start(block),
            Mark::Checked => check(block),
        }
    }

    fn run(&self, block: &Block) {
        let mut shell = self.shell(block).spawn().unwrap();
        let (stdout, stderr) = outputs(&mut shell);
        let code = ended(&mut shell, &block.place).code();
        let said: Vec<String> = stdout.iter().chain(&stderr).collect();
        assert_eq!(code, Some(0), "{}: {said:#?}", block.place);
    }

    /// Starts it, and waits until it listens.
    fn start(&mut self, block: &Block) {
        let mut shell = self.shell(block).spawn().unwrap();
        let (stdout, stderr) = outputs(&mut shell);
        self.staying.push((block.place.clone(), shell));
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = stdout.recv_timeout(left).unwrap_or_else(|error| {
                let said: Vec<_> = stderr.try_iter().collect();
                panic!("{}: {error}: {said:#?}", block.place);
            });
            if line.starts_with("listening ") {
                return;
            }
        }
    }

    /// Ctrl-C, for what stays.
    fn end(mut self) {
        for (place, mut shell) in std::mem::take(&mut self.staying) {
            signal_group("-INT", &shell);
            let code = ended(&mut shell, &place).code();
            // Some shells end by the same signal, after what they wait for.
            assert!(code.is_none_or(|code| code == 0 || code == 130), "{place}: {code:?}");
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        for (_, mut shell) in self.staying.drain(..) {
            signal_group("-KILL", &shell);
            let _ = shell.wait();
        }
    }
}

fn signal_group(signal: &str, shell: &Child) {
    let group = format!("-{}", shell.id());
    let _ = Command::new("kill").args([signal, "--", &group]).status();
}

fn outputs(shell: &mut Child) -> (Receiver<String>, Receiver<String>) {
    (lines(shell.stdout.take().unwrap()), lines(shell.stderr.take().unwrap()))
}

// ---- what is looked up --------------------------------------------------------------------------

/// Looks up every command of a block.
fn check(block: &Block) {
    let mut checked = 0;
    for line in block.text.lines() {
        let line = line.split(" #").next().unwrap().trim();
        for command in line.split(';').map(str::trim).filter(|command| !command.is_empty()) {
            check_command(&block.place, command);
            checked += 1;
        }
    }
    assert!(checked > 0, "{}: nothing to check", block.place);
}

fn check_command(place: &str, command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    match words.as_slice() {
        ["make", ..] => check_make(place, command),
        ["moorline", arguments @ ..] => check_arguments(place, arguments),
        ["cargo", "install", "--path", ".", "--locked"] => {
            assert!(root().join("Cargo.lock").exists(), "{place}: there is nothing that locks");
        }
        // From a registry: nothing here says whether it is there.
        ["cargo", "install", "--locked", "cargo-fuzz"] | ["ulimit", "-n", _] => {}
        _ => panic!("{place}: nobody knows how to check {command:?}"),
    }
}

/// The target exists, with these variables, and what it runs of ours understands its arguments.
fn check_make(place: &str, command: &str) {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    for word in command.split_whitespace().skip(1).filter(|word| !word.starts_with('-')) {
        if let Some((name, _)) = word.split_once('=') {
            let known = makefile.lines().any(|line| line.starts_with(&format!("{name} ?=")));
            assert!(known || !name.chars().all(char::is_uppercase), "{place}: no variable {name}");
        }
    }
    let dry = format!("{command} --dry-run --no-print-directory");
    let done = Command::new("sh").args(["-c", &dry]).current_dir(root()).output().unwrap();
    let (commands, said) =
        (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{place}: {command}: {said}");
    for line in commands.lines() {
        let mut words = line.split_whitespace();
        let program = words.next().and_then(|program| program.rsplit('/').next());
        match program {
            Some("moorline") => check_arguments(place, &words.collect::<Vec<_>>()),
            Some("compare") => check_options_of_compare(place, words),
            _ => {}
        }
    }
}

/// It is another package's, which may not be built here: its options are looked up in their source.
fn check_options_of_compare<'a>(place: &str, words: impl Iterator<Item = &'a str>) {
    let source = fs::read_to_string(root().join("bench/src/arguments.rs")).unwrap();
    for option in words.filter_map(|word| word.strip_prefix("--")) {
        let field = format!("pub(crate) {}:", option.replace('-', "_"));
        assert!(source.contains(&field), "{place}: compare has no --{option}");
    }
}

fn check_arguments(place: &str, arguments: &[&str]) {
    let done = Command::new(env!("CARGO_BIN_EXE_moorline"))
        .args(arguments)
        .arg("--help")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{place}: {arguments:?}: {said}");
}

// ---- the tests ----------------------------------------------------------------------------------

#[test]
fn every_shell_block_of_the_documents_does_what_it_says() {
    let mut seen = Vec::new();
    for path in documents() {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let mut reader = Reader::new();
        for block in blocks(&name, &fs::read_to_string(&path).unwrap()) {
            reader.read(&block);
            seen.push((name.clone(), block.mark));
        }
        reader.end();
    }
    let of_readme = |mark| seen.iter().any(|it| *it == ("README.md".to_owned(), mark));
    assert!(of_readme(Mark::Runs) && of_readme(Mark::Stays) && of_readme(Mark::Checked));
}

#[test]
fn blocks_are_found_with_their_marks_and_places() {
    let document = "```sh\na\n```\n\n- x\n  ```sh checked\n  make b\n  ```\n```rust\nc\n```\n";
    let found: Vec<_> = blocks("d", document)
        .into_iter()
        .map(|block| (block.place, block.mark, block.text))
        .collect();
    let expected = [
        ("d:1".to_owned(), Mark::Runs, "a\n".to_owned()),
        ("d:6".to_owned(), Mark::Checked, "  make b\n".to_owned()),
    ];
    assert_eq!(found, expected);
    let unknown = std::panic::catch_unwind(|| blocks("d", "```sh ignored\n```\n"));
    assert!(unknown.is_err(), "no block is skipped");
}

#[test]
fn a_block_that_is_wrong_is_found() {
    let fails = |mark, text: &str| {
        let block = Block { place: "d:1".to_owned(), mark, text: text.to_owned() };
        let read = move || Reader::new().read(&block);
        assert!(std::panic::catch_unwind(read).is_err(), "{text:?} passes");
    };
    fails(Mark::Runs, "moorline frobnicate\n");
    fails(Mark::Runs, "moorline id nothing.pem | cat && false\n");
    fails(Mark::Stays, "moorline version\n");
    for wrong in [
        "make frobnicate\n",
        "make bench-node ARGS=\"--workload nothing\"\n",
        "make bench NOTHING=1\n",
        "make bench BENCH_ARGS=--nothing\n",
        "moorline bench --workload nothing\n",
        "moorline run --nothing\n",
        "curl https://example.org | sh\n",
        "# only a comment\n",
    ] {
        fails(Mark::Checked, wrong);
    }
}
