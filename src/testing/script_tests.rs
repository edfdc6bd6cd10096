//! Scripts: their texts, and what holds when.

use proptest::prelude::*;

use super::super::conditions::{GilbertElliott, Loss, RateLimit};
use super::super::share::Share;
use super::*;

fn share() -> impl Strategy<Value = Share> {
    (0_u32..=1_000_000).prop_map(Share::millionths)
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        any::<u32>().prop_map(|nanos| Duration::from_nanos(u64::from(nanos))),
        (0_u64..100_000).prop_map(Duration::from_millis),
        (0_u64..100).prop_map(Duration::from_secs),
    ]
}

fn loss() -> impl Strategy<Value = Loss> {
    let model = [share(), share(), share(), share()].prop_map(|[a, b, c, d]| GilbertElliott {
        turns_bad: a,
        turns_good: b,
        loss_when_good: c,
        loss_when_bad: d,
    });
    // No chance of loss is no loss: there is one text for both.
    let some = (1_u32..=1_000_000).prop_map(Share::millionths);
    prop_oneof![Just(Loss::None), some.prop_map(Loss::Independent), model.prop_map(Loss::Bursts)]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        loss().prop_map(Fault::Lose),
        (time(), time()).prop_map(|(delay, jitter)| Fault::Delay { delay, jitter }),
        (share(), time()).prop_map(|(share, by)| Fault::Reorder { share, by }),
        share().prop_map(Fault::Duplicate),
        share().prop_map(Fault::Corrupt),
        (any::<u64>(), any::<u64>()).prop_map(|(bytes_a_second, queue_bytes)| {
            Fault::Limit(RateLimit { bytes_a_second, queue_bytes })
        }),
        any::<u16>().prop_map(Fault::Mtu),
        Just(Fault::BlackHole),
        Just(Fault::PassEverything),
    ]
}

fn event() -> impl Strategy<Value = ScriptEvent> {
    let towards = prop_oneof![Just(None), Just(Some(Towards::Server)), Just(Some(Towards::Client))];
    let lasting = (time(), fault(), towards, proptest::option::of(time()))
        .prop_map(|(at, fault, towards, lasts)| ScriptEvent { at, fault, towards, lasts });
    let fault = Fault::ChangeClientPort;
    let at_once = time().prop_map(move |at| ScriptEvent { at, fault, towards: None, lasts: None });
    prop_oneof![9 => lasting, 1 => at_once]
}

proptest! {
    #[test]
    fn a_script_is_read_back_as_it_was_written(
        events in proptest::collection::vec(event(), 0..8),
    ) {
        let script = Script::new(events);
        let text = script.to_string();
        prop_assert_eq!(text.parse::<Script>(), Ok(script), "{}", text);
    }

    /// Spaces between numbers and their units, comments and line ends are free.
    #[test]
    fn the_same_text_in_another_shape_is_the_same_script(
        events in proptest::collection::vec(event(), 0..8),
    ) {
        let script = Script::new(events);
        let text = script.to_string();
        let dense = text.replace(" %", "%").replace(": ", ":").replace('\n', ";");
        prop_assert_eq!(dense.parse::<Script>(), Ok(script.clone()), "{}", dense);
        let airy = text.replace(' ', "  \t").replace('\n', " # that\n\n  ");
        prop_assert_eq!(airy.parse::<Script>(), Ok(script), "{}", airy);
    }

    #[test]
    fn whatever_is_no_script_is_refused_without_a_panic(text in "[a-z0-9 :.%;,/]{0,60}") {
        if let Ok(script) = text.parse::<Script>() {
            prop_assert_eq!(script.to_string().parse::<Script>(), Ok(script));
        }
    }

    /// The oracle: the conditions, field by field, of the last event that is on.
    #[test]
    fn of_all_events_that_are_on_the_last_one_wins(
        events in proptest::collection::vec(event(), 0..8),
        elapsed in time(),
        set in fault(),
    ) {
        let script = Script::new(events.clone());
        let set = set.applied_to(Conditions::default());
        let holds = script.conditions_at(elapsed, Towards::Server, set);
        let mut sorted = events;
        sorted.sort_by_key(|event| event.at);
        let mut expected = set;
        for event in sorted {
            let ends = event.lasts.map(|lasts| event.at + lasts);
            let on = event.at <= elapsed && ends.is_none_or(|end| elapsed < end);
            if !on || event.towards == Some(Towards::Client) {
                continue;
            }
            match event.fault {
                Fault::Lose(loss) => expected.loss = loss,
                Fault::Delay { delay, jitter } => {
                    expected.delay = delay;
                    expected.jitter = jitter;
                }
                Fault::Reorder { share, by } => {
                    expected.reorder = share;
                    expected.reorder_by = by;
                }
                Fault::Duplicate(share) => expected.duplicate = share,
                Fault::Corrupt(share) => expected.corrupt = share,
                Fault::Limit(limit) => expected.limit = Some(limit),
                Fault::Mtu(mtu) => expected.mtu = Some(mtu),
                Fault::BlackHole => expected.black_hole = true,
                Fault::PassEverything => expected = Conditions::default(),
                Fault::ChangeClientPort => {}
            }
        }
        prop_assert_eq!(holds, expected);
    }
}

