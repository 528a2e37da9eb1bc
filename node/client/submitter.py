"""Signs a member's transactions and sees them through to a certified receipt."""

import asyncio
import secrets

from node.client.client import Client
from vm.block import Receipt
from vm.keys import SigningKey
from vm.refusal import Refused
from vm.transaction import NONCE_BYTES, Transaction, sign

LIFETIME_BLOCKS = 500  # long enough for a slow network, short enough to give up in time
HEARD_S = 10.0  # between two times that the newest height is asked for: a hundred blocks


class Submitter:
    """One member's pen."""

    def __init__(self, client: Client, member: str, key: SigningKey) -> None:
        self.client = client
        self.member = member
        self._key = key
        self._heard_s: float | None = None  # by the event loop's clock

    async def submit(self, kind: str, body: object) -> Receipt:
        """Send until certified; raises `Refused` with the receipt's code if it failed."""
        return await self.client.submit_and_wait(await self.sign(kind, body))

    async def sign(self, kind: str, body: object) -> Transaction:
        """A transaction that stands from now on, for who keeps it before it is sent."""
        height = await self.height()
        return sign(
            self._key,
            chain=self.client.chain,
            kind=kind,
            sender=self.member,
            body=body,
            valid_until_height=height + LIFETIME_BLOCKS,
            nonce=secrets.token_bytes(NONCE_BYTES),
        )

    async def height(self) -> int:
        """The newest certified height as far as known here; 0 on a chain with only its genesis."""
        now_s = asyncio.get_running_loop().time()
        if self._heard_s is not None and now_s - self._heard_s < HEARD_S:
            return self.client.proven.height
        try:
            found = (await self.client.header()).height
        except Refused as refused:
            if refused.code != "node.not_ready":
                raise
            return 0
        self._heard_s = now_s
        return found
