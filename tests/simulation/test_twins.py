"""Two instances of one replica with one key make nobody else disagree."""

import pytest

from tests.simulation.twins import play, read_script, scripts
from vm import quorum


def test_every_script_of_one_round_keeps_agreement() -> None:
    """Each partition of five instances, whoever of the four has a twin."""
    found = [play(str(script)) for script in scripts(1)]

    assert len(found) == 96
    assert not any(found)


@pytest.mark.parametrize("chosen", range(0, 2_560, 40))
def test_some_scripts_of_two_rounds_keep_agreement(chosen: int) -> None:
    """One script of forty; `scripts/simulate --twins` plays all."""
    script = list(scripts(2))[chosen]

    assert play(str(script)) == ""


def test_a_quorum_of_two_is_caught_forking(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a quorum too small by one, a script of one round shows a fork."""
    monkeypatch.setattr(quorum, "quorum", lambda n: n // 2)

    found = [play(str(script)) for script in scripts(1)]

    assert any(text.startswith("agreement") for text in found)


def test_a_script_is_read_as_it_is_written() -> None:
    """The line that a failure prints names the script."""
    for script in scripts(1):
        assert read_script(str(script)) == script
