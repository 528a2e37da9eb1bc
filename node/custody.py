"""Which blobs the chain's records name, who may read them, and when they must go.

An update goes only to the task's verifiers and to validators, after submissions have ended, so
that no trainer can copy another's; it is deleted once the task's retention is over. A model's
weights are for every enrolled member.
"""

from collections import OrderedDict
from dataclasses import dataclass

from node.chain import Chain
from vm.encoding import decode
from vm.learning import Round, RoundPhase, Task, Update
from vm.record import Member, Model, Role, Standing
from vm.sparse import VALUE_BYTES_MAX
from vm.shape import unpack

UPLOADERS = frozenset({Role.TRAINER, Role.STEWARD})
UPDATES_MAX = 100_000  # update blobs under custody at one time; the oldest is dropped past that


@dataclass(frozen=True, slots=True)
class _Held:
    """An update's blob: whose round decides who may read it."""

    task: str
    round: int


class Custody:
    """Follows the executed chain; asks the state again for every decision."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._models: set[str] = set()
        self._updates: OrderedDict[str, _Held] = OrderedDict()
        for kind in (Model.KIND, Update.KIND):
            arity = 2 if kind == Model.KIND else 3
            for key in chain.store.keys(kind, (), arity):
                self._note(key)

    def learn(self, height: int) -> None:
        """Take in what the block at `height` wrote."""
        row = self._chain.store.row(height)
        assert row is not None, "only executed blocks are learned from"
        for key in row.writes:
            self._note(key)

    def may_read(self, member: Member, address: str) -> bool:
        """Whether `member` may have the blob now."""
        if member.standing is not Standing.ENROLLED:
            return False
        if address in self._models:
            return True
        held = self._updates.get(address)
        if held is None:
            return False
        if member.role is Role.VALIDATOR:
            return True
        state = self._chain.state()
        task = state.require(Task, held.task)
        rnd = state.require(Round, held.task, held.round)
        judges = {site.verifier for site in task.terms.sites}
        return member.id in judges and rnd.phase is not RoundPhase.SUBMIT

    def may_write(self, member: Member) -> bool:
        """Whether `member` may bring a blob: it comes before the transaction that names it."""
        return member.standing is Standing.ENROLLED and member.role in UPLOADERS

    def due(self, time_ms: int) -> list[str]:
        """Update blobs whose retention is over at `time_ms`; each is named once."""
        state = self._chain.state()
        gone = []
        for address, held in self._updates.items():
            rnd = state.require(Round, held.task, held.round)
            ended = rnd.phase in (RoundPhase.CLOSED, RoundPhase.FAILED)
            keep_ms = state.require(Task, held.task).terms.retention_ms
            if ended and time_ms >= rnd.deadline_ms + keep_ms:
                gone.append(address)
        for address in gone:
            del self._updates[address]
        return gone

    def _note(self, key: bytes) -> None:
        parts = decode(key)
        assert isinstance(parts, tuple)
        if parts[0] not in (Model.KIND, Update.KIND):
            return
        data = self._chain.store.read(self._chain.head.root, key)
        assert data is not None, "a key that a block wrote has a value"
        if parts[0] == Model.KIND:
            self._models.add(unpack(Model, data, VALUE_BYTES_MAX).weights)
            return
        update = unpack(Update, data, VALUE_BYTES_MAX)
        self._updates[update.blob] = _Held(update.task, update.round)
        if len(self._updates) > UPDATES_MAX:
            self._updates.popitem(last=False)
