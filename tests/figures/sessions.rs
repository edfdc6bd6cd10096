//! Sentences about sessions, built from the constants and bounds that they are about. Constants are not
//! public: their sources are read.

use moorline::Limits;

use super::{bytes, millis, number_in, read, source_of, time};

fn constant(file: &str, name: &str) -> usize {
    let source = read(file);
    let value = source.split_once(&format!("const {name}: usize = ")).expect(name).1;
    value.split_once(';').expect("its end").0.parse().unwrap()
}

pub(super) fn sentences() -> Vec<(&'static str, String)> {
    let wire = "docs/wire-format.md";
    let alpn = source_of("SESSION_ALPN");
    let alpn = alpn.trim_matches('"');
    let limits = Limits::default().sessions;
    let (hello, session) = (limits.hello_time_max.as_secs(), limits.session_time_max.as_secs());
    let name = number_in("PROTOCOL_BYTES_MAX");
    let text = constant("src/session/fields.rs", "TEXT_BYTES_MAX");
    let body = constant("src/session/fields.rs", "BODY_BYTES_MAX");
    let messages = format!("{},000", limits.control_messages_max / 1_000);
    let rate = bytes(limits.control_bytes_max as usize);
    let unread = bytes(number_in("SESSION_BYTES_MAX"));
    let grant = bytes(number_in("FLOW_GRANT_MIN"));
    let close = time(Limits::default().close_time_max);
    let gather = millis(&source_of("GATHER_MAX"));
    let telling = "docs/decisions/what-was-taken-is-told-for-many.md";
    vec![
        (telling, format!("for {gather} at most")),
        (wire, format!("where frames follow each other within {gather};")),
        (wire, format!("# Wire format `{alpn}`")),
        (wire, format!("ALPN `{alpn}`: connections")),
        (wire, format!("[u16: bytes that follow, at most {body}] body")),
        (wire, format!("A name of a protocol has 1 to {name} bytes; a text at most {text} bytes")),
        (wire, format!("A flow's credit is 0 or at least {grant};")),
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
