//! Capture files: pcap and pcapng, plain or compressed with gzip or zstd, one after the other.
//!
//! A file is read [`BLOCK_BYTES`] at a time straight into the block that is handed on; records are found in place. Only
//! the incomplete record at the end of a block is copied, to the start of the next. Where a record is broken, the next
//! intact one is searched for in the bytes that follow; what was passed over is counted and reported at the end of the
//! file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wire::decode::LinkType;

use super::bpf::{Filters, Program};
use super::input::{self, Enough, Input};
use super::pcap::{self, NotPcap, Pcap, Step};
use super::pcapng::{self, Pcapng};
use super::{Accounts, BLOCK_BYTES, CaptureError, Frames, Next, OwnedFrames, Source};

/// How many bytes must be at hand, unless the file ends, to search for the next intact record.
const SEARCH_BYTES: usize = BLOCK_BYTES / 2;

/// How many places of damage are named.
const MAX_PLACES: usize = 8;

/// How many link types are remembered that are not supported, or that the filter does not fit.
const MAX_LINK_TYPES: usize = 64;

/// Frames from capture files in a row.
pub struct FileSource {
    waiting: VecDeque<PathBuf>,
    current: Option<Reading>,
    filters: Option<Filters>,
    enough: Enough,
    /// Frames that are still wanted.
    left: u64,
    errors: VecDeque<CaptureError>,
    stored_bytes: Arc<AtomicU64>,
    accounts: Accounts,
    block: OwnedFrames,
    /// No frame of the present input was handed over yet.
    starts_input: bool,
}

/// The format of a file with its state.
enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
}

impl Format {
    fn step(&mut self, bytes: &[u8], at_end: bool) -> Step {
        match self {
            Self::Pcap(pcap) => pcap.step(bytes, at_end),
            Self::Pcapng(pcapng) => pcapng.step(bytes, at_end),
        }
    }

    /// The broken record in front of `bytes` is passed over.
    fn leave_out(&mut self, bytes: &[u8]) {
        match self {
            Self::Pcap(_) => {}
            Self::Pcapng(pcapng) => pcapng.leave_out(bytes),
        }
    }

    fn find(&self, bytes: &[u8], at_end: bool) -> Option<usize> {
        match self {
            Self::Pcap(pcap) => pcap.find(bytes, at_end),
            Self::Pcapng(pcapng) => pcapng.find(bytes),
        }
    }
}

/// Broken records of a file.
#[derive(Default)]
struct Damage {
    /// Where the first broken records start.
    offsets: Vec<u64>,
    places: u64,
    skipped: u64,
}

impl Damage {
    fn add(&mut self, offset: u64, bytes: u64) {
        if self.offsets.len() < MAX_PLACES {
            self.offsets.push(offset);
        }
        self.places += 1;
        self.skipped += bytes;
    }
}

/// A block that is passed over, of which there is more than was at hand.
struct Passing {
    /// Where it starts in the uncompressed file.
    start: u64,
    length: u64,
    /// Bytes of it that are still to come, its last ones among them.
    left: u64,
    /// Its last bytes, if it is intact.
    end: [u8; 4],
}

impl Passing {
    /// Passes over what there is of the block; how many bytes that is, and, once they are there, its last ones.
    fn pass(&mut self, bytes: &[u8]) -> (usize, Option<[u8; 4]>) {
        let before_end = self.left.saturating_sub(self.end.len() as u64);
        let passed = before_end.min(bytes.len() as u64);
        self.left -= passed;
        let passed = passed as usize;
        match bytes.get(passed..).and_then(<[u8]>::first_chunk) {
            Some(end) => (passed + end.len(), Some(*end)),
            None => (passed, None),
        }
    }
}

