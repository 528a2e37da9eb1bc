"""`concilium`: the command line.

With `--format json` results go to stdout and errors to stderr, both as JSON. What commands exit
with is in `node.commands.report`.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from itertools import pairwise

from cyclopts import App, CycloptsError, Parameter

from node.commands import (
    audit,
    governance,
    learning,
    network,
    office,
    peer,
    store,
    usage,
    validator,
)
from node.commands.report import (
    EXIT_CODES,
    INTERRUPTED,
    OK,
    show_halt,
    show_outdated,
    show_refusal,
)
from node.validator.halted import Halted, Outdated
from vm.refusal import Refused

EXTRAS = frozenset({"numpy", "plyvel", "safetensors", "torch"})  # what the base install lacks

# Products of narrow matrices over several threads wait for the slowest: on a busy machine they take
# ten times as long. Read when numpy is loaded, which only commands do; torch has its own threads.
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "1")

app = App(
    name="concilium",
    help="A consortium chain on which hospitals train models together.",
    help_epilogue=EXIT_CODES,
    version=lambda: version("concilium"),
    help_format="plaintext",
    default_parameter=Parameter(negative=()),  # no --no-opening, no --empty-url
)
app.command(network.testnet)
app.command(network.run)
app.command(store.prune)
app.command(audit.status)
app.command(validator.app)
app.command(governance.app)
app.command(peer.app)
app.command(learning.app)
app.command(office.submit)
app.command(office.dataset)
app.command(office.task)
app.command(office.model)
app.command(usage.app)
app.command(audit.app)


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if tokens is None else tokens)
    os.environ.setdefault(*ONE_THREAD)
    as_json = _wants_json(arguments)
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return show_refusal(_misused(error), as_json)
    except Refused as refused:
        return show_refusal(refused, as_json)
    except Halted as halted:
        return show_halt(halted, as_json)
    except Outdated as outdated:
        return show_outdated(outdated, as_json)
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        return show_refusal(_not_installed(error.name), as_json)
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether errors go out as JSON: asked before the arguments are parsed, as that may fail."""
    return "--format=json" in arguments or ("--format", "json") in pairwise(arguments)


def _misused(error: CycloptsError) -> Refused:
    command = " ".join(("concilium", *(error.command_chain or ())))
    return Refused("usage.arguments", f"{error} See: {command} --help")


def _not_installed(package: str) -> Refused:
    return Refused(
        "install.extra",
        f"expected the package {package}, found none: install concilium[node] for a validator, "
        "concilium[train] for a training peer",
    )


if __name__ == "__main__":
    sys.exit(main())
