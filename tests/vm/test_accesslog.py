"""The digest of a validator's access log on chain: it grows, and is its sender's alone."""

from node.program import program
from tests.harness import Chain
from vm.accesslog import AccessLog, DigestLog

ONE, OTHER = "hospital-1.validator", "hospital-2.validator"


def digest(size: int, fill: int = 1) -> DigestLog:
    """A digest of so many lines."""
    return DigestLog(size, bytes((fill,)) * 32)


def test_a_digest_is_kept_with_its_height() -> None:
    """What an auditor compares a log with: size and root, and when they came."""
    chain = Chain(program())

    codes = chain.block([(ONE, "access.digest", digest(3))])

    assert codes == ["applied"]
    found = chain.get(AccessLog, ONE)
    assert found == AccessLog(ONE, 3, digest(3).root, chain.height, chain.time_ms)


def test_a_log_that_does_not_grow_is_refused() -> None:
    """A smaller log has lost lines; one of equal size and another root was written anew."""
    chain = Chain(program())
    chain.block([(ONE, "access.digest", digest(3))])

    codes = [chain.block([(ONE, "access.digest", digest(size, 2))])[0] for size in (2, 3, 4)]

    assert codes == ["access_log.size", "access_log.size", "applied"]
    assert chain.get(AccessLog, ONE).size == 4


def test_each_validator_has_a_log_of_its_own() -> None:
    """Nobody can write over another's digest: the record is the sender's."""
    chain = Chain(program())

    codes = chain.block([(ONE, "access.digest", digest(9)), (OTHER, "access.digest", digest(1, 2))])

    assert codes == ["applied", "applied"]
    assert (chain.get(AccessLog, ONE).size, chain.get(AccessLog, OTHER).size) == (9, 1)
