"""Why a node stops by itself."""


class Halted(Exception):  # noqa: N818 - the end of this node, not a mistake of a caller
    """Consensus demanded that this node stops, keeps what it has and serves nothing."""
