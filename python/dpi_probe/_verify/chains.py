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
"""A probe has at most so many requests in flight, oldest first: fewer entries than this that wait in a spool can be
older than one that was delivered."""


@dataclass(slots=True)
class _Link:
    digest: str
    prev: str | None
    where: str
    rows: int
    is_batch: bool
    waits: bool
    """It lies in a spool, for a Core to take it."""
    prev_place: tuple[str, int] | None


@dataclass(slots=True)
class _Known:
    links: dict[int, _Link] = field(default_factory=dict)
    where: str = ""
    layout: Layout = "plain"


def _place(claims: Claims) -> str:
    return f"batch {claims['seq']} of chain {claims['chain']} ({claims['iss']})"


@dataclass(frozen=True, slots=True)
class _Head:
    """A statement that a chain has come so far."""

    chain: str
    seq: int
    digest: str
    probe: str | None
    where: str
    by: str
    spool: str | None = None
    """The spool whose own note it is."""


class Chains:
    """Collects manifests whose signature holds, and then compares them."""

    def __init__(self, report: Report) -> None:
        """Findings go to `report`."""
        self._report = report
        self._chains: dict[tuple[str, str], _Known] = {}
        self._heads: list[_Head] = []
        self._damaged: set[tuple[str, int]] = set()

    def damaged(self, chain: str, seq: int) -> None:
        """Something lies at this place, but does not hold: it is reported already, and no gap."""
        self._damaged.add((chain, seq))

    def add(
        self, claims: Claims, digest: str, where: str, path: str, layout: Layout, *, is_batch: bool, waits: bool
    ) -> None:
        """Take a manifest into its chain; `waits`: it lies in a spool, and was not refused."""
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
            known.links[claims["seq"]] = _Link(
                digest, claims["prev"], where, claims["rows"], is_batch, waits, prev_place
            )

    def head(
        self, chain: str, seq: int, digest: str, probe: str | None, where: str, *, spool: str | None = None
    ) -> None:
        """Take note of a statement that a chain has come this far; `spool`: the one whose own note it is."""
        self._heads.append(_Head(chain, seq, digest, probe, where, "the head names", spool))

    def check(self) -> None:
        """Compare everything that was collected."""
        for (probe, chain), known in sorted(self._chains.items()):
            self._check_chain(probe, chain, known)
        for (probe, _), known in self._chains.items():
            first = known.links.get(0)
            if first is not None and first.prev_place is not None and first.prev is not None:
                chain, seq = first.prev_place
                self._check_tail(_Head(chain, seq, first.prev, probe, first.where, "the next chain names"))
        for head in self._heads:
            self._check_tail(head)

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
        expected = seqs[0] if known.layout == "plain" else 0
        waiting = 0
        delivered: list[str] = []
        for seq in seqs:
            missing = [s for s in range(expected, min(seq, expected + 100_000)) if (chain, s) not in self._damaged]
            if missing:
                named = _ranges(missing) if seq - expected <= 100_000 else _ranges_of(expected, seq - 1)
                if known.layout == "spool" and waiting < MAX_IN_FLIGHT:
                    delivered.append(named)
                else:
                    self._report.fault("gap", known.where, f"gap: batch {named} of {name} is left out")
            before = links.get(seq - 1)
            if before is not None and links[seq].prev != before.digest:
                message = f"forked: batch {seq} of {name} does not follow on batch {seq - 1} in {before.where}"
                self._report.fault("fork", links[seq].where, message)
            expected = seq + 1
            waiting += links[seq].waits
        if delivered:
            message = f"batch {', '.join(delivered)} of {name} is not here: delivered already, or lost"
            self._report.note("gap", known.where, message)

    def _check_tail(self, head: _Head) -> None:
        chain, seq = head.chain, head.seq
        for (owner, name), known in self._chains.items():
            if name != chain or (head.probe is not None and owner != head.probe):
                continue
            last = max(known.links)
            link = known.links.get(seq)
            if link is not None and link.digest != head.digest:
                message = f"forked: {head.by} another manifest as batch {seq} of chain {chain} ({owner})"
                self._report.fault("fork", head.where, message)
            elif last < seq and not all(
                (chain, s) in self._damaged for s in range(last + 1, min(seq, last + 1000) + 1)
            ):
                message = f"batch {_ranges_of(last + 1, seq)} of chain {chain} ({owner})"
                waiting = sum(link.waits for link in known.links.values())
                if known.layout == "spool" and waiting < MAX_IN_FLIGHT:
                    self._report.note("tail", head.where, f"{message} is not here: delivered already, or lost")
                else:
                    self._report.fault("tail", head.where, f"missing tail: {message} is left out: {head.by} it")
            return
        if any((chain, s) in self._damaged for s in range(seq + 1)):
            return
        if head.spool is not None:
            self._check_delivered(head, head.spool)
        elif head.by == "the head names":
            message = f"chain {chain} ({head.probe}) is left out: {head.by} its batch {seq}"
            self._report.fault("tail", head.where, message)
        else:
            self._report.note("before", head.where, f"chain {chain}, which came before, is not here")

    def _check_delivered(self, head: _Head, spool: str) -> None:
        """Nothing is here of a spool's newest chain: a Core has it all, unless too much that is older still waits."""
        older = [known for known in self._chains.values() if known.where == spool]
        waiting = sum(link.waits for known in older for link in known.links.values())
        what = f"batch {head.seq} of chain {head.chain}, the last that was sealed,"
        if waiting < MAX_IN_FLIGHT:
            self._report.note("tail", head.where, f"{what} is not here: delivered already, or lost")
        else:
            self._report.fault("tail", head.where, f"missing tail: {what} is left out: {head.by} it")


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
