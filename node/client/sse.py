"""Reads text/event-stream (HTML standard, section 9.2.6): bytes in, events out."""

from dataclasses import dataclass

from vm.refusal import Refused

EVENT_BYTES_MAX = 4 * 1024 * 1024  # a block of 2,000 transactions takes about 1 MiB


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event: its id, "" if it has none, and its data."""

    id: str
    data: str


class EventReader:
    """Gathers parts of a stream until events are whole; lines end with a line feed."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, part: bytes) -> list[StreamEvent]:
        """Events that `part` completes; raises `Refused("http.answer")` if one grows too large."""
        self._rest += part
        *blocks, rest = self._rest.split(b"\n\n")
        if any(len(block) > EVENT_BYTES_MAX for block in (*blocks, rest)):
            raise Refused(
                "http.answer", f"expected events of at most {EVENT_BYTES_MAX} bytes, found more"
            )
        self._rest = bytearray(rest)
        events = [_event(bytes(block)) for block in blocks]
        return [event for event in events if event.data]


def _event(block: bytes) -> StreamEvent:
    """Comments and fields that we do not use are skipped."""
    id, data = "", []
    for line in block.decode("utf-8", "replace").split("\n"):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            id = value
        elif field == "data":
            data.append(value)
    return StreamEvent(id, "\n".join(data))
