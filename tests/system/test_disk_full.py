"""A full disk under the probe's spool, and under the Core's archive: said once, counted, and made good by itself."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from dpi_probe.core.archive import Located, iter_entries
from harness.books import check_books, total
from harness.core import Core, wait_for
from harness.programs import Probe, dpi_probe
from harness.sealing import Probe as Sealing

from tests.corpus.cases import cases
from tests.python.end_to_end.netns import Link
from tests.system.small_disk import SmallDisk

CAPTURES = sorted((Path(__file__).parents[1] / "corpus").glob("dns-*/input.pcap*"))


def lines(text: str, part: str) -> list[str]:
    return [line for line in text.splitlines() if part in line]


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
def test_full_disk_under_the_spool(policy: str, shared_pki: Path, tmp_path: Path) -> None:
    (case,) = [case for case in cases() if case.name == "http1-keep-alive"]
    settings = tmp_path / "probe.toml"
    settings.write_text(f'seal_linger_seconds = 0.05\nspool_when_full = "{policy}"\nshutdown_timeout_seconds = 60\n')
    spool = tmp_path / "disk" / "spool"
    core = Core(tmp_path / "core", shared_pki)
    with Link() as link, SmallDisk(spool.parent, 96) as disk:
        probe = Probe(shared_pki, spool, None, "-i", link.interface, "--config", settings, beside=tmp_path / "first")
        with link.host.entered():
            probe.start()
        wait_for(lambda: "a new chain begins" in probe.log.read_text(), "the probe to capture")

        def full() -> bool:
            link.replay(case.capture, frames_per_second=20_000)
            return "the disk is full" in probe.log.read_text()

        wait_for(full, "the disk to fill up")
        for _ in range(10):
            link.replay(case.capture, frames_per_second=20_000)
        (line,) = lines(probe.log.read_text(), "the disk is full")
        assert str(spool) in line
        assert "free space there, or give another BUFFER_DIR" in line
        assert "drop_oldest" not in line or policy == "drop_oldest"

        disk.resize(64 << 10)
        before = len(probe.pending())
        wait_for(
            lambda: link.replay(case.capture, frames_per_second=20_000) and len(probe.pending()) > before + 3,
            "more batches",
        )
        assert lines(probe.log.read_text(), "the disk has space again") == [], "a batch that fits is not the end"

        def recovered() -> bool:
            link.replay(case.capture, frames_per_second=20_000)
            # The disk must have worked for a minute, and must not be full again by then.
            time.sleep(5)
            return "the disk has space again" in probe.log.read_text()

        wait_for(recovered, "the disk to take batches again", seconds=120)
        assert probe.process is not None
        probe.process.send_signal(signal.SIGTERM)
        accounts = probe.finish()
        check_books(accounts)
        assert total(accounts, "events_dropped") == 0
        assert total(accounts, "spool_disk_errors") > 0
        dropped = total(accounts, "batches_dropped", "disk_error")
        lost = total(accounts, "batches_lost")
        assert dropped + lost > 0
        assert len(lines(probe.log.read_text(), "the disk is full")) == 1
        assert lines(probe.log.read_text(), "failed") == [], "no line for each file"

        # What is there holds, and says what is missing.
        sealed = total(accounts, "batches_sealed")
        certificates = ("--ca", shared_pki / "ca.pem", "--certificate", shared_pki / "probes/sensor.pem")
        done = dpi_probe("verify", spool, *certificates, check=False)
        assert "does not hold" not in done.stdout, done.stdout
        core.start()
        last = Probe(shared_pki, spool, core, "-r", CAPTURES[0], "--config", settings, beside=tmp_path / "last")
        accounts = last.start().finish()
        check_books(accounts)
        assert total(accounts, "batches_spooled") == 0
        chains = [chain for known in core.get("/v1/probes")["probes"] for chain in known["chains"]]
        (chain,) = [chain for chain in chains if chain["head"]["seq"] == sealed - 1 and "previous" not in chain]
        assert chain["archived"] == sealed - dropped - lost
        assert chain["manifest_only"] + chain["missing"] == dropped + lost
        assert chain["broken_links"] == 0
        assert core.stop() == 0


def archived(core: Core) -> list[tuple[bytes, int]]:
    """Chain and position of all entries; damage of any kind fails."""
    found = []
    for item in iter_entries(core.data / "archive"):
        assert isinstance(item, Located), item
        found.append((item.entry.chain, item.entry.seq))
    return found


def test_full_disk_under_the_archive(shared_pki: Path, tmp_path: Path) -> None:
    core = Core(tmp_path / "core", shared_pki)
    with SmallDisk(core.data / "archive", 192) as disk:
        core.start()
        sealing = Sealing("sensor", shared_pki)
        acknowledged = []
        with core.client() as client:
            while True:
                batch = sealing.seal()
                answer = client.post("/v1/batches", batch)
                if answer.code != 201:
                    break
                acknowledged.append((bytes.fromhex(sealing.chain), sealing.seq - 1))
            assert acknowledged
            # Nothing was acknowledged, and the probe is told to come again.
            assert (answer.code, answer.body["status"]) == (503, "ERROR")
            assert "receipt" not in answer.body
            for _ in range(5):
                assert client.post("/v1/batches", batch).code == 503
        assert archived(core) == acknowledged
        (line,) = lines(core.log, "No space left on device")
        assert str(core.data / "archive") in line
        assert "free space there" in line
        code, health = core.ask("/v1/health")
        assert (code, health["status"]) == (503, "failed")
        assert "No space left on device" in health["problems"][0]
        assert core.metric("dpi_core_commit_failures_total") >= 6

        # A real probe keeps what it has, and delivers it when there is space.
        settings = tmp_path / "probe.toml"
        settings.write_text("shutdown_timeout_seconds = 100\n")
        spool = tmp_path / "spool"
        probe = Probe(shared_pki, spool, core, *[a for c in CAPTURES for a in ("-r", c)], "--config", settings)
        probe.start()
        wait_for(lambda: core.metric("dpi_core_commit_failures_total") > 8, "the probe to try")
        assert len(probe.pending()) > 0
        size = disk.free()
        disk.resize(8 << 10)
        assert disk.free() > size
        accounts = probe.finish()
        check_books(accounts)
        assert total(accounts, "batches_acknowledged") == total(accounts, "batches_sealed") > 0
        with core.client() as client:
            assert client.post("/v1/batches", batch).code == 201
        wait_for(lambda: core.ask("/v1/health")[1]["status"] == "ok", "the Core to be well again")
        assert len(lines(core.log, "takes batches again")) == 1
        assert len(lines(core.log, "No space left on device")) == 1
        core.indexed()
        entries = archived(core)
        assert len(entries) == len(set(entries)) == len(acknowledged) + 1 + total(accounts, "batches_sealed")
        assert core.stop() == 0
        done = dpi_probe("verify", core.data / "archive", "--ca", shared_pki / "ca.pem")
        assert done.returncode == 0, done.stdout
