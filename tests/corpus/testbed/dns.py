"""dnsmasq as a DNS server of the testbed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.corpus.testbed.programs import apt_install

if TYPE_CHECKING:
    from tests.corpus.testbed.network import Testbed

_ZONE = """
no-resolv
no-hosts
no-daemon
user=root
edns-packet-max=4096
local=/corpus.example/
host-record=www.corpus.example,192.0.2.80,2001:db8:1::80
cname=alias.corpus.example,www.corpus.example
txt-record=text.corpus.example,first string,second string
srv-host=_ldap._tcp.corpus.example,www.corpus.example,389
mx-host=corpus.example,www.corpus.example,10
"""


def start_dnsmasq(bed: Testbed, *, large_records: int = 0) -> None:
    """Serve corpus.example; `large.corpus.example` then has so many TXT records of 200 bytes."""
    apt_install(dig="bind9-dnsutils", dnsmasq="dnsmasq-base")
    large = "".join(f"txt-record=large.corpus.example,{number:03}{'x' * 197}\n" for number in range(large_records))
    configuration = bed.write("dnsmasq.conf", _ZONE + large + f"pid-file={bed.directory}/dnsmasq.pid\n")
    bed.server.start(["dnsmasq", "-C", configuration, "--log-facility=/dev/null"], udp_port=53, tcp_port=53)
