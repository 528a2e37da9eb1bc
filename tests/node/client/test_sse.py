"""Reading text/event-stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.client import sse
from node.client.sse import EventReader, StreamEvent
from vm.refusal import Refused

STREAM = b": hello\n\nid: 7\nevent: block\ndata: {}\n\ndata: a\ndata: b\n\nretry: 3\n\n"
EVENTS = [StreamEvent("7", "{}"), StreamEvent("", "a\nb")]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_the_same_however_the_stream_is_cut(cuts: list[int]) -> None:
    """Comments and events without data are skipped; parts join across reads."""
    reader, found, start = EventReader(), [], 0
    for cut in (*sorted(cuts), len(STREAM)):
        found += reader.feed(STREAM[start:cut])
        start = cut
    assert found == EVENTS


def test_an_event_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server cannot fill the client's memory."""
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 100)
    reader = EventReader()
    reader.feed(b"data: " + b"x" * 94)
    with pytest.raises(Refused, match=r"http\.answer"):
        reader.feed(b"x")
