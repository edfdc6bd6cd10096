//! What a connector does, as scripts of what happened.

use std::time::Duration;

use super::*;

/// What is to be done, in one letter each; the letters in front of it are the inputs.
struct Script {
    machine: Machine,
    now: Instant,
}

/// A time that `reset_after` calls long.
const LONG: Duration = Duration::from_secs(10);

const FAILED: (Outlook, bool) = (Outlook::Passes, false);

impl Script {
    fn new(redial: Redial) -> Self {
        Self::after(redial, None)
    }

    fn after(redial: Redial, before: Option<bool>) -> Self {
        let machine = Machine::new(redial, BackoffSettings::default(), before).unwrap();
        Self { machine, now: Instant::now() }
    }

    fn next(&mut self, input: Input) -> Vec<Effect> {
        self.machine.next(input, self.now, 0.5)
    }

    /// What is to be done, with the numbers left out.
    fn does(&mut self, input: Input) -> String {
        names(&self.next(input)).join(", ")
    }

    fn asked(&mut self, redial: Redial) -> String {
        self.asked_where(redial, true)
    }

    fn asked_where(&mut self, redial: Redial, open: bool) -> String {
        let Asked { answer, effects } = self.machine.asked(redial, open);
        let answer = match answer {
            Answer::Give => "give",
            Answer::Queue => "queue",
            Answer::PassOn => "pass on",
        };
        [vec![answer.to_owned()], names(&effects)].concat().join(", ")
    }

    fn fails(&mut self, (outlook, stopping): (Outlook, bool)) -> String {
        let generation = self.machine.generation;
        self.does(Input::Failed { generation, outlook, stopping })
    }

    fn stands(&mut self, epoch: u64) -> String {
        self.does(Input::Stood { epoch, dialled: true })
    }

    fn is_over(&mut self, epoch: u64, end: End, uptime: Duration) -> String {
        self.now += uptime;
        self.does(Input::Over { epoch, end })
    }

    fn is_due(&mut self) -> String {
        let generation = self.machine.generation;
        self.does(Input::Due { generation })
    }
}

fn names(effects: &[Effect]) -> Vec<String> {
    let name = |effect: &Effect| match effect {
        Effect::Give => "give".to_owned(),
        Effect::PassOn => "pass on".to_owned(),
        Effect::Tell { all: true } => "tell all".to_owned(),
        Effect::Tell { all: false } => "tell".to_owned(),
        Effect::Dial { .. } => "dial".to_owned(),
        Effect::Wait { delay, .. } => format!("wait {}", delay.as_millis()),
        Effect::Finish => "finish".to_owned(),
    };
    effects.iter().map(name).collect()
}

#[test]
fn a_first_dial_that_fails_is_tried_again_only_if_that_was_asked_for() {
    for (redial, does) in [
        (Redial::Never, "tell all, finish"),
        (Redial::WhenLost, "tell all, finish"),
        (Redial::Always, "tell, wait 250"),
    ] {
        let mut script = Script::new(redial);
        assert_eq!(script.asked(redial), "queue");
        assert_eq!(script.fails(FAILED), does, "{redial:?}");
    }
}

#[test]
fn what_trying_again_does_not_cure_is_told_to_all_and_ends_it() {
    for redial in [Redial::Never, Redial::WhenLost, Redial::Always] {
        for outlook in [Outlook::Never, Outlook::Final] {
            assert_eq!(Script::new(redial).fails((outlook, false)), "tell all, finish");
        }
    }
    // A connection has stood: who has the peer's address for a while does not end it.
    let mut script = Script::after(Redial::WhenLost, Some(true));
    assert_eq!(script.fails((Outlook::Never, false)), "tell all, wait 250");
    assert_eq!(script.is_due(), "dial");
    assert_eq!(script.fails((Outlook::Final, false)), "tell all, finish");
    // One that the peer had opened proves nothing of what is dialled.
    let mut script = Script::after(Redial::Always, Some(false));
    assert_eq!(script.fails((Outlook::Never, false)), "tell all, finish");
}

#[test]
fn a_node_that_ends_dials_no_more() {
    assert_eq!(Script::new(Redial::Always).fails((Outlook::Passes, true)), "tell all, finish");
}

#[test]
fn waits_grow_with_dials_that_fail_and_a_connection_forgives_them() {
    let mut script = Script::new(Redial::Always);
    for wait in [250, 400, 640] {
        assert_eq!(script.fails(FAILED), format!("tell, wait {wait}"));
        assert_eq!(script.is_due(), "dial");
    }
    assert_eq!(script.stands(1), "give");
    assert_eq!(script.is_over(1, End::Lost, LONG), "wait 50", "at once, with jitter");
    assert_eq!(script.is_due(), "dial");
    assert_eq!(script.fails(FAILED), "tell, wait 250");
}

