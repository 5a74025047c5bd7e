"""nginx as a server of the testbed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed.programs import apt_install

if TYPE_CHECKING:
    from tests.corpus.testbed.network import Testbed

_CONFIGURATION = """
daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr crit;
events {{ worker_connections 64; }}
http {{
    access_log off; server_tokens on; default_type text/html; root {directory}/www; keepalive_timeout 30;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    {servers}
}}
"""


def start_nginx(bed: Testbed, servers: str, *, port: int = 80) -> None:
    """Serve `www/` of the testbed's directory with these server blocks."""
    apt_install(nginx="nginx-light", curl="curl")
    bed.write("www/index.html", "<!doctype html><title>Shop</title><p>Open from nine to five.</p>\n")
    configuration = bed.write("nginx.conf", _CONFIGURATION.format(directory=bed.directory, servers=servers))
    bed.directory.chmod(0o755)
    bed.server.start(["nginx", "-c", configuration, "-e", "stderr"], tcp_port=port)
