"""psql runs queries on a PostgreSQL server: in clear, then after an SSLRequest over TLS, then with an error and COPY.

Each psql is a connection of its own: password authentication (SCRAM), simple queries, a syntax error, COPY out.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.corpus.testbed import Authority, Testbed, apt_install, version

PROGRAMS = Path("/usr/lib/postgresql/15/bin")


def record(output: Path) -> list[str]:
    """Run the scenario."""
    apt_install(psql="postgresql")
    with Testbed() as bed:
        bed.directory.chmod(0o755)
        certificate, key = Authority(bed.directory).issue("database.example")
        data = bed.directory / "data"
        data.mkdir()
        password = bed.write("password", "example-password\n")
        for path in (certificate, key):
            shutil.copy(path, data)
        for path in (data, *data.iterdir(), Path(password)):
            shutil.chown(path, "postgres")
            path.chmod(0o700 if path.is_dir() else 0o600)
        files = {path: path.read_bytes() for path in data.iterdir()}
        for path in files:
            path.unlink()
        subprocess.run(
            ["runuser", "-u", "postgres", "--", str(PROGRAMS / "initdb"), "-D", str(data), "--auth=scram-sha-256",
             f"--pwfile={password}", "--no-sync"],
            check=True, stdout=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        for path, content in files.items():
            path.write_bytes(content)
            shutil.chown(path, "postgres")
            path.chmod(0o600)
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all 192.0.2.0/24 scram-sha-256\n")
        bed.server.start(
            ["runuser", "-u", "postgres", "--", str(PROGRAMS / "postgres"), "-D", str(data), "-h", "192.0.2.20",
             "-k", str(data), "-c", "ssl=on", "-c", f"ssl_cert_file={certificate.name}",
             "-c", f"ssl_key_file={key.name}", "-c", "fsync=off"],
            tcp_port=5432, stderr=subprocess.DEVNULL, cwd="/",
        )  # fmt: skip
        for mode, statements in (
            (
                "disable",
                "create table article (id int, name text); insert into article values (1, 'lamp'), (2, 'desk')",
            ),
            ("require", "select name from article order by id"),
            ("disable", "copy article to stdout"),
            ("disable", "selectt 1"),
        ):
            bed.client.run(
                ["psql", "-X", "-c", statements, f"host=192.0.2.20 user=postgres dbname=postgres sslmode={mode}"],
                check=statements != "selectt 1", env={"PGPASSWORD": "example-password"},
            )  # fmt: skip
        bed.quiet()
    bed.save(output)
    return [version(str(PROGRAMS / "postgres"), "--version"), version("psql", "--version")]
