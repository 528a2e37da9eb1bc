"""Lists of records, each one proven, all of them from one node."""

from functools import partial
from typing import TypeVar
from urllib.parse import quote

from node.api.resource import BY_RECORD, Key
from node.api.views import LIMIT_MAX
from node.client.client import Client
from node.client.reply import PageBody, Reply
from vm.inclusion import CertifiedHeader
from vm.refusal import Refused
from vm.state import Record

R = TypeVar("R", bound=Record)

LISTED_MAX = 65_536  # records of one list, some 100 MB: a proven list has an end, and not every one


async def records(
    client: Client,
    cls: type[R],
    *prefix: str | int,
    at: CertifiedHeader | None = None,
    count: int | None = None,
) -> list[R]:
    """Records whose key starts with `prefix`, all but its last part; under `at` if not None.

    `at` is a header that was proven; without one each record stands under a certified header of its
    own. They come in order of key, but nothing proves that a node left none out. Whoever knows from
    elsewhere how many there are says so by `count`: a node whose list ends with fewer or more is
    passed over (`client.count`). A list is read from one node, and from its beginning at the next
    one: what a liar has told of it spoils nobody else's. Raises `Refused` as `Client.each`, or with
    `client.long` beyond `LISTED_MAX`.
    """

    async def ask(url: str) -> list[R]:
        return await _list(client, url, cls, prefix, at, count)

    return await client.each(ask)


async def _list(
    client: Client,
    url: str,
    cls: type[R],
    prefix: Key,
    at: CertifiedHeader | None,
    count: int | None,
) -> list[R]:
    path = f"{BY_RECORD[cls].list(prefix)}?limit={LIMIT_MAX}"
    path += "" if at is None else f"&at={at.header.height}"
    found: list[R] = []
    after, cursor = b"", ""
    while len(found) <= LISTED_MAX:
        read = partial(
            _read_page,
            client,
            cls=cls,
            prefix=prefix,
            at=at,
            after=after,
            left=None if count is None else count - len(found),
        )
        page, following, after = await client.ask_one(url, path + cursor, read)
        found += page
        if following is None:
            return found
        cursor = f"&cursor={quote(following, safe='')}"  # it is the node's word
    raise Refused("client.long", f"{url}: expected at most {LISTED_MAX} {cls.KIND}, found more")


def _read_page(
    client: Client,
    reply: Reply,
    *,
    cls: type[R],
    prefix: Key,
    at: CertifiedHeader | None,
    after: bytes,
    left: int | None,
) -> tuple[list[R], str | None, bytes]:
    """The records of a page, the cursor of the next, and the last key."""
    page = reply.read(PageBody)

    def check() -> tuple[list[R], str | None, bytes]:
        found, last = client.proven.records(page, cls, prefix, after, at)
        following = page.next if found else None
        if following is None and left not in (None, len(found)):
            raise Refused(
                "client.count",
                f"{reply.url}: expected {left} more {cls.KIND}, found {len(found)}",
            )
        return found, following, last

    return client.verified(reply, check)
