"""How often readers and strangers may ask, and by whom it is counted."""

import pytest

from node.readers import desk
from tests.harness import key_of
from tests.node.api.asking import assert_problem
from tests.node.network import HOSPITALS, Network
from tests.node.readers.reading import ADMIN, AUDITOR, TRAINER, run, signed
from tests.node.readers.test_desk import MEMBERS
from tests.node.serving import Node, call, get
from vm import keys
from vm.keys import SigningKey


def test_a_reader_that_asks_too_often_is_told_when_to_come_again(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 with Retry-After; another member at the same address is not held up."""
    monkeypatch.setattr(desk, "BURST_S", 0.005)  # five of a thousand a second
    now = [1_700_000_000.0]

    async def check(url: str, node: Node) -> None:
        address = f"{url}/v1/tokens"
        mine, others = [
            {"Authorization": f"Bearer {got.body['token']}"}
            for got in [
                await call(
                    "POST", address, headers=signed(address, member, method="POST", at_s=now[0])
                )
                for member in (AUDITOR, TRAINER)
            ]
        ]
        statuses = [(await get(url + MEMBERS, headers=mine)).status for _ in range(6)]
        assert statuses == [200] * 4 + [429] * 2
        got = await get(url + MEMBERS, headers=mine)
        assert_problem(got, 429, "reader.too_many")
        assert got.headers["Retry-After"] == "1"
        assert (await get(url + MEMBERS, headers=others)).status == 200
        now[0] += 1
        assert (await get(url + MEMBERS, headers=mine)).status == 200

    run(network, check, now_s=lambda: now[0])


def test_strangers_are_counted_by_address(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guesses run dry; who shows that it is a member is counted by itself, behind a proxy too."""
    monkeypatch.setattr(desk, "BURST_S", 0.005)
    now = [1_700_000_000.0]

    async def check(url: str, node: Node) -> None:
        address = f"{url}/v1/tokens"
        headers = signed(address, method="POST", at_s=now[0])
        minted = await call("POST", address, headers=headers)
        mine = {"Authorization": f"Bearer {minted.body['token']}"}
        guess = {"Authorization": "Bearer guess"}
        statuses = [(await get(url + MEMBERS, headers=guess)).status for _ in range(6)]
        assert statuses == [401] * 5 + [429]
        fresh = signed(url + MEMBERS, TRAINER, at_s=now[0])
        assert (await get(url + MEMBERS, headers=fresh)).status == 200
        assert (await get(url + MEMBERS, headers=mine)).status == 200

    run(network, check, now_s=lambda: now[0])


def test_signatures_that_do_not_hold_are_counted_by_whose_they_claim_to_be(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They run dry before they cost a verification; members in whose name nobody forges go on."""
    monkeypatch.setattr(desk, "BURST_S", 0.005)
    now = [1_700_000_000.0]

    async def check(url: str, node: Node) -> None:
        async def ask_as(member: str, key: SigningKey | None = None) -> int:
            headers = signed(url + MEMBERS, member, key=key, at_s=now[0])
            return (await get(url + MEMBERS, headers=headers)).status

        statuses = [await ask_as(TRAINER, key_of("mallory")) for _ in range(6)]
        assert statuses == [401] * 5 + [429]
        with monkeypatch.context() as costly:
            costly.setattr(keys, "verify", None)
            assert await ask_as(TRAINER) == 429
        assert await ask_as(AUDITOR) == 200
        now[0] += 1
        assert await ask_as(TRAINER) == 200

    run(network, check, now_s=lambda: now[0])


def test_signatures_that_do_not_hold_are_counted_by_address_whomever_they_name(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name for each costs no more verifications; who has signed from there before goes on."""
    monkeypatch.setattr(desk, "BURST_S", 0.005)
    forged = [f"{hospital}.{role}" for hospital in HOSPITALS for role in ("steward", "verifier")]
    now, checked, verify = [1_700_000_000.0], [0], keys.verify

    def count(*signed: bytes) -> bool:
        checked[0] += 1
        return verify(*signed)

    monkeypatch.setattr(keys, "verify", count)

    async def check(url: str, node: Node) -> None:
        async def ask_as(member: str, key: SigningKey | None = None) -> int:
            headers = signed(url + MEMBERS, member, key=key, at_s=now[0])
            return (await get(url + MEMBERS, headers=headers)).status

        assert await ask_as(TRAINER) == 200
        for name in forged * 5:
            assert await ask_as(name, key_of("mallory")) in (401, 429)
        assert 5 < checked[0] - 1 <= 5 * desk.FORGED_NAMES
        assert await ask_as(ADMIN) == 429
        assert await ask_as(TRAINER) == 200
        now[0] += 1
        assert await ask_as(ADMIN) == 200

    run(network, check, now_s=lambda: now[0])


def test_who_has_signed_is_remembered_within_a_bound(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past it who signed longest ago is as one that never did."""
    monkeypatch.setattr(desk, "SIGNERS_MAX", 1)

    async def check(url: str, node: Node) -> None:
        for member in (TRAINER, ADMIN, ADMIN):
            assert (await get(url + MEMBERS, headers=signed(url + MEMBERS, member))).status == 200
        assert list(node.desk._signers) == [f"127.0.0.1 {ADMIN}"]

    run(network, check)
