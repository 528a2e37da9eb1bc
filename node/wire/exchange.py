"""A member's way to bring and fetch blobs: always outbound, several validators, none trusted.

Which TLS keys the validators have is read from the chain, from time to time and when one is not
served by any: keys are rotated and seats change while this runs.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import structlog

from node.client.client import Client
from node.home.config import Identity, Tls, ValidatorAddress
from node.wire.blobs import BlobStore
from node.wire.gate import Gate
from node.wire.sources import Sources
from node.wire.tls import client_context
from node.wire.transfer import obtain, open_session, upload
from vm.record import Member, Role
from vm.refusal import Refused

STORE_BYTES_MAX = 16 * 1024**3  # blobs that a client keeps; base models and updates to judge
LOOK_AGAIN_S = 60.0  # a key is rotated beside the old one's validity of years, not of minutes
LOOK_SOON_S = 5.0  # where a blob could not be had: keys may be old, or nobody has the blob

log = structlog.get_logger()


class Exchange:
    """Use it as an asynchronous context manager."""

    def __init__(
        self,
        client: Client,
        identity: Identity,
        tls: Tls,
        validators: Sequence[ValidatorAddress],
        folder: Path,
    ) -> None:
        """`folder` holds what was fetched; raises `Refused` for keys and folders.

        Until the chain can be read, the validators of genesis are known.
        """
        self._client = client
        self._validators = [validator.id for validator in validators]
        self._sources = Sources([f"https://{validator.peer}" for validator in validators])
        self._known = {
            member.transport: member
            for member in client.genesis.members
            if member.role is Role.VALIDATOR and member.transport is not None
        }
        self._looked_s: float | None = None  # by the event loop's clock
        self._doubted = False  # since then a blob could not be had
        self._gate = Gate(self._identify, lambda: datetime.now(UTC))
        self._context = client_context(tls.files(identity))
        self._store = BlobStore(folder, STORE_BYTES_MAX)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = open_session(self._context, self._gate.admit)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None, "entered before"
        await self._session.close()

    async def bring(self, content: bytes) -> str:
        """Upload to f + 1 validators, so that an honest one holds it; returns the address.

        Raises `Refused("blob.too_few_copies")` with what each validator answered.
        """
        session = self._opened()
        await self._look()
        copies = self._client.proven.epochs[-1].validators.f + 1
        addresses, failures = await self._sources.ask(
            copies, lambda url: upload(session, url, content)
        )
        if len(addresses) == copies:
            return addresses[0]
        self._doubted = True
        raise Refused(
            "blob.too_few_copies",
            f"expected {copies} validators to take the blob, found {len(addresses)}: "
            f"{'; '.join(failures)}",
        )

    async def fetch(self, address: str, size: int) -> bytes:
        """A blob of `size` bytes; raises `Refused("blob.*")`."""
        await self._look()
        try:
            return await obtain(self._opened(), self._sources, address, self._store, size)
        except Refused:
            self._doubted = True
            raise

    async def forget(self, address: str) -> None:
        """Delete what was fetched: others' updates are kept no longer than they are needed."""
        await asyncio.to_thread(self._store.delete, address)

    async def _look(self) -> None:
        """Read the validators' keys, unless that was done a short while ago."""
        now = asyncio.get_running_loop().time()
        again_s = LOOK_SOON_S if self._doubted else LOOK_AGAIN_S
        if self._looked_s is not None and now - self._looked_s < again_s:
            return
        self._looked_s, self._doubted = now, False
        for id in self._validators:
            try:
                member = await self._client.record(Member, id)
            except Refused as refused:  # what is known will do, or the blob is refused too
                log.warning("exchange.stale", code=refused.code, reason=refused.message)
                return
            known = {key: one for key, one in self._known.items() if one.id != id}
            if member is not None and member.role is Role.VALIDATOR and member.transport:
                known[member.transport] = member
            self._known = known

    def _identify(self, spki: bytes) -> Member | None:
        return self._known.get(spki)

    def _opened(self) -> aiohttp.ClientSession:
        assert self._session is not None, "used as a context manager"
        return self._session
