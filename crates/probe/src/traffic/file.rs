//! Traffic as a capture file: pcap with nanoseconds
//! (<https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>).

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::{Cycle, Offer, OfferBooks};

/// The time of the first frame, in UTC seconds: a file of a seed is always the same.
const EPOCH_SECONDS: u64 = 1_700_000_000;
/// How much time is written at once.
const STEP_NS: u64 = 10_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// What went into a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Frames.
    pub frames: u64,
    /// Their bytes, without the file's own headers.
    pub bytes: u64,
}

/// Writes the flows that begin within `duration`, each from its first frame to its last. `tell` hears the time of the
/// traffic that is written, again and again; its error ends the writing.
pub fn write_capture(
    cycle: Cycle,
    duration: Duration,
    output: &mut dyn Write,
    tell: &mut dyn FnMut(Duration) -> io::Result<()>,
) -> io::Result<Written> {
    let books = Arc::new(OfferBooks::default());
    let end = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX - 1);
    let mut offer = Offer::new(cycle, u64::MAX, end, books);
    let mut header = 0xa1b2_3c4d_u32.to_le_bytes().to_vec();
    for word in [2 | 4 << 16, 0, 0, 262_144, 1_u32] {
        header.extend(word.to_le_bytes());
    }
    output.write_all(&header)?;
    let mut written = Written::default();
    let mut taken = Vec::new();
    let mut record = Vec::new();
    let mut now = 0;
    while !offer.is_over() {
        now += STEP_NS;
        offer.advance(now);
        tell(Duration::from_nanos(now))?;
        while offer.waiting() > 0 {
            offer.take(1 << 20, usize::MAX, &mut taken);
            for due in &taken {
                let seconds = EPOCH_SECONDS + due.at / SECOND_NS;
                record.clear();
                for word in [
                    seconds as u32,
                    (due.at % SECOND_NS) as u32,
                    due.length,
                    due.length,
                ] {
                    record.extend(word.to_le_bytes());
                }
                record.extend(offer.frame(due));
                output.write_all(&record)?;
                written.frames += 1;
                written.bytes += u64::from(due.length);
            }
        }
    }
    output.flush()?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{FileSource, Next, OwnedFrames};
    use crate::counters::{Counters, check_books};
    use crate::engine;
    use crate::flow;
    use crate::traffic::{FrameSize, Settings};
    use std::collections::BTreeMap;
    use std::ops::ControlFlow;
    use wire::decode::Decoder;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn writing_ends_when_it_is_told_to() {
        let cycle = Cycle::build(&Settings::default()).expect("possible");
        let mut output = Vec::new();
        let mut told = Vec::new();
        let ended = write_capture(cycle, SECOND, &mut output, &mut |time| {
            told.push(time);
            if told.len() < 3 {
                Ok(())
            } else {
                Err(io::ErrorKind::Interrupted.into())
            }
        });
        assert_eq!(
            ended.map_err(|error| error.kind()),
            Err(io::ErrorKind::Interrupted)
        );
        assert_eq!(told, [10, 20, 30].map(Duration::from_millis));
        assert!(output.len() > 24);
    }

    /// Writes a second of traffic and meters it: flows by application, and the counters.
    fn metered(size: FrameSize) -> (BTreeMap<String, u64>, Counters, Written) {
        let settings = Settings {
            frame_size: size,
            flows_per_second: 800,
            cycle_bytes: 4 << 20,
            ..Settings::default()
        };
        let cycle = Cycle::build(&settings).expect("possible");
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let written =
            write_capture(cycle, SECOND, &mut io::BufWriter::new(&file), &mut |_| Ok(())).expect("written");
        let mut source = FileSource::new(vec![file.path().to_path_buf()]);
        let counters = Counters::new(1);
        let mut apps = BTreeMap::new();
        engine::read(
            |block: &mut OwnedFrames| -> Result<Next, crate::capture::CaptureError> { source.fill(block) },
            &flow::Settings::for_memory(256 << 20),
            &Decoder::default(),
            &counters,
            &mut |ended| {
                let app = ended.record.app.map_or("none", |app| app);
                *apps.entry(app.to_owned()).or_insert(0) += 1;
                ControlFlow::Continue(())
            },
        )
        .expect("a sound file");
        (apps, counters, written)
    }

    #[test]
    fn every_frame_is_sound_and_every_conversation_is_told() {
        for size in [
            FrameSize::Smallest,
            FrameSize::Imix,
            FrameSize::Mean1000,
            FrameSize::Jumbo,
            FrameSize::Super,
        ] {
            let (apps, counters, written) = metered(size);
            check_books(&counters.ledger_entries()).expect("the books balance");
            assert_eq!(counters.total("frames_metered"), written.frames, "{size:?}");
            for account in [
                "packet_faults",
                "sessions_malformed",
                "stream_gaps",
                "frames_undecodable",
            ] {
                assert_eq!(counters.total(account), 0, "{size:?}: {account}");
            }
            let flows: u64 = apps.values().sum();
            assert!((700..900).contains(&flows), "{size:?}: {flows} flows");
            if size != FrameSize::Smallest {
                for app in ["tls", "quic", "dns", "http"] {
                    // A card cuts TCP.
                    let is_there = app != "quic" || size != FrameSize::Super;
                    assert_eq!(
                        apps.get(app).is_some_and(|count| *count > 2),
                        is_there,
                        "{size:?}: {apps:?}"
                    );
                }
            }
        }
    }
}
