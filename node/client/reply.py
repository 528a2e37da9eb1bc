"""What a node answered, as far as it can be read without believing it."""

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, Field, ValidationError

from node.api.admission import Admission
from node.api.problem import parse_problem
from node.api.resource import STEPS_MAX
from node.api.views import LIMIT_MAX, SubmitAnswer
from vm.block import Receipt, Result
from vm.refusal import Refused
from vm.shape import NOTE_BYTES_MAX

B = TypeVar("B", bound=BaseModel)
REASON_CHARACTERS_MAX = 160  # of why a node did not answer: a line
PASSING = (
    "client.",
    "mempool.",
    "disk.",
    "api.",
    "node.",
    "http.",
    "reader.too_many",
    "reader.tokens",
    "reader.unlogged",
)  # refusals that another try may end


class ProofBody(BaseModel):
    """The part of an answer that matters to somebody who trusts nobody."""

    proof: str


class PageBody(BaseModel):
    """A page of a list."""

    items: list[ProofBody] = Field(max_length=LIMIT_MAX)
    next: str | None


class StepsBody(BaseModel):
    """Steps from one epoch to the next."""

    items: list[ProofBody] = Field(max_length=STEPS_MAX)
    next: str | None


class LookupBody(BaseModel):
    """A transaction's answer; `proof` is there once it is certified."""

    status: str
    proof: str | None = None
    message: str | None = Field(default=None, max_length=NOTE_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP answer of one node."""

    url: str
    status: int
    body: bytes

    def read(self, model: type[B]) -> B:
        """The body as `model`; raises the refusal that it is, or `Refused("http.answer")`."""
        if self.status >= 400:
            raise parse_problem(self.body, self.url, self.status)
        return self.parse(model)

    def parse(self, model: type[B]) -> B:
        """The body as `model`, whatever the status; raises `Refused("http.answer")`."""
        try:
            return model.model_validate_json(self.body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise Refused("http.answer", f"{self.url}: {where}: {first['msg']}") from None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A proven receipt, and the node's unproven word for it."""

    receipt: Receipt
    message: str

    def require_applied(self) -> Receipt:
        """The receipt; raises `Refused` with its code if the transaction failed."""
        if self.receipt.result is not Result.APPLIED:
            raise Refused(self.receipt.code, self.message)
        return self.receipt


def read_admissions(reply: Reply) -> list[Admission]:
    """Also where none was admitted, which is a problem document with the same member."""
    answer = reply.parse(SubmitAnswer) if reply.status == 422 else reply.read(SubmitAnswer)
    try:
        return [
            Admission(bytes.fromhex(item.id or ""), item.code, item.message)
            for item in answer.transactions
        ]
    except ValueError:
        raise Refused("http.answer", f"{reply.url}: expected ids in hexadecimal") from None


def reason(error: Exception) -> str:
    """Why nobody answered: the words of TLS or of the system where there are any."""
    if isinstance(error.__cause__, ssl.SSLError):  # whose numbers are not the system's
        return str(error.__cause__)[:REASON_CHARACTERS_MAX]
    number = error.errno if isinstance(error, OSError) else None
    return (
        os.strerror(number)
        if number
        else (str(error) or type(error).__name__)[:REASON_CHARACTERS_MAX]
    )


def passes(refused: Refused) -> bool:
    """Whether another try may end it."""
    return refused.code.startswith(PASSING)


def worst(refusals: Mapping[str, Refused]) -> Refused:
    """What to say once no node's answer was accepted: `refusals` are by URL, as they were asked.

    The code is what the first node that answered was refused for, a stale answer before others, or
    `client.unreachable`; where they differ, the message says of each node what it did.
    """
    answered = [item for item in refusals.values() if item.code != "client.unreachable"]
    if not answered:
        tried = "; ".join(refused.message for refused in refusals.values())
        return Refused("client.unreachable", f"expected an answer of one node, found {tried}")
    first = min(answered, key=lambda refused: refused.code != "client.stale")
    if all(refused.code == first.code for refused in refusals.values()):
        return first
    told = "; ".join(f"{url}: {refused}" for url, refused in refusals.items())
    return Refused(first.code, told)
