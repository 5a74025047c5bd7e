//! Names and small records of the spool directory.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::seal::jws::Digest;
use crate::seal::manifest::{ChainId, Head};

/// Disk space is taken in blocks of this many bytes.
const BLOCK_BYTES: u64 = 4096;

/// What a file of `length` bytes counts against the bound.
pub(super) fn accounted(length: u64) -> u64 {
    length.max(1).div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}

/// What is left of a sealed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// The batch.
    Batch,
    /// Only its manifest.
    Manifest,
}

/// An entry of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The chain.
    pub chain: ChainId,
    /// Position in it.
    pub seq: u64,
    /// Batch or bare manifest.
    pub form: Form,
}

impl Entry {
    /// The name of its file.
    pub fn file_name(&self) -> String {
        let suffix = match self.form {
            Form::Batch => "arrows",
            Form::Manifest => "manifest",
        };
        format!("{}-{:016x}.{suffix}", self.chain, self.seq)
    }
}

/// The entry that a file's name says, if it is one of ours.
pub(super) fn parse_name(name: &str) -> Option<Entry> {
    let (stem, suffix) = name.split_once('.')?;
    let form = match suffix {
        "arrows" => Form::Batch,
        "manifest" => Form::Manifest,
        _ => return None,
    };
    let (chain, seq) = stem.split_once('-')?;
    let entry = Entry {
        chain: chain.parse().ok()?,
        seq: u64::from_str_radix(seq, 16).ok()?,
        form,
    };
    // Only the one spelling that is written.
    (entry.file_name() == name).then_some(entry)
}

/// An entry's place in the order of delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) rank: u32,
    pub(super) seq: u64,
    pub(super) chain: ChainId,
}

/// What an entry counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) size: u64,
    pub(super) events: u64,
    /// When its records were handed over to be sealed, until it is sent for the first time.
    pub(super) given: Option<Instant>,
    /// Whether it was sent.
    pub(super) is_sent: bool,
    /// Whether the disk did not give it when the spool was opened: its events are not known.
    pub(super) is_unread: bool,
}

/// `head.json`.
#[derive(Serialize, Deserialize)]
pub(super) struct HeadFile {
    v: u32,
    chain: ChainId,
    seq: u64,
    manifest: Digest,
}

impl HeadFile {
    /// The head that a file states, if it is readable.
    pub(super) fn parse(json: &[u8]) -> Option<Head> {
        let file: Self = serde_json::from_slice(json).ok()?;
        (file.v == 1).then_some(Head {
            chain: file.chain,
            seq: file.seq,
            manifest: file.manifest,
        })
    }

    /// The file's content.
    pub(super) fn encode(head: &Head) -> Vec<u8> {
        format!(
            r#"{{"v": 1, "chain": "{}", "seq": {}, "manifest": "{}"}}"#,
            head.chain, head.seq, head.manifest
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_written_spelling_is_ours() {
        let name = "000102030405060708090a0b0c0d0e0f-00000000000000ff.arrows";
        let entry = parse_name(name).unwrap();
        assert_eq!((entry.seq, entry.form), (255, Form::Batch));
        assert_eq!(entry.file_name(), name);
        for foreign in [
            "",
            ".",
            "notes.txt",
            "000102030405060708090a0b0c0d0e0f-ff.arrows",
            "000102030405060708090A0B0C0D0E0F-00000000000000ff.arrows",
            "000102030405060708090a0b0c0d0e0f-+0000000000000ff.arrows",
            "000102030405060708090a0b0c0d0e0f-00000000000000ff.arrows.tmp",
        ] {
            assert_eq!(parse_name(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn a_head_survives_its_file() {
        let head = Head {
            chain: ChainId([7; 16]),
            seq: u64::MAX,
            manifest: Digest([9; 32]),
        };
        assert_eq!(HeadFile::parse(&HeadFile::encode(&head)), Some(head));
        assert_eq!(HeadFile::parse(b"{}"), None);
    }
}
