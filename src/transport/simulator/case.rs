//! What a case is made of.

use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::config::Limits;
use crate::transport::link::lanes::Lane;

/// What fails on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    None,
    /// Streams are given up.
    Resets,
    /// Submissions are refused.
    Refusals,
}

/// Who reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// One reader of all lanes, one frame at a time.
    All,
    /// The same, many at a time.
    Many,
    /// A reader for each lane.
    Lanes,
    /// Readers by message.
    Messages,
    /// A subscriber.
    Subscriber,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) limits: Limits,
    /// The lengths of the frames of each end, by lane.
    pub(super) frames: [[Vec<usize>; 3]; 2],
    pub(super) reading: [Reading; 2],
    pub(super) trouble: Trouble,
    /// How fast the link is; without it a step takes no time.
    pub(super) bytes_a_second: Option<u32>,
    /// How often the tasks have their turn before the link.
    pub(super) tasks_first: f64,
    /// The most bytes that go at a time.
    step_bytes_max: usize,
}

impl Case {
    pub(super) fn of(random: &mut StdRng) -> Self {
        let trouble = *[Trouble::None, Trouble::None, Trouble::Resets, Trouble::Refusals]
            .choose(random)
            .unwrap_or(&Trouble::None);
        let limits = limits(random);
        let reading =
            [Reading::All, Reading::Many, Reading::Lanes, Reading::Messages, Reading::Subscriber];
        let reading = [(); 2].map(|()| *reading.choose(random).unwrap_or(&Reading::All));
        // What names a frame needs so many bytes of it.
        let least = if trouble == Trouble::None { 1 } else { 9 };
        let frames = [(); 2].map(|()| {
            let both = random.random_bool(0.7);
            [Lane::Control, Lane::Data, Lane::Bulk].map(|lane| {
                let most = match lane {
                    Lane::Control => limits.frame_bytes_max.min(limits.control_lane_bytes_max),
                    Lane::Data | Lane::Bulk => limits.frame_bytes_max,
                };
                if most < least || !(both || lane == Lane::Data) {
                    return Vec::new();
                }
                let count = *[0, 1, 3, 10, 40].choose(random).unwrap_or(&1);
                let count = if most > 50_000 { count / 4 } else { count };
                (0..count).map(|_| length(random, least, most)).collect()
            })
        });
        // Lanes whose pieces take longer than they may stand still are cut, and rightly.
        let slowest = if limits.frame_bytes_max > 300_000 { 500_000 } else { 30_000 };
        let slow = random.random_bool(0.2);
        Self {
            bytes_a_second: slow.then(|| random.random_range(slowest..4_000_000)),
            tasks_first: *[0.05, 0.3, 0.8].choose(random).unwrap_or(&0.3),
            step_bytes_max: *[40, 1_500, 70_000, 4 << 20].choose(random).unwrap_or(&1_500),
            limits,
            frames,
            reading,
            trouble,
        }
    }

    /// How many bytes go in one step.
    pub(super) fn size(&self, random: &mut StdRng) -> usize {
        // A large frame in tiny steps takes too long and shows no more.
        let least = self.limits.frame_bytes_max / 500;
        if random.random_bool(0.1) {
            return random.random_range(1..5) + least;
        }
        random.random_range(1..=self.step_bytes_max) + least
    }
}

fn length(random: &mut StdRng, least: usize, most: usize) -> usize {
    match random.random_range(0..10) {
        0..6 => random.random_range(least..=most.min(200).max(least)),
        6..8 => random.random_range(least..=most.min(20_000).max(least)),
        8 => random.random_range(least..=most),
        _ => most,
    }
}

fn limits(random: &mut StdRng) -> Limits {
    let mut bytes = |choices: &[usize]| *choices.choose(random).unwrap_or(&(1 << 20));
    let frame_seconds = bytes(&[1, 12]) as u64;
    let limits = Limits {
        // Readers here are slow, and windows small: what is sent at once is acknowledged late.
        lane_stall_time_max: Duration::from_secs(200),
        frame_time_max: Duration::from_secs(frame_seconds),
        frame_bytes_max: bytes(&[1, 20, 1_000, 5_000, 70_000, 300_000, 2 << 20]),
        lane_bytes_max: bytes(&[1 << 10, 10_000, 200_000, 4 << 20]),
        control_lane_bytes_max: bytes(&[1 << 10, 64 << 10]),
        node_send_bytes_max: bytes(&[1 << 10, 300_000, 10 << 20]),
        inbound_bytes_max: bytes(&[1 << 10, 10_000, 200_000, 4 << 20]),
        node_receive_bytes_max: bytes(&[1 << 10, 300_000, 64 << 20]),
        node_large_bytes_max: bytes(&[1 << 10, 500_000, 128 << 20]),
        window_bytes_max: bytes(&[64 << 10, 1 << 20, 16 << 20]),
        ..Limits::default()
    };
    limits.validate().expect("limits that can work");
    limits
}

/// The frame with this number: its first byte tells the lane, those behind it the number.
pub(super) fn frame(lane: Lane, number: u64, length: usize) -> Bytes {
    let mut frame = vec![number as u8; length];
    if let Some(first) = frame.first_mut() {
        *first = lane as u8;
    }
    if length >= 9 {
        frame[1..9].copy_from_slice(&number.to_be_bytes());
    }
    frame.into()
}

pub(super) fn lane_of(frame: &Bytes) -> Option<Lane> {
    frame.first().and_then(|first| Lane::try_from(*first).ok())
}
