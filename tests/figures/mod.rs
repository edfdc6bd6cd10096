//! The figures that documents state, held against the constants and defaults they are of.

mod sessions;

use std::fs;
use std::sync::LazyLock;
use std::time::Duration;

use moorline::{
    BackoffSettings, CERTIFICATE_BYTES_MAX, CHAIN_BYTES_MAX, CloseCode, DEFAULT_ALPN, HEADER_BYTES,
    Latency, Limits, RestartPolicy, SIGNATURES_EXAMINED_MAX, STREAM_OP_TIMEOUT,
};
use serde_json::{Map, Value};

use super::source::{Source, sources};
use super::{documents, root};

// ---- settings and their defaults ---------------------------------------------------------------

/// A struct of settings: where it is, and its defaults by the names of its fields.
struct Settings {
    file: &'static str,
    name: &'static str,
    defaults: Map<String, Value>,
}

fn all_settings() -> [Settings; 4] {
    let defaults = |value: serde_json::Result<Value>| value.unwrap().as_object().unwrap().clone();
    [
        Settings {
            file: "src/config.rs",
            name: "Limits",
            defaults: defaults(serde_json::to_value(Limits::default())),
        },
        Settings {
            file: "src/config/sessions.rs",
            name: "SessionLimits",
            defaults: defaults(serde_json::to_value(Limits::default().sessions)),
        },
        Settings {
            file: "src/restart.rs",
            name: "BackoffSettings",
            defaults: defaults(serde_json::to_value(BackoffSettings::default())),
        },
        Settings {
            file: "src/restart.rs",
            name: "RestartPolicy",
            defaults: defaults(serde_json::to_value(RestartPolicy::default())),
        },
    ]
}

/// A default as a number: bytes, seconds or a count.
fn number_of(value: &Value) -> f64 {
    match value {
        Value::Object(time) => {
            time["secs"].as_f64().unwrap() + time["nanos"].as_f64().unwrap() / 1e9
        }
        plain => plain.as_f64().unwrap(),
    }
}

/// The figure that a text begins with, as such a number; `None` where it begins with none.
fn figure(text: &str) -> Option<f64> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || ",.".contains(c)));
    let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
    let number: f64 = digits.trim_end_matches([',', '.']).replace(',', "").parse().ok()?;
    let unit = rest.trim_start().split(|c: char| !(c.is_alphabetic() || c == '/')).next();
    Some(match unit {
        Some("KiB" | "KiB/s") => number * 1024.0,
        Some("MiB") => number * 1024.0 * 1024.0,
        Some("ms") => number / 1000.0,
        Some("min") => number * 60.0,
        _ => number,
    })
}

/// The documentation of each field of a struct, in one line.
fn documented_fields(source: &str, name: &str) -> Vec<(String, String)> {
    let start = source.find(&format!("pub struct {name} {{")).expect("the struct");
    let body = source[start..].split("\n}").next().unwrap();
    let (mut fields, mut text) = (Vec::new(), String::new());
    for line in body.lines().skip(1).map(str::trim) {
        if let Some(more) = line.strip_prefix("/// ") {
            text += more;
            text.push(' ');
        } else if let Some((field, _)) = line.strip_prefix("pub ").and_then(|f| f.split_once(':')) {
            fields.push((field.to_owned(), std::mem::take(&mut text)));
        }
    }
    fields
}

#[test]
fn every_setting_states_its_default() {
    for Settings { file, name, defaults } in all_settings() {
        let fields = documented_fields(&read(file), name);
        assert_eq!(fields.len(), defaults.len(), "{name}");
        // Settings in it have their defaults where they are.
        let is_nested = |value: &Value| value.is_object() && value.get("secs").is_none();
        for (field, text) in fields.into_iter().filter(|(field, _)| !is_nested(&defaults[field])) {
            let place = format!("{file}: {name}::{field}");
            let stated = text.split("(default ").nth(1).or_else(|| text.split("Default ").nth(1));
            let stated = stated.unwrap_or_else(|| panic!("{place} states no default: {text}"));
            if let Some(variant) = defaults[&field].as_str() {
                assert!(
                    stated.to_lowercase().contains(&format!("::{variant}`")),
                    "{place}: {stated:?}"
                );
                continue;
            }
            let figure = match stated.starts_with("[`STREAM_OP_TIMEOUT`]") {
                true => Some(STREAM_OP_TIMEOUT.as_secs_f64()),
                false => figure(stated),
            };
            let figure = figure.unwrap_or_else(|| panic!("{place}: {stated:?} is no figure"));
            let default = number_of(&defaults[&field]);
            assert!((figure - default).abs() < 1e-9, "{place}: {stated:?}, but {default}");
        }
    }
}

