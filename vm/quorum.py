"""Who votes and how many are enough (Castro-Liskov OSDI'99, section 2), for every n from 4 up."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from vm import digest
from vm.refusal import Refused
from vm.shape import Code, Count, Digest, Height, Many, Name, PublicKey, pack

VALIDATORS_MIN = 4  # fewer tolerate no fault
VALIDATORS_MAX = 64  # quadratic messages make more unwise


def faults(n: int) -> int:
    """f, the number of Byzantine validators that a set of `n` tolerates."""
    return (n - 1) // 3


def quorum(n: int) -> int:
    """ceil((n + f + 1) / 2): two quorums share an honest validator; 2f + 1 forks at n = 5, 6."""
    return (n + faults(n) + 2) // 2


@dataclass(frozen=True, slots=True)
class Validator:
    """A seat: a member of role validator and the key that it signs consensus messages with.

    A suspended seat has no vote and never leads; it counts in n until it is replaced.
    """

    VERSION: ClassVar[int] = 1

    id: Name
    organisation: Name
    key: PublicKey
    suspended: bool = False


@dataclass(frozen=True)  # not slotted: derived values are cached
class ValidatorSet:
    """The seats of one epoch, in order of id.

    Raises `Refused` with `validators.size`, `.order`, `.keys`, `.organisations` or `.suspended`: in
    a set that is too small, or in which one holder has two seats, a quorum would prove nothing, and
    fewer voters than a quorum could decide nothing, not even to replace a seat.
    """

    VERSION: ClassVar[int] = 1

    validators: Annotated[tuple[Validator, ...], Many(VALIDATORS_MAX, low=VALIDATORS_MIN)]

    def __post_init__(self) -> None:
        if not VALIDATORS_MIN <= self.n <= VALIDATORS_MAX:
            raise Refused(
                "validators.size",
                f"expected {VALIDATORS_MIN} to {VALIDATORS_MAX} seats, found {self.n}",
            )
        ids = [validator.id for validator in self.validators]
        if sorted(set(ids)) != ids:
            raise Refused("validators.order", "expected distinct seats in order of id")
        if len({validator.key for validator in self.validators}) != self.n:
            raise Refused("validators.keys", "expected a key of its own for each seat")
        if len({validator.organisation for validator in self.validators}) != self.n:
            raise Refused("validators.organisations", "expected one seat for each organisation")
        if len(self.voters) < self.quorum:
            raise Refused(
                "validators.suspended",
                f"expected at least {self.quorum} of {self.n} seats to vote, "
                f"found {len(self.voters)}; the rest are suspended",
            )

    @property
    def n(self) -> int:
        """The number of seats; a suspended seat still counts until it is replaced."""
        return len(self.validators)

    @property
    def f(self) -> int:
        """The number of Byzantine validators tolerated."""
        return faults(self.n)

    @property
    def quorum(self) -> int:
        """The number of votes that certify."""
        return quorum(self.n)

    @cached_property
    def voters(self) -> tuple[Validator, ...]:
        """The seats that are not suspended, in order of id."""
        return tuple(seat for seat in self.validators if not seat.suspended)

    @cached_property
    def _by_id(self) -> dict[str, Validator]:
        return {validator.id: validator for validator in self.validators}

    def get(self, id: str) -> Validator | None:
        """The seat named `id`, if there is one."""
        return self._by_id.get(id)

    def votes(self, id: str) -> bool:
        """Whether `id` has a seat that is not suspended."""
        seat = self.get(id)
        return seat is not None and not seat.suspended

    def primary(self, view: int) -> Validator:
        """The primary of `view`: v mod n (section 4 of the paper), n without suspended seats."""
        return self.voters[view % len(self.voters)]


@dataclass(frozen=True)  # not slotted: the digest is cached
class Epoch:
    """A run of heights that one validator set and one protocol version rule.

    It lasts from `first` to the height before the next epoch's first. Number 0 is the genesis' and
    has first 1.
    """

    KIND: ClassVar[str] = "epoch"
    VERSION: ClassVar[int] = 1

    number: Count
    first: Height
    protocol: Code
    validators: ValidatorSet

    @property
    def key(self) -> tuple[int]:
        """Found by its number."""
        return (self.number,)

    @cached_property
    def digest(self) -> Digest:
        """What headers carry: a certified header fixes its epoch whole, not the seats alone."""
        return digest.digest(digest.EPOCH, pack(self))
