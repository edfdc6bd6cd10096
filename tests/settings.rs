//! Settings and names as text, for configuration files.
#![cfg(feature = "serde")]

use std::fmt::Debug;
use std::time::Duration;

use moorline::{BackoffSettings, CertHash, Lane, Latency, Limits, Redial, RestartPolicy};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> Value {
    let written = serde_json::to_value(value).expect("it can be written");
    let text = written.to_string();
    let read: T = serde_json::from_str(&text).expect("it can be read");
    assert_eq!(read, *value, "{text}");
    written
}

#[test]
fn every_setting_comes_back_from_its_text() {
    let mut limits = Limits::default();
    limits.frame_bytes_max = 1 << 20;
    limits.close_time_max = Duration::from_millis(1_500);
    let written = comes_back(&limits);
    assert_eq!(written["frame_bytes_max"], 1 << 20);
    assert_eq!(written["close_time_max"], json!({ "secs": 1, "nanos": 500_000_000 }));
    let mut backoff = BackoffSettings::default();
    backoff.jitter = 0.5;
    comes_back(&backoff);
    let mut policy = RestartPolicy::default();
    policy.restarts_max = 9;
    comes_back(&policy);
    assert_eq!(comes_back(&Latency::Balanced), "balanced");
    assert_eq!(comes_back(&Latency::Saving), "saving");
    let polling = comes_back(&Latency::Polling { idle_us: 200 });
    assert_eq!(polling, json!({ "polling": { "idle_us": 200 } }));
    for (redial, name) in
        [(Redial::Never, "never"), (Redial::WhenLost, "when_lost"), (Redial::Always, "always")]
    {
        assert_eq!(comes_back(&redial), name);
    }
    for (lane, name) in [(Lane::Control, "control"), (Lane::Data, "data"), (Lane::Bulk, "bulk")] {
        assert_eq!(comes_back(&lane), name);
    }
    let peer = CertHash::from_bytes([0xab; 32]);
    assert_eq!(comes_back(&peer), "ab".repeat(32));
}

#[test]
fn what_is_left_out_keeps_its_default_and_what_nobody_knows_is_an_error() {
    let text = r#"{ "frame_bytes_max": 1000, "idle_time_max": { "secs": 9, "nanos": 0 } }"#;
    let read: Limits = serde_json::from_str(text).expect("limits");
    let mut expected = Limits::default();
    (expected.frame_bytes_max, expected.idle_time_max) = (1_000, Duration::from_secs(9));
    assert_eq!(read, expected);
    assert_eq!(serde_json::from_str::<BackoffSettings>("{}").ok(), Some(Default::default()));
    assert_eq!(serde_json::from_str::<RestartPolicy>("{}").ok(), Some(Default::default()));

    for misspelt in [r#"{ "frame_byte_max": 1 }"#, r#"{ "factor": 2 }"#] {
        let error = serde_json::from_str::<Limits>(misspelt).expect_err("misspelt");
        assert!(error.to_string().contains("unknown field"), "{error}");
    }
    serde_json::from_str::<BackoffSettings>(r#"{ "cap_": 1 }"#).expect_err("misspelt");
    serde_json::from_str::<RestartPolicy>(r#"{ "windows": 1 }"#).expect_err("misspelt");
    serde_json::from_str::<Latency>(r#""polling""#).expect_err("it lacks its time");
}

/// A text may say anything: what cannot work is found where it always is.
#[test]
fn limits_that_were_read_are_judged_like_others() {
    let read: Limits = serde_json::from_str(r#"{ "connections_max": 0 }"#).expect("limits");
    assert_eq!(read.validate().expect_err("none").field(), "connections_max");
}
