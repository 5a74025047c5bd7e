"""What a running probe shows on its HTTP endpoint."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from harness.core import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from prometheus_client.metrics_core import Metric


class Endpoint:
    """The endpoint of the probe whose spool is `spool`: its address is in `metrics.json` there."""

    def __init__(self, spool: Path, inside: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        """`inside` is entered for each request: the network namespace in which the probe runs."""
        self._file = spool / "metrics.json"
        self._inside = inside

    def is_there(self) -> bool:
        """Whether the probe has said where it is."""
        return self._file.exists()

    @property
    def url(self) -> str:
        wait_for(self.is_there, "the probe to say where its metrics are")
        (entry,) = json.loads(self._file.read_text())
        return f"http://{entry['targets'][0]}"

    def request(
        self, path: str, *, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and body of an answer."""
        request = urllib.request.Request(self.url + path, data=body, method=method, headers=headers or {})
        try:
            with self._inside(), urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def json(self, path: str, **options: Any) -> tuple[int, Any]:
        """Status and JSON body."""
        status, body = self.request(path, **options)
        return status, json.loads(body)

    def families(self) -> dict[str, Metric]:
        """Every metric by its name."""
        status, text = self.request("/metrics")
        assert status == 200
        return {family.name: family for family in text_string_to_metric_families(text)}

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples `name` (`…_total`, `…_count`, …) that have these labels; 0 without any."""
        return sum(
            sample.value
            for family in self.families().values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
