//! Sealing and verification against the vectors of `tests/vectors`, and against every kind of damage.

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, UInt64Type};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::{
    BoolBuilder, Endianness, FieldBuilder, KeyValueBuilder, MessageBuilder, MessageHeader, MetadataVersion,
    SchemaBuilder, Type,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flatbuffers::FlatBufferBuilder;
use proptest::prelude::*;
use serde_json::Value;

use super::batch::{Draft, Leaves, Position, Press, leaf_hashes, row_cbor, seal};
use super::fixtures::{NOW, PROBE, batch, certificate, chains, pki, signer};
use super::ipc::{Frame, FrameError, MANIFEST_KEY, MAX_ROWS, MAX_STREAM_BYTES};
use super::ledger::{Event, Severity, event_batch, ledger_batch};
use super::manifest::{ChainId, Head, Kind};
use super::merkle::{audit_path, root};
use super::proof::{ProofError, check_proof, prove};
use super::receipt::Authority;
use super::schema::{describe, fingerprint};
use super::verify::diagnose;
use super::{Certificate, Chain, Sealer, Signer, SignerError, VerifyError, hex, verify_batch};
use crate::counters::LedgerEntry;

// --- vectors ----------------------------------------------------------------------------------------------------------

macro_rules! vectors {
    ($name:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!(
            "../../../../tests/vectors/",
            $name,
            ".json"
        )))
        .unwrap()
    };
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn from_base64(value: &Value) -> Vec<u8> {
    STANDARD.decode(text(value)).unwrap()
}

fn from_hex(value: &Value) -> [u8; 32] {
    let bytes = text(value)
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    bytes
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap()
}

fn read_stream(bytes: &[u8]) -> RecordBatch {
    let reader = StreamReader::try_new(bytes, None).unwrap();
    let schema = reader.schema();
    concat_batches(&schema, &reader.map(Result::unwrap).collect::<Vec<_>>()).unwrap()
}

#[test]
fn leaves_are_those_of_the_vectors() {
    let vectors = vectors!("leaf");
    let batch = read_stream(&from_base64(&vectors["stream"]));
    assert_eq!(
        fingerprint(&describe(&batch.schema()).unwrap()).to_string(),
        text(&vectors["fingerprint"])
    );
    let leaves = leaf_hashes(&batch).unwrap();
    assert_eq!(leaves.len(), list(&vectors["rows"]).len());
    for (row, expected) in list(&vectors["rows"]).iter().enumerate() {
        assert_eq!(
            hex(&row_cbor(&batch, row).unwrap().unwrap()),
            text(&expected["cbor"]),
            "row {row}"
        );
        assert_eq!(hex(&leaves[row]), text(&expected["leaf"]), "row {row}");
    }
    assert_eq!(row_cbor(&batch, leaves.len()).unwrap(), None);
    for expected in list(&vectors["doubles"]) {
        let mut out = Vec::new();
        super::cbor::double(
            f64::from_bits(u64::from_str_radix(text(&expected["bits"]), 16).unwrap()),
            &mut out,
        );
        assert_eq!(hex(&out), text(&expected["cbor"]));
    }
}

#[test]
fn trees_are_those_of_the_vectors() {
    for tree in list(&vectors!("tree")["trees"]) {
        let leaves: Vec<_> = list(&tree["leaves"]).iter().map(from_hex).collect();
        assert_eq!(hex(&root(&leaves)), text(&tree["root"]));
        for path in list(&tree["paths"]) {
            let row = path["row"].as_u64().unwrap() as usize;
            let expected: Vec<_> = list(&path["path"]).iter().map(from_hex).collect();
            assert_eq!(audit_path(&leaves, row).unwrap(), expected);
        }
    }
}

