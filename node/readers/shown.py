"""What an answer shows that is restricted: by its kind and a digest, never by its content."""

from collections.abc import Iterable
from dataclasses import dataclass

from vm.access import ACCESS, RESTRICTED
from vm.digest import STATE_KEY, digest
from vm.encoding import decode
from vm.record import Model
from vm.refusal import Refused
from vm.shape import Digest
from vm.state import state_key

LINEAGE = "lineage"  # its verdicts and audits are one line: a model of 100 rounds has thousands


@dataclass(frozen=True, slots=True)
class Shown:
    """A restricted record, by its place in the state tree, or transaction, by its id.

    `height` is that of the header under which it is shown.
    """

    kind: str
    subject: Digest
    height: int


def records_shown(keys: Iterable[bytes], height: int) -> tuple[Shown, ...]:
    """Those of the records with these state keys that are restricted, absent ones too."""
    return tuple(
        Shown(kind, digest(STATE_KEY, key), height)
        for key in keys
        if (kind := _kind(key)) in RESTRICTED
    )


def _kind(key: bytes) -> str:
    """The kind of record under a state key; a stranger may ask for bytes that are none."""
    try:
        parts = decode(key)
    except Refused:
        return ""
    return str(parts[0]) if isinstance(parts, tuple) and parts else ""


def transaction_shown(kind: str, id: Digest, height: int) -> tuple[Shown, ...]:
    """The transaction, if its kind is restricted; one of no kind at all is not."""
    access = ACCESS.get(kind)
    return (Shown(kind, id, height),) if access is not None and access.restricted else ()


def lineage_shown(model: str, version: int, height: int) -> tuple[Shown, ...]:
    """Everything restricted in the lineage of a model's version."""
    place = digest(STATE_KEY, state_key(Model.KIND, (model, version)))
    return (Shown(LINEAGE, place, height),)
