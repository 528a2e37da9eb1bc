"""What is restricted: shown to known readers only, by every route, and noted before it leaves."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import aiohttp
import pytest

from node.api import export, records
from node.api.app import build_api
from node.api.keys import write_keys
from node.api.resource import RESOURCES
from node.audit.prove import executed
from node.client.sse import EventReader
from node.readers import desk, log
from node.readers.shown import LINEAGE, records_shown, transaction_shown
from tests.harness import as_read
from tests.node.api.asking import assert_problem
from tests.node.network import (
    HOSPITALS,
    MODEL,
    POISONER,
    TASK,
    Network,
    learn,
    open_task,
    register_dataset,
    uses,
)
from tests.node.readers.reading import (
    AUDITOR,
    TRAINER,
    ask,
    noted,
    private_network,
    run,
    signed,
    token,
)
from tests.node.serving import Node, get
from vm.access import RESTRICTED as RESTRICTED_RECORDS
from vm.accesslog import AccessLine, Via
from vm.digest import STATE_KEY, digest
from vm.encoding import encode
from vm.shape import unpack
from vm.state import state_key
from vm.transaction import Transaction

ROUND = f"/v1/tasks/{TASK}/rounds/1"
UPDATE = f"{ROUND}/updates/{POISONER}"
VERDICT = f"{UPDATE}/verdicts/{HOSPITALS[0]}"
VERDICT_KEY = state_key("verdict", (TASK, 1, POISONER, HOSPITALS[0]))
MEMBER_KEY = state_key("member", (TRAINER,))
KEYS = f"/v1/records?keys={write_keys([VERDICT_KEY, MEMBER_KEY, b'no key at all'])}"
USES = f"/v1/models/{MODEL}/uses/{HOSPITALS[0]}"
LINEAGE_PATH = f"/v1/models/{MODEL}/versions/1/lineage"

# Path: the restricted kind that it shows, how many lines one read writes, and the status.
RESTRICTED = {
    VERDICT: ("verdict", 1, 200),
    f"{UPDATE}/verdicts": ("verdict", 3, 200),
    ROUND: ("verdict", 12, 200),
    f"{UPDATE}/verdicts/nobody": ("verdict", 1, 404),
    f"{UPDATE}/audits": ("audit", 1, 200),  # an empty list tells something too
    f"{UPDATE}/audits/nobody": ("audit", 1, 404),
    f"{UPDATE}/visits/nobody": ("visit", 1, 404),
    f"/v1/usages/{MODEL}": ("model_usage", 1, 404),
    USES: ("use_batch", 1, 200),
    KEYS: ("verdict", 1, 200),
    f"{UPDATE}/verdicts?format=csv": ("verdict", 3, 200),
    LINEAGE_PATH: (LINEAGE, 1, 200),
}
OPEN = (
    "/v1/members",
    "/v1/blocks",
    "/v1/blocks/3",
    "/v1/checkpoints",
    "/v1/epochs",
    "/v1/transactions",
    "/v1/status",
    "/v1/tasks",
    f"/v1/tasks/{TASK}/rounds",
    f"{ROUND}/updates",
    f"/v1/models/{MODEL}/versions/1",
    "/v1/access-logs",
    "/v1/holdouts",  # what commitments add up to
    f"/v1/holdouts/{HOSPITALS[0]}.opt",
)


def sent(network: Network, kind: str) -> str:
    """The id of a transaction of this kind that a block executed."""
    for height in range(1, network.chain.head.height + 1):
        row = network.chain.store.row(height)
        assert row is not None
        for packed in executed(network.chain, row):
            transaction = unpack(Transaction, packed)
            if transaction.intent.kind == kind:
                return transaction.id.hex()
    raise AssertionError(kind)


@pytest.mark.parametrize("path", RESTRICTED)
def test_what_is_restricted_is_noted(learned: Network, path: str) -> None:
    """Who, how, what and when, for each record that was shown; a lineage in one line."""
    kind, count, status = RESTRICTED[path]

    async def check(url: str, node: Node) -> None:
        assert (await ask(url + path)).status == status
        found = noted(node)
        assert {(line.reader, line.via, line.kind) for line in found} == {
            (AUDITOR, Via.SIGNATURE, kind)
        }
        assert len(found) == len({line.subject for line in found}) == count
        assert len({line.salt for line in found}) == count  # nobody tries lines out on the root
        assert {line.height for line in found} == {node.feed.height}

    run(learned, check)


@pytest.mark.parametrize("path", OPEN)
def test_what_is_not_restricted_is_not_noted(learned: Network, path: str) -> None:
    """A log of everything would hide what matters, and tell who looks at what."""

    async def check(url: str, node: Node) -> None:
        assert (await ask(url + path)).status == 200
        assert noted(node) == []

    run(learned, check)


def test_a_round_without_verdicts_is_restricted_too(tmp_path: Path) -> None:
    """That nobody has judged yet is told like an empty list: to members, who are noted."""
    with private_network(tmp_path, public=True) as network:
        open_task(network, 1)

        async def check(url: str, node: Node) -> None:
            assert_problem(await get(url + ROUND), 401, "reader.required")
            assert (await ask(url + ROUND)).body["verdicts"] == []
            (line,) = noted(node)
            place = digest(STATE_KEY, state_key("verdict", (TASK, 1)))
            assert (line.kind, line.subject) == ("verdict", place)

        run(network, check)


def test_a_line_names_the_record_s_place_and_not_its_content(learned: Network) -> None:
    """Whoever knows which record is meant finds its reads; the line tells nothing else."""

    async def check(url: str, node: Node) -> None:
        await get(url + VERDICT, headers=await token(url, TRAINER))
        (line,) = noted(node)
        assert line == AccessLine(
            line.salt,
            line.time_ms,
            TRAINER,
            Via.TOKEN,
            "verdict",
            digest(STATE_KEY, VERDICT_KEY),
            node.feed.height,
        )

    run(learned, check)


@pytest.mark.parametrize("path", [VERDICT, f"{UPDATE}/verdicts", f"{UPDATE}/visits/nobody"])
def test_a_line_names_the_height_that_was_asked_for(learned: Network, path: str) -> None:
    """What stood there at another time is another thing to have seen."""

    async def check(url: str, node: Node) -> None:
        at = node.feed.height - 1
        assert (await ask(f"{url}{path}?at={at}")).status in (200, 404)
        assert {line.height for line in noted(node)} == {at}

    run(learned, check)


@pytest.mark.parametrize("path", RESTRICTED)
def test_a_line_names_the_height_under_which_it_was_shown(
    learned: Network, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A block may come between the read and its line: the answer tells nothing of it."""

    async def check(url: str, node: Node) -> None:
        note, before = node.desk.note, node.feed.height

        async def late(*noted: Any) -> None:
            node.feed.publish(learned.block().height)
            await note(*noted)

        monkeypatch.setattr(node.desk, "note", late)
        assert (await ask(url + path)).status == RESTRICTED[path][2]
        assert node.feed.height > before
        assert {line.height for line in noted(node)} == {before}

    run(learned, check)


