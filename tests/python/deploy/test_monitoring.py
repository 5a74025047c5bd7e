"""The dashboard and the alert rules name metrics that a probe shows."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from dpi_probe import _native
from dpi_probe._control import default_port

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[3] / "deploy"
SELECTOR = re.compile(r"\b((?:dpi_probe|process)_\w+)(?:\{([^}]*)\})?")
# Of the Prometheus library, and what Prometheus itself adds.
PROCESS = {"process_cpu_seconds_total"}
OWN_LABELS = {"instance", "job", "interface", "le"}


def dashboard_expressions() -> Iterator[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "dpi-probe.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


def rules() -> Iterator[dict[str, Any]]:
    document = yaml.safe_load((DEPLOY / "prometheus" / "dpi-probe.rules.yml").read_text())
    for group in document["groups"]:
        yield from group["rules"]


def samples() -> dict[str, tuple[set[str], set[str]]]:
    """The name of every sample a probe can show -> its labels and, where they are fixed, the values of `reason`."""
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    reasons: dict[str, set[str]] = {}
    for account in _native.account_table():
        reasons.setdefault(f"dpi_probe_{account['name']}", set()).add(account["reason"])
    return {
        metric["name"] + suffix: (set(metric["labels"]), reasons.get(metric["name"], set()))
        for metric in _native.metric_table()
        for suffix in suffixes[metric["kind"]]
    }


EXPRESSIONS = sorted({*dashboard_expressions(), *(rule["expr"] for rule in rules())})


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_of_an_expression_exists(expression: str) -> None:
    shown = samples()
    found = SELECTOR.findall(expression.replace("$__rate_interval", "1m"))
    names = [name for name, _ in found]
    assert names or expression.startswith("up{"), expression
    for name, selector in found:
        if name in PROCESS:
            continue
        assert name in shown, name
        labels, reasons = shown[name]
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', selector):
            assert label in labels | OWN_LABELS, f"{name} has no label {label}"
            if label == "reason":
                assert value in reasons, f"{name} has no reason {value}"
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        for label in grouped.replace(" ", "").split(","):
            assert label in OWN_LABELS or any(label in shown[name][0] for name in names if name in shown), label


def test_every_alert_says_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) > 10
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} <= rule["annotations"].keys(), rule["alert"]


def test_the_scrape_configuration_names_where_a_probe_serves() -> None:
    text = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    document = yaml.safe_load(text)
    (job,) = document["scrape_configs"]
    assert job["job_name"] == "dpi-probe", "an alert names the job"
    (static,) = job["static_configs"]
    port = default_port(static["labels"]["interface"])
    assert static["targets"] == [f"127.0.0.1:{port}"]
    # What Prometheus takes for a pattern: a * in the last part of the path only.
    (file,) = re.findall(r"# +- (/\S+)", text)
    assert re.fullmatch(r"[^*]*(\*[^/]*)?\.(json|yml|yaml)", file)
    assert document["rule_files"] == ["dpi-probe.rules.yml"]


def test_the_dashboard_shows_what_goes_in_and_what_comes_out_a_second() -> None:
    shown = " ".join(dashboard_expressions())
    for name in ("frames_delivered", "flows_exported", "events_sealed", "events_transmitted"):
        assert f"(rate(dpi_probe_{name}_total{{" in shown, name
