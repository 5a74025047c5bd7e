"""The data plane in Rust. Private: use the names that `dpi_probe` exports."""

from typing import TypedDict

__version__: str

# --- sealing and verification (crates/probe-py/src/seal.rs); certificates are DER, times seconds since 1970 ---

class Claims(TypedDict):
    """The claims of a manifest (docs/formats/sealed-batch.md §3)."""

    v: int
    iss: str
    kind: str
    chain: str
    seq: int
    prev: str | None
    prev_chain: str | None
    prev_seq: int | None
    iat: int
    schema: str
    rows: int
    root: str
    body: str

class Signed(TypedDict):
    """A manifest, its digest and the fingerprint of the certificate that signed it."""

    claims: Claims
    manifest: str
    manifest_digest: str
    certificate: str

class Proved(Signed):
    """What a proof shows: the record at `row` is in the batch."""

    row: int

class Diagnosis(TypedDict):
    """Everything that is wrong with a batch; no failures: it is sound."""

    failures: list[tuple[str, str]]
    claims: Claims | None
    manifest: str | None
    altered_rows: list[int]
    undecodable_columns: list[str]
    records_hold: bool

class Receipt(TypedDict):
    """The claims of a receipt."""

    v: int
    iss: str
    probe: str
    chain: str
    seq: int
    manifest: str
    iat: int
    status: str

class ChainHead(TypedDict):
    """The claims of a chain head."""

    v: int
    iss: str
    probe: str
    chain: str
    seq: int
    manifest: str
    iat: int

class CertificateFacts(TypedDict):
    """Names and validity of a certificate."""

    fingerprint: str
    subject: str
    probe: str | None
    core: str | None
    not_before: int
    not_after: int

def verify_batch(data: bytes, certificates: list[bytes]) -> Signed: ...
def verify_manifest(manifest: str, certificates: list[bytes]) -> Signed: ...
def read_claims(data: bytes) -> Signed: ...
def diagnose_batch(data: bytes, certificates: list[bytes]) -> Diagnosis: ...
def seal_batch(data: bytes, key_pem: bytes, certificate: bytes, claims: dict[str, object]) -> bytes: ...
def prove(data: bytes, row: int) -> str: ...
def check_proof(json: str, certificates: list[bytes]) -> Proved: ...
def batch_leaves(data: bytes) -> list[bytes]: ...
def batch_row_cbor(data: bytes, row: int) -> bytes | None: ...
def read_certificate(der: bytes) -> CertificateFacts: ...
def check_issued(certificate: bytes, ca: bytes, at: int) -> None: ...
def verify_receipt(receipt: str, ca: bytes, at: int) -> Receipt: ...
def verify_head(head: str, ca: bytes, at: int) -> ChainHead: ...
