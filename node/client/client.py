"""A client of the HTTP interface: several validators, none of them trusted.

What is proven is checked against the genesis document or a pin before it is returned, and against
the epochs that were followed from there; a node whose proof does not hold is passed over and
remembered in `distrusted`. It needs neither LevelDB nor numpy nor torch.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Self, TypeVar

import aiohttp
import structlog

from node.api.admission import ADMITTED, Admission
from node.api.keys import write_keys
from node.api.resource import BY_RECORD, EPOCHS_PATH, TOGETHER_PATH, Key
from node.api.views import EventView, StatusView
from node.client.connection import ANSWER_BYTES_MAX, Connection
from node.client.credentials import Credentials
from node.client.proven import Asked, Proven
from node.client.reply import (
    LookupBody,
    Outcome,
    PageBody,
    ProofBody,
    Reply,
    StepsBody,
    passes,
    read_admissions,
    worst,
)
from node.client.sse import EventReader
from vm.block import Header, Receipt
from vm.genesis import Genesis
from vm.refusal import Refused
from vm.shape import pack
from vm.state import Record, state_key
from vm.transaction import Transaction
from vm.trust import from_genesis

log = structlog.get_logger()

T = TypeVar("T")
R = TypeVar("R", bound=Record)

NEWEST_PATH = "/v1/checkpoints?limit=1"
UNKNOWN_EPOCH = "audit.validators"  # what `vm.inclusion` says of a proof by an epoch not followed
NOT_FALSE = {UNKNOWN_EPOCH, "audit.before_pin", "history.full"}  # we do not know who ruled there
LEARN_S = 2.0  # to hear how high the chain is: a silent node does not hold up the first read
LEARN_AGAIN_S = 30.0  # a node that was cut off since shows no more than it had
CATCH_UP_TRIES = 20  # for nodes that are behind, POLL_S apart
POLL_S = 0.1  # a block takes about that long; also where a node does not wait for one
RESEND_S = 2.0  # a validator that has not certified by then may have lost its primary
RETRY_S = 0.5  # from one round over all validators to the next: busy ones answer at once


class Client:
    """Speaks to the validators at `urls`, the one that answered last first.

    Use it as an asynchronous context manager. What changes is never read below the highest
    certified height that was proven by anybody; to know one, f + 1 nodes are asked at the first
    read and from time to time. `distrusted` maps the URL of each node that sent
    something false to the refusal that says what. `credentials` say who reads, where nodes want to
    know it.
    """

    def __init__(
        self,
        genesis: Genesis,
        urls: Sequence[str],
        credentials: Credentials | None = None,
        *,
        proven: Proven | None = None,
    ) -> None:
        """From genesis alone unless `proven` is given; raise `Refused` with `client.urls`."""
        self.genesis = genesis
        self.chain = genesis.chain
        self.proven = Proven(from_genesis(genesis)) if proven is None else proven
        self.urls = [url.rstrip("/") for url in dict.fromkeys(urls)]
        self.distrusted: dict[str, Refused] = {}
        self._learned_s: float | None = None  # by the event loop's clock
        if not self.urls or not all(url.startswith(("http://", "https://")) for url in self.urls):
            found = ", ".join(self.urls) or "none"
            raise Refused("client.urls", f"expected http:// or https:// URLs, found {found}")
        if any("@" in url for url in self.urls):  # a name and password would go to the node
            raise Refused("client.urls", "expected URLs without user and password, found an @")
        self._connection = Connection(credentials)

    async def __aenter__(self) -> Self:
        await self._connection.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.__aexit__()

    # Asking

    async def ask(
        self,
        path: str,
        read: Callable[[Reply], T],
        *,
        bytes_max: int = ANSWER_BYTES_MAX,
        transactions: Sequence[bytes] | None = None,
    ) -> T:
        """Ask one node after the other until `read` accepts an answer, which is returned.

        GET, or POST of packed `transactions`. If none is accepted, raises what `worst` says.
        """
        return await self.each(
            lambda url: self.ask_one(
                url, path, read, bytes_max=bytes_max, transactions=transactions
            )
        )

    async def each(self, ask: Callable[[str], Awaitable[T]]) -> T:
        """What `ask` gives of the first node's URL for which it does not refuse; see `worst`."""
        refusals: dict[str, Refused] = {}
        for url in tuple(self.urls):
            try:
                accepted = await ask(url)
            except Refused as refused:
                refusals[url] = refused
            else:
                self._prefer(url)
                return accepted
        raise worst(refusals)

    async def ask_one(
        self,
        url: str,
        path: str,
        read: Callable[[Reply], T],
        *,
        bytes_max: int = ANSWER_BYTES_MAX,
        transactions: Sequence[bytes] | None = None,
    ) -> T:
        """As `ask`, of the node at `url` alone."""
        return await self.accept(await self._fetch(url, path, bytes_max, transactions), read)

    async def newest(
        self,
        path: str,
        read: Callable[[Reply], tuple[T, Header]],
        *,
        bytes_max: int = ANSWER_BYTES_MAX,
    ) -> tuple[T, Header]:
        """Ask for what changes; `read` gives it with the header under which it was proven.

        Raises as `fresh` does.
        """
        return await self.fresh(lambda url: self.ask_one(url, path, read, bytes_max=bytes_max))

    async def fresh(self, ask: Callable[[str], Awaitable[tuple[T, Header]]]) -> tuple[T, Header]:
        """As `each`, of what changes: `ask` gives it with the node's newest header.

        Raises as `each` does, and `Refused("client.stale")` if in `CATCH_UP_TRIES` no node shows
        the height that was proven to us before: whoever is cut off cannot hide what came since.
        """
        await self._learn()
        lowest = self.proven.height

        async def ask_fresh(url: str) -> tuple[T, Header]:
            found, header = await ask(url)
            if header.height < lowest:
                raise Refused(
                    "client.stale",
                    f"{url}: expected height {lowest} or later, found {header.height}",
                )
            return found, header

        for _ in range(CATCH_UP_TRIES):
            try:
                return await self.each(ask_fresh)
            except Refused as refused:
                if refused.code != "client.stale":
                    raise
                stale = refused
            await asyncio.sleep(POLL_S)
        raise stale

    async def _learn(self) -> None:
        """Hear from f + 1 nodes, one of them honest, how high the chain is."""
        now = asyncio.get_running_loop().time()
        if self._learned_s is not None and now - self._learned_s < LEARN_AGAIN_S:
            return
        self._learned_s = now
        asked = [asyncio.create_task(self._hear(url)) for url in self.urls]
        heard = 0
        try:
            async with asyncio.timeout(LEARN_S):
                for answer in asyncio.as_completed(asked):
                    heard += await answer
                    if heard > self.proven.epochs[-1].validators.f:
                        return
        except TimeoutError:
            return
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def _hear(self, url: str) -> bool:
        """Whether this node showed a certified header, or says that it has none yet."""
        try:
            await self.ask_one(url, NEWEST_PATH, self._read_header)
        except Refused as refused:
            return refused.code == "node.not_ready"
        return True

    async def accept(self, reply: Reply, read: Callable[[Reply], T]) -> T:
        """What `read` makes of a reply, after following its node to the epoch of its proof."""
        try:
            return read(reply)
        except Refused as refused:
            if refused.code != UNKNOWN_EPOCH:
                raise
        await self._follow(reply.url)
        try:
            return read(reply)
        except Refused as refused:
            if refused.code == UNKNOWN_EPOCH:
                self._distrust(reply.url, refused)
            raise

    async def _follow(self, url: str) -> None:
        """Take the steps that a node has beyond our newest epoch; each is verified."""
        while True:
            before = len(self.proven.epochs)
            reply = await self._fetch(url, f"{EPOCHS_PATH}?after={self.proven.epochs[-1].number}")
            page = reply.read(StepsBody)
            for item in page.items:
                self.verified(reply, partial(self.proven.step, item.proof))
            if page.next is None or len(self.proven.epochs) == before:
                return

    def verified(self, reply: Reply, check: Callable[[], T]) -> T:
        """What `check` makes of a reply; if it refuses, the node is noted as not to be trusted.

        Except where we do not know who ruled: that may be our own delay, or lie before our pin.
        """
        try:
            return check()
        except Refused as refused:
            if refused.code not in NOT_FALSE:
                self._distrust(reply.url, refused)
            raise

    def _distrust(self, url: str, refused: Refused) -> None:
        self.distrusted[url] = refused
        log.warning("node.distrusted", url=url, code=refused.code, reason=refused.message)

    async def _fetch(
        self,
        url: str,
        path: str,
        bytes_max: int = ANSWER_BYTES_MAX,
        transactions: Sequence[bytes] | None = None,
    ) -> Reply:
        try:
            return await self._connection.fetch(url, path, bytes_max, transactions)
        except Refused as refused:
            if refused.code == "client.unreachable":
                self._ask_last(url)
            raise

    def _prefer(self, url: str) -> None:
        """A node that served is asked first from now on: it knows what it told us."""
        self.urls.remove(url)
        self.urls.insert(0, url)

    def _ask_last(self, url: str) -> None:
        """A node that did not answer costs one call its timeouts, and not every call."""
        self.urls.remove(url)
        self.urls.append(url)

    # Reading

    async def status(self) -> StatusView:
        """A node's own word on how it is."""
        return await self.ask("/v1/status", lambda reply: reply.read(StatusView))

    async def header(self) -> Header:
        """The newest certified header that the first node to answer has."""
        header, _ = await self.newest(NEWEST_PATH, self._read_header)
        return header

    async def header_at(self, height: int) -> Header:
        """The certified header of a height, proven."""
        return await self.ask(f"/v1/blocks/{height}", lambda reply: self._read_block(reply, height))

    async def record(self, cls: type[R], *key: str | int) -> R | None:
        """The record under `key` at the node's newest certified height, proven; None if absent."""
        record, _ = await self.record_at(cls, *key)
        return record

    async def record_at(self, cls: type[R], *key: str | int) -> tuple[R | None, Header]:
        """As `record`, with the header under which it was proven."""
        path = BY_RECORD[cls].item(key)
        return await self.newest(path, lambda reply: self._read_record(reply, cls, key))

    async def together(self, asked: Sequence[Asked]) -> tuple[list[Record | None], Header]:
        """As `record_at`, for at most `KEYS_MAX` records of any kinds under one header."""
        keys = write_keys([state_key(cls.KIND, key) for cls, key in asked])
        return await self.newest(
            f"{TOGETHER_PATH}?keys={keys}", lambda reply: self._read_together(reply, asked)
        )

    async def receipt(self, id: bytes) -> Receipt | None:
        """The certified receipt of a transaction, proven; None while it is pending or unknown."""
        found = await self.ask(
            f"/v1/transactions/{id.hex()}", lambda reply: self._read_receipt(reply, id)
        )
        return None if found is None else found.receipt

    def _read_header(self, reply: Reply) -> tuple[Header, Header]:
        page = reply.read(PageBody)
        if not page.items:
            raise Refused("node.not_ready", f"{reply.url}: expected a certified block, found none")
        header = self.verified(reply, lambda: self.proven.header(page.items[0].proof))
        return header, header

    def _read_block(self, reply: Reply, height: int) -> Header:
        body = reply.read(ProofBody)
        return self.verified(reply, lambda: self.proven.header_at(body.proof, height))

    def _read_record(self, reply: Reply, cls: type[R], key: Key) -> tuple[R | None, Header]:
        absent = reply.status == 404  # which is proven too
        body = reply.parse(ProofBody) if absent else reply.read(ProofBody)
        return self.verified(reply, lambda: self.proven.record(body.proof, cls, key))

    def _read_together(
        self, reply: Reply, asked: Sequence[Asked]
    ) -> tuple[list[Record | None], Header]:
        body = reply.read(ProofBody)
        return self.verified(reply, lambda: self.proven.together(body.proof, asked))

    def _read_receipt(self, reply: Reply, id: bytes) -> Outcome | None:
        if reply.status == 404:
            return None
        body = reply.read(LookupBody)
        text = body.proof
        if text is None:
            return None
        receipt = self.verified(reply, lambda: self.proven.receipt(text, id))
        return Outcome(receipt, body.message or "")

    # Submitting

    async def submit(self, transactions: Sequence[Transaction]) -> list[Admission]:
        """Hand transactions to the first node that answers; admission promises nothing."""
        packed = [pack(transaction) for transaction in transactions]
        return await self.ask("/v1/transactions", read_admissions, transactions=packed)

    async def submit_and_wait(self, transaction: Transaction) -> Receipt:
        """Send to one node after the other until the transaction is certified; give its receipt.

        Raises `Refused` with the receipt's code if it failed, with a node's code if every node
        that answers refuses it, or with `transaction.expired` once a certified header is past
        `valid_until_height` and no node shows a receipt. The last rests on the nodes' word: with
        f + 1 of them asked, one at least is honest.
        """
        now_s = asyncio.get_running_loop().time
        while True:
            begun_s = now_s()
            refusals: list[Refused | None] = []
            for url in tuple(self.urls):
                refused = await self._offer(url, transaction)
                if refused is not None and refused.code == "client.unreachable":
                    refusals.append(refused)
                    continue
                outcome = await self._await_receipt(url, transaction.id, patient=refused is None)
                if outcome is not None:
                    self._prefer(url)
                    return outcome.require_applied()
                refusals.append(refused)
            answered = [item for item in refusals if item is None or not passes(item)]
            final = next((item for item in answered if item is not None), None)
            if final is not None and None not in answered:
                raise final
            await self._check_alive(transaction)
            await asyncio.sleep(max(0, begun_s + RETRY_S - now_s()))

    async def _offer(self, url: str, transaction: Transaction) -> Refused | None:
        """Submit to one node; None if it admits the transaction."""
        try:
            reply = await self._fetch(
                url, "/v1/transactions", ANSWER_BYTES_MAX, [pack(transaction)]
            )
            admissions = read_admissions(reply)
        except Refused as refused:
            return refused
        if len(admissions) != 1:
            return Refused("http.answer", f"{url}: expected 1 admission, found {len(admissions)}")
        (admission,) = admissions
        if admission.code == ADMITTED:
            return None
        return Refused(admission.code, f"{url}: {admission.message}")

    async def _await_receipt(self, url: str, id: bytes, *, patient: bool) -> Outcome | None:
        """Ask one node for the receipt; if `patient`, until it is there or RESEND_S are over."""
        now_s = asyncio.get_running_loop().time
        end_s = now_s() + (RESEND_S if patient else 0)
        while True:
            wait_ms = max(0, round(1_000 * (end_s - now_s())))  # the node answers once it is there
            try:
                path = f"/v1/transactions/{id.hex()}?wait_ms={wait_ms}"
                outcome = await self.ask_one(url, path, lambda reply: self._read_receipt(reply, id))
            except Refused:
                return None
            if outcome is not None or now_s() >= end_s:
                return outcome
            await asyncio.sleep(POLL_S)

    async def _check_alive(self, transaction: Transaction) -> None:
        """Raise `Refused("transaction.expired")` once no later block may hold the transaction."""
        last = transaction.intent.valid_until_height
        try:
            height = (await self.header()).height
        except Refused:
            return  # nobody can say
        if height <= last:
            return
        for url in tuple(self.urls):
            if await self._await_receipt(url, transaction.id, patient=False) is not None:
                return  # the next attempt returns it
        raise Refused(
            "transaction.expired",
            f"expected {transaction.id.hex()} certified by height {last}, found height {height} "
            "and no receipt; make it anew",
        )

    # Following

    async def events(self, since: int | None = None) -> AsyncIterator[EventView]:
        """Certified blocks as they come, from the one after `since`; ends only when closed.

        It goes on at another node after an interruption. Events are a node's word: they tell when
        to ask, and what is asked is proven. A node that claims a height beyond the chain's is not
        believed at the next one, so heights may come again.
        """
        while True:
            for url in tuple(self.urls):
                last = since
                try:
                    async for event in self._stream(url, since):
                        last = event.height
                        yield event
                except (aiohttp.ClientError, TimeoutError, OSError, Refused) as error:
                    log.info("events.interrupted", url=url, reason=str(error)[:120])
                    self._ask_last(url)
                if last is not None and await self._reaches(last):
                    since = last
            await asyncio.sleep(RETRY_S)

    async def _reaches(self, height: int) -> bool:
        """Whether the chain is proven to be as high as that."""
        try:
            return height <= self.proven.height or height <= (await self.header()).height
        except Refused:
            return False

    async def _stream(self, url: str, since: int | None) -> AsyncIterator[EventView]:
        query = "" if since is None else f"?since={since}"
        async with self._connection.stream(url, "/v1/events" + query) as response:
            reader = EventReader()
            async for part in response.content.iter_any():
                for found in reader.feed(part):
                    event = Reply(url, 200, found.data.encode()).parse(EventView)
                    if since is not None and event.height <= since:
                        raise Refused("http.answer", f"{url}: expected heights that only rise")
                    since = event.height
                    yield event
