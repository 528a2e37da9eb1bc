"""`concilium audit report`: the case file of a model."""

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from node.api.times import tell_time
from node.case import CASE_BYTES_MAX
from node.commands.files import check_absent, read_file, write_new
from node.commands.report import Format, Many, show
from node.commands.source import Followed, Source
from node.home import config
from node.home.keyfile import read_key

if TYPE_CHECKING:
    from node.case.contents import Case

Height = Annotated[int, Parameter(validator=Number(gte=0))]


def report(
    home: Path,
    *,
    model: str,
    out: Path,
    version: Height | None = None,
    at: Height | None = None,
    checkpoint: Path | None = None,
    url: Many = (),
    pin: str | None = None,
    store: Path | None = None,
    output: Format = "text",
) -> None:
    """Write all that the chain says of a model into one signed archive, which proves itself.

    Whoever holds the genesis document or a pin verifies it offline: `concilium audit verify FILE`.
    At one height every node's answers make equal bytes, if the certificate is given too.

    Parameters
    ----------
    home
        An auditor's folder with concilium.toml; its member signs the file.
    model
        Id of the model.
    out
        The file to write; there must be none of that name.
    version
        Which version; the newest if not given.
    at
        At which height; the newest certified one if not given.
    checkpoint
        A proof file or another case file: its certificate goes into this one, and its height holds.
    url
        HTTP API of a validator, instead of those of the home; may be given more than once.
    pin
        HEIGHT:HEX of a checkpoint that you believe, as `concilium audit pin` prints it.
    store
        Folder of what was followed; HOME/followed if not given.
    """
    check_absent(out)
    settings = config.load(config.ClientConfig, home, os.environ)
    held = None if checkpoint is None else read_file(checkpoint, CASE_BYTES_MAX)
    source = Followed(home=home, url=url, pin=pin, store=store).source()
    case, steps = asyncio.run(_report(settings, source, out, model, version, at, held))
    height, time = case.header.height, tell_time(case.header.time_ms)
    lines = "\n".join(f"  verified: {step}" for step in steps)
    show(
        output,
        {"file": str(out), "height": height, "time": time, "steps": list(steps)},
        f"{out}: case file of model {model} version {case.lineage.model.version} "
        f"at height {height}, {time}\n{lines}",
    )


async def _report(
    settings: config.ClientConfig,
    source: Source,
    out: Path,
    model: str,
    version: int | None,
    at: int | None,
    held: bytes | None,
) -> "tuple[Case, tuple[str, ...]]":
    """Fetch, check and write; `held` is the file that brings the checkpoint."""
    # prov and jinja2 take a while to load, and other commands do without them
    from node.case.archive import make_case, read_checkpoint
    from node.case.collect import collect
    from node.case.contents import Auditor
    from node.case.story import tell

    key = read_key(settings.member.key)
    auditor = Auditor(settings.member.id, key.public)
    async with source.client() as (client, followed):
        base = source.trust(followed)
        checkpoint = None if held is None else read_checkpoint(base, held)
        proofs = await collect(
            client,
            model,
            auditor=auditor.member,
            version=version,
            at=at,
            checkpoint=checkpoint,
            anchor=None if followed is None else followed.start,
        )
        trust = client.proven.trust
    case, steps = tell(trust, proofs, auditor)
    write_new(out, make_case(base, case, proofs, key))
    return case, steps
