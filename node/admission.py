"""What a node says of a transaction that was handed to it."""

from dataclasses import dataclass

from vm.shape import Digest

ADMITTED = "admitted"
SUBMITTED_MAX = 100  # transactions in one request


@dataclass(frozen=True, slots=True)
class Admission:
    """`code` is "admitted", or the code of the refusal that `message` explains.

    Admission promises nothing: only a certified receipt acknowledges a transaction. `id` is None
    where the bytes are not a transaction.
    """

    id: Digest | None
    code: str
    message: str
