"""The data plane in Rust. Private: use the names that `dpi_probe` exports."""

import os
from collections.abc import Sequence
from typing import Any, TypedDict, final, type_check_only

from typing_extensions import disjoint_base

from dpi_probe._columns import Flow as TypedFlow

__all__ = [
    "Flow",
    "FlowReader",
    "Pipeline",
    "Record",
    "__version__",
    "account_table",
    "batch_leaves",
    "batch_row_cbor",
    "check_issued",
    "check_proof",
    "diagnose_batch",
    "format_of",
    "interface_link_type",
    "link_types",
    "log_to_stderr",
    "protocol_table",
    "prove",
    "read_certificate",
    "read_claims",
    "schema",
    "seal_batch",
    "verify_batch",
    "verify_head",
    "verify_manifest",
    "verify_receipt",
]

__version__: str

@final
class FlowReader:
    """One pass over capture files. Use one of: `next_flows`, `write`, `__arrow_c_stream__`."""

    def __new__(
        cls,
        paths: Sequence[str | os.PathLike[str]],
        *,
        filter: Sequence[tuple[int, list[tuple[int, int, int, int]] | str]] | None = None,
        workers: int = 1,
        idle_timeout_ns: int = ...,
        active_timeout_ns: int = ...,
        profile: str = ...,
        protocols: Sequence[str] | None = None,
        addresses: str = "text",
        fixed: bool = True,
        count: int | None = None,
        keep_going: bool = False,
    ) -> FlowReader: ...
    def next_flows(self) -> list[TypedFlow] | None:
        """The flows of the next batch, or None at the end."""
    def write(self, path: str | os.PathLike[str] | None, format: str) -> int | None:
        """Write all flows to a path, or to standard output; their number, or None if nobody reads standard output."""
    def __arrow_c_schema__(self) -> object:
        """The schema as an Arrow C data interface capsule."""
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The batches as an Arrow C stream interface capsule."""
    def check(self) -> None:
        """Raise what stopped the reading before its end, if anything did."""
    def end_inputs(self) -> None:
        """Take no further packets; the flows so far come out as at the end of the inputs."""
    def cancel(self) -> None:
        """End the reading early."""
    def progress(self) -> tuple[int, int | None, int]:
        """Bytes read, bytes in all where known, frames."""
    def problems(self) -> list[str]:
        """What could not be read so far, one line each."""
    def accounts(self) -> dict[str, int | dict[str, int]]:
        """The books: account to count, or to counts by reason."""

@disjoint_base
class Record:
    """A struct value: its members are attributes."""

    def __eq__(self, value: object, /) -> bool: ...
    def to_dict(self) -> dict[str, Any]:
        """All values by name, structs as dictionaries."""

@disjoint_base
class Flow:
    """A flow: its columns are attributes."""

    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def to_dict(self) -> dict[str, Any]:
        """All values by name, structs as dictionaries."""

def schema() -> list[dict[str, Any]]:
    """The columns: name, type, nullable, doc, table (`flow` or a protocol), `members` of structs, `item` of lists."""

def protocol_table() -> list[dict[str, str]]:
    """The protocols in the order of their columns: name, category."""

def account_table() -> list[dict[str, str]]:
    """The accounts of the books: name, reason, kind, doc, reason_doc."""

def link_types() -> list[int]:
    """The link types that can be decoded, as LINKTYPE numbers."""

def format_of(path: str | os.PathLike[str]) -> str | None:
    """The name of the format that a path's suffix chooses."""

# --- sealing and verification (crates/probe-py/src/seal.rs); certificates are DER, times seconds since 1970 ---

@type_check_only
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

@type_check_only
class Signed(TypedDict):
    """A manifest, its digest and the fingerprint of the certificate that signed it."""

    claims: Claims
    manifest: str
    manifest_digest: str
    certificate: str

@type_check_only
class Proved(Signed):
    """What a proof shows: the record at `row` is in the batch."""

    row: int

@type_check_only
class Diagnosis(TypedDict):
    """Everything that is wrong with a batch; no failures: it is sound."""

    failures: list[tuple[str, str]]
    claims: Claims | None
    manifest: str | None
    altered_rows: list[int]
    undecodable_columns: list[str]
    records_hold: bool

@type_check_only
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

@type_check_only
class ChainHead(TypedDict):
    """The claims of a chain head."""

    v: int
    iss: str
    probe: str
    chain: str
    seq: int
    manifest: str
    iat: int

@type_check_only
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

# --- the whole probe (crates/probe-py/src/pipeline.rs) ---

@final
class Pipeline:
    """A running probe. Made by `dpi_probe.Probe`."""

    def __new__(
        cls,
        *,
        interface: str | None,
        files: Sequence[str | os.PathLike[str]],
        filter: Sequence[tuple[int, list[tuple[int, int, int, int]] | str]] | None,
        promiscuous: bool,
        idle_timeout_ns: int,
        active_timeout_ns: int,
        profile: str,
        workers: int | None,
        cores: list[int],
        interface_wait_seconds: float,
        memory_bytes: int,
        probe_id: str,
        certificate: str | os.PathLike[str],
        key: str | os.PathLike[str],
        ca: str | os.PathLike[str],
        spool_directory: str | os.PathLike[str],
        spool_bytes: int,
        spool_when_full: str,
        spool_fsync: str,
        core_url: str | None,
        linger_seconds: float,
        health_interval_seconds: float,
        shutdown_timeout_seconds: float,
        backpressure_threshold: int,
    ) -> Pipeline: ...
    def stop(self) -> None:
        """Ask the probe to end; returns at once."""
    def is_finished(self) -> bool:
        """Whether the probe has ended by itself or after `stop`."""
    def join(self) -> list[str]:
        """Wait for the end; what could not be read of the inputs, one line each."""
    def accounts(self) -> list[dict[str, Any]]:
        """The books at this moment: a list of {account, reason, worker, value}."""

def interface_link_type(interface: str) -> int: ...
def log_to_stderr(level: str) -> None: ...
