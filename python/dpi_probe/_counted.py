"""A number with its noun, as people say it."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """`1 flow`, `2,000 flows`; `many` where it is not `one` and an s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
