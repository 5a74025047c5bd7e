"""The order of evidence: gaps, repetitions, forks, missing tails (docs/formats/sealed-batch.md §7)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
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

_FROM_A_CORE = frozenset({"archive", "export"})


@dataclass(slots=True)
class _Link:
    digest: str
    prev: str | None
    where: str
    rows: int
    is_batch: bool
    waits: bool
    """It lies in a spool, for a Core to take it."""
    in_spool: bool
    """It lies in spools only."""
    prev_place: tuple[str, int] | None


@dataclass(slots=True)
class _Known:
    where: str
    layouts: set[Layout] = field(default_factory=set)
    links: dict[int, _Link] = field(default_factory=dict)
    last: int = -1
    held: int = -1
    """The highest position that an archive or an export has, or says that it has: up to there nothing is excused."""

    @property
    def whole(self) -> bool:
        """Whether it should begin at 0: not where single files were given."""
        return self.layouts != {"plain"}


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
    held: bool = False
    """It lies in an archive or export, which should hold what it names."""


class Chains:
    """Collects manifests whose signature holds, and then compares them.

    What a file says that its place is may be any number: no loop here is longer than what was collected.
    """

    def __init__(self, report: Report) -> None:
        """Findings go to `report`."""
        self._report = report
        self._chains: dict[tuple[str, str], _Known] = {}
        self._owners: dict[str, list[str]] = {}
        """The probes of each chain: one, unless somebody made another's up."""
        self._heads: list[_Head] = []
        self._damaged: dict[str, list[int]] = {}
        """Of each chain, in order."""
        self._waiting: dict[str, int] = {}
        """How many entries wait in each spool."""
        self._archived: set[tuple[str, str, int, str]] = set()
        """Probe, chain, position and digest of what a Core says it archived whole."""

    def damaged(self, chain: str, seq: int) -> None:
        """Something lies at this place, but does not hold: it is reported already, and no gap."""
        places = self._damaged.setdefault(chain, [])
        if not self._is_damaged(chain, seq):
            insort(places, seq)

    def add(
        self, claims: Claims, digest: str, where: str, path: str, layout: Layout, *, is_batch: bool, waits: bool
    ) -> None:
        """Take a manifest into its chain; `waits`: it lies in a spool, and was not refused."""
        probe, chain, seq = claims["iss"], claims["chain"], claims["seq"]
        known = self._chains.get((probe, chain))
        if known is None:
            known = self._chains[probe, chain] = _Known(path)
            self._owners.setdefault(chain, []).append(probe)
        if layout in _FROM_A_CORE:
            if not known.layouts & _FROM_A_CORE:
                known.where = path
            known.held = max(known.held, seq)
        elif layout == "spool" and not known.whole:
            known.where = path
        known.layouts.add(layout)
        known.last = max(known.last, seq)
        self._waiting[path] = self._waiting.get(path, 0) + waits
        in_spool = layout == "spool"
        before = known.links.get(seq)
        if before is None:
            prev_place = None
            if claims["prev_chain"] is not None and claims["prev_seq"] is not None:
                prev_place = (claims["prev_chain"], claims["prev_seq"])
            known.links[seq] = _Link(
                digest, claims["prev"], where, claims["rows"], is_batch, waits, in_spool, prev_place
            )
            return
        if before.digest != digest:
            self._report.fault("fork", where, f"forked: {_place(claims)} has another manifest in {before.where}")
            return
        if before.is_batch and is_batch and before.in_spool == in_spool:
            self._report.fault("repeated", where, f"repeated: {_place(claims)} is in {before.where} already")
            return
        # What waits in a spool may be archived already: its receipt is on the way, or was lost there.
        if is_batch > before.is_batch or (is_batch == before.is_batch and in_spool < before.in_spool):
            before.where = where
        before.is_batch |= is_batch
        before.waits |= waits
        before.in_spool &= in_spool

    def head(
        self,
        chain: str,
        seq: int,
        digest: str,
        probe: str | None,
        where: str,
        *,
        spool: str | None = None,
        layout: Layout = "plain",
    ) -> None:
        """Take note of a statement that a chain has come this far; `spool`: the one whose own note it is."""
        held = layout in _FROM_A_CORE
        self._heads.append(_Head(chain, seq, digest, probe, where, "the head names", spool, held))

    def archived(self, probe: str, chain: str, seq: int, digest: str) -> None:
        """A receipt holds that says the whole batch was archived, not its manifest alone."""
        self._archived.add((probe, chain, seq, digest))

    def check(self) -> None:
        """Compare everything that was collected."""
        for head in self._heads:
            if head.held and head.probe is not None and (known := self._chains.get((head.probe, head.chain))):
                known.held = max(known.held, head.seq)
        for (probe, chain), known in sorted(self._chains.items()):
            self._check_chain(probe, chain, known)
            self._check_archived(probe, chain, known)
        for (probe, _), known in self._chains.items():
            first = known.links.get(0)
            if first is not None and first.prev_place is not None and first.prev is not None:
                chain, seq = first.prev_place
                self._check_tail(_Head(chain, seq, first.prev, probe, first.where, "the next chain names"))
        for head in self._heads:
            self._check_tail(head)

    def _is_damaged(self, chain: str, seq: int) -> bool:
        places = self._damaged.get(chain, [])
        at = bisect_left(places, seq)
        return at < len(places) and places[at] == seq

    def _absent(self, chain: str, first: int, last: int) -> list[tuple[int, int]]:
        """The places from `first` to `last` at which nothing is known to lie, as ranges."""
        absent: list[tuple[int, int]] = []
        places = self._damaged.get(chain, [])
        for seq in places[bisect_left(places, first) : bisect_right(places, last)]:
            if first < seq:
                absent.append((first, seq - 1))
            first = seq + 1
        if first <= last:
            absent.append((first, last))
        return absent

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
        expected = 0 if known.whole else seqs[0]
        waiting = 0
        delivered: list[tuple[int, int]] = []
        for seq in seqs:
            missing = self._absent(chain, expected, seq - 1)
            if "spool" in known.layouts and waiting < MAX_IN_FLIGHT:
                delivered += _within(missing, known.held + 1, seq)
                missing = _within(missing, 0, known.held)
            if missing:
                self._report.fault("gap", known.where, f"gap: batch {_ranges(missing)} of {name} is left out")
            before = links.get(seq - 1)
            if before is not None and links[seq].prev != before.digest:
                message = f"forked: batch {seq} of {name} does not follow on batch {seq - 1} in {before.where}"
                self._report.fault("fork", links[seq].where, message)
            expected = seq + 1
            waiting += links[seq].waits
        if delivered:
            message = f"batch {_ranges(delivered)} of {name} is not here: delivered already, or lost"
            self._report.note("gap", known.where, message)

    def _check_archived(self, probe: str, chain: str, known: _Known) -> None:
        """A manifest may stand for a batch that was dropped, not for one that a Core has.

        In a spool it may: the probe drops what it has no receipt for, which a Core may have archived before.
        """
        for seq, link in sorted(known.links.items()):
            if link.is_batch or link.in_spool or (probe, chain, seq, link.digest) not in self._archived:
                continue
            if not self._is_damaged(chain, seq):
                self._report.fault(
                    "receipt",
                    link.where,
                    f"batch {seq} of chain {chain} ({probe}) was archived whole (its receipt says so), "
                    "and only its manifest is here",
                )

    def _check_tail(self, head: _Head) -> None:
        chain, seq = head.chain, head.seq
        for owner in self._owners.get(chain, []):
            if head.probe is not None and owner != head.probe:
                continue
            known = self._chains[owner, chain]
            link = known.links.get(seq)
            if link is not None and link.digest != head.digest:
                message = f"forked: {head.by} another manifest as batch {seq} of chain {chain} ({owner})"
                self._report.fault("fork", head.where, message)
            elif known.last < seq and (missing := self._absent(chain, known.last + 1, seq)):
                message = f"batch {_ranges(missing)} of chain {chain} ({owner})"
                waiting = sum(link.waits for link in known.links.values())
                if "spool" in known.layouts and waiting < MAX_IN_FLIGHT and not head.held:
                    self._report.note("tail", head.where, f"{message} is not here: delivered already, or lost")
                else:
                    self._report.fault("tail", head.where, f"missing tail: {message} is left out: {head.by} it")
            return
        if self._damaged.get(chain, [seq + 1])[0] <= seq:
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
        what = f"batch {head.seq} of chain {head.chain}, the last that was sealed,"
        if self._waiting.get(spool, 0) < MAX_IN_FLIGHT:
            self._report.note("tail", head.where, f"{what} is not here: delivered already, or lost")
        else:
            self._report.fault("tail", head.where, f"missing tail: {what} is left out: {head.by} it")


def _within(ranges: list[tuple[int, int]], first: int, last: int) -> list[tuple[int, int]]:
    """What of the ranges lies from `first` to `last`."""
    cut = [(max(first, begin), min(last, end)) for begin, end in ranges]
    return [(begin, end) for begin, end in cut if begin <= end]


def _ranges(ranges: list[tuple[int, int]]) -> str:
    """`3, 5 to 7`."""
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ranges)