#[test]
fn sealed_batches_of_the_vectors_verify() {
    let vectors = vectors!("sealed_batch");
    let trusted = [Certificate::from_der(&from_base64(&vectors["certificate"])).unwrap()];
    let mut before = None;
    for expected in list(&vectors["batches"]) {
        let verified = verify_batch(&from_base64(&expected["batch"]), &trusted).unwrap();
        assert_eq!(verified.signed.manifest, text(&expected["manifest"]));
        assert_eq!(
            verified.signed.manifest_digest.to_string(),
            text(&expected["digest"])
        );
        if let Some(before) = before {
            assert_eq!(verified.signed.claims.prev, Some(before));
        }
        before = Some(verified.signed.manifest_digest);
    }
}

#[test]
fn proofs_of_the_vectors_hold_and_are_those_that_are_made() {
    let batches = vectors!("sealed_batch");
    let trusted = [Certificate::from_der(&from_base64(&batches["certificate"])).unwrap()];
    let sealed = from_base64(&batches["batches"][0]["batch"]);
    for (row, expected) in list(&vectors!("proof")["proofs"]).iter().enumerate() {
        check_proof(&expected.to_string(), &trusted).unwrap();
        let proof = prove(&sealed, row as u64).unwrap();
        assert_eq!(
            &serde_json::from_str::<Value>(&proof.to_json().unwrap()).unwrap(),
            expected
        );
    }
    assert_eq!(
        prove(&sealed, 11).unwrap_err(),
        ProofError::NoRow { row: 11, rows: 11 }
    );
}

#[test]
fn receipts_of_the_vectors_verify() {
    let vectors = vectors!("receipt");
    let authority = Authority::from_der(&from_base64(&vectors["ca"])).unwrap();
    for expected in list(&vectors["receipts"]) {
        let receipt = authority.verify_receipt(text(&expected["receipt"]), NOW).unwrap();
        assert_eq!(serde_json::to_value(receipt).unwrap(), expected["claims"]);
        assert!(
            authority.verify_head(text(&expected["receipt"]), NOW).is_err(),
            "a receipt is no head"
        );
    }
    let head = authority
        .verify_head(text(&vectors["head"]["head"]), NOW)
        .unwrap();
    assert_eq!(serde_json::to_value(head).unwrap(), vectors["head"]["claims"]);
}

// --- sealing ----------------------------------------------------------------------------------------------------------

fn trusted() -> [Certificate; 1] {
    [certificate(pki!("probe.pem"))]
}

#[test]
fn what_is_sealed_verifies_and_is_what_was_given() {
    for chain in chains() {
        let mut before = chain[0].claims.prev;
        for sealed in chain {
            let verified = verify_batch(&sealed.bytes, &trusted()).unwrap();
            assert_eq!(verified.signed.claims, sealed.claims);
            assert_eq!(verified.signed.claims.prev, before);
            assert_eq!(verified.signed.claims.iss, PROBE);
            assert_eq!(verified.batch.num_rows(), sealed.claims.rows as usize);
            // The file is an ordinary Arrow stream.
            assert_eq!(read_stream(&sealed.bytes), verified.batch);
            before = Some(verified.signed.manifest_digest);
        }
    }
    let (first, second) = (&chains()[0], &chains()[1]);
    let last = first.last().unwrap().head();
    let claims = &second[0].claims;
    assert_eq!(
        (claims.prev_chain, claims.prev_seq),
        (Some(last.chain), Some(last.seq))
    );
    assert_eq!(first[0].claims.prev, None);
}

