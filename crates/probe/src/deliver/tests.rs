//! Delivery against a Core made for tests: real TLS, answers as the test wants them.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use self::receiver::{Core, Reply, Request, answer, archived, receipt_for, sign_receipt};
use super::answer::{Answer, Cause, Verdict, judge};
use super::{Alarm, DeliverCounters, DeliverError, DeliverSettings, DeliverState, Delivery, Identity, drive};
use crate::counters::LedgerEntry;
use crate::seal::fixtures::{NOW, PROBE, authority, certificate, chains, pki};
use crate::seal::ipc::Frame;
use crate::seal::jws::{Digest, to_base64url};
use crate::seal::manifest::{Claims, Manifest};
use crate::seal::receipt::{RECEIPT_TYPE, Receipt, Status};
use crate::seal::sealer::Clock;
use crate::spool::{Entry, Form, Loaded, OsDisk, Spool, SpoolSettings, Stored, Sync, WhenFull};

mod receiver;

// --- a probe ----------------------------------------------------------------------------------------------------------

struct Probe {
    directory: tempfile::TempDir,
    spool: Arc<Spool<OsDisk>>,
    alarms: Arc<Mutex<Vec<(&'static str, String)>>>,
    delivery: Option<Delivery>,
}

fn settings(url: String) -> DeliverSettings {
    DeliverSettings {
        backoff_min: Duration::from_millis(1),
        backoff_max: Duration::from_millis(20),
        refused_interval: Duration::from_millis(5),
        unreadable_interval: Duration::from_millis(5),
        alarm_interval: Duration::ZERO,
        ..DeliverSettings::new(url)
    }
}

fn identity(certificate_pem: &[u8], key_pem: &[u8]) -> Identity {
    Identity::new(authority(), certificate(certificate_pem), key_pem).unwrap()
}

impl Probe {
    fn new(batches: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let settings = SpoolSettings {
            max_bytes: 16 << 20,
            when_full: WhenFull::DropOldest,
            sync: Sync::Never,
        };
        let spool = Arc::new(Spool::open(&directory.path().join("buffer"), settings).unwrap());
        for sealed in chains().iter().flatten().take(batches) {
            assert!(matches!(spool.store(sealed), Stored::Batch));
        }
        Self {
            directory,
            spool,
            alarms: Arc::default(),
            delivery: None,
        }
    }

    fn deliver(self, settings: DeliverSettings) -> Self {
        self.deliver_as(&identity(pki!("probe.pem"), pki!("probe.key")), settings)
    }

    fn deliver_as(mut self, identity: &Identity, settings: DeliverSettings) -> Self {
        let alarms = Arc::clone(&self.alarms);
        let alarm: Alarm = Arc::new(move |event| alarms.lock().unwrap().push((event.name, event.detail)));
        let clock: Clock = Arc::new(|| NOW * 1_000_000_000);
        self.delivery =
            Some(Delivery::start(Arc::clone(&self.spool), identity, settings, clock, alarm).unwrap());
        self
    }

    fn state(&self) -> &DeliverState {
        self.delivery.as_ref().unwrap().state()
    }

    fn counters(&self) -> &DeliverCounters {
        self.delivery.as_ref().unwrap().counters()
    }

    #[track_caller]
    fn wait(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = crate_now() + Duration::from_secs(20);
        while !condition(self) {
            assert!(
                crate_now() < deadline,
                "{what} did not happen: {:?} {:?}",
                self.counters(),
                self.alarms
            );
            std::thread::yield_now();
        }
    }

    fn wait_until_empty(&self) {
        self.wait("delivery of everything", |probe| {
            probe.spool.pending_entries() == 0
        });
    }

    fn alarm(&self, event: &str) -> Option<String> {
        self.alarms
            .lock()
            .unwrap()
            .iter()
            .find(|(name, _)| *name == event)
            .map(|(_, detail)| detail.clone())
    }

