"""The access log: lines on disk before anybody hears of them, and a tree that proves each."""

import asyncio
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import structlog

from node.readers import log
from node.readers.log import CHUNK_LINES, FILE, FRAME_BYTES, GROUP_MAX, IDENTITY, Logbook
from node.wire.disk import DISK_FREE_BYTES_MIN
from vm import tree
from vm.accesslog import AccessLine, Via
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, pack


class Usage(NamedTuple):
    """What `shutil.disk_usage` says, in bytes."""

    total: int
    used: int
    free: int


def line(number: int) -> AccessLine:
    """A line that is like no other."""
    return AccessLine(bytes(16), 1_000 + number, "auditor", Via.TOKEN, "verdict", bytes(32), number)


def lines(count: int, first: int = 0) -> list[AccessLine]:
    """So many lines."""
    return [line(first + number) for number in range(count)]


def write(folder: Path, *groups: list[AccessLine]) -> None:
    """Open the log, note these, one group after the other, and close it."""

    async def append() -> None:
        logbook = Logbook(folder)
        for group in groups:
            await logbook.append(group)
        await logbook.flush()
        logbook.close()

    asyncio.run(append())


def kept(folder: Path) -> tuple[int, bytes]:
    """Size and root of the log as it is found."""
    logbook = Logbook(folder)
    logbook.close()
    return logbook.size, logbook.frontier.root


def test_a_line_is_on_disk_before_append_returns(tmp_path: Path) -> None:
    """A process that dies in that moment has lost nothing: another finds the line."""

    async def check() -> None:
        logbook = Logbook(tmp_path)
        await logbook.append(lines(2))
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in (FILE, IDENTITY):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
        assert kept(copy) == (2, tree.root([pack(line(0)), pack(line(1))]))
        logbook.close()

    asyncio.run(check())


