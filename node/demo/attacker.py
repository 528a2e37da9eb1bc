"""A dishonest hospital, for the demo: in one round its trainer sends a scaled sign flip.

A program of its own, so that the training peer itself has no switch that poisons. Everything but
the numbers in the update is the honest peer's: the attack goes the real way.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

from fl.attack import sign_flip
from fl.experiment import POISON_SCALE
from fl.fixed import Ints
from fl.model import Rows
from fl.train import Job, OnStep, Result, train
from node.commands.network import until_signal
from node.home import config
from node.home.logs import configure_logs
from node.peer.assembly import run_peer


def poisoning(number: int) -> Callable[[Job, Ints, Rows, OnStep | None], Result]:
    """Honest training, except the `number`-th distinct round that is trained."""
    beacons: list[bytes] = []

    def poisoned(job: Job, base: Ints, rows: Rows, on_step: OnStep | None = None) -> Result:
        if job.beacon not in beacons:
            beacons.append(job.beacon)
        result = train(job, base, rows, on_step)
        if beacons.index(job.beacon) + 1 != number:
            return result
        return sign_flip(base, result, POISON_SCALE)

    return poisoned


def main() -> None:
    """Arguments: the home, and the number of the round to poison."""
    home, number = Path(sys.argv[1]), int(sys.argv[2])
    settings = config.load(config.PeerConfig, home, os.environ)
    configure_logs(settings.log.level, settings.log.format, member=settings.trainer.id)
    asyncio.run(until_signal(run_peer(settings, train=poisoning(number))))


if __name__ == "__main__":
    main()
