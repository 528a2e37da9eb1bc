"""The largest window that a set of validators may have."""

from consensus.message import ENVELOPE_BYTES_MAX, VOTE_BYTES_MAX, WINDOW_MAX
from vm.quorum import quorum
from vm.refusal import Refused


def window_max(n: int) -> int:
    """The largest window for `n` validators.

    A NewView in which every view change has a full window must fit one envelope.
    """
    certificate_bytes_max = (n + 1) * VOTE_BYTES_MAX
    slots = ENVELOPE_BYTES_MAX // (quorum(n) * certificate_bytes_max)
    return min(WINDOW_MAX, slots - 2)


def check_window(n: int, window: int) -> None:
    """Refuse a window that is too large for `n` validators; raises `Refused("limits.window")`."""
    if window > window_max(n):
        raise Refused(
            "limits.window",
            f"expected a window of at most {window_max(n)} for {n} validators, found {window}",
        )
