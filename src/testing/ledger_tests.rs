//! A ledger against a list of all that came.

use proptest::prelude::*;

use super::*;

/// What a network may do to a frame.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Comes,
    Lost,
    Excused,
    Twice,
    Damaged,
    /// Comes behind the next one.
    Late,
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = prop_oneof![
        6 => Just(Fate::Comes),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Excused),
        1 => Just(Fate::Twice),
        1 => Just(Fate::Damaged),
        1 => Just(Fate::Late),
    ];
    proptest::collection::vec(fate, 0..60)
}

proptest! {
    #[test]
    fn each_fault_is_found_and_no_other(fates in fates()) {
        let ledger = Ledger::new();
        let sender = ledger.sender("a");
        let stamps: Vec<_> = fates.iter().map(|_| sender.stamp(Lane::Bulk)).collect();
        let mut came: Vec<u64> = Vec::new();
        let (mut lost, mut damaged) = (Vec::new(), 0);
        let mut held: Option<u64> = None;
        for (stamp, fate) in stamps.iter().zip(&fates) {
            let released = held.take();
            match fate {
                Fate::Comes => came.push(stamp.number),
                Fate::Twice => came.extend([stamp.number; 2]),
                Fate::Lost => lost.push(stamp.number),
                Fate::Excused => ledger.excuse(*stamp),
                Fate::Damaged => {
                    let mut frame = stamp.frame(40).to_vec();
                    frame[35] ^= 1;
                    ledger.receive(&frame).unwrap_err();
                    lost.push(stamp.number);
                    damaged += 1;
                }
                Fate::Late => held = Some(stamp.number),
            }
            came.extend(released);
        }
        came.extend(held);
        for number in &came {
            ledger.receive(&stamps[*number as usize].frame(40)).unwrap();
        }

        let report = ledger.report();
        prop_assert_eq!(report.damaged, damaged);
        let clean = lost.is_empty()
            && fates.iter().all(|fate| matches!(fate, Fate::Comes | Fate::Excused | Fate::Late));
        let Some(flow) = report.flows.first() else { return Ok(()) };
        prop_assert_eq!(flow.lost.runs().flatten().collect::<Vec<_>>(), lost);
        let again = came.iter().enumerate().filter(|(at, it)| came[..*at].contains(it)).count();
        prop_assert_eq!(flow.again.count(), again as u64);
        let behind = |(at, it): &(usize, &u64)| {
            !came[..*at].contains(it) && came[..*at].iter().any(|before| before > it)
        };
        let out_of_order: Vec<_> = came.iter().enumerate().filter(behind).collect();
        prop_assert_eq!(flow.out_of_order.count(), out_of_order.len() as u64);
        prop_assert_eq!(report.is_clean(), clean && out_of_order.is_empty());
    }
}

#[test]
fn lanes_and_senders_are_numbered_by_themselves() {
    let ledger = Ledger::new();
    let (a, b) = (ledger.sender("a"), ledger.sender("b"));
    for (sender, lane) in [(&a, Lane::Data), (&a, Lane::Bulk), (&b, Lane::Data), (&a, Lane::Data)] {
        ledger.receive(&sender.frame(lane, 64)).unwrap();
    }
    let report = ledger.report();
    assert!(report.is_clean(), "{report}");
    let counts: Vec<_> =
        report.flows.iter().map(|flow| (&*flow.sender, flow.lane, flow.sent)).collect();
    assert_eq!(counts, [("a", Lane::Data, 2), ("a", Lane::Bulk, 1), ("b", Lane::Data, 1)]);
    assert_eq!(ledger.sender("b").stamp(Lane::Data).number, 1, "the same name goes on");
}

#[test]
fn a_frame_that_nobody_numbered_is_named() {
    let ledger = Ledger::new();
    ledger.receive(&Stamp::new(3, Lane::Data, 7).frame(64)).unwrap();
    ledger.receive(b"something else entirely, of some length").unwrap_err();
    let said = ledger.report().to_string();
    assert!(
        said.contains("unknown sender 3, data: 0 sent, 1 received; 1 never sent (7)"),
        "{said}"
    );
    assert!(said.contains("1 damaged; the last one: it does not begin as"), "{said}");
}

#[test]
fn what_another_process_sent_and_did_not_come_is_lost() {
    let ledger = Ledger::new();
    let of = |number| Stamp::new(0, Lane::Data, number);
    ledger.sent_elsewhere(of(9));
    for number in [0, 1, 2, 8, 9] {
        ledger.receive(&of(number).frame(64)).unwrap();
    }
    assert_eq!(ledger.report().flows[0].lost.to_string(), "3 to 7");
}

#[test]
fn memory_is_bounded_whatever_is_lost() {
    let ledger = Ledger::new();
    let sender = ledger.sender("a");
    for number in 0..20_000 {
        let stamp = sender.stamp(Lane::Data);
        if number % 2 == 0 {
            ledger.receive(&stamp.frame(STAMP)).unwrap();
        }
    }
    let report = ledger.report();
    assert!(!report.is_clean());
    assert!(report.to_string().contains("not all is known below"), "{report}");
    assert_eq!(report.flows[0].received, 10_000);
}

const STAMP: usize = super::super::stamp::STAMP_BYTES;
