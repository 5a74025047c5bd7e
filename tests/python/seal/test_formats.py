"""The native code, the vectors and the independent verifier agree."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import cbor2
import pyarrow as pa
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from dpi_probe import _native
from dpi_probe.errors import VerificationError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NOW = 1_790_000_000
PKI = Path(__file__).parents[2] / "vectors" / "pki"


def test_leaves_are_those_of_the_vectors(vectors):
    leaf = vectors("leaf")
    stream = base64.b64decode(leaf["stream"])
    for row, expected in enumerate(leaf["rows"]):
        assert _native.batch_row_cbor(stream, row).hex() == expected["cbor"]
    assert _native.batch_row_cbor(stream, len(leaf["rows"])) is None


def test_batches_proofs_and_receipts_of_the_vectors_hold(vectors, independent):
    sealed = vectors("sealed_batch")
    certificate = base64.b64decode(sealed["certificate"])
    pem = x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)
    for expected in sealed["batches"]:
        data = base64.b64decode(expected["batch"])
        signed = _native.verify_batch(data, [certificate])
        assert signed["manifest"] == expected["manifest"]
        assert signed["manifest_digest"] == expected["digest"]
        stated = {name: value for name, value in signed["claims"].items() if not name.startswith("prev_")}
        assert stated.items() <= independent.verify(data, independent.load(pem)).items()
    leaves = [row["leaf"] for row in vectors("leaf")["rows"]]
    first = base64.b64decode(sealed["batches"][0]["batch"])
    assert [leaf.hex() for leaf in _native.batch_leaves(first)] == leaves
    for row, proof in enumerate(vectors("proof")["proofs"]):
        assert _native.check_proof(json.dumps(proof), [certificate])["row"] == row
        assert json.loads(_native.prove(first, row)) == proof
    receipt = vectors("receipt")
    ca = base64.b64decode(receipt["ca"])
    for expected in receipt["receipts"]:
        assert _native.verify_receipt(expected["receipt"], ca, NOW) == expected["claims"]
    assert _native.verify_head(receipt["head"]["head"], ca, NOW) == receipt["head"]["claims"]


def test_both_verifiers_agree_on_flipped_bits(chain, independent):
    certificate = PKI / "probe.pem"
    trusted = independent.load(certificate.read_bytes())
    ders = [x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(Encoding.DER)]
    data = chain[3].data
    assert independent.verify(data, trusted)["seq"] == 3
    # 61 is prime to 8: every bit of a byte has its turn.
    for bit in range(0, len(data) * 8, 61):
        altered = bytearray(data)
        altered[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(VerificationError):
            _native.verify_batch(bytes(altered), ders)
        with pytest.raises(independent.InvalidError):
            independent.verify(bytes(altered), trusted)


def test_the_independent_verifier_is_a_command(chain, independent, tmp_path, capsys):
    good, bad = tmp_path / "good.arrows", tmp_path / "bad.arrows"
    good.write_bytes(chain[0].data)
    bad.write_bytes(chain[0].data[:-9] + b"x" + chain[0].data[-8:])
    assert independent.main([str(PKI / "probe.pem"), str(good), str(bad)]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert "holds: 5 records, batch 0" in lines[0]
    assert "does not hold" in lines[1]
    assert len(Path(independent.__file__).read_text().splitlines()) < 150


def test_what_the_plain_python_sealer_makes_verifies(make):
    key, certificate = make.load("probe")
    batch = make.simple(257)
    data, manifest = make.seal(
        batch, key, certificate, iss="probe-1", kind="event", chain="0" * 32, seq=0, prev=None, iat=1
    )
    signed = _native.verify_batch(data, [certificate])
    assert signed["manifest"] == manifest
    assert signed["claims"]["rows"] == 257


ROW = pa.schema(
    [
        pa.field("u64", pa.uint64()),
        pa.field("i64", pa.int64()),
        pa.field("f64", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("flag", pa.bool_()),
        pa.field("address", pa.binary(16)),
        pa.field("list", pa.list_(pa.float64())),
        pa.field("struct", pa.struct([pa.field("a", pa.int8()), pa.field("b", pa.list_(pa.string()))])),
    ]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ROWS = st.tuples(
    st.none() | st.integers(0, 2**64 - 1),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.floats() | st.floats(width=32) | st.floats(width=16),
    st.none() | TEXT,
    st.none() | st.booleans(),
    st.none() | st.binary(min_size=16, max_size=16),
    st.none() | st.lists(st.none() | st.floats(), max_size=30),
    st.none() | st.tuples(st.none() | st.integers(-128, 127), st.none() | st.lists(st.none() | TEXT, max_size=3)),
)


@given(rows=st.lists(ROWS, min_size=1, max_size=5))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_rows_are_encoded_as_cbor2_encodes_them(make, rows):
    columns = [[row[index] for row in rows] for index in range(len(ROW))]
    columns[-1] = [None if item is None else {"a": item[0], "b": item[1]} for item in columns[-1]]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, ROW, strict=True)]
    batch = pa.RecordBatch.from_arrays(arrays, schema=ROW)
    stream = make.plain_stream(batch)
    for row, values in enumerate(rows):
        expected = [list(value) if isinstance(value, tuple) else value for value in values]
        assert _native.batch_row_cbor(stream, row) == cbor2.dumps(expected, canonical=True)


def test_a_proof_survives_every_double(evidence):
    numbers = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, float("nan"), float("inf"), 2.0**53 + 2]
    batch = pa.record_batch({"f": pa.array(numbers, pa.float64())})
    sealed = evidence.one(batch, iss="probe-1", kind="flow", chain="0" * 32, seq=0, iat=NOW)
    certificate = x509.load_pem_x509_certificate((PKI / "probe.pem").read_bytes()).public_bytes(Encoding.DER)
    for row in range(len(numbers)):
        assert _native.check_proof(_native.prove(sealed.data, row), [certificate])["row"] == row


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"iss": "probe-2"}, "does not belong to the certificate"),
        ({"chain": "xyz"}, "32 lower-case hexadecimal digits"),
        ({"kind": "other"}, "none of flow, ledger, event"),
        ({"prev": "short"}, "not a digest"),
        ({"iat": 0}, "clock"),
        ({"seq": None}, "`seq` is missing"),
    ],
)
def test_seal_batch_says_what_is_wrong(evidence, claims, message):
    stated = {"iss": "probe-1", "kind": "flow", "chain": "0" * 32, "seq": 0, "iat": NOW} | claims
    with pytest.raises(ValueError, match=message):
        evidence.one(pa.record_batch({"n": pa.array([1], pa.uint64())}), **stated)


def test_an_unsupported_column_is_named(evidence):
    batch = pa.record_batch({"n": pa.array([1], pa.float32())})
    with pytest.raises(ValueError, match="column `n` has the type Float32"):
        evidence.one(batch, iss="probe-1", kind="flow", chain="0" * 32, seq=0, iat=NOW)


def test_errors_carry_the_check_that_failed(chain):
    with pytest.raises(VerificationError) as caught:
        _native.verify_batch(chain[0].data, [])
    assert caught.value.check == "certificate"
    with pytest.raises(VerificationError) as caught:
        _native.verify_batch(b"nothing", [])
    assert caught.value.check == "format"
    with pytest.raises(VerificationError) as caught:
        _native.read_claims(b"nothing")
    assert caught.value.check == "manifest"
