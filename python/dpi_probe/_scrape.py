"""Reading a probe's endpoint: one scrape, and what happened between two."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dpi_probe import _direct
from dpi_probe.errors import DpiProbeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

STATE_DIRECTORY = Path("/var/lib/dpi-probe")
TIMEOUT_SECONDS = 5.0
MAX_BYTES = 16 << 20


class NoAnswerError(DpiProbeError):
    """Nobody listens there, or nothing comes back."""


def find_endpoint(where: str | None) -> str:
    """The base URL of a probe's endpoint: of its URL, HOST:PORT or interface; without any, of the only probe.

    Raises:
        NoAnswerError: no probe of the interface answers; what answers instead.
        DpiProbeError: it is not known which probe is meant.
    """
    if where is None:
        found = sorted(STATE_DIRECTORY.glob("*/metrics.json"))
        if len(found) != 1:
            names = ", ".join(file.parent.name for file in found) or "none"
            msg = (
                f"which probe? {names} below {STATE_DIRECTORY}; "
                "give its interface, or its URL, which `dpi-probe run` prints at its start"
            )
            raise DpiProbeError(msg)
        return _written(found[0])
    return url_of(where) or _of_interface(where)


def _of_interface(name: str) -> str:
    """The base URL of the probe that captures from this interface, wherever its endpoint had to go.

    Two names may have the same default port, and a file of a probe that was killed may name a port that another one
    has now: what answers must say that it is of this interface.
    """
    from dpi_probe._control import TRIES, default_port

    first = default_port(name)
    places = [*_places_written(name), *(f"http://127.0.0.1:{port}" for port in range(first, first + TRIES))]
    silent: list[NoAnswerError] = []
    others: list[str] = []
    for base in dict.fromkeys(places):
        try:
            scrape = Scrape.of(base)
        except NoAnswerError as error:
            silent.append(error)
        except DpiProbeError as error:
            others.append(str(error))
        else:
            if scrape.label("dpi_probe_info", "interface") == name:
                return base
            probe, interface = (scrape.label("dpi_probe_info", label) for label in ("probe", "interface"))
            others.append(f"at {base} is the probe {probe} of {interface or 'capture files'}")
    if others:
        raise NoAnswerError("; ".join(others))
    raise silent[0]


def _places_written(name: str) -> Iterator[str]:
    """Where the files of spools say that a probe of this interface is."""
    files = [STATE_DIRECTORY / name / "metrics.json"]
    if own := os.environ.get("BUFFER_DIR"):
        files.insert(0, Path(own) / "metrics.json")
    for file in files:
        # One that may not be looked at leaves the ports to ask.
        with suppress(PermissionError):
            if file.exists():
                yield _written(file)


def url_of(where: str) -> str | None:
    """The base URL that a URL or HOST:PORT means; None of an interface's name."""
    from dpi_probe._control import Address

    if "://" in where:
        return where.rstrip("/").removesuffix("/metrics")
    try:
        return f"http://{Address.parse(where)}"
    except ValueError:
        return None


def _written(file: Path) -> str:
    try:
        (entry,) = json.loads(file.read_text(encoding="utf-8"))
        return f"http://{entry['targets'][0]}"
    except OSError as error:
        msg = f"{file}: {error.strerror}"
        raise DpiProbeError(msg) from None
    except (ValueError, KeyError, IndexError, TypeError):
        msg = f"{file}: this is not what a probe writes"
        raise DpiProbeError(msg) from None


def _is_http(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        # Raises where it could be none.
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and port != 0


@dataclass
class Scrape:
    """Every sample of one moment: name -> (labels, value)."""

    moment: float = 0.0
    samples: dict[str, list[tuple[dict[str, str], float]]] = field(default_factory=dict)

    @classmethod
    def of(cls, base: str) -> Self:
        """Ask the endpoint.

        Raises:
            NoAnswerError: no answer.
            DpiProbeError: not a probe's; one line that says what came instead.
        """
        from prometheus_client.parser import text_string_to_metric_families

        url = f"{base}/metrics"
        if not _is_http(url):
            msg = f"{url}: an address like http://127.0.0.1:20123 is expected"
            raise DpiProbeError(msg)
        try:
            with _direct.get(url, TIMEOUT_SECONDS) as answer:
                text = answer.read(MAX_BYTES).decode()
            families = list(text_string_to_metric_families(text))
        except urllib.error.HTTPError as error:
            error.close()
            msg = f"{url} answers {error.code} {error.reason}"
            raise DpiProbeError(msg) from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            msg = f"no answer from {url}: {getattr(reason, 'strerror', None) or reason}"
            raise NoAnswerError(msg) from None
        except (http.client.HTTPException, ValueError):
            msg = f"{url} does not answer with metrics"
            raise DpiProbeError(msg) from None
        scrape = cls(time.monotonic())
        for family in families:
            for sample in family.samples:
                scrape.samples.setdefault(sample.name, []).append((sample.labels, sample.value))
        if "dpi_probe_info" not in scrape.samples:
            msg = f"{url} is not a probe's endpoint"
            raise DpiProbeError(msg)
        return scrape

    def sum(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name that have these labels."""
        found = self.samples.get(name, [])
        return sum(value for own, value in found if labels.items() <= own.items())

    def largest(self, name: str) -> float:
        """The largest sample of this name; 0 without any."""
        return max((value for _, value in self.samples.get(name, [])), default=0.0)

    def by(self, name: str, label: str) -> dict[str, float]:
        """The sums of the samples of this name for each value of a label."""
        sums: dict[str, float] = {}
        for labels, value in self.samples.get(name, []):
            key = labels.get(label, "")
            sums[key] = sums.get(key, 0.0) + value
        return sums

    def label(self, name: str, label: str) -> str:
        """The value of a label of the first sample of this name."""
        found = self.samples.get(name, [])
        return found[0][0].get(label, "") if found else ""


@dataclass
class Between:
    """What happened between two scrapes of one probe."""

    before: Scrape
    now: Scrape

    @property
    def seconds(self) -> float:
        """How long it was."""
        return max(self.now.moment - self.before.moment, 1e-9)

    def rate(self, name: str, **labels: str) -> float:
        """How much a counter grew in a second; a probe that was started again began at 0."""
        return self._grown(self.before.sum(name, **labels), self.now.sum(name, **labels)) / self.seconds

    def rates(self, name: str, label: str) -> dict[str, float]:
        """The rates of a counter for each value of a label."""
        before = self.before.by(name, label)
        return {
            key: self._grown(before.get(key, 0.0), value) / self.seconds
            for key, value in self.now.by(name, label).items()
        }

    @staticmethod
    def _grown(before: float, now: float) -> float:
        return now - before if now >= before else now

    def mean(self, name: str) -> float | None:
        """The mean of a histogram's new observations, in its unit; None without any."""
        count = self.rate(f"{name}_count")
        return self.rate(f"{name}_sum") / count if count > 0 else None

    def quantile(self, name: str, share: float) -> float | None:
        """An estimate of a quantile of a histogram's new observations, as Prometheus' `histogram_quantile` makes it."""
        grown = self.rates(f"{name}_bucket", "le")
        buckets = sorted((float(bound), count) for bound, count in grown.items())
        if not buckets or buckets[-1][1] <= 0:
            return None
        rank = share * buckets[-1][1]
        low, below = 0.0, 0.0
        for bound, count in buckets:
            if count >= rank and count > below:
                if bound == float("inf"):
                    return low
                return low + (bound - low) * (rank - below) / (count - below)
            low, below = bound, count
        return low
