//! Sentences about sessions, built from the constants and bounds that they are about. These are not
//! public: their sources are read.

use moorline::Limits;

use super::{bytes, number_in, read, source_of, time};

/// The default of one bound of sessions, as its source says.
fn bound(name: &str) -> String {
    let source = read("src/session/limits.rs");
    let defaults = source.split_once("impl Default").expect("it has defaults").1;
    let value = defaults.split_once(&format!("{name}: ")).expect(name).1;
    value.split_once(",\n").expect("the end of a line").0.to_owned()
}

fn seconds(name: &str) -> u64 {
    let source = bound(name);
    let inner = source.strip_prefix("Duration::from_secs(").and_then(|s| s.strip_suffix(')'));
    inner.unwrap_or_else(|| panic!("{name} = {source}")).parse().unwrap()
}

fn constant(file: &str, name: &str) -> usize {
    let source = read(file);
    let value = source.split_once(&format!("const {name}: usize = ")).expect(name).1;
    value.split_once(';').expect("its end").0.parse().unwrap()
}

fn mebibytes(source: &str) -> String {
    let (count, shift) = source.split_once(" << ").expect("a shift");
    bytes(count.parse::<usize>().unwrap() << shift.parse::<u32>().unwrap())
}

pub(super) fn sentences() -> Vec<(&'static str, String)> {
    let wire = "docs/wire-format.md";
    let alpn = source_of("SESSION_ALPN");
    let alpn = alpn.trim_matches('"');
    let hello = seconds("hello_time_max");
    let session = seconds("session_time_max");
    let name = number_in("PROTOCOL_BYTES_MAX");
    let text = constant("src/session/fields.rs", "TEXT_BYTES_MAX");
    let body = constant("src/session/fields.rs", "BODY_BYTES_MAX");
    let messages = bound("control_messages_max").replace('_', ",");
    let rate = mebibytes(&bound("control_bytes_max"));
    let unread = bytes(number_in("SESSION_BYTES_MAX"));
    let close = time(Limits::default().close_time_max);
    vec![
        (wire, format!("# Wire format `{alpn}`")),
        (wire, format!("ALPN `{alpn}`: connections")),
        (wire, format!("[u16: bytes that follow, at most {body}] body")),
        (wire, format!("A name of a protocol has 1 to {name} bytes; a text at most {text} bytes")),
        (wire, format!("comes within {hello} s, the connection is closed with `HELLO_TIMEOUT`")),
        (wire, format!("the sender does that {hello} s later")),
        (wire, format!("no connection for {session} s is over")),
        (wire, format!("(at most {session} s are waited)")),
        (wire, format!("What a session came to is remembered for {} s.", 2 * session)),
        (wire, format!("A close that takes over {close} ends all the same")),
        (wire, format!("than {messages} messages or {rate} a second")),
        (wire, format!("leaves {unread} of the session stream unacknowledged")),
    ]
}
