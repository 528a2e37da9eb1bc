"""`concilium validator`: the life of a validator's home beside running it."""

import os
from pathlib import Path

from cyclopts import App

from node.commands.report import Format, show
from node.home import config

app = App(name="validator", help="Make a validator's home, rotate its key, recover its journal.")


@app.command
def recover(home: Path, *, restored: bool = False, output: Format = "text") -> None:
    """After the loss of a journal: bar the key for ever and make the home fit to observe.

    Parameters
    ----------
    home
        The validator's folder with concilium.toml.
    restored
        The home was put back from a copy: bar its key although nothing looks wrong.
    """
    from node.validator.recover import recover as recover_home

    settings = config.load(config.ValidatorConfig, home, os.environ)
    done = recover_home(settings, restored=restored)
    barred = [key.hex() for key in done.barred]
    aside = None if done.aside is None else str(done.aside)
    kept = "" if aside is None else f"What was left of the journal is kept in {aside}\n"
    show(
        output,
        {"barred": barred, "aside": aside},
        f"{settings.member.id} never votes again with the key {', '.join(barred)}\n{kept}"
        "Next:\n"
        f"  concilium run {home}                  # it observes\n"
        f"  concilium validator rotate {home}     # makes a new key, to be approved",
    )
