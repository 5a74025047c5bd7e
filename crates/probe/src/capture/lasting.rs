//! An interface that vanishes and comes back: its sources are opened anew, all together, because they share its frames.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::bpf::Program;
use super::device;
use super::{Accounts, CaptureError, Frames, Next, Source};
use crate::clock;

/// Time between two attempts to open the interface.
const RETRY: Duration = Duration::from_millis(100);

/// How long a worker without a source rests before it says [`Next::Idle`].
const REST: Duration = Duration::from_millis(20);

/// A source of any kind.
pub type LiveSource = Box<dyn Source + Send>;

/// Opens the sources of all workers, with the filter that is given.
pub type Open = Box<dyn Fn(Option<&Program>) -> Result<Vec<LiveSource>, CaptureError> + Send + Sync>;

/// Tells whether every worker of an interface has a source.
#[derive(Clone, Debug)]
pub struct Presence {
    /// Workers without one.
    missing: Arc<AtomicUsize>,
}

impl Presence {
    /// Whether none is without: else frames are lost, whatever the interface does.
    pub fn is_whole(&self) -> bool {
        self.missing.load(Ordering::Relaxed) == 0
    }
}

/// What the sources of an interface have in common.
struct Shared {
    interface: String,
    open: Open,
    workers: usize,
    patience: Duration,
    stop: Arc<AtomicBool>,
    presence: Presence,
    absence: Mutex<Absence>,
}

/// The state while the interface is away.
#[derive(Default)]
struct Absence {
    /// Workers whose source is closed. Only when all are, there is memory for new ones.
    without_source: usize,
    since: Option<Instant>,
    tried: Option<Instant>,
    /// The interface is there, but down, and cannot be opened so.
    is_down: bool,
    /// Why it could not be opened though it is there, as it was told last.
    told: String,
    /// The filter that was asked for last: new sources are opened with it.
    filter: Option<Program>,
    /// New sources that their workers have not fetched yet.
    sources: Vec<Option<LiveSource>>,
}

impl Absence {
    /// Only an interface that is gone is waited for no longer than patience lasts.
    fn note_down(&mut self, error: &CaptureError) {
        self.since = Some(clock::monotonic());
        if !std::mem::replace(&mut self.is_down, true) {
            tracing::warn!(%error, "waiting for the interface to come up");
        }
    }

    /// Why an interface cannot be opened is told once; that it is not there, nobody need be told again.
    fn note_failure(&mut self, error: &CaptureError) {
        if matches!(error, CaptureError::NoSuchInterface { .. }) {
            return;
        }
        let said = error.to_string();
        if self.told != said {
            tracing::warn!(error = said, "the interface cannot be opened; trying again");
            self.told = said;
        }
    }
}

/// The source of one worker, opened again with the others' when the interface was away.
pub struct LastingSource {
    number: usize,
    source: Option<LiveSource>,
    /// What the closed sources have done.
    before: Option<Accounts>,
    /// The filter that this worker was asked for last.
    filter: Option<Program>,
    shared: Arc<Shared>,
}

impl LastingSource {
    /// Opens the sources of so many workers, and opens them again whenever the interface has been away. An interface that
    /// is away for longer than `patience` ends the capture; so does `stop`, which the sources obey too. One that cannot be
    /// opened while it is down is waited for, also at the start.
    pub fn all(
        interface: &str,
        workers: usize,
        filter: Option<&Program>,
        stop: &Arc<AtomicBool>,
        patience: Duration,
        open: Open,
    ) -> Result<Vec<Self>, CaptureError> {
        let mut absence = Absence {
            filter: filter.cloned(),
            ..Absence::default()
        };
        let sources: Vec<_> = match open(filter) {
            Ok(sources) => sources.into_iter().map(Some).collect(),
            Err(error @ CaptureError::InterfaceDown { .. }) => {
                absence.note_down(&error);
                absence.without_source = workers;
                (0..workers).map(|_| None).collect()
            }
            Err(error) => return Err(error),
        };
        let shared = Arc::new(Shared {
            interface: interface.to_owned(),
            open,
            workers: sources.len(),
            patience,
            stop: Arc::clone(stop),
            presence: Presence {
                missing: Arc::new(AtomicUsize::new(absence.without_source)),
            },
            absence: Mutex::new(absence),
        });
        let lasting = |(number, source)| Self {
            number,
            source,
            before: None,
            filter: filter.cloned(),
            shared: Arc::clone(&shared),
        };
        Ok(sources.into_iter().enumerate().map(lasting).collect())
    }

