"""`concilium audit sync`, `pin` and `watch`: following a chain from a machine that runs no node."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from node.api.times import tell_time
from node.commands.report import Format, show
from node.commands.source import AS_FOLLOWED, Followed, Source
from node.commands.source import sync as follow
from node.home.config import parse_endpoint
from node.home.logs import configure_logs
from node.light.follow import Round
from node.light.history import History, pin_of
from node.light.metrics import Metrics, build_app
from node.light.watch import Line
from node.light.watch import watch as go_round
from node.wire.listen import listening
from vm.refusal import Refused

EVERY_S = 10.0  # a chain makes blocks about as often; a fork is found with the next round
SCRAPERS_MAX = 64  # connections for the metrics: few ask, and a watch has few file descriptors

Seconds = Annotated[float, Parameter(validator=Number(gte=0.1, lte=86_400))]


def sync(
    *,
    options: Followed = AS_FOLLOWED,
    output: Format = "text",
) -> None:
    """Follow the chain to its newest checkpoint, and keep what was followed.

    Every node is asked, and none believed: certificates are verified from genesis or from the pin,
    and the newest checkpoint must go on from the one that was held. Begin with --pin: from genesis
    alone, keys of validators that were retired and stolen later could forge a history.
    """
    source = options.source()
    found, held = asyncio.run(follow(source))
    show(output, _describe(held) | {"nodes": _nodes(found)}, _text(held, found))


def pin(
    *,
    home: Path | None = None,
    genesis: Path | None = None,
    store: Path | None = None,
    output: Format = "text",
) -> None:
    """Print a pin of the newest checkpoint that was followed, to write down and to hand on.

    Parameters
    ----------
    home
        An auditor's folder with concilium.toml.
    genesis
        The genesis document, if no home is given.
    store
        Folder of what was followed; HOME/followed if not given.
    """
    source = Followed(home=home, genesis=genesis, store=store).source(offline=True)
    source.require_store()
    held = source.held()
    if held is None or held.newest is None:
        raise Refused("store.empty", "expected a store, found none: run concilium audit sync first")
    show(output, _describe(held), str(pin_of(held.newest.header)))


def watch(
    *,
    options: Followed = AS_FOLLOWED,
    every: Seconds = EVERY_S,
    listen: str | None = None,
    keep_going: bool = False,
    output: Format = "text",
) -> None:
    """Follow the chain until interrupted, and say what changes; a fork ends it with exit code 5.

    Parameters
    ----------
    every
        Seconds from one round over all nodes to the next.
    listen
        host:port where Prometheus finds /metrics.
    keep_going
        After a fork, go on watching instead of ending.
    """
    source = options.source()
    configure_logs("error", "auto")  # a node that lies is told of when its state changes
    asyncio.run(_watch(source, every, listen, keep_going, output))


async def _watch(
    source: Source, every_s: float, listen: str | None, keep_going: bool, output: Format
) -> None:
    def say(line: Line) -> None:
        print(json.dumps(line.data) if output == "json" else line.text, flush=True)

    store, metrics = source.require_store(), Metrics()
    with store.locked():
        async with source.follower() as follower, _exported(metrics, listen):
            await go_round(follower, store, metrics, say, every_s=every_s, keep_going=keep_going)


@asynccontextmanager
async def _exported(metrics: Metrics, listen: str | None) -> AsyncIterator[None]:
    """Serve the metrics at `listen`, if it is given."""
    if listen is None:
        yield
        return
    try:
        at = parse_endpoint(listen)
    except ValueError as error:
        raise Refused("usage.listen", f"--listen: {error}, found {listen[:80]!r}") from None
    async with listening(build_app(metrics), at.host, at.port, None, SCRAPERS_MAX):
        yield


def _describe(held: History) -> dict[str, object]:
    assert held.newest is not None, "something was followed"
    header = held.newest.header
    epoch = held.trust.epochs[-1]
    return {
        "chain": header.chain.hex(),
        "height": header.height,
        "time_ms": header.time_ms,
        "state": header.state.hex(),
        "epoch": epoch.number,
        "validators": [seat.id for seat in epoch.validators.validators],
        "begins_at": None if held.pin is None else str(held.pin),
        "pin": str(pin_of(header)),
    }


def _nodes(found: Round) -> list[dict[str, object]]:
    return [
        {
            "url": seen.url,
            "state": seen.state.value,
            "height": None if seen.certified is None else seen.certified.header.height,
            "code": seen.code,
            "message": seen.message,
        }
        for seen in found.seen
    ]


def _text(held: History, found: Round) -> str:
    assert held.newest is not None, "something was followed"
    header = held.newest.header
    epoch = held.trust.epochs[-1]
    begun = "genesis" if held.pin is None else f"pin {held.pin}"
    lines = [
        f"followed from {begun} to height {header.height}, {tell_time(header.time_ms)}, epoch "
        f"{epoch.number} of {epoch.validators.n} validators",
    ]
    for seen in found.seen:
        height = "" if seen.certified is None else f" at height {seen.certified.header.height}"
        why = f": {seen.code}: {seen.message}" if seen.code else ""
        lines.append(f"  {seen.url} {seen.state}{height}{why}")
    lines.append(f"pin: {pin_of(header)}")
    if held.pin is None:
        lines.append(
            "This began at genesis: compare the pin with one that you have from elsewhere, and "
            "begin with --pin next time."
        )
    return "\n".join(lines)
