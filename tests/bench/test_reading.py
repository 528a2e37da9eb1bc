"""The figures of reading, from waits made up by hand."""

import json

from tests.bench.reading import document, markdown, summarize


def test_waits_are_told_by_median_tail_and_worst() -> None:
    """In milliseconds, without the requests that failed, which are counted."""
    answers = [(number / 1_000, 20_000) for number in range(1, 201)] + [(9.0, 0)]

    found = summarize(busy=0.5, limit=300.0, load=30.0, connections=50, answers=answers)

    assert (found.requests, found.failed, found.page_bytes) == (201, 1, 20_000)
    assert found.median_ms == 100.5
    assert 198 <= found.p99_ms <= 200
    assert found.worst_ms == 200
    assert "| 300 | 30.0 | 100.5 |" in markdown(found)
    assert "load 0.5 before" in markdown(found)
    assert json.loads(json.dumps(document(found)))["median_ms"] == 100.5