#[test]
fn ledgers_and_events_are_sealed_like_flows() {
    let mut chain = Chain::start(None).unwrap();
    let entries = [
        LedgerEntry {
            account: "frames_delivered",
            reason: "",
            worker: Some(0),
            value: Some(u64::MAX),
        },
        LedgerEntry {
            account: "frames_lost",
            reason: "ring",
            worker: None,
            value: None,
        },
    ];
    let events = [Event {
        time: 1,
        severity: Severity::Error,
        name: "batch_rejected",
        detail: "no\nway".to_owned(),
    }];
    for (kind, batch) in [
        (Kind::Ledger, ledger_batch(NOW * 1_000_000_000, &entries).unwrap()),
        (Kind::Event, event_batch(&events).unwrap()),
    ] {
        let sealed = chain.seal(kind, &batch, NOW, &signer()).unwrap();
        let verified = verify_batch(&sealed.bytes, &trusted()).unwrap();
        assert_eq!(verified.signed.claims.kind, kind);
        assert_eq!(verified.batch.columns(), batch.columns());
    }
    assert_eq!(chain.head().unwrap().seq, 1);
}

#[test]
fn a_slice_is_sealed_as_its_own_rows() {
    let whole = batch(50, 20);
    let position = Position {
        kind: Kind::Flow,
        chain: ChainId([1; 16]),
        seq: 0,
        previous: None,
        iat: NOW,
    };
    let sealed = seal(&whole.slice(20, 10), &position, &signer()).unwrap();
    let verified = verify_batch(&sealed.bytes, &trusted()).unwrap();
    assert_eq!(verified.leaves, leaf_hashes(&whole).unwrap()[20..30]);
}

mod sealer;

// --- keys -------------------------------------------------------------------------------------------------------------

#[test]
fn a_signer_refuses_what_would_not_verify() {
    let refused = |key: &[u8], pem: &[u8], probe: &str, now: i64| {
        let error = Signer::new(key, certificate(pem), probe, now)
            .unwrap_err()
            .to_string();
        assert!(!error.contains('\n'), "{error}");
        error
    };
    let (key, pem) = (pki!("probe.key"), pki!("probe.pem"));
    assert!(
        refused(pki!("probe2.key"), pem, PROBE, NOW)
            .contains("does not belong to the certificate of CN=probe-1")
    );
    assert!(refused(pki!("core.key"), pem, PROBE, NOW).contains("not an RSA key"));
    assert!(refused(b"nothing", pem, PROBE, NOW).contains("no unencrypted private key"));
    assert!(refused(pki!("expired.key"), pki!("expired.pem"), PROBE, NOW).contains("expired"));
    assert!(refused(key, pem, PROBE, 0).contains("clock"));
    for other in ["probe-2", "probe-10", "probe-1/", "", "probe"] {
        assert!(
            refused(key, pem, other, NOW).contains("must be `probe-1` or start with `probe-1/`"),
            "{other}"
        );
    }
    assert!(Signer::new(key, certificate(pem), "probe-1", NOW).is_ok());
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (key, pem) = (
        directory.path().join("probe.key"),
        directory.path().join("probe.pem"),
    );
    std::fs::write(&pem, pki!("probe.pem")).unwrap();
    assert!(matches!(
        Signer::load(&pem, &key, PROBE, NOW),
        Err(SignerError::Read {
            what: "private key",
            ..
        })
    ));
    std::fs::write(&key, pki!("probe.key")).unwrap();
    for mode in [0o644, 0o640, 0o604, 0o660] {
        std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
        let error = Signer::load(&pem, &key, PROBE, NOW).unwrap_err().to_string();
        assert!(
            error.contains(&format!("run `chmod 600 {}`", key.display())),
            "{error}"
        );
    }
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(Signer::load(&pem, &key, PROBE, NOW).unwrap().probe(), PROBE);
}

// --- damage -----------------------------------------------------------------------------------------------------------

fn small() -> &'static super::SealedBatch {
    &chains()[0][7]
}

#[test]
fn every_flipped_bit_is_found() {
    let sealed = small();
    for position in 0..sealed.bytes.len() * 8 {
        let mut bytes = sealed.bytes.clone();
        bytes[position / 8] ^= 1 << (position % 8);
        assert!(
            verify_batch(&bytes, &trusted()).is_err(),
            "bit {position} of {}",
            bytes.len() * 8
        );
    }
}

