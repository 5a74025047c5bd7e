//! The delivery thread's loop.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER};
use reqwest::{Body, Client, Response, Url};
use tokio::sync::oneshot;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::answer::{Answer, Cause, MAX_ANSWER_BYTES, Verdict, judge};
use super::backoff::{Backoff, honoured};
use super::body::Outgoing;
use super::tls::explain;
use super::window::Window;
use super::{Alarm, DeliverCounters, DeliverError, DeliverSettings, DeliverState, Identity};
use crate::clock;
use crate::seal::ledger::{Event, Severity};
use crate::seal::receipt::Authority;
use crate::seal::sealer::Clock;
use crate::spool::{Disk, Entry, Form, Loaded, NotLoaded, Spool};

const BACKPRESSURE: HeaderName = HeaderName::from_static("x-backpressure");
/// Without news the loop looks at the spool again after this time.
const IDLE: Duration = Duration::from_secs(3600);
/// An entry that the disk does not give so many times in a row, but others between them, is put away. With its rests that
/// takes some minutes: a probe that is short of descriptors for a moment puts nothing away.
const UNREADABLE_TRIES: u32 = 10;
/// After so many entries that the disk did not give, the answers that came meanwhile are looked at first.
const UNREADABLE_AT_ONCE: usize = 64;

/// A line on which a body goes slower than this, in bytes a second, is too slow for a request.
const SLOWEST_LINE: u64 = 16 * 1024;

/// Longest time for a request with a body of `length` bytes, of which `timeout` is not for the body.
fn patience(timeout: Duration, length: usize) -> Duration {
    timeout + Duration::from_millis((length as u64).saturating_mul(1000) / SLOWEST_LINE)
}

/// What every request needs.
struct Wire {
    client: Client,
    timeout: Duration,
    batches: Url,
    manifests: Url,
    authority: Authority,
    probe_subject: String,
    clock: Clock,
}

pub(super) struct Worker<D: Disk> {
    spool: Arc<Spool<D>>,
    wire: Arc<Wire>,
    settings: DeliverSettings,
    counters: Arc<DeliverCounters>,
    state: Arc<DeliverState>,
    alarms: Alarms,
    backoff: Backoff,
    window: Window,
    /// Nothing is sent before.
    wait_until: Option<Instant>,
    requests: JoinSet<Verdict>,
    entries: HashMap<Id, (Entry, Departure)>,
}

/// When a request went out.
type Departure = Arc<OnceLock<std::time::Instant>>;

