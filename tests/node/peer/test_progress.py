"""The bars of rounds in training: for terminals alone."""

import io
import sys
from pathlib import Path

import pytest

from node.peer.progress import bars
from node.peer.stage import Stage
from tests.fl.dialogue import MODEL, TASK
from tests.node.peer.looks import opened
from vm.learning import Round, Task
from vm.record import Model


class Screen(io.StringIO):
    """What says that it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """A task's first round."""
    chain = opened(tmp_path).chain
    return Stage(chain.get(Task, TASK), chain.get(Round, TASK, 1), chain.get(Model, MODEL, 0))


def test_without_a_terminal_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log tells the same in lines, and a file gets no control characters."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)

    with bars() as on_stage:
        assert on_stage is None

    assert stream.getvalue() == ""


def test_on_a_terminal_rounds_steps_and_losses_are_shown(
    monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    """How far training is, and how well it goes; a finished round's bar is gone."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")

    with bars() as on_stage:
        assert on_stage is not None
        on_step = on_stage(stage)
        on_step(29, 30, 0.61234)

    assert "preterm round 1 (0 of 2 closed)" in screen.getvalue()
    assert "29/30" in screen.getvalue()
    assert "loss 0.6123" in screen.getvalue()


def test_a_finished_round_s_bar_is_gone(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    """What is on the screen is under way; one that was broken off makes way for its next try."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")

    with bars() as on_stage:
        assert on_stage is not None
        on_stage(stage)(3, 30, 0.9)
        on_stage(stage)(30, 30, 0.6)

    assert "30/30" not in screen.getvalue()
    assert "3/30" not in screen.getvalue()
