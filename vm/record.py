"""Records of the state: who is enrolled, which datasets and models there are.

A record is found under its kind and key. The state never deletes one. Records of federated
training are in `vm.learning`.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from vm.shape import (
    Address,
    Count,
    Digest,
    Height,
    Int,
    Many,
    Name,
    PublicKey,
    Text,
    TimeMs,
)

KEY_INTERVALS_MAX = 64  # of one member: 10 KiB; whoever begins anew more often is another member
COLUMNS_MAX = 256  # of a dataset; wider data belongs in a blob
CONDITIONS_MAX = 16  # use conditions of a dataset: one permission and its modifiers
PARTICIPANTS_MAX = 64  # organisations in one task; as many as there can be validators
LAYERS_MAX = 64
SHAPE_MAX = 4  # axes of a model's input
SIDE_MAX = 65_536  # of one axis, and of a layer's width
WINDOW_MAX = 64  # sequence numbers in flight; as many as one view change can carry
BLOB_BYTES_MAX = 4 * 1024**3  # 4 GiB: a manifest of 1 MiB chunks stays under 256 KiB

Title = Annotated[str, Text(120, r"[^\x00-\x1f\x7f-\x9f]*")]
Region = Annotated[str, Text(6, r"[A-Z]{2}(?:-[A-Z0-9]{1,3})?")]  # ISO 3166-1 or 3166-2
Condition = Annotated[str, Text(11, r"DUO:[0-9]{7}")]  # GA4GH Data Use Ontology
KeyDigits = Annotated[str, Text(64, r"[0-9a-f]{64}")]
Label = Annotated[
    str, Text(64, r"[^\x00-\x1f\x7f-\x9f]+")
]  # a column, unit or level as in the source
Side = Annotated[int, Int(1, SIDE_MAX)]
Window = Annotated[int, Int(1, WINDOW_MAX)]


class Role(StrEnum):
    """What a member is enrolled to do; one member has one role."""

    VALIDATOR = "validator"
    TRAINER = "trainer"
    VERIFIER = "verifier"
    AUDITOR = "auditor"
    STEWARD = "steward"
    ADMIN = "admin"


class Standing(StrEnum):
    """Whether a member may act; revocation is final, suspension is not."""

    ENROLLED = "enrolled"
    SUSPENDED = "suspended"
    REVOKED = "revoked"


class Sanction(StrEnum):
    """What becomes of a seat whose key signed two different messages for one slot."""

    SUSPEND = "suspend"
    RECORD = "record"


@dataclass(frozen=True, slots=True)
class Organisation:
    """An institution that vouches for members."""

    KIND: ClassVar[str] = "organisation"
    VERSION: ClassVar[int] = 1

    id: Name
    title: Title
    region: Region
    standing: Standing

    @property
    def key(self) -> tuple[str]:
        """Found by its id."""
        return (self.id,)


@dataclass(frozen=True, slots=True)
class Member:
    """An enrolled identity: an Ed25519 key and, where it connects, a TLS key.

    `transport` is the SHA-256 of the TLS key's SubjectPublicKeyInfo: the enrolled key decides who
    may connect, not the certificate's dates. `public_key` is valid from `enrolled_height`;
    `standing` has held since `changed_height`.
    """

    KIND: ClassVar[str] = "member"
    VERSION: ClassVar[int] = 1

    id: Name
    organisation: Name
    role: Role
    public_key: PublicKey
    transport: Digest | None
    standing: Standing
    enrolled_height: Height
    changed_height: Height

    @property
    def key(self) -> tuple[str]:
        """Found by its id."""
        return (self.id,)


class Ending(StrEnum):
    """Why a member's keys ceased to be valid."""

    ROTATED = "rotated"
    SUSPENDED = "suspended"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeyEnd:
    """The height at which keys ceased to be valid, and why."""

    VERSION: ClassVar[int] = 1

    height: Height
    ending: Ending


@dataclass(frozen=True, slots=True)
class KeyInterval:
    """Keys of a member, valid from `first` up to the height of `end`, both included.

    In the block of `first` they are valid behind the transaction that made them so, in that of
    `end` up to the one that ended it. `end` is None while they are valid.
    """

    VERSION: ClassVar[int] = 1

    public_key: PublicKey
    transport: Digest | None
    first: Height
    end: KeyEnd | None

    def covers(self, first: int, last: int) -> bool:
        """Whether the keys were valid in some part of the blocks from `first` to `last`."""
        return self.first <= last and (self.end is None or first <= self.end.height)


@dataclass(frozen=True, slots=True)
class MemberKeys:
    """All keys that a member ever had, each with the heights at which it was valid, in order.

    The list is complete: of one member there is one record, and every change of keys or standing is
    in it.
    """

    KIND: ClassVar[str] = "member_keys"
    VERSION: ClassVar[int] = 1

    member: Name
    intervals: Annotated[tuple[KeyInterval, ...], Many(KEY_INTERVALS_MAX, 1)]

    @property
    def key(self) -> tuple[str]:
        """Found by the member's id."""
        return (self.member,)


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """Whose an Ed25519 key, or the digest of a TLS key, is: nobody else may enrol with it."""

    KIND: ClassVar[str] = "key_owner"
    VERSION: ClassVar[int] = 1

    digits: KeyDigits
    member: Name

    @property
    def key(self) -> tuple[str]:
        """Found by the key in lower-case hexadecimal."""
        return (self.digits,)