/// A file that is being read.
struct Reading {
    input: Input,
    format: Format,
    /// What was read and not yet used: the start of the next block.
    carry: Vec<u8>,
    /// Where `carry` starts in the uncompressed file.
    offset: u64,
    passing: Option<Passing>,
    /// No further bytes will come.
    at_end: bool,
    /// More bytes are needed before parsing makes sense.
    wants_full_block: bool,
    failure: Option<io::Error>,
    damage: Damage,
    frames: u64,
    /// Frames before the last change of link type.
    frames_accounted: u64,
    /// Frames by link type, without those since the last change.
    link_types: BTreeMap<LinkType, u64>,
    /// Earliest and latest timestamp.
    span: Option<(i64, i64)>,
    /// The link type of the last frame, and the filter for it.
    link_type: Option<LinkType>,
    program: Option<Program>,
    unsupported: BTreeSet<LinkType>,
    any_supported: bool,
    /// Why there is no filter for frames of a link type.
    unfit: BTreeMap<LinkType, String>,
}

/// How a file ended.
enum Ended {
    /// Not yet.
    No,
    /// At its end, or where nothing more could be read; these errors are to be reported.
    Yes(Vec<CaptureError>),
}

impl FileSource {
    /// The frames of `paths` in this order; `-` is standard input. Nothing is opened yet.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let accounts = Accounts {
            frames_filtered: Some(0),
            bytes_total: input::total_bytes(&paths),
            ..Accounts::default()
        };
        Self {
            waiting: paths.into(),
            current: None,
            filters: None,
            enough: Arc::new(|| false),
            left: u64::MAX,
            errors: VecDeque::new(),
            stored_bytes: Arc::default(),
            accounts,
            block: OwnedFrames::default(),
            starts_input: true,
        }
    }

    /// The frames of whatever `reader` gives; `name` stands for it in messages.
    pub fn from_reader(name: &str, reader: impl io::Read + Send + 'static) -> Result<Self, CaptureError> {
        let mut source = Self::new(Vec::new());
        source.accounts.bytes_total = None;
        let input = input::decompress(name.to_owned(), Box::new(reader), true, &source.stored_bytes)?;
        source.current = Some(Reading::open(input)?);
        Ok(source)
    }

    /// Only frames that pass the filter are delivered.
    #[must_use]
    pub fn with_filters(mut self, filters: Filters) -> Self {
        self.filters = Some(filters);
        self
    }

    /// Once `enough` says so the input is at its end, also where a pipe has nothing to read: what follows is neither read
    /// nor reported.
    #[must_use]
    pub fn with_end(mut self, enough: Enough) -> Self {
        self.enough = enough;
        self
    }

    /// At most this many frames, after the filter: then the input is at its end, and what follows is neither read nor
    /// reported.
    #[must_use]
    pub fn with_count(mut self, count: u64) -> Self {
        self.left = count;
        self
    }

    /// Refills a block with the next frames. An error ends one file only: ask again for the frames of the next one.
    pub fn fill(&mut self, block: &mut OwnedFrames) -> Result<Next, CaptureError> {
        block.headers.clear();
        block.first_number = self.accounts.frames_delivered + 1;
        loop {
            if self.left == 0 || (self.enough)() {
                return Ok(Next::End);
            }
            if let Some(error) = self.errors.pop_front() {
                return Err(error);
            }
            let Some(reading) = &mut self.current else {
                let Some(path) = self.waiting.pop_front() else {
                    return Ok(Next::End);
                };
                match input::open(&path, &self.stored_bytes, &self.enough).and_then(Reading::open) {
                    Ok(reading) => self.current = Some(reading),
                    // The next turn of the loop asks whether anybody still wants to know.
                    Err(error) => self.errors.push_back(error),
                }
                self.starts_input = true;
                continue;
            };
            let filtered = self.accounts.frames_filtered.get_or_insert(0);
            if let Ended::Yes(errors) = reading.fill(block, self.filters.as_ref(), filtered, self.left) {
                self.accounts.bytes_skipped += reading.damage.skipped;
                reading.account_link_type(reading.frames);
                reading.add_to(&mut self.accounts);
                for &link_type in &reading.unsupported {
                    if self.accounts.unsupported_link_types.len() < MAX_LINK_TYPES {
                        self.accounts.unsupported_link_types.insert(link_type);
                    }
                }
                self.errors.extend(errors);
                self.current = None;
            }
            if !block.headers.is_empty() {
                block.starts_input = std::mem::take(&mut self.starts_input);
                self.accounts.frames_delivered += block.headers.len() as u64;
                self.left -= block.headers.len() as u64;
                return Ok(Next::Block);
            }
        }
    }
}

