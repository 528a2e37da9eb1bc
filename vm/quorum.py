"""Who votes and how many are enough (Castro-Liskov OSDI'99, section 2), for every n from 4 up."""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar

from vm import digest
from vm.refusal import Refused
from vm.shape import Digest, Many, Name, PublicKey, pack

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
    """A seat: a member of role validator and the key that it signs consensus messages with."""

    VERSION: ClassVar[int] = 1

    id: Name
    organisation: Name
    key: PublicKey


@dataclass(frozen=True)  # not slotted: derived values are cached
class ValidatorSet:
    """The seats of one height, in order of id.

    Raises `Refused` with `validators.size`, `.order` or `.keys`: in a set that is too small, or in
    which one holder has two seats, a quorum would prove nothing.
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
    def digest(self) -> Digest:
        """The digest that headers carry."""
        return digest.digest(digest.VALIDATORS, pack(self))

    @cached_property
    def _by_id(self) -> dict[str, Validator]:
        return {validator.id: validator for validator in self.validators}

    def get(self, id: str) -> Validator | None:
        """The seat named `id`, if there is one."""
        return self._by_id.get(id)

    def primary(self, view: int) -> Validator:
        """The primary of `view`: v mod n (section 4 of the paper)."""
        return self.validators[view % self.n]
