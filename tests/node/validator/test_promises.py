"""Votes of our own that come back: known ones are fine, others prove that the journal is old."""

from consensus.journal import Entry, Said, Stable
from consensus.message import Checkpoint, Commit, CommitCertificate, Envelope
from node.validator.promises import Promises
from vm.certificate import CheckpointCertificate, Vote

ME = "v1"
DIGEST = bytes(32)


def said(body: Commit | Checkpoint, *, epoch: int = 0, sender: str = ME) -> Entry:
    """A message as the journal holds it."""
    return Said(Envelope(sender, epoch, body, bytes(64), None))


def commits(view: int, height: int, *voters: str) -> CommitCertificate:
    """A commit certificate with the votes of these validators."""
    votes = tuple(Vote(voter, bytes(64)) for voter in voters or (ME, "v2", "v3"))
    return CommitCertificate(view, height, DIGEST, votes)


def checkpoints(height: int, *voters: str) -> CheckpointCertificate:
    """The same of checkpoints."""
    votes = tuple(Vote(voter, bytes(64)) for voter in voters or (ME, "v2", "v3"))
    return CheckpointCertificate(height, DIGEST, votes)


def test_what_was_said_is_known() -> None:
    """Before the restart or after it."""
    promises = Promises(ME, [said(Commit(0, 5, DIGEST)), said(Checkpoint(5, DIGEST))])
    promises.remember(said(Commit(0, 6, DIGEST)))

    assert promises.knows_commit(0, 0, commits(0, 5))
    assert promises.knows_checkpoint(checkpoints(5))
    assert promises.knows_commit(0, 0, commits(0, 6))


def test_a_vote_that_the_journal_lacks_is_not_known() -> None:
    """Of another slot, view or epoch, or said by another."""
    promises = Promises(ME, [said(Commit(0, 5, DIGEST)), said(Commit(0, 6, DIGEST), sender="v2")])

    assert not promises.knows_commit(0, 0, commits(0, 6))
    assert not promises.knows_commit(0, 0, commits(1, 5))
    assert not promises.knows_commit(1, 0, commits(0, 5))
    assert not promises.knows_checkpoint(checkpoints(5))


def test_certificates_of_others_say_nothing_of_us() -> None:
    """A quorum needs none of our votes."""
    promises = Promises(ME, [])

    assert promises.knows_commit(0, 0, commits(0, 9, "v2", "v3", "v4"))
    assert promises.knows_checkpoint(checkpoints(9, "v2", "v3", "v4"))


def test_what_a_sound_journal_has_forgotten_is_no_proof() -> None:
    """Below its newest stable checkpoint, and of views that it has left: a lost store is no lie."""
    promises = Promises(ME, [Stable(checkpoints(10))])

    assert promises.knows_commit(0, 0, commits(0, 10))
    assert promises.knows_checkpoint(checkpoints(10))
    assert promises.knows_commit(0, 3, commits(2, 11))
    assert not promises.knows_commit(0, 3, commits(3, 11))


def test_what_is_certified_is_forgotten() -> None:
    """Memory is bounded by the window, and what lies below is not asked for again."""
    promises = Promises(ME, [])
    for height in range(1, 100):
        promises.remember(said(Commit(0, height, DIGEST)))
        promises.remember(said(Checkpoint(height, DIGEST)))
        assert promises.knows_checkpoint(checkpoints(height))

    assert promises.knows_commit(0, 0, commits(0, 99))
    assert not promises._commits
    assert not promises._checkpoints