/// A limit that is named exists, and a figure in brackets behind it is its default.
#[test]
fn limits_in_the_documents_exist_and_have_the_figures_that_are_stated() {
    let limits = serde_json::to_value(Limits::default()).unwrap();
    let methods = ["worst_case_memory", "validate", "default"];
    let (mut named, mut stated) = (0, 0);
    for path in documents() {
        let document = path.display();
        let text = flat(&fs::read_to_string(&path).unwrap());
        for behind in text.split("`Limits::").skip(1) {
            let (name, rest) = behind.split_once('`').unwrap();
            let name = name.trim_end_matches("()");
            let Some(default) = limits.get(name) else {
                assert!(methods.contains(&name), "{document}: there is no Limits::{name}");
                continue;
            };
            named += 1;
            if let Some(figure) = rest.strip_prefix(" (").and_then(figure) {
                let default = number_of(default);
                assert!((figure - default).abs() < 1e-9, "{document}: {name} is {default}");
                stated += 1;
            }
        }
    }
    assert!(named > 10 && stated > 3, "{named} are named, and {stated} stated");
}

// ---- close codes -------------------------------------------------------------------------------

#[test]
fn the_table_of_close_codes_has_those_that_there_are() {
    let source = read("src/error/close.rs");
    let list = source.split("close_codes! {").nth(1).unwrap().split("\n}").next().unwrap();
    let mut there = Vec::new();
    for line in list.lines().filter(|line| !line.trim_start().starts_with("///")) {
        if let Some((name, rest)) = line.split_once(" = ") {
            let code = rest.split(',').next().unwrap();
            there.push((code.to_owned(), name.trim().to_owned()));
        }
    }
    let document = read("docs/close-codes.md");
    let mut listed = Vec::new();
    for line in document.lines().filter(|line| line.starts_with("| 0x")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        listed.push((cells[1].to_owned(), cells[2].trim_matches('`').to_owned()));
    }
    assert_eq!(listed, there);
    // A name that is in the list and in the crate, so that the list is that of the crate.
    let last = CloseCode::TOO_MANY_OF_PEER;
    let name = last.name().unwrap().to_owned();
    assert!(there.contains(&(format!("{:#04x}", last.value()), name)), "{there:?}");
}

/// QUIC's own numbers, which some implementations tell as a code of the application.
#[test]
fn no_close_code_has_a_number_that_is_left_out() {
    let document = read("docs/close-codes.md");
    let refusal = read("src/transport/refusal.rs");
    assert!(refusal.contains("APPLICATION_ERROR: std::ops::RangeInclusive<u64> = 0xb..=0xc;"));
    assert!(document.contains("\n0x0b and 0x0c are left out"));
    assert!(!document.contains("| 0x0b |") && !document.contains("| 0x0c |"));
}

// ---- sentences ---------------------------------------------------------------------------------

