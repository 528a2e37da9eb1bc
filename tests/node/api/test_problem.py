"""What a node may say in a problem document, as its client reads it."""

import json

import pytest

from node.api.problem import DETAIL_CHARACTERS_MAX, parse_problem

URL = "http://node"


def body(code: object, detail: object) -> bytes:
    """A problem document."""
    return json.dumps({"code": code, "detail": detail}).encode()


def test_a_refusal_is_read_as_it_was_sent() -> None:
    """Code and sentence."""
    refused = parse_problem(body("record.missing", "expected it, found none"), URL, 404)

    assert (refused.code, refused.message) == ("record.missing", "expected it, found none")


@pytest.mark.parametrize(
    "code",
    [
        "audit.conflict",
        "client.unreachable",
        "succession.next",
        "usage.url",
        "pin.header",
        "case.page",
    ],
)
def test_a_node_does_not_say_what_only_we_can_find(code: str) -> None:
    """Else its word would decide what a command exits with: that a chain has forked, say."""
    assert parse_problem(body(code, "a fork"), URL, 400).code == "http.answer"


@pytest.mark.parametrize("code", ["", "a b", "a\x1b[31m", "x" * 49, "é", None, 7, ["a"]])
def test_what_is_no_code_is_none(code: object) -> None:
    """Codes are printed and compared."""
    assert parse_problem(body(code, "detail"), URL, 400).code == "http.answer"


def test_a_sentence_writes_nothing_on_a_terminal_but_itself() -> None:
    """No lines of its own, no escapes, and nothing that cannot be written at all."""
    detail = "found\nhttp://honest agrees\x1b[2K\ud800\x00" + "x" * 1_000

    refused = parse_problem(body("record.missing", detail), URL, 404)

    assert refused.message.isprintable()
    assert len(refused.message) == DETAIL_CHARACTERS_MAX
    refused.message.encode()
