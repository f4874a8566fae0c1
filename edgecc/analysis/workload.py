"""What the layers of a network make a processor do, in the kinds that latency models tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edgecc import ir
from edgecc.analysis.cost import elements, macs

KINDS = (
    "conv1x1", "conv3x3", "conv3x3_odd", "conv", "depthwise", "grouped", "fc", "exp", "power", "other",
)  # fmt: skip
"""Convolution with a 1x1 kernel; 3x3 with stride 1 (Winograd's); likewise with channels that Winograd kernels refuse;
any other; each channel alone; in groups; matrix product; elementwise with exponentials; with powers; the rest."""

RATES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "conv1x1": ("macs", ("conv1x1",)),
    "conv3x3": ("macs", ("conv3x3",)),
    "conv3x3_odd": ("macs", ("conv3x3_odd",)),
    "conv": ("macs", ("conv",)),
    "depthwise": ("macs", ("depthwise",)),
    "grouped": ("macs", ("grouped",)),
    "fc": ("macs", ("fc",)),
    "moved": ("moved", ("conv1x1", "conv3x3_odd", "conv", "grouped", "fc", "other")),
    "conv3x3_moved": ("moved", ("conv3x3",)),
    "depthwise_moved": ("moved", ("depthwise",)),
    "exp_moved": ("moved", ("exp",)),
    "power_moved": ("moved", ("power",)),
    "written": ("written", ("conv1x1", "conv3x3", "conv3x3_odd", "conv", "depthwise", "grouped", "fc")),
    "weights": ("weights", KINDS),
    "layers": ("layers", KINDS),
}
"""Rate of a latency model -> what it is multiplied by, in layers of which kinds: multiply-accumulates, elements
that are read and written, elements that are written (and so rescaled), elements of constants, or layers."""

_EXPONENTIAL = frozenset({"Sigmoid", "Softmax", "Gelu", "Tanh", "Exp", "Erf", "Swish", "LogSoftmax"})
_POWERS = frozenset({"LRN", "Pow"})
# Winograd kernels read and write whole vectors of 4 floats; ncnn (convolution_arm.cpp) has them from 8 channels on.
_WINOGRAD_MULTIPLE, _WINOGRAD_LEAST = 4, 8
_FREE = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Constant", "QuantizeLinear",
     "DequantizeLinear", "Shape", "Cast"}
)  # fmt: skip
_ABSORBED = frozenset({"Relu", "Clip", "BatchNormalization", "Pad"})


@dataclass(frozen=True)
class Layer:
    """One operator.

    Attributes:
        name, op_type: as in the graph.
        kind: of `KINDS`.
        macs: multiply-accumulates of one inference with batch 1.
        moved: elements of activations that are read and written.
        weights: elements of its constants.
        written: elements of activations that are written, of those in `moved`.
    """

    name: str
    op_type: str
    kind: str
    macs: int
    moved: int
    weights: int
    written: int = 0


def kind_of(
    kernel: tuple[int, ...], stride: int, dilation: int, groups: int, per_group: int, out: int
) -> str:
    """The kind of a convolution with `per_group` input channels in each of its groups and `out` output channels."""
    if groups > 1 and per_group == 1:
        return "depthwise"
    if set(kernel) == {1}:  # in groups, too: a matrix product each
        return "conv1x1"
    if groups > 1:
        return "grouped"
    if kernel != (3, 3) or stride > 1 or dilation > 1:
        return "conv"
    whole = per_group % _WINOGRAD_MULTIPLE == out % _WINOGRAD_MULTIPLE == 0
    return "conv3x3" if whole and min(per_group, out) >= _WINOGRAD_LEAST else "conv3x3_odd"


def amounts(layer: Layer) -> dict[str, float]:
    """What each of `RATES` is multiplied by for one layer."""
    of = {
        "macs": layer.macs, "moved": layer.moved, "written": layer.written, "weights": layer.weights, "layers": 1,
    }  # fmt: skip
    return {rate: float(of[what]) for rate, (what, kinds) in RATES.items() if layer.kind in kinds}


def total_amounts(layers: Iterable[Layer]) -> dict[str, float]:
    """Sums of `amounts`, by every rate."""
    found = dict.fromkeys(RATES, 0.0)
    for layer in layers:
        for rate, amount in amounts(layer).items():
            found[rate] += amount
    return found


def layers_of(model: ir.Model) -> list[Layer]:
    """What runtimes execute of a network with known shapes: activations and BatchNorm within the convolution before."""
    found = []
    for node in model.graph:
        if node.op_type in _FREE or absorbed(node):
            continue
        reads = [v for v in node.inputs if v is not None and not _constant(v)]
        written = sum(elements(v) for v in node.outputs)
        moved = sum(map(elements, reads)) + written
        weights = sum(elements(v) for v in node.inputs if v is not None and _constant(v))
        found.append(Layer(ir.label(node), node.op_type, _kind(node), macs(node), moved, weights, written))
    return found


def absorbed(node: ir.Node) -> bool:
    """Whether a runtime executes the node within the linear operator before it, or (Pad) behind it."""
    if node.op_type == "Add":
        return _bias(node)
    if node.op_type not in _ABSORBED or node.inputs[0] is None:
        return False
    if node.op_type == "Pad":
        return all(use.node.op_type == "Conv" for use in node.outputs[0].uses())
    maker = past_qdq(node.inputs[0])
    linear = ("Conv", "Gemm", "MatMul", "Add", "ConvTranspose", "BatchNormalization")
    return maker is not None and maker.op_type in linear


def _bias(node: ir.Node) -> bool:
    """Whether it adds a vector of constants to a matrix product."""
    values = [v for v in node.inputs if v is not None]
    constants = [v for v in values if _constant(v)]
    if len(values) != 2 or len(constants) != 1 or elements(constants[0]) != _last(node):
        return False
    (data,) = (v for v in values if v is not constants[0])
    maker = past_qdq(data)
    return maker is not None and maker.op_type == "MatMul"


def _last(node: ir.Node) -> int:
    return (ir.dims(node.outputs[0]) or (0,))[-1] or 0


def past_qdq(value: ir.Value) -> ir.Node | None:
    """What makes a value, conversions aside; None for inputs and constants."""
    maker = value.producer()
    while maker is not None and maker.op_type in ("QuantizeLinear", "DequantizeLinear"):
        first = maker.inputs[0]
        maker = None if first is None else first.producer()
    return maker


def _constant(value: ir.Value) -> bool:
    if value.const_value is not None and not value.is_graph_input():
        return True
    maker = value.producer()
    first = maker.inputs[0] if maker is not None and maker.op_type == "DequantizeLinear" else None
    return first is not None and first.const_value is not None


def _kind(node: ir.Node) -> str:
    if node.op_type in ("Gemm", "MatMul"):
        return "fc"
    if node.op_type not in ("Conv", "ConvTranspose"):
        named = {"exp": _EXPONENTIAL, "power": _POWERS}
        return next((kind for kind, types in named.items() if node.op_type in types), "other")
    weight, groups = node.inputs[1], int(ir.attribute(node, "group", 1))
    shape = ir.static_dims(weight) if weight is not None and ir.is_static(weight) else ()
    strides = tuple(ir.attribute(node, "strides", ()) or (1,))
    dilations = tuple(ir.attribute(node, "dilations", ()) or (1,))
    per_group, out = (
        (shape[1], shape[0]) if node.op_type == "Conv" else (shape[0] // groups, shape[1] * groups)
    )
    return kind_of(tuple(shape[2:]), max(strides), max(dilations), groups, per_group, out)
