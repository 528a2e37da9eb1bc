"""Model specs: shapes through layers, parameters in order, and specs that are refused."""

import pytest

from fl.spec import (
    PARAMETERS_MAX,
    Parameter,
    check_blob_bytes,
    check_spec,
    logistic_regression,
    mlp,
    parameter_count,
    parameters,
    small_cnn,
)
from fl.weights import update_size, weights_size
from vm.record import (
    AveragePool,
    Conv2d,
    Flatten,
    GroupNorm,
    Layer,
    Linear,
    ModelSpec,
    Output,
    Relu,
)
from vm.refusal import Refused
from vm.shape import pack, unpack
from vm.terms import SEGMENTS_MAX


@pytest.mark.parametrize(
    ("spec", "count", "shape"),
    [
        (logistic_regression(36), 37, (1,)),
        (mlp(64, (32, 16), 10), 64 * 32 + 32 + 32 * 16 + 16 + 16 * 10 + 10, (10,)),
        (mlp(36, (8,)), 36 * 8 + 8 + 8 + 1, (1,)),
        (small_cnn(1, 8, 10), 80 + 16 + 1_168 + 32 + 64 * 10 + 10, (10,)),
    ],
)
def test_built_in_specs_are_sound(spec: ModelSpec, count: int, shape: tuple[int, ...]) -> None:
    """Each fits together, has the parameters that one counts by hand, and survives encoding."""
    assert check_spec(spec) == shape
    assert parameter_count(spec) == count
    assert unpack(ModelSpec, pack(spec)) == spec


def test_parameters_stand_in_order_of_layers() -> None:
    """Weight, then bias, under the names of torch's Sequential; layers without any are skipped."""
    assert parameters(mlp(3, (2,))) == (
        Parameter("0.weight", (2, 3)),
        Parameter("0.bias", (2,)),
        Parameter("2.weight", (1, 2)),
        Parameter("2.bias", (1,)),
    )
    assert [parameter.name for parameter in parameters(small_cnn(1, 8, 10))] == [
        *("0.weight", "0.bias", "1.weight", "1.bias"),
        *("4.weight", "4.bias", "5.weight", "5.bias"),
        *("9.weight", "9.bias"),
    ]


def spec(shape: tuple[int, ...], *layers: Layer, output: Output = Output.BINARY) -> ModelSpec:
    """A spec of these layers."""
    return ModelSpec(shape, layers, output)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (spec((3,), Linear(4, 1)), "spec.shape"),
        (spec((1, 3), Linear(3, 1)), "spec.shape"),  # needs Flatten
        (spec((3,), Conv2d(3, 1, 1, 1, 0)), "spec.shape"),
        (spec((2, 8, 8), Conv2d(1, 4, 3, 1, 1)), "spec.shape"),  # channels
        (spec((1, 4, 4), Conv2d(1, 1, 7, 1, 1)), "spec.shape"),  # kernel beyond padded image
        (spec((6, 4, 4), GroupNorm(4, 6)), "spec.shape"),  # 6 channels in 4 groups
        (spec((6, 4, 4), GroupNorm(2, 4)), "spec.shape"),
        (spec((4,), GroupNorm(4, 4)), "spec.shape"),  # groups of one number
        (spec((1, 3, 8), AveragePool(4)), "spec.shape"),
        (spec((8,), AveragePool(2)), "spec.shape"),
        (spec((3,), Linear(3, 2)), "spec.output"),
        (spec((3,), Linear(3, 1), output=Output.CLASSES), "spec.output"),
        (spec((1, 2, 2), Conv2d(1, 1, 1, 1, 0)), "spec.output"),
        (spec((1,), Relu()), "spec.parameters"),
        (spec((8_192,), Linear(8_192, 8_192), Linear(8_192, 1)), "spec.parameters"),
        (spec((65_536, 65_536), Flatten(), Linear(1, 1)), "spec.activations"),
        (spec((1, 512, 512), Conv2d(1, 65_536, 1, 1, 0)), "spec.activations"),
    ],
)
def test_spec_is_refused(bad: ModelSpec, code: str) -> None:
    """A layer that does not fit, an output that is no answer, or too much memory."""
    with pytest.raises(Refused) as refused:
        check_spec(bad)

    assert refused.value.code == code


def test_largest_model_is_accepted() -> None:
    """As many parameters as the bound says are fine, and one layer more is not."""
    exact = (Linear(65_535, 512),)
    assert parameter_count(spec((65_535,), *exact)) == PARAMETERS_MAX
    check_spec(spec((65_535,), *exact, output=Output.CLASSES))

    with pytest.raises(Refused, match=r"spec\.parameters"):
        check_spec(spec((65_535,), *exact, Linear(512, 1)))


def test_shapes_follow_the_layers() -> None:
    """Stride, padding and pooling halve and keep as in the usual definition."""
    layers = (Conv2d(1, 4, 3, 2, 1), GroupNorm(2, 4), Relu(), AveragePool(2), Flatten())

    found = check_spec(spec((1, 7, 11), *layers, Linear(4 * 2 * 3, 5), output=Output.CLASSES))

    assert found == (5,)


def test_blob_has_four_bytes_a_parameter_and_little_more() -> None:
    """A size below or far above is refused before anybody fetches the blob."""
    model = logistic_regression(2)
    for size in (12, 12 + 256 * 1024):
        check_blob_bytes(model, size)

    for size in (11, 12 + 256 * 1024 + 1):
        with pytest.raises(Refused, match=r"blob\.bytes"):
            check_blob_bytes(model, size)


@pytest.mark.parametrize("model", [logistic_regression(1), mlp(4, (4,) * 31), small_cnn(1, 8, 10)])
def test_files_that_we_write_have_sizes_that_we_take(model: ModelSpec) -> None:
    """The bound holds for weights, and for an update with as many segments as there may be."""
    check_blob_bytes(model, weights_size(model, 24))
    check_blob_bytes(model, update_size(model, 24, SEGMENTS_MAX))
