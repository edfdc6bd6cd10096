//! What goes around the ring: the files of the repository and generated data, cut into frames.
//!
//! ```text
//! DATA  [1][item: u32][bytes]     END  [2][item: u32]     FILLER  [3][bytes, of no interest]
//! ```
//!
//! What an item hashes to stays here: the other end of the ring cannot get it from the ring.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::{BufMut, Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

pub(super) const DATA: u8 = 1;
pub(super) const END: u8 = 2;
pub(super) const FILLER: u8 = 3;

/// Kind and item in front of the bytes.
pub(super) const HEADER_BYTES: usize = 5;

/// Bytes of an item in one frame: large enough that frames cost little, small enough that the
/// nodes work at the same time.
const PART_BYTES: usize = 256 * 1024;

/// Frames made ahead of the ring.
const MADE_AHEAD: usize = 8;

/// Where every run of the generator begins: data that goes wrong can be made again.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

pub(super) type Hash = [u8; 32];

/// One thing to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    File { path: PathBuf, bytes: u64 },
    Generated { bytes: u64 },
}

impl Item {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::File { bytes, .. } | Self::Generated { bytes } => *bytes,
        }
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Generated { .. } => "generated data".to_owned(),
        }
    }

    fn open(&self, index: u32) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::File { path, .. } => Box::new(File::open(path)?),
            Self::Generated { bytes } => {
                Box::new(Generator::new(SEED ^ u64::from(index)).take(*bytes))
            }
        })
    }
}

/// What every item that was read hashed to, by its number.
#[derive(Debug, Clone, Default)]
pub(super) struct Hashes(Arc<Mutex<HashMap<u32, Hash>>>);

impl Hashes {
    fn put(&self, index: u32, hash: Hash) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(index, hash);
    }

    pub(super) fn of(&self, index: u32) -> Option<Hash> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&index).copied()
    }
}

/// The regular files below `root` if it is this repository, without what is built or git's own.
pub(super) fn repository_files(root: &Path) -> Result<Vec<Item>> {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap_or_default();
    if !manifest.lines().any(|line| line.trim() == "name = \"moorline\"") {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let what = || format!("cannot read the directory {}", directory.display());
        for entry in fs::read_dir(&directory).with_context(what)? {
            let entry = entry.with_context(what)?;
            let kind = entry.file_type().with_context(what)?;
            let name = entry.file_name();
            if kind.is_dir() && name != "target" && name != ".git" {
                directories.push(entry.path());
            } else if kind.is_file() {
                let bytes = entry.metadata().with_context(what)?.len();
                files.push(Item::File { path: entry.path(), bytes });
            }
        }
    }
    files.sort_by_key(Item::name);
    Ok(files)
}

/// Reads `items` on a thread of its own and hands out their frames, in order; `first` is the
/// number of the first one. A few frames are in memory at a time, whatever the items' size.
pub(super) fn frames(
    items: Vec<Item>,
    first: u32,
    hashes: Hashes,
) -> Result<mpsc::Receiver<Result<Bytes>>> {
    let (frames, receiver) = mpsc::channel(MADE_AHEAD);
    std::thread::Builder::new()
        .name("source".to_owned())
        .spawn(move || {
            for (index, item) in (first..).zip(&items) {
                let made = read_item(item, index, &hashes, &|frame| {
                    // Nobody takes frames any more where this fails: the error ends the loop.
                    frames.blocking_send(Ok(frame)).map_err(io::Error::other)
                });
                if let Err(error) = made {
                    let error = anyhow::Error::new(error).context(item.name());
                    let _ = frames.blocking_send(Err(error.context("cannot read an item")));
                    return;
                }
            }
        })
        .context("cannot start the thread that reads")?;
    Ok(receiver)
}

fn read_item(
    item: &Item,
    index: u32,
    hashes: &Hashes,
    send: &dyn Fn(Bytes) -> io::Result<()>,
) -> io::Result<()> {
    let mut reader = item.open(index)?;
    let mut hasher = Sha256::new();
    loop {
        let mut frame = header(DATA, index);
        frame.resize(HEADER_BYTES + PART_BYTES, 0);
        let read = read_full(&mut reader, &mut frame[HEADER_BYTES..])?;
        if read == 0 {
            break;
        }
        frame.truncate(HEADER_BYTES + read);
        hasher.update(&frame[HEADER_BYTES..]);
        send(frame.freeze())?;
    }
    // Known here before the end can have gone around.
    hashes.put(index, hasher.finalize().into());
    send(header(END, index).freeze())
}

fn header(kind: u8, index: u32) -> BytesMut {
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + PART_BYTES);
    frame.put_u8(kind);
    frame.put_u32(index);
    frame
}

fn read_full(reader: &mut impl Read, mut buffer: &mut [u8]) -> io::Result<usize> {
    let mut total = 0;
    while !buffer.is_empty() {
        match reader.read(buffer) {
            Ok(0) => break,
            Ok(read) => {
                total += read;
                buffer = &mut buffer[read..];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// xorshift64*: fast, and no compressor or cache can make anything of it. Not for secrets.
#[derive(Debug)]
struct Generator {
    state: u64,
}

impl Generator {
    fn new(seed: u64) -> Self {
        // The one state that yields only zeroes.
        Self { state: seed.max(1) }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

impl Read for Generator {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(buffer.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_cut_into_parts_and_ends_with_a_known_hash() {
        let (hashes, sent) = (Hashes::default(), Mutex::new(Vec::new()));
        let bytes = PART_BYTES as u64 + 3;
        read_item(&Item::Generated { bytes }, 7, &hashes, &|frame| {
            sent.lock().unwrap().push(frame);
            Ok(())
        })
        .unwrap();
        let sent = sent.into_inner().unwrap();
        let lengths: Vec<_> = sent.iter().map(Bytes::len).collect();
        assert_eq!(lengths, [HEADER_BYTES + PART_BYTES, HEADER_BYTES + 3, HEADER_BYTES]);
        assert_eq!(sent[0][..HEADER_BYTES], [DATA, 0, 0, 0, 7]);
        assert_eq!(sent[2][..], [END, 0, 0, 0, 7]);
        let mut hasher = Sha256::new();
        sent.iter().for_each(|frame| hasher.update(&frame[HEADER_BYTES..]));
        assert_eq!(hashes.of(7), Some(hasher.finalize().into()));
    }

    #[test]
    fn the_generator_repeats_itself_only_when_asked() {
        let take = |seed| {
            let mut bytes = [0; 32];
            Generator::new(seed).read_exact(&mut bytes).unwrap();
            bytes
        };
        assert_eq!(take(1), take(1));
        assert_ne!(take(1), take(2));
        assert_ne!(take(0), [0; 32]);
    }

    #[test]
    fn only_this_repository_is_walked() {
        let elsewhere = std::env::temp_dir();
        assert!(repository_files(&elsewhere).unwrap().is_empty());
        let files = repository_files(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(files.iter().any(|item| item.name().ends_with("demo/source.rs")));
        assert!(!files.iter().any(|item| item.name().contains("/target/")));
    }
}
