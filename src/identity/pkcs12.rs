//! Key and chain in the one form that the C library takes from memory: PKCS#12 (RFC 7292).
//!
//! It goes from one function to the next inside this process, so it is not encrypted and carries
//! no checksum: a password would have to lie beside it. It is wiped instead.
//!
//! ```text
//! PFX ── AuthenticatedSafe ── SafeContents ┬─ keyBag: the key, PKCS#8
//!                                          └─ certBag … one for each certificate
//! ```

use std::fmt;

use der::asn1::{AnyRef, ObjectIdentifier, OctetStringRef};
use der::{Decode, Encode, EncodeValue, Length, Tag, TagNumber, Tagged, Writer};
use zeroize::Zeroizing;

/// PKCS#7 data: what both outer layers hold (RFC 2315, section 14).
const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
/// A private key (RFC 7292, section 4.2.1).
const KEY_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.1");
/// A certificate (RFC 7292, section 4.2.3).
const CERT_BAG: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.12.10.1.3");
/// The kind of certificate in it (RFC 2985, section 5.7.1).
const X509_CERTIFICATE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.22.1");

/// The version of a PFX, as a whole value (RFC 7292, section 4).
const VERSION_3: &[u8] = &[2, 1, 3];

/// Key and chain, packed; wiped from memory when dropped.
pub(crate) struct Pkcs12(Zeroizing<Vec<u8>>);

impl Pkcs12 {
    /// Packs a PKCS#8 key and its chain, leaf first.
    ///
    /// OpenSSL takes the first certificate that belongs to the key for the leaf, and MsQuic adds the
    /// others to the chain from the last one on (`PKCS12_parse`, `CxPlatTlsSecConfigCreate`). So
    /// they are written in the opposite order, for peers to see them as they were given.
    pub(super) fn pack(key: &[u8], chain: &[Vec<u8>]) -> der::Result<Self> {
        let mut bags = vec![bag(KEY_BAG, Node::whole(key)?)];
        if let Some((leaf, others)) = chain.split_first() {
            bags.push(certificate_bag(leaf)?);
            for certificate in others.iter().rev() {
                bags.push(certificate_bag(certificate)?);
            }
        }
        let contents = data(sequence(bags));
        let safe = data(sequence(vec![contents]));
        let pfx = sequence(vec![Node::whole(VERSION_3)?, safe]);
        // All of it at once: a buffer that grew would leave parts of the key behind.
        let mut packed = Zeroizing::new(vec![0; usize::try_from(pfx.encoded_len()?)?]);
        pfx.encode_to_slice(&mut packed)?;
        Ok(Self(packed))
    }

    /// The DER. It holds the key as it is.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Pkcs12 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pkcs12").field("bytes", &self.0.len()).finish_non_exhaustive()
    }
}

/// A value of DER, as a tree over what others own.
enum Node<'a> {
    /// A value that is encoded already.
    Whole(AnyRef<'a>),
    Oid(ObjectIdentifier),
    Octets(OctetStringRef<'a>),
    Of(Tag, Vec<Self>),
}

impl<'a> Node<'a> {
    fn whole(der: &'a [u8]) -> der::Result<Self> {
        AnyRef::from_der(der).map(Self::Whole)
    }
}

impl Tagged for Node<'_> {
    fn tag(&self) -> Tag {
        match self {
            Self::Whole(value) => value.tag(),
            Self::Oid(_) => Tag::ObjectIdentifier,
            Self::Octets(_) => Tag::OctetString,
            Self::Of(tag, _) => *tag,
        }
    }
}

impl EncodeValue for Node<'_> {
    fn value_len(&self) -> der::Result<Length> {
        match self {
            Self::Whole(value) => value.value_len(),
            Self::Oid(oid) => oid.value_len(),
            Self::Octets(octets) => octets.value_len(),
            Self::Of(_, parts) => {
                parts.iter().try_fold(Length::ZERO, |sum, part| sum + part.encoded_len()?)
            }
        }
    }

    fn encode_value(&self, writer: &mut impl Writer) -> der::Result<()> {
        match self {
            Self::Whole(value) => value.encode_value(writer),
            Self::Oid(oid) => oid.encode_value(writer),
            Self::Octets(octets) => octets.encode_value(writer),
            Self::Of(_, parts) => parts.iter().try_for_each(|part| part.encode(writer)),
        }
    }
}

