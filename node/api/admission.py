"""What a node says of a transaction that was handed to it."""

from dataclasses import dataclass

ADMITTED = "admitted"
SUBMIT_MAX = 100  # transactions of one request
SUBMIT_ITEMS_MAX = SUBMIT_MAX + 1  # of its encoding: the transactions, and the array around them
# A lone transaction that is no longer, and the body it comes in, is read and verified on the event
# loop before a thread would be there.
ON_LOOP_BYTES_MAX = 4 * 1024


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of one submitted transaction; `code` is "admitted", or a refusal's.

    Admission promises nothing: only a certified receipt acknowledges a transaction. `id` is empty
    where the bytes are not a transaction.
    """

    id: bytes
    code: str
    message: str
