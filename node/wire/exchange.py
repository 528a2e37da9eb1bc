"""A member's way to bring and fetch blobs: always outbound, several validators, none trusted."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import structlog

from node.home.config import Identity, Tls, ValidatorAddress
from node.wire.blobs import BlobStore
from node.wire.gate import Gate
from node.wire.sources import Sources
from node.wire.tls import client_context
from node.wire.transfer import obtain, open_session, upload
from vm.genesis import Genesis
from vm.quorum import faults
from vm.record import Role
from vm.refusal import Refused

STORE_BYTES_MAX = 16 * 1024**3  # blobs that a client keeps; base models and updates to judge

log = structlog.get_logger()


class Exchange:
    """Use it as an asynchronous context manager."""

    def __init__(
        self,
        genesis: Genesis,
        identity: Identity,
        tls: Tls,
        validators: Sequence[ValidatorAddress],
        folder: Path,
    ) -> None:
        """`folder` holds what was fetched; raises `Refused` for keys and folders."""
        self._sources = Sources([f"https://{validator.peer}" for validator in validators])
        self._copies = faults(sum(member.role is Role.VALIDATOR for member in genesis.members)) + 1
        known = {
            member.transport: member
            for member in genesis.members
            if member.role is Role.VALIDATOR and member.transport is not None
        }
        self._gate = Gate(known.get, lambda: datetime.now(UTC))
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
        addresses, failures = await self._sources.ask(
            self._copies, lambda url: upload(session, url, content)
        )
        if len(addresses) == self._copies:
            return addresses[0]
        raise Refused(
            "blob.too_few_copies",
            f"expected {self._copies} validators to take the blob, found {len(addresses)}: "
            f"{'; '.join(failures)}",
        )

    async def fetch(self, address: str, size: int) -> bytes:
        """A blob of `size` bytes; raises `Refused("blob.*")`."""
        return await obtain(self._opened(), self._sources, address, self._store, size)

    async def forget(self, address: str) -> None:
        """Delete what was fetched: others' updates are kept no longer than they are needed."""
        await asyncio.to_thread(self._store.delete, address)

    def _opened(self) -> aiohttp.ClientSession:
        assert self._session is not None, "used as a context manager"
        return self._session
