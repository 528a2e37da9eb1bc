"""What a validator's access log comes to: its digest on chain, so that no line of it can go later.

The log itself stays with the validator. It is a Merkle tree of RFC 6962, section 2.1, over its
packed lines, and the chain holds size and root of each validator's newest digest.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar, TypeAlias

from vm import tree
from vm.execute import Context, Kind
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, Bytes, Count, Digest, Height, Int, Name, TimeMs
from vm.state import State

LOG_ID_BYTES = 16
SALT_BYTES = 16  # of a line: nobody guesses 128 bits
LogId: TypeAlias = Annotated[bytes, Bytes(LOG_ID_BYTES, LOG_ID_BYTES)]


class Via(StrEnum):
    """How a reader showed who it is."""

    TLS = "tls"
    SIGNATURE = "signature"
    TOKEN = "token"  # noqa: S105 - a word, no secret


@dataclass(frozen=True, slots=True)
class AccessLine:
    """A leaf: who was shown what. It names no content.

    `kind` is that of the record or of the transaction, or `lineage`; `subject` is the record's
    place in the state tree (for a lineage, the place of the model's version), or the transaction's
    id. `height` is that under which it was shown. `salt` is drawn for each line: roots and paths of
    the log are on the chain for everybody, and lines without it could be tried out on them.
    """

    VERSION: ClassVar[int] = 1

    salt: Annotated[bytes, Bytes(SALT_BYTES, SALT_BYTES)]
    time_ms: TimeMs
    reader: Name
    via: Via
    kind: Name
    subject: Digest
    height: Height


@dataclass(frozen=True, slots=True)
class DigestLog:
    """Body of `access.digest`: the root over the first `size` lines of the sender's log.

    `log` was drawn when the log was begun. `consistency` is the path from the last digest of this
    log; empty for the first.
    """

    VERSION: ClassVar[int] = 1

    log: LogId
    size: Annotated[int, Int(1, HEIGHT_MAX)]
    root: Digest
    consistency: tree.Path


@dataclass(frozen=True, slots=True)
class AccessLog:
    """The newest digest of a validator's access log.

    `number` says how many logs it has begun: more than one means that lines were lost, or thrown
    away.
    """

    KIND: ClassVar[str] = "access_log"
    VERSION: ClassVar[int] = 1

    validator: Name
    log: LogId
    number: Count
    size: Count
    root: Digest
    height: Height
    time_ms: TimeMs

    @property
    def key(self) -> tuple[str]:
        """Found by the validator."""
        return (self.validator,)


def record_digest(state: State, context: Context, body: DigestLog) -> None:
    """Keep the digest of a log that has grown."""
    sender = context.sender.id
    before = state.get(AccessLog, sender)
    known = before if before is not None and before.log == body.log else None
    size, root = (0, tree.EMPTY_ROOT) if known is None else (known.size, known.root)
    # 1. a log only grows; one that was lost is begun anew under another id, and that is seen
    if body.size <= size:
        raise Refused("access_log.size", f"expected more than {size} lines, found {body.size}")
    # 2. what was digested once stays as it is: a log that was written anew has no such path
    if not tree.verify_consistency(size, body.size, root, body.root, body.consistency):
        raise Refused(
            "access_log.consistency", f"expected a log that begins with the {size} lines of before"
        )
    begun = 0 if before is None else before.number
    number = begun if known is not None else begun + 1
    block = context.block
    state.put(
        AccessLog(sender, body.log, number, body.size, body.root, block.height, block.time_ms)
    )


KINDS = (Kind("access.digest", DigestLog, record_digest),)
