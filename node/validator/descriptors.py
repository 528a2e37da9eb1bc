"""File descriptors: a validator has to have room for all that may be open at one time."""

import resource

from node.wire.listen import CONNECTIONS_MAX
from vm.refusal import Refused

TABLES_MAX = 1_000  # that LevelDB holds open: max_open_files, as the store leaves it
OTHERS_MAX = 1_024  # connections to other validators, blobs, snapshots, logs, the journal
DESCRIPTORS_MIN = 2 * CONNECTIONS_MAX + TABLES_MAX + OTHERS_MAX  # both ports full


def require_descriptors() -> None:
    """Let this process open as many files as the system lets it.

    Without room LevelDB and the journal fail, and a validator ends, when a stranger holds
    connections. Raises `Refused("descriptors.few")`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS_MIN:
        raise Refused(
            "descriptors.few",
            f"expected room for {DESCRIPTORS_MIN} open files, found a hard limit of {hard}: raise "
            "it (LimitNOFILE= of systemd, --ulimit nofile= of a container, or `ulimit -n`)",
        )
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
