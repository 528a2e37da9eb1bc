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
from fl.train import Job, Keep, OnStep, Result, Snapshot, train
from node.client.client import Client
from node.client.credentials import credentials_of
from node.commands.network import until_signal
from node.home import config
from node.home.genesis import read_genesis
from node.home.logs import configure_logs
from node.peer.assembly import run_peer
from node.peer.training import Train
from vm.learning import Round
from vm.shape import Digest


def poisoning(is_poisoned: Callable[[Digest], bool]) -> Train:
    """Honest training, except in the round whose beacon `is_poisoned` says so."""

    def poisoned(
        job: Job,
        base: Ints,
        rows: Rows,
        on_step: OnStep | None = None,
        *,
        start: Snapshot | None = None,
        keep: Keep | None = None,
    ) -> Result:
        result = train(job, base, rows, on_step, start=start, keep=keep)
        return sign_flip(base, result, POISON_SCALE) if is_poisoned(job.beacon) else result

    return poisoned


async def beacon_of(settings: config.PeerConfig, number: int) -> Digest | None:
    """The beacon of that round of the peer's task by the chain, which a restart does not change."""
    urls = [validator.http for validator in settings.training.validators]
    reader = credentials_of(settings.trainer, settings.tls)
    async with Client(read_genesis(settings.chain.genesis), urls, reader) as client:
        found = await client.record(Round, next(iter(settings.training.listed)), number)
    return None if found is None else found.beacon


def main() -> None:
    """Arguments: the home, and the number of the round to poison."""
    home, number = Path(sys.argv[1]), int(sys.argv[2])
    settings = config.load(config.PeerConfig, home, os.environ)
    configure_logs(settings.log.level, settings.log.format, member=settings.trainer.id)
    # Training runs in a thread of its own, where a loop may be started.
    attack = poisoning(lambda beacon: asyncio.run(beacon_of(settings, number)) == beacon)
    asyncio.run(until_signal(run_peer(settings, train=attack)))


if __name__ == "__main__":
    main()
