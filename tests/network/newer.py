"""A release to come: `concilium` that knows one more version of the protocol, for tests."""

import sys

from node.cli import main
from node.validator import protocols

PROTOCOL = "concilium.2"

if __name__ == "__main__":
    protocols.SUPPORTED |= {PROTOCOL}
    sys.exit(main())
