"""What schemathesis is told of formats that no schema can express; loaded by its command line."""

import base64
from typing import Any

import schemathesis
from hypothesis import strategies as st

from node.api.cursor import CURSOR_BYTES_MAX
from node.api.keys import KEYS_MAX, write_keys
from tests.harness import genesis_of, key_of
from vm.encoding import encode
from vm.record import Band, ColumnSchema
from vm.registry import RegisterDataset
from vm.shape import pack
from vm.state import state_key
from vm.transaction import NONCE_BYTES, sign

CHAIN = genesis_of(4).chain
BODY = RegisterDataset(
    id="hospital-1.more",
    title="More births",
    root=bytes(32),
    schema=(ColumnSchema("age", "1"),),
    outcome="preterm",
    rows=Band(100, 199),
    positives=Band(10, 19),
    conditions=("DUO:0000006",),
    region="US",
    opening=False,
    scores_max=100,
)


def packed(nonce: bytes) -> bytes:
    """A transaction that a node may admit."""
    sender = "hospital-1.steward"
    made = sign(
        key_of(sender),
        chain=CHAIN,
        kind="dataset.register",
        sender=sender,
        body=BODY,
        valid_until_height=100,
        nonce=nonce,
    )
    return pack(made)


KEYS = st.builds(lambda name: state_key("member", (name,)), st.from_regex(r"\A[a-z]{1,9}\Z"))
TRANSACTIONS = st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES).map(packed)

schemathesis.openapi.format(
    "state-keys", st.lists(KEYS, min_size=1, max_size=KEYS_MAX, unique=True).map(write_keys)
)
schemathesis.openapi.format(
    "transaction", TRANSACTIONS.map(lambda data: base64.b64encode(data).decode())
)
schemathesis.openapi.media_type(
    "application/msgpack",
    st.lists(TRANSACTIONS, min_size=1, max_size=2).map(lambda items: encode(tuple(items))),
)


@schemathesis.serializer("application/msgpack")
def as_it_is(_context: Any, value: Any) -> bytes:
    """Bytes are the body; whatever else is put there is no msgpack of ours."""
    return value if isinstance(value, bytes) else repr(value).encode()


@schemathesis.hook
def before_call(_context: Any, case: Any, _kwargs: Any) -> None:
    """A cursor is what a list gave out; one made up is well formed and still refused."""
    cursor = (case.query or {}).get("cursor")
    if isinstance(cursor, str) and 1 <= len(cursor) <= CURSOR_BYTES_MAX:
        del case.query["cursor"]
