"""A validator's desk for readers, put together from its configuration."""

import time

from node.home.config import ValidatorConfig
from node.readers.desk import Desk
from node.readers.identity import Roster
from node.readers.log import FOLDER, Logbook
from node.validator.chain import Chain
from vm.genesis import Genesis


def open_desk(config: ValidatorConfig, genesis: Genesis, chain: Chain) -> Desk:
    """Open the access log and stand ready.

    Raises as `Logbook` does; whoever opens it closes the log.
    """
    return Desk(
        public=genesis.public,
        names=config.http.known_as,
        per_s=config.http.reads_per_s,
        roster=Roster(chain.state, lambda: chain.head.height),
        logbook=Logbook(config.store.folder / FOLDER),
        now_s=time.time,
        ticks_s=time.monotonic,
    )
