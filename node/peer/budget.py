"""How many scores on this site's rows were promised, so that all published stay within its budget.

A score is bound by a seal before the chain counts it, so what was promised is counted here first,
and a crash in between spends without publishing. The chain refuses what goes beyond.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fl.body import Judged
from fl.judging import scores_in
from node.wire.disk import replace_file
from vm.refusal import Refused

FOLDER = "scores"  # in the peer's store: one file for each dataset, its name the dataset's id
DIGITS_MAX = 16  # of a count
SPENT = "passed; the budget of scores on the verifier's rows is spent"


class Budget:
    """Counts by dataset."""

    def __init__(self, store: Path) -> None:
        """The folder is made when something is first counted."""
        self._folder = store / FOLDER

    def spend(
        self, dataset: str, published: int, most: int, judgements: Sequence[Judged]
    ) -> tuple[Judged, ...]:
        """What may be published of the judgements, counted on disk before it is returned.

        `published` is the chain's count, `most` the dataset's budget. What has no room goes without
        contributions, then without scores. Raises `Refused("peer.scores_file")`.
        """
        before = max(published, self._promised(dataset))
        for offered in (judgements, _without_contributions(judgements)):
            if before + scores_in(offered) <= most:
                if count := scores_in(offered):
                    replace_file(self._folder / dataset, b"%d" % (before + count))
                return tuple(offered)
        return _without_scores(judgements)

    def _promised(self, dataset: str) -> int:
        path = self._folder / dataset
        try:
            with path.open("rb") as file:
                text = file.read(DIGITS_MAX + 1)
        except FileNotFoundError:
            return 0
        if not text.isdigit() or len(text) > DIGITS_MAX:
            raise Refused(
                "peer.scores_file",
                f"{path}: expected a count of scores, found something else: delete the file to go "
                "on from the chain's count",
            )
        return int(text)


def _without_contributions(judgements: Sequence[Judged]) -> tuple[Judged, ...]:
    return tuple(replace(item, contribution_bp=None) for item in judgements)


def _without_scores(judgements: Sequence[Judged]) -> tuple[Judged, ...]:
    """The reason of a pass says the score too."""
    return tuple(
        item
        if item.score_bp is None
        else replace(item, score_bp=None, contribution_bp=None, reason=SPENT)
        for item in judgements
    )