impl Source for FileSource {
    fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
        let mut block = std::mem::take(&mut self.block);
        let next = self.fill(&mut block);
        if matches!(next, Ok(Next::Block)) {
            take(block.as_frames());
        }
        self.block = block;
        next
    }

    fn accounts(&mut self) -> Accounts {
        let mut accounts = self.accounts.clone();
        accounts.bytes_read = self.stored_bytes.load(Ordering::Relaxed);
        if let Some(reading) = &self.current {
            accounts.bytes_skipped += reading.damage.skipped;
            reading.add_to(&mut accounts);
            accounts.unsupported_link_types.extend(&reading.unsupported);
        }
        accounts
    }
}

/// Reads until the buffer holds at least `least` bytes. False where the input ended before.
fn read_at_least(input: &mut Input, buffer: &mut [u8], filled: &mut usize, least: usize) -> io::Result<bool> {
    while *filled < least {
        match input.reader.read(buffer.get_mut(*filled..).unwrap_or_default()) {
            Ok(0) => return Ok(false),
            Ok(read) => *filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

impl Reading {
    /// Reads the file header.
    fn open(mut input: Input) -> Result<Self, CaptureError> {
        let mut start = vec![0; pcap::FILE_HEADER_BYTES];
        let mut filled = 0;
        let failed = match read_at_least(&mut input, &mut start, &mut filled, pcap::FILE_HEADER_BYTES) {
            Ok(_) if filled == 0 => return Err(CaptureError::Empty { path: input.name }),
            Ok(_) => None,
            // A compressed file that is cut within the first bytes.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => Some(error),
        };
        start.truncate(filled);
        if let Some(source) = failed {
            return Err(CaptureError::Read {
                path: input.name,
                offset: filled as u64,
                source,
            });
        }
        let (format, used) = if start.starts_with(&pcapng::MAGIC) {
            (Format::Pcapng(Pcapng::new()), 0)
        } else {
            let header = start.first_chunk::<{ pcap::FILE_HEADER_BYTES }>();
            match header.map(Pcap::new) {
                Some(Ok(pcap)) => (Format::Pcap(pcap), pcap::FILE_HEADER_BYTES),
                Some(Err(NotPcap::Version(major, minor))) => {
                    return Err(CaptureError::UnsupportedVersion {
                        path: input.name,
                        format: "pcap",
                        major,
                        minor,
                    });
                }
                None if Self::starts_like_pcap(&start) => {
                    return Err(CaptureError::Truncated {
                        path: input.name,
                        offset: 0,
                    });
                }
                _ => {
                    // More of it, to tell what it is.
                    start.resize(512, 0);
                    let more = read_at_least(&mut input, &mut start, &mut filled, 512);
                    start.truncate(filled);
                    let mut looks_like = input::looks_like(&start, input.compression);
                    if let Err(error) = more {
                        if start.is_empty() {
                            return Err(CaptureError::Read {
                                path: input.name,
                                offset: 0,
                                source: error,
                            });
                        }
                        looks_like = format!("{looks_like}, and reading on fails: {error}");
                    }
                    return Err(CaptureError::NotACapture {
                        path: input.name,
                        looks_like,
                    });
                }
            }
        };
        start.drain(..used);
        Ok(Self {
            input,
            format,
            carry: start,
            offset: used as u64,
            passing: None,
            at_end: false,
            wants_full_block: false,
            failure: None,
            damage: Damage::default(),
            frames: 0,
            frames_accounted: 0,
            link_types: BTreeMap::new(),
            span: None,
            link_type: None,
            program: None,
            unsupported: BTreeSet::new(),
            any_supported: false,
            unfit: BTreeMap::new(),
        })
    }

    fn starts_like_pcap(start: &[u8]) -> bool {
        const MAGICS: [u32; 3] = [0xa1b2_c3d4, 0xa1b2_3c4d, 0xa1b2_cd34];
        start.first_chunk::<4>().is_some_and(|bytes| {
            MAGICS.contains(&u32::from_be_bytes(*bytes)) || MAGICS.contains(&u32::from_le_bytes(*bytes))
        })
    }

    /// Reads one block and finds its frames, `most` at most.
    fn fill(
        &mut self,
        block: &mut OwnedFrames,
        filters: Option<&Filters>,
        filtered: &mut u64,
        most: u64,
    ) -> Ended {
        // The buffer keeps its length, so that it is cleared once and not for every block.
        block.bytes.resize(BLOCK_BYTES, 0);
        let mut filled = self.carry.len();
        if let Some(start) = block.bytes.get_mut(..filled) {
            start.copy_from_slice(&self.carry);
        }
        let least = if self.input.is_stream && !self.wants_full_block {
            filled + 1
        } else {
            BLOCK_BYTES
        };
        if !self.at_end {
            match read_at_least(
                &mut self.input,
                &mut block.bytes,
                &mut filled,
                least.min(BLOCK_BYTES),
            ) {
                Ok(more) => self.at_end = !more,
                Err(error) => {
                    self.failure = Some(error);
                    self.at_end = true;
                }
            }
        }
        self.wants_full_block = false;
        let OwnedFrames { bytes, headers, .. } = block;
        let bytes = bytes.get(..filled).unwrap_or_default();
        let mut at = 0;
        let mut errors = Vec::new();
        loop {
            if let Some(passing) = &mut self.passing {
                let (passed, end) = passing.pass(bytes.get(at..).unwrap_or_default());
                at += passed;
                let Some(end) = end else { break };
                if end != passing.end {
                    self.damage.add(passing.start, passing.length);
                }
                self.passing = None;
            }
            let rest = bytes.get(at..).unwrap_or_default();
            if rest.is_empty() || headers.len() as u64 == most {
                break;
            }
            match self.format.step(rest, self.at_end) {
                Step::Frame { mut header, consumed } => {
                    header.offset += at as u32;
                    at += consumed;
                    self.frames += 1;
                    self.span = Some(self.span.map_or((header.time, header.time), |(first, last)| {
                        (first.min(header.time), last.max(header.time))
                    }));
                    if self.link_type != Some(header.link_type) {
                        self.change_link_type(header.link_type, filters);
                        if self.has_nothing_else() {
                            return self.finish(errors);
                        }
                    }
                    let start = header.offset as usize;
                    let frame = bytes
                        .get(start..start + header.captured_length as usize)
                        .unwrap_or_default();
                    if self
                        .program
                        .as_ref()
                        .is_some_and(|program| program.run(frame, header.wire_length) == 0)
                    {
                        *filtered += 1;
                        continue;
                    }
                    headers.push(header);
                }
                Step::Pass(length) => at += length,
                Step::PassBeyond { length, end } => {
                    self.passing = Some(Passing {
                        start: self.offset + at as u64,
                        length,
                        left: length,
                        end,
                    });
                }
                Step::Bad(length) => {
                    self.damage.add(self.offset + at as u64, length as u64);
                    at += length;
                }
                Step::More if !self.at_end => break,
                Step::More | Step::Broken => {
                    if rest.len() < SEARCH_BYTES && !self.at_end {
                        self.wants_full_block = true;
                        break;
                    }
                    let here = self.offset + at as u64;
                    let behind = rest.get(1..).unwrap_or_default();
                    if let Some(distance) = self.format.find(behind, self.at_end) {
                        self.format.leave_out(rest);
                        self.damage.add(here, distance as u64 + 1);
                        at += distance + 1;
                        continue;
                    }
                    let path = self.input.name.clone();
                    errors.push(if self.failure.is_some() {
                        self.failed(here)
                    } else if matches!(self.format.step(rest, self.at_end), Step::More) {
                        CaptureError::Truncated { path, offset: here }
                    } else {
                        CaptureError::Lost {
                            path,
                            offset: here,
                            searched: rest.len() as u64,
                        }
                    });
                    return self.finish(errors);
                }
                Step::Version(major, minor) => {
                    let path = self.input.name.clone();
                    errors.push(CaptureError::UnsupportedVersion {
                        path,
                        format: "pcapng",
                        major,
                        minor,
                    });
                    return self.finish(errors);
                }
            }
        }
        self.offset += at as u64;
        self.carry.clear();
        self.carry.extend_from_slice(bytes.get(at..).unwrap_or_default());
        if !self.at_end {
            return Ended::No;
        }
        let passing = self.passing.as_ref().map(|passing| passing.start);
        if self.failure.is_some() {
            errors.push(self.failed(passing.unwrap_or(self.offset)));
        } else if let Some(offset) = passing {
            let path = self.input.name.clone();
            errors.push(CaptureError::Truncated { path, offset });
        }
        self.finish(errors)
    }

    /// The error for an input that failed while it was read. A compressed file that is cut short is told as such.
    fn failed(&mut self, offset: u64) -> CaptureError {
        let path = self.input.name.clone();
        match self.failure.take() {
            Some(source) if source.kind() != io::ErrorKind::UnexpectedEof => {
                CaptureError::Read { path, offset, source }
            }
            _ => CaptureError::Truncated { path, offset },
        }
    }

    /// Whether no frame of the file can match: it has one link type, which the filter does not fit.
    fn has_nothing_else(&self) -> bool {
        matches!(self.format, Format::Pcap(_)) && !self.unfit.is_empty()
    }

    /// Looks up the filter for frames of another link type than the last. Where there is none, no frame matches.
    fn change_link_type(&mut self, link_type: LinkType, filters: Option<&Filters>) {
        // The frame at hand is the first of the new link type.
        self.account_link_type(self.frames.saturating_sub(1));
        self.link_type = Some(link_type);
        if link_type.is_supported() {
            self.any_supported = true;
        } else if self.unsupported.len() < MAX_LINK_TYPES {
            self.unsupported.insert(link_type);
        }
        self.program = match filters.map(|filters| filters.get(link_type)) {
            None => None,
            Some(Ok(program)) => Some(program.clone()),
            Some(Err(message)) => {
                if self.unfit.len() < MAX_LINK_TYPES {
                    self.unfit.entry(link_type).or_insert_with(|| message.to_owned());
                }
                Some(Program::accept_all(0))
            }
        };
    }

    /// Adds what is known of the frames to the accounts of all inputs.
    fn add_to(&self, accounts: &mut Accounts) {
        let open = self
            .link_type
            .map(|link_type| (link_type, self.frames - self.frames_accounted));
        let counts = self
            .link_types
            .iter()
            .map(|(link_type, count)| (*link_type, *count));
        for (link_type, count) in counts.chain(open).filter(|(_, count)| *count > 0) {
            if accounts.link_types.len() < MAX_LINK_TYPES || accounts.link_types.contains_key(&link_type) {
                *accounts.link_types.entry(link_type).or_default() += count;
            }
        }
        accounts.span = match (accounts.span, self.span) {
            (Some((first, last)), Some((start, end))) => Some((first.min(start), last.max(end))),
            (one, other) => one.or(other),
        };
    }

    /// Counts the frames up to this number for their link type.
    fn account_link_type(&mut self, frames: u64) {
        let count = frames - std::mem::replace(&mut self.frames_accounted, frames);
        if let Some(link_type) = self.link_type
            && count > 0
            && (self.link_types.len() < MAX_LINK_TYPES || self.link_types.contains_key(&link_type))
        {
            *self.link_types.entry(link_type).or_default() += count;
        }
    }

    /// Everything there is to report at the end of the file.
    fn finish(&self, mut errors: Vec<CaptureError>) -> Ended {
        let Damage {
            ref offsets,
            places,
            skipped,
        } = self.damage;
        if places > 0 {
            errors.push(CaptureError::Damaged {
                path: self.input.name.clone(),
                offsets: offsets.clone(),
                places,
                skipped,
            });
        }
        errors.extend(
            self.unfit
                .iter()
                .map(|(link_type, message)| CaptureError::Filter {
                    path: self.input.name.clone(),
                    link_type: *link_type,
                    message: message.clone(),
                }),
        );
        // What a filter does not fit has been told.
        if self.frames > 0 && !self.any_supported && self.unfit.is_empty() {
            let names: Vec<String> = self.unsupported.iter().map(ToString::to_string).collect();
            errors.push(CaptureError::UnsupportedLinkTypes {
                path: self.input.name.clone(),
                link_types: names.join(", "),
            });
        }
        Ended::Yes(errors)
    }
}
