"""What a light client asks of nodes; every answer is checked before it is believed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, TypeVar

from pydantic import BaseModel

from node.api.keys import KEYS_MAX, write_keys
from node.api.resource import EPOCHS_PATH, STEPS_MAX, TOGETHER_PATH
from node.api.views import read_base64
from node.audit.file import Anchor
from node.client.client import NEWEST_PATH, Client
from node.client.connection import ANSWER_BYTES_MAX
from node.client.proven import Proven
from node.client.reply import PageBody, ProofBody, Reply, StepsBody
from node.light.history import History, begin
from vm.block import Header
from vm.genesis import Genesis, check_genesis
from vm.inclusion import (
    BlockProof,
    CertifiedHeader,
    ConsistencyProof,
    MultiProof,
    RecordProof,
    TransactionProof,
    expect_key,
    verify_block,
    verify_header,
    verify_record,
    verify_transaction,
)
from vm.quorum import Epoch
from vm.refusal import Refused
from vm.shape import unpack
from vm.state import state_key
from vm.succession import STEPS_MAX as HISTORY_STEPS_MAX
from vm.succession import Step
from vm.trust import Pin

T = TypeVar("T")
P = TypeVar("P", bound=RecordProof | TransactionProof | MultiProof)
Provable: TypeAlias = RecordProof | TransactionProof

CONSISTENCY_PATH = "/v1/consistency?from={older}&to={newer}"
UNDER_PATH = "/v1/blocks/{height}?under={under}"
CHECKPOINT_PATH = "/v1/checkpoints/{height}"


class _MaybeProof(BaseModel):
    """An answer that holds its proof once there is one."""

    proof: str | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """One proof: where it is, of which state key or transaction, and of which height if any."""

    path: str
    proof: type[RecordProof] | type[TransactionProof]
    key: bytes
    height: int | None


async def newest(client: Client) -> CertifiedHeader:
    """The newest checkpoint of the first node to answer, verified."""
    return await client.ask(NEWEST_PATH, partial(_read_newest, client))


def _read_newest(client: Client, reply: Reply) -> CertifiedHeader:
    page = reply.read(PageBody)
    if not page.items:
        raise Refused("node.not_ready", f"{reply.url}: expected a checkpoint, found none yet")
    return client.verified(reply, lambda: client.proven.certified(page.items[0].proof))


async def consistency(
    client: Client,
    older: CertifiedHeader,
    newer: CertifiedHeader,
    check: Callable[[ConsistencyProof], T],
) -> T:
    """What `check` makes of a node's proof that `newer` goes on from `older`."""

    def read(reply: Reply) -> T:
        body = reply.read(ProofBody)
        return client.verified(
            reply, lambda: check(unpack(ConsistencyProof, read_base64(body.proof)))
        )

    path = CONSISTENCY_PATH.format(older=older.header.height, newer=newer.header.height)
    return await client.ask(path, read)


async def proof(client: Client, wanted: Wanted) -> Provable:
    """What is wanted, verified; of a height gone by as `past` has it."""

    def read(reply: Reply) -> Provable:
        return unpack(wanted.proof, read_base64(_proof_text(reply)))

    def check(found: Provable) -> Provable:
        _check(client, wanted, found)
        return found

    if wanted.height is None and wanted.proof is RecordProof:

        def read_newest(reply: Reply) -> tuple[Provable, Header]:
            found = read(reply)
            return client.verified(reply, partial(check, found)), found.certified.header

        found, _ = await client.newest(wanted.path, read_newest)
        return found
    return await past(client, wanted.path, read, check)


async def past(
    client: Client,
    path: str,
    read: Callable[[Reply], P],
    check: Callable[[P], T],
    *,
    bytes_max: int = ANSWER_BYTES_MAX,
) -> T:
    """What `check` makes of a proof of a height gone by, which `read` finds in a node's answer.

    Whoever follows knows who rules now. A certificate from below the header that was followed, or
    from below the pin, is no proof to him: keys of that time may be anybody's by now. So the header
    is asked for in a newer one's history, and the proof checked under that. A node whose proof does
    not hold is passed over.
    """

    def read_whole(reply: Reply) -> tuple[Reply, P]:
        return reply, read(reply)

    async def ask(url: str) -> T:
        reply, found = await client.ask_one(url, path, read_whole, bytes_max=bytes_max)
        if client.proven.is_below(found.certified):
            certified = await block(client, found.certified.header.height)
            found = replace(found, certified=certified)
        return await client.accept(
            reply, lambda reply: client.verified(reply, partial(check, found))
        )

    return await client.each(ask)


async def block(client: Client, height: int) -> CertifiedHeader:
    """The header of a height in the history of the newest checkpoint, both from one node."""

    async def ask(url: str) -> tuple[CertifiedHeader, Header]:
        newest = await client.ask_one(url, NEWEST_PATH, partial(_read_newest, client))
        top = newest.header.height

        def read(reply: Reply) -> CertifiedHeader:
            body = reply.read(ProofBody)
            return client.verified(reply, lambda: _check_block(client, body.proof, height, top))

        path = UNDER_PATH.format(height=height, under=top)
        return await client.ask_one(url, path, read), newest.header

    found, _ = await client.fresh(ask)
    return found


async def require_epochs(client: Client, header: Header, epochs: Sequence[Epoch]) -> None:
    """Require that the state of a certified header holds these epochs.

    Steps to them are signed by keys of their time, which may be anybody's by now; the state is what
    the validators of the header's own time have signed. Raises `Refused("succession.record")`.
    """
    for place in range(0, len(epochs), KEYS_MAX):
        part = epochs[place : place + KEYS_MAX]
        keys = write_keys([state_key(Epoch.KIND, epoch.key) for epoch in part])

        def read(reply: Reply, part: Sequence[Epoch] = part) -> None:
            body = reply.read(ProofBody)
            client.verified(reply, lambda: _check_epochs(client, body.proof, header, part))

        await client.ask(f"{TOGETHER_PATH}?keys={keys}&at={header.height}", read)


