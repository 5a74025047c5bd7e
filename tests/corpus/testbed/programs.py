"""Programs that scenarios use: installed where they are missing, and asked for their versions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

TOOLS = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "dpi-probe-corpus-tools"


def apt_install(**programs: str) -> None:
    """Install Debian packages whose program is missing: `apt_install(nginx="nginx-light")`.

    An underscore in a program's name stands for a hyphen; several packages are separated by spaces.
    """
    missing = [
        package
        for program, packages in programs.items()
        if shutil.which(program.replace("_", "-")) is None
        for package in packages.split()
    ]
    if missing:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], check=True, env=environment
        )


def tools_python(*packages: str) -> str:
    """The interpreter of an environment of our own that holds these PyPI packages."""
    python = TOOLS / "bin" / "python"
    if not python.exists():
        subprocess.run(["uv", "venv", "--quiet", str(TOOLS)], check=True)
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", str(python), *packages], check=True)
    return str(python)


def version(*command: str) -> str:
    """What a program says about its version: the first line that has a digit, without the list of its libraries."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    lines = done.stdout.decode(errors="replace").splitlines()
    line = next((line for line in lines if any(map(str.isdigit, line))), command[0])
    return " ".join(re.split(r" \(x86_64|, with ", line)[0].split())


class Authority:
    """A throw-away certificate authority in a directory, made with the openssl command."""

    def __init__(self, directory: Path) -> None:
        """Make the authority's key and certificate."""
        self.directory = directory
        self.certificate = directory / "ca.pem"
        self._key = directory / "ca.key"
        self._openssl(
            "req", "-x509", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650",
            "-subj", "/O=dpi-probe corpus/CN=Corpus CA", "-keyout", str(self._key), "-out", str(self.certificate),
        )  # fmt: skip

    @staticmethod
    def _openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    def issue(self, common_name: str, *names: str, rsa: bool = False) -> tuple[Path, Path]:
        """Certificate and key for a subject with these DNS names."""
        certificate, key = self.directory / f"{common_name}.pem", self.directory / f"{common_name}.key"
        extensions = self.directory / f"{common_name}.ext"
        extensions.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in (names or (common_name,))) + "\n")
        algorithm = ["rsa:2048"] if rsa else ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        request = self.directory / f"{common_name}.csr"
        self._openssl(
            "req", "-new", "-newkey", *algorithm, "-nodes", "-subj", f"/O=dpi-probe corpus/CN={common_name}",
            "-keyout", str(key), "-out", str(request),
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", str(request), "-CA", str(self.certificate), "-CAkey", str(self._key),
            "-CAcreateserial", "-days", "3650", "-extfile", str(extensions), "-out", str(certificate),
        )  # fmt: skip
        return certificate, key
