//! Any bytes on a session stream, in any split: Hello and all other messages.
//!
//! An input is `[n][n part lengths][stream]`, one byte each but the last; the part lengths are used in turn.
//! The decoder must tell the same whatever the split, hold no more than one message, and read again what it
//! writes of what it read.

use crate::message::{Decoder, Message, MessageError};

/// A message and the length in front of it, in bytes at most.
const MESSAGE_BYTES_MAX: usize = 2 + 1024;

fn decoded<'a>(
    parts: impl Iterator<Item = &'a [u8]>,
) -> (Vec<Message>, Result<usize, MessageError>) {
    let (mut decoder, mut messages) = (Decoder::default(), Vec::new());
    for part in parts {
        if let Err(error) = decoder.feed(part, &mut |message| messages.push(message)) {
            return (messages, Err(error));
        }
        assert!(decoder.held_bytes() < MESSAGE_BYTES_MAX);
    }
    (messages, Ok(decoder.held_bytes()))
}

/// The stream in its parts; what the lengths leave over is the last one.
fn parts<'a>(lengths: &'a [u8], stream: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = stream;
    let cut = lengths.iter().cycle().take(stream.len()).map(move |&length| {
        let (part, more) = rest.split_at(rest.len().min(length.into()));
        rest = more;
        part
    });
    let taken: usize = cut.clone().map(<[u8]>::len).sum();
    cut.chain([&stream[taken..]])
}

/// One input.
pub fn run(input: &[u8]) {
    let Some((&count, rest)) = input.split_first() else { return };
    let Some((lengths, stream)) = rest.split_at_checked(count.into()) else { return };
    let (messages, end) = decoded([stream].into_iter());
    assert_eq!(decoded(parts(lengths, stream)), (messages.clone(), end));
    for message in messages {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert!(bytes.len() <= MESSAGE_BYTES_MAX, "{message:?}");
        assert_eq!(decoded([&bytes[..]].into_iter()), (vec![message], Ok(0)));
    }
}
