"""Signs a member's transactions and sees them through to a certified receipt."""

import secrets

from node.client.client import Client
from vm.block import Receipt
from vm.keys import SigningKey
from vm.refusal import Refused
from vm.transaction import NONCE_BYTES, sign

LIFETIME_BLOCKS = 500  # long enough for a slow network, short enough to give up in time


class Submitter:
    """One member's pen."""

    def __init__(self, client: Client, member: str, key: SigningKey) -> None:
        self.client = client
        self.member = member
        self._key = key

    async def submit(self, kind: str, body: object) -> Receipt:
        """Send until certified; raises `Refused` with the receipt's code if it failed."""
        height = await self.height()
        transaction = sign(
            self._key,
            chain=self.client.chain,
            kind=kind,
            sender=self.member,
            body=body,
            valid_until_height=height + LIFETIME_BLOCKS,
            nonce=secrets.token_bytes(NONCE_BYTES),
        )
        return await self.client.submit_and_wait(transaction)

    async def height(self) -> int:
        """The newest certified height; 0 on a chain that has only its genesis."""
        try:
            return (await self.client.header()).height
        except Refused as refused:
            if refused.code != "node.not_ready":
                raise
            return 0
