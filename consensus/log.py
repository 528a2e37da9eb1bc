"""The message log: for each sequence number, the votes heard and what they have proven."""

from dataclasses import dataclass, field

from consensus.message import CommitCertificate, PreparedCertificate
from vm.certificate import Vote
from vm.shape import Digest, Signature


@dataclass(frozen=True, slots=True)
class Ballot:
    """A vote for a digest in a view, with the signature that certificates carry."""

    view: int
    digest: Digest
    signature: Signature


@dataclass(slots=True)
class Instance:
    """Agreement on one sequence number.

    Of each sender the vote of its newest view is kept: honest replicas never return to an older
    one, so nothing of use is lost and a faulty sender fills one place only.
    """

    proposal: Ballot | None = None  # the primary's, accepted in the current view
    holders: tuple[str, ...] = ()  # of the payload of a re-proposal: its primary, earlier voters
    prepares: dict[str, Ballot] = field(default_factory=dict)  # by sender
    commits: dict[str, Ballot] = field(default_factory=dict)  # by sender
    prepared: PreparedCertificate | None = None  # of the newest view in which we prepared
    committed: CommitCertificate | None = None  # the first one seen; all carry one digest


def cast(ballots: dict[str, Ballot], sender: str, ballot: Ballot) -> Ballot | None:
    """Count a vote; the sender's earlier vote if the two contradict each other."""
    earlier = ballots.get(sender)
    if earlier is None or earlier.view < ballot.view:
        ballots[sender] = ballot
    elif earlier.view == ballot.view and earlier.digest != ballot.digest:
        return earlier
    return None


def votes_for(ballots: dict[str, Ballot], view: int, digest: Digest) -> tuple[Vote, ...]:
    """The votes for `digest` in `view`, in order of sender as certificates list them."""
    return tuple(
        Vote(sender, ballot.signature)
        for sender, ballot in sorted(ballots.items())
        if ballot.view == view and ballot.digest == digest
    )
