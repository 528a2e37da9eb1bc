"""Modules follow their specs, and weights go in and out exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fl.fixed import INT32_MAX, INT32_MIN
from fl.model import build, initial, load, losses, prepare, store
from fl.preprocess import Table
from fl.spec import logistic_regression, mlp, parameter_count, parameters, small_cnn
from vm.record import ModelSpec, Output
from vm.terms import MICRO, Column, Preprocessing

SPECS = [logistic_regression(36), mlp(64, (32, 16), 10), small_cnn(1, 8, 10)]


@pytest.mark.parametrize("spec", SPECS)
def test_the_module_has_the_spec_s_parameters(spec: ModelSpec) -> None:
    """Names, shapes and order agree, so a flat vector means the same on both sides."""
    found = [(name, tuple(value.shape)) for name, value in build(spec).named_parameters()]

    assert found == [(parameter.name, parameter.shape) for parameter in parameters(spec)]
    assert {value.dtype for value in build(spec).parameters()} == {torch.float64}


@pytest.mark.parametrize("spec", SPECS)
def test_the_module_maps_inputs_to_logits(spec: ModelSpec) -> None:
    """Two rows give two rows of logits: one of a yes, or one per class."""
    width = 1 if spec.output is Output.BINARY else 10

    assert build(spec)(torch.zeros(2, *spec.input, dtype=torch.float64)).shape == (2, width)


@given(st.lists(st.integers(INT32_MIN, INT32_MAX), min_size=3, max_size=3), st.integers(20, 24))
def test_grid_weights_survive_the_module(values: list[int], grid_bits: int) -> None:
    """float64 holds every grid number, so loading and storing changes nothing."""
    module = build(logistic_regression(2))

    load(module, np.array(values, np.int64), grid_bits)

    assert store(module, grid_bits).tolist() == values


@pytest.mark.parametrize("spec", SPECS)
def test_a_fresh_model_prefers_no_class(spec: ModelSpec) -> None:
    """The last layer is zero; layers before it are drawn from the seed alone."""
    before = torch.random.get_rng_state()
    weights = initial(spec, 24, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    module = build(spec)
    load(module, weights, 24)

    logits = module(torch.rand(5, *spec.input, dtype=torch.float64))

    assert not logits.any()
    assert weights.shape == (parameter_count(spec),)
    assert np.array_equal(weights, initial(spec, 24, seed=1))
    if len(spec.layers) > 1:
        assert not np.array_equal(weights, initial(spec, 24, seed=2))


def test_inputs_are_centered_and_scaled() -> None:
    """(value - center) / scale from millionths; a center that is not a float stays exact."""
    column = Column("x", "1", (), 0, 10 * MICRO, 0, 100_000, 200_000)
    rows = prepare(
        logistic_regression(1), Preprocessing((column,), column), Table(((300_000,),), (1,)), (b"",)
    )

    assert rows.inputs.tolist() == [[1.0]]
    assert rows.labels.tolist() == [1]


def test_rows_are_taken_in_the_order_asked() -> None:
    """Inputs, labels and leaves stay together."""
    column = Column("x", "1", (), 0, 10 * MICRO, 0, 0, MICRO)
    table = Table(tuple((n * MICRO,) for n in range(4)), (0, 1, 0, 1))
    leaves = (b"0", b"1", b"2", b"3")
    rows = prepare(logistic_regression(1), Preprocessing((column,), column), table, leaves)

    taken = rows.take([3, 0])

    assert taken.inputs.tolist() == [[3.0], [0.0]]
    assert taken.labels.tolist() == [1, 0]
    assert taken.leaves == (b"3", b"0")
    assert len(taken) == 2


def test_losses_are_log_losses_in_nat() -> None:
    """Indifferent logits cost log 2 for two classes and log 4 for four."""
    labels = torch.tensor([0, 1])

    binary = losses(Output.BINARY, torch.zeros(2, 1, dtype=torch.float64), labels)
    classes = losses(Output.CLASSES, torch.zeros(2, 4, dtype=torch.float64), labels)

    assert binary.tolist() == pytest.approx([np.log(2)] * 2)
    assert classes.tolist() == pytest.approx([np.log(4)] * 2)