    /// Ends delivery and checks the books.
    fn shutdown(&mut self, drain: Duration) -> Arc<DeliverCounters> {
        let delivery = self.delivery.take().unwrap();
        let counters = Arc::clone(delivery.counters());
        delivery.shutdown(drain);
        assert_eq!(counters.imbalance(), 0, "{counters:?}");
        assert_eq!(
            self.spool.counters().imbalance(),
            0,
            "{:?}",
            self.spool.counters()
        );
        counters
    }
}

#[allow(clippy::disallowed_methods, reason = "a deadline of the test itself")]
fn crate_now() -> Instant {
    Instant::now()
}

fn value(entries: &[LedgerEntry], account: &str, reason: &str) -> u64 {
    entries
        .iter()
        .find(|e| e.account == account && e.reason == reason)
        .unwrap()
        .value
        .unwrap()
}

// --- tests ------------------------------------------------------------------------------------------------------------

#[test]
fn everything_is_delivered_byte_for_byte_from_the_oldest_on() {
    let core = Core::start(archived);
    let mut probe = Probe::new(12).deliver(settings(core.url()));
    probe.wait_until_empty();
    let counters = probe.shutdown(Duration::ZERO);
    let mut requests = core.requests();
    assert!(requests[0].number < 4, "the first four are in flight together");
    requests.sort_by_key(|request| request.claims().seq);
    let bodies: Vec<&[u8]> = requests.iter().map(|request| &request.body[..]).collect();
    assert!(
        bodies
            == chains()[0][..12]
                .iter()
                .map(|sealed| &sealed.bytes[..])
                .collect::<Vec<_>>()
    );
    assert!(
        requests
            .iter()
            .all(|r| r.path == "/v1/batches" && r.content_type == "application/vnd.apache.arrow.stream")
    );
    assert_eq!(
        value(&counters.ledger_entries(), "delivery_answers", "acknowledged"),
        12
    );
    assert_eq!(
        value(
            &probe.spool.counters().ledger_entries(),
            "batches_acknowledged",
            ""
        ),
        12
    );
    let records: u64 = chains()[0][..12]
        .iter()
        .filter(|sealed| sealed.claims.kind == crate::seal::Kind::Flow)
        .map(|sealed| u64::from(sealed.claims.rows))
        .sum();
    assert!(records > 0);
    for account in ["events_transmitted", "events_acknowledged"] {
        let entries = probe.spool.counters().ledger_entries();
        assert_eq!(value(&entries, account, ""), records, "{account}");
    }
}

#[test]
fn what_comes_while_delivery_runs_is_delivered_too() {
    let core = Core::start(archived);
    let probe = Probe::new(0).deliver(settings(core.url()));
    for sealed in &chains()[1][..3] {
        probe.spool.store(sealed);
        probe.wait_until_empty();
    }
    assert_eq!(core.requests().len(), 3);
}

#[test]
fn manifests_of_dropped_batches_go_their_own_way() {
    let core = Core::start(archived);
    let directory = tempfile::tempdir().unwrap();
    let spool_settings = SpoolSettings {
        max_bytes: 160 * 1024,
        when_full: WhenFull::DropOldest,
        sync: Sync::Never,
    };
    let spool = Arc::new(Spool::open(directory.path(), spool_settings).unwrap());
    for sealed in &chains()[0] {
        assert!(matches!(spool.store(sealed), Stored::Batch));
    }
    let probe = Probe {
        directory,
        spool,
        ..Probe::new(0)
    }
    .deliver(settings(core.url()));
    probe.wait_until_empty();
    let requests = core.requests();
    let manifests: Vec<_> = requests
        .iter()
        .filter(|request| request.path == "/v1/manifests")
        .collect();
    assert!(
        !manifests.is_empty()
            && manifests
                .iter()
                .all(|request| request.content_type == "application/jose")
    );
    let mut seqs: Vec<u64> = requests.iter().map(|request| request.claims().seq).collect();
    seqs.sort_unstable();
    seqs.dedup();
    let lost = value(&probe.spool.counters().ledger_entries(), "manifests_lost", "");
    assert_eq!(
        seqs.len() as u64 + lost,
        chains()[0].len() as u64,
        "each came, or is counted"
    );
}

#[test]
fn refused_for_good_is_put_away_and_the_rest_goes_on() {
    let core = Core::start(|request| match request.claims().seq {
        1 => answer(
            422,
            r#"{"status":"REJECTED","error":"signature","detail":"it does\nnot hold"}"#,
        ),
        2 => answer(409, r#"{"status":"FORK"}"#),
        3 => answer(400, r#"{"status":"REJECTED","error":"malformed"}"#),
        4 => answer(413, r#"{"status":"REJECTED","error":"too_large"}"#),
        _ => archived(request),
    });
    let mut probe = Probe::new(6).deliver(settings(core.url()));
    probe.wait_until_empty();
    let counters = probe.shutdown(Duration::ZERO).ledger_entries();
    assert_eq!(value(&counters, "delivery_answers", "rejected"), 3);
    assert_eq!(value(&counters, "delivery_answers", "fork"), 1);
    assert_eq!(
        value(
            &probe.spool.counters().ledger_entries(),
            "batches_rejected",
            "refused"
        ),
        4
    );
    assert_eq!(core.requests().len(), 6, "nothing is sent twice");
    let detail = probe.alarm("batch_rejected").unwrap();
    assert!(detail.contains("the Core answered"), "{detail}");
    assert!(probe.alarm("batch_forked").unwrap().contains("batch 2 of chain"));
}

#[test]
fn a_failing_core_is_tried_until_it_works() {
    for reply in [
        || answer(503, r#"{"status":"ERROR","error":"disk_full"}"#),
        || answer(500, ""),
        || Reply::Answer(429, "Retry-After: 0\r\n", String::new()),
        || answer(202, r#"{"status":"BACKPRESSURE"}"#),
        || Reply::Answer(200, "X-Backpressure: true\r\n", String::new()),
        || answer(404, "what?"),
        // What a proxy says, or a Core that did not get the whole body.
        || answer(400, "no json"),
        || answer(413, "<html>413 Request Entity Too Large</html>"),
        || answer(400, r#"{"status":"ERROR","error":"slow"}"#),
        || answer(409, ""),
        || answer(422, r#"{"detail":"no status"}"#),
        || Reply::Hang,
    ] {
        let core = Core::start(move |request| {
            if request.number < 5 {
                reply()
            } else {
                archived(request)
            }
        });
        let mut probe = Probe::new(6).deliver(settings(core.url()));
        probe.wait_until_empty();
        let counters = probe.shutdown(Duration::ZERO);
        assert!(core.requests().len() >= 11);
        assert_eq!(
            value(&counters.ledger_entries(), "delivery_answers", "acknowledged"),
            6
        );
        let entries = probe.spool.counters().ledger_entries();
        let records = value(&entries, "events_acknowledged", "");
        assert_eq!(
            value(&entries, "events_transmitted", ""),
            records,
            "each counts once"
        );
        assert!(probe.alarm("delivery_resumed").is_some());
    }
}

#[test]
fn what_took_too_long_or_broke_off_is_told_from_other_trouble() {
    let entry = Entry {
        chain: chains()[0][1].claims.chain,
        seq: 1,
        form: Form::Batch,
    };
    let loaded = Loaded {
        bytes: Vec::new(),
        claims: chains()[0][1].claims.clone(),
        head: chains()[0][1].head(),
    };
    for (error, expected) in [("slow", true), ("cut", true), ("disk_full", false), ("", false)] {
        let answer = Answer {
            code: 503,
            body: format!(r#"{{"status":"ERROR","error":"{error}"}}"#).into_bytes(),
            ..Answer::default()
        };
        let verdict = judge(&answer, &entry, &loaded, &authority(), NOW);
        let Verdict::BackOff { is_slow, .. } = verdict else {
            panic!("{verdict:?}")
        };
        assert_eq!(is_slow, expected, "{error}");
    }
}

#[test]
fn a_line_that_bears_one_request_at_a_time_delivers_everything() {
    let busy = Arc::new(AtomicUsize::new(0));
    let core = Core::start(move |request| {
        let others = busy.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(50));
        let reply = if others > 0 {
            answer(503, r#"{"status":"ERROR","error":"slow"}"#)
        } else {
            archived(request)
        };
        busy.fetch_sub(1, Ordering::SeqCst);
        reply
    });
    let mut probe = Probe::new(12).deliver(settings(core.url()));
    probe.wait_until_empty();
    let counters = probe.shutdown(Duration::ZERO);
    let slow = value(&counters.ledger_entries(), "delivery_answers", "server_error");
    // Of the first four, and of a try with two; with four again after each success it would be three of five.
    assert!(slow <= 6, "{slow} requests were too slow");
}

#[test]
fn a_receipt_in_an_overloaded_answer_counts() {
    let core = Core::start(|request| match archived(request) {
        Reply::Answer(code, _, body) => Reply::Answer(code, "X-Backpressure: true\r\n", body),
        hang @ Reply::Hang => hang,
    });
    let probe = Probe::new(5).deliver(settings(core.url()));
    probe.wait_until_empty();
    assert_eq!(core.requests().len(), 5);
}

#[test]
fn a_probe_that_is_not_trusted_stops_and_asks_again() {
    let trusted = Arc::new(AtomicBool::new(false));
    let gate = Arc::clone(&trusted);
    let core = Core::start(move |request| {
        if gate.load(Ordering::SeqCst) {
            return archived(request);
        }
        answer(
            403,
            r#"{"status":"REFUSED","error":"revoked","detail":"the certificate is revoked"}"#,
        )
    });
    let probe = Probe::new(6).deliver(settings(core.url()));
    probe.wait("a refusal", |probe| {
        probe.state().is_refused() && probe.counters().in_flight() == 0
    });
    assert!(
        probe
            .alarm("delivery_refused")
            .unwrap()
            .contains("the certificate is revoked")
    );
    assert_eq!(probe.spool.pending_entries(), 6, "nothing is lost");
    trusted.store(true, Ordering::SeqCst);
    probe.wait_until_empty();
    probe.wait("the all-clear", |probe| probe.alarm("delivery_resumed").is_some());
    assert!(!probe.state().is_refused());
}

#[test]
fn a_core_that_is_down_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let probe = Probe::new(3).deliver(settings(format!("https://{address}/")));
    probe.wait("a few tries", |probe| probe.state().failures_in_a_row() > 3);
    assert!(
        probe
            .alarm("core_unreachable")
            .unwrap()
            .contains("cannot be reached")
    );
    let core = Core::start_on(
        TcpListener::bind(address).unwrap(),
        pki!("core.pem"),
        pki!("core.key"),
        archived,
    );
    probe.wait_until_empty();
    assert_eq!(core.requests().len(), 3);
}

#[test]
fn shutdown_waits_for_what_is_left_but_not_longer_than_granted() {
    let core = Core::start(archived);
    let mut probe = Probe::new(20).deliver(settings(core.url()));
    probe.shutdown(Duration::from_secs(20));
    assert_eq!(probe.spool.pending_entries(), 0);

    let core = Core::start(|_| Reply::Hang);
    let mut probe = Probe::new(5).deliver(settings(core.url()));
    probe.shutdown(Duration::from_millis(30));
    assert_eq!(probe.spool.pending_entries(), 5);
    assert!(
        probe.spool.take_oldest(crate_now()).is_some(),
        "nothing is held as in flight"
    );
}

#[test]
fn a_delivery_thread_that_panics_is_noticed() {
    let core = Core::start(|_| answer(500, ""));
    let mut probe = Probe::new(1);
    // Asked by the request, where a panic is caught, and then for the alarm, where none is.
    let clock: Clock = Arc::new(|| panic!("a bug in the thread"));
    let identity = identity(pki!("probe.pem"), pki!("probe.key"));
    let (spool, alarm): (_, Alarm) = (Arc::clone(&probe.spool), Arc::new(|_| {}));
    probe.delivery = Some(Delivery::start(spool, &identity, settings(core.url()), clock, alarm).unwrap());
    probe.wait("the end of the thread", |probe| probe.state().has_panicked());
    let delivery = probe.delivery.take().unwrap();
    let end = std::panic::AssertUnwindSafe(|| delivery.shutdown(Duration::ZERO));
    assert!(std::panic::catch_unwind(end).is_err());
}

#[test]
fn certificates_of_another_authority_are_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let core = Core::start_on(listener, pki!("other-core.pem"), pki!("other-core.key"), archived);
    let probe = Probe::new(1).deliver(settings(core.url()));
    probe.wait("a failure", |probe| probe.alarm("core_unreachable").is_some());
    let detail = probe.alarm("core_unreachable").unwrap();
    assert!(
        detail.contains("was not issued by CN=test CA, the CA of CA_CERT_PATH"),
        "{detail}"
    );

    let core = Core::start(archived);
    let identity = identity(pki!("other-probe.pem"), pki!("other-probe.key"));
    let probe = Probe::new(1).deliver_as(&identity, settings(core.url()));
    probe.wait("a refusal", |probe| probe.alarm("delivery_refused").is_some());
    let detail = probe.alarm("delivery_refused").unwrap();
    assert!(
        detail.contains("the Core refused the certificate of CN=probe-1"),
        "{detail}"
    );
    assert_eq!(probe.spool.pending_entries(), 1);

    // The right CA, another host.
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let core = Core::start_on(listener, pki!("core.pem"), pki!("core.key"), archived);
    let probe = Probe::new(1).deliver(settings(core.url()));
    probe.wait("a failure", |probe| probe.alarm("core_unreachable").is_some());
    let detail = probe.alarm("core_unreachable").unwrap();
    assert!(
        detail.contains("it is not for the host in CORE_API_URL"),
        "{detail}"
    );
}

#[test]
fn a_probe_that_poses_as_a_core_gets_nothing() {
    // Same CA, right host, right usage: only the role is another.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let posing = Core::start_on(listener, pki!("posing.pem"), pki!("posing.key"), archived);
    let mut probe = Probe::new(2).deliver(settings(posing.url()));
    probe.wait("a failure", |probe| probe.alarm("core_unreachable").is_some());
    let detail = probe.alarm("core_unreachable").unwrap();
    assert!(
        detail.contains("the Core's certificate is not accepted: it does not carry the Core role"),
        "{detail}"
    );
    assert!(!detail.contains('\n'), "{detail}");
    // An ordinary probe certificate has neither the host's name nor the usage; what is said is what matters.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stolen = Core::start_on(listener, pki!("probe2.pem"), pki!("probe2.key"), archived);
    let second = Probe::new(1).deliver(settings(stolen.url()));
    second.wait("a failure", |probe| probe.alarm("core_unreachable").is_some());
    assert!(
        second
            .alarm("core_unreachable")
            .unwrap()
            .contains("does not carry the Core role")
    );

    probe.shutdown(Duration::ZERO);
    assert_eq!(probe.spool.pending_entries(), 2, "everything is kept");
    assert!(posing.requests().is_empty(), "and nothing of it was sent");
    assert!(stolen.requests().is_empty());
}

#[track_caller]
fn refused(verdict: &Verdict, part: &str) {
    let Verdict::BackOff {
        cause: Cause::Receipt,
        reason,
        ..
    } = verdict
    else {
        panic!("{verdict:?}")
    };
    assert!(reason.contains(part), "{reason}");
}

#[test]
fn only_the_right_receipt_deletes() {
    let entry = Entry {
        chain: chains()[0][1].claims.chain,
        seq: 1,
        form: Form::Batch,
    };
    let sealed = &chains()[0][1];
    let loaded = Loaded {
        bytes: sealed.bytes.clone(),
        claims: sealed.claims.clone(),
        head: sealed.head(),
    };
    let request = Request {
        path: "/v1/batches".to_owned(),
        content_type: String::new(),
        body: sealed.bytes.clone(),
        number: 0,
    };
    let good = receipt_for(&request);
    let verdict = |entry: &Entry, jws: &str, now: i64| {
        let body = format!(r#"{{"status":"ARCHIVED","receipt":"{jws}"}}"#).into_bytes();
        judge(
            &Answer {
                code: 200,
                body,
                ..Answer::default()
            },
            entry,
            &loaded,
            &authority(),
            now,
        )
    };
    let signed = |receipt: &Receipt| sign_receipt(pki!("core.key"), pki!("core.pem"), receipt);
    let accepted = Verdict::Acknowledged {
        slow_down: false,
        retry_after: None,
    };
    assert_eq!(verdict(&entry, &signed(&good), NOW), accepted);

    let foreign = sign_receipt(pki!("other-core.key"), pki!("other-core.pem"), &good);
    refused(&verdict(&entry, &foreign, NOW), "not accepted under the CA");
    let mixed = sign_receipt(pki!("other-core.key"), pki!("core.pem"), &good);
    refused(&verdict(&entry, &mixed, NOW), "wrong signature");
    let by_probe = sign_receipt(pki!("core.key"), pki!("probe.pem"), &good);
    refused(&verdict(&entry, &by_probe, NOW), "not accepted under the CA");
    refused(
        &verdict(&entry, &signed(&good), 1_000_000_000),
        "not accepted under the CA",
    );
    for (other, part) in [
        (
            Receipt {
                seq: 2,
                ..good.clone()
            },
            "another position",
        ),
        (
            Receipt {
                probe: "probe-2".to_owned(),
                ..good.clone()
            },
            "another probe",
        ),
        (
            Receipt {
                chain: chains()[1][0].claims.chain,
                ..good.clone()
            },
            "another chain",
        ),
        (
            Receipt {
                manifest: Digest([0; 32]),
                ..good.clone()
            },
            "another manifest",
        ),
        (
            Receipt {
                status: Status::ManifestOnly,
                ..good.clone()
            },
            "another status",
        ),
        (
            Receipt {
                iss: "core-2".to_owned(),
                ..good.clone()
            },
            "does not carry the Core role",
        ),
        (Receipt { v: 2, ..good.clone() }, "version 2"),
    ] {
        refused(&verdict(&entry, &signed(&other), NOW), part);
    }
    // The Core may hold the batch of a bare manifest already.
    let manifest = Entry {
        form: Form::Manifest,
        ..entry
    };
    assert_eq!(verdict(&manifest, &signed(&good), NOW), accepted);
    refused(&verdict(&entry, "e30.e30.AQ", NOW), "malformed");
    assert_eq!(sealed.claims.iss, PROBE);
}

#[test]
fn a_core_whose_clock_is_behind_destroys_nothing() {
    let sealed = &chains()[0][1];
    let entry = Entry {
        chain: sealed.claims.chain,
        seq: 1,
        form: Form::Batch,
    };
    let loaded = Loaded {
        bytes: sealed.bytes.clone(),
        claims: sealed.claims.clone(),
        head: sealed.head(),
    };
    let body = br#"{"status":"REJECTED","error":"future","detail":"sealed 7200 s in the future"}"#;
    let answer = Answer {
        code: 422,
        date: Some("Mon, 21 Sep 2026 12:13:20 GMT".to_owned()),
        body: body.to_vec(),
        ..Answer::default()
    };
    let verdict = |now| judge(&answer, &entry, &loaded, &authority(), now);
    let Verdict::BackOff {
        cause: Cause::Server,
        reason,
        ..
    } = verdict(NOW + 60)
    else {
        panic!("{:?}", verdict(NOW + 60))
    };
    for clock in [
        "sealed at 2026-09-21T14:13:20Z",
        "this probe's clock says 2026-09-21T14:14:20Z",
        "the Core's Mon, 21 Sep 2026 12:13:20 GMT",
    ] {
        assert!(reason.contains(clock), "{reason}");
    }
    // The probe's own clock agrees that it comes from the future.
    assert!(matches!(verdict(NOW - 60), Verdict::Rejected { fork: false, .. }));
}

#[test]
fn a_name_server_that_does_not_answer_does_not_hold_up_the_end() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (started, starts) = std::sync::mpsc::channel();
    let (_answer, lookup) = std::sync::mpsc::channel::<()>();
    let began = crate_now();
    drive(runtime, async move {
        // As the HTTP client's resolver has it, and nobody waits for it any more.
        drop(tokio::task::spawn_blocking(move || {
            started.send(()).unwrap();
            lookup.recv_timeout(Duration::from_secs(10))
        }));
        starts.recv().unwrap();
    });
    assert!(crate_now() - began < Duration::from_secs(5));
}

/// Replaces the files of the oldest `count` batches by directories: to read one fails, for root too.
fn make_unreadable(probe: &Probe, count: usize) -> Vec<PathBuf> {
    let pending = probe.directory.path().join("buffer/pending");
    let oldest = chains().iter().flatten().take(count).map(|sealed| Entry {
        chain: sealed.claims.chain,
        seq: sealed.claims.seq,
        form: Form::Batch,
    });
    let paths: Vec<_> = oldest.map(|entry| pending.join(entry.file_name())).collect();
    for path in &paths {
        std::fs::remove_file(path).unwrap();
        std::fs::create_dir(path).unwrap();
    }
    paths
}

#[test]
fn batches_that_the_disk_does_not_give_keep_back_no_other() {
    let core = Core::start(archived);
    let probe = Probe::new(72);
    let unreadable = make_unreadable(&probe, 66);
    let mut settings = settings(core.url());
    // They come first, and are not asked for again while this test runs.
    settings.unreadable_interval = Duration::from_secs(3600);
    let mut probe = probe.deliver(settings);
    probe.wait("delivery of the others", |probe| {
        probe.spool.pending_entries() == 66
    });
    probe.shutdown(Duration::ZERO);
    let entries = probe.spool.counters().ledger_entries();
    assert_eq!(value(&entries, "batches_acknowledged", ""), 6);
    assert_eq!(value(&entries, "batches_rejected", "unreadable"), 0);
    assert!(unreadable.iter().all(|path| path.exists()));
}

#[test]
fn a_batch_that_the_disk_does_not_give_again_and_again_is_put_away() {
    let core = Core::start(archived);
    let probe = Probe::new(48);
    let unreadable = make_unreadable(&probe, 1);
    let mut settings = settings(core.url());
    // It is asked for before each of the others.
    settings.unreadable_interval = Duration::ZERO;
    let mut probe = probe.deliver(settings);
    probe.wait_until_empty();
    let detail = probe.alarm("batch_unreadable").unwrap();
    assert!(
        detail.contains("batch 0 of chain") && detail.contains("10 times"),
        "{detail}"
    );
    probe.shutdown(Duration::ZERO);
    let entries = probe.spool.counters().ledger_entries();
    assert_eq!(value(&entries, "batches_rejected", "unreadable"), 1);
    assert_eq!(value(&entries, "batches_acknowledged", ""), 47);
    assert!(!unreadable[0].exists(), "it is in rejected/");
}

#[test]
fn a_bad_address_is_one_clear_line() {
    for (url, part) in [
        ("http://core:8443", "over TLS only"),
        ("core:8443", "over TLS only"),
        ("", "relative URL"),
        ("https://core/?x=1", "and nothing else"),
        ("https://user@core/", "and nothing else"),
    ] {
        let probe = Probe::new(0);
        let identity = identity(pki!("probe.pem"), pki!("probe.key"));
        let clock: Clock = Arc::new(|| 0);
        let started = Delivery::start(
            Arc::clone(&probe.spool),
            &identity,
            settings(url.into()),
            clock,
            Arc::new(|_| {}),
        );
        let Err(error @ DeliverError::Url { .. }) = started else {
            panic!("{url} was accepted")
        };
        assert!(error.to_string().contains(part), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
}
