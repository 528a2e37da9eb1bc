"""What tests over real sockets stand on holds itself."""

import socket
from pathlib import Path

import pytest

from tests.node.parties import HOST, Consortium


def test_a_port_that_a_test_was_given_is_taken_by_nobody_else(tmp_path: Path) -> None:
    """A connection came by one between its choice and its use, and a test of servers failed."""
    consortium = Consortium(tmp_path / "c")
    port = consortium.free_port()

    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((HOST, port))


def test_a_server_listens_at_a_port_that_a_test_was_given(tmp_path: Path) -> None:
    """The one who holds it for the test is not in its way, but a second server would be."""
    consortium = Consortium(tmp_path / "c")
    port = consortium.free_port()

    with socket.create_server((HOST, port)), pytest.raises(OSError, match="in use"):
        socket.create_server((HOST, port))
