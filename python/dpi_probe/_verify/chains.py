"""The order of evidence: gaps, repetitions, forks, missing tails (docs/formats/sealed-batch.md §7)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dpi_probe._verify.findings import Chain

if TYPE_CHECKING:
    from dpi_probe._native import Claims
    from dpi_probe._verify.findings import Report
    from dpi_probe._verify.sources import Layout

MAX_IN_FLIGHT = 4
"""A probe has at most so many requests in flight: a spool may lack what lies among its oldest entries."""


@dataclass(slots=True)
class _Link:
    digest: str
    prev: str | None
    where: str
    rows: int
    is_batch: bool
    prev_place: tuple[str, int] | None


@dataclass(slots=True)
class _Known:
    links: dict[int, _Link] = field(default_factory=dict)
    where: str = ""
    layout: Layout = "plain"


def _place(claims: Claims) -> str:
    return f"batch {claims['seq']} of chain {claims['chain']} ({claims['iss']})"


class Chains:
    """Collects manifests whose signature holds, and then compares them."""

    def __init__(self, report: Report) -> None:
        """Findings go to `report`."""
        self._report = report
        self._chains: dict[tuple[str, str], _Known] = {}
        self._heads: list[tuple[str, int, str, str | None, str]] = []
        self._damaged: set[tuple[str, int]] = set()

    def damaged(self, chain: str, seq: int) -> None:
        """Something lies at this place, but does not hold: it is reported already, and no gap."""
        self._damaged.add((chain, seq))

    def add(self, claims: Claims, digest: str, where: str, path: str, layout: Layout, *, is_batch: bool) -> None:
        """Take a manifest into its chain."""
        known = self._chains.setdefault((claims["iss"], claims["chain"]), _Known(where=path, layout=layout))
        before = known.links.get(claims["seq"])
        if before is not None and before.digest != digest:
            self._report.fault("fork", where, f"forked: {_place(claims)} has another manifest in {before.where}")
            return
        if before is not None and before.is_batch and is_batch:
            self._report.fault("repeated", where, f"repeated: {_place(claims)} is in {before.where} already")
            return
        prev_place = None
        if claims["prev_chain"] is not None and claims["prev_seq"] is not None:
            prev_place = (claims["prev_chain"], claims["prev_seq"])
        if before is None or is_batch:
            known.links[claims["seq"]] = _Link(digest, claims["prev"], where, claims["rows"], is_batch, prev_place)

    def head(self, chain: str, seq: int, digest: str, probe: str | None, where: str) -> None:
        """Take note of a statement that a chain has come this far."""
        self._heads.append((chain, seq, digest, probe, where))

    def check(self) -> None:
        """Compare everything that was collected."""
        for (probe, chain), known in sorted(self._chains.items()):
            self._check_chain(probe, chain, known)
        for (probe, _), known in self._chains.items():
            first = known.links.get(0)
            if first is not None and first.prev_place is not None and first.prev is not None:
                chain, seq = first.prev_place
                self._check_tail(chain, seq, first.prev, probe, first.where, "the next chain names")
        for chain, seq, digest, probe_or_none, where in self._heads:
            self._check_tail(chain, seq, digest, probe_or_none, where, "the head names")

    def _check_chain(self, probe: str, chain: str, known: _Known) -> None:
        name = f"chain {chain} ({probe})"
        seqs = sorted(known.links)
        links = known.links
        self._report.chains.append(
            Chain(
                probe=probe,
                chain=chain,
                first=seqs[0],
                last=seqs[-1],
                batches=sum(link.is_batch for link in links.values()),
                manifests=sum(not link.is_batch for link in links.values()),
                records=sum(link.rows for link in links.values() if link.is_batch),
            )
        )
        start = seqs[0] if known.layout in {"spool", "plain"} else 0
        expected = start
        for count, seq in enumerate(seqs):
            missing = [s for s in range(expected, min(seq, expected + 100_000)) if (chain, s) not in self._damaged]
            if missing and seq - expected <= 100_000:
                self._gap(name, known, _ranges(missing), may_be_delivered=count < MAX_IN_FLIGHT)
            elif missing:
                self._gap(name, known, f"{expected} to {seq - 1}", may_be_delivered=count < MAX_IN_FLIGHT)
            before = links.get(seq - 1)
            if before is not None and links[seq].prev != before.digest:
                message = f"forked: batch {seq} of {name} does not follow on batch {seq - 1} in {before.where}"
                self._report.fault("fork", links[seq].where, message)
            expected = seq + 1

    def _gap(self, name: str, known: _Known, missing: str, *, may_be_delivered: bool) -> None:
        if known.layout == "spool" and may_be_delivered:
            message = f"batch {missing} of {name} is not here: delivered already, or lost"
            self._report.note("gap", known.where, message)
        else:
            self._report.fault("gap", known.where, f"gap: batch {missing} of {name} is left out")

    def _check_tail(self, chain: str, seq: int, digest: str, probe: str | None, where: str, by: str) -> None:
        for (owner, name), known in self._chains.items():
            if name != chain or (probe is not None and owner != probe):
                continue
            last = max(known.links)
            link = known.links.get(seq)
            if link is not None and link.digest != digest:
                self._report.fault(
                    "fork", where, f"forked: {by} another manifest as batch {seq} of chain {chain} ({owner})"
                )
            elif last < seq and not all(
                (chain, s) in self._damaged for s in range(last + 1, min(seq, last + 1000) + 1)
            ):
                message = f"batch {_ranges_of(last + 1, seq)} of chain {chain} ({owner})"
                if known.layout == "spool" and len(known.links) < MAX_IN_FLIGHT:
                    self._report.note("tail", where, f"{message} is not here: delivered already, or lost")
                else:
                    self._report.fault("tail", where, f"missing tail: {message} is left out: {by} it")
            return
        if any((chain, s) in self._damaged for s in range(seq + 1)):
            return
        if by == "the head names" and not any(known.layout == "spool" for known in self._chains.values()):
            self._report.fault("tail", where, f"chain {chain} ({probe}) is left out: {by} its batch {seq}")
        elif by != "the head names":
            self._report.note("before", where, f"chain {chain}, which came before, is not here")


def _ranges_of(first: int, last: int) -> str:
    return str(first) if first == last else f"{first} to {last}"


def _ranges(numbers: list[int]) -> str:
    """`3, 5 to 7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(_ranges_of(first, last) for first, last in parts)
