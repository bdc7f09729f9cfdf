"""What a graph computes, read as a list of layers that maps pass through."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from offramp_runtime import graph
from offramp_runtime.errors import ConfigError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Shape: TypeAlias = tuple[int, int, int]
"""Channels, height, width."""


_NEARLY = 1e-3
"""How far weights may be from multiples of their unit."""
_WINDOW = {"dilations": [1, 1], "pads": [0, 0, 0, 0], "strides": [1, 1]}
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Conv": {**_WINDOW, "group": 1},
    "MaxPool": {**_WINDOW, "ceil_mode": 0},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
}
"""Of attributes that a node may leave out."""


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution over a border of zeros, or a linear layer on maps of one pixel."""

    source: str
    sink: str
    weight: NDArray[np.float32]
    """(out, in, size, size)."""
    bias: NDArray[np.float32]
    """(out,)."""
    stride: int
    relu: bool
    unit: NDArray[np.float32] | None = None
    """What the weights of each output channel are multiples of, (out,), where they are 8-bit numbers."""
    groups: int = 1
    """Of channels that have nothing to do with each other."""

    @property
    def size(self) -> int:
        """Columns of its window."""
        return int(self.weight.shape[3])


@dataclass(frozen=True)
class MaxPool:
    """The largest of every window of values that are not negative, over a border of zeros."""

    source: str
    sink: str
    size: int
    stride: int


@dataclass(frozen=True)
class Mean:
    """Of every channel."""

    source: str
    sink: str


@dataclass(frozen=True)
class Concat:
    """Maps one behind the other."""

    sources: tuple[str, ...]
    sink: str


Layer: TypeAlias = Conv | MaxPool | Mean | Concat


@dataclass(frozen=True, eq=False)
class Network:
    """Layers in an order in which they can run."""

    layers: tuple[Layer, ...]
    shapes: Mapping[str, Shape]
    """Of every map."""
    stages: Mapping[str, int]
    """Which stage gives a map; the images are there before stage 0."""
    ways: tuple[frozenset[str], ...]
    """What is needed straight to each exit, (K,)."""
    units: Mapping[str, float] = field(default_factory=dict)
    """Of maps that are kept as unsigned 8-bit numbers: what their values are multiples of."""

    @property
    def num_exits(self) -> int:
        """K."""
        return len(self.ways)


def sources(layer: Layer) -> tuple[str, ...]:
    """The maps it reads."""
    return layer.sources if isinstance(layer, Concat) else (layer.source,)


def read_network(whole: "ModelProto", num_exits: int) -> Network:
    """The layers of a graph of all exits.

    Raises:
        ConfigError: it does something that is not known here.
    """
    found = _Reader(whole)
    if found.units:
        check_units(found.layers, found.units, num_exits)
    made = [layer.sink for layer in found.layers]
    stages = {graph.IMAGES: -1}
    for k, piece in enumerate(graph.cut_stages(whole, num_exits)):
        given = {name for node in piece.model.graph.node for name in node.output}
        stages |= {name: k for name in made if name in given}
    ways = []
    for k in range(num_exits):
        given = {name for node in graph.cut_direct(whole, k).model.graph.node for name in node.output}
        ways.append(frozenset(name for name in made if name in given))
    return Network(tuple(found.layers), found.shapes, stages, tuple(ways), found.units)