def test_one_sync_serves_all_who_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred readers at once do not wait for a hundred turns of the disk."""
    syncs: list[int] = []

    async def check() -> None:
        logbook = Logbook(tmp_path)
        monkeypatch.setattr(os, "fsync", syncs.append)
        await asyncio.gather(*(logbook.append([line(number)]) for number in range(100)))
        assert logbook.size == 100
        logbook.close()

    asyncio.run(check())
    assert len(syncs) <= 2


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 700])
def test_a_log_is_found_as_it_was(tmp_path: Path, count: int) -> None:
    """The root over all lines, however many, after a restart."""
    write(tmp_path, lines(count))

    assert kept(tmp_path) == (count, tree.root([pack(item) for item in lines(count)]))


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    """Lines of two processes are one tree."""
    write(tmp_path, lines(300))
    write(tmp_path, lines(300, first=300))

    assert kept(tmp_path) == (600, tree.root([pack(item) for item in lines(600)]))


TORN: dict[str, Callable[[bytes], bytes]] = {
    "half a line": lambda data: data[: -FRAME_BYTES // 2],
    "one byte short": lambda data: data[:-1],
    "zeros in its place": lambda data: data[:-FRAME_BYTES] + bytes(FRAME_BYTES),
    "a byte of it another": lambda data: data[:-10] + b"\x01" + data[-9:],
    "zeros behind it, and the line itself not there": lambda data: (
        data[:-FRAME_BYTES] + bytes(3 * FRAME_BYTES)
    ),
}


@pytest.mark.parametrize("name", TORN)
def test_a_torn_end_is_cut_off(tmp_path: Path, name: str) -> None:
    """Nobody was shown what its lines would have said; the log goes on before them."""
    write(tmp_path, lines(5))
    path = tmp_path / FILE
    path.write_bytes(TORN[name](path.read_bytes()))

    assert kept(tmp_path) == (4, tree.root([pack(item) for item in lines(4)]))
    write(tmp_path, lines(1, first=4))
    assert kept(tmp_path) == (5, tree.root([pack(item) for item in lines(5)]))


def test_a_line_damaged_long_after_it_was_synced_is_no_torn_end(tmp_path: Path) -> None:
    """To cut off what was synced, and is digested on chain, would hide reads: the node stops."""
    write(tmp_path, lines(GROUP_MAX), lines(GROUP_MAX))
    path = tmp_path / FILE
    data = bytearray(path.read_bytes())
    data[FRAME_BYTES + 20] ^= 1
    path.write_bytes(data)

    with pytest.raises(Refused) as refused:
        Logbook(tmp_path)

    assert refused.value.code == "access.damaged"
    assert path.stat().st_size == 2 * GROUP_MAX * FRAME_BYTES


@pytest.mark.parametrize("place", [0, 11, 12, 13])
def test_a_damaged_line_before_the_last_group_is_no_torn_end(tmp_path: Path, place: int) -> None:
    """However near to the end: what was written after it says that it had been synced."""
    write(tmp_path, lines(12), lines(2, first=12), lines(3, first=14))
    path = tmp_path / FILE
    data = bytearray(path.read_bytes())
    data[place * FRAME_BYTES + 20] ^= 1
    path.write_bytes(data)

    with pytest.raises(Refused) as refused:
        Logbook(tmp_path)

    assert refused.value.code == "access.damaged"
    assert path.read_bytes() == data


def test_what_is_cut_off_is_said(tmp_path: Path) -> None:
    """Of the last group nobody can tell a torn line from a damaged one: the operator is told."""
    write(tmp_path, lines(12), lines(3, first=12))
    path = tmp_path / FILE
    data = bytearray(path.read_bytes())
    data[13 * FRAME_BYTES + 20] ^= 1
    path.write_bytes(data)

    with structlog.testing.capture_logs() as logs:
        assert kept(tmp_path)[0] == 13

    (said,) = logs
    assert (said["event"], said["lines"], said["bytes_cut"]) == ("access.cut", 13, 2 * FRAME_BYTES)


def test_what_is_more_than_a_group_is_written_as_several(tmp_path: Path) -> None:
    """A crash in the middle of it is a torn end like any other, and any number can be noted."""
    count = log.WAITING_MAX + 10
    write(tmp_path, lines(count))
    path = tmp_path / FILE
    data = path.read_bytes()
    assert kept(tmp_path)[0] == count

    last = count - count % GROUP_MAX
    path.write_bytes(data[: last * FRAME_BYTES] + bytes((count - last) * FRAME_BYTES))
    assert kept(tmp_path)[0] == last
    path.write_bytes(data[: 12 * FRAME_BYTES] + bytes(4 * FRAME_BYTES) + data[16 * FRAME_BYTES :])
    with pytest.raises(Refused):
        Logbook(tmp_path)


def test_what_cannot_be_synced_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer does not leave, and the next line stands where that one would have."""
    real, failing = os.fsync, [True]

    def fsync(file: int) -> None:
        if failing.pop() if failing else False:
            raise OSError(28, "No space left on device")
        real(file)

    async def check() -> None:
        logbook = Logbook(tmp_path)
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(Refused, match="No space left") as refused:
            await logbook.append([line(7)])
        assert refused.value.code == "reader.unlogged"
        await logbook.append([line(0)])
        logbook.close()

    asyncio.run(check())
    assert kept(tmp_path) == (1, tree.root([pack(line(0))]))


def test_a_disk_that_cannot_take_back_is_written_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the file holds then is not known, so nothing restricted is shown until a restart."""

    def fail(*_: int) -> None:
        raise OSError(5, "Input/output error")

    async def check() -> None:
        logbook = Logbook(tmp_path)
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync", fail)
            with pytest.raises(Refused, match="Input/output"):
                await logbook.append([line(0)])
        with pytest.raises(Refused, match="its disk failed"):
            await logbook.append([line(1)])
        logbook.close()

    asyncio.run(check())


@pytest.mark.parametrize("waiting", [1, GROUP_MAX + 1])
def test_a_full_disk_refuses_each_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: int
) -> None:
    """Nobody waits for room, and once there is some the log goes on."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def check() -> None:
        logbook = Logbook(tmp_path)
        with monkeypatch.context() as full:
            full.setattr(log, "write_at", fail)
            reads = (logbook.append([line(number)]) for number in range(waiting))
            answers = await asyncio.gather(*reads, return_exceptions=True)
        assert {getattr(answer, "code", None) for answer in answers} == {"reader.unlogged"}
        await logbook.append([line(0)])
        logbook.close()

    asyncio.run(check())
    assert kept(tmp_path)[0] == 1


