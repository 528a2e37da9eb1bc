"""A validator's access log against its digest on chain: every line, and nothing gone since."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from pydantic import BaseModel, Field

from node.client.client import Client
from node.client.reply import read_base64
from vm import tree
from vm.accesslog import LOG_ID_BYTES, AccessLine, AccessLog
from vm.refusal import Refused
from vm.shape import HEIGHT_MAX, Digest, unpack

PATH = "/v1/access-log"
LINES_MAX = 200  # of one page


class LogItem(BaseModel):
    """A line as a node tells it."""

    line: str
    path: list[str] = Field(max_length=tree.PATH_MAX)


class LogPage(BaseModel):
    """A part of a node's access log."""

    validator: str
    size: int = Field(ge=0, le=HEIGHT_MAX)
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
    page = await client.ask(f"{PATH}?size=0", lambda reply: reply.read(LogPage))
    return page.validator


async def new_lines(client: Client, digest: AccessLog, known: Known) -> AsyncIterator[AccessLine]:
    """The lines beyond `known`, in order, each proven under the digest on chain.

    `client` asks the node of `digest.validator` alone. Raises `Refused("audit.access")` where the
    log is another than what the chain has, or than what was known; then, and not before, is it
    sure that all of it was given.
    """
    at = known.size
    if at and digest.log != known.log:
        raise _differs("the log that was verified before", "one that was begun since")
    if digest.size < at:
        raise _differs(f"{at} lines as before", f"{digest.size} on the chain")
    if digest.size == at and digest.root != known.root:
        raise _differs("the root that was verified before", "another one of as many lines")
    while at < digest.size:
        path = f"{PATH}?after={at}&size={digest.size}&limit={LINES_MAX}"
        page = await client.ask(path, lambda reply: reply.read(LogPage))
        if at == known.size:
            _check_beginning(page, digest, known)
        if not page.items:
            raise _differs(f"line {at} of {digest.size}", "no line")
        for item in page.items:
            yield _check_line(item, at, digest)
            at += 1


def _check_beginning(page: LogPage, digest: AccessLog, known: Known) -> None:
    path = _digests(page.consistency)
    if not tree.verify_consistency(known.size, digest.size, known.root, digest.root, path):
        raise _differs(f"the {known.size} lines known before at its beginning", "others")


def _check_line(item: LogItem, place: int, digest: AccessLog) -> AccessLine:
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
