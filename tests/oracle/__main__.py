"""`python -m tests.oracle FILE…`: the flow records of captures, as NDJSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.oracle.capture import read
from tests.oracle.meter import Meter

if __name__ == "__main__":
    for name in sys.argv[1:]:
        for record in Meter().run(read(Path(name))):
            print(json.dumps(record, separators=(",", ":")))
