"""Checkpoints: a quorum's signed header for every height, and the low watermark (section 4.3)."""

from consensus.event import Diverged
from consensus.log import Ballot, cast, votes_for
from vm.certificate import CheckpointCertificate
from vm.quorum import ValidatorSet
from vm.shape import Digest, Signature

VIEW_NONE = 0  # a checkpoint belongs to no view


class Checkpoints:
    """Headers that we executed and votes for headers, above the stable checkpoint.

    A certificate becomes stable once our own execution gave the same header. Of those for heights
    that we have yet to execute two are kept: the next to be judged, until we get there, and the
    newest, which is next then. A replica that follows some blocks behind so has stable checkpoints.
    """

    def __init__(
        self,
        validators: ValidatorSet,
        window: int,
        executed: int,
        header: Digest,
        stable: CheckpointCertificate | None,
        base: int = 0,
    ) -> None:
        self._base = base  # the height before the epoch: stable, even if a crash took the proof
        self.stable = stable
        self.executed = executed
        self._validators = validators
        self._window = window
        self._headers: dict[int, Digest] = {executed: header}
        self._votes: dict[int, dict[str, Ballot]] = {}
        self._ahead: CheckpointCertificate | None = None  # the next that execution reaches
        self._newest: CheckpointCertificate | None = None  # of a height above that
        if stable is not None:
            self._compare(stable)

    @property
    def low(self) -> int:
        """Height of the stable checkpoint, at first the one before the epoch."""
        return self._base if self.stable is None else max(self._base, self.stable.height)

    @property
    def header(self) -> Digest:
        """Our header at the executed height."""
        return self._headers[self.executed]

    @property
    def known(self) -> int:
        """Height of the newest certificate that we have verified."""
        heights = [c.height for c in (self._ahead, self._newest) if c is not None]
        return max(heights, default=self.low)

    def vote(self, sender: str, height: int, header: Digest, signature: Signature) -> Ballot | None:
        """Count a vote; the sender's earlier one if the two contradict each other."""
        if not self.low < height <= self.low + self._window:
            return None
        ballots = self._votes.setdefault(height, {})
        return cast(ballots, sender, Ballot(VIEW_NONE, header, signature))

    def observe(self, certificate: CheckpointCertificate) -> None:
        """Take a verified certificate from a peer; raises `Diverged` if our header is another."""
        if certificate.height > self.executed:
            if certificate.height > self.known:
                self._await(certificate)
        elif certificate.height > self.low and certificate.height in self._headers:
            self._adopt(certificate)

    def restore(self, certificate: CheckpointCertificate) -> None:
        """Take a stable checkpoint from our journal; execution may have to follow it again."""
        if certificate.height > self.low:
            self._compare(certificate)
            self.stable = certificate

    def execute(self, height: int, header: Digest) -> bool:
        """Record our header at the next height; whether our vote for it is still of use."""
        assert height == self.executed + 1, f"executed {height} after {self.executed}"
        self.recall(height, header)
        self.executed = height
        self._trim()
        for certificate in (self.stable, self._ahead):
            if certificate is not None and certificate.height == height:
                self._adopt(certificate)
        return height > self.known

    def recall(self, height: int, header: Digest) -> None:
        """Record a header that we signed; raises `Diverged` if execution now gives another."""
        if self._headers.setdefault(height, header) != header:
            raise Diverged(f"execution of height {height} gave another header than before")

    def settle(self, height: int) -> None:
        """Make `height` stable if a quorum and we agree on its header; else raise `Diverged`."""
        if self.low < height <= self.executed and height in self._headers:
            certificate = self._certificate(height)
            if certificate is not None:
                self._adopt(certificate)

    def forget(self) -> None:
        """Drop what lies below the stable checkpoint."""
        for height in [h for h in self._votes if h <= self.low]:
            del self._votes[height]
        self._trim()

    def _trim(self) -> None:
        """Keep the newest window of headers, for certificates that come after execution."""
        oldest = max(min(self.low, self.executed), self.executed - self._window)
        for height in [h for h in self._headers if h < oldest]:
            del self._headers[height]

    def _certificate(self, height: int) -> CheckpointCertificate | None:
        ballots = self._votes.get(height, {})
        for header in {ballot.digest: None for ballot in ballots.values()}:
            votes = votes_for(ballots, VIEW_NONE, header)
            if len(votes) >= self._validators.quorum:
                return CheckpointCertificate(height, header, votes)
        return None

    def _await(self, certificate: CheckpointCertificate) -> None:
        if self._ahead is None:
            self._ahead = certificate
        else:
            self._newest = certificate

    def _adopt(self, certificate: CheckpointCertificate) -> None:
        self._compare(certificate)
        if certificate.height > self.low:
            self.stable = certificate
        if self._ahead is not None and self._ahead.height <= self.low:
            self._ahead, self._newest = self._newest, None

    def _compare(self, certificate: CheckpointCertificate) -> None:
        ours = self._headers.get(certificate.height)
        if ours is not None and ours != certificate.header:
            raise Diverged(f"a quorum signed another header at height {certificate.height}")
