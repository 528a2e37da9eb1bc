"""What must hold after a soak, whatever happened during it."""

from collections.abc import Mapping, Sequence

from vm.block import Header, Receipt

Shown = Mapping[bytes, Receipt | None]  # what a node proves, by id of transaction


def lost(acknowledged: Sequence[Receipt], shown: Mapping[int, Shown]) -> list[str]:
    """Every acknowledged transaction that a node, by number, does not show with its receipt."""
    return [
        f"validator {number} shows {found} where {receipt} was acknowledged"
        for number, receipts in shown.items()
        for receipt in acknowledged
        if (found := receipts.get(receipt.transaction)) != receipt
    ]


def forked(headers: Mapping[int, Header]) -> list[str]:
    """The nodes whose header at one height is another than the first one's."""
    first, *rest = headers
    return [
        f"validator {number} has header {headers[number]} where {first} has {headers[first]}"
        for number in rest
        if headers[number].digest != headers[first].digest
        or headers[number].state != headers[first].state
    ]
