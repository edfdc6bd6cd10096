//! One figure as a line of JSON: the form that `moorline bench --json` prints.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What one program measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Figure {
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) metric: String,
    pub(crate) params: BTreeMap<String, f64>,
}

impl Figure {
    pub(crate) fn new(metric: &str, value: f64, unit: &str) -> Self {
        let (unit, metric) = (unit.to_owned(), metric.to_owned());
        Self { value, unit, metric, params: BTreeMap::new() }
    }

    pub(crate) fn with(mut self, name: &str, value: f64) -> Self {
        self.params.insert(name.to_owned(), value);
        self
    }

    /// Parameters travel as text.
    pub(crate) fn to_json(&self, peer: &str, workload: &str) -> Value {
        let params: BTreeMap<_, _> =
            self.params.iter().map(|(name, value)| (name, format!("{value:.2}"))).collect();
        json!({
            "peer": peer,
            "workload": workload,
            "metric": self.metric,
            "value": (self.value * 100.0).round() / 100.0,
            "unit": self.unit,
            "params": params,
        })
    }

    pub(crate) fn from_json(line: &Value) -> Result<Self> {
        let text = |name| line[name].as_str().with_context(|| format!("a figure without {name}"));
        let value = line["value"].as_f64().context("a figure without a value")?;
        let mut figure = Self::new(text("metric")?, value, text("unit")?);
        for (name, value) in line["params"].as_object().into_iter().flatten() {
            if let Some(value) = value.as_str().and_then(|value| value.parse().ok()) {
                figure.params.insert(name.clone(), value);
            }
        }
        Ok(figure)
    }

    /// CPU time of both ends by elapsed time.
    pub(crate) fn cores(&self) -> Option<f64> {
        self.params.get("cpu_cores").copied()
    }

    /// Of the process that measured.
    pub(crate) fn resident_mib(&self) -> Option<f64> {
        self.params.get("rss_mib").copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_read_as_it_was_written() {
        let figure = Figure::new("receiver_messages", 814_000.25, "msg/s").with("cpu_cores", 1.9);
        let line = figure.to_json("quinn", "small");
        assert_eq!(
            line.to_string(),
            "{\"metric\":\"receiver_messages\",\"params\":{\"cpu_cores\":\"1.90\"},\
             \"peer\":\"quinn\",\"unit\":\"msg/s\",\"value\":814000.25,\"workload\":\"small\"}"
        );
        assert_eq!(Figure::from_json(&line).unwrap(), figure);
        assert_eq!((figure.cores(), figure.resident_mib()), (Some(1.9), None));
    }

    #[test]
    fn a_line_without_a_value_is_refused() {
        assert!(Figure::from_json(&json!({ "metric": "m", "unit": "u" })).is_err());
        assert!(Figure::from_json(&json!({ "value": 1.0, "unit": "u" })).is_err());
    }
}
