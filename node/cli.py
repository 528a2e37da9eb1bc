"""`concilium`: the command line.

Exit codes: 0 done, 1 a bug of ours or a halt by consensus, 2 usage, 3 refused, 4 unreachable,
5 not verified, 130 interrupted. With `--format json` results go to stdout and errors to stderr,
both as JSON.
"""

import sys
from collections.abc import Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError

from node.commands import audit, network, office, peer
from node.commands.report import INTERRUPTED, OK, USAGE, show_halt, show_refusal
from node.halted import Halted
from vm.refusal import Refused

app = App(
    name="concilium",
    help="A consortium chain on which hospitals train models together.",
    version=lambda: version("concilium"),
    help_format="plaintext",
)
app.command(network.testnet)
app.command(network.run)
app.command(audit.status)
app.command(peer.app)
app.command(office.submit)
app.command(office.dataset)
app.command(office.task)
app.command(office.model)
app.command(audit.app)


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if tokens is None else tokens)
    try:
        app(arguments, exit_on_error=False, result_action="return_value")
    except CycloptsError:
        return USAGE
    except Refused as refused:
        return show_refusal(refused, as_json="json" in arguments)
    except Halted as halted:
        return show_halt(halted)
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


if __name__ == "__main__":
    sys.exit(main())
