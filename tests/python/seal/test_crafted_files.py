"""Files made to hang `dpi-probe verify`, to end it with a traceback, or to speak in its name."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dpi_probe._verify import _issued_at, verify_paths
from dpi_probe._verify.sources import json_object, jws_part, spool_head, stated_place
from dpi_probe._verify.trust import load_certificates
from dpi_probe.errors import ConfigError
from hypothesis import given, settings
from hypothesis import strategies as st

PKI = Path(__file__).parents[2] / "vectors" / "pki"
CHAIN, NEXT, DIGEST = "aa" * 16, "bb" * 16, "A" * 43
TRUST = ["--ca", PKI / "ca.pem", "--certificate", PKI / "probe.pem"]
DEEP = "[" * 200_000


def verify(*arguments, text=True):
    """The command, of which nothing may hang and no traceback be seen."""
    program = Path(sys.executable).with_name("dpi-probe")
    done = subprocess.run([program, "verify", *arguments], capture_output=True, text=text, timeout=20, check=False)
    assert done.returncode in (0, 3, 4), done.stderr
    assert "Traceback" not in str(done.stderr)
    return done


def b64url(text):
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


# --- numbers that a file says -----------------------------------------------------------------------------------------


def test_the_place_that_a_spool_says_its_head_has_is_no_length_of_a_loop(evidence, tmp_path):
    path = evidence.spool(tmp_path / "spool", [])
    stated = {"v": 1, "chain": NEXT, "seq": (1 << 53) - 1, "manifest": DIGEST}
    (path / "head.json").write_text(json.dumps(stated))
    done = verify(*TRUST, path)
    assert f"batch 9007199254740991 of chain {NEXT}, the last that was sealed, is not here" in done.stdout


def test_the_place_that_a_chain_says_it_follows_is_no_length_of_a_loop(evidence, tmp_path):
    stated = {"prev": DIGEST, "prev_chain": NEXT, "prev_seq": (1 << 53) - 1}
    (made,) = evidence.seal(1, CHAIN, **stated)
    path = evidence.spool(tmp_path / "spool", [made])
    done = verify(*TRUST, path)
    assert (done.returncode, f"chain {NEXT}, which came before, is not here" in done.stdout) == (0, True)


def test_places_far_apart_are_one_gap(evidence, chain, check, tmp_path):
    (far,) = evidence.seal(1, CHAIN, seq=(1 << 53) - 1, prev=DIGEST)
    path = evidence.export(tmp_path / "export", [*chain[:2], far])
    for file in path.rglob(f"{far.name}.arrows"):
        file.with_name(f"{CHAIN}-{5:016x}.arrows").write_bytes(b"\xff\xff\xff\xff")
    report = check(path)
    gaps = [str(finding) for finding in report.faults if finding.check == "gap"]
    assert gaps == [f"{path}: gap: batch 2 to 4, 6 to 9007199254740990 of chain {CHAIN} (probe-1/eth0) is left out"]
    (path / "batches").rename(tmp_path / "aside")
    (path / "batches").mkdir()
    assert check(path).exit_status == 4


@pytest.mark.parametrize(
    "seq", ["1e999", "-1e999", "NaN", "true", "-1", "1.5", '"1"', "null", "18446744073709551616", "9" * 5000, DEEP]
)
def test_a_head_of_a_spool_with_another_number_is_damaged(seq):
    text = f'{{"v": 1, "chain": "{CHAIN}", "seq": %s, "manifest": "{DIGEST}"}}'
    assert spool_head((text % "18446744073709551615").encode()) == (CHAIN, (1 << 64) - 1, DIGEST)
    assert spool_head((text % seq).encode()) is None


@pytest.mark.parametrize("name", ["chain", "manifest"])
@pytest.mark.parametrize("value", [None, 7, "", [], {}, "\n" * 32, "Z" * 32])
def test_a_head_of_a_spool_that_names_no_manifest_is_damaged(name, value):
    head = {"v": 1, "chain": CHAIN, "seq": 1, "manifest": DIGEST}
    assert spool_head(json.dumps({**head, name: value}).encode()) is None


@pytest.mark.parametrize("claims", ['{"iat": 1e999}', '{"iat": NaN}', '{"iat": "1"}', '{"iat": true}', "7", DEEP, ""])
def test_a_receipt_and_a_head_with_another_time_do_not_hold(evidence, chain, tmp_path, claims):
    path = evidence.export(tmp_path / "export", chain[:1])
    for part in ("receipts", "heads"):
        (file,) = (path / part).rglob("*.jwt")
        header, _, signature = file.read_text().split(".")
        file.write_text(f"{header}.{b64url(claims)}.{signature}")
    report = verify_paths([path], ca=PKI / "ca.pem")
    assert {finding.check for finding in report.faults} == {"receipt", "head"}


@pytest.mark.parametrize("header", [DEEP, '{"typ": 1e999}', '{"typ": []}', "[]", "7", '"typ"'])
def test_a_file_with_another_header_is_no_evidence(tmp_path, header):
    path = tmp_path / "file.jwt"
    path.write_text(f"{b64url(header)}.{b64url('{}')}.AAAA")
    report = verify_paths([path])
    assert [finding.check for finding in report.faults] == ["unreadable"]


def test_a_proof_of_any_depth_is_one_line(tmp_path):
    path = tmp_path / "proof.json"
    path.write_text('{"a":' * 100_000)
    assert [finding.check for finding in verify_paths([path]).faults] == ["format"]


# --- readers that get anything ----------------------------------------------------------------------------------------

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([CHAIN, DIGEST]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_HEADS = st.dictionaries(st.sampled_from(["v", "chain", "seq", "manifest", "iat", "typ"]), _JSON)
_FILES = st.binary(max_size=200) | _JSON.map(json.dumps).map(str.encode) | _HEADS.map(json.dumps).map(str.encode)


@settings(max_examples=300, deadline=None)
@given(_FILES)
def test_whatever_a_head_of_a_spool_holds_is_a_place_or_damage(data):
    found = spool_head(data)
    if found is not None:
        chain, seq, digest = found
        assert len(chain) == 32
        assert type(seq) is int
        assert 0 <= seq < 1 << 64
        assert len(digest) == 43


@settings(max_examples=300, deadline=None)
@given(_FILES, _FILES, st.booleans())
def test_whatever_a_token_holds_has_a_time_and_no_traceback(header, payload, is_encoded):
    parts = [base64.urlsafe_b64encode(part).rstrip(b"=") if is_encoded else part for part in (header, payload)]
    token = b".".join([*parts, b"AAAA"])
    assert 0 <= _issued_at(token.decode("ascii", "replace")) < 1 << 62
    assert isinstance(json_object(jws_part(token, 0)), dict)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"[0-9a-f]{32}-[0-9a-f+_x ]{16}(-.*)?\.arrows", fullmatch=True))
def test_whatever_a_file_is_called_says_a_place_or_none(name):
    place = stated_place(name)
    assert place is None or 0 <= place[1] < 1 << 64


@settings(max_examples=60, deadline=None)
@given(_FILES, st.sampled_from(["head.json", f"pending/{CHAIN}-{0:016x}.manifest", f"pending/{CHAIN}-{0:016x}.arrows"]))
def test_whatever_lies_in_a_spool_is_a_finding(tmp_path_factory, data, name):
    path = tmp_path_factory.mktemp("spool")
    (path / "pending").mkdir()
    (path / name).write_bytes(data)
    report = verify_paths([path], ca=PKI / "ca.pem", certificates=[PKI / "probe.pem"])
    assert report.exit_status == (0 if name == "head.json" else 4)
    assert all("\n" not in str(finding) for finding in report.findings)


# --- files that are none ----------------------------------------------------------------------------------------------


def test_pipes_among_the_evidence_do_not_hang(evidence, chain, tmp_path):
    spool = evidence.spool(tmp_path / "spool", chain[:1])
    rejected = spool / "rejected" / f"{chain[1].name}.arrows"
    rejected.write_bytes(chain[1].data)
    os.mkfifo(f"{rejected}.reason")
    os.mkfifo(spool / "head.json")
    done = verify(*TRUST, spool)
    assert f"fault: {spool}/head.json: cannot be read: it is no regular file" in done.stdout
    assert f"{rejected}: was refused: no reason is known" in done.stdout
    archive = evidence.archive(tmp_path / "archive", [evidence.entry(chain[0], 0)])
    os.mkfifo(archive / "certificates" / "zzz.pem")
    assert verify("--ca", PKI / "ca.pem", archive).returncode == 0
    os.mkfifo(archive / "segment-0000000001.dpa")
    done = verify("--ca", PKI / "ca.pem", archive)
    assert (done.returncode, "segment-0000000001.dpa: is no regular file" in done.stdout) == (3, True)
    # Nor in a directory of certificates that is given.
    assert verify("--certificate", archive / "certificates", spool / "pending").returncode == 0


def test_a_pem_file_of_beginnings_takes_a_time_that_grows_with_its_length(tmp_path):
    path = tmp_path / "many.pem"
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\n" * 20_000)
    began = time.process_time()
    with pytest.raises(ConfigError):
        load_certificates(path)
    assert time.process_time() - began < 3
    # Blocks among other text are read as before.
    one = (PKI / "probe.pem").read_bytes()
    path.write_bytes(b"text\n" + one + b"text\n" + one.replace(b"\n", b"\r\n") + b"-----BEGIN CERTIFICATE-----\n")
    assert len(set(load_certificates(path))) == 1
    assert len(load_certificates(path)) == 2


def test_a_file_of_certificates_has_a_length(tmp_path):
    path = tmp_path / "long.pem"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="longer than any file of certificates"):
        load_certificates(path)


# --- text that a file brings ------------------------------------------------------------------------------------------

LIE = "\x1b[2J\neverything holds: 10 batches, 50 records, 1 chain checked"


def test_what_evidence_says_of_itself_is_within_one_line(evidence, chain, tmp_path):
    import pyarrow as pa

    row = pa.record_batch({"n": pa.array([1], pa.uint64())})
    stated = {"iss": f"probe-1{LIE}", "kind": "flow", "chain": CHAIN, "seq": 0, "prev": None, "iat": 1_790_000_000}
    made = evidence.whenever(row, "probe", **stated)
    single = tmp_path / f"name{LIE}.arrows"
    single.write_bytes(made.data)
    spool = evidence.spool(tmp_path / "spool", [])
    rejected = spool / "rejected" / f"{chain[1].name}.arrows"
    rejected.write_bytes(chain[1].data)
    Path(f"{rejected}.reason").write_text(f"422{LIE}")
    done = verify(*TRUST, single, spool)
    assert done.returncode == 4
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["fault", "note", "1 fault"], lines
    assert "\x1b" not in done.stdout
    assert r"\x1b[2J\neverything holds" in lines[0]
    assert lines[1].endswith(r"was refused: 422\x1b[2J")
    Path(f"{rejected}.reason").write_text("x" * 1_000_000)
    assert len(verify(*TRUST, spool).stdout) < 2000


def test_a_file_name_that_is_no_text_is_told(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff.arrows")  # noqa: PTH118 - Path has no bytes
    Path(os.fsdecode(path)).write_bytes(b"\xff\xff\xff\xff")
    for arguments in ([], ["--json"]):
        done = verify(*arguments, path, text=False)
        assert done.returncode == 4
        assert rb"\udcff.arrows" in done.stdout
        if arguments:
            assert json.loads(done.stdout)["ok"] is False
