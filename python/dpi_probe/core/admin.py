"""The operators' door, on a loopback port: queries, state, health, metrics (docs/reference/core-api.md).

In: GET requests without credentials, which is why it listens on loopback only. Out: JSON and Prometheus text.
Never: changes anything, or does anything for a web page of another place, whether it made its name one of the loopback
(DNS rebinding) or only has the browser ask (an image, a form).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from dpi_probe._counted import counted
from dpi_probe._loopback import is_loopback
from dpi_probe.core.catalog import Catalog, CatalogError, Chain, ProbeState
from dpi_probe.core.database_link import DatabaseLink, DatabaseUnavailableError
from dpi_probe.core.jose import b64url
from dpi_probe.core.queries import BadQueryError, Filters, parse_limit, parse_parameters

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from dpi_probe.core.committer import Committer
    from dpi_probe.core.metrics import Metrics
    from dpi_probe.core.trust import Trust

MAX_GAPS = 100
# In one answer, unless they are of one probe.
MAX_CHAINS = 1000
DEFAULT_CHAINS = 100
_T = TypeVar("_T")
_QUESTIONS = ("flows", "applications", "top-talkers", "server-names")


@dataclass(frozen=True, slots=True)
class Page:
    """Which probes and chains are asked for."""

    probe: str | None = None
    limit: int = DEFAULT_CHAINS
    """Chains of a probe."""
    cursor: str | None = None
    """Of one probe, the last chain of the page before; else its last probe."""


class Admin:
    """The handlers of the admin port."""

    def __init__(
        self, catalog_path: Path, committer: Committer, database: DatabaseLink, trust: Trust, metrics: Metrics
    ) -> None:
        """Open the catalog for reading."""
        self._catalog = Catalog(catalog_path)
        # SQLite connections are not for several threads at a time.
        self._catalog_lock = asyncio.Lock()
        self._committer = committer
        self._database = database
        self._trust = trust
        self._metrics = metrics

    def application(self) -> web.Application:
        """The aiohttp application."""
        application = web.Application(middlewares=[_for_loopback, _errors])
        application.router.add_get("/v1/flows", self._question("flows"))
        for name in _QUESTIONS[1:]:
            application.router.add_get(f"/v1/query/{name}", self._question(name))
        application.router.add_get("/v1/probes", self._probes)
        application.router.add_get("/v1/health", self._health)
        application.router.add_get("/metrics", self._metrics_page)
        return application

    def close(self) -> None:
        """Close the catalog."""
        self._catalog.close()

    def _question(self, name: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            filters = Filters.parse(_single(request))
            return web.json_response(await self._database.ask(name, filters.dump()))

        return handle

    async def _probes(self, request: web.Request) -> web.StreamResponse:
        page = Page(**parse_parameters(_single(request), {"probe": str, "limit": parse_limit, "cursor": str}))
        answer = await self._of_catalog(lambda: self._page(page))
        if probes := {probe["probe"]: probe for probe in answer["probes"]}:
            try:
                books = await self._database.ask("books", {"first": min(probes), "last": max(probes)})
            except DatabaseUnavailableError as error:
                answer["books_unavailable"] = str(error)
            else:
                for account in books["accounts"]:
                    if (probe := probes.get(account.pop("probe"))) is not None:
                        probe.setdefault("books", []).append(account)
        # Probes wait while the event loop does anything else.
        text = await asyncio.to_thread(json.dumps, answer)
        return web.Response(text=text, content_type="application/json")

    async def _of_catalog(self, read: Callable[[], _T]) -> _T:
        """What a thread reads; one reads at a time."""

        async def locked() -> _T:
            async with self._catalog_lock:
                return await asyncio.to_thread(read)

        # A caller that is gone must not unlock what the thread still uses.
        return await asyncio.shield(asyncio.ensure_future(locked()))

    def _page(self, page: Page) -> dict[str, Any]:
        """A page of probes, each with its newest chains; of one probe, a page of its chains."""
        if page.probe is not None:
            state = self._catalog.probe(page.probe)
            return {"probes": [] if state is None else [self._probe(state, page.limit, page.cursor)], "next": None}
        probes: list[dict[str, Any]] = []
        shown = 0
        for state in self._catalog.probes(page.cursor or ""):
            shown += min(state.chains, page.limit)
            if probes and shown > MAX_CHAINS:
                return {"probes": probes, "next": probes[-1]["probe"]}
            probes.append(self._probe(state, page.limit))
        return {"probes": probes, "next": None}

    def _probe(self, state: ProbeState, limit: int, cursor: str | None = None) -> dict[str, Any]:
        before = None
        if cursor is not None:
            with contextlib.suppress(ValueError):
                before = self._catalog.chain(state.probe, bytes.fromhex(cursor))
            if before is None:
                raise BadQueryError("parameter cursor: give back `next` of the probe in the page before")
        chains = self._catalog.chains(state.probe, limit + 1, before)
        shown = [self._chain(chain) for chain in chains[:limit]]
        return {
            "probe": state.probe,
            "last_seen": _time(state.last_received),
            "chain_count": state.chains,
            "chains": shown,
            "next": shown[-1]["chain"] if len(chains) > limit else None,
        }

    def _chain(self, chain: Chain) -> dict[str, Any]:
        out: dict[str, Any] = {
            "chain": chain.chain.hex(),
            "head": {"seq": chain.head_seq, "manifest": b64url(chain.head_manifest)},
            "archived": chain.archived,
            "manifest_only": chain.manifest_only,
            "rows": chain.rows,
            "missing": chain.missing,
            "forks": chain.forks,
            "broken_links": chain.broken_links,
            "first_received": _time(chain.first_received),
            "last_received": _time(chain.last_received),
        }
        if chain.missing:
            out["gaps"] = [list(gap) for gap in self._catalog.gaps(chain.probe, chain.chain, MAX_GAPS)]
        if chain.prev_chain is not None and chain.prev_seq is not None:
            before = self._catalog.chain(chain.probe, chain.prev_chain)
            state = _previous_state(chain.prev_seq, chain.prev, before)
            out["previous"] = {"chain": chain.prev_chain.hex(), "seq": chain.prev_seq, "state": state}
        return out

    async def _health(self, _: web.Request) -> web.StreamResponse:
        problems = []
        if self._committer.failed:
            problems.append(f"archive: {self._committer.failed}")
        if not self._committer.is_alive():
            problems.append("archive: the committer has ended")
        failed = bool(problems)
        if self._committer.lost:
            problems.append(f"archive: acknowledged evidence is gone: {self._committer.lost}")
        if self._committer.damaged:
            problems.append(f"archive: {self._committer.damaged} damaged places; run: dpi-probe verify")
        if self._trust.problem:
            problems.append(f"{self._trust.problem}; the list that was read before stays in force")
        status = self._database.status
        if not status["up"] or status.get("error"):
            problems.append(f"database: {status.get('error') or 'not open'}")
        if unindexed := status.get("unindexed", 0):
            what = counted(unindexed, "archived batch is", "archived batches are")
            problems.append(f"index: {what} not in the database; the log and `error` in the table `batches` say why")
        durable = self._committer.durable
        body = {
            "status": "failed" if failed else "degraded" if problems else "ok",
            "problems": problems,
            "archive": {"segment": durable.segment, "offset": durable.offset, "entries": durable.position},
            "index": {
                "entries": status["position"],
                "lag_batches": self._database.lag_batches,
                "lag_seconds": round(self._database.lag_seconds, 3),
                "unindexed": unindexed,
            },
        }
        return web.json_response(body, status=503 if failed else 200)

    async def _metrics_page(self, _: web.Request) -> web.StreamResponse:
        totals = await self._of_catalog(self._catalog.totals)
        self._metrics.chains.set(totals["chains"])
        self._metrics.missing_batches.set(totals["missing"])
        self._metrics.dropped_batches.set(totals["manifest_only"])
        self._metrics.broken_links.set(totals["broken_links"])
        self._metrics.index_lag_batches.set(self._database.lag_batches)
        self._metrics.index_lag_seconds.set(self._database.lag_seconds)
        return web.Response(
            body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        )


def _previous_state(seq: int, manifest: bytes | None, before: Chain | None) -> str:
    """What the Core holds of the chain that another goes on from, behind `seq`."""
    if before is None:
        return "unknown"
    if before.head_seq < seq:
        return "tail_missing"
    if before.head_seq > seq:
        return "rolled_back"
    return "whole" if before.head_manifest == manifest else "forked"


def _single(request: web.Request) -> dict[str, str]:
    if len(set(request.query)) != len(request.query):
        raise BadQueryError("a parameter occurs twice")
    return dict(request.query)


@web.middleware
async def _for_loopback(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    # Browsers always send one; simple health checks by HTTP/1.0 may send none.
    host = request.headers.get("Host")
    if host is not None and not is_loopback(host):
        return _forbidden("Host names another machine; ask by 127.0.0.1 or localhost")
    # A page of another place may not read the answer, but the question would be asked all the same. Only browsers send
    # these; to them every port of one name is the same site.
    if request.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        return _forbidden("a web page of another place asks")
    origin = request.headers.get("Origin")
    if origin is not None and not is_loopback(origin.partition("://")[2]):
        return _forbidden("a web page of another place asks")
    return await handler(request)


def _forbidden(detail: str) -> web.Response:
    return web.json_response({"status": "FORBIDDEN", "detail": detail}, status=403)


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except BadQueryError as error:
        return web.json_response({"status": "BAD_QUERY", "detail": str(error)}, status=400)
    except DatabaseUnavailableError as error:
        headers = {"Retry-After": "5"}
        return web.json_response({"status": "UNAVAILABLE", "detail": str(error)}, status=503, headers=headers)
    except CatalogError as error:
        return web.json_response({"status": "ERROR", "detail": str(error)}, status=500)
    except web.HTTPMethodNotAllowed as error:
        detail = f"{request.path} takes {', '.join(sorted(error.allowed_methods))}"
        headers = {"Allow": error.headers["Allow"]}
        return web.json_response({"status": "METHOD_NOT_ALLOWED", "detail": detail}, status=405, headers=headers)
    except web.HTTPNotFound:
        detail = f"there is no {request.path}; docs/reference/core-api.md lists what there is"
        return web.json_response({"status": "NOT_FOUND", "detail": detail}, status=404)


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    with contextlib.suppress(OverflowError, OSError, ValueError):
        moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
        return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"
    return str(nanoseconds)
