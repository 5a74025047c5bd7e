"""The cache over the archive, at its limits."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest
from dpi_probe.core.archive import Durable, Kind, Place
from dpi_probe.core.catalog import Catalog, CatalogError, Stored
from dpi_probe.core.manifest import manifest_of
from harness.sealing import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """A new one."""
    catalog = Catalog(tmp_path / "catalog.sqlite", writable=True)
    yield catalog
    catalog.close()


def stored(pki: Path, seq: int) -> Stored:
    """An entry of a chain of its own."""
    manifest = dataclasses.replace(manifest_of(Probe("sensor", pki).seal()), seq=seq)
    return Stored(manifest, Kind.BATCH, Place(0, 36, 1000), 1)


def test_heads_far_off_do_not_overflow_the_sum(catalog: Catalog, shared_pki: Path) -> None:
    catalog.add([stored(shared_pki, 1 << 62) for _ in range(2)], Durable(0, 36, 2))
    totals = catalog.totals()
    assert totals["missing"] == 1 << 63
    assert {type(value) for value in totals.values()} == {int}


def test_what_it_cannot_keep_is_its_own_error_and_leaves_nothing(catalog: Catalog, shared_pki: Path) -> None:
    with pytest.raises(CatalogError, match="too large"):
        catalog.add([stored(shared_pki, 0), stored(shared_pki, (1 << 63) - 1)], Durable(0, 36, 2))
    assert catalog.chains() == []
    assert catalog.covered() is None
