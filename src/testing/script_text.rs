//! The text of a script, read.

use std::str::FromStr;
use std::time::Duration;

use super::conditions::{GilbertElliott, Loss, RateLimit, Towards};
use super::fault::Fault;
use super::script::{Script, ScriptEvent};
use super::share::Share;
use super::text;

/// A script that nobody understands: where, what stands there, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the script: {} {found}; write {expected}", if .found == END { "it ends at the" } else { "found" })]
pub struct ScriptError {
    line: usize,
    found: String,
    expected: String,
}

impl ScriptError {
    /// Counted from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.line
    }
}

/// What is found where nothing more stands.
const END: &str = "end of the event";

const FAULTS: &str = "a fault: `lose 30 %`, `delay 40 ms`, `reorder 10 % by 5 ms`, `duplicate 5 %`, \
                      `corrupt 1 %`, `limit 1 MiB/s queue 64 KiB`, `mtu 1280 B`, `black hole`, \
                      `pass everything` or `change the client's port`";

const SHARE: &str = "a share from `0 %` to `100 %`, with at most four places";

impl FromStr for Script {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Self, ScriptError> {
        let mut events = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let code = line.split('#').next().unwrap_or_default();
            for event in code.split(';').filter(|event| !event.trim().is_empty()) {
                events.push(Words::of(event, index + 1).event()?);
            }
        }
        Ok(Self::new(events))
    }
}

/// The words of one event; a number and its unit are two, also without a space between.
struct Words<'a> {
    line: usize,
    words: Vec<&'a str>,
    next: usize,
}

type Read<T> = Result<T, ScriptError>;

impl<'a> Words<'a> {
    fn of(event: &'a str, line: usize) -> Self {
        let mut words = Vec::new();
        for mut word in event.split_whitespace() {
            while let Some(end) = piece_end(word) {
                let (piece, rest) = word.split_at(end);
                words.push(piece);
                word = rest;
            }
            words.push(word);
        }
        Self { line, words, next: 0 }
    }

    fn event(mut self) -> Read<ScriptEvent> {
        self.expect("at", "when it begins first, as in `at 2 s: lose 30 %`")?;
        let at = self.time()?;
        self.expect(":", "a `:` behind the time, as in `at 2 s: lose 30 %`")?;
        let fault = self.fault()?;
        let towards = self.takes("towards").then(|| self.towards()).transpose()?;
        let lasts = self.takes("for").then(|| self.time()).transpose()?;
        let more = match (towards, lasts) {
            (None, None) => "`towards the server`, `towards the client`, `for 5 s` or nothing",
            (Some(_), None) => "`for 5 s` or nothing",
            (_, Some(_)) => "nothing more behind it: the next event has a line of its own",
        };
        if self.next < self.words.len() {
            return Err(self.error(more));
        }
        if fault == Fault::ChangeClientPort && (towards.is_some() || lasts.is_some()) {
            self.next = self.words.len();
            return Err(
                self.error("`change the client's port` alone: it has no direction and no end")
            );
        }
        Ok(ScriptEvent { at, fault, towards, lasts })
    }

    fn fault(&mut self) -> Read<Fault> {
        let word = self.words.get(self.next).copied();
        self.next += 1;
        match word {
            Some("lose") => self.loss().map(Fault::Lose),
            Some("delay") => {
                let delay = self.time()?;
                let jitter = self.takes("jitter").then(|| self.time()).transpose()?;
                Ok(Fault::Delay { delay, jitter: jitter.unwrap_or_default() })
            }
            Some("reorder") => {
                let share = self.share()?;
                self.expect("by", "how late they come, as in `reorder 10 % by 5 ms`")?;
                Ok(Fault::Reorder { share, by: self.time()? })
            }
            Some("duplicate") => self.share().map(Fault::Duplicate),
            Some("corrupt") => self.share().map(Fault::Corrupt),
            Some("limit") => self.limit().map(Fault::Limit),
            Some("mtu") => {
                let bytes = self.size()?;
                let bytes = u16::try_from(bytes).ok();
                bytes.map(Fault::Mtu).ok_or_else(|| self.error_before("at most `65535 B`"))
            }
            Some("black") => self.rest(&["hole"], "`black hole`", Fault::BlackHole),
            Some("pass") => self.rest(&["everything"], "`pass everything`", Fault::PassEverything),
            Some("change") => {
                let whole = "`change the client's port`";
                self.rest(&["the", "client's", "port"], whole, Fault::ChangeClientPort)
            }
            _ => {
                self.next -= 1;
                Err(self.error(FAULTS))
            }
        }
    }