    /// Tells, as long as it is asked, whether every worker has a source.
    pub fn presence(&self) -> Presence {
        self.shared.presence.clone()
    }

    fn close(&mut self) {
        self.before = Some(self.accounts());
        self.source = None;
        self.shared.presence.missing.fetch_add(1, Ordering::Relaxed);
        let mut absence = self.shared.absence();
        absence.without_source += 1;
        absence.since.get_or_insert_with(clock::monotonic);
    }
}

/// What a worker without a source finds.
enum Found {
    Source(LiveSource),
    NotYet,
    /// The probe stops, and there is no source that could have captured anything.
    Over,
}

impl Shared {
    fn absence(&self) -> MutexGuard<'_, Absence> {
        // Nothing panics between two changes that belong together.
        self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The new source of a worker, once there is one: at a stop too, because it has captured since another worker
    /// opened it. Whoever asks when it is time tries to open all.
    fn fetch(&self, number: usize) -> Result<Found, CaptureError> {
        let mut absence = self.absence();
        if let Some(source) = absence.sources.get_mut(number).and_then(Option::take) {
            return Ok(Found::Source(source));
        }
        // Looked at under the lock: once one worker has ended for it, no other opens a source for that one.
        if self.stop.load(Ordering::Relaxed) {
            return Ok(Found::Over);
        }
        let is_time = absence.tried.is_none_or(|tried| clock::elapsed(tried) >= RETRY);
        if absence.without_source < self.workers || !is_time {
            return Ok(Found::NotYet);
        }
        absence.tried = Some(clock::monotonic());
        if absence.is_down && device::is_down(&self.interface) {
            // Opening it would only set up rings in vain.
            absence.since = absence.tried;
            return Ok(Found::NotYet);
        }
        match (self.open)(absence.filter.as_ref()) {
            Ok(sources) => {
                absence.sources = sources.into_iter().map(Some).collect();
                absence.without_source = 0;
                absence.since = None;
                absence.is_down = false;
                absence.told.clear();
                tracing::info!(interface = %self.interface, "the interface is back");
                let source = absence.sources.get_mut(number).and_then(Option::take);
                Ok(source.map_or(Found::NotYet, Found::Source))
            }
            Err(error @ CaptureError::InterfaceDown { .. }) => {
                absence.note_down(&error);
                Ok(Found::NotYet)
            }
            // That does not change by itself.
            Err(error @ CaptureError::FilterOfOtherLinkType { .. }) => Err(error),
            Err(error) => {
                absence.is_down = false;
                let away = absence.since.map_or(Duration::ZERO, clock::elapsed);
                if away < self.patience {
                    absence.note_failure(&error);
                    return Ok(Found::NotYet);
                }
                Err(match error {
                    CaptureError::NoSuchInterface { interface, .. } => {
                        CaptureError::InterfaceGone { interface }
                    }
                    other => other,
                })
            }
        }
    }
}

