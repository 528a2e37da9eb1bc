"""Search by the first characters of ids, digests, keys and addresses."""

import pytest

from tests.node.api.asking import assert_problem, run
from tests.node.network import HOSPITALS, MODEL, Network, register_dataset
from tests.node.serving import Node, get
from vm.record import Member, Model


def test_what_begins_so_is_found_with_its_path(learned: Network) -> None:
    """Transactions, blocks, keys and weights, also by an odd number of digits."""
    view = learned.chain.view()
    assert view is not None
    row = learned.chain.store.row(6)
    member, model = view.get(Member, "hospital-2.steward"), view.get(Model, MODEL, 1)
    assert row is not None
    assert member is not None
    assert model is not None
    id = row.receipts[0].transaction.hex()

    async def check(url: str, _: Node) -> None:
        for value, kind, path in (
            (id, "transaction", f"/v1/transactions/{id}"),
            (row.header.digest.hex(), "block", "/v1/blocks/6"),
            (member.public_key.hex(), "key", "/v1/members/hospital-2.steward"),
            (model.weights, "model", f"/v1/models/{MODEL}/versions/1"),
        ):
            for length in (17, 18, len(value)):
                got = await get(f"{url}/v1/search?prefix={value[:length]}")
                found = {"kind": kind, "value": value, "path": path}
                assert got.body == {"items": [found], "more": False}, (kind, length)
            assert (await get(url + path)).status == 200

    run(learned, check)


def test_what_is_not_certified_yet_is_not_found(learned: Network) -> None:
    """Neither a block that was executed without a certificate, nor what it holds."""
    header = learned.block(register_dataset(learned, HOSPITALS[0]), certified=False)
    row = learned.chain.store.row(header.height)
    assert row is not None
    id = row.receipts[0].transaction.hex()

    async def check(url: str, _: Node) -> None:
        for value in (id, header.digest.hex()):
            got = await get(f"{url}/v1/search?prefix={value}")
            assert got.body == {"items": [], "more": False}

    run(learned, check)


@pytest.mark.parametrize("prefix", ["", "abc", "ABCD", "g123", "0" * 65, "bcz1", "%00%00%00%00"])
def test_a_prefix_that_can_begin_nothing_is_refused(network: Network, prefix: str) -> None:
    """Four characters at least, of one of the two alphabets."""

    async def check(url: str, _: Node) -> None:
        assert_problem(await get(f"{url}/v1/search?prefix={prefix}"), 400, "query.invalid")

    run(network, check)
