"""What comes in as bytes: mangled envelopes and hostile signatures."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path

from consensus.event import Received
from consensus.message import Envelope, decode_envelope, encode_envelope, is_signed, signing_digest
from tests.consensus.cluster import Cluster, see_nothing, signed
from tests.consensus.node import CHAIN
from tests.scenarios.forge import Forger, index
from tests.scenarios.stage import Stage
from vm.keys import verify
from vm.refusal import Refused

VECTORS = Path(__file__).parents[1] / "vectors" / "keys.json"
BAD_BYTES = (0x00, 0x7F, 0x93, 0xC0, 0xDD, 0xFF)  # among them the heads of arrays and nil


class Hostile:
    """`mangle v00 to v01: MESSAGE` and `judge`."""

    def __init__(self, tell: Callable[[str], None], stage: Stage) -> None:
        self._tell = tell
        self._stage = stage
        self.commands: dict[str, Callable[[list[str]], None]] = {
            "mangle": self._mangle,
            "judge": self._judge,
        }

    def _mangle(self, words: list[str]) -> None:
        """`mangle v00 to v01: MESSAGE`: each byte in turn replaced, received as the shell does."""
        cluster, sender = self._stage.cluster, index(words[0])
        receiver = cluster[index(words[2].rstrip(":"))]
        forger = Forger(cluster, self._stage.names, sender)
        good = encode_envelope(signed(sender, *forger.read(words[3:])))
        answers: Counter[str] = Counter()
        receiver.rejected.clear()
        watch, cluster.watch = cluster.watch, see_nothing
        for position, value in product(range(len(good)), BAD_BYTES):
            data = good[:position] + bytes([value]) + good[position + 1 :]
            if data != good:
                answers[receive(cluster, cluster[sender].name, receiver.index, data)] += 1
        cluster.watch = watch
        for answer, count in sorted(answers.items()):
            self._tell(f"{count} of {sum(answers.values())} {answer}")

    def _judge(self, _words: list[str]) -> None:
        """Every kind of signature on which libraries disagree, and our one verifier's verdict."""
        for case in json.loads(VECTORS.read_text())["judged"]:
            public, message, signature = (
                bytes.fromhex(case[part]) for part in ("public", "message", "signature")
            )
            counts = verify(public, message, signature)
            self._tell(f"{'counts' if counts else 'refused'}: {case['why']}")


def receive(cluster: Cluster, peer: str, receiver: int, data: bytes) -> str:
    """What becomes of bytes from a peer: decoded, verified, stepped."""
    try:
        envelope: Envelope = decode_envelope(data)
    except Refused:
        return "refused by the decoder"
    seat = cluster.validators.get(envelope.sender)
    if not is_signed(envelope.body):
        if envelope.sender != peer:
            return "not from the sender"
    elif seat is None or not verify(seat.key, _digest(envelope), envelope.seal):
        return "not signed by the sender"
    node = cluster[receiver]
    cluster.event(receiver, Received(envelope))
    return f"rejected with {node.rejected.pop().code}" if node.rejected else "accepted"


def _digest(envelope: Envelope) -> bytes:
    return signing_digest(CHAIN, envelope.epoch, envelope.body)
