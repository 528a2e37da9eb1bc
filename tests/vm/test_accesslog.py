"""The digest of a validator's access log on chain: it grows, and is its sender's alone."""

from dataclasses import replace

import pytest

from node.program import program
from tests.harness import Chain
from vm import tree
from vm.accesslog import AccessLog, DigestLog

ONE, OTHER = "hospital-1.validator", "hospital-2.validator"
LOG = bytes(range(16))
LINES = [bytes((number,)) for number in range(20)]


def digest(size: int, before: int = 0, lines: list[bytes] = LINES) -> DigestLog:
    """A true digest of the first `size` lines, after one of the first `before`."""
    nodes: dict[tuple[int, int], bytes] = {}
    frontier = tree.EMPTY
    for line in lines[:size]:
        frontier, made = tree.append(frontier, line)
        nodes |= {(level, index): found for level, index, found in made}
    path = tree.consistency_path_at(lambda *at: nodes[at], before, size)
    return DigestLog(LOG, size, frontier.root, path)


def code_of(chain: Chain, body: DigestLog, sender: str = ONE) -> str:
    """What the receipt of a digest says."""
    return chain.block([(sender, "access.digest", body)])[0]


def test_a_digest_is_kept_with_its_height() -> None:
    """What an auditor compares a log with: size and root, and when they came."""
    chain = Chain(program())

    code = code_of(chain, digest(3))

    assert code == "applied"
    found = chain.get(AccessLog, ONE)
    assert found == AccessLog(ONE, LOG, 1, 3, digest(3).root, chain.height, chain.time_ms)


@pytest.mark.parametrize("size", [1, 3])
def test_a_log_that_does_not_grow_is_refused(size: int) -> None:
    """A smaller log has lost lines; one of equal size was written anew."""
    chain = Chain(program())
    code_of(chain, digest(3))

    assert code_of(chain, DigestLog(LOG, size, bytes(32), ())) == "access_log.size"
    assert chain.get(AccessLog, ONE).size == 3


def test_a_log_that_begins_as_it_did_is_taken() -> None:
    """Line by line, and over any stretch."""
    chain = Chain(program())
    sizes = (1, 2, 3, 4, 9, 16, 20)

    codes = [
        code_of(chain, digest(size, before))
        for before, size in zip((0, *sizes), sizes, strict=False)
    ]

    assert set(codes) == {"applied"}
    assert chain.get(AccessLog, ONE).size == 20


def test_a_log_that_was_written_anew_is_refused() -> None:
    """One line changed, left out or put between: no path leads there from what was digested."""
    others = (
        [*LINES[:2], b"another", *LINES[3:]],
        LINES[1:],
        [*LINES[:2], b"one more", *LINES[2:]],
    )

    for lines in others:
        chain = Chain(program())
        code_of(chain, digest(5))
        assert code_of(chain, digest(9, 5, lines)) == "access_log.consistency"
        assert code_of(chain, digest(9, 0)) == "access_log.consistency"
        assert code_of(chain, digest(9, 5)) == "applied"


def test_each_validator_has_a_log_of_its_own() -> None:
    """Nobody can write over another's digest: the record is the sender's."""
    chain = Chain(program())

    codes = [code_of(chain, digest(9), ONE), code_of(chain, digest(1), OTHER)]

    assert codes == ["applied", "applied"]
    assert (chain.get(AccessLog, ONE).size, chain.get(AccessLog, OTHER).size) == (9, 1)


def test_a_log_that_is_begun_anew_is_seen() -> None:
    """A disk may be lost with its lines: the next log is taken, and counted for every auditor."""
    chain = Chain(program())
    code_of(chain, digest(5))

    codes = [code_of(chain, replace(digest(size), log=bytes(16))) for size in (2, 1)]
    found = chain.get(AccessLog, ONE)

    assert codes == ["applied", "access_log.size"]
    assert (found.log, found.number, found.size) == (bytes(16), 2, 2)
    assert code_of(chain, digest(9)) == "applied"  # the lost one comes back: that is a third
    assert chain.get(AccessLog, ONE).number == 3
