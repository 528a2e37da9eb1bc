"""Which blobs the chain's records name, who may read them, and when they must go.

An update goes only to the task's verifiers and to validators, after submissions have ended, so
that no trainer can copy another's; it is deleted once the task's retention is over. A model's
weights are for every enrolled member.
"""

from collections import OrderedDict
from dataclasses import dataclass

from fl.rounds import open_tasks
from fl.spec import PARAMETERS_MAX
from fl.weights import update_size
from node.chain import Chain
from vm.encoding import decode
from vm.learning import Round, RoundPhase, Task, Update
from vm.record import Member, Model, Role, Standing
from vm.shape import unpack
from vm.sparse import VALUE_BYTES_MAX

UPDATES_MAX = 100_000  # update blobs under custody at one time; the oldest is dropped past that
UNNAMED_MAX = 8  # blobs of one member that no record names yet; the oldest is dropped past that
MODEL_BYTES_MAX = 4 * PARAMETERS_MAX + 64 * 1024  # int32 weights and a header


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
        self._unnamed: dict[str, OrderedDict[str, None]] = {}
        self._dropped: list[str] = []
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

    def may_write(self, member: Member, address: str, size: int) -> bool:
        """Whether `member` may bring a blob: it comes before the transaction that names it."""
        if member.standing is not Standing.ENROLLED or not self._fits(member, size):
            return False
        if self.names(address):
            return True
        unnamed = self._unnamed.setdefault(member.id, OrderedDict())
        unnamed[address] = None
        if len(unnamed) > UNNAMED_MAX:
            self._dropped.append(unnamed.popitem(last=False)[0])
        return True

    def names(self, address: str) -> bool:
        """Whether a record names the blob and its time is not over."""
        return address in self._models or address in self._updates

    def _fits(self, member: Member, size: int) -> bool:
        """A steward brings models, a trainer brings updates of the size that its task asks."""
        if member.role is Role.STEWARD:
            return size <= MODEL_BYTES_MAX
        if member.role is not Role.TRAINER:
            return False
        state = self._chain.state()
        for id in open_tasks(state).tasks:
            terms = state.require(Task, id).terms
            if not any(site.trainer == member.id for site in terms.sites):
                continue
            model = state.require(Model, terms.model, 0)
            segments = terms.training.steps // terms.training.snapshot_steps
            if size == update_size(model.spec, model.grid_bits, segments):
                return True
        return False

    def due(self, time_ms: int) -> list[str]:
        """Blobs to delete at `time_ms`: updates whose retention is over, and what nobody named."""
        state = self._chain.state()
        gone: list[str] = []
        for address, held in self._updates.items():
            rnd = state.require(Round, held.task, held.round)
            ended = rnd.phase in (RoundPhase.CLOSED, RoundPhase.FAILED)
            keep_ms = state.require(Task, held.task).terms.retention_ms
            if ended and time_ms >= rnd.deadline_ms + keep_ms:
                gone.append(address)
        for address in gone:
            del self._updates[address]
        dropped, self._dropped = self._dropped, []
        return gone + [address for address in dropped if not self.names(address)]

    def _note(self, key: bytes) -> None:
        parts = decode(key)
        assert isinstance(parts, tuple)
        if parts[0] not in (Model.KIND, Update.KIND):
            return
        data = self._chain.store.read(self._chain.head.root, key)
        assert data is not None, "a key that a block wrote has a value"
        if parts[0] == Model.KIND:
            model = unpack(Model, data, VALUE_BYTES_MAX)
            self._models.add(model.weights)
            self._named(model.weights)
            return
        update = unpack(Update, data, VALUE_BYTES_MAX)
        self._updates[update.blob] = _Held(update.task, update.round)
        self._named(update.blob)
        if len(self._updates) > UPDATES_MAX:
            self._updates.popitem(last=False)

    def _named(self, address: str) -> None:
        for unnamed in self._unnamed.values():
            unnamed.pop(address, None)