#[test]
fn only_a_peer_that_drops_every_connection_soon_is_waited_for() {
    let mut script = Script::new(Redial::WhenLost);
    let mut waits = Vec::new();
    for epoch in 1..=6 {
        assert_eq!(script.stands(epoch), "give");
        waits.push(script.is_over(epoch, End::Lost, Duration::from_secs(2)));
        assert_eq!(script.is_due(), "dial");
    }
    assert_eq!(waits, ["wait 50", "wait 50", "wait 50", "wait 250", "wait 400", "wait 640"]);
}

#[test]
fn a_caller_ends_the_wait_and_so_does_the_peer_that_comes_by_itself() {
    for called in [true, false] {
        let mut script = Script::new(Redial::Always);
        script.fails(FAILED);
        let stale = script.machine.generation;
        if called {
            assert_eq!(script.asked_where(Redial::WhenLost, false), "queue, dial");
        } else {
            assert_eq!(script.does(Input::PeerCame), "dial");
        }
        assert_eq!(script.does(Input::Due { generation: stale }), "", "the timer is stale");
        assert_eq!(script.does(Input::PeerCame), "", "one dial at a time");
        assert_eq!(script.asked(Redial::WhenLost), "queue");
    }
    let mut script = Script::new(Redial::Always);
    script.fails(FAILED);
    assert_eq!(script.does(Input::Stood { epoch: 9, dialled: false }), "give");
    assert_eq!(script.asked(Redial::WhenLost), "give");
    assert_eq!(script.is_over(9, End::Lost, LONG), "wait 50");
}

#[test]
fn a_connection_that_ends_on_purpose_or_for_good_is_not_dialled_again() {
    for (end, does) in [(End::Wanted, "pass on, finish"), (End::Final, "tell all, finish")] {
        let mut script = Script::new(Redial::Always);
        script.stands(1);
        assert_eq!(script.is_over(1, end, LONG), does);
        assert_eq!(script.asked(Redial::Always), "pass on", "to the next connector");
        assert_eq!(script.is_due(), "");
    }
}

#[test]
fn what_comes_of_an_earlier_dial_wait_or_connection_changes_nothing() {
    let mut script = Script::new(Redial::Always);
    assert_eq!(script.stands(1), "give");
    let (outlook, stopping) = FAILED;
    assert_eq!(script.does(Input::Failed { generation: 0, outlook, stopping }), "");
    assert_eq!(script.is_over(7, End::Wanted, LONG), "");
    assert_eq!(script.is_over(1, End::Lost, LONG), "wait 50");
    assert_eq!(script.is_over(1, End::Lost, LONG), "");
    assert!(!script.machine.is_dialling(script.machine.generation));
}

#[test]
fn a_single_attempt_ends_with_its_connection_or_its_callers() {
    let mut script = Script::new(Redial::Never);
    assert_eq!(script.stands(1), "give, finish");
    let mut script = Script::new(Redial::Never);
    assert_eq!(script.does(Input::CallersGone), "finish");
    assert_eq!(script.does(Input::Stood { epoch: 1, dialled: true }), "");
    // What is kept is kept for nobody in particular.
    assert_eq!(Script::new(Redial::WhenLost).does(Input::CallersGone), "");
}

#[test]
fn a_target_that_is_disconnected_tells_who_waits_and_ends() {
    for waits in [false, true] {
        let mut script = Script::new(Redial::Always);
        if waits {
            script.fails(FAILED);
        }
        assert_eq!(script.does(Input::Stop), "tell all, finish");
        assert_eq!(script.is_due(), "");
        assert_eq!(script.asked(Redial::WhenLost), "pass on");
    }
}

#[test]
fn a_caller_between_the_end_and_the_word_of_it_waits_for_the_next_connection() {
    let mut script = Script::new(Redial::WhenLost);
    script.stands(1);
    assert_eq!(script.asked_where(Redial::WhenLost, false), "queue");
    assert_eq!(script.is_over(1, End::Wanted, LONG), "pass on, finish");
}

#[test]
fn only_the_wish_of_this_sides_application_ends_the_work() {
    let local = |code| End::of(&CloseReason::Local { code });
    let peer = |code| End::of(&CloseReason::Peer { code });
    let application = CloseCode::APPLICATION;
    for code in [CloseCode::NORMAL, CloseCode::GOING_AWAY, CloseCode::FORBIDDEN, application] {
        assert_eq!(local(code), End::Wanted);
    }
    for code in [CloseCode::HALF_CLOSED, CloseCode::DROPPED, CloseCode::ACTOR_FAILED] {
        assert_eq!(local(code), End::Lost, "this side cut it, and nobody wished that");
    }
    for code in [CloseCode::NORMAL, CloseCode::GOING_AWAY, application] {
        assert_eq!(peer(code), End::Lost);
    }
    for code in [CloseCode::FORBIDDEN, CloseCode::APPLICATION_FINAL] {
        assert_eq!(peer(code), End::Final);
    }
    for reason in [CloseReason::TimedOut, CloseReason::Forgotten] {
        assert_eq!(End::of(&reason), End::Lost);
    }
}
