//! Session messages of `moorline/1`, read and written a second time: CBOR (RFC 8949) by hand, as far as
//! they need it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};

const UNSIGNED: u8 = 0;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;

const TEXT_KEY: u64 = 16;
const FLOWS_KEY: u64 = 17;

/// The kinds of messages, by name.
pub mod kind {
    /// Who speaks, which session is meant, and how far it is.
    pub const HELLO: u64 = 0;
    /// The session has this connection.
    pub const ATTACH: u64 = 1;
    /// What was taken.
    pub const TAKEN: u64 = 2;
    /// Nothing is sent behind these numbers.
    pub const CLOSE: u64 = 4;
    /// All that was taken.
    pub const CLOSED: u64 = 5;
    /// The session is over.
    pub const ENDED: u64 = 6;
}

/// One message: its kind, and its fields by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionMessage {
    /// Which message it is.
    pub kind: u64,
    /// Fields 0 to 15.
    pub numbers: BTreeMap<u64, u64>,
    /// Field 16.
    pub text: Option<String>,
    /// Field 17, by the number of the flow.
    pub flows: BTreeMap<u64, Vec<u64>>,
}

impl SessionMessage {
    /// With these numbers, by key.
    #[must_use]
    pub fn new(kind: u64, numbers: &[(u64, u64)]) -> Self {
        Self { kind, numbers: numbers.iter().copied().collect(), ..Self::default() }
    }

    /// And what it says of one flow.
    #[must_use]
    pub fn with_flow(mut self, flow: u64, values: &[u64]) -> Self {
        self.flows.insert(flow, values.to_vec());
        self
    }

    /// A number; 0 where it is absent.
    #[must_use]
    pub fn number(&self, key: u64) -> u64 {
        self.numbers.get(&key).copied().unwrap_or(0)
    }

    /// What it says of a flow; nothing where that is absent.
    #[must_use]
    pub fn flow(&self, flow: u64) -> &[u64] {
        self.flows.get(&flow).map_or(&[], Vec::as_slice)
    }

    /// With its length in front.
    ///
    /// # Errors
    ///
    /// If it is longer than a length can say.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        head(&mut body, ARRAY, 2);
        head(&mut body, UNSIGNED, self.kind);
        let others = u64::from(self.text.is_some()) + u64::from(!self.flows.is_empty());
        head(&mut body, MAP, self.numbers.len() as u64 + others);
        for (key, number) in &self.numbers {
            head(&mut body, UNSIGNED, *key);
            head(&mut body, UNSIGNED, *number);
        }
        if let Some(text) = &self.text {
            head(&mut body, UNSIGNED, TEXT_KEY);
            head(&mut body, TEXT, text.len() as u64);
            body.extend(text.as_bytes());
        }
        if !self.flows.is_empty() {
            head(&mut body, UNSIGNED, FLOWS_KEY);
            head(&mut body, MAP, self.flows.len() as u64);
        }
        for (flow, values) in &self.flows {
            head(&mut body, UNSIGNED, *flow);
            head(&mut body, ARRAY, values.len() as u64);
            values.iter().for_each(|value| head(&mut body, UNSIGNED, *value));
        }
        let mut message = u16::try_from(body.len())?.to_be_bytes().to_vec();
        message.extend(body);
        Ok(message)
    }

    /// Reads the body of one.
    ///
    /// # Errors
    ///
    /// If it is none, or has a field that nobody knows.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let mut reader = Reader(body);
        ensure!(reader.head(ARRAY)? == 2, "a message has a kind and fields");
        let mut message = Self::new(reader.head(UNSIGNED)?, &[]);
        for _ in 0..reader.head(MAP)? {
            match reader.head(UNSIGNED)? {
                TEXT_KEY => message.text = Some(reader.text()?),
                FLOWS_KEY => {
                    for _ in 0..reader.head(MAP)? {
                        let flow = reader.head(UNSIGNED)?;
                        let count = reader.head(ARRAY)?;
                        ensure!(count > 0, "nothing is said of flow {flow}");
                        let values: Result<_> = (0..count).map(|_| reader.head(UNSIGNED)).collect();
                        message.flows.insert(flow, values?);
                    }
                }
                key if key < TEXT_KEY => {
                    message.numbers.insert(key, reader.head(UNSIGNED)?);
                }
                key => bail!("nobody knows field {key}"),
            }
        }
        ensure!(reader.0.is_empty(), "something stands behind the message");
        Ok(message)
    }
}

/// The type and the number of an item, in as few bytes as it takes (RFC 8949, section 3).
fn head(out: &mut Vec<u8>, major: u8, number: u64) {
    let bytes = number.to_be_bytes();
    let (short, from) = match number {
        0..=23 => return out.push(major << 5 | bytes[7]),
        24..=0xff => (24, 7),
        0x100..=0xffff => (25, 6),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 0),
    };
    out.push(major << 5 | short);
    out.extend(&bytes[from..]);
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).context("a message breaks off")?;
        self.0 = rest;
        Ok(taken)
    }

    /// The number of an item that must be of this type.
    fn head(&mut self, major: u8) -> Result<u64> {
        let first = self.take(1)?[0];
        ensure!(first >> 5 == major, "an item of type {} instead of {major}", first >> 5);
        let count = match first & 31 {
            number @ 0..=23 => return Ok(number.into()),
            24 => 1,
            25 => 2,
            26 => 4,
            27 => 8,
            other => bail!("a length of kind {other}"),
        };
        let bytes = self.take(count)?;
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn text(&mut self) -> Result<String> {
        let length = usize::try_from(self.head(TEXT)?)?;
        Ok(std::str::from_utf8(self.take(length)?)?.to_owned())
    }
}
