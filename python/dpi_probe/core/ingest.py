"""The probes' door: `POST /v1/batches` and `POST /v1/manifests` (docs/formats/transport.md).

In: requests of peers whose certificate the handshake has checked. Out: the answers of the table there.
Owns: the limits on what is read and handled at a time. Never: reads a body before the peer may send one and it fits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from aiohttp import web
from cryptography.hazmat.primitives.serialization import Encoding

from dpi_probe import _native
from dpi_probe._pki import fingerprint
from dpi_probe.core.committer import Arrival, CommitError, Committer, Outcome
from dpi_probe.core.manifest import MAX_MANIFEST_BYTES, ManifestError, manifest_of
from dpi_probe.core.trust import Peer, Refused, Trust
from dpi_probe.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cryptography import x509

    from dpi_probe.core.manifest import Manifest
    from dpi_probe.core.metrics import Metrics
    from dpi_probe.core.settings import CoreSettings

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

logger = logging.getLogger(__name__)

MAX_BATCH_BYTES = 900 << 10
RETRY_AFTER_SECONDS = 1
# What a body must come with in all, beside the time that it may stand still.
LEAST_BYTES_PER_SECOND = 4 << 10
_STATUS = {
    400: "REJECTED", 401: "REFUSED", 403: "REFUSED", 409: "FORK", 413: "REJECTED", 415: "REJECTED", 422: "REJECTED",
    429: "BACKPRESSURE", 503: "ERROR",
}  # fmt: skip


class _RefusalError(Exception):
    """An answer other than a receipt."""

    def __init__(self, code: int, error: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.error = error
        self.detail = detail


class Ingest:
    """The handlers and their limits."""

    def __init__(self, settings: CoreSettings, trust: Trust, committer: Committer, metrics: Metrics) -> None:
        """Tie the handlers to what they use."""
        self._settings = settings
        self._trust = trust
        self._committer = committer
        self._metrics = metrics
        self._pool = ThreadPoolExecutor(settings.verify_threads, thread_name_prefix="verify")
        self._outside_validity: set[bytes] = set()
        self._requests = 0
        self._requests_of: Counter[str] = Counter()
        # However slow its requests are, one probe leaves most of the places to others.
        self._share = max(4, settings.max_requests_in_flight // 4)
        self._bytes = 0
        self._max_bytes = settings.max_in_flight_mb << 20

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(middlewares=[self._always_json])
        application.router.add_post("/v1/batches", self._batches)
        application.router.add_post("/v1/manifests", self._manifests)
        return application

    def close(self) -> None:
        """End the verifying threads."""
        self._pool.shutdown(wait=True)

    @web.middleware
    async def _always_json(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Probes read JSON: also where there is no such path, or where the Core has a bug."""
        try:
            return await handler(request)
        except web.HTTPException as error:
            code, word, detail = error.status, "no_such_request", f"{request.method} {request.path}: {error.reason}"
        except Exception as error:
            logger.exception("%s %s", request.method, request.path)
            code, word, detail = 500, "internal", f"the Core failed: {type(error).__name__}"
        self._metrics.answers.labels("other", code, word).inc()
        return web.json_response({"status": "ERROR", "error": word, "detail": detail}, status=code)

    async def _batches(self, request: web.Request) -> web.Response:
        return await self._handle(request, "batches", MAX_BATCH_BYTES, whole=True)

    async def _manifests(self, request: web.Request) -> web.Response:
        return await self._handle(request, "manifests", MAX_MANIFEST_BYTES, whole=False)

    async def _handle(self, request: web.Request, kind: str, most: int, *, whole: bool) -> web.Response:
        try:
            outcome = await self._receive(request, most, whole=whole)
        except _RefusalError as refusal:
            self._metrics.answers.labels(kind, refusal.code, refusal.error).inc()
            return _refuse(request, refusal)
        code = 201 if outcome.status == "archived" else 200
        self._metrics.answers.labels(kind, code, "").inc()
        return web.json_response({"status": "ARCHIVED", "receipt": outcome.receipt}, status=code)

    async def _receive(self, request: web.Request, most: int, *, whole: bool) -> Outcome:
        peer = self._peer(request)
        length = request.content_length
        if length is None:
            raise _RefusalError(400, "no_length", "Content-Length is missing")
        if length > most:
            raise _RefusalError(413, "too_large", f"the body has {length} bytes; at most {most} are allowed")
        if length == 0:
            raise _RefusalError(400, "empty", "the body is empty")
        if (
            self._requests >= self._settings.max_requests_in_flight
            or self._bytes + length > max(self._max_bytes, length)
        ):  # fmt: skip
            raise _RefusalError(429, "busy", "more requests are being handled than the Core may take at a time")
        if self._requests_of[peer.name] >= self._share:
            raise _RefusalError(
                429, "share", f"{self._share} requests of probe {peer.name} are being handled: its share"
            )
        self._requests += 1
        self._requests_of[peer.name] += 1
        self._bytes += length
        self._metrics.in_flight.set(self._requests)
        self._metrics.in_flight_bytes.set(self._bytes)
        try:
            body = await self._read(request, length)
            self._metrics.received_bytes.inc(length)
            arrival = await asyncio.get_running_loop().run_in_executor(self._pool, self._verify, peer, body, whole)
            outcome = await asyncio.wrap_future(self._committer.submit(arrival))
            if outcome.status == "archived" and arrival.outside_validity:
                self._note_outside_validity(arrival.manifest)
        except CommitError as error:
            raise _RefusalError(503, "archive", str(error)) from error
        finally:
            self._requests -= 1
            self._requests_of[peer.name] -= 1
            self._bytes -= length
            self._metrics.in_flight.set(self._requests)
            self._metrics.in_flight_bytes.set(self._bytes)
        if outcome.status == "fork":
            manifest = arrival.manifest
            raise _RefusalError(
                409, "fork", f"another manifest is archived as chain {manifest.chain.hex()} seq {manifest.seq}"
            )
        return outcome

    def _note_outside_validity(self, manifest: Manifest) -> None:
        """A probe went on sealing when its certificate had expired, or its clock was set back: say so once for each."""
        self._metrics.outside_validity.inc()
        if manifest.certificate not in self._outside_validity:
            self._outside_validity.add(manifest.certificate)
            logger.warning(
                "probe %s: chain %s seq %d was sealed outside the validity of its certificate (%s…); archived, and "
                "only its receipt tells a verifier that it was accepted",
                manifest.iss, manifest.chain.hex(), manifest.seq, manifest.certificate.hex()[:16],
            )  # fmt: skip

    def _peer(self, request: web.Request) -> Peer:
        """Who is asking, by the certificate of this very connection and the revocation list as it is now."""
        tls = None if request.transport is None else request.transport.get_extra_info("ssl_object")
        peer = self._trust.identify(None if tls is None else tls.getpeercert(binary_form=True))
        if isinstance(peer, Refused):
            raise _RefusalError(peer.code, peer.error, peer.detail)
        return peer

    async def _read(self, request: web.Request, length: int) -> bytes:
        """The body. A slow link has its time, as long as something comes; but not one that holds a place for ever."""
        patience = self._settings.body_timeout_seconds
        clock = asyncio.get_running_loop().time
        deadline = clock() + patience + length / LEAST_BYTES_PER_SECOND
        body = bytearray()
        # A link that is slow or breaks says nothing of the batch: what a probe is answered 4xx it never sends again.
        try:
            while len(body) < length:
                async with asyncio.timeout_at(min(deadline, clock() + patience)):
                    part = await request.content.read(length - len(body))
                if not part:
                    raise _RefusalError(503, "cut", f"the body broke off before its {length} bytes were there")
                body += part
        except TimeoutError as error:
            came = f"{len(body)} of its {length} bytes"
            raise _RefusalError(503, "slow", f"the body did not come within its time ({came})") from error
        except (ConnectionError, web.RequestPayloadError) as error:
            raise _RefusalError(503, "cut", f"the body broke off before its {length} bytes were there") from error
        return bytes(body)

    def _verify(self, peer: Peer, body: bytes, whole: bool) -> Arrival:
        """Check a body in every respect but its place in the chain. Runs on a thread of the pool."""
        started = time.monotonic()
        try:
            manifest = manifest_of(body)
        except ManifestError as error:
            raise _RefusalError(400, "malformed", str(error)) from error
        certificate = self._certificate(peer, manifest)
        trusted = [certificate.public_bytes(Encoding.DER)]
        try:
            signed = (
                _native.verify_batch(body, trusted)
                if whole
                else _native.verify_manifest(body.decode("ascii", "replace"), trusted)
            )
        except VerificationError as error:
            check = getattr(error, "check", "verification")
            raise _RefusalError(400 if check == "format" else 422, check, str(error)) from error
        if signed["manifest"] != manifest.token:
            raise _RefusalError(400, "malformed", "the manifest that was read is not the one that was verified")
        ahead = manifest.iat - time.time()
        if ahead > self._settings.allowed_skew_seconds:
            raise _RefusalError(
                422, "future",
                f"sealed {ahead:.0f} s in the future; set the probe's clock (allowed: "
                f"{self._settings.allowed_skew_seconds} s)",
            )  # fmt: skip
        try:
            # Without it nobody could verify what is archived. It may be another than that of the connection.
            self._trust.remember(peer.name, certificate)
        except OSError as error:
            raise _RefusalError(
                503, "archive", f"the certificate that signed it cannot be kept: {error.strerror or error}"
            ) from error
        self._metrics.verify_seconds.observe(time.monotonic() - started)
        outside = not (
            certificate.not_valid_before_utc.timestamp() <= manifest.iat <= certificate.not_valid_after_utc.timestamp()
        )
        return Arrival(manifest, body, whole, outside)

    def _certificate(self, peer: Peer, manifest: Manifest) -> x509.Certificate:
        """The certificate that the manifest names: one of the same probe that is not revoked."""
        if not manifest.belongs_to(peer.name):
            raise _RefusalError(403, "not_yours", f"probe {peer.name} may not deliver batches of {manifest.iss}")
        if fingerprint(peer.certificate) == manifest.certificate:
            return peer.certificate
        certificate = self._trust.find(peer.name, manifest.certificate)
        named = f"({manifest.certificate.hex()[:16]}…)"
        if certificate is None:
            # Not final: whoever renewed the certificate can lay the earlier one where the Core looks for it.
            raise _RefusalError(
                403, "unknown_certificate",
                f"signed with a certificate that is not known as probe {peer.name}'s {named}; put it into "
                f"{self._settings.pki / 'earlier'}",
            )  # fmt: skip
        if self._trust.is_revoked(certificate):
            raise _RefusalError(422, "revoked_certificate", f"signed with a certificate that is revoked {named}")
        return certificate


def _refuse(request: web.Request, refusal: _RefusalError) -> web.Response:
    body = {"status": _STATUS[refusal.code], "error": refusal.error, "detail": refusal.detail}
    response = web.json_response(body, status=refusal.code)
    if refusal.code in (429, 503):
        response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if refusal.code == 429:
        response.headers["X-Backpressure"] = "true"
    elif refusal.code not in (400, 503):
        logger.warning("%s %s: %d %s: %s", request.remote, request.path, refusal.code, refusal.error, refusal.detail)
    if not request.content.at_eof():
        # The rest of the body is not wanted, and what follows it could not be told from it.
        response.force_close()
    return response
