"""What a node answered, as far as it can be read without believing it."""

import base64
import binascii
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, Field, ValidationError

from node.api.admission import Admission
from node.api.problem import parse_problem
from node.api.views import LIMIT_MAX, SubmitAnswer
from vm.refusal import Refused
from vm.shape import NOTE_BYTES_MAX

B = TypeVar("B", bound=BaseModel)


class ProofBody(BaseModel):
    """The part of an answer that matters to somebody who trusts nobody."""

    proof: str


class PageBody(BaseModel):
    """A page of a list."""

    items: list[ProofBody] = Field(max_length=LIMIT_MAX)
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


def read_base64(text: str) -> bytes:
    """The bytes of a proof; raises `Refused("audit.base64")`."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("audit.base64", "expected a proof in standard base64") from None
