"""A training peer that opens or replays in another way than it should, for tests.

    python -m tests.network.opener HOME forging | closed | dying | blind

`forging` makes up the end of its second segment and opens that; `closed` opens nothing; `dying`
kills itself as the kernel would when it has announced its first segment and brings it; the verifier
of `blind` gets no openings before others' verdicts are known.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fl.fixed import Ints, norm
from fl.model import Rows, build
from fl.trace import segment_count
from fl.train import Job, Keep, OnStep, Result, Snapshot, first, run_segment, train
from fl.verify import Judgement
from fl.weights import digest_ints
from node.commands.network import until_signal
from node.home import config
from node.home.logs import configure_logs
from node.peer.assembly import run_peer
from node.peer.opening import Opener
from node.peer.replaying import Replaying, Suspect
from node.peer.stage import Stage
from node.wire import openings
from node.wire.openings import PART, Piece, Rendezvous
from vm.digest import WEIGHTS
from vm.learning import Decision, RoundPhase, Update

FORGED = 1  # the segment whose end nobody trained to
FORGED_BY = 1_000  # grid steps: too little for any loss to show


def forge(
    job: Job,
    base: Ints,
    rows: Rows,
    on_step: OnStep | None = None,
    *,
    start: Snapshot | None = None,
    keep: Keep | None = None,
) -> Result:
    """Honest training but for the end of one segment; digests and moves fit, as a cheat's do."""
    last, module = first(job, base), build(job.spec)
    for index in range(segment_count(job.training)):
        one = run_segment(job, module, base, index, last, rows)
        weights = one.weights + np.int32(FORGED_BY if index == FORGED else 0)
        made = replace(
            one.segments[index],
            weights=digest_ints(WEIGHTS, weights),
            move=norm(weights.astype(np.int64) - last.weights),
        )
        last = Snapshot(weights, one.state, (*last.segments, made), one.losses)
        if keep is not None:
            keep(index + 1, last)
    delta = last.weights - base
    return Result(delta, norm(delta), last.segments, last.losses)


async def stay_closed(self: Opener, task_id: str) -> None:
    """Look away."""


def die_opening() -> None:
    """End in the middle of the first segment's upload: it is announced, its bytes are not there."""
    true = Rendezvous.open

    async def upload(*_: object) -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return ""

    async def dying(self: Rendezvous, task: str, number: int, piece: Piece, content: bytes) -> None:
        if piece != PART:
            vars(openings)["upload"] = upload
        await true(self, task, number, piece, content)

    Rendezvous.open = dying  # type: ignore[method-assign]


def be_blind() -> None:
    """Abstain at first, as one to whom nothing is opened; re-run what others have failed."""
    true = Replaying.judge

    async def blind(
        self: Replaying,
        stage: Stage,
        update: Update,
        blob: bytes,
        segments: Sequence[int],
        suspect: Suspect | None = None,
    ) -> Judgement | None:
        if stage.round.phase is RoundPhase.VERDICT:
            return Judgement(Decision.ABSTAIN, "replay.not_opened", "looked away")
        return await true(self, stage, update, blob, segments, suspect)

    Replaying.judge = blind  # type: ignore[method-assign]


def main() -> None:
    """Arguments: the home, and how."""
    home, how = Path(sys.argv[1]), sys.argv[2]
    settings = config.load(config.PeerConfig, home, os.environ)
    configure_logs(settings.log.level, settings.log.format, member=settings.trainer.id)
    match how:
        case "closed":
            Opener.work = stay_closed  # type: ignore[method-assign]
        case "dying":
            die_opening()
        case "blind":
            be_blind()
    asyncio.run(until_signal(run_peer(settings, train=forge if how == "forging" else train)))


if __name__ == "__main__":
    main()
