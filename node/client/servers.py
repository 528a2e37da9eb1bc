"""Which TLS key a server has shown: what is meant for one key is sent to no other.

A name leads to whoever holds it in the DNS, with a certificate that the authority once gave, though
the chain may have another key for that member by now. So what shows who we are names the key.
"""

from ssl import SSLContext

import aiohttp
from aiohttp.client import ClientTimeout
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from yarl import URL

from node.readers.signature import SERVER
from node.wire.tls import peer_spki


class OtherServer(aiohttp.ClientConnectionError):
    """The server holds another TLS key than the request is for; nothing was sent to it."""


class Servers(aiohttp.TCPConnector):
    """Connections to servers whose TLS keys are looked at before each request."""

    def __init__(self, *, ssl: SSLContext | bool) -> None:
        super().__init__(ssl=ssl)
        self._keys: dict[URL, str | None] = {}  # by origin, of which a client has a list

    def key(self, url: str) -> str | None:
        """The digest in hexadecimal of the TLS key that the server at `url` showed last, if any."""
        return self._keys.get(URL(url).origin())

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: ClientTimeout,  # noqa: ASYNC109 - it is aiohttp's
    ) -> Connection:
        """A connection for this request; raises `OtherServer` where its `SERVER` field says so."""
        connection = await super().connect(req, traces, timeout)
        transport = connection.transport
        tls = None if transport is None else transport.get_extra_info("ssl_object")
        found = None if tls is None else peer_spki(tls).hex()
        self._keys[req.url.origin()] = found
        wanted = req.headers.get(SERVER, found)
        if wanted != found:
            connection.close()
            raise OtherServer(f"expected a server with the TLS key {wanted}, found {found}")
        return connection
