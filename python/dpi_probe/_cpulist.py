"""The kernel's list format of processors and NUMA nodes (`2-5,8`), in settings and below /proc and /sys."""

from __future__ import annotations

import re

# Linux's largest NR_CPUS.
_MAX_CPUS = 8192


def parse_list(text: str) -> list[int]:
    """The numbers in `text`, in its order; none in an empty one.

    >>> parse_list("0-2,5")
    [0, 1, 2, 5]

    Raises:
        ValueError: `text` is not such a list, or a number in it is above what Linux can have.
    """
    numbers: list[int] = []
    for part in text.split(",") if text.strip() else ():
        match = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part, re.ASCII)
        first = int(match[1]) if match else 0
        last = int(match[2] or match[1]) if match else -1
        if last < first or last >= _MAX_CPUS:
            msg = "core numbers and ranges with commas between them are expected, as in 2-5,8"
            raise ValueError(msg)
        numbers.extend(range(first, last + 1))
    return numbers


def format_list(numbers: list[int]) -> str:
    """The opposite of `parse_list`, in ascending order.

    >>> format_list([0, 1, 2, 5])
    '0-2,5'
    """
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