impl Source for LastingSource {
    fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
        if let Some(source) = &mut self.source {
            let delivered = self.before.as_ref().map_or(0, |before| before.frames_delivered);
            let next = source.next_block(&mut |frames| {
                take(Frames {
                    first_number: frames.first_number + delivered,
                    ..frames
                });
            });
            return match next {
                Err(CaptureError::InterfaceGone { interface }) => {
                    tracing::warn!(interface, patience = ?self.shared.patience, "the interface is gone; waiting for it");
                    self.close();
                    Ok(Next::Idle)
                }
                other => other,
            };
        }
        match self.shared.fetch(self.number)? {
            Found::Source(mut source) => {
                // Another worker may have opened the sources before this one was asked for another filter.
                source.set_filter(self.filter.as_ref())?;
                self.source = Some(source);
                self.shared.presence.missing.fetch_sub(1, Ordering::Relaxed);
            }
            Found::NotYet => thread::sleep(REST),
            Found::Over => return Ok(Next::End),
        }
        Ok(Next::Idle)
    }

    fn accounts(&mut self) -> Accounts {
        match (&mut self.source, &self.before) {
            (Some(source), None) => source.accounts(),
            (Some(source), Some(before)) => source.accounts().and(before),
            (None, before) => before.clone().unwrap_or_default(),
        }
    }

    fn set_filter(&mut self, filter: Option<&Program>) -> Result<(), CaptureError> {
        if let Some(source) = &mut self.source {
            source.set_filter(filter)?;
        }
        self.shared.absence().filter = filter.cloned();
        self.filter = filter.cloned();
        Ok(())
    }

    fn queue(&self) -> (u64, u64) {
        // While the interface is away nothing waits, and the new source's queue will be as large.
        self.source.as_ref().map_or((0, 0), |source| source.queue())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use wire::decode::LinkType;

    use super::*;
    use crate::capture::FrameHeader;

    /// Gives one block of `frames` frames, then its interface is gone.
    struct Brief {
        frames: usize,
        given: bool,
    }

    impl Source for Brief {
        fn next_block(&mut self, take: &mut dyn FnMut(Frames<'_>)) -> Result<Next, CaptureError> {
            if self.given {
                return Err(CaptureError::InterfaceGone {
                    interface: "eth0".to_owned(),
                });
            }
            self.given = true;
            let header = FrameHeader {
                time: 1,
                offset: 0,
                captured_length: 0,
                wire_length: 60,
                link_type: LinkType::ETHERNET,
                stripped_vlan: None,
                checksum_offloaded: true,
                clock: None,
            };
            let headers = vec![header; self.frames];
            take(Frames {
                bytes: &[],
                headers: &headers,
                first_number: 1,
            });
            Ok(Next::Block)
        }

        fn accounts(&mut self) -> Accounts {
            Accounts {
                frames_delivered: if self.given { self.frames as u64 } else { 0 },
                kernel_drops: Some(1),
                ..Accounts::default()
            }
        }

        fn set_filter(&mut self, _: Option<&Program>) -> Result<(), CaptureError> {
            Ok(())
        }
    }

    #[test]
    fn a_new_source_numbers_and_counts_on() {
        let waiting = Mutex::new(VecDeque::from([3_usize, 2]));
        let open: Open = Box::new(move |_| {
            let frames = waiting.lock().unwrap().pop_front();
            match frames {
                Some(frames) => Ok(vec![Box::new(Brief { frames, given: false })]),
                None => Err(CaptureError::NoSuchInterface {
                    interface: "eth0".to_owned(),
                    available: "lo".to_owned(),
                }),
            }
        });
        let stop = Arc::default();
        let mut sources = LastingSource::all("eth0", 1, None, &stop, Duration::ZERO, open).unwrap();
        let source = &mut sources[0];
        let mut numbers = Vec::new();
        let error = loop {
            match source.next_block(&mut |frames| numbers.extend(frames.iter().map(|(number, ..)| number))) {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert!(matches!(error, CaptureError::InterfaceGone { .. }), "{error}");
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        let accounts = source.accounts();
        assert_eq!((accounts.frames_delivered, accounts.kernel_drops), (5, Some(2)));
    }

    #[test]
    fn an_interface_that_is_down_is_waited_for_without_end() {
        // No patience for one that is gone; and none of this name, which could be up or down.
        let name = "nosuchif0";
        let down = move || {
            Err(CaptureError::InterfaceDown {
                interface: name.to_owned(),
                why: "this is a test",
            })
        };
        let waiting = Mutex::new(VecDeque::from([None, None, Some(3_usize), None, Some(2)]));
        let open: Open = Box::new(move |_| {
            let Some(outcome) = waiting.lock().unwrap().pop_front() else {
                return Err(CaptureError::NoSuchInterface {
                    interface: name.to_owned(),
                    available: "lo".to_owned(),
                });
            };
            let Some(frames) = outcome else { return down() };
            let source = || Box::new(Brief { frames, given: false }) as LiveSource;
            Ok(vec![source(), source()])
        });
        let stop = Arc::default();
        let mut sources = LastingSource::all(name, 2, None, &stop, Duration::ZERO, open).unwrap();
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].accounts(), Accounts::default());
        let mut counts = [0; 2];
        let error = loop {
            let mut take = |number: usize| {
                let count = &mut counts[number];
                sources[number].next_block(&mut |frames| *count += frames.headers.len())
            };
            if let Err(error) = take(0).and_then(|_| take(1)) {
                break error;
            }
        };
        assert!(matches!(error, CaptureError::InterfaceGone { .. }), "{error}");
        assert_eq!(counts, [5, 5]);
    }

    #[test]
    fn the_sources_are_whole_when_every_worker_has_one() {
        let refused = || CaptureError::NotForXdp {
            interface: "eth0".to_owned(),
            link_type: 101,
        };
        let waiting = Mutex::new(VecDeque::from([Some([1_usize, 1]), None, Some([2, 3])]));
        let open: Open = Box::new(move |_| {
            let frames = waiting
                .lock()
                .unwrap()
                .pop_front()
                .flatten()
                .ok_or_else(refused)?;
            let source = |frames| Box::new(Brief { frames, given: false }) as LiveSource;
            Ok(frames.into_iter().map(source).collect())
        });
        let stop = Arc::default();
        let mut sources = LastingSource::all("eth0", 2, None, &stop, Duration::MAX, open).unwrap();
        let presence = sources[0].presence();
        let mut seen = vec![presence.is_whole()];
        // One block each; the interface is gone; it cannot be opened, then it can; the second fetches its source.
        for number in [0, 1, 0, 1, 0] {
            sources[number].next_block(&mut |_| ()).unwrap();
            seen.push(presence.is_whole());
        }
        assert_eq!(seen, [true, true, true, false, false, false]);
        let [first, second] = &mut *sources else { panic!() };
        while first.source.is_none() {
            first.next_block(&mut |_| ()).unwrap();
            assert!(!presence.is_whole());
        }
        second.next_block(&mut |_| ()).unwrap();
        assert!(presence.is_whole());
    }

    #[test]
    fn a_filter_that_does_not_fit_the_interface_any_more_ends_the_capture_at_once() {
        let waiting = Mutex::new(VecDeque::from([1_usize]));
        let open: Open = Box::new(move |_| {
            let frames = waiting.lock().unwrap().pop_front();
            let frames = frames.ok_or_else(|| CaptureError::FilterOfOtherLinkType {
                interface: "eth0".to_owned(),
                link_type: LinkType::IEEE802_11_RADIOTAP,
                compiled_for: LinkType::ETHERNET,
            })?;
            Ok(vec![Box::new(Brief { frames, given: false })])
        });
        let stop = Arc::default();
        let mut sources = LastingSource::all("eth0", 1, None, &stop, Duration::MAX, open).unwrap();
        let error = (0..3).find_map(|_| sources[0].next_block(&mut |_| ()).err());
        let said = error.expect("an end").to_string();
        assert!(
            said.contains("have link type LINKTYPE_IEEE802_11_RADIOTAP (127) now"),
            "{said}"
        );
    }

    #[test]
    fn at_a_stop_what_a_new_source_has_captured_is_taken() {
        let waiting = Mutex::new(VecDeque::from([[1_usize, 1], [2, 3]]));
        let open: Open = Box::new(move |_| {
            let frames = waiting
                .lock()
                .unwrap()
                .pop_front()
                .expect("opened after the stop");
            let source = |frames| Box::new(Brief { frames, given: false }) as LiveSource;
            Ok(frames.into_iter().map(source).collect())
        });
        let stop = Arc::default();
        let mut sources = LastingSource::all("eth0", 2, None, &stop, Duration::MAX, open).unwrap();
        let away = |source: &LastingSource| source.source.is_none();
        while !sources.iter().all(away) {
            for source in &mut sources {
                source.next_block(&mut |_| ()).unwrap();
            }
        }
        let [first, second] = &mut *sources else { panic!() };
        // The first one opens both.
        while away(first) {
            first.next_block(&mut |_| ()).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for (source, expected) in [(first, 3), (second, 4)] {
            while source.next_block(&mut |_| ()).unwrap() != Next::End {}
            assert_eq!(source.accounts().frames_delivered, expected);
        }
    }
}