#[test]
fn every_cut_and_every_tail_is_found() {
    let sealed = small();
    for length in 0..sealed.bytes.len() {
        assert!(
            verify_batch(&sealed.bytes[..length], &trusted()).is_err(),
            "{length} bytes"
        );
    }
    let mut longer = sealed.bytes.clone();
    longer.push(0);
    assert_eq!(verify_batch(&longer, &trusted()).unwrap_err(), VerifyError::Body);
    assert!(matches!(
        verify_batch(&vec![0; MAX_STREAM_BYTES + 1], &trusted()).unwrap_err(),
        VerifyError::Frame(FrameError::TooLong(_))
    ));
}

#[test]
fn another_certificate_is_named() {
    let sealed = small();
    assert!(matches!(
        verify_batch(&sealed.bytes, &[]),
        Err(VerifyError::UnknownCertificate(_))
    ));
    let other = [certificate(pki!("probe2.pem"))];
    assert!(matches!(
        verify_batch(&sealed.bytes, &other),
        Err(VerifyError::UnknownCertificate(_))
    ));
}

#[test]
fn the_manifest_of_one_batch_does_not_fit_another() {
    let (one, other) = (&chains()[0][5], &chains()[0][6]);
    assert_eq!(one.manifest.len(), other.manifest.len());
    let range = Frame::open(&one.bytes).unwrap().manifest_range();
    let mut bytes = one.bytes.clone();
    bytes[range].copy_from_slice(other.manifest.as_bytes());
    assert_eq!(verify_batch(&bytes, &trusted()).unwrap_err(), VerifyError::Body);
    let found = diagnose(&bytes, &trusted());
    assert!(
        found.failures.contains(&VerifyError::Root),
        "{:?}",
        found.failures
    );
}

/// Seals other rows than those whose root is claimed, as a probe that lies could, to reach the checks behind the digest.
fn resealed(claims: impl FnOnce(&mut super::Claims)) -> Vec<u8> {
    let sealed = small();
    let mut forged = sealed.claims.clone();
    claims(&mut forged);
    let manifest = signer().sign(&forged).unwrap();
    let mut bytes = sealed.bytes.clone();
    let range = Frame::open(&bytes).unwrap().manifest_range();
    bytes[range].copy_from_slice(manifest.as_bytes());
    bytes
}

#[test]
fn signed_lies_about_the_records_are_found() {
    let zero = super::jws::Digest([0; 32]);
    assert!(verify_batch(&resealed(|_| ()), &trusted()).is_ok());
    let error = |claims: fn(&mut super::Claims)| verify_batch(&resealed(claims), &trusted()).unwrap_err();
    assert_eq!(error(|claims| claims.root.0[0] ^= 1), VerifyError::Root);
    assert_eq!(error(|claims| claims.body.0[0] ^= 1), VerifyError::Body);
    assert!(matches!(
        error(|claims| claims.schema.0[0] ^= 1),
        VerifyError::Schema { .. }
    ));
    assert!(matches!(
        error(|claims| claims.rows ^= 1),
        VerifyError::Rows { .. }
    ));
    assert!(matches!(
        error(|claims| claims.iss = "probe-2/eth0".into()),
        VerifyError::Issuer { .. }
    ));
    for wrong in [
        |claims: &mut super::Claims| claims.v = 2,
        |claims: &mut super::Claims| claims.seq = 0,
    ] {
        assert!(matches!(error(wrong), VerifyError::Manifest(_)));
    }
    assert_ne!(small().claims.root, zero);
}

