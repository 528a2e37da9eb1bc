"""Server-side optimizers: every number is that of exact arithmetic, rounded where it is said."""

from dataclasses import replace
from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.fixed import CHUNK, INT32_MAX, INT32_MIN, Ints
from fl.server import Moments, pack_state, start, state_size, step, unpack_state
from fl.spec import logistic_regression
from vm.refusal import Refused
from vm.terms import AVERAGE, MICRO, Server, ServerOptimizer

BITS = 24
MOMENTUM = Server(ServerOptimizer.MOMENTUM, rate=MICRO, momentum=900_000, beta2=0, tau=0)
ADAM = Server(
    ServerOptimizer.ADAM, rate=MICRO // 100, momentum=900_000, beta2=990_000, tau=MICRO // 1_000
)
UNITS = st.lists(st.integers(-3, 3) | st.integers(INT32_MIN, INT32_MAX), min_size=1, max_size=5)


def ints(values: list[int]) -> Ints:
    """As grid integers."""
    return np.array(values, np.int64)


def moments(*arrays: list[int]) -> Moments:
    """A state of these arrays."""
    return Moments(tuple(np.array(values, np.int32) for values in arrays))


def nearest_root(square: Fraction) -> int:
    """Of the square's floor; there is no half among roots."""
    return (isqrt(4 * int(square)) + 1) // 2


@given(UNITS, st.integers(1, MICRO))
def test_average_is_the_aggregate_times_the_rate(delta: list[int], rate: int) -> None:
    """FedAvg has no state; with a rate of 1 the step is the aggregate itself."""
    moved, after = step(replace(AVERAGE, rate=rate), BITS, ints(delta), start(AVERAGE, BITS, 1))
    plain, _ = step(AVERAGE, BITS, ints(delta), start(AVERAGE, BITS, 1))

    assert moved.tolist() == [round(Fraction(rate * value, MICRO)) for value in delta]
    assert plain.tolist() == delta
    assert after.arrays == ()


@given(st.lists(st.tuples(*[st.integers(-(2**30), 2**30)] * 2), min_size=1, max_size=5))
def test_momentum_is_exact(pairs: list[tuple[int, int]]) -> None:
    """The velocity is beta times itself plus the aggregate; the model moves by it."""
    velocity, delta = (list(column) for column in zip(*pairs, strict=True))

    for beta in (0, 123_457, 400_000):
        server = replace(MOMENTUM, rate=2 * MICRO, momentum=beta)
        moved, after = step(server, BITS, ints(delta), moments(velocity))
        expected = [
            round(Fraction(server.momentum * v, MICRO)) + d
            for v, d in zip(velocity, delta, strict=True)
        ]
        assert after.arrays[0].tolist() == expected
        assert moved.tolist() == [2 * value for value in expected]


@given(UNITS, st.data())
def test_adam_is_exact(delta: list[int], data: st.DataObject) -> None:
    """First moment, root of the second, ratio and step, each rounded once where the document says.

    Algorithm 2 of Reddi et al. 2021, with the second moment's root in place of the moment.
    """
    p = len(delta)
    near = st.integers(-(2**24), 2**24)
    first = data.draw(st.lists(near, min_size=p, max_size=p))
    before = data.draw(st.lists(st.integers(0, INT32_MAX), min_size=p, max_size=p))

    moved, after = step(ADAM, BITS, ints(delta), moments(first, before))

    beta, beta2 = Fraction(9, 10), Fraction(99, 100)
    m = [round(beta * f + (1 - beta) * d) for f, d in zip(first, delta, strict=True)]
    s = [
        nearest_root(beta2 * r * r + (1 - beta2) * d * d)
        for r, d in zip(before, delta, strict=True)
    ]
    tau = 2**BITS // 1_000
    ratio = [round(Fraction(x << BITS, y + tau)) for x, y in zip(m, s, strict=True)]
    assert after.arrays[0].tolist() == m
    assert after.arrays[1].tolist() == s
    assert moved.tolist() == [round(Fraction(value, 100)) for value in ratio]


