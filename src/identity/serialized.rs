//! Hashes and keys as text, for formats that know names and values.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{CertHash, SignerKey};

macro_rules! as_text {
    ($($name:ident),+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(FromText(PhantomData))
            }
        }
    )+};
}

as_text!(CertHash, SignerKey);

/// Parses what is given as text.
struct FromText<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for FromText<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("64 hex digits")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_and_key_are_text_of_hex_digits_and_come_back_from_it() {
        let digits = "0f".repeat(32);
        let hash = CertHash::from_bytes([15; 32]);
        let key = SignerKey::from_bytes([15; 32]);
        assert_eq!(
            serde_json::to_string(&(hash, key)).unwrap(),
            format!("[{digits:?},{digits:?}]")
        );
        let back = serde_json::from_str(&format!("[{digits:?},{digits:?}]"));
        assert_eq!(back.ok(), Some((hash, key)));
        // Not only from borrowed text.
        assert_eq!(serde_json::from_value(digits.into()).ok(), Some(hash));
        let error = serde_json::from_str::<CertHash>("\"0f\"").unwrap_err();
        assert!(
            error.to_string().starts_with("expected 64 hex digits, found 2 characters"),
            "{error}"
        );
        serde_json::from_str::<SignerKey>("15").unwrap_err();
    }
}
