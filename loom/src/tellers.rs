//! What is taken of a session is told to its peer, whoever takes it when.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use loom::thread;

use super::teller::{Hears, Teller, Word};
use crate::lock::lock;
use crate::played::{AtomicBool, Mutex};
use crate::polling::play;
use crate::session::telling::LOOK;

/// A session with one flow.
struct Session {
    began: Instant,
    teller: Teller,
    flow: Mutex<Flow>,
    /// A word is on its way.
    word: AtomicBool,
    /// The session is looked at in a while.
    listed: AtomicBool,
}

#[derive(Default)]
struct Flow {
    taken: u64,
    told: u64,
}

impl Session {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            teller: Teller::default(),
            flow: Mutex::new(Flow::default()),
            word: AtomicBool::new(false),
            listed: AtomicBool::new(false),
        })
    }

    /// One of which a word is on its way that told of many frames, so that what comes next gathers.
    fn busy() -> Arc<Self> {
        let it = Self::new();
        lock(&it.flow).taken = 20;
        it.tell(LOOK * 0);
        assert!(it.word.load(Ordering::Acquire));
        it
    }

    /// As a reader does.
    fn take(&self, time: Duration) {
        let is_due = {
            let mut flow = lock(&self.flow);
            flow.taken += 1;
            !self.teller.waits() && flow.taken > flow.told
        };
        if is_due {
            self.tell(time);
        }
    }

    fn tell(&self, time: Duration) {
        let now = self.began + time;
        assert!(self.teller.tell(now, || Some(self)).is_ok());
    }

    fn word_comes(&self, time: Duration) {
        if self.word.swap(false, Ordering::AcqRel) {
            self.teller.came();
            self.tell(time);
        }
    }

    fn look(&self, time: Duration) {
        if self.listed.swap(false, Ordering::AcqRel) {
            self.teller.look();
            self.tell(time);
        }
    }

    /// With nobody taking any more, all is told in the end.
    fn expect_told(&self, mut time: Duration) {
        while self.word.load(Ordering::Acquire) || self.listed.load(Ordering::Acquire) {
            time += LOOK;
            self.word_comes(time);
            self.look(time);
        }
        let flow = lock(&self.flow);
        assert_eq!(flow.told, flow.taken, "nobody tells what was taken");
    }
}

impl Hears for &Session {
    fn gathered(&self) -> (u64, bool) {
        let flow = lock(&self.flow);
        (flow.taken - flow.told, false)
    }

    fn tell(&self, _: Word) -> bool {
        let mut flow = lock(&self.flow);
        flow.told = flow.taken;
        self.word.store(true, Ordering::Release);
        true
    }

    fn look_later(&self) {
        self.listed.store(true, Ordering::Release);
    }
}

/// A reader, and the word before.
pub fn what_is_taken_while_a_word_arrives_is_told() {
    play(|| {
        let it = Session::busy();
        let reading = Arc::clone(&it);
        let takes = thread::spawn(move || reading.take(LOOK));
        it.word_comes(LOOK);
        takes.join().unwrap();
        it.expect_told(LOOK);
    });
}

/// Two readers, of whom one finds nothing to wait for.
pub fn what_two_take_is_told() {
    play(|| {
        let it = Session::new();
        it.tell(LOOK);
        let [first, second] = [(); 2].map(|()| {
            let reading = Arc::clone(&it);
            thread::spawn(move || reading.take(LOOK))
        });
        first.join().unwrap();
        second.join().unwrap();
        it.expect_told(LOOK);
    });
}

/// A reader, and who looks at what gathered.
pub fn what_is_taken_while_it_is_looked_is_told() {
    play(|| {
        let it = Session::busy();
        it.word_comes(LOOK);
        it.take(LOOK);
        assert!(it.listed.load(Ordering::Acquire), "it gathers");
        let reading = Arc::clone(&it);
        let takes = thread::spawn(move || reading.take(LOOK * 2));
        it.look(LOOK * 2);
        takes.join().unwrap();
        it.expect_told(LOOK * 2);
    });
}

/// A reader, and who answers meanwhile.
pub fn what_is_taken_while_this_side_speaks_is_told() {
    play(|| {
        let it = Session::new();
        it.tell(LOOK);
        let answering = Arc::clone(&it);
        let answers = thread::spawn(move || answering.teller.spoke());
        it.take(LOOK);
        answers.join().unwrap();
        it.expect_told(LOOK);
    });
}