def test_a_bug_refuses_all_who_wait_and_is_raised_where_the_node_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads have their answer at once, later ones too, and the node learns what it was."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async def check() -> None:
        logbook = Logbook(tmp_path)
        failed = asyncio.create_task(logbook.failed())
        monkeypatch.setattr(log, "write_at", fail)
        reads = (logbook.append([line(number)]) for number in range(GROUP_MAX + 1))
        answers = await asyncio.gather(*reads, return_exceptions=True)
        assert {getattr(answer, "code", None) for answer in answers} == {"reader.unlogged"}
        with pytest.raises(Refused, match="the writing of the log failed"):
            await logbook.append([line(0)])
        with pytest.raises(ZeroDivisionError):
            await failed
        await logbook.flush()
        logbook.close()

    asyncio.run(check())
    assert kept(tmp_path)[0] == 0


def test_lines_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is slow holds so many reads up, and refuses the others at once."""
    monkeypatch.setattr(log, "WAITING_MAX", 3)

    async def check() -> None:
        logbook = Logbook(tmp_path)
        held = [asyncio.create_task(logbook.append([line(number)])) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Refused) as refused:
            await logbook.append(lines(4))
        assert refused.value.code == "reader.unlogged"
        await asyncio.gather(*held)
        await logbook.append([line(3)])
        assert logbook.size == 4
        logbook.close()

    asyncio.run(check())


@pytest.mark.parametrize(("first", "size"), [(0, 1), (0, 700), (250, 600), (699, 700), (512, 512)])
def test_a_page_proves_its_lines_and_what_was_before(tmp_path: Path, first: int, size: int) -> None:
    """Each line under the root over `size`, and the tree before the first as its beginning."""
    write(tmp_path, lines(700))
    packed = [pack(item) for item in lines(700)]
    logbook = Logbook(tmp_path)

    page = logbook.page(first, 20, size)
    logbook.close()

    assert page.root == tree.root(packed[:size])
    assert list(page.lines) == packed[first : min(first + 20, size)]
    for place, (found, path) in enumerate(zip(page.lines, page.paths, strict=True)):
        assert tree.verify_inclusion(found, first + place, size, path, page.root)
    old = tree.root(packed[:first])
    assert tree.verify_consistency(first, size, old, page.root, page.consistency)


def test_the_longest_line_fits_its_frame(tmp_path: Path) -> None:
    """Longest names, largest numbers: every line there can be."""
    longest = AccessLine(
        bytes(16), HEIGHT_MAX, "r" * 64, Via.SIGNATURE, "k" * 64, bytes(32), HEIGHT_MAX
    )

    write(tmp_path, [longest])

    assert kept(tmp_path) == (1, tree.root([pack(longest)]))


def test_little_of_the_tree_is_kept_in_memory(tmp_path: Path) -> None:
    """Two nodes for each chunk of 256 lines, and none below."""
    write(tmp_path, lines(1_000), lines(1_000))

    logbook = Logbook(tmp_path)
    logbook.close()

    assert len(logbook._nodes) <= 2 * (2_000 // CHUNK_LINES)


def test_a_log_keeps_its_identity_and_a_new_one_has_another(tmp_path: Path) -> None:
    """By it the chain sees that lines were lost; lines without it belong to no log."""
    write(tmp_path / "one", lines(1))
    write(tmp_path / "two", lines(1))

    first, again, other = (Logbook(tmp_path / name) for name in ("one", "one", "two"))
    for logbook in (first, again, other):
        logbook.close()
    (tmp_path / "one" / IDENTITY).unlink()
    with pytest.raises(Refused) as refused:
        Logbook(tmp_path / "one")

    assert first.identity == again.identity != other.identity
    assert refused.value.code == "access.damaged"


@pytest.mark.parametrize("free", [log.FREE_BYTES_MIN, log.FREE_BYTES_MIN - 1])
def test_the_log_leaves_the_validator_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    """Below a floor that lies above its own nothing restricted is shown; the chain goes on."""

    async def check() -> None:
        logbook = Logbook(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(0, 0, free))
        if free >= log.FREE_BYTES_MIN:
            await logbook.append(lines(1))
        else:
            with pytest.raises(Refused, match="bytes are free") as refused:
                await logbook.append(lines(1))
            assert refused.value.code == "reader.unlogged"
        logbook.close()

    asyncio.run(check())
    assert log.FREE_BYTES_MIN > DISK_FREE_BYTES_MIN
    assert kept(tmp_path)[0] == int(free >= log.FREE_BYTES_MIN)
