"""docs/reference/features.md names columns that there are, and every name of the programs that it maps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dpi_probe import _native

PAGE = Path(__file__).resolve().parents[3] / "docs/reference/features.md"
SIDES = ("bidirectional", "src2dst", "dst2src")

NFSTREAM = [
    *(f"{side}_{name}_ps" for side in SIDES for name in ("min", "mean", "stddev", "max")),
    *(f"{side}_{name}_piat_ms" for side in SIDES for name in ("min", "mean", "stddev", "max")),
    *(f"{side}_{flag}_packets" for side in SIDES for flag in ("syn", "cwr", "ece", "urg", "ack", "psh", "rst", "fin")),
    *(
        f"{side}_{name}"
        for side in SIDES
        for name in ("first_seen_ms", "last_seen_ms", "duration_ms", "packets", "bytes")
    ),
    *("expiration_id", "splt_direction", "splt_ps", "splt_piat_ms"),
]

# What identifies a flow (`Flow ID` to `Timestamp`) and `Label` are no statistics.
CICFLOWMETER = [
    *("Flow Duration", "Total Fwd Packet", "Total Bwd packets", "Total Length of Fwd Packet"),
    *("Total Length of Bwd Packet", "Flow Bytes/s", "Flow Packets/s", "Fwd Packets/s", "Bwd Packets/s"),
    *(f"{side} Packet Length {name}" for side in ("Fwd", "Bwd") for name in ("Max", "Min", "Mean", "Std")),
    *(f"{side} IAT {name}" for side in ("Flow", "Fwd", "Bwd") for name in ("Mean", "Std", "Max", "Min")),
    *("Fwd IAT Total", "Bwd IAT Total"),
    *(f"{side} {flag} Flags" for side in ("Fwd", "Bwd") for flag in ("PSH", "URG")),
    *("Fwd Header Length", "Bwd Header Length"),
    *(f"Packet Length {name}" for name in ("Min", "Max", "Mean", "Std", "Variance")),
    *(f"{flag} Flag Count" for flag in ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "CWR", "ECE")),
    *("Down/Up Ratio", "Average Packet Size", "Fwd Segment Size Avg", "Bwd Segment Size Avg"),
    *(f"{side} {name} Avg" for side in ("Fwd", "Bwd") for name in ("Bytes/Bulk", "Packet/Bulk", "Bulk Rate")),
    *(f"Subflow {side} {name}" for side in ("Fwd", "Bwd") for name in ("Packets", "Bytes")),
    *("FWD Init Win Bytes", "Bwd Init Win Bytes", "Fwd Act Data Pkts", "Fwd Seg Size Min"),
    *(f"{kind} {name}" for kind in ("Active", "Idle") for name in ("Mean", "Std", "Max", "Min")),
]

IPFIXPROBE = [
    *(f"PPI_PKT_{name}" for name in ("LENGTHS", "TIMES", "FLAGS", "DIRECTIONS")),
    *(f"{side}_BRST_{name}" for side in ("SBI", "DBI") for name in ("PACKETS", "BYTES", "TIME_START", "TIME_STOP")),
    *(f"{side}_PHISTS_{name}" for side in ("S", "D") for name in ("SIZES", "IPT")),
    *(f"NTS_{name}" for name in ("MEAN", "MIN", "MAX", "STDEV", "KURTOSIS", "ROOT_MEAN_SQUARE")),
    *(f"NTS_{name}" for name in ("AVERAGE_DISPERSION", "MEAN_SCALED_TIME", "MEAN_DIFFTIMES", "MIN_DIFFTIMES")),
    *(f"NTS_{name}" for name in ("MAX_DIFFTIMES", "TIME_DISTRIBUTION", "SWITCHING_RATIO")),
    *(f"{name}{way}" for name in ("IP_TTL", "IP_FLG", "TCP_WIN", "TCP_OPT", "TCP_MSS") for way in ("", "_REV")),
    "TCP_SYN_SIZE",
]


def sections() -> dict[str, list[list[str]]]:
    """The rows of each program's table."""
    found: dict[str, list[list[str]]] = {}
    title = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            title = line.removeprefix("## ")
        elif line.startswith("| ") and title != "Conventions":
            found.setdefault(title, []).append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


@pytest.mark.parametrize(
    ("program", "known"), [("NFStream", NFSTREAM), ("CICFlowMeter", CICFLOWMETER), ("ipfixprobe", IPFIXPROBE)]
)
def test_every_name_of_the_program_is_mapped_once(program: str, known: list[str]):
    mapped = [name for row in sections()[program] for name in names(row[0])]
    assert sorted(mapped) == sorted(known)


def test_columns_that_are_named_exist():
    columns = {("" if entry["table"] == "flow" else f"{entry['table']}.") + entry["name"] for entry in _native.schema()}
    for program, rows in sections().items():
        for row in rows[1:]:
            named = names(row[1])
            assert named or row[1] in ("not kept", "the same"), (program, row)
            for name in named:
                assert name.removesuffix("[0]") in columns | {"_fwd", "_rev"}, (program, name)
