"""A validator's access log against its digest on chain: every line, and nothing gone since."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import BaseModel, Field

from node.api.resource import ACCESS_LOG_PATH, LINES_MAX, NAME
from node.api.views import read_base64
from node.client.client import Client
from vm import tree
from vm.accesslog import LOG_ID_BYTES, AccessLine
from vm.refusal import Refused
from vm.shape import NAME_BYTES_MAX, Digest, unpack

LINES_NEW_MAX = 100_000  # of one log that one run reads: a node that lies has no end of them


class LogItem(BaseModel):
    """A line as a node tells it."""

    line: str
    path: list[str] = Field(max_length=tree.PATH_MAX)


class LogPage(BaseModel):
    """A part of a node's access log."""

    validator: str = Field(max_length=NAME_BYTES_MAX, pattern=f"^{NAME.pattern}$")
    root: str
    consistency: list[str] = Field(max_length=tree.PATH_MAX)
    items: list[LogItem] = Field(max_length=LINES_MAX)


@dataclass(frozen=True, slots=True)
class Known:
    """A digest that was verified before: the first `size` lines of that log have this root."""

    log: bytes
    size: int
    root: Digest


NOTHING = Known(bytes(LOG_ID_BYTES), 0, tree.EMPTY_ROOT)


async def validator_of(client: Client) -> str:
    """Whose log the client's node says that it has."""
    page = await client.ask(f"{ACCESS_LOG_PATH}?size=0", lambda reply: reply.read(LogPage))
    return page.validator


def _check_grown(digest: Known, known: Known) -> None:
    """Refuse (`audit.access`) a digest of another log than `known`, or of a shorter one."""
    if known.size and digest.log != known.log:
        raise _differs("the log that was verified before", "one that was begun since")
    if digest.size < known.size:
        raise _differs(f"{known.size} lines as before", f"{digest.size} on the chain")
    if digest.size == known.size and digest.root != known.root:
        raise _differs("the root that was verified before", "another one of as many lines")


async def reach(client: Client, digest: Known, known: Known) -> Known:
    """How far one run reads: to the digest on chain, or `LINES_NEW_MAX` beyond what is known.

    What comes back is shown to be the beginning of the digest's log. `client` asks the node whose
    log it is. Raises `Refused("audit.access")`.
    """
    size = known.size + LINES_NEW_MAX
    if digest.size <= size:
        return digest
    root = (await _ask(client, size, size, 1)).root
    part = Known(digest.log, size, *_digests([root]))
    _check_beginning(await _ask(client, size, digest.size, 1), digest, part)
    return part


async def new_lines(client: Client, digest: Known, known: Known) -> AsyncIterator[AccessLine]:
    """The lines beyond `known`, in order, each proven under `digest`, which `reach` gave.

    `client` asks the node whose log it is. Raises `Refused("audit.access")` where the log is
    another than what the chain has, or than what was known; then, and not before, is it sure that
    all of it was given. Where nothing is new, the node has to show the last line that is known: a
    digest that was verified before says nothing of who has the log.
    """
    _check_grown(digest, known)
    begin = min(known.size, max(digest.size - 1, 0))
    for at in range(begin, digest.size, LINES_MAX):
        page = await _ask(client, at, digest.size, LINES_MAX)
        if at == known.size:
            _check_beginning(page, digest, known)
        expected = min(LINES_MAX, digest.size - at)
        if len(page.items) != expected:
            raise _differs(f"{expected} lines from {at} on", f"{len(page.items)}")
        for place, item in enumerate(page.items, at):
            line = _check_line(item, place, digest)
            if place >= known.size:
                yield line


async def _ask(client: Client, after: int, size: int, limit: int) -> LogPage:
    path = f"{ACCESS_LOG_PATH}?after={after}&size={size}&limit={limit}"
    return await client.ask(path, lambda reply: reply.read(LogPage))


def _check_beginning(page: LogPage, digest: Known, known: Known) -> None:
    path = _digests(page.consistency)
    if not tree.verify_consistency(known.size, digest.size, known.root, digest.root, path):
        raise _differs(f"the {known.size} lines known before at its beginning", "others")


def _check_line(item: LogItem, place: int, digest: Known) -> AccessLine:
    line = read_base64(item.line)
    if not tree.verify_inclusion(line, place, digest.size, _digests(item.path), digest.root):
        raise _differs(f"line {place} under the digest on chain", "another")
    return unpack(AccessLine, line)


def _digests(texts: list[str]) -> tuple[Digest, ...]:
    try:
        return tuple(bytes.fromhex(text) for text in texts)
    except ValueError:
        raise _differs("digests in hexadecimal", "others") from None


def _differs(expected: str, found: str) -> Refused:
    return Refused("audit.access", f"expected {expected}, found {found}")
