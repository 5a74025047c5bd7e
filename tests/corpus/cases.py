"""The cases of the corpus: where they are and what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """A recorded case."""

    directory: Path

    @property
    def name(self) -> str:
        """The behaviour that it shows."""
        return self.directory.name

    @property
    def capture(self) -> Path:
        """The capture file."""
        (capture,) = self.directory.glob("input.pcap*")
        return capture

    @property
    def expected(self) -> Path:
        """The records that the probe makes of it, as NDJSON."""
        return self.directory / "expected.ndjson"

    @property
    def story(self) -> str:
        """The first sentence of its README."""
        paragraphs = (self.directory / "README.md").read_text().split("\n\n")
        return " ".join(paragraphs[1].split()).removesuffix(".")


def cases() -> list[Case]:
    """All cases, by name."""
    return [Case(path.parent) for path in sorted(DIRECTORY.glob("*/record.py"))]
