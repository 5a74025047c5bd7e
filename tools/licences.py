#!/usr/bin/env python3
"""Check that every installed Python package has a licence that an Apache-2.0 project may depend on."""

from __future__ import annotations

import importlib.metadata
import sys

# Substrings of the licence text or classifier that are accepted; checked in lower case.
ACCEPTED = (
    "apache",
    "mit",
    "bsd",
    "isc",
    "psf",
    "python software foundation",
    "mpl-2.0",
    "mozilla public license 2.0",
    "unlicense",
    "zlib",
    "cc0",
)
# Packages whose metadata names no licence, with the licence that their source states.
STATED: dict[str, str] = {}


def licence_of(package: importlib.metadata.Distribution) -> str:
    """The licence as the package's metadata states it."""
    fields = package.metadata
    classifiers = [c.rsplit(" :: ", 1)[-1] for c in fields.get_all("Classifier") or [] if c.startswith("License ::")]
    return fields.get("License-Expression") or "; ".join(classifiers) or (fields.get("License") or "").split("\n")[0]


def main() -> int:
    """Print every package without an accepted licence; 1 if there is one."""
    refused = []
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"]
        licence = STATED.get(name.lower()) or licence_of(package)
        if name.lower() != "dpi-probe" and not any(word in licence.lower() for word in ACCEPTED):
            refused.append(f"{name} {package.version}: licence {licence or 'not stated'!r} is not in the accepted list")
    print("\n".join(refused) if refused else "Python licences ok")
    return int(bool(refused))


if __name__ == "__main__":
    sys.exit(main())
