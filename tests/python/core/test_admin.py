"""The operators' door over a catalog of many probes and chains."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiohttp.test_utils import TestClient, TestServer
from dpi_probe.core.admin import Admin
from dpi_probe.core.archive import Durable, Kind, Place
from dpi_probe.core.catalog import Catalog, Stored
from dpi_probe.core.database_link import DatabaseUnavailableError
from dpi_probe.core.manifest import manifest_of
from dpi_probe.core.metrics import Metrics
from harness.sealing import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from dpi_probe.core.committer import Committer
    from dpi_probe.core.database_link import DatabaseLink
    from dpi_probe.core.trust import Trust


class Books:
    """In the database's place: an account of every probe that it is asked for."""

    def __init__(self, probes: list[str], *, up: bool = True) -> None:
        self.probes, self.up = probes, up

    async def ask(self, question: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        assert question == "books"
        if not self.up:
            raise DatabaseUnavailableError("not open")
        chosen = [probe for probe in self.probes if arguments["first"] <= probe <= arguments["last"]]
        return {"accounts": [{"probe": probe, "account": "packets", "value": len(probe)} for probe in chosen]}


class Door:
    """What is asked of a catalog."""

    def __init__(self, path: Path, pki: Path) -> None:
        self._path = path
        self._manifest = manifest_of(Probe("sensor", pki).seal())
        self._catalog = Catalog(path, writable=True)
        self.books = Books([])

    def fill(self, probe: str, numbers: range) -> None:
        """Chains of a probe, by number, in the order in which they began; each goes on from the one before."""
        chains = [
            dataclasses.replace(
                self._manifest, iss=probe, chain=_chain(at), prev_chain=_chain(at - 1) if at else None,
                prev_seq=0 if at else None, prev=self._manifest.digest,
            )
            for at in numbers
        ]  # fmt: skip
        stored = [
            Stored(manifest, Kind.BATCH, Place(0, 36, 1000), (1 + at) * 10**9)
            for at, manifest in zip(numbers, chains, strict=True)
        ]
        self._catalog.add(stored, Durable(0, 36, 0))
        self.books.probes.append(probe)

    def ask(self, **query: object) -> tuple[int, dict[str, Any]]:
        """Status and body of an answer of `/v1/probes`."""

        async def answer() -> tuple[int, dict[str, Any]]:
            admin = Admin(
                self._path, cast("Committer", None), cast("DatabaseLink", self.books), cast("Trust", None), Metrics()
            )
            async with TestClient(TestServer(admin.application())) as client:
                response = await client.get("/v1/probes", params={name: str(value) for name, value in query.items()})
                body = json.loads(await response.read())
            admin.close()
            return response.status, body

        return asyncio.run(answer())

    def get(self, **query: object) -> dict[str, Any]:
        """The body of an answer of 200."""
        code, body = self.ask(**query)
        assert code == 200, body
        return body

    def close(self) -> None:
        self._catalog.close()


def _chain(number: int) -> bytes:
    # Not in the order of their ids.
    return (number * 7919 % 65_521).to_bytes(16, "big")


def numbers(probe: dict[str, Any]) -> list[int]:
    """The numbers of the chains of a probe, in their order."""
    known = {_chain(at).hex(): at for at in range(10_000)}
    return [known[chain["chain"]] for chain in probe["chains"]]


@pytest.fixture
def door(tmp_path: Path, shared_pki: Path) -> Iterator[Door]:
    """Of an empty catalog."""
    door = Door(tmp_path / "catalog.sqlite", shared_pki)
    yield door
    door.close()


def test_of_many_chains_of_a_probe_the_newest_are_shown_and_all_are_told(door: Door) -> None:
    door.fill("sensor", range(2500))
    door.fill("sensor/eth0", range(1))
    answer = door.get()
    many, one = answer["probes"]
    assert (many["probe"], many["chain_count"], many["last_seen"]) == (
        "sensor",
        2500,
        "1970-01-01T00:41:40.000000000Z",
    )
    assert numbers(many) == list(range(2499, 2399, -1))
    assert (one["chain_count"], numbers(one), one["next"]) == (1, [0], None)
    assert answer["next"] is None
    # What the last of them goes on from is not on the page.
    assert many["chains"][-1]["previous"] == {"chain": _chain(2399).hex(), "seq": 0, "state": "whole"}
    assert len(door.get(limit=3)["probes"][0]["chains"]) == 3


@pytest.mark.parametrize("limit", [1000, 999, 250])
def test_pages_of_a_probe_hold_every_chain_once_newest_first(door: Door, limit: int) -> None:
    door.fill("other", range(3))
    door.fill("sensor", range(2000))
    seen: list[int] = []
    cursor: dict[str, str] = {}
    while True:
        (page,) = door.get(probe="sensor", limit=limit, **cursor)["probes"]
        assert len(page["chains"]) <= limit
        assert page["chain_count"] == 2000
        seen += numbers(page)
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen == list(range(1999, -1, -1))


def test_pages_of_all_hold_every_probe_once_and_are_bounded(door: Door) -> None:
    probes = [*sorted(f"sensor/{at}" for at in range(30)), "z", "ä"]
    for probe in probes:
        door.fill(probe, range(150))
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = door.get(**cursor)
        assert sum(len(probe["chains"]) for probe in page["probes"]) <= 1000
        assert all(probe["books"] == [{"account": "packets", "value": len(probe["probe"])}] for probe in page["probes"])
        seen += [probe["probe"] for probe in page["probes"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert seen == probes
    # One probe has an answer of its own, however many are asked for.
    assert len(door.get(limit=1000)["probes"]) == 6


def test_what_is_not_known_is_told(door: Door) -> None:
    assert door.get() == door.get(probe="sensor") == {"probes": [], "next": None}
    door.fill("sensor", range(1))
    queries: list[dict[str, object]] = [{"limit": 0}, {"limit": 1001}, {"chain": "x"}, {"cursor": "x" * 513}]
    queries += [{"probe": "sensor", "cursor": cursor} for cursor in ("x", "00", "sensor")]
    for query in queries:
        code, body = door.ask(**query)
        assert (code, body["status"]) == (400, "BAD_QUERY"), query


def test_without_the_database_there_are_no_books(door: Door) -> None:
    door.fill("sensor", range(1))
    door.books.up = False
    answer = door.get()
    assert answer["books_unavailable"] == "not open"
    assert numbers(answer["probes"][0]) == [0]
