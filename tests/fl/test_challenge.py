"""Challenges: nobody can choose what is drawn, and everybody can check it afterwards."""

from fl.challenge import commitment, draw, round_seed, seal


def test_neither_primary_nor_trainer_can_tell_what_will_be_drawn() -> None:
    """With seed and update in hand they still lack the verifier's secret, and it decides.

    The best that they can do is to guess: over many secrets each segment is drawn as often.
    """
    seed, update = bytes(range(32)), bytes(reversed(range(32)))
    drawn = [draw(seed, update, number.to_bytes(32, "big"), 20, 5) for number in range(2_000)]

    counts = [sum(segment in one for one in drawn) for segment in range(20)]

    assert all(400 < count < 600 for count in counts)  # 500 expected, 19 the standard deviation
    assert len(set(drawn)) > 1_500  # of 15,504 possible draws


def test_grinding_blocks_or_updates_gains_nothing_against_an_unknown_secret() -> None:
    """A coalition tries 500 seeds for one that misses its skipped half: the best is no better.

    It picks the seed by draws under a secret of its own; under the honest verifier's, which it
    cannot know, the picked seed catches it as often as any other.
    """
    update, own = b"\1" * 32, b"\2" * 32
    skipped = set(range(50))
    seeds = [number.to_bytes(32, "big") for number in range(500)]

    def hits(seed: bytes, secret: bytes) -> int:
        return len(skipped.intersection(draw(seed, update, secret, 100, 7)))

    ground = [seed for seed in seeds if hits(seed, own) == 0]
    caught = [
        hits(seed, number.to_bytes(32, "big")) > 0 for seed in ground for number in range(200)
    ]

    assert ground  # against a secret that it knows, grinding works: 1 seed in 128
    assert sum(caught) / len(caught) > 0.98  # 1 - 2^-7 is 0.992


def test_another_seed_or_update_is_another_draw() -> None:
    """A verifier that has bound itself to its secret cannot tell either."""
    one = draw(bytes(32), bytes(32), bytes(32), 100, 10)

    assert draw(b"\1" * 32, bytes(32), bytes(32), 100, 10) != one
    assert draw(bytes(32), b"\1" * 32, bytes(32), 100, 10) != one
    assert one == tuple(sorted(set(one)))
    assert len(one) == 10


def test_a_draw_of_more_than_there_are_is_all_of_them() -> None:
    """A short trace is replayed whole."""
    assert draw(bytes(32), bytes(32), bytes(32), 3, 10) == (0, 1, 2)
    assert draw(bytes(32), bytes(32), bytes(32), 3, 0) == ()


def test_a_commitment_hides_its_secret_and_binds_all_that_it_is_for() -> None:
    """Another task, round, verifier or secret is another commitment."""
    own = commitment("a", 1, "v", bytes(32))

    others = {
        commitment("b", 1, "v", bytes(32)),
        commitment("a", 2, "v", bytes(32)),
        commitment("a", 1, "w", bytes(32)),
        commitment("a", 1, "v", b"\1" * 32),
    }

    assert len(others | {own}) == 5


def test_a_seal_binds_every_judgement_in_its_place() -> None:
    """Two judgements in another order, run together, or under another secret are another seal."""
    seals = {
        seal("a", 1, "v", bytes(32), [b"one", b"two"]),
        seal("a", 1, "v", bytes(32), [b"two", b"one"]),
        seal("a", 1, "v", bytes(32), [b"onetwo"]),
        seal("a", 1, "v", bytes(32), [b"one"]),
        seal("a", 1, "v", bytes(32), []),
        seal("a", 1, "v", b"\1" * 32, [b"one", b"two"]),
        seal("a", 1, "w", bytes(32), [b"one", b"two"]),
        seal("a", 2, "v", bytes(32), [b"one", b"two"]),
    }

    assert len(seals) == 8


def test_seeds_of_rounds_differ() -> None:
    """By header, task and number."""
    seeds = {
        round_seed(bytes(32), "a", 1),
        round_seed(b"\1" * 32, "a", 1),
        round_seed(bytes(32), "b", 1),
        round_seed(bytes(32), "a", 2),
    }

    assert len(seeds) == 4
