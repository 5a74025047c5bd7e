"""A QUIC client and server on aioquic, run by the interpreter that has it.

quic_peer.py serve ADDRESS PORT CERTIFICATE KEY [retry]
quic_peer.py fetch ADDRESS PORT SERVER_NAME CA [v1|v2] [ALPN…]
"""

from __future__ import annotations

import asyncio
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamDataReceived
from aioquic.quic.packet import QuicProtocolVersion

VERSIONS = {"v1": QuicProtocolVersion.VERSION_1, "v2": QuicProtocolVersion.VERSION_2}


class Echo(QuicConnectionProtocol):
    """Sends every finished stream back."""

    def quic_event_received(self, event: QuicEvent) -> None:
        """Answer stream data."""
        if isinstance(event, StreamDataReceived):
            self._quic.send_stream_data(event.stream_id, event.data.upper(), event.end_stream)


async def run_server(address: str, port: int, certificate: str, key: str, retry: bool) -> None:
    """Serve until terminated."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3", "hq-interop"])
    configuration.supported_versions = list(VERSIONS.values())
    configuration.load_cert_chain(certificate, key)
    await serve(address, port, configuration=configuration, create_protocol=Echo, retry=retry)
    await asyncio.Event().wait()


async def run_client(address: str, port: int, name: str, authority: str, version: str, alpn: list[str]) -> None:
    """One connection with one stream."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=alpn or ["h3"], server_name=name)
    configuration.original_version = VERSIONS[version]
    configuration.supported_versions = [VERSIONS[version]]
    configuration.load_verify_locations(authority)
    async with connect(address, port, configuration=configuration) as connection:
        reader, writer = await connection.create_stream()
        writer.write(b"hello")
        writer.write_eof()
        if await reader.read() != b"HELLO":
            raise RuntimeError("the server did not echo")


def main(verb: str, address: str, port: str, *rest: str) -> None:
    """Dispatch on the verb."""
    if verb == "serve":
        certificate, key, *options = rest
        asyncio.run(run_server(address, int(port), certificate, key, "retry" in options))
    else:
        name, authority, version, *alpn = rest
        asyncio.run(run_client(address, int(port), name, authority, version, alpn))


if __name__ == "__main__":
    main(*sys.argv[1:])
