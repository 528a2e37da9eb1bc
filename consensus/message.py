"""What replicas say to each other, and which bytes of it they sign.

The messages are those of Castro-Liskov OSDI'99 (signed variant) with payloads named by digest,
plus `Status`, payload and block transfer. Sequence numbers are block heights; the payload of the
null request is empty. What promises something is signed, with the number of the epoch in which it
is said, so that it means nothing in another one. What only transfers is not: it is good if it came
from its sender, whether that has a seat or not.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

from vm.certificate import CheckpointCertificate, Vote
from vm.digest import MESSAGE, PAYLOAD, digest
from vm.encoding import MESSAGE_BYTES_MAX
from vm.quorum import VALIDATORS_MAX
from vm.refusal import Refused
from vm.shape import Bytes, Count, Digest, Height, Many, Name, Signature, pack, unpack
from vm.statement import Slot, SlotKind, View, statement_digest

PAYLOAD_BYTES_MAX = 4 * 1024 * 1024  # one ordered batch; equal to vm's bound on a block
ENVELOPE_BYTES_MAX = MESSAGE_BYTES_MAX  # a full payload and its certificates fit in half of it
WINDOW_MAX = 64  # sequence numbers between the watermarks; bounds every list of slots
BLOCKS_MAX = WINDOW_MAX  # blocks of one reply: the set of validators is known no further ahead
VOTE_BYTES_MAX = 136  # a name of 64 bytes, a signature and their framing
COMPLAINTS_MAX = 8  # of one status

Payload: TypeAlias = Annotated[bytes, Bytes(0, PAYLOAD_BYTES_MAX)]
Votes: TypeAlias = Annotated[tuple[Vote, ...], Many(VALIDATORS_MAX)]


def payload_digest(payload: bytes) -> Digest:
    """The digest by which messages name a payload."""
    return digest(PAYLOAD, payload)


NULL_DIGEST = payload_digest(b"")  # of the null request that fills a hole after a view change


@dataclass(frozen=True, slots=True)
class PrePrepare:
    """The primary of `view` gives `sequence` to the payload in the envelope (section 4.2)."""

    TAG: ClassVar[str] = "pre-prepare"
    VERSION: ClassVar[int] = 1

    view: View
    sequence: Height
    digest: Digest


@dataclass(frozen=True, slots=True)
class Prepare:
    """A backup holds the payload and agrees to this assignment in `view` (section 4.2)."""

    TAG: ClassVar[str] = "prepare"
    VERSION: ClassVar[int] = 1

    view: View
    sequence: Height
    digest: Digest


@dataclass(frozen=True, slots=True)
class Commit:
    """The sender has prepared this assignment in `view` (section 4.2)."""

    TAG: ClassVar[str] = "commit"
    VERSION: ClassVar[int] = 1

    view: View
    sequence: Height
    digest: Digest


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The sender has executed `height` and its header has this digest (section 4.3)."""

    TAG: ClassVar[str] = "checkpoint"
    VERSION: ClassVar[int] = 1

    height: Height
    header: Digest


@dataclass(frozen=True, slots=True)
class PreparedCertificate:
    """A quorum of Prepare votes in `view`, the vote in the primary's PrePrepare among them."""

    TAG: ClassVar[str] = "prepared"
    VERSION: ClassVar[int] = 1

    view: View
    sequence: Height
    digest: Digest
    votes: Votes


@dataclass(frozen=True, slots=True)
class CommitCertificate:
    """A quorum of Commit votes: the payload is decided for `sequence`, in every view."""

    TAG: ClassVar[str] = "committed"
    VERSION: ClassVar[int] = 1

    view: View
    sequence: Height
    digest: Digest
    votes: Votes


@dataclass(frozen=True, slots=True)
class Block:
    """A decided payload with what proves the decision; transferred to a replica that was away."""

    VERSION: ClassVar[int] = 1

    payload: Payload
    certificate: CommitCertificate


@dataclass(frozen=True, slots=True)
class ViewChange:
    """The sender enters no view below `view`; what it prepared above its stable checkpoint (4.4).

    `stable` is None as long as no checkpoint of this epoch is stable at the sender: everybody in
    the epoch has the one before its first height. `prepared` is in order of sequence number, one
    certificate (the newest) for each.
    """

    TAG: ClassVar[str] = "view-change"
    VERSION: ClassVar[int] = 1

    view: View
    stable: CheckpointCertificate | None
    prepared: Annotated[tuple[PreparedCertificate, ...], Many(WINDOW_MAX)]


@dataclass(frozen=True, slots=True)
class SignedViewChange:
    """A ViewChange as its sender signed it, inside a NewView."""

    VERSION: ClassVar[int] = 1

    sender: Name
    message: ViewChange
    signature: Signature


@dataclass(frozen=True, slots=True)
class SignedPrePrepare:
    """A PrePrepare as the new primary signed it, inside a NewView."""

    VERSION: ClassVar[int] = 1

    message: PrePrepare
    signature: Signature


@dataclass(frozen=True, slots=True)
class NewView:
    """The primary of `view` starts it: V and O of section 4.4, each recomputed by every backup."""

    TAG: ClassVar[str] = "new-view"
    VERSION: ClassVar[int] = 1

    view: View
    view_changes: Annotated[tuple[SignedViewChange, ...], Many(VALIDATORS_MAX)]
    pre_prepares: Annotated[tuple[SignedPrePrepare, ...], Many(WINDOW_MAX)]


