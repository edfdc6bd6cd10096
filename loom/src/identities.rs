//! Of the library's identities what close reasons name.

/// As the library's, in short.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{subject}")]
pub struct KeyPrefixes {
    pub subject: String,
}

/// As the library's, in short.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{self:?}")]
pub enum Refusal {
    Missing,
    Expired {},
    NotYetValid {},
}