class _Reader:
    """Goes through the nodes once."""

    def __init__(self, whole: "ModelProto") -> None:
        self.layers: list[Layer] = []
        dims = whole.graph.input[0].type.tensor_type.shape.dim
        channels, height, width = (dim.dim_value for dim in dims[1:])
        if min(channels, height, width) < 1:
            raise ConfigError("runtime 'native' needs to know the size of images; take another runtime")
        self.shapes: dict[str, Shape] = {graph.IMAGES: (channels, height, width)}
        self._constants = _constants(whole)
        self._nodes = [node for node in whole.graph.node if not set(node.output) <= self._constants.keys()]
        self._readers = Counter(name for node in self._nodes for name in node.input)
        self._units_of_weights = {
            node.output[0]: self._constants[node.input[1]]
            for node in graph.fixed_nodes(whole)
            if node.op_type == "DequantizeLinear"
        }
        self.units = self._all_units()
        self._same: dict[str, str] = {}
        """Maps that were rounded, by what the graph calls them afterwards."""
        self._not_negative = set(self.units)
        convs = {name for node in self._nodes if node.op_type == "Conv" for name in node.output}
        relus = {node.input[0]: node.output[0] for node in self._nodes if node.op_type == "Relu"}
        self._relus = {name: after for name, after in relus.items() if name in convs and self._readers[name] == 1}
        """What a ReLU right behind a convolution gives, where nobody else reads the convolution."""
        for node in self._nodes:
            self._add(node)

    def _add(self, node: "NodeProto") -> None:
        if node.op_type == "Relu" and node.input[0] in self._relus:
            return  # part of the convolution
        read = {
            "Conv": self._conv,
            "Gemm": self._gemm,
            "MaxPool": self._max_pool,
            "ReduceMean": self._mean,
            "Concat": self._concat,
            "QuantizeLinear": self._quantise,
            "DequantizeLinear": self._dequantise,
        }
        read.get(node.op_type, _refuse)(node, _attributes(node))

    def _quantise(self, node: "NodeProto", given: Mapping[str, Any]) -> None:
        if node.input[0] in self._same:
            raise _unknown(node, {**given, "of rounded": node.input[0]})
        self._same[node.output[0]] = node.input[0]

    def _dequantise(self, node: "NodeProto", given: Mapping[str, Any]) -> None:
        if node.input[0] not in self._same or self._unit(node) != self.units[self._same[node.input[0]]]:
            raise _unknown(node, given)
        self._same[node.output[0]] = self._same[node.input[0]]

    def _all_units(self) -> dict[str, float]:
        """Of the maps that are rounded."""
        units: dict[str, float] = {}
        for node in (node for node in self._nodes if node.op_type == "QuantizeLinear"):
            unit = self._unit(node)
            if units.setdefault(node.input[0], unit) != unit:
                raise _unknown(node, {"scales": f"{unit} and {units[node.input[0]]}"})
        return units

    def _unit(self, node: "NodeProto") -> float:
        """Of 8-bit numbers from 0 on."""
        unit, zero = (self._constants.get(name) for name in [*node.input[1:], ""][:2])
        if unit is None or zero is None or unit.ndim or zero.dtype != np.uint8 or zero != 0:
            raise _unknown(node, {"zero point": zero, "scale": unit})
        return float(unit)

    def _source(self, node: "NodeProto", place: int = 0) -> str:
        name: str = node.input[place]
        if name in self.units:  # others read it rounded, and it lies there only once
            raise _unknown(node, {"of unrounded": name})
        return self._same.get(name, name)

    def _conv(self, node: "NodeProto", given: Mapping[str, Any]) -> None:
        weight, bias = self._parameters(node, given)
        size, stride = weight.shape[2], given["strides"][0]
        plain = given["group"] == 1 and _is_plain(given) and weight.shape[2] == weight.shape[3]
        if not (plain and size % 2 and set(given["pads"]) == {size // 2} and given["strides"] in ([1, 1], [2, 2])):
            raise _unknown(node, given)
        sink = self._relus.get(node.output[0], node.output[0])
        unit = self._unit_of_weights(node, weight)
        self._keep_conv(Conv(self._source(node), sink, weight, bias, stride, sink != node.output[0], unit))

    def _unit_of_weights(self, node: "NodeProto", weight: NDArray[Any]) -> NDArray[np.float32] | None:
        """Of each output channel, where they are 8-bit numbers, (out,)."""
        given = self._units_of_weights.get(node.input[1])
        if given is None:
            return None
        if given.size not in (1, len(weight)):
            raise _unknown(node, {"scales": given.size})
        unit = np.broadcast_to(given.ravel(), len(weight))
        with np.errstate(divide="ignore", invalid="ignore"):
            numbers = weight / unit[:, None, None, None]
        whole = np.rint(numbers)
        if not (np.abs(numbers - whole).max() < _NEARLY and whole.min() >= -128 and whole.max() <= 127):
            raise _unknown(node, {"weights": "no 8-bit multiples of a scale for each output channel"})
        return unit

    def _gemm(self, node: "NodeProto", given: Mapping[str, Any]) -> None:
        weight, bias = self._parameters(node, given)
        if (given["alpha"], given["beta"], given["transA"], given["transB"]) != (1, 1, 0, 1):
            raise _unknown(node, given)
        self._keep_conv(Conv(self._source(node), node.output[0], weight[:, :, None, None], bias, 1, relu=False))

    def _parameters(self, node: "NodeProto", given: Mapping[str, Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Weight and bias."""
        if len(node.input) != 3 or not self._constants.keys() >= set(node.input[1:]):
            raise _unknown(node, {**given, "constants": f"{len(self._constants.keys() & set(node.input))} of 2"})
        return self._constants[node.input[1]], self._constants[node.input[2]]

    def _keep_conv(self, conv: Conv) -> None:
        _, height, width = self.shapes[conv.source]
        self.shapes[conv.sink] = (len(conv.weight), _fewer(height, conv.stride), _fewer(width, conv.stride))
        if conv.relu:
            self._not_negative.add(conv.sink)
        self.layers.append(conv)

    def _max_pool(self, node: "NodeProto", given: Mapping[str, Any]) -> None:
        size, stride = given["kernel_shape"][0], given["strides"][0]
        plain = _is_plain(given) and not given["ceil_mode"] and set(given["pads"]) == {size // 2}
        square = set(given["kernel_shape"]) == {size} and set(given["strides"]) == {stride}
        source = self._source(node)
        if not (plain and square and size % 2 and stride == 2 and source in self._not_negative):
            raise _unknown(node, given)
        if self._readers[source] == 1 and node.output[0] in self.units and source not in self.units:
            self.units[source] = self.units[node.output[0]]  # the largest, rounded, is the largest of what is rounded
        self._check_same_unit(node, (source, node.output[0]))
        channels, height, width = self.shapes[source]
        self.shapes[node.output[0]] = (channels, _fewer(height, stride), _fewer(width, stride))
        self._not_negative.add(node.output[0])
        self.layers.append(MaxPool(source, node.output[0], size, stride))

    def _mean(self, node: "NodeProto", given: Mapping[str, Any]) -> None:
        read = self._constants.get(node.input[1]) if len(node.input) == 2 else None
        axes = [] if read is None else [axis % 4 for axis in read.tolist()]
        if sorted(axes) != [2, 3]:
            raise _unknown(node, {**given, "axes": axes})
        source = self._source(node)
        self.shapes[node.output[0]] = (self.shapes[source][0], 1, 1)
        self.layers.append(Mean(source, node.output[0]))

    def _concat(self, node: "NodeProto", given: Mapping[str, Any]) -> None:
        if given["axis"] != 1:
            raise _unknown(node, given)
        parts = tuple(self._source(node, place) for place in range(len(node.input)))
        self._check_same_unit(node, (*parts, node.output[0]))
        shapes = [self.shapes[name] for name in parts]
        self.shapes[node.output[0]] = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        self.layers.append(Concat(parts, node.output[0]))

    def _check_same_unit(self, node: "NodeProto", names: tuple[str, ...]) -> None:
        """What is only moved is not rounded anew."""
        units = {self.units.get(name) for name in names}
        if len(units) > 1:
            raise _unknown(node, {"units": sorted(map(str, units))})


def check_units(layers: Sequence[Layer], units: Mapping[str, float], num_exits: int) -> None:
    """Either bytes or floats are read and given, as each kind of layer can.

    Raises:
        ConfigError: a layer of other ones.
    """
    floats = {graph.IMAGES, *map(graph.logits_name, range(num_exits))}
    floats |= {layer.sink for layer in layers if isinstance(layer, Mean)}
    for layer in layers:
        read = {units.get(name) for name in sources(layer)}
        if isinstance(layer, Conv):
            wrong = (None in read) != (layer.unit is None)
        elif isinstance(layer, Concat):
            wrong = read != {units.get(layer.sink)}
        else:
            wrong = None in read or (isinstance(layer, MaxPool) and read != {units.get(layer.sink)})
        if wrong or floats & units.keys():
            raise ConfigError(
                f"runtime 'native' cannot compute {type(layer).__name__} {layer.sink} with what is rounded to 8 bits here and "
                "what is not; take another runtime"
            )


def _constants(whole: "ModelProto") -> dict[str, NDArray[Any]]:
    """Everything that does not depend on the images, by name."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    constants = {constant.name: onnx.numpy_helper.to_array(constant) for constant in whole.graph.initializer}
    fixed = graph.fixed_nodes(whole)
    names = [name for node in fixed for name in node.output]
    outputs = [onnx.ValueInfoProto(name=name) for name in names]
    held = onnx.helper.make_graph(fixed, "constants", [], outputs, list(whole.graph.initializer))
    model = onnx.helper.make_model(held, opset_imports=whole.opset_import, ir_version=whole.ir_version)
    return constants | dict(zip(names, ReferenceEvaluator(model).run(None, {}), strict=True))


def _attributes(node: "NodeProto") -> dict[str, Any]:
    import onnx

    given = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    given["auto_pad"] = bytes(given.get("auto_pad", b"NOTSET")).decode()
    return dict(_DEFAULTS.get(node.op_type, {})) | given


def _is_plain(given: Mapping[str, Any]) -> bool:
    return set(given["dilations"]) == {1} and given["auto_pad"] == "NOTSET"


def _fewer(side: int, stride: int) -> int:
    """Pixels that a window over a border of half its size gives."""
    return -(-side // stride)


def _refuse(node: "NodeProto", given: Mapping[str, Any]) -> None:
    raise _unknown(node, given)


def _unknown(node: "NodeProto", given: Mapping[str, object]) -> ConfigError:
    facts = ", ".join(f"{name} {value}" for name, value in sorted(given.items()))
    return ConfigError(f"runtime 'native' cannot compute {node.op_type} ({facts}); take another runtime")
