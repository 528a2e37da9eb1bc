"""JSON for people: the inverse of itself for every class, and no way in for what breaks a bound."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl import body
from fl.spec import logistic_regression, mlp, small_cnn
from node.home.document import dump, from_json, load
from tests.harness import genesis_of
from tests.vm.records import drawn
from vm import conduct, learning, record, terms
from vm.genesis import Genesis
from vm.record import Band, Contribution, Linear, Member, ModelSpec, Organisation, Role
from vm.refusal import Refused
from vm.shape import pack

CLASSES = [
    cls
    for module in (record, learning, conduct, terms, body)
    for cls in vars(module).values()
    if isinstance(cls, type) and hasattr(cls, "VERSION") and not hasattr(cls, "TAG")
    if cls.__module__ == module.__name__
]


def code_of(cls: type, text: str | bytes) -> str:
    """The code with which a document is refused."""
    with pytest.raises(Refused) as refused:
        load(cls, text)
    return refused.value.code


@pytest.mark.parametrize("cls", CLASSES)
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_document_is_read_back_as_what_was_written(cls: type, data: st.DataObject) -> None:
    """For every record and body within its bounds, through text."""
    item = data.draw(drawn(cls))

    assert load(cls, json.dumps(dump(item))) == item


def test_a_genesis_keeps_its_digest() -> None:
    """Whoever reads the document, however it is indented, comes to the same chain."""
    genesis = genesis_of(4)

    for indent in (None, 2):
        found = load(Genesis, json.dumps(dump(genesis), indent=indent))
        assert (found, found.chain) == (genesis, genesis.chain)


def test_people_can_read_it() -> None:
    """Fields by name, digests in hex, choices in words, layers by type."""
    member = genesis_of(4).members[0]

    found = dump(member)

    assert found["role"] == "validator"
    assert found["public_key"] == member.public_key.hex()
    assert found["transport"] is None
    assert dump(logistic_regression(2))["layers"] == [{"type": "linear", "inputs": 2, "outputs": 1}]


@pytest.mark.parametrize("spec", [logistic_regression(4), mlp(4, (3, 3), 2), small_cnn(1, 8, 2)])
def test_layers_are_told_apart_by_their_type(spec: ModelSpec) -> None:
    """A union's member carries its tag there and back."""
    assert from_json(ModelSpec, dump(spec)) == spec


BAND = {"low": 1, "high": 2}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "nul",
        b"\xff\xfe\x00",
        '{"low": 1, "high": 2} trailing',
        "[" * 100_000,
        '{"low":' * 100_000,
        "1" * 5_000,
        '{"low": 01, "high": 2}',
    ],
    ids=lambda text: f"{len(text)} {text[:8]!r}",
)
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    """Also nesting and numbers that no document needs."""
    assert code_of(Band, text) == "document.json"


@pytest.mark.parametrize(
    "value",
    [
        None,
        7,
        "band",
        [1, 2],
        {},
        {"low": 1},
        {**BAND, "more": 3},
        {**BAND, "low": "1"},
        {**BAND, "low": 1.0},
        {**BAND, "low": True},
        {**BAND, "low": None},
        {**BAND, "low": [1]},
        {**BAND, "low": {"low": 1}},
        {**BAND, "low": float("nan")},
        {**BAND, "low": float("inf")},
        {"LOW": 1, "high": 2},
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused(value: Any) -> None:
    """No conversion is attempted: 1.0, "1" and true are not 1."""
    assert code_of(Band, json.dumps(value)) == "document.field"


@pytest.mark.parametrize("low", [-1, 2**53 + 1, 2**64, -(2**80), 10**400])
def test_a_number_out_of_its_bound_is_refused(low: int) -> None:
    """The bounds of a class are bounds of its document."""
    assert code_of(Band, json.dumps({**BAND, "low": low})) == "document.bounds"


def test_a_field_twice_is_refused() -> None:
    """Two readers may take the first or the last: one file must not be two genesis documents."""
    assert code_of(Band, '{"low": 1, "high": 2, "low": 0}') == "document.repeat"


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("id", "Not A Name", "document.bounds"),
        ("id", "n" * 65, "document.bounds"),
        ("id", "\ud800", "document.bounds"),
        ("role", "emperor", "document.field"),
        ("role", ["admin"], "document.field"),
        ("role", {}, "document.field"),
        ("public_key", "00" * 31, "document.bounds"),
        ("public_key", "0" * 63, "document.field"),
        ("public_key", "zz" * 32, "document.field"),
        ("public_key", " ".join(["00"] * 32), "document.field"),
        ("public_key", "AA" * 32, "document.field"),
        ("public_key", 7, "document.field"),
        ("public_key", None, "document.field"),
        ("transport", "", "document.bounds"),
        ("transport", 7, "document.field"),
    ],
)
def test_a_hostile_member_is_refused(field: str, value: Any, code: str) -> None:
    """Names, choices and keys are held to one spelling."""
    member = dump(genesis_of(4).members[0])

    assert code_of(Member, json.dumps({**member, field: value})) == code


@pytest.mark.parametrize(
    "layer",
    [
        {"type": "lambda", "source": "x"},
        {"inputs": 2, "outputs": 1},
        {"type": None, "inputs": 2, "outputs": 1},
        {"type": ["linear"], "inputs": 2, "outputs": 1},
        {"type": "linear", "inputs": 2},
        "linear",
        None,
    ],
    ids=str,
)
def test_a_layer_that_is_not_on_the_list_is_refused(layer: Any) -> None:
    """A model is declared, never programmed."""
    spec = {**dump(logistic_regression(2)), "layers": [layer]}

    assert code_of(ModelSpec, json.dumps(spec)) == "document.field"


def test_more_items_than_the_bound_are_refused() -> None:
    """A tuple's bound holds, and so does its least length."""
    spec = dump(logistic_regression(2))

    many: tuple[list[Any], ...] = ([], spec["layers"] * 65)
    for layers in many:
        assert code_of(ModelSpec, json.dumps({**spec, "layers": layers})) == "document.bounds"


def test_the_refusal_says_where_and_what() -> None:
    """The path to the field, what was expected there, and the beginning of what was found."""
    genesis = dump(genesis_of(4))
    genesis["members"][3]["role"] = "x" * 500

    with pytest.raises(Refused, match=r"Genesis\.members\[3\]\.role: expected validator or") as it:
        from_json(Genesis, genesis)

    assert len(it.value.message) < 250


def test_what_breaks_a_bound_of_our_own_is_our_bug() -> None:
    """Writing does not check: it is `pack` that asserts."""
    organisation = replace(genesis_of(4).organisations[0], id="Not A Name")

    with pytest.raises(Refused, match=r"document\.bounds"):
        from_json(Organisation, dump(organisation))
    with pytest.raises(AssertionError):
        pack(organisation)
    assert (Role.ADMIN, Linear.TAG, Contribution.VERSION) == ("admin", "linear", 1)
