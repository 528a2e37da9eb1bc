"""The bar of training steps: for terminals alone."""

import io
import sys

import pytest

from node.peer.progress import step_bar


class Screen(io.StringIO):
    """What says that it is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


def test_without_a_terminal_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log tells the same in lines, and a file gets no control characters."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)

    with step_bar() as on_step:
        assert on_step is None

    assert stream.getvalue() == ""


def test_on_a_terminal_steps_and_loss_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """How far training is, and how well it goes."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")

    with step_bar() as on_step:
        assert on_step is not None
        on_step(30, 30, 0.61234)

    assert "30/30" in screen.getvalue()
    assert "loss 0.6123" in screen.getvalue()