def test_adam_follows_its_paper() -> None:
    """Twenty rounds in float64 differ by rounding only."""
    random = np.random.default_rng(5)
    state = start(ADAM, BITS, 50)
    m, v = np.zeros(50), np.full(50, 1e-6)  # tau^2
    away = 0.0

    for _ in range(20):
        delta = np.rint(random.normal(0, 2**18, 50)).astype(np.int64)
        moved, state = step(ADAM, BITS, delta, state)
        real = delta / 2**BITS
        m = 0.9 * m + 0.1 * real
        v = 0.99 * v + 0.01 * real**2
        expected = 0.01 * m / (np.sqrt(v) + 1e-3)
        away = max(away, float(np.max(np.abs(moved / 2**BITS - expected))))

    assert away < 1e-6


def test_momentum_of_a_constant_aggregate_grows_to_its_limit() -> None:
    """Of nine tenths, ten times the aggregate."""
    state = start(MOMENTUM, BITS, 1)

    for _ in range(300):
        moved, state = step(MOMENTUM, BITS, ints([1_000]), state)

    assert abs(int(moved[0]) - 10_000) <= 5


@pytest.mark.parametrize("server", [AVERAGE, replace(MOMENTUM, momentum=0), ADAM])
@pytest.mark.parametrize("end", [INT32_MIN, INT32_MAX])
def test_extremes_do_not_overflow(server: Server, end: int) -> None:
    """Corners in, the largest rate, and a seam of chunks between equal coordinates."""
    p = CHUNK + 2
    corner = Moments(tuple(np.full(p, INT32_MAX, np.int32) for _ in start(server, BITS, 1).arrays))
    fast = replace(server, rate=1_000 * MICRO)

    moved, after = step(fast, BITS, np.full(p, end, np.int64), corner)

    one, _ = step(fast, BITS, ints([end]), Moments(tuple(a[:1] for a in corner.arrays)))
    assert set(moved.tolist()) == set(one.tolist())
    assert all(len(set(array.tolist())) == 1 for array in after.arrays)
    if server != ADAM:
        assert moved[0] == 1_000 * end


def test_velocity_beyond_the_grid_is_refused() -> None:
    """What does not fit the state is never clipped: the round fails instead."""
    with pytest.raises(Refused, match=r"update\.range"):
        step(MOMENTUM, BITS, ints([INT32_MAX]), moments([INT32_MAX]))


def test_the_largest_product_is_exact_and_the_next_refused() -> None:
    """4398 / 16 at a rate of a thousand is just within 2^62, 4400 / 16 is not."""
    server = replace(ADAM, rate=1_000 * MICRO, tau=1)

    moved, _ = step(server, BITS, ints([0]), moments([4_887], [0]))

    assert moved.tolist() == [1_000 * (4_398 << BITS) // 16]
    with pytest.raises(Refused, match=r"update\.range"):
        step(server, BITS, ints([0]), moments([4_889], [0]))


def test_ratio_beyond_int64_is_refused() -> None:
    """A first moment of 128 over the least divisor, times a rate of a thousand."""
    server = replace(ADAM, rate=1_000 * MICRO, tau=1, beta2=999_999)

    with pytest.raises(Refused, match=r"update\.range"):
        step(server, BITS, ints([0]), moments([INT32_MAX], [0]))


@pytest.mark.parametrize("server", [MOMENTUM, ADAM])
def test_state_file_comes_back_as_it_was(server: Server) -> None:
    """Its size follows from the spec, and the file of another optimizer or grid is refused."""
    spec = logistic_regression(3)
    _, state = step(server, BITS, ints([5, -6, 7, 8]), start(server, BITS, 4))

    data = pack_state(spec, BITS, server, state)

    found = unpack_state(spec, BITS, server, data)
    assert [array.tolist() for array in found.arrays] == [a.tolist() for a in state.arrays]
    assert len(data) == state_size(spec, BITS, server)
    other = MOMENTUM if server == ADAM else ADAM
    for bits, reader in ((BITS, other), (BITS - 1, server)):
        with pytest.raises(Refused, match=r"server\."):
            unpack_state(spec, bits, reader, data)


def test_adam_starts_at_tau() -> None:
    """The first step is bounded by the aggregate itself, not by its sign."""
    state = start(ADAM, BITS, 2)

    assert [array.tolist() for array in state.arrays] == [[0, 0], [2**BITS // 1_000] * 2]