impl<D: Disk + 'static> Worker<D> {
    pub(super) fn new(
        spool: Arc<Spool<D>>,
        identity: &Identity,
        settings: DeliverSettings,
        clock: Clock,
        alarm: Alarm,
        (counters, state): (Arc<DeliverCounters>, Arc<DeliverState>),
    ) -> Result<Self, DeliverError> {
        let base = core_url(&settings.core_url)?;
        let client = Client::builder()
            .tls_backend_preconfigured(identity.config())
            .https_only(true)
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(settings.connect_timeout)
            .user_agent(concat!("dpi-probe/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| DeliverError::Tls(error.to_string()))?;
        let join = |path| {
            base.join(path).map_err(|error| DeliverError::Url {
                url: settings.core_url.clone(),
                reason: error.to_string(),
            })
        };
        let wire = Wire {
            client,
            timeout: settings.request_timeout,
            batches: join("v1/batches")?,
            manifests: join("v1/manifests")?,
            authority: identity.authority().clone(),
            probe_subject: identity.certificate().subject().to_owned(),
            clock: Arc::clone(&clock),
        };
        Ok(Self {
            spool,
            wire: Arc::new(wire),
            alarms: Alarms {
                alarm,
                clock,
                interval: settings.alarm_interval,
                last: HashMap::new(),
                counters: Arc::clone(&counters),
            },
            backoff: Backoff::new(settings.backoff_min, settings.backoff_max),
            window: Window::new(settings.max_in_flight),
            settings,
            counters,
            state,
            wait_until: None,
            requests: JoinSet::new(),
            entries: HashMap::new(),
        })
    }

    /// Delivers until stopped, and then until the spool is empty or the time that the signal grants is over.
    pub(super) async fn run(mut self, mut stopped: oneshot::Receiver<Duration>) {
        let mut deadline: Option<Instant> = None;
        let spool = Arc::clone(&self.spool);
        loop {
            // One moment for both: a wait that ended between two looks at the clock would be slept through.
            let now = Instant::now();
            self.launch(now);
            let idle = self.requests.is_empty();
            if deadline.is_some() && idle && (self.spool.pending_entries() == 0 || self.state.is_refused()) {
                break;
            }
            let until = self.wakes_at(now);
            tokio::select! {
                Some(ended) = self.requests.join_next_with_id(), if !idle => match ended {
                    Ok((id, verdict)) => self.settle(id, verdict),
                    Err(error) => {
                        // A panic in a library: the entry stays, and is tried again.
                        let reason = format!("sending failed: {error}");
                        let verdict = Verdict::BackOff {
                            cause: Cause::Connection,
                            reason,
                            retry_after: None,
                            is_slow: false,
                        };
                        self.settle(error.id(), verdict);
                    }
                },
                () = spool.changed().notified() => {}
                () = sleep_until(until) => {}
                drain = &mut stopped, if deadline.is_none() => {
                    // If the handle is gone without a word, nothing is granted.
                    deadline = Some(Instant::now() + drain.unwrap_or_default());
                }
                () = sleep_until(deadline.unwrap_or(now + IDLE)), if deadline.is_some() => break,
            }
        }
        self.abandon();
    }

    /// When to look at the spool again without news, after [`Self::launch`] at `now`.
    fn wakes_at(&self, now: Instant) -> Instant {
        let idle = now + IDLE;
        self.wait_until.unwrap_or_else(|| {
            let rested = self.spool.next_rest_ends(now.into_std());
            rested.map_or(idle, |end| idle.min(Instant::from_std(end)))
        })
    }

    /// Starts as many requests as are allowed now.
    fn launch(&mut self, now: Instant) {
        if self.wait_until.is_some_and(|until| until > now) {
            return;
        }
        self.wait_until = None;
        let limit = if self.state.is_refused() {
            1
        } else {
            self.window.size()
        };
        let mut not_given = 0;
        while self.requests.len() < limit {
            if not_given == UNREADABLE_AT_ONCE {
                return self.wait_at_least(now);
            }
            let Some(entry) = self.spool.take_oldest(now.into_std()) else {
                return;
            };
            let loaded = match self.spool.load(&entry) {
                Ok(loaded) => loaded,
                Err(NotLoaded::Gone) => continue,
                Err(NotLoaded::Unreadable) => {
                    self.not_given(&entry);
                    not_given += 1;
                    continue;
                }
            };
            DeliverCounters::add(&self.counters.requests, 1);
            DeliverCounters::add(&self.counters.in_flight, 1);
            DeliverCounters::add(&self.counters.bytes_sent, loaded.bytes.len() as u64);
            let departure = Departure::default();
            let gone = self.departs(entry, Arc::clone(&departure));
            let task = self
                .requests
                .spawn(Arc::clone(&self.wire).send(entry, loaded, gone));
            self.entries.insert(task.id(), (entry, departure));
        }
    }

    /// The disk did not give an entry: the others go first, for a while.
    fn not_given(&mut self, entry: &Entry) {
        // From now on: to read it may have taken long.
        let now = Instant::now().into_std();
        if self.spool.rest(entry, now, self.settings.unreadable_interval) < UNREADABLE_TRIES {
            return;
        }
        let reason =
            format!("the disk gave other entries, but not this one, {UNREADABLE_TRIES} times in a row");
        if self.spool.give_up(entry, &reason) {
            let detail = format!("{} is put away: {reason}", named(entry));
            self.alarms.raise(Severity::Error, "batch_unreadable", detail);
        }
    }

    /// What is to be noted when the request goes out.
    fn departs(&self, entry: Entry, departure: Departure) -> impl FnOnce() + Send + Sync + Unpin + use<D> {
        let (spool, state) = (Arc::clone(&self.spool), Arc::clone(&self.state));
        move || {
            if let Some(given) = spool.sent(&entry) {
                state.sent.observe(clock::elapsed(given));
            }
            // A request goes out once.
            let _ = departure.set(clock::monotonic());
        }
    }

    fn settle(&mut self, id: Id, verdict: Verdict) {
        let Some((entry, departure)) = self.entries.remove(&id) else {
            return;
        };
        self.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        match verdict {
            Verdict::Acknowledged {
                slow_down,
                retry_after,
            } => {
                DeliverCounters::add(&self.counters.acknowledged, 1);
                if let Some(departed) = departure.get() {
                    self.state.receipts.observe(clock::elapsed(*departed));
                }
                self.spool.acknowledge(&entry);
                self.trusted_again();
                if slow_down {
                    self.wait(retry_after, false);
                } else {
                    self.recovered();
                }
            }
            Verdict::Rejected { reason, fork } => {
                let counters = &self.counters;
                DeliverCounters::add(if fork { &counters.forks } else { &counters.rejected }, 1);
                let detail = format!("{} is refused for good: {reason}", named(&entry));
                self.alarms.raise(
                    Severity::Error,
                    if fork { "batch_forked" } else { "batch_rejected" },
                    detail,
                );
                self.spool.reject(&entry, &reason);
                self.trusted_again();
                self.recovered();
            }
            Verdict::Refused { reason } => {
                DeliverCounters::add(&self.counters.refused, 1);
                self.spool.release(&entry);
                self.state.is_refused.store(1, Ordering::Relaxed);
                self.window.troubled(false);
                self.wait_at_least(Instant::now() + self.settings.refused_interval);
                self.alarms.raise(Severity::Error, "delivery_refused", reason);
            }
            Verdict::BackOff {
                cause,
                reason,
                retry_after,
                is_slow,
            } => {
                self.counters.back_off(cause);
                self.spool.release(&entry);
                let (severity, event) = match cause {
                    Cause::Backpressure => (Severity::Warning, "core_overloaded"),
                    Cause::Server => (Severity::Warning, "core_failing"),
                    Cause::Connection => (Severity::Warning, "core_unreachable"),
                    Cause::Receipt => (Severity::Error, "receipt_not_accepted"),
                };
                self.alarms.raise(severity, event, reason);
                self.wait(retry_after, is_slow);
            }
        }
    }

    fn show_failures(&self) {
        self.state
            .failures_in_a_row
            .store(u64::from(self.backoff.failures()), Ordering::Relaxed);
    }

    /// An answer shows that the Core trusts this probe.
    fn trusted_again(&mut self) {
        if self.state.is_refused.swap(0, Ordering::Relaxed) == 1 {
            self.resumed();
        }
    }

    /// An answer shows that the Core works. One to a request that was sent before the last failure does not end the wait.
    fn recovered(&mut self) {
        if self.wait_until.is_some() {
            return;
        }
        self.window.succeeded();
        if self.backoff.failures() > 0 {
            self.backoff.reset();
            self.show_failures();
            self.resumed();
        }
    }

    fn resumed(&mut self) {
        self.alarms.raise(
            Severity::Info,
            "delivery_resumed",
            "the Core accepts batches again".to_owned(),
        );
    }

    /// Everything waits. Several failures at once count as one; what the Core asks for with any of them holds.
    fn wait(&mut self, retry_after: Option<Duration>, is_slow: bool) {
        let now = Instant::now();
        if self.wait_until.is_some_and(|until| until > now) {
            return self.wait_at_least(now + honoured(retry_after));
        }
        let mut random = [0; 4];
        // Without random bytes there is no jitter; nothing else depends on it.
        let random = aws_lc_rs::rand::fill(&mut random).map_or(u32::MAX, |()| u32::from_ne_bytes(random));
        self.window.troubled(is_slow);
        self.wait_until = Some(now + self.backoff.next(random, retry_after));
        self.show_failures();
    }

    /// A wait that runs is never shortened.
    fn wait_at_least(&mut self, until: Instant) {
        self.wait_until = Some(self.wait_until.map_or(until, |running| running.max(until)));
    }

    /// Puts back what is still in flight.
    fn abandon(mut self) {
        self.requests.abort_all();
        for (entry, _) in self.entries.values() {
            self.spool.release(entry);
            DeliverCounters::add(&self.counters.abandoned, 1);
            self.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// An entry as people are told of it.
fn named(entry: &Entry) -> String {
    let what = match entry.form {
        Form::Batch => "batch",
        Form::Manifest => "manifest",
    };
    format!("{what} {} of chain {}", entry.seq, entry.chain)
}

fn core_url(text: &str) -> Result<Url, DeliverError> {
    let unusable = |reason: String| DeliverError::Url {
        url: text.to_owned(),
        reason,
    };
    let mut url = Url::parse(text).map_err(|error| unusable(error.to_string()))?;
    if url.scheme() != "https" {
        return Err(unusable(format!(
            "the scheme is {}, and batches go over TLS only",
            url.scheme()
        )));
    }
    if !url.has_host() || url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        return Err(unusable(
            "it must hold host, port and path, and nothing else".to_owned(),
        ));
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

impl Wire {
    /// Sends one entry and judges the answer.
    async fn send(
        self: Arc<Self>,
        entry: Entry,
        mut loaded: Loaded,
        departs: impl FnOnce() + Send + Sync + Unpin + 'static,
    ) -> Verdict {
        let (url, content_type) = match entry.form {
            Form::Batch => (&self.batches, "application/vnd.apache.arrow.stream"),
            Form::Manifest => (&self.manifests, "application/jose"),
        };
        let body = std::mem::take(&mut loaded.bytes);
        let request = self
            .client
            .post(url.clone())
            .header(CONTENT_TYPE, content_type)
            .timeout(patience(self.timeout, body.len()))
            .body(Body::wrap(Outgoing::new(body, departs)));
        let answer = match request.send().await {
            Ok(response) => read(response).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => judge(
                &answer,
                &entry,
                &loaded,
                &self.authority,
                (self.clock)().div_euclid(1_000_000_000),
            ),
            Err(error) => {
                let failure = explain(
                    &error,
                    url.as_str(),
                    &self.probe_subject,
                    self.authority.certificate().subject(),
                );
                if failure.refused {
                    return Verdict::Refused {
                        reason: failure.reason,
                    };
                }
                Verdict::BackOff {
                    cause: Cause::Connection,
                    reason: failure.reason,
                    retry_after: None,
                    // Where no connection was made, the line was not tried.
                    is_slow: !error.is_connect(),
                }
            }
        }
    }
}

/// Reads an answer; of its body not more than is allowed.
async fn read(mut response: Response) -> Result<Answer, reqwest::Error> {
    let header = |name: HeaderName| {
        response
            .headers()
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    let mut answer = Answer {
        code: response.status().as_u16(),
        retry_after: header(RETRY_AFTER),
        backpressure: header(BACKPRESSURE),
        date: header(DATE),
        body: Vec::new(),
    };
    while let Some(chunk) = response.chunk().await? {
        let room = MAX_ANSWER_BYTES.saturating_sub(answer.body.len());
        answer.body.extend(chunk.iter().take(room));
        if chunk.len() > room {
            // What is cut is no JSON any more, and judged so.
            break;
        }
    }
    Ok(answer)
}

/// Reports events, each name at most once in an interval: an event becomes a batch, and a batch that fails must not make
/// the next event without end.
struct Alarms {
    alarm: Alarm,
    clock: Clock,
    interval: Duration,
    last: HashMap<&'static str, (Instant, u64)>,
    counters: Arc<DeliverCounters>,
}

impl Alarms {
    fn raise(&mut self, severity: Severity, event: &'static str, mut detail: String) {
        let now = Instant::now();
        let suppressed = match self.last.get_mut(event) {
            Some((last, suppressed)) if now.duration_since(*last) < self.interval => {
                *suppressed += 1;
                DeliverCounters::add(&self.counters.alarms_suppressed, 1);
                return;
            }
            Some((_, suppressed)) => *suppressed,
            None => 0,
        };
        self.last.insert(event, (now, 0));
        if suppressed > 0 {
            detail = format!("{detail} (and {suppressed} times since the last report)");
        }
        match severity {
            Severity::Info => tracing::info!(event, "{detail}"),
            Severity::Warning => tracing::warn!(event, "{detail}"),
            Severity::Error => tracing::error!(event, "{detail}"),
        }
        (self.alarm)(Event {
            time: (self.clock)(),
            severity,
            name: event,
            detail,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::fixtures::{authority, certificate, pki};
    use crate::spool::{SpoolSettings, Sync, WhenFull};

    /// A worker that delivers nothing, with a spool in `directory`.
    fn worker(directory: &std::path::Path) -> Worker<crate::spool::OsDisk> {
        let spool = SpoolSettings {
            max_bytes: 1 << 20,
            when_full: WhenFull::DropOldest,
            sync: Sync::Never,
        };
        let spool = Arc::new(Spool::open(directory, spool).unwrap());
        let identity = Identity::new(authority(), certificate(pki!("probe.pem")), pki!("probe.key")).unwrap();
        let settings = DeliverSettings::new("https://127.0.0.1:1");
        let (clock, alarm): (Clock, Alarm) = (Arc::new(|| 0), Arc::new(|_| {}));
        Worker::new(spool, &identity, settings, clock, alarm, Default::default()).unwrap()
    }

    #[test]
    fn a_body_may_take_as_long_as_a_slow_line_does() {
        let minute = Duration::from_secs(60);
        assert_eq!(patience(minute, 0), minute);
        assert_eq!(patience(minute, 1 << 20), minute + Duration::from_secs(64));
    }

    #[tokio::test]
    async fn of_several_waits_the_longest_holds() {
        let directory = tempfile::tempdir().unwrap();
        let mut worker = worker(directory.path());
        let seconds = Duration::from_secs;
        let left = |worker: &Worker<_>| worker.wait_until.unwrap() - Instant::now();
        worker.wait(Some(seconds(10)), false);
        assert!(left(&worker) <= seconds(10));
        // Of requests that were in flight with the first.
        worker.wait(Some(seconds(90)), true);
        worker.wait(Some(seconds(20)), false);
        assert!(left(&worker) > seconds(60), "{:?}", left(&worker));
        assert_eq!(worker.backoff.failures(), 1);
        worker.wait(Some(seconds(1 << 40)), false);
        assert!(
            (599..=600).contains(&left(&worker).as_secs()),
            "a Core cannot put it to sleep for good"
        );
        // Not trusted: asked again in a minute, but not before the other wait is over.
        worker.wait_at_least(Instant::now() + worker.settings.refused_interval);
        assert!(left(&worker) > seconds(500));
    }

    #[tokio::test]
    async fn a_wait_that_ends_after_the_look_at_the_spool_is_not_slept_through() {
        let directory = tempfile::tempdir().unwrap();
        let mut worker = worker(directory.path());
        let now = Instant::now();
        let end = now + Duration::from_millis(1);
        worker.wait_until = Some(end);
        worker.launch(now);
        // However late it is by now.
        assert_eq!(worker.wakes_at(now + Duration::from_millis(2)), end);
        worker.launch(end);
        assert_eq!(worker.wakes_at(end), end + IDLE);
    }
}
