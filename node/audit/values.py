"""Proven values as records: for whoever tells a story from what was proven, and nothing else."""

from collections.abc import Mapping
from typing import Literal, TypeVar

from vm.inclusion import expect_key
from vm.refusal import Refused
from vm.shape import unpack
from vm.sparse import VALUE_BYTES_MAX
from vm.state import Record, state_key

R = TypeVar("R", bound=Record)


class Values:
    """A source of records that has the values of these state keys, None where one is absent.

    `whole` says of what they have to be all: then what is not among them is refused
    (`lineage.incomplete`, `case.incomplete`). If it is None, that is noted in `missing`.
    """

    def __init__(
        self, values: Mapping[bytes, bytes | None], whole: Literal["lineage", "case"] | None
    ) -> None:
        self._values = values
        self._whole = whole
        self._unread = set(values)
        self.missing: dict[bytes, None] = {}  # in order, each once

    def get(self, cls: type[R], *key: str | int) -> R | None:
        """The record under `key`; None if it is known to be absent, or was noted as missing."""
        name = state_key(cls.KIND, key)
        if name not in self._values:
            if self._whole is not None:
                label = " ".join(str(part) for part in key)
                raise Refused(
                    f"{self._whole}.incomplete",
                    f"expected a path of {cls.KIND} {label}, found none",
                )
            self.missing[name] = None
            return None
        self._unread.discard(name)
        value = self._values[name]
        if value is None:
            return None
        record = unpack(cls, value, VALUE_BYTES_MAX)
        expect_key(name, state_key(cls.KIND, record.key))
        return record

    def expect_all_read(self) -> None:
        """Equal stories have equal proofs: nothing stands in one that the story does not need.

        Raises `Refused("lineage.excess" | "case.excess")`.
        """
        assert self._whole is not None, "nobody reads all of what may be less or more"
        if self._unread:
            raise Refused(
                f"{self._whole}.excess",
                f"expected only records of the {self._whole}, found {len(self._unread)} others",
            )
