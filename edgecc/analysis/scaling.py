"""Which values of a network can be multiplied, or moved, by a number a channel without changing its answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgecc import ir
from edgecc.quant.rules import clip_limits

# f(s x) = s f(x) for every channel and s > 0. Clip: where it cuts off nothing but what is below 0.
_CARRIERS = frozenset(
    {
        "Relu", "Clip", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool",
        "Identity", "Flatten", "Reshape", "Add",
    }
)  # fmt: skip
# f(x + t) = f(x) + t for every channel, and Add(x + t, y + u) = x + y + t + u; pools only where they pad nothing.
_MOVED = frozenset(
    {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Flatten", "Reshape", "Add"}
)
LAYERS = ("Conv", "Gemm")


@dataclass(frozen=True)
class Group:
    """Values that must be multiplied alike.

    Attributes:
        values: in graph order; (batch, channels, ...), or the same flattened.
        channels: how many.
        writers, readers: the layers whose weights take the factors in, and out again.
        limit: where the group's Clips cut off; infinite without one.
        movable: whether each writer's output may be moved by a vector of its own: biases take it up.
    """

    values: tuple[ir.Value, ...]
    channels: int
    writers: tuple[ir.Node, ...]
    readers: tuple[ir.Node, ...]
    limit: float = float("inf")
    movable: bool = False


def scalable_groups(model: ir.Model) -> tuple[list[Group], dict[str, str]]:
    """The groups, and of each other one of its values with the reason why it is none."""
    found, refused = [], {}
    for values in _connected(model):
        result = _group(model, values)
        if isinstance(result, Group):
            found.append(result)
        elif result:
            refused[str(values[0].name)] = result
    return found, refused


def _connected(model: ir.Model) -> list[list[ir.Value]]:
    """Float values that carriers connect, each set in graph order."""
    parent: dict[ir.Value, ir.Value] = {}

    def root(value: ir.Value) -> ir.Value:
        parent.setdefault(value, value)
        while parent[value] is not value:
            parent[value] = parent[parent[value]]
            value = parent[value]
        return value

    for node in model.graph:
        if node.op_type in LAYERS:
            root(node.outputs[0])
        for value in _carried(node):
            parent[root(value)] = root(node.outputs[0])
    sets: dict[ir.Value, list[ir.Value]] = {}
    for value in list(parent):
        sets.setdefault(root(value), []).append(value)
    return list(sets.values())


def _carried(node: ir.Node) -> list[ir.Value]:
    if node.op_type not in _CARRIERS or node.domain not in ("", "ai.onnx"):
        return []
    inputs = node.inputs if node.op_type == "Add" else node.inputs[:1]
    return [value for value in inputs if value is not None and ir.constant(value) is None]


def _group(model: ir.Model, values: list[ir.Value]) -> Group | str:
    """The group; or why not ("": nothing to report)."""
    writers: list[ir.Node] = []
    readers: list[ir.Node] = []
    limits = set()
    channels = 0
    for value in values:
        dims, node = ir.dims(value), value.producer()
        if value.is_graph_input() or value.is_graph_output() or node is None:
            return "an input or an output of the network belongs to it"
        if dims is None or len(dims) < 2 or dims[1] is None:
            return "its channels are not known"
        if len(dims) > 2:
            channels = channels or dims[1]
            if dims[1] != channels:
                return "its values have different numbers of channels"
        if node.op_type in LAYERS:
            writers.append(node)
        elif (reason := _carrier_objection(node)) is not None:
            return reason
        if node.op_type == "Clip":
            limits.add(clip_limits(node)[1])
        for use in value.uses():
            reader = use.node
            if reader.graph is not model.graph:
                return "a branch or a loop reads it"
            if reader.op_type in LAYERS and use.idx == 0:
                readers.append(reader)
            elif value not in _carried(reader):
                return f"{ir.label(reader)} ({reader.op_type}) reads it, which is not linear in it"
    if not channels or not writers or not readers:
        return ""
    if len(limits) > 1:
        return "its Clips have different limits"
    for node in {*writers, *readers}:
        if (reason := _layer_objection(node)) is not None:
            return f"{ir.label(node)}: {reason}"
    if any((ir.dims(value) or ())[1] % channels for value in values):  # type: ignore[operator]
        return "its values have different numbers of channels"
    limit = min(limits, default=float("inf"))
    movable = _movable(values, [*writers, *readers], readers)
    return Group(tuple(values), channels, tuple(writers), tuple(readers), limit, movable)


def _movable(values: Iterable[ir.Value], layers: Iterable[ir.Node], readers: Iterable[ir.Node]) -> bool:
    """Whether the nodes that carry values, and those that read them, move with them."""
    nodes = {user for value in values for user in value.consumers()} | {value.producer() for value in values}
    carriers = [node for node in nodes if node is not None and node.op_type not in LAYERS]
    return (
        all(node.op_type in _MOVED for node in carriers)
        and not any(_pads(node) for node in (*carriers, *readers))
        and all(_has_plain_bias(node) for node in layers)
    )


def _pads(node: ir.Node) -> bool:
    """Whether zeros, or less than whole windows, are part of what it computes."""
    padded = any(ir.attribute(node, "pads", ())) or ir.attribute(node, "auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    )
    return padded or bool(ir.attribute(node, "ceil_mode", 0))


def _has_plain_bias(node: ir.Node) -> bool:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    return bias is not None and ir.attribute(node, "alpha", 1.0) == ir.attribute(node, "beta", 1.0) == 1.0


def _carrier_objection(node: ir.Node) -> str | None:
    label = f"{ir.label(node)} ({node.op_type})"
    out, source = ir.dims(node.outputs[0]), ir.dims(node.inputs[0]) if node.inputs[0] is not None else None
    if node.op_type not in _CARRIERS:
        return f"{label} computes it, which is not linear"
    if node.op_type == "Clip" and clip_limits(node)[0] != 0.0:
        return f"{label} cuts off at another number than 0"
    if node.op_type == "Add" and (len(_carried(node)) != 2 or len({ir.dims(v) for v in _carried(node)}) != 1):
        return f"{label} adds a constant, or something of another shape"
    if node.op_type in ("Flatten", "Reshape") and not _keeps_channels(source, out):
        return f"{label} moves the channels"
    return None


def _keeps_channels(source: tuple[int | None, ...] | None, out: tuple[int | None, ...] | None) -> bool:
    """Whether (batch, channels, ...) becomes (batch, channels * ...)."""
    if source is None or out is None or len(out) != 2 or len(source) < 3 or source[0] != out[0]:
        return False
    size = 1
    for d in source[1:]:
        if d is None:
            return False
        size *= d
    return out[1] == size


def _layer_objection(node: ir.Node) -> str | None:
    weight = node.inputs[1]
    constants: Iterable[ir.Value] = [v for v in node.inputs[1:3] if v is not None]
    if any(ir.constant(v) is None for v in constants):
        return "its weights are computed"
    if any(len(v.uses()) > 1 or v.is_graph_output() for v in constants):
        return "other nodes read its weights, too"
    if weight is None or weight.dtype != ir.DataType.FLOAT:
        return "its weights are not float32"
    if node.op_type == "Gemm" and ir.attribute(node, "transA", 0):
        return "it transposes its input"
    return None