def test_a_line_of_a_transaction_names_its_block(learned: Network) -> None:
    """Nothing else of the chain was shown with it."""
    id = sent(learned, "learning.verdict")

    async def check(url: str, node: Node) -> None:
        got = await ask(f"{url}/v1/transactions/{id}")
        assert [line.height for line in noted(node)] == [got.body["receipt"]["height"]]
        assert got.body["receipt"]["height"] < node.feed.height

    run(learned, check)


@pytest.mark.parametrize("path", RESTRICTED)
def test_on_a_public_network_the_restricted_is_for_members(tmp_path: Path, path: str) -> None:
    """A stranger reads the rest; what is refused is not noted, for nothing was shown."""
    with private_network(tmp_path, public=True) as network:
        learn(network, 1)

        async def check(url: str, node: Node) -> None:
            assert_problem(await get(url + path), 401, "reader.required")
            assert noted(node) == []
            assert (await ask(url + path)).status == RESTRICTED[path][2]
            assert len(noted(node)) == RESTRICTED[path][1]

        run(network, check)


@pytest.mark.parametrize(("kind", "lines"), [("learning.verdict", 1), ("learning.proof", 0)])
def test_a_transaction_of_a_restricted_kind_is_noted(
    learned: Network, kind: str, lines: int
) -> None:
    """With its body come verdicts, or whatever its kind writes; it is named by its id."""
    id = sent(learned, kind)

    async def check(url: str, node: Node) -> None:
        got = await ask(f"{url}/v1/transactions/{id}")
        assert got.body["intent"]["kind"] == kind
        assert [(line.kind, line.subject.hex()) for line in noted(node)] == [(kind, id)] * lines

    run(learned, check)