fn sequence(parts: Vec<Node<'_>>) -> Node<'_> {
    Node::Of(Tag::Sequence, parts)
}

/// `[0] EXPLICIT`.
fn explicit(value: Node<'_>) -> Node<'_> {
    Node::Of(Tag::ContextSpecific { constructed: true, number: TagNumber::N0 }, vec![value])
}

/// A PKCS#7 `ContentInfo` around the encoding of a value.
fn data(content: Node<'_>) -> Node<'_> {
    let octets = Node::Of(Tag::OctetString, vec![content]);
    sequence(vec![Node::Oid(DATA), explicit(octets)])
}

/// A `SafeBag`.
fn bag(kind: ObjectIdentifier, value: Node<'_>) -> Node<'_> {
    sequence(vec![Node::Oid(kind), explicit(value)])
}

fn certificate_bag(der: &[u8]) -> der::Result<Node<'_>> {
    let octets = Node::Octets(OctetStringRef::new(der)?);
    Ok(bag(CERT_BAG, sequence(vec![Node::Oid(X509_CERTIFICATE), explicit(octets)])))
}

#[cfg(test)]
mod tests {
    use der::{Reader, SliceReader};
    use proptest::prelude::*;

    use super::*;

    /// The values inside a constructed one, or inside the octets of an OCTET STRING.
    fn parts(der: &[u8]) -> Vec<AnyRef<'_>> {
        let mut reader = SliceReader::new(der).unwrap();
        let mut found = Vec::new();
        while !reader.is_finished() {
            found.push(AnyRef::decode(&mut reader).unwrap());
        }
        found
    }

    proptest! {
        #[test]
        fn key_and_certificates_are_found_where_the_rfc_puts_them(
            key in proptest::collection::vec(any::<u8>(), 0..300),
            chain in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1_000), 0..4),
        ) {
            let key = OctetStringRef::new(&key).unwrap().to_der().unwrap();
            let packed = Pkcs12::pack(&key, &chain).unwrap();
            let pfx = AnyRef::from_der(packed.as_bytes()).unwrap();
            prop_assert_eq!(pfx.tag(), Tag::Sequence);
            let outer = parts(pfx.value());
            prop_assert_eq!(outer[0].to_der().unwrap(), VERSION_3);
            prop_assert_eq!(outer.len(), 2, "no checksum follows");

            let bags = contents(contents(outer[1].value())[0].value());
            let values: Vec<_> = bags
                .iter()
                .map(|bag| {
                    let fields = parts(bag.value());
                    assert_eq!(fields.len(), 2);
                    (fields[0].decode_as::<ObjectIdentifier>().unwrap(), fields[1].value())
                })
                .collect();
            prop_assert_eq!(values[0], (KEY_BAG, key.as_slice()));
            let mut found: Vec<_> = values[1..]
                .iter()
                .map(|(kind, value)| {
                    assert_eq!(*kind, CERT_BAG);
                    let fields = parts(parts(value)[0].value());
                    assert_eq!(fields[0].decode_as(), Ok(X509_CERTIFICATE));
                    parts(fields[1].value())[0].value().to_vec()
                })
                .collect();
            // The leaf first, the others from the last one on.
            found.get_mut(1..).unwrap_or_default().reverse();
            prop_assert_eq!(found, chain);
        }
    }

    /// What the OCTET STRING of a `ContentInfo` holds: the members of a SEQUENCE.
    fn contents(info: &[u8]) -> Vec<AnyRef<'_>> {
        let fields = parts(info);
        assert_eq!(fields[0].decode_as(), Ok(DATA));
        let octets = parts(fields[1].value())[0];
        assert_eq!(octets.tag(), Tag::OctetString);
        parts(parts(octets.value())[0].value())
    }
}