@dataclass(frozen=True, slots=True)
class Status:
    """Where the sender stands, so that the receiver can resend what got lost on the way.

    `accepted` holds the sequence numbers above `executed` whose proposal of this view it has,
    `complaints` what the primary of this view leaves undone. A status that answers another one
    (`answer`) is never answered by a status.
    """

    TAG: ClassVar[str] = "status"
    VERSION: ClassVar[int] = 1

    view: View
    active: bool
    executed: Height
    stable: CheckpointCertificate | None
    accepted: Annotated[tuple[Height, ...], Many(WINDOW_MAX)]
    complaints: Annotated[tuple[Digest, ...], Many(COMPLAINTS_MAX)]
    answer: bool


@dataclass(frozen=True, slots=True)
class PayloadRequest:
    """The sender lacks the payload of this digest, which the receiver has voted for."""

    TAG: ClassVar[str] = "payload-request"
    VERSION: ClassVar[int] = 1

    digest: Digest


@dataclass(frozen=True, slots=True)
class PayloadReply:
    """The envelope carries the payload of this digest."""

    TAG: ClassVar[str] = "payload-reply"
    VERSION: ClassVar[int] = 1

    digest: Digest


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """The sender lacks the blocks from height `first` on."""

    TAG: ClassVar[str] = "block-request"
    VERSION: ClassVar[int] = 1

    first: Height


@dataclass(frozen=True, slots=True)
class BlockReply:
    """Consecutive blocks of one epoch with payloads of at most PAYLOAD_BYTES_MAX together.

    `stable` is the newest checkpoint certificate that the receiver can judge: of a height at most
    window above the block before those asked for, and no higher than the epoch of that one goes.
    With it a replica that was away passes from epoch to epoch.
    """

    TAG: ClassVar[str] = "block-reply"
    VERSION: ClassVar[int] = 1

    stable: CheckpointCertificate | None
    blocks: Annotated[tuple[Block, ...], Many(BLOCKS_MAX)]


Body: TypeAlias = (
    PrePrepare
    | Prepare
    | Commit
    | Checkpoint
    | ViewChange
    | NewView
    | Status
    | PayloadRequest
    | PayloadReply
    | BlockRequest
    | BlockReply
)


def slot_of(body: Body) -> Slot | None:
    """The slot for which a correct replica signs one message in an epoch, or None for transfer."""
    match body:
        case PrePrepare(view, sequence) | Prepare(view, sequence):
            return Slot(SlotKind.PREPARE, view, sequence)
        case Commit(view, sequence):
            return Slot(SlotKind.COMMIT, view, sequence)
        case Checkpoint(height):
            return Slot(SlotKind.CHECKPOINT, 0, height)
        case ViewChange(view):
            return Slot(SlotKind.VIEW_CHANGE, view, 0)
        case NewView(view):
            return Slot(SlotKind.NEW_VIEW, view, 0)
    return None


def is_signed(body: Body) -> bool:
    """Whether the message promises something, so that its sender signs it."""
    return slot_of(body) is not None


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message as it travels, said in the sender's `epoch`.

    The signature covers `signing_digest(chain, epoch, body)`; Status, PayloadRequest, PayloadReply,
    BlockRequest and BlockReply have none. `payload` goes with PrePrepare and PayloadReply; the
    digest in their body covers it. Raises `Refused("envelope.signature")` if a signature is missing
    or there is one too many.
    """

    VERSION: ClassVar[int] = 1

    sender: Name
    epoch: Count
    body: Body
    signature: Signature | None
    payload: Payload | None

    def __post_init__(self) -> None:
        if (self.signature is not None) != is_signed(self.body):
            raise Refused(
                "envelope.signature",
                "expected a signature on what promises something and none on transfer, "
                f"found the contrary on a {self.body.TAG}",
            )

    @property
    def seal(self) -> Signature:
        """The signature of a signed message."""
        assert self.signature is not None, f"a {self.body.TAG} is not signed"
        return self.signature


def content_of(body: Body) -> Digest:
    """The digest of what a signed message says for its slot.

    That of the payload or header it names, so that certificates can be checked without the
    messages; of a ViewChange or NewView, of the whole.
    """
    match body:
        case PrePrepare() | Prepare() | Commit():
            return body.digest
        case Checkpoint():
            return body.header
        case ViewChange() | NewView():
            return digest(MESSAGE, pack(body))
    raise AssertionError(f"a {body.TAG} is not signed")


def prepare_digest(chain: Digest, epoch: int, view: int, sequence: int, payload: Digest) -> Digest:
    """What a Prepare signs, and a PrePrepare too: it carries the primary's vote."""
    return statement_digest(chain, epoch, Slot(SlotKind.PREPARE, view, sequence), payload)


def commit_digest(chain: Digest, epoch: int, view: int, sequence: int, payload: Digest) -> Digest:
    """What a Commit signs."""
    return statement_digest(chain, epoch, Slot(SlotKind.COMMIT, view, sequence), payload)


def signing_digest(chain: Digest, epoch: int, body: Body) -> Digest:
    """The 32 bytes that the sender of a signed `body` signs in this epoch of this chain."""
    slot = slot_of(body)
    assert slot is not None, f"a {body.TAG} is not signed"
    return statement_digest(chain, epoch, slot, content_of(body))


def encode_envelope(envelope: Envelope) -> bytes:
    """The canonical bytes of an envelope."""
    return pack(envelope)


def decode_envelope(data: bytes) -> Envelope:
    """Read an envelope from a peer; raises `Refused("encoding.*" | "shape.*")`."""
    return unpack(Envelope, data, ENVELOPE_BYTES_MAX)
