"""The meaning of a model spec: shapes through its layers, its parameters, and built-in specs."""

from dataclasses import dataclass
from math import prod

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

Shape = tuple[int, ...]  # without the leading axis of rows

PARAMETERS_MAX = 2**25  # of one model: 128 MiB of int32
ACTIVATIONS_MAX = 2**25  # numbers that one row takes between two layers: 256 MiB of float64
OVERHEAD_BYTES_MAX = 256 * 1024  # of a blob: names of 128 tensors, 1,024 segments of 104 bytes


@dataclass(frozen=True, slots=True)
class Parameter:
    """A tensor of a model; `name` is what `torch.nn.Sequential` calls it, such as `0.weight`."""

    name: str
    shape: Shape

    @property
    def size(self) -> int:
        """The number of its coordinates."""
        return prod(self.shape)


def parameters(spec: ModelSpec) -> tuple[Parameter, ...]:
    """The parameters in the order in which a flat vector holds them: by layer, weight then bias."""
    found: list[Parameter] = []
    for index, layer in enumerate(spec.layers):
        match layer:
            case Linear(inputs, outputs):
                weight: Shape = (outputs, inputs)
                bias = outputs
            case Conv2d(inputs, outputs, kernel):
                weight, bias = (outputs, inputs, kernel, kernel), outputs
            case GroupNorm(_, channels):
                weight, bias = (channels,), channels
            case Relu() | AveragePool() | Flatten():
                continue
        found.append(Parameter(f"{index}.weight", weight))
        found.append(Parameter(f"{index}.bias", (bias,)))
    return tuple(found)


def parameter_count(spec: ModelSpec) -> int:
    """The number of coordinates of a weight vector."""
    return sum(parameter.size for parameter in parameters(spec))


def check_spec(spec: ModelSpec) -> Shape:
    """The shape of the output, when every layer fits the one before; raises `Refused("spec.*")`."""
    shape: Shape = spec.input
    _check_activations("input", shape)
    for index, layer in enumerate(spec.layers):
        shape = _after(index, layer, shape)
        _check_activations(f"layer {index}", shape)
    _check_output(spec.output, shape)
    count = parameter_count(spec)
    if not 1 <= count <= PARAMETERS_MAX:
        raise Refused("spec.parameters", f"expected 1 to {PARAMETERS_MAX}, found {count}")
    return shape


def _after(index: int, layer: Layer, shape: Shape) -> Shape:
    """The shape after `layer`; raises `Refused` where it does not fit `shape`."""
    match layer, shape:
        case Linear(inputs, outputs), (width,) if width == inputs:
            return (outputs,)
        case Relu(), _:
            return shape
        case Conv2d(inputs, outputs, kernel, stride, padding), (channels, height, width) if (
            channels == inputs and kernel <= min(height, width) + 2 * padding
        ):
            grown = (height + 2 * padding, width + 2 * padding)
            return (outputs, *((side - kernel) // stride + 1 for side in grown))
        case GroupNorm(groups, channels), (first, *_) if (
            # a group of one number is normalised to zero
            first == channels and channels % groups == 0 and prod(shape) > groups
        ):
            return shape
        case AveragePool(size), (channels, height, width) if size <= min(height, width):
            return (channels, height // size, width // size)
        case Flatten(), _:
            return (prod(shape),)
    raise Refused("spec.shape", f"expected layer {index} to fit {shape}, found {layer}")


def _check_activations(where: str, shape: Shape) -> None:
    if prod(shape) > ACTIVATIONS_MAX:
        raise Refused(
            "spec.activations",
            f"expected at most {ACTIVATIONS_MAX} numbers a row after {where}, found {prod(shape)}",
        )


def _check_output(output: Output, shape: Shape) -> None:
    match output, shape:
        case (Output.BINARY, (1,)):
            return
        case (Output.CLASSES, (classes,)) if classes >= 2:
            return
    expected = "1 logit" if output is Output.BINARY else "a logit for each of 2 or more classes"
    raise Refused("spec.output", f"expected {expected}, found an output of shape {shape}")


def logistic_regression(inputs: int) -> ModelSpec:
    """One logit from `inputs` numbers."""
    return ModelSpec((inputs,), (Linear(inputs, 1),), Output.BINARY)


def mlp(inputs: int, hidden: tuple[int, ...], classes: int = 2) -> ModelSpec:
    """Dense layers of widths `hidden` with ReLU between; two classes give one logit."""
    layers: list[Layer] = []
    width = inputs
    for following in hidden:
        layers += (Linear(width, following), Relu())
        width = following
    return _classify((inputs,), layers, width, classes)


def small_cnn(channels: int, side: int, classes: int) -> ModelSpec:
    """Two 3x3 convolutions with GroupNorm, each halved by pooling, then one dense layer.

    `side` is the height and width of the image, at least 4.
    """
    layers: list[Layer] = []
    for inputs, outputs in ((channels, 8), (8, 16)):
        layers += (Conv2d(inputs, outputs, 3, 1, 1), GroupNorm(4, outputs), Relu(), AveragePool(2))
    layers.append(Flatten())
    return _classify((channels, side, side), layers, 16 * (side // 4) ** 2, classes)


def _classify(shape: Shape, layers: list[Layer], width: int, classes: int) -> ModelSpec:
    binary = classes == 2
    last = Linear(width, 1 if binary else classes)
    return ModelSpec(shape, (*layers, last), Output.BINARY if binary else Output.CLASSES)


def check_blob_bytes(spec: ModelSpec, found: int) -> None:
    """Check the size that is claimed for weights or an update; raises `Refused("blob.bytes")`.

    A coordinate takes 4 bytes; around them are names and, with an update, the trace.
    """
    count = parameter_count(spec)
    low, high = 4 * count, 4 * count + OVERHEAD_BYTES_MAX
    if not low <= found <= high:
        raise Refused(
            "blob.bytes", f"expected {low} to {high} bytes for {count} parameters, found {found}"
        )
