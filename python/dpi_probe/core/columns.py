"""What every table of the index has in common. Light to import, unlike `schema`."""

from __future__ import annotations

# The key of every row, and when the Core archived it: the first columns of every table.
KEY_COLUMNS: dict[str, tuple[str, str]] = {
    "core": ("LowCardinality(String)", "The Core that archived the batch."),
    "probe": ("LowCardinality(String)", "The probe that sealed it."),
    "chain": ("LowCardinality(String)", "Its chain: one start of the probe, 32 hexadecimal digits."),
    "seq": ("UInt64", "Its position in the chain."),
    "row": ("UInt32", "The record's row in it, from 0."),
    "received": ("DateTime64(3, 'UTC')", "When the Core archived it."),
}


def quote(identifier: str) -> str:
    """An identifier in backticks. It was checked before (`schema`)."""
    return f"`{identifier}`"
