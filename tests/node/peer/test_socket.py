"""What nobody gets by connecting to the socket of a site's own training loop."""

import asyncio
import socket
import stat
from pathlib import Path

import pytest

import fl
from fl import frames
from fl.frames import Join, Kept, Part, Taken
from node.peer.loop import CONNECTIONS_MAX, PATH_BYTES_MAX
from tests.fl.dialogue import TASK
from tests.node.hospital import Town
from tests.node.peer.looks import opened
from tests.node.peer.script import (
    DEADLINE_S,
    delta,
    loop_of,
    plain_loop,
    with_script,
)
from vm.refusal import Refused


def test_nobody_else_may_connect(path: Path, tmp_path: Path) -> None:
    """The file's mode is its owner's alone; what a killed peer left is replaced, nothing else."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()

    def mode() -> int:
        return stat.S_IMODE(path.stat().st_mode)

    async def scenario() -> int:
        async with loop_of(Town(tmp_path), path):
            return mode()

    assert asyncio.run(scenario()) == 0o600
    assert not path.exists()
    path.write_text("somebody's")
    with pytest.raises(Refused, match=r"loop\.socket"):
        asyncio.run(scenario())
    assert path.read_text() == "somebody's"


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    """With the key that names a shorter one."""
    path = tmp_path / ("x" * PATH_BYTES_MAX)

    async def scenario() -> None:
        async with loop_of(Town(tmp_path), path):
            pass

    with pytest.raises(Refused, match=r"loop\.socket: .*\[loop\] socket"):
        asyncio.run(scenario())


def test_without_a_peer_a_script_hears_where_it_looked(path: Path) -> None:
    """Nobody listens there."""
    with pytest.raises(Refused, match=r"loop\.unreachable: .*running training peer"):
        fl.join(TASK, str(path))


JOIN = Join(TASK, bytes(32), bytes(32), scored=False)


def shut_out(path: Path, *sent: bytes) -> str:
    """The code that a stranger's bytes are answered with, or "closed"."""
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(DEADLINE_S)
        stranger.connect(str(path))
        for data in sent:
            stranger.sendall(data)
        stranger.shutdown(socket.SHUT_WR)
        received = bytearray()
        while found := stranger.recv(65_536):
            received += found
    messages = []
    while received:
        size = frames.length(bytes(received[:4]))
        messages.append(frames.message(bytes(received[4 : 4 + size])))
        del received[: 4 + size]
    last = messages[-1] if messages else None
    return last.code if isinstance(last, frames.Turned) else "closed"


def spoken(path: Path, *sent: bytes) -> str:
    """The code that a script is answered with which joins a round and then sends this."""
    with fl.join(TASK, str(path)) as rnd:
        for data in sent:
            rnd._send(data)
        found = rnd._receive()
        assert isinstance(found, frames.Turned)
        return found.code


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([b"GET / HTTP/1.1\r\n\r\n"], "loop.frame"),
        ([b"\xff\xff\xff\xff"], "loop.frame"),
        ([b"\x00\x00\x00\x00"], "loop.frame"),
        ([b"\x00\x00\x00\x02\x80\x04"], "encoding.malformed"),  # as pickles begin
        ([frames.frame(Taken(done=True))], "loop.message"),
        ([frames.frame(JOIN)[:-1]], "closed"),
    ],
    ids=["http", "long", "empty", "pickle", "first", "torn"],
)
def test_a_stranger_s_bytes_are_refused(
    tmp_path: Path, path: Path, sent: list[bytes], code: str
) -> None:
    """The round goes on to wait, and an honest script trains it afterwards."""
    town = opened(tmp_path)

    def both() -> tuple[str, list[int]]:
        return shut_out(path, *sent), plain_loop(path)

    found, weights = with_script(town, path, both)

    assert found == code
    assert delta(town) == weights


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([frames.frame(Kept(1, 0))], "loop.message"),
        ([frames.frame(Kept(0, 13))], "loop.state"),
        ([frames.frame(Kept(0, 0)), frames.frame(Part(bytes(13)))], "loop.part"),
        ([frames.frame(Kept(0, 0)), frames.frame(Kept(0, 0))], "loop.part"),
    ],
    ids=["order", "state", "part", "no part"],
)
def test_a_script_s_garbage_is_refused(
    tmp_path: Path, path: Path, sent: list[bytes], code: str
) -> None:
    """It had joined a round, which waits for another script afterwards."""
    town = opened(tmp_path)

    def both() -> tuple[str, list[int]]:
        return spoken(path, *sent), plain_loop(path)

    found, weights = with_script(town, path, both)

    assert found == code
    assert delta(town) == weights


def test_connections_are_bounded(tmp_path: Path, path: Path) -> None:
    """One more than there may be is told so; the others wait on."""
    town = opened(tmp_path)

    def crowd() -> str:
        scripts = []
        for _ in range(CONNECTIONS_MAX):
            script = socket.socket(socket.AF_UNIX)
            script.connect(str(path))
            scripts.append(script)
        try:
            with pytest.raises(Refused) as refused:
                fl.join(TASK, str(path))
            return refused.value.code
        finally:
            for script in scripts:
                script.close()

    assert with_script(town, path, crowd, trains=False) == "loop.busy"
