//! The end of the ring: every item is hashed as it arrives and compared.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::progress::Progress;
use super::source::{DATA, END, FILLER, HEADER_BYTES, Hashes};

/// How far the ring has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Arrived {
    /// Items that ended, good or bad.
    pub items: u32,
    pub bytes: u64,
    /// What was wrong, in words.
    pub faults: Vec<String>,
}

/// Takes frames and publishes [`Arrived`].
pub(super) struct Sink {
    hashes: Hashes,
    progress: Progress,
    arrived: watch::Sender<Arrived>,
    item: u32,
    hasher: Sha256,
}

impl Sink {
    pub(super) fn new(hashes: Hashes, progress: Progress) -> (Self, watch::Receiver<Arrived>) {
        let (arrived, receiver) = watch::channel(Arrived::default());
        (Self { hashes, progress, arrived, item: 0, hasher: Sha256::new() }, receiver)
    }

    pub(super) fn take(&mut self, frame: &Bytes) {
        let kind = frame.first().copied();
        if kind == Some(FILLER) {
            return;
        }
        let index = frame.get(1..HEADER_BYTES).and_then(|bytes| bytes.try_into().ok());
        match (kind, index.map(u32::from_be_bytes)) {
            (Some(DATA), Some(index)) if index == self.item => self.data(&frame[HEADER_BYTES..]),
            (Some(END), Some(index)) if index == self.item => self.end(),
            (kind, index) => {
                let expected = self.item;
                self.fault(format!("frame {kind:?} of item {index:?} came during item {expected}"));
            }
        }
    }

    fn data(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.progress.add(bytes.len() as u64);
        self.arrived.send_modify(|arrived| arrived.bytes += bytes.len() as u64);
    }

    fn end(&mut self) {
        let hash = std::mem::take(&mut self.hasher).finalize();
        if self.hashes.of(self.item) != Some(hash.into()) {
            self.fault(format!("item {} arrived with another SHA-256", self.item));
        }
        self.item += 1;
        self.arrived.send_modify(|arrived| arrived.items += 1);
    }

    fn fault(&self, fault: String) {
        self.arrived.send_modify(|arrived| arrived.faults.push(fault));
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::{Item, frames};
    use super::*;

    fn all_frames(hashes: &Hashes) -> Vec<Bytes> {
        let items = vec![Item::Generated { bytes: 300_000 }, Item::Generated { bytes: 0 }];
        let mut receiver = frames(items, 0, hashes.clone()).unwrap();
        let mut all = Vec::new();
        while let Some(frame) = receiver.blocking_recv() {
            all.push(frame.unwrap());
        }
        all
    }

    fn arrived_of(frames: &[Bytes], hashes: Hashes) -> Arrived {
        let (mut sink, arrived) = Sink::new(hashes, Progress::silent());
        frames.iter().for_each(|frame| sink.take(frame));
        arrived.borrow().clone()
    }

    #[test]
    fn items_that_arrive_as_they_were_have_no_fault() {
        let hashes = Hashes::default();
        let mut frames = all_frames(&hashes);
        frames.insert(1, Bytes::from_static(&[FILLER]));
        let arrived = arrived_of(&frames, hashes);
        assert_eq!(arrived, Arrived { items: 2, bytes: 300_000, faults: Vec::new() });
    }

    #[test]
    fn a_changed_byte_a_lost_frame_and_a_broken_one_are_faults() {
        let hashes = Hashes::default();
        let good = all_frames(&hashes);
        let mut changed = good.clone();
        let mut bytes = changed[0].to_vec();
        bytes[99] ^= 1;
        changed[0] = bytes.into();
        let lost: Vec<_> = good[1..].to_vec();
        let broken: Vec<_> = [&good[..], &[Bytes::from_static(&[DATA, 0])]].concat();
        for frames in [changed, lost, broken] {
            assert_eq!(arrived_of(&frames, hashes.clone()).faults.len(), 1);
        }
    }
}
