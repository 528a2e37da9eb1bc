"""Tokens: for ten minutes, for one key, and bounded in number."""

import pytest

from node.readers.tokens import TOKEN_S, TOKENS_OF_MEMBER_MAX, Grant, Tokens
from vm.refusal import Refused

KEY = bytes(32)


def good(tokens: Tokens, secret: str, now_s: float) -> bool:
    """Whether a token stands for somebody."""
    try:
        return bool(tokens.find(secret, now_s).member)
    except Refused as refused:
        return refused.code != "reader.expired"


def test_a_token_is_good_for_ten_minutes() -> None:
    """Up to the last moment of them, and not in the next."""
    tokens = Tokens()
    tokens.mint("secret", "ada", KEY, 1_000.0)

    assert tokens.find("secret", 1_000.0 + TOKEN_S - 0.001) == Grant("ada", KEY, 1_600.0)
    assert not good(tokens, "secret", 1_000.0 + TOKEN_S)


@pytest.mark.parametrize("guess", ["", "Secret", "secret ", "secre", "\udce4", "x" * 10_000])
def test_another_text_is_no_token(guess: str) -> None:
    """However near it comes, and whatever bytes a header held."""
    tokens = Tokens()
    tokens.mint("secret", "ada", KEY, 0.0)

    assert not good(tokens, guess, 1.0)


def test_a_token_is_not_kept_itself() -> None:
    """Whoever reads the memory of a node finds digests."""
    tokens = Tokens()
    tokens.mint("a-very-secret-token", "ada", KEY, 0.0)

    assert "a-very-secret-token" not in repr(vars(tokens))


def test_one_more_of_a_member_ends_its_oldest() -> None:
    """A member's new process gets in; what it uses up is its own."""
    tokens = Tokens()
    tokens.mint("other", "bob", KEY, 0.0)
    for number in range(TOKENS_OF_MEMBER_MAX + 1):
        tokens.mint(f"{number}", "ada", KEY, 1.0)

    assert not good(tokens, "0", 2.0)
    assert all(good(tokens, f"{number}", 2.0) for number in range(1, TOKENS_OF_MEMBER_MAX + 1))
    assert good(tokens, "other", 2.0)


def test_with_no_room_none_is_minted_until_some_are_over() -> None:
    """Those that are good stay good: a flood of new ones ends nobody else's."""
    tokens = Tokens(tokens_max=2)
    tokens.mint("one", "ada", KEY, 0.0)
    tokens.mint("two", "bob", KEY, 1.0)

    with pytest.raises(Refused) as refused:
        tokens.mint("three", "cyd", KEY, 2.0)
    tokens.mint("four", "cyd", KEY, TOKEN_S + 0.5)

    assert refused.value.code == "reader.tokens"
    assert [good(tokens, name, TOKEN_S + 0.5) for name in ("one", "two", "four")] == [
        False,
        True,
        True,
    ]


def test_refused_members_are_not_remembered() -> None:
    """What is kept by member goes with its last token."""
    tokens = Tokens(tokens_max=1)
    for number in range(10):
        tokens.mint("x", f"m{number}", KEY, number * 2.0 * TOKEN_S)

    assert len(tokens._of) == 1
