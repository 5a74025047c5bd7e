"""What a manifest may say that a Core keeps."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from dpi_probe.core.manifest import MAX_SEQ, ManifestError, manifest_of

if TYPE_CHECKING:
    from harness.sealing import Probe


def saying(batch: bytes, **claims: Any) -> bytes:
    """The manifest of a batch with other claims. Its signature does not hold, which reading it does not check."""
    head, payload, signature = manifest_of(batch).token.split(".")
    stated = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    changed = json.dumps({**stated, **claims}, separators=(",", ":")).encode()
    return f"{head}.{base64.urlsafe_b64encode(changed).rstrip(b'=').decode()}.{signature}".encode()


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iat": -1}, "iat is before 1970"),
        ({"seq": 1 << 53, "prev": "A" * 43}, "seq is above 9007199254740991"),
        ({"prev": "A" * 43, "prev_chain": "0" * 32, "prev_seq": 1 << 53}, "seq is above 9007199254740991"),
    ],
)
def test_what_cannot_be_kept_is_refused(probe: Probe, claims: dict[str, Any], reason: str) -> None:
    batch = probe.seal()
    assert manifest_of(saying(batch, iat=0)).iat == 0
    assert manifest_of(saying(batch, seq=MAX_SEQ, prev="A" * 43)).seq == MAX_SEQ
    with pytest.raises(ManifestError, match=reason):
        manifest_of(saying(batch, **claims))