#[test]
fn a_diagnosis_names_the_record() {
    // Incompressible text is stored as it is, so that a letter can be changed on disk.
    let sealed = &chains()[0][5];
    let rows = sealed.claims.rows as usize;
    assert!(rows > 2 && diagnose(&sealed.bytes, &trusted()).failures.is_empty());
    let text = batch(rows, 0);
    assert_eq!(text.num_rows(), rows);
    let mut position = Position {
        kind: Kind::Flow,
        chain: ChainId([1; 16]),
        seq: 3,
        previous: None,
        iat: NOW,
    };
    position.previous = Some(Head {
        chain: ChainId([1; 16]),
        seq: 2,
        manifest: super::jws::Digest([0; 32]),
    });
    let sealed = seal(&batch(5, 11), &position, &signer()).unwrap();
    let verified = verify_batch(&sealed.bytes, &trusted()).unwrap();
    let texts = verified.batch.column(1).as_string::<i32>();
    let place = memchr::memmem::find(&sealed.bytes, texts.value(3).as_bytes()).expect("stored as it is");
    let mut bytes = sealed.bytes.clone();
    bytes[place] ^= 1;
    let found = diagnose(&bytes, &trusted());
    assert_eq!(found.failures, [VerifyError::Body, VerifyError::Root]);
    assert_eq!(found.altered_rows, [3]);
    assert!(prove(&bytes, 0).is_err());

    // A bit beside the records: they still hold.
    let tags = memchr::memmem::find(&sealed.bytes, b"dpi.row_tags").unwrap();
    let mut bytes = sealed.bytes.clone();
    bytes[tags] ^= 1;
    let found = diagnose(&bytes, &trusted());
    assert_eq!(found.failures, [VerifyError::Body]);
    assert!(found.records_hold && found.altered_rows.is_empty());

    // A bit in the signature alone.
    let mut bytes = sealed.bytes.clone();
    let range = Frame::open(&bytes).unwrap().manifest_range();
    bytes[range.end - 100] ^= 1;
    let found = diagnose(&bytes, &trusted());
    assert!(matches!(
        found.failures[..],
        [VerifyError::Signature { .. } | VerifyError::Manifest(_)]
    ));
}

#[test]
fn declared_sizes_are_bounded_before_anything_is_decoded() {
    let sealed = small();
    let contents = Frame::open(&sealed.bytes).unwrap().contents().unwrap();
    // The first compressed or stored buffer starts with its declared length: claim a terabyte.
    let prefix = contents.first_declared_length();
    let place = memchr::memmem::find_iter(&sealed.bytes, &prefix.to_le_bytes())
        .last()
        .unwrap();
    let mut bytes = sealed.bytes.clone();
    bytes[place..place + 8].copy_from_slice(&(1i64 << 40).to_le_bytes());
    let error = Frame::open(&bytes).unwrap().contents().unwrap_err();
    assert!(matches!(error, FrameError::Excessive { .. }), "{error}");
    bytes[place..place + 8].copy_from_slice(&(-2i64).to_le_bytes());
    assert!(Frame::open(&bytes).unwrap().contents().is_err());
}

/// A stream of nothing but a Schema message of one column.
fn schema_message(order: Endianness) -> Vec<u8> {
    let mut fbb = FlatBufferBuilder::new();
    let data_type = BoolBuilder::new(&mut fbb).finish().as_union_value();
    let name = fbb.create_string("flag");
    let mut field = FieldBuilder::new(&mut fbb);
    field.add_name(name);
    field.add_type_type(Type::Bool);
    field.add_type_(data_type);
    let field = field.finish();
    let fields = fbb.create_vector(&[field]);
    let (key, value) = (fbb.create_string(MANIFEST_KEY), fbb.create_string("a.b.c"));
    let mut pair = KeyValueBuilder::new(&mut fbb);
    pair.add_key(key);
    pair.add_value(value);
    let pair = pair.finish();
    let metadata = fbb.create_vector(&[pair]);
    let mut schema = SchemaBuilder::new(&mut fbb);
    schema.add_endianness(order);
    schema.add_fields(fields);
    schema.add_custom_metadata(metadata);
    let schema = schema.finish().as_union_value();
    let mut message = MessageBuilder::new(&mut fbb);
    message.add_version(MetadataVersion::V5);
    message.add_header_type(MessageHeader::Schema);
    message.add_header(schema);
    let message = message.finish();
    fbb.finish(message, None);
    let mut metadata = fbb.finished_data().to_vec();
    metadata.resize(metadata.len().next_multiple_of(8), 0);
    let length = u32::try_from(metadata.len()).unwrap();
    [&[0xff; 4][..], &length.to_le_bytes(), &metadata].concat()
}