    fn loss(&mut self) -> Read<Loss> {
        let share = self.share()?;
        if self.takes("in") {
            self.rest(&["bursts", "of"], "`in bursts of 8`", ())?;
            let length = self.word().and_then(|word| word.parse().ok()).filter(|it| *it > 0);
            let length = length.ok_or_else(|| self.error_before("how many in a row, as in `8`"))?;
            return Ok(Loss::Bursts(GilbertElliott::bursts(share, length)));
        }
        if !self.takes("when") {
            return Ok(if share == Share::NONE { Loss::None } else { Loss::Independent(share) });
        }
        let whole = "`lose 0 % when good, 80 % when bad, turns bad 2 %, turns good 25 %`";
        self.rest(&["good", ","], whole, ())?;
        let loss_when_bad = self.share()?;
        self.rest(&["when", "bad", ",", "turns", "bad"], whole, ())?;
        let turns_bad = self.share()?;
        self.rest(&[",", "turns", "good"], whole, ())?;
        let turns_good = self.share()?;
        let loss_when_good = share;
        Ok(Loss::Bursts(GilbertElliott { turns_bad, turns_good, loss_when_good, loss_when_bad }))
    }

    fn limit(&mut self) -> Read<RateLimit> {
        let whole = "the rate and the queue, as in `limit 1 MiB/s queue 64 KiB`";
        let bytes_a_second = self.size()?;
        self.rest(&["/s", "queue"], whole, ())?;
        Ok(RateLimit { bytes_a_second, queue_bytes: self.size()? })
    }

    fn towards(&mut self) -> Read<Towards> {
        let whole = "`towards the server` or `towards the client`";
        self.expect("the", whole)?;
        if self.takes("server") {
            return Ok(Towards::Server);
        }
        self.rest(&["client"], whole, Towards::Client)
    }

    fn time(&mut self) -> Read<Duration> {
        self.number_and_unit(text::TIME, text::time)
    }

    fn size(&mut self) -> Read<u64> {
        self.number_and_unit(text::SIZE, text::size)
    }

    fn share(&mut self) -> Read<Share> {
        let read = |number: &str, unit: &str| format!("{number} {unit}").parse().ok();
        self.number_and_unit(SHARE, read)
    }

    fn number_and_unit<T>(
        &mut self,
        expected: &str,
        read: impl FnOnce(&str, &str) -> Option<T>,
    ) -> Read<T> {
        let [Some(number), Some(unit)] = [0, 1].map(|ahead| self.words.get(self.next + ahead))
        else {
            return Err(self.error(expected));
        };
        let value = read(number, unit).ok_or_else(|| self.error(expected))?;
        self.next += 2;
        Ok(value)
    }

    fn word(&mut self) -> Option<&'a str> {
        let word = self.words.get(self.next).copied();
        self.next += 1;
        word
    }

    fn takes(&mut self, word: &str) -> bool {
        let is = self.words.get(self.next) == Some(&word);
        self.next += usize::from(is);
        is
    }

    fn expect(&mut self, word: &str, expected: &str) -> Read<()> {
        if self.takes(word) { Ok(()) } else { Err(self.error(expected)) }
    }

    /// These words, and then that is read.
    fn rest<T>(&mut self, words: &[&str], expected: &str, read: T) -> Read<T> {
        for word in words {
            self.expect(word, expected)?;
        }
        Ok(read)
    }

    /// About what stands next.
    fn error(&self, expected: &str) -> ScriptError {
        let left = self.words.get(self.next..).unwrap_or_default();
        let found = match left {
            [] => END.to_owned(),
            left => format!("`{}`", left[..left.len().min(3)].join(" ")),
        };
        ScriptError { line: self.line, found, expected: expected.to_owned() }
    }

    /// About the word that was just taken.
    fn error_before(&mut self, expected: &str) -> ScriptError {
        self.next -= 1;
        self.error(expected)
    }
}

/// Where a word falls into two: between a number and its unit, before `:`, `,` and `/`.
fn piece_end(word: &str) -> Option<usize> {
    let first = word.chars().next()?;
    let end = if first.is_ascii_digit() {
        word.find(|c: char| !c.is_ascii_digit() && c != '.')
    } else if matches!(first, ':' | ',' | '%') {
        Some(1)
    } else {
        word.char_indices().skip(1).find(|(_, c)| matches!(c, ':' | ',' | '/')).map(|(at, _)| at)
    };
    end.filter(|end| *end < word.len())
}