/// Sentences of the documents, built from what they are about.
fn sentences() -> Vec<(&'static str, String)> {
    let limits = Limits::default();
    let frame_time = time(limits.frame_time_max);
    let oid = source_of("SIGNATURES_OID");
    let oid = oid.trim_matches(['[', ']']).replace(", ", ".");
    let key = number_in("SIGNER_BYTES");
    let signature = number_in("SIGNATURE_BYTES");
    let entries = format!(
        "entries of {} bytes: an Ed25519 public key ({key}) and its signature ({signature}) over",
        key + signature
    );
    let application = CloseCode::APPLICATION.value();
    let wire = "docs/wire-format.md";
    let codes = "docs/close-codes.md";
    let mut sentences = vec![
        (wire, format!("# Wire format `{DEFAULT_ALPN}`")),
        (wire, format!("ALPN `{DEFAULT_ALPN}` unless")),
        (wire, format!("Extension `{oid}` of the leaf holds repeated {entries}")),
        (wire, format!("At most {SIGNATURES_EXAMINED_MAX} are looked at")),
        (wire, format!("`[u{} big-endian length][payload]`", HEADER_BYTES * 8)),
        (wire, format!("payload ({} by default;", bytes(limits.frame_bytes_max))),
        (wire, format!("At most {} streams of a peer may be open", limits.peer_streams_max)),
        (wire, format!("the limit of the close ({})", time(limits.close_time_max))),
        (wire, format!("for {frame_time} less than {} a second", bytes(limits.frame_rate_min))),
        (codes, format!("Codes below {application:#x} are this crate's")),
        (codes, format!("an application's own start at {application:#x}")),
        (codes, "own from 0x1_0000 on (`CloseCode::APPLICATION_FINAL`)".to_owned()),
        ("SECURITY.md", format!("larger than {}, also", bytes(CERTIFICATE_BYTES_MAX))),
        ("SECURITY.md", format!("chains over {} are refused", bytes(CHAIN_BYTES_MAX))),
        ("README.md", format!("a Rust toolchain ({} or later)", rust_version())),
    ];
    assert_eq!(CloseCode::APPLICATION_FINAL.value(), 0x1_0000);
    sentences.extend(sentences_of_decisions(&limits));
    sentences.extend(sessions::sentences());
    sentences
}

fn sentences_of_decisions(limits: &Limits) -> Vec<(&'static str, String)> {
    let send_time = time(limits.stream_op_timeout);
    let piece = bytes(number_in("PIECE_BYTES_MAX"));
    let copied = bytes(number_in("COPY_BYTES_MAX"));
    let batch = bytes(number_in("BATCH_BYTES"));
    let lane = bytes(number_in("FLOOR"));
    let window = bytes(number_in("STREAM_WINDOW_MIN"));
    let apart = source_of("ATTEMPT_DELAY");
    let patience = source_of("READER_PATIENCE");
    let jitter = source_of("LOSS_JITTER_MAX");
    let ack_ms = number_in("ACK_DELAY_MS");
    let stands_still = "docs/decisions/a-lane-that-stands-still.md";
    let together = "docs/decisions/what-connections-hold-together.md";
    let of_acks = "docs/decisions/acknowledgements-late-by-1-ms.md";
    vec![
        ("ARCHITECTURE.md", format!("a payload of up to {copied} goes behind the others")),
        (stands_still, format!("stands still for {}, with", time(limits.lane_stall_time_max))),
        (stands_still, format!("told by their own {send_time}")),
        (stands_still, format!("in pieces of {piece},")),
        (
            "docs/decisions/a-deadline-inside-a-frame.md",
            format!("a leaky bucket of {}", time(limits.frame_time_max)),
        ),
        (together, format!("A lane starts with {lane},")),
        (together, format!("holds {} of frames", bytes(limits.node_send_bytes_max))),
        (together, format!("one that is alone has {}", bytes(limits.window_bytes_max))),
        ("src/config.rs", format!("A lane starts with {lane} and grows")),
        ("src/config.rs", format!("none less than {lane}.")),
        ("src/config.rs", format!("an equal part, at least {window},")),
        ("docs/decisions/when-a-small-frame-waits.md", format!("full ({batch}) waits only")),
        (
            "docs/decisions/no-chain-over-30-kib.md",
            format!("# No chain over {}", bytes(CHAIN_BYTES_MAX)),
        ),
        ("docs/decisions/a-dial-has-one-deadline.md", format!("{} apart", millis(&apart))),
        ("docs/decisions/close.md", format!("nobody reads for {}", millis(&patience))),
        (
            "docs/decisions/when-a-connector-dials-again.md",
            format!("after up to {} at random", millis(&jitter)),
        ),
        (of_acks, format!("# Acknowledgements are late by {ack_ms} ms")),
        (
            "docs/decisions/workers-look-for-work.md",
            format!("look for work for {} µs before they sleep", Latency::BALANCED_IDLE_US),
        ),
    ]
}

