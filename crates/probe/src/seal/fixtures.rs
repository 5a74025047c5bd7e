//! What tests of several modules need: the test PKI of `tests/vectors/pki` and small batches.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};

use super::batch::{Chain, SealedBatch};
use super::certificate::Certificate;
use super::manifest::Kind;
use super::receipt::Authority;
use super::sealer::Clock;
use super::sign::Signer;

/// A time at which the test certificates are valid, in seconds since 1970.
pub(crate) const NOW: i64 = 1_790_000_000;
/// The probe id of the test signer.
pub(crate) const PROBE: &str = "probe-1/eth0";

macro_rules! pki {
    ($name:literal) => {
        include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/vectors/pki/",
            $name
        ))
        .as_slice()
    };
}
pub(crate) use pki;

/// A certificate of the test PKI.
pub(crate) fn certificate(pem: &[u8]) -> Certificate {
    Certificate::from_pem(pem).unwrap()
}

/// The signer of `probe-1/eth0`.
pub(crate) fn signer() -> Signer {
    Signer::new(pki!("probe.key"), certificate(pki!("probe.pem")), PROBE, NOW).unwrap()
}

/// The test CA.
pub(crate) fn authority() -> Authority {
    Authority::from_pem(pki!("ca.pem")).unwrap()
}

/// Rows of a number and a text.
pub(crate) fn batch(rows: usize, text_length: usize) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("n", DataType::UInt64, false),
        Field::new("text", DataType::Utf8, true),
    ]);
    // Text that does not compress, from a linear congruential generator.
    let mut state = rows as u64;
    let mut text = || {
        (0..text_length)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                char::from(b' ' + ((state >> 33) % 95) as u8)
            })
            .collect::<String>()
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(0..rows as u64)),
        Arc::new(StringArray::from_iter_values((0..rows).map(|_| text()))),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

/// Three chains of sealed batches of various sizes, each naming the one before.
pub(crate) fn chains() -> &'static [Vec<SealedBatch>] {
    static CHAINS: LazyLock<Vec<Vec<SealedBatch>>> = LazyLock::new(|| {
        let signer = signer();
        let mut head = None;
        (0..3)
            .map(|_| {
                let mut chain = Chain::start(head).unwrap();
                let sealed: Vec<SealedBatch> = (0..24usize)
                    .map(|index| {
                        let kind = if index % 5 == 4 { Kind::Ledger } else { Kind::Flow };
                        chain
                            .seal(kind, &batch(1 + index % 7, 700 * (index % 6)), NOW, &signer)
                            .unwrap()
                    })
                    .collect();
                head = chain.head();
                sealed
            })
            .collect()
    });
    &CHAINS
}

/// A clock that panics where a sealing thread asks it a second time, which nothing catches: stands for a bug there.
pub(crate) fn clock_that_ends_the_thread() -> Clock {
    let asked = AtomicU32::new(0);
    Arc::new(move || {
        assert!(asked.fetch_add(1, Ordering::SeqCst) == 0, "a bug in the thread");
        NOW * 1_000_000_000
    })
}
