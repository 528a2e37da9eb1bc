"""Who is asked, and how many at a time, with validators that serve, fail and stay silent."""

import asyncio
from collections.abc import Callable

import pytest

from node.wire import sources as sources_module
from node.wire.sources import UNREACHABLE, Sources
from vm.refusal import Refused

URLS = ("a", "b", "c", "d")


class Validators:
    """Those in `silent` answer never, those in `refusing` with a code, all others with their name.

    `asked` has them in the order in which they were asked.
    """

    def __init__(self, *, silent: str = "", refusing: dict[str, str] | None = None) -> None:
        self.silent = silent
        self.refusing = refusing or {}
        self.asked: list[str] = []

    async def request(self, url: str) -> str:
        """Answer as `url` does."""
        self.asked.append(url)
        if url in self.silent:
            await asyncio.Event().wait()
        if url in self.refusing:
            raise Refused(self.refusing[url], "said so")
        return url


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here is slow: who has not answered does not."""
    monkeypatch.setattr(sources_module, "SPARE_S", 0.01)


def ask(
    validators: Validators, wanted: int, times: int = 1, final: frozenset[str] = frozenset()
) -> tuple[list[str], list[str]]:
    """Ask all four so many times with one memory; the last outcome."""

    async def main() -> tuple[list[str], list[str]]:
        sources = Sources(URLS)
        for _ in range(times - 1):
            await sources.ask(wanted, validators.request, final)
        validators.asked.clear()
        return await sources.ask(wanted, validators.request, final)

    return asyncio.run(main())


def test_only_as_many_are_asked_as_are_wanted() -> None:
    """Where all serve, the nearest do the work."""
    validators = Validators()

    assert ask(validators, 2) == (["a", "b"], [])
    assert validators.asked == ["a", "b"]


def test_each_failure_is_made_up_for_by_the_next() -> None:
    """What failed is told."""
    validators = Validators(refusing={"a": "blob.absent", "b": "blob.corrupt"})

    found, failures = ask(validators, 2)

    assert sorted(found) == ["c", "d"]
    assert sorted(failures) == ["a: blob.absent: said so", "b: blob.corrupt: said so"]


def test_a_silent_validator_does_not_hold_up_the_others() -> None:
    """It is cancelled once enough have served."""
    validators = Validators(silent="a")

    assert ask(validators, 2) == (["b", "c"], [])


@pytest.mark.parametrize(
    "made", [lambda: Validators(silent="a"), lambda: Validators(refusing={"a": UNREACHABLE})]
)
def test_who_did_not_answer_is_asked_last_from_then_on(made: Callable[[], Validators]) -> None:
    """One silent validator costs the first call a wait, and not every call again."""
    validators = made()

    assert ask(validators, 1, times=2) == (["b"], [])
    assert validators.asked == ["b"]


def test_who_has_not_got_it_keeps_its_place() -> None:
    """Of four validators two hold an update: having none is no fault."""
    validators = Validators(refusing={"a": "blob.absent"})

    ask(validators, 1, times=2)

    assert validators.asked == ["a", "b"]


def test_too_few_give_what_there_is() -> None:
    """The caller says what that means."""
    validators = Validators(refusing=dict.fromkeys("abc", UNREACHABLE))

    found, failures = ask(validators, 2)

    assert found == ["d"]
    assert len(failures) == 3


def test_trouble_of_our_own_is_raised_at_once() -> None:
    """No other validator could help."""
    validators = Validators(refusing={"a": "blob.disk_full"})

    with pytest.raises(Refused, match=r"blob\.disk_full"):
        ask(validators, 1, final=frozenset({"blob.disk_full"}))
    assert validators.asked == ["a"]


def test_sources_follow_the_validators() -> None:
    """Those that stay keep their order, new ones come last, and who is gone is not asked."""
    sources = Sources(["a", "b", "c"])

    sources.follow(["d", "c", "a"])

    assert list(sources) == ["a", "c", "d"]


def test_a_source_that_goes_while_it_is_asked_is_not_asked_again() -> None:
    """Its failure does not bring it back."""
    sources = Sources(["a", "b"])

    async def request(url: str) -> str:
        sources.follow(["b"])
        if url == "a":
            raise Refused("blob.unreachable", "gone")
        return url

    found, failures = asyncio.run(sources.ask(1, request))

    assert (found, len(failures), list(sources)) == (["b"], 1, ["b"])
