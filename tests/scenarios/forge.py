"""What a faulty validator says: messages that a script words and that no replica sent.

pre-prepare 0/1 one [with two]      an envelope that carries another payload
prepare 0/1 one    commit 0/1 one    checkpoint h1
view-change 1 [above h1 by v00 v01 v02] [prepared 0/1 one by v00 v01 v02] ...
new-view 1 by v00 v02 v03 [propose 1 one] ...     of view changes that were really sent
status in|asking 0 executed 1 [above h1 by v00 v01 v02]
payload-reply one [with two]    block-request 1
block-reply 3 1 2                   blocks of the sender's store, in this order
"""

from collections.abc import Callable

from consensus.complaints import SLOWNESS
from consensus.message import (
    BlockReply,
    BlockRequest,
    Body,
    Checkpoint,
    Commit,
    NewView,
    PayloadReply,
    PayloadRequest,
    Prepare,
    PreparedCertificate,
    PrePrepare,
    SignedPrePrepare,
    SignedViewChange,
    Status,
    ViewChange,
)
from tests.consensus import certificates
from tests.consensus.cluster import Cluster, signed
from tests.scenarios.words import Names
from vm.certificate import CheckpointCertificate


class Forger:
    """Reads the words of a message that a faulty validator makes up."""

    def __init__(self, cluster: Cluster, names: Names, sender: int) -> None:
        self._cluster = cluster
        self._names = names
        self._sender = sender

    def read(self, words: list[str]) -> tuple[Body, bytes | None]:
        """The message and the payload that goes with it."""
        tag, *rest = words
        word = None
        if tag == PrePrepare.TAG:
            word = rest[1]
        elif tag == PayloadReply.TAG:
            word = rest[0]
        if "with" in rest:
            *rest, _, word = rest
        payload = None if word is None else self._names.payload(word)
        return self._body(tag, rest), payload

    def _body(self, tag: str, words: list[str]) -> Body:
        read: dict[str, Callable[[list[str]], Body]] = {
            PrePrepare.TAG: lambda words: self._vote(PrePrepare, words),
            Prepare.TAG: lambda words: self._vote(Prepare, words),
            Commit.TAG: lambda words: self._vote(Commit, words),
            Checkpoint.TAG: self._checkpoint,
            ViewChange.TAG: self._view_change,
            NewView.TAG: self._new_view,
            Status.TAG: self._status,
            PayloadRequest.TAG: lambda words: PayloadRequest(self._names.digest(words[0])),
            PayloadReply.TAG: lambda words: PayloadReply(self._names.digest(words[0])),
            BlockRequest.TAG: lambda words: BlockRequest(int(words[0])),
            BlockReply.TAG: self._block_reply,
        }
        return read[tag](words)

    def _checkpoint(self, words: list[str]) -> Checkpoint:
        return Checkpoint(height_of(words[0]), self._names.header(words[0]))

    def _block_reply(self, words: list[str]) -> BlockReply:
        store = self._cluster[self._sender].disk.store
        return BlockReply(None, tuple(store[int(height) - 1][0] for height in words))

    def _vote(
        self, kind: type[PrePrepare] | type[Prepare] | type[Commit], words: list[str]
    ) -> PrePrepare | Prepare | Commit:
        view, height = numbers(words[0])
        return kind(view, height, self._names.digest(words[1]))

    def _view_change(self, words: list[str]) -> ViewChange:
        clauses = split(words[1:], ("above", "prepared"))
        proofs = tuple(self._prepared(clause[1:]) for clause in clauses if clause[0] == "prepared")
        return ViewChange(int(words[0]), self._stable(clauses), proofs)

    def _stable(self, clauses: list[list[str]]) -> CheckpointCertificate | None:
        for kind, *rest in clauses:
            if kind == "above":
                header = self._names.header(rest[0])
                return certificates.checkpoint(height_of(rest[0]), header, indexes(rest[2:]))
        return None

    def _prepared(self, words: list[str]) -> PreparedCertificate:
        view, height = numbers(words[0])
        payload = self._names.payload(words[1])
        return certificates.prepared(view, height, payload, indexes(words[3:]))

    def _new_view(self, words: list[str]) -> NewView:
        view = int(words[0])
        voters, *proposals = split(words[1:], ("by", "propose"))
        changes = tuple(self._sent(name, view) for name in voters[1:])
        made = (PrePrepare(view, int(n), self._names.digest(word)) for _, n, word in proposals)
        pre_prepares = (SignedPrePrepare(m, signed(self._sender, m).seal) for m in made)
        return NewView(view, changes, tuple(pre_prepares))

    def _sent(self, name: str, view: int) -> SignedViewChange:
        """The view change that this validator sent, to whomever."""
        for sender, _, envelope in self._cluster.sent:
            body = envelope.body
            if sender == name and isinstance(body, ViewChange) and body.view == view:
                return SignedViewChange(name, body, envelope.seal)
        raise ValueError(f"expected a view change to {view} of {name}, found none")

    def _status(self, words: list[str]) -> Status:
        state, view, _, executed, *rest = words
        clauses = split(rest, ("above", "complains"))
        complaints = tuple(
            SLOWNESS if word == "slowness" else self._names.digest(word)
            for kind, *told in clauses
            if kind == "complains"
            for word in told
        )
        active, stable = state == "in", self._stable(clauses)
        return Status(int(view), active, int(executed), stable, (), complaints, True)


def split(words: list[str], starts: tuple[str, ...]) -> list[list[str]]:
    """The clauses of a message, each beginning with one of these words."""
    clauses: list[list[str]] = []
    for word in words:
        if word in starts:
            clauses.append([])
        clauses[-1].append(word)
    return clauses


def numbers(word: str) -> tuple[int, int]:
    """View and height of `0/1`."""
    view, height = word.split("/")
    return int(view), int(height)


def height_of(header: str) -> int:
    """The height in the name of a header."""
    return int("".join(filter(str.isdigit, header)))


def index(name: str) -> int:
    """The index of a validator by its name."""
    return int(name.removeprefix("v"))


def indexes(names: list[str]) -> tuple[int, ...]:
    """The indexes of validators by their names."""
    return tuple(map(index, names))