@dataclass(frozen=True, slots=True)
class Band:
    """A count published as a range, both ends included, so that it singles nobody out."""

    VERSION: ClassVar[int] = 1

    low: Count
    high: Count


@dataclass(frozen=True, slots=True)
class ColumnSchema:
    """A column of a dataset as its source names it; `unit` is "1" for a pure number or code."""

    VERSION: ClassVar[int] = 1

    name: Label
    unit: Label


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a hospital says of data that never leaves it: never a row, never an identifier.

    `root` commits to the rows through salted leaves; `opening` says whether the hospital permits
    that snapshots of training on it are opened to verifiers (evidence class replayed).
    `scores_max` is how many scores on its scoring rows may ever be published.
    """

    KIND: ClassVar[str] = "dataset"
    VERSION: ClassVar[int] = 1

    id: Name
    organisation: Name
    steward: Name
    title: Title
    root: Digest
    schema: Annotated[tuple[ColumnSchema, ...], Many(COLUMNS_MAX, 1)]
    outcome: Label
    rows: Band
    positives: Band
    conditions: Annotated[tuple[Condition, ...], Many(CONDITIONS_MAX, 1)]
    region: Region
    opening: bool
    scores_max: Count
    registered_height: Height
    registered_ms: TimeMs

    @property
    def key(self) -> tuple[str]:
        """Found by its id."""
        return (self.id,)


@dataclass(frozen=True, slots=True)
class Linear:
    """Dense layer: [.., inputs] -> [.., outputs], with bias."""

    TAG: ClassVar[str] = "linear"
    VERSION: ClassVar[int] = 1

    inputs: Side
    outputs: Side


@dataclass(frozen=True, slots=True)
class Relu:
    """max(x, 0)."""

    TAG: ClassVar[str] = "relu"
    VERSION: ClassVar[int] = 1


@dataclass(frozen=True, slots=True)
class Conv2d:
    """Square convolution: [.., inputs, h, w] -> [.., outputs, h', w'], with bias."""

    TAG: ClassVar[str] = "conv2d"
    VERSION: ClassVar[int] = 1

    inputs: Side
    outputs: Side
    kernel: Annotated[int, Int(1, 15)]
    stride: Annotated[int, Int(1, 8)]
    padding: Annotated[int, Int(0, 7)]


@dataclass(frozen=True, slots=True)
class GroupNorm:
    """Normalisation over groups of channels; BatchNorm ails non-iid federation."""

    TAG: ClassVar[str] = "group_norm"
    VERSION: ClassVar[int] = 1

    groups: Side
    channels: Side


@dataclass(frozen=True, slots=True)
class AveragePool:
    """Mean over squares of `size`: [.., h, w] -> [.., h // size, w // size]."""

    TAG: ClassVar[str] = "average_pool"
    VERSION: ClassVar[int] = 1

    size: Annotated[int, Int(2, 8)]


@dataclass(frozen=True, slots=True)
class Flatten:
    """[rows, ..] -> [rows, product]."""

    TAG: ClassVar[str] = "flatten"
    VERSION: ClassVar[int] = 1


Layer = Linear | Relu | Conv2d | GroupNorm | AveragePool | Flatten


class Output(StrEnum):
    """How logits are read: one logit of a yes, or one per class."""

    BINARY = "binary"
    CLASSES = "classes"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as allow-listed layers: declarative, so nothing that is on chain is ever run."""

    VERSION: ClassVar[int] = 1

    input: Annotated[tuple[Side, ...], Many(SHAPE_MAX, 1)]
    layers: Annotated[tuple[Layer, ...], Many(LAYERS_MAX, 1)]
    output: Output


@dataclass(frozen=True, slots=True)
class Contribution:
    """One accepted update's part in an aggregate."""

    VERSION: ClassVar[int] = 1

    organisation: Name
    trainer: Name
    dataset: Name
    weight: Count


@dataclass(frozen=True, slots=True)
class Model:
    """One version of a model. Version 0 is registered; every other closes a round.

    `weights` addresses a safetensors blob. The lineage is `task`, `round` and `contributions`, and
    `version - 1` is the base of the round that made this one.
    """

    KIND: ClassVar[str] = "model"
    VERSION: ClassVar[int] = 1

    id: Name
    version: Count
    organisation: Name
    spec: ModelSpec
    grid_bits: Annotated[int, Int(20, 24)]
    weights: Address
    weights_bytes: Annotated[int, Int(1, BLOB_BYTES_MAX)]
    task: Name | None
    round: Count | None
    contributions: Annotated[tuple[Contribution, ...], Many(PARTICIPANTS_MAX)]
    created_height: Height
    created_ms: TimeMs

    @property
    def key(self) -> tuple[str, int]:
        """Found by its id and version."""
        return (self.id, self.version)


@dataclass(frozen=True, slots=True)
class ModelHead:
    """The newest version of a model, and who may extend it."""

    KIND: ClassVar[str] = "model_head"
    VERSION: ClassVar[int] = 1

    id: Name
    version: Count
    task: Name | None  # the open task that extends it now; one at a time keeps the lineage a line

    @property
    def key(self) -> tuple[str]:
        """Found by the model's id."""
        return (self.id,)


@dataclass(frozen=True, slots=True)
class Chain:
    """The facts of the network that execution needs, written by genesis."""

    KIND: ClassVar[str] = "chain"
    VERSION: ClassVar[int] = 1

    title: Title
    window: Window
    equivocation: Sanction

    @property
    def key(self) -> tuple[()]:
        """There is one."""
        return ()