def _check_epochs(client: Client, text: str, header: Header, epochs: Sequence[Epoch]) -> None:
    records, found = client.proven.together(text, [(Epoch, epoch.key) for epoch in epochs])
    if found.digest != header.digest:
        raise Refused(
            "audit.key",
            f"expected epochs under header {header.digest.hex()}, found {found.digest.hex()}",
        )
    for epoch, record in zip(epochs, records, strict=True):
        if record != epoch:
            raise Refused(
                "succession.record",
                f"step to epoch {epoch.number}: expected the epoch that the state of height "
                f"{header.height} holds, found another",
            )


def _proof_text(reply: Reply) -> str:
    """The proof in an answer: of what is absent too, and not of what is not certified yet."""
    if reply.status == 404 and b'"proof"' in reply.body:
        return reply.parse(ProofBody).proof
    found = reply.read(_MaybeProof)
    if found.proof is None:
        raise Refused(
            "audit.missing", f"{reply.url}: expected a certified transaction, found one that waits"
        )
    return found.proof


def _check(client: Client, wanted: Wanted, found: Provable) -> None:
    trust = client.proven.trust
    if isinstance(found, RecordProof):
        expect_key(found.key, wanted.key)
        verify_record(found, trust.chain, trust.epochs)
    else:
        expect_key(verify_transaction(found, trust.chain, trust.epochs).id, wanted.key)
    header = client.proven.see(found.certified)
    if wanted.height is not None and header.height != wanted.height:
        raise Refused("audit.height", f"expected height {wanted.height}, found {header.height}")


def _check_block(client: Client, text: str, height: int, under: int) -> CertifiedHeader:
    trust = client.proven.trust
    found = unpack(BlockProof, read_base64(text))
    verify_block(found, height, under, trust.chain, trust.epochs)
    client.proven.see(found.certified)
    return found.certified


async def beginning(client: Client, genesis: Genesis, pin: Pin | None) -> History:
    """Where a history begins: at genesis, or at the pin, whose header and epoch a node must show.

    `client` goes by the pin afterwards, and by the steps that it took to verify what certifies the
    header: others, who hold another pin, are shown that. Raises `Refused` with `pin.header` if the
    node shows another header of that height, with `audit.*` if what certifies it does not hold.
    """
    if pin is None:
        return begin(genesis)
    reply, certified = await _pinned(client, pin)
    epoch = await _epoch(client, check_genesis(genesis), certified.header.validators)
    history = begin(genesis, Anchor(certified, epoch))
    client.proven = Proven(history.trust)
    if certified.later is not None:
        await newest(client)  # and the steps to it: keys of the pin's time, retired since, sign too

    def check(reply: Reply) -> None:
        trust = client.proven.trust
        client.verified(reply, lambda: verify_header(certified, trust.chain, trust.epochs))

    await client.accept(reply, check)
    return history


async def _pinned(client: Client, pin: Pin) -> tuple[Reply, CertifiedHeader]:
    """The header that a pin names, with its own certificate where the node keeps it.

    What certifies it is not verified yet: that takes the epoch, which the header names.
    """

    def read(
        cls: type[CertifiedHeader] | type[BlockProof], reply: Reply
    ) -> tuple[Reply, CertifiedHeader]:
        found = unpack(cls, read_base64(reply.read(ProofBody).proof))
        certified = found.certified if isinstance(found, BlockProof) else found
        return reply, client.verified(reply, lambda: _expect(pin, certified))

    try:
        path = CHECKPOINT_PATH.format(height=pin.height)
        return await client.ask(path, partial(read, CertifiedHeader))
    except Refused as refused:
        if refused.code != "checkpoint.missing":
            raise
    top = await client.ask(NEWEST_PATH, _unproven_height)
    return await client.ask(
        UNDER_PATH.format(height=pin.height, under=top), partial(read, BlockProof)
    )


def _expect(pin: Pin, certified: CertifiedHeader) -> CertifiedHeader:
    found = certified.header
    if (found.height, found.digest) != (pin.height, pin.header):
        raise Refused(
            "pin.header",
            f"expected the pinned header {pin.header.hex()} at height {pin.height}, found "
            f"{found.digest.hex()} at {found.height}: this node shows another history, or the pin "
            "is of another one",
        )
    return certified


def _unproven_height(reply: Reply) -> int:
    """How high a node says it is: a wrong answer shows no header that fits the pin."""
    page = reply.read(PageBody)
    if not page.items:
        raise Refused("node.not_ready", f"{reply.url}: expected a checkpoint, found none yet")
    return unpack(CertifiedHeader, read_base64(page.items[0].proof)).header.height


async def _epoch(client: Client, first: Epoch, digest: bytes) -> Epoch:
    """The epoch with this digest, looked for from the first on: its digest is all that counts."""
    if first.digest == digest:
        return first
    for after in range(0, HISTORY_STEPS_MAX, STEPS_MAX):
        page = await client.ask(f"{EPOCHS_PATH}?after={after}", lambda reply: reply.read(StepsBody))
        for item in page.items:
            epoch = unpack(Step, read_base64(item.proof)).epoch
            if epoch.digest == digest:
                return epoch
        if page.next is None:
            break
    raise Refused(
        "pin.epoch",
        f"expected the epoch {digest.hex()} that the pinned header names, found no such one",
    )
