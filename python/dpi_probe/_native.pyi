"""The data plane in Rust. Private: use the names that `dpi_probe` exports."""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, final, type_check_only

from typing_extensions import disjoint_base

from dpi_probe._columns import Flow as TypedFlow

__all__ = [
    "CaptureCounter",
    "Flow",
    "FlowReader",
    "Pipeline",
    "Record",
    "Traffic",
    "TrafficSender",
    "__version__",
    "account_table",
    "batch_leaves",
    "batch_row_cbor",
    "capture_ring_bytes",
    "check_issued",
    "check_proof",
    "diagnose_batch",
    "format_of",
    "interface_link_type",
    "link_type_table",
    "link_types",
    "log",
    "log_to_stderr",
    "measure_stages",
    "metric_table",
    "protocol_table",
    "prove",
    "read_certificate",
    "read_claims",
    "schema",
    "seal_batch",
    "tunnel_table",
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
        flow_key: Sequence[str] = ...,
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
    def arrow_stream_of_others(self) -> object:
        """The same for a consumer that does not ask `check`: a Ctrl-C is raised by itself."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """The batches as an Arrow C stream interface capsule."""
    def drain(self) -> int:
        """Read to the end without handing out flows; how many there are."""
    def inputs(self) -> dict[str, Any]:
        """What is known of the inputs: bytes read and passed over, frames by link type, time span in nanoseconds."""
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
    """The columns: name, type, nullable, doc, table (`flow`, `features`, a protocol).

    Structs have `members`, lists an `item`.
    """

def protocol_table() -> list[dict[str, str]]:
    """The protocols in the order of their columns: name, category."""

def account_table() -> list[dict[str, str]]:
    """The accounts of the books: name, reason, kind, doc, reason_doc."""

def link_types() -> list[int]:
    """The link types that can be decoded, as LINKTYPE numbers."""

def link_type_table() -> list[dict[str, Any]]:
    """The registered link types: number, name, supported, doc."""

def tunnel_table() -> list[dict[str, str]]:
    """The encapsulations that are looked into: name, doc."""

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
        capture: str,
        dedicated: bool,
        libpcap: Sequence[str | os.PathLike[str]],
        files: Sequence[str | os.PathLike[str]],
        count: int | None,
        filter: Sequence[tuple[int, list[tuple[int, int, int, int]] | str]] | None,
        promiscuous: bool,
        timestamps: str,
        idle_timeout_ns: int,
        active_timeout_ns: int,
        profile: str,
        flow_key: Sequence[str],
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
        seal_threads: int,
        linger_seconds: float,
        health_interval_seconds: float,
        shutdown_timeout_seconds: float,
        backpressure_threshold: int,
        traffic: Traffic | None = None,
    ) -> Pipeline: ...
    def stop(self) -> None:
        """Ask the probe to end; returns at once."""
    def is_finished(self) -> bool:
        """Whether the probe has ended by itself or after `stop`."""
    def join(self) -> list[str]:
        """Wait for the end; what could not be read of the inputs, one line each."""
    def offer(self) -> Offer | None:
        """What the traffic of a bench has offered, or nothing."""
    def configure(
        self,
        idle_timeout_ns: int,
        active_timeout_ns: int,
        profile: str,
        filter: Sequence[tuple[int, list[tuple[int, int, int, int]] | str]] | None,
        detail: str,
    ) -> None:
        """Put other timeouts, another profile and another filter in force."""
    def progress(self) -> tuple[int, int | None, int]:
        """How far the reading of files is: bytes read as they are stored, of how many where known, and packets."""
    def is_capturing(self) -> bool:
        """Whether frames are being taken from the input."""
    def metrics(self) -> list[dict[str, Any]]:
        """Every metric at this moment: a list of {name, kind, help, labels, samples}."""
    def accounts(self) -> list[dict[str, Any]]:
        """The books at this moment: a list of {account, reason, worker, value}."""

def metric_table() -> list[dict[str, Any]]: ...
def interface_link_type(interface: str, capture: str, libpcap: Sequence[str | os.PathLike[str]]) -> int: ...
def log(level: str, message: str) -> None: ...
def log_to_stderr(level: str) -> None: ...

# --- traffic for benches (crates/probe-py/src/traffic.rs) ---

@type_check_only
class Shape(TypedDict):
    """What traffic came out as; a cycle is the frames that are prepared, and offered again with other clients."""

    mean_frame_bytes: float
    frames_per_second: float
    flows_per_second: float
    cycle_frames: int
    cycle_flows: int
    cycle_seconds: float

@type_check_only
class Offer(TypedDict):
    """What was offered and what became of it, cumulative; latencies run from the time at which a frame was due."""

    frames_offered: int
    bytes_offered: int
    frames_taken: int
    bytes_taken: int
    frames_dropped: int
    bytes_waiting: int
    source_cpu_ns: int
    latency_buckets: list[tuple[int, int]]
    latency_sum_ns: int

@final
class Traffic:
    """What traffic to make. Equal values make equal traffic."""

    def __new__(
        cls,
        *,
        seed: int,
        bits_per_second: int,
        flows_per_second: int,
        frame_size: str,
        ipv6_share: float,
        vlan_share: float,
        cycle_bytes: int,
    ) -> Traffic: ...
    def shape(self) -> Shape:
        """What the traffic comes out as."""
    def write(
        self, path: str | os.PathLike[str], seconds: float, progress: Callable[[float], object] | None = None
    ) -> tuple[int, int]:
        """Write the flows that begin within so many seconds to a pcap file; frames and bytes.

        `progress` is called with the seconds of traffic that are written. A file that is not whole does not stay.
        """

@type_check_only
class StageCosts(TypedDict):
    """Frames, flow records, sealed batches, and nanoseconds over all of them; spool is wall time."""

    frames: int
    flows: int
    batches: int
    decode: int
    decode_flow: int
    decode_flow_layer7: int
    record: int
    seal: int
    spool: int

def measure_stages(
    traffic: Traffic,
    *,
    size: int,
    memory_bytes: int,
    certificate: str | os.PathLike[str],
    key: str | os.PathLike[str],
    probe_id: str,
    spool_directory: str | os.PathLike[str],
) -> StageCosts: ...

@final
class TrafficSender:
    """Traffic that is being sent on an interface."""

    def __new__(cls, interface: str, traffic: Traffic, *, flat_out: bool = False) -> TrafficSender: ...
    def offer(self) -> Offer:
        """What was offered so far, and when it was sent."""
    def stop(self) -> int:
        """End sending; how many frames the kernel had no room for."""

# --- capture alone, for benches (crates/probe-py/src/counter.rs) ---

@final
class CaptureCounter:
    """Frames of an interface that are being counted and dropped."""

    def __new__(cls, interface: str, *, capture: str, memory_bytes: int) -> CaptureCounter: ...
    def description(self) -> str:
        """How frames are captured, for people."""
    def counts(self) -> tuple[int, int, int | None]:
        """Frames that came, their bytes on the wire, and frames that were lost before, where that is known."""
    def stop(self) -> None:
        """End the capture, and raise what it failed with."""

def capture_ring_bytes(memory_bytes: int) -> int:
    """Bytes of the capture rings of a probe with this bound of memory."""
