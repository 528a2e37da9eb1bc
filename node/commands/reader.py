"""Who asks, for commands that only read: by a home, or by what is named one by one."""

import os
from pathlib import Path

from node.client.credentials import Credentials, credentials_of
from node.home import config
from node.home.keyfile import read_key
from vm.refusal import Refused


def reader_of(home: Path | None, member: str | None, key: Path | None) -> Credentials | None:
    """The credentials of an auditor's `home`, or of `member` with its `key`; None for nobody.

    Raises `Refused("usage.reader")` for one of the two alone, and as `config.load` and `read_key`.
    """
    if (member is None) != (key is None):
        raise Refused("usage.reader", "expected --member and --key together, found one of them")
    if member is not None and key is not None:
        return Credentials(member, read_key(key))
    if home is None:
        return None
    settings = config.load(config.ClientConfig, home, os.environ)
    return credentials_of(settings.member, settings.tls)
