//! The encoding of one message: a kind and numbered fields, as CBOR (RFC 8949).
//!
//! ```text
//! message = [u16 big-endian: bytes that follow, at most 1024] body
//! body    = array(2) [ kind: unsigned, fields: map of definite length ]
//! fields  = { 0..=15: unsigned, 16: text, 17: flows, else: anything, skipped }
//! flows   = map of definite length { flow: unsigned 0..=5 => array(1..=3) of unsigned }
//! ```
//!
//! A field that is absent is 0, empty, or for a flow "nothing said". Of a key that comes twice the last
//! one counts. Flows over 5, and what an array has beyond three, are skipped. All integers fit 64 bits.

use minicbor::data::Type;
use minicbor::decode::Decoder;
use minicbor::encode::Encoder;

use super::flow::{FlowId, PerFlow};

/// Bytes of one body at most.
pub(super) const BODY_BYTES_MAX: usize = 1024;

/// Fields that are numbers: keys below this one.
const NUMBERS: usize = 16;
const TEXT: u64 = 16;
const FLOWS: u64 = 17;

/// Bytes of text that are kept: what is longer is no message.
pub(super) const TEXT_BYTES_MAX: usize = 200;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    /// The length in front is over the limit.
    #[error("a message of {announced} bytes was announced, the limit is 1024")]
    TooLong {
        /// The length that was announced.
        announced: usize,
    },
    /// It is not encoded as a message is, or something stands behind it.
    #[error("a message is malformed")]
    Malformed,
    /// A field has a value that it cannot have, or is missing.
    #[error("field {key} of message {kind} is wrong")]
    Field {
        /// Which kind of message.
        kind: u64,
        /// Which field.
        key: u64,
    },
}

impl From<minicbor::decode::Error> for MessageError {
    fn from(_: minicbor::decode::Error) -> Self {
        Self::Malformed
    }
}

/// The fields of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Fields {
    pub(super) numbers: [Option<u64>; NUMBERS],
    pub(super) text: Option<String>,
    pub(super) flows: PerFlow<Option<[u64; 3]>>,
}

impl Fields {
    /// With the numbers, from key 0 on.
    pub(super) fn numbered(numbers: &[u64]) -> Self {
        let mut fields = Self::default();
        for (place, number) in fields.numbers.iter_mut().zip(numbers) {
            *place = Some(*number);
        }
        fields
    }

    pub(super) fn number(&self, key: usize) -> u64 {
        self.numbers[key].unwrap_or(0)
    }

    /// Appends the message with its length in front.
    pub(super) fn encode(&self, kind: u64, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; 2]);
        let mut encoder = Encoder::new(&mut *out);
        self.write(kind, &mut encoder).expect("memory takes all that is written to it");
        let length = out.len() - start - 2;
        debug_assert!(length <= BODY_BYTES_MAX, "{self:?}");
        out[start..start + 2].copy_from_slice(&(length as u16).to_be_bytes());
    }

    fn write(&self, kind: u64, encoder: &mut Encoder<&mut Vec<u8>>) -> Result<(), Failed> {
        let numbers = self.numbers.iter().flatten().count();
        let flows = self.flows.0.iter().flatten().count();
        let length = numbers + usize::from(self.text.is_some()) + usize::from(flows > 0);
        encoder.array(2)?.u64(kind)?.map(length as u64)?;
        for (key, number) in (0..).zip(&self.numbers) {
            if let Some(number) = number {
                encoder.u64(key)?.u64(*number)?;
            }
        }
        if let Some(text) = &self.text {
            encoder.u64(TEXT)?.str(text)?;
        }
        if flows > 0 {
            encoder.u64(FLOWS)?.map(flows as u64)?;
        }
        for (flow, values) in self.flows.iter() {
            if let Some([first, second, third]) = *values {
                encoder.u8(flow.number())?.array(3)?.u64(first)?.u64(second)?.u64(third)?;
            }
        }
        Ok(())
    }

    /// Reads the kind and the fields of one body.
    pub(super) fn decode(body: &[u8]) -> Result<(u64, Self), MessageError> {
        let mut decoder = Decoder::new(body);
        if decoder.array()? != Some(2) {
            return Err(MessageError::Malformed);
        }
        let kind = decoder.u64()?;
        let mut fields = Self::default();
        for _ in 0..definite(decoder.map()?)? {
            match decoder.u64()? {
                key if key < NUMBERS as u64 => {
                    fields.numbers[key as usize] = Some(decoder.u64()?);
                }
                TEXT => {
                    let text = decoder.str()?;
                    if text.len() > TEXT_BYTES_MAX {
                        return Err(MessageError::Field { kind, key: TEXT });
                    }
                    fields.text = Some(text.to_owned());
                }
                FLOWS => fields.flows = flows(&mut decoder)?,
                _ => decoder.skip()?,
            }
        }
        if decoder.position() != body.len() {
            return Err(MessageError::Malformed);
        }
        Ok((kind, fields))
    }
}

type Failed = minicbor::encode::Error<std::convert::Infallible>;

fn flows(decoder: &mut Decoder<'_>) -> Result<PerFlow<Option<[u64; 3]>>, MessageError> {
    let mut flows = PerFlow::default();
    for _ in 0..definite(decoder.map()?)? {
        let flow = FlowId::from_wire(decoder.u64()?);
        if decoder.datatype()? != Type::Array {
            return Err(MessageError::Malformed);
        }
        let mut values = [0; 3];
        let length = definite(decoder.array()?)?;
        for index in 0..length {
            match values.get_mut(index as usize) {
                Some(value) => *value = decoder.u64()?,
                None => decoder.skip()?,
            }
        }
        if length == 0 {
            return Err(MessageError::Malformed);
        }
        if let Some(flow) = flow {
            flows[flow] = Some(values);
        }
    }
    Ok(flows)
}

/// Each entry takes a byte at least, so that a length that lies ends with the body.
fn definite(length: Option<u64>) -> Result<u64, MessageError> {
    length.ok_or(MessageError::Malformed)
}
