//! Each model in every order, and each planted fault found in one.

use std::process::Command;

/// A test for each model of a module.
macro_rules! models {
    ($($module:ident: $($model:ident)*;)*) => {
        $(mod $module {
            $(#[test]
            fn $model() {
                moorline_loom::$module::$model();
            })*
        })*
    };
}

models! {
    watches:
        what_is_on_its_way_is_watched
        an_owner_that_comes_learns_what_is_on_its_way;
    rooms:
        who_waits_for_room_has_it_in_the_end
        what_is_acknowledged_is_had_by_who_waits
        who_gives_up_takes_nothing_along
        who_waits_in_another_task_is_woken_there
        who_waits_is_told_of_the_end
        who_waits_at_the_node_has_its_room_in_the_end
        who_gives_up_behind_a_large_frame_takes_nothing_along
        who_gives_up_at_the_node_takes_nothing_along
        who_waits_at_the_node_is_told_of_the_end
        room_that_comes_with_the_end_goes_back
        no_frame_is_left_behind;
    readers:
        who_waits_for_a_frame_gets_it
        a_wake_up_is_passed_on
        a_reader_of_a_lane_and_one_of_all_get_a_frame_each
        a_reader_that_goes_leaves_its_turn_to_another
        who_waits_is_told_of_the_end_behind_the_last_frame
        who_reads_a_stream_learns_its_end
        who_asks_by_message_is_given_a_frame
        who_delivers_sees_what_comes_meanwhile
        a_frame_for_one_that_is_gone_is_given_to_another
        who_waits_has_what_one_that_is_gone_hands_back
        who_waits_is_refused_when_a_subscriber_comes
        a_subscriber_and_a_reader_share_no_frame
        a_frame_that_begins_is_watched;
    tellers:
        what_is_taken_while_a_word_arrives_is_told
        what_two_take_is_told
        what_is_taken_while_it_is_looked_is_told
        what_is_taken_while_this_side_speaks_is_told;
}

/// In a process of its own: who waits for ever cannot even be dropped.
fn find(fault: &str, model: &str, expected: &str) {
    let program = std::env::current_exe().expect("the program that runs");
    let mut command = Command::new(program);
    command.args(["--exact", "--nocapture", model]);
    command.env("MOORLINE_PLANTED", fault).env("RUST_BACKTRACE", "0");
    let output = command.output().expect("a child");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(expected), "{fault}: {said}");
}

#[test]
fn each_fault_that_is_planted_is_found() {
    find("WatchRestsWithoutALook", "watches::what_is_on_its_way_is_watched", "nobody looks");
    find("WakerComesBehindTheLook", "rooms::who_waits_in_another_task_is_woken_there", "deadlock");
    find("ShutMissesWhoComes", "rooms::who_waits_at_the_node_is_told_of_the_end", "deadlock");
    find("ReaderLooksBeforeItWaits", "readers::who_waits_for_a_frame_gets_it", "deadlock");
    find(
        "DeliveryEndsBehindItsLook",
        "readers::who_delivers_sees_what_comes_meanwhile",
        "assertion",
    );
    find(
        "TellerLooksBeforeItRests",
        "tellers::what_is_taken_while_a_word_arrives_is_told",
        "nobody tells",
    );
}
