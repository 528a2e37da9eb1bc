"""A validator's desk for readers, put together from its configuration."""

import time

from node.home.config import ValidatorConfig
from node.readers.desk import Desk
from node.readers.identity import Roster
from node.readers.log import FOLDER, Logbook
from node.validator.chain import Chain
from node.wire.pki import certified_spki
from vm.genesis import Genesis


def open_desk(config: ValidatorConfig, genesis: Genesis, chain: Chain) -> Desk:
    """Open the access log and stand ready.

    Raises as `Logbook` does, and `Refused("tls.certificate")`; whoever opens it closes the log.
    """
    certificate = config.tls.files(config.member).certificate
    return Desk(
        public=genesis.public,
        names=config.http.known_as,
        server=certified_spki(certificate) if config.http.tls else None,
        per_s=config.http.reads_per_s,
        roster=Roster(chain.state, lambda: chain.head.height),
        logbook=Logbook(config.store.folder / FOLDER),
        now_s=time.time,
        ticks_s=time.monotonic,
    )
