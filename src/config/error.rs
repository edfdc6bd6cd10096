//! What is wrong with a configuration.

use std::time::Duration;

/// A configuration that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("configuration: {field} {problem}")]
pub struct ConfigError {
    field: &'static str,
    problem: String,
}

impl ConfigError {
    pub(super) fn new(field: &'static str, problem: String) -> Self {
        Self { field, problem }
    }

    pub(super) fn check_number(
        field: &'static str,
        value: usize,
        min: usize,
        max: usize,
    ) -> Result<(), Self> {
        if (min..=max).contains(&value) {
            return Ok(());
        }
        Err(Self::new(field, format!("is {value}, must be between {min} and {max}")))
    }

    pub(super) fn check_time(
        field: &'static str,
        value: Duration,
        min: Duration,
        max: Duration,
    ) -> Result<(), Self> {
        if (min..=max).contains(&value) {
            return Ok(());
        }
        Err(Self::new(field, format!("is {value:?}, must be between {min:?} and {max:?}")))
    }

    /// The field that is wrong.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }
}
