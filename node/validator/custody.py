"""Which blobs the chain's records name, who may read them, and when they must go.

An update goes only to the task's verifiers and to validators, after submissions have ended, so
that no trainer can copy another's; it is deleted once the task's retention is over. A model's
weights are for every enrolled member.

Whoever may send a transaction may name any address in it. So a blob is what it was named first: a
steward who registers a rival's update as a model does not open it, a trainer who submits the base
model as an update does not close or delete it, and neither does one who submits another's update
in a task of its own. An aggregate needs no precedence: a quorum of validators computed it.
"""

from collections import OrderedDict
from dataclasses import dataclass

from fl.rounds import open_tasks
from fl.spec import PARAMETERS_MAX
from fl.weights import update_size
from node.validator.chain import Chain
from node.wire.cid import CHUNK_BYTES
from vm.encoding import decode
from vm.learning import Round, RoundPhase, Task, Update
from vm.record import Member, Model, Role, Standing
from vm.shape import unpack
from vm.sparse import VALUE_BYTES_MAX

UPDATES_MAX = 100_000  # update blobs under custody at one time; the oldest is dropped past that
UNNAMED_MAX = 8  # blobs of one member that no record names yet; the oldest is dropped past that
MODEL_BYTES_MAX = 4 * PARAMETERS_MAX + 64 * 1024  # int32 weights and a header


@dataclass(frozen=True, slots=True, order=True)
class _Held:
    """An update's blob: since which height it is named, and whose round decides who reads it."""

    height: int
    task: str
    round: int


class Custody:
    """Follows the executed chain; asks the state again for every decision."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._models: dict[str, int] = {}  # height since which each is named; 0 of aggregates
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
        if self._is_model(address):
            return True
        held = self._updates.get(address)
        if held is None:
            return False
        state = self._chain.state()
        if state.require(Round, held.task, held.round).phase is RoundPhase.SUBMIT:
            return False
        sites = state.require(Task, held.task).terms.sites
        return member.role is Role.VALIDATOR or any(site.verifier == member.id for site in sites)

    def may_write(self, member: Member, address: str, size: int) -> bool:
        """Whether `member` may bring a blob: it comes before the transaction that names it.

        A chunk is taken of a blob whose whole size was right when its root came.
        """
        if member.standing is not Standing.ENROLLED:
            return False
        named = self.names(address)
        if address in self._unnamed.get(member.id, ()):
            return True
        if not self._fits(member, size):
            return named and member.role is Role.TRAINER and size <= CHUNK_BYTES
        if named:
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
            if self._is_model(address):
                continue
            rnd = state.require(Round, held.task, held.round)
            ended = rnd.phase in (RoundPhase.CLOSED, RoundPhase.FAILED)
            keep_ms = state.require(Task, held.task).terms.retention_ms
            if ended and time_ms >= rnd.deadline_ms + keep_ms:
                gone.append(address)
        for address in gone:
            del self._updates[address]
        dropped, self._dropped = self._dropped, []
        return gone + [address for address in dropped if not self._wanted(address)]

    def _wanted(self, address: str) -> bool:
        """Whether the blob is named, or was brought again since it was dropped."""
        return self.names(address) or any(address in items for items in self._unnamed.values())

    def _is_model(self, address: str) -> bool:
        """Whether the blob is a model's weights: named so before any update named it."""
        since = self._models.get(address)
        held = self._updates.get(address)
        return since is not None and (held is None or since < held.height)

    def _note(self, key: bytes) -> None:
        parts = decode(key)
        assert isinstance(parts, tuple)
        if parts[0] not in (Model.KIND, Update.KIND):
            return
        data = self._chain.store.read(self._chain.head.root, key)
        assert data is not None, "a key that a block wrote has a value"
        if parts[0] == Model.KIND:
            model = unpack(Model, data, VALUE_BYTES_MAX)
            since = 0 if model.task is not None else model.created_height
            self._models[model.weights] = min(since, self._models.get(model.weights, since))
            self._named(model.weights)
            return
        update = unpack(Update, data, VALUE_BYTES_MAX)
        held = _Held(update.height, update.task, update.round)
        self._updates[update.blob] = min(held, self._updates.get(update.blob, held))
        self._named(update.blob)
        if len(self._updates) > UPDATES_MAX:
            self._dropped.append(self._updates.popitem(last=False)[0])

    def _named(self, address: str) -> None:
        for unnamed in self._unnamed.values():
            unnamed.pop(address, None)