#[test]
fn what_holds_before_during_and_after() {
    let script: Script = "at 2 s: lose 30 % towards the server for 5 s".parse().unwrap();
    let loss = |seconds, towards| {
        script.conditions_at(Duration::from_secs(seconds), towards, Conditions::default()).loss
    };
    let thirty = Loss::Independent(Share::percent(30));
    assert_eq!(loss(1, Towards::Server), Loss::None);
    assert_eq!(loss(2, Towards::Server), thirty);
    assert_eq!(loss(6, Towards::Server), thirty);
    assert_eq!(loss(7, Towards::Server), Loss::None);
    assert_eq!(loss(4, Towards::Client), Loss::None);
    assert_eq!(script.lasts(), Duration::from_secs(7));
}

#[test]
fn a_burst_is_written_as_what_it_comes_to() {
    let script: Script = "at 0 s: lose 20 % in bursts of 4".parse().unwrap();
    let model = GilbertElliott::bursts(Share::percent(20), 4);
    assert_eq!(script.events()[0].fault, Fault::Lose(Loss::Bursts(model)));
    assert_eq!(model.turns_good, Share::percent(25));
    assert_eq!(model.turns_bad, Share::millionths(62_500));
}

#[test]
fn port_changes_are_found_by_their_time() {
    let text = "at 1 s: change the client's port; at 3 s: change the client's port";
    let script: Script = text.parse().unwrap();
    let second = Duration::from_secs(1);
    assert_eq!(script.port_changes(Duration::ZERO, second), 0);
    assert_eq!(script.port_changes(second, second * 3), 1);
    assert_eq!(script.port_changes_from(second * 2).next(), Some(second * 3));
}

#[test]
fn an_error_says_where_what_and_what_to_write() {
    let said = |text: &str| text.parse::<Script>().unwrap_err().to_string();
    for (text, expected) in [
        ("lose 30 %", "line 1 of the script: found `lose 30 %`; write when it begins first"),
        ("\nat 2 s: loose 30 %", "line 2 of the script: found `loose 30 %`; write a fault: `lose"),
        ("at 2: lose 30 %", "found `2 : lose`; write a time with its unit, as in `2 s`"),
        ("at 2 s lose 30 %", "found `lose 30 %`; write a `:` behind the time"),
        ("at 2 s: lose 130 %", "found `130 %`; write a share from `0 %` to `100 %`"),
        ("at 2 s: lose 30", "found `30`; write a share"),
        ("at 2 s: lose 30 % in bursts of 0", "found `0`; write how many in a row"),
        ("at 2 s: mtu 1280", "found `1280`; write whole bytes with their unit"),
        ("at 2 s: mtu 64 KiB", "write at most `65535 B`"),
        ("at 2 s: limit 1 MiB queue 1 KiB", "found `queue 1 KiB`; write the rate and the queue"),
        ("at 2 s: black hole towards us", "write `towards the server` or `towards the client`"),
        ("at 2 s: black hole for", "it ends at the end of the event; write a time"),
        ("at 2 s: black hole for 1 s at 3 s", "write nothing more behind it"),
        (
            "at 2 s: black hole at 3 s",
            "write `towards the server`, `towards the client`, `for 5 s`",
        ),
        ("at 2 s: change the client's port for 2 s", "it has no direction and no end"),
        ("at 2 s:", "it ends at the end of the event; write a fault"),
    ] {
        assert!(said(text).contains(expected), "{text:?}: {}", said(text));
    }
}