def test_each_line_counts_as_a_request(learned: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """One member cannot fill a validator's disk: it waits as if it had asked for each by itself."""
    monkeypatch.setattr(desk, "BURST_S", 0.05)  # fifty of a thousand a second
    now = [1_700_000_000.0]
    names = [state_key("verdict", (TASK, 1, "nobody", f"v{n}")) for n in range(20)]

    async def check(url: str, node: Node) -> None:
        path = f"{url}/v1/records?keys={write_keys(names)}"
        codes = []
        for _ in range(5):
            headers = signed(path, TRAINER, at_s=now[0])
            codes.append((await get(path, headers=headers)).status)
        assert codes == [200] * 3 + [429] * 2
        assert node.logbook.size == 60
        now[0] += 0.02
        assert (await get(path, headers=signed(path, TRAINER, at_s=now[0]))).status == 200

    run(learned, check, now_s=lambda: now[0])


def test_an_export_notes_what_it_shows_and_no_more(
    learned: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last page ends where its limit does, however the pages before fell."""
    monkeypatch.setattr(records, "SCAN_RECORDS_MAX", 2)
    learned.block(*(uses(learned, HOSPITALS[0], 1) for _ in range(4)))

    async def check(url: str, node: Node) -> None:
        got = await ask(f"{url}{USES}?format=ndjson&limit=3")
        assert got.body.count(b"\n") == len(noted(node)) == 3

    run(learned, check)


def test_an_export_waits_for_its_reader_s_pace(
    learned: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not cut off for being long: each page comes when its lines may be noted."""
    monkeypatch.setattr(desk, "BURST_S", 0.002)  # two of a thousand a second
    monkeypatch.setattr(export, "LIMIT_MAX", 2)
    now = [1_700_000_000.0]
    paused: list[float] = []
    learned.block(*(uses(learned, HOSPITALS[0], 1) for _ in range(6)))

    async def check(url: str, node: Node) -> None:
        before = node.feed.height

        async def pause(seconds: float) -> None:
            node.feed.publish(learned.block().height)
            paused.append(seconds)
            now[0] += seconds

        monkeypatch.setattr(export, "_pause", pause)
        path = f"{url}{USES}?format=ndjson"
        got = await get(path, headers=signed(path, TRAINER, at_s=now[0]))
        assert got.body.count(b"\n") == node.logbook.size == 6
        heights = [line.height for line in noted(node)]
        assert heights[:4] == [before] * 4  # read before it waited
        assert heights[4:] == [before + len(paused)] * 2

    run(learned, check, now_s=lambda: now[0])
    assert paused


def test_an_answer_that_cannot_be_noted_does_not_leave(
    learned: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk hides verdicts from everybody, and leaves the rest readable."""

    async def check(url: str, node: Node) -> None:
        mine = await token(url)
        monkeypatch.setattr(log, "WAITING_MAX", 0)
        assert_problem(await get(url + VERDICT, headers=mine), 503, "reader.unlogged")
        assert (await get(url + "/v1/members", headers=mine)).status == 200

    run(learned, check)


def test_what_is_final_may_be_kept_by_its_reader_alone(learned: Network) -> None:
    """Between us and the reader nobody stores what others must not see."""
    id = sent(learned, "learning.verdict")

    async def check(url: str, node: Node) -> None:
        for path in (f"/v1/transactions/{id}", "/v1/blocks/3"):
            got = await ask(url + path)
            assert got.headers["Cache-Control"] == "private, max-age=31536000, immutable"
            assert got.headers["Vary"] == "Accept, Authorization"

    run(learned, check)


def test_a_copy_that_is_still_good_is_a_read_too(learned: Network) -> None:
    """304 says that what a reader holds is so: it is noted like the first time."""
    id = sent(learned, "learning.verdict")

    async def check(url: str, node: Node) -> None:
        path, mine = f"{url}/v1/transactions/{id}", await token(url)
        tag = (await get(path, headers=mine)).headers["ETag"]
        again = await get(path, headers={**mine, "If-None-Match": tag})
        assert again.status == 304
        assert len(noted(node)) == 2

    run(learned, check)


def test_a_waiting_look_up_is_noted_when_it_is_answered(network: Network) -> None:
    """What is pending shows nothing; a transaction that is not restricted is never noted."""
    transaction = register_dataset(network, HOSPITALS[0])

    async def check(url: str, node: Node) -> None:
        node.waiting[transaction.id] = as_read(transaction)
        got = await ask(f"{url}/v1/transactions/{transaction.id.hex()}")
        assert got.body["status"] == "pending"
        assert noted(node) == []

    run(network, check)


@pytest.mark.parametrize(
    "key", [b"", b"\xff", encode(1), encode(()), encode((1, "verdict")), b"\x92"]
)
def test_bytes_that_are_no_key_are_not_restricted(key: bytes) -> None:
    """Nothing stands there, and no request can make the node fail."""
    assert records_shown([key], 1) == ()


def test_an_unknown_kind_is_not_restricted() -> None:
    """Such a transaction failed, and wrote nothing."""
    assert transaction_shown("no.such.kind", bytes(32), 1) == ()


@pytest.mark.parametrize("noun", ["transactions", "blocks"])
def test_a_filter_does_not_look_into_restricted_bodies(learned: Network, noun: str) -> None:
    """Else a stranger learned by guessing which model or dataset a restricted one is about."""

    async def check(url: str, node: Node) -> None:
        mine = await token(url)
        path = f"{url}/v1/{noun}?kind=learning.verdict"
        assert (await get(path, headers=mine)).body["items"]
        assert (await get(f"{path}&organisation={HOSPITALS[0]}", headers=mine)).body["items"]
        assert (await get(f"{path}&model={MODEL}", headers=mine)).body["items"] == []
        assert noted(node) == []

    run(learned, check)


def test_events_do_not_name_restricted_records(learned: Network) -> None:
    """That verdicts came may be known; on whose update, by whom, is shown to known readers."""
    found: set[tuple[str, tuple[str | int, ...]]] = set()

    async def check(url: str, node: Node) -> None:
        mine = await token(url)
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/v1/events?since=0", headers=mine) as response,
        ):
            reader = EventReader()
            async for part in response.content.iter_any():
                for event in reader.feed(part):
                    data = json.loads(event.data)
                    found.update((item["kind"], tuple(item["key"])) for item in data["records"])
                    if data["height"] == learned.chain.head.height:
                        return

    run(learned, check)

    restricted = {(kind, key) for kind, key in found if kind in RESTRICTED_RECORDS}
    assert restricted == {("verdict", ())}
    assert any(key for kind, key in found if kind == "update")


# Every route, and whether it can show what is restricted: a new one has to be written down here.
ROUTES = {
    "restricted": {
        "/v1/records",
        "/v1/tasks/{id}/rounds/{number}",
        "/v1/models/{id}/versions/{version}/lineage",
        "/v1/transactions/{id}",
        "/v1/usages",
        "/v1/usages/{model}",
        "/v1/models/{id}/uses/{organisation}",
        "/v1/models/{id}/uses/{organisation}/{number}",
        *(
            f"/v1/tasks/{{id}}/rounds/{{number}}/updates/{{organisation}}/{last}"
            for noun, name in (
                ("verdicts", "verifier"),
                ("audits", "auditor"),
                ("visits", "auditor"),
            )
            for last in (noun, f"{noun}/{{{name}}}")
        ),
    },
    "never": {
        "/livez",
        "/readyz",
        "/docs",
        "/openapi.json",
        "/v1/access-log",
        "/v1/blocks",
        "/v1/blocks/{height}",
        "/v1/checkpoints",
        "/v1/checkpoints/{height}",
        "/v1/epochs",
        "/v1/events",
        "/v1/consistency",
        "/v1/problems",
        "/v1/problems/{code}",
        "/v1/search",
        "/v1/status",
        "/v1/tokens",
        "/v1/transactions",
    },
}


def test_every_route_is_known_to_show_the_restricted_or_not(learned: Network) -> None:
    """A route that nobody thought about would show verdicts to anybody."""
    lists = {
        path
        for item in RESOURCES
        if item.record.KIND not in RESTRICTED_RECORDS
        for path in (item.path, item.collection)
    } - ROUTES["restricted"]
    paths = {
        item.canonical
        for item in build_api(
            cast(Any, SimpleNamespace(desk=SimpleNamespace(public=True)))
        ).router.resources()
    }

    assert paths == ROUTES["restricted"] | ROUTES["never"] | lists