#[test]
fn a_stream_marked_big_endian_is_refused() {
    let error = |order| {
        let bytes = schema_message(order);
        Frame::open(&bytes).unwrap().contents().unwrap_err().to_string()
    };
    assert_eq!(
        error(Endianness::Big),
        "its Schema message is malformed: its byte order is not little-endian"
    );
    assert!(error(Endianness::Little).contains("inside the RecordBatch message"));
}

#[test]
fn a_forged_proof_does_not_hold() {
    let sealed = small();
    let proof = prove(&sealed.bytes, 0).unwrap();
    let check = |proof: &super::proof::Proof| check_proof(&proof.to_json().unwrap(), &trusted());
    assert!(check(&proof).is_ok());
    assert_eq!(proof.values.len(), 2);
    let mut forged = proof.clone();
    forged.values[0] = "7".into();
    assert_eq!(check(&forged).unwrap_err(), ProofError::NotIncluded);
    let mut forged = proof.clone();
    forged.row += 1;
    assert!(check(&forged).is_err());
    let mut forged = proof.clone();
    forged.columns[1].name = "other".into();
    assert!(matches!(
        check(&forged).unwrap_err(),
        ProofError::Batch(VerifyError::Schema { .. })
    ));
    for (column, value) in [
        (0, Value::from(7)),
        (0, "07".into()),
        (0, "-1".into()),
        (1, Value::from(1.5)),
    ] {
        let mut forged = proof.clone();
        forged.values[column] = value;
        assert!(matches!(check(&forged).unwrap_err(), ProofError::Value(_)));
    }
    let mut forged = proof.clone();
    forged.values.pop();
    assert!(matches!(check(&forged).unwrap_err(), ProofError::Value(_)));
    let mut forged = proof;
    forged.rows += 1;
    assert!(matches!(
        check(&forged).unwrap_err(),
        ProofError::Batch(VerifyError::Rows { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever bytes come, there is an answer: no panic, no huge allocation.
    #[test]
    fn any_bytes_are_survived(
        index in 0usize..24,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        cut in any::<prop::sample::Index>(),
        noise in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = chains()[0][index].bytes.clone();
        for (place, value) in edits {
            *place.get_mut(&mut bytes) = value;
        }
        let found = diagnose(&bytes, &trusted());
        prop_assert_eq!(found.failures.is_empty(), bytes == chains()[0][index].bytes);
        bytes.truncate(cut.index(bytes.len()));
        bytes.extend(noise);
        prop_assert!(!diagnose(&bytes, &trusted()).failures.is_empty());
    }
}

#[test]
fn every_column_that_a_record_can_have_can_be_sealed() {
    use crate::flow::{Features, FlowRecord};
    use crate::record::build::{Builder, Limits};
    use crate::record::schema::Layout;

    assert!(!describe(&Layout::evidence().full_schema()).unwrap().is_empty());
    let mut builder = Builder::new(Layout::evidence(), Limits::SEALED);
    builder
        .push(&FlowRecord::default(), Some(&Features::default()), None)
        .unwrap();
    let batch = builder.finish().unwrap().unwrap();
    let sealed = Chain::start(None)
        .unwrap()
        .seal(Kind::Flow, &batch, NOW, &signer())
        .unwrap();
    assert_eq!(
        verify_batch(&sealed.bytes, &trusted()).unwrap().batch.columns(),
        batch.columns()
    );
}
