"""Why a node stops by itself."""

from collections.abc import Iterable

from vm.quorum import Epoch


class Halted(Exception):  # noqa: N818 - the end of this node, not a mistake of a caller
    """Consensus demanded that this node stops, keeps what it has and serves nothing."""


class Outdated(Exception):  # noqa: N818 - the end of this node's time, not a mistake
    """The next block follows a version of the protocol that this software does not know."""

    def __init__(self, epoch: Epoch, known: Iterable[str]) -> None:
        super().__init__(
            f"expected software that knows protocol {epoch.protocol}, which rules from height "
            f"{epoch.first} on, found one that knows {', '.join(sorted(known))}"
        )