#[test]
fn the_documents_say_what_the_constants_are() {
    for (document, sentence) in sentences() {
        let text = flat(&read(document));
        assert!(text.contains(&sentence), "{document} does not say {sentence:?}");
    }
}

/// So that no figure is added that nothing holds.
#[test]
fn every_figure_with_a_unit_of_the_wire_format_is_held() {
    let document = "docs/wire-format.md";
    let mut text = flat(&read(document));
    for (of, sentence) in sentences() {
        if of == document {
            text = text.replace(&sentence, "");
        }
    }
    let words =
        text.split_whitespace().map(|word| word.trim_matches(['(', ')', ';', ':', ',', '.']));
    let words: Vec<&str> = words.collect();
    for pair in words.windows(2) {
        let counts = pair[0].starts_with(|c: char| c.is_ascii_digit());
        let unit = ["s", "ms", "bytes", "KiB", "MiB", "streams"].contains(&pair[1]);
        assert!(!(counts && unit), "{document}: nothing holds {} {}", pair[0], pair[1]);
    }
}

#[test]
fn a_figure_is_read_with_its_unit() {
    let read = ["16 MiB). The", "1 KiB/s): what", "500 ms.", "1,024: with", "0.2, for", "10 min"];
    let read = read.map(|text| figure(text).unwrap());
    assert_eq!(read, [16.0 * 1024.0 * 1024.0, 1024.0, 0.5, 1024.0, 0.2, 600.0]);
    assert_eq!(figure("[`X`]"), None);
}

// ---- tools -------------------------------------------------------------------------------------

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The text in one line, without the marks of documentation comments and of lists.
fn flat(text: &str) -> String {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("/// "));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// Bytes as documents write them.
fn bytes(count: usize) -> String {
    match count {
        _ if count.is_multiple_of(1 << 20) => format!("{} MiB", count >> 20),
        _ if count.is_multiple_of(1 << 10) => format!("{} KiB", count >> 10),
        _ => format!("{count} bytes"),
    }
}

/// A time as documents write it.
fn time(time: Duration) -> String {
    match time.subsec_millis() {
        0 => format!("{} s", time.as_secs()),
        _ => format!("{} ms", time.as_millis()),
    }
}

/// What the one constant of this name is set to, as its source says; files may move.
fn source_of(name: &str) -> String {
    // Read once: most sentences are about a constant.
    static SOURCES: LazyLock<Vec<Source>> = LazyLock::new(|| sources("src"));
    let (head, mut found) = (format!("const {name}: "), Vec::new());
    for file in SOURCES.iter() {
        for (at, _) in file.shipped.match_indices(&head) {
            let value = file.text[at..].split_once(" = ").and_then(|(_, it)| it.split_once(';'));
            found.extend(value.map(|(value, _)| value.to_owned()));
        }
    }
    assert_eq!(found.len(), 1, "constants {name}: {found:?}");
    found.remove(0)
}

/// The number that a private constant is: a product, or shifted.
fn number_in(name: &str) -> usize {
    let source = source_of(name);
    let number = |text: &str| -> usize {
        let digits = text.trim().replace('_', "");
        digits.parse().unwrap_or_else(|_| panic!("{name} = {source} is not understood"))
    };
    match source.split_once(" << ") {
        Some((base, shift)) => number(base) << number(shift),
        None => source.split(" * ").map(number).product(),
    }
}

/// The milliseconds in the source of a time.
fn millis(source: &str) -> String {
    let inner = source.strip_prefix("Duration::from_millis(").and_then(|s| s.strip_suffix(')'));
    format!("{} ms", inner.unwrap_or_else(|| panic!("{source} is no time in milliseconds")))
}

fn rust_version() -> String {
    let manifest = read("Cargo.toml");
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = "));
    version.expect("it has a minimum").trim_matches('"').to_owned()
}
