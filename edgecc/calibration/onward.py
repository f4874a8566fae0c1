"""What the rest of a network makes of errors in the channels of a value: in which of their sums an error matters.

For a value y with channels, a matrix G such that an error e of y, in every place, costs about the sum over places
of e^T G e at the network's outputs, as a share of what these vary by. From the outputs backwards: a layer W makes
W^T G W of it, Relu keeps what it lets through. Errors of different places count as independent.

After the output side of K-FAC (Martens and Grosse 2015, section 3), with the layers' weights in place of measured
gradients and shares of open Relus in place of their patterns: on dnn_l the exact second moments of the gradients give
0.1 dB more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from edgecc import ir

# Channels above which no matrix is kept: 134 MB of float64.
_MOST = 4096
# What lets an error through as it is, or nearly.
_PASSES = ("Identity", "Dropout", "LeakyRelu", "PRelu", "HardSwish", "Elu", "Gelu", "Mish", "Sqrt", "Pad")


@dataclass(frozen=True)
class Gram:
    """The matrix G of a value: (channels, channels), and the axis of the channels."""

    axis: int
    matrix: ir.Array


def onward(
    model: ir.Model,
    dataset: Iterable[Mapping[str, ir.Array]],
    *,
    threads: int | None = 1,
) -> dict[ir.Value, Gram]:
    """G for the values of the network from which the way to the outputs is understood.

    Where it is not (products of two values, attention), the value counts as an output itself.

    Args:
        model: the float network.
        dataset: samples in the ONNX layout, run once.
        threads: of the runtime.
    """
    ends = _ends(model)
    gates = [node.outputs[0] for node in model.graph if node.op_type in _GATES]
    spread, open_ = _measure(model, dataset, ends, gates, threads)
    grams: dict[ir.Value, Gram] = {}
    for value in ends:
        found = _identity(value, spread.get(str(value.name), 0.0))
        if found is not None:
            _add(grams, value, found)
    for node in reversed(list(model.graph)):
        after = grams.get(node.outputs[0])
        if after is None or node.op_type not in _BACK:
            continue
        for value, found in _BACK[node.op_type](node, after, open_):
            _add(grams, value, found)
    return grams


def _ends(model: ir.Model) -> list[ir.Value]:
    """Outputs, and what is read by nodes through which nothing is followed."""
    found = [v for v in model.graph.outputs if v.producer() is not None]
    for node in model.graph:
        if node.op_type not in _BACK:
            found += [v for v in node.inputs if v is not None and v.producer() is not None]
    return [v for v in dict.fromkeys(found) if v.dtype is not None and v.dtype.is_floating_point()]


def _measure(
    model: ir.Model,
    dataset: Iterable[Mapping[str, ir.Array]],
    ends: Iterable[ir.Value],
    gates: Iterable[ir.Value],
    threads: int | None,
) -> tuple[dict[str, float], dict[str, ir.Array]]:
    """By how much values vary (sum of the variances of all elements), and how often each channel of others is open."""
    from edgecc.runtime.ort import OrtRunner

    totals: dict[str, ir.Array] = {}
    shares: dict[str, ir.Array] = {}
    count = 0
    inner = list(dict.fromkeys(str(v.name) for v in (*ends, *gates)))
    limits = {str(v.name): (_limits(v.producer()), _axis(v)) for v in gates}
    runner = OrtRunner.from_model(model, threads=threads, extra_outputs=inner)
    for sample in dataset:
        answers = runner.run(sample, only=inner)
        count += 1
        for value in ends:
            array = answers[str(value.name)].astype(np.float64)
            sums = np.stack([array, array**2]) if array.size else np.zeros((2, 1))
            old = totals.get(str(value.name))
            totals[str(value.name)] = sums if old is None or old.shape != sums.shape else old + sums
        for name, ((low, high), axis) in limits.items():
            array = answers[name]
            inside = (array > low) & (array < high)
            share = inside.mean(axis=tuple(i for i in range(array.ndim) if i != axis))
            shares[name] = share + shares.get(name, 0.0)
    n = max(count, 1)
    spread = {
        name: float(np.maximum(s[1] / n - (s[0] / n) ** 2, 0).sum()) or float((s[1] / n).sum())
        for name, s in totals.items()
    }
    return spread, {name: share / n for name, share in shares.items()}


def _limits(node: ir.Node | None) -> tuple[float, float]:
    """Between which results a Relu or Clip lets errors through."""
    assert node is not None
    if node.op_type == "Relu":
        return 0.0, np.inf
    bounds = [ir.constant(v) for v in [*node.inputs[1:], None, None][:2]]
    low, high = (None if b is None else float(b.reshape(-1)[0]) for b in bounds)
    return -np.inf if low is None else low, np.inf if high is None else high


def _axis(value: ir.Value) -> int | None:
    """Of the channels: 1 of (N, C) and (N, C, H, W), the last of (N, T, C) unless a Conv computes it."""
    dims = ir.dims(value)
    if dims is None or len(dims) < 2:
        return None
    if len(dims) != 3:
        return 1
    node = value.producer()
    while node is not None and node.op_type in (*_PASSES, *_GATES, "Add", "MaxPool", "AveragePool"):
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return 1 if node is not None and node.op_type in ("Conv", "ConvTranspose") else 2


def _identity(value: ir.Value, spread: float) -> Gram | None:
    axis, dims = _axis(value), ir.dims(value)
    if axis is None or dims is None or dims[axis] is None or dims[axis] > _MOST or spread <= 0:  # type: ignore[operator]
        return None
    return Gram(axis, np.eye(int(dims[axis])) / spread)  # type: ignore[arg-type]


def _add(grams: dict[ir.Value, Gram], value: ir.Value, found: Gram) -> None:
    dims, old = ir.dims(value), grams.get(value)
    if value.producer() is None or dims is None or found.axis >= len(dims):
        return
    if dims[found.axis] != len(found.matrix) or len(found.matrix) > _MOST:
        return
    if old is None:
        grams[value] = found
    elif old.axis == found.axis:
        grams[value] = Gram(old.axis, old.matrix + found.matrix)


# One function an operator: node, G of its output, how often gates are open -> G of what it reads.
Back = Callable[[ir.Node, Gram, Mapping[str, ir.Array]], list[tuple[ir.Value, Gram]]]


def _data(node: ir.Node) -> ir.Value:
    assert node.inputs[0] is not None
    return node.inputs[0]


def _through(node: ir.Node, after: Gram, open_: Mapping[str, ir.Array]) -> list[tuple[ir.Value, Gram]]:
    return [(_data(node), after)]


def _gate(node: ir.Node, after: Gram, open_: Mapping[str, ir.Array]) -> list[tuple[ir.Value, Gram]]:
    share = open_.get(str(node.outputs[0].name))
    if share is None or len(share) != len(after.matrix):
        return [(_data(node), after)]
    both = np.outer(share, share)
    np.fill_diagonal(both, share)
    return [(_data(node), Gram(after.axis, after.matrix * both))]


def _conv(node: ir.Node, after: Gram, open_: Mapping[str, ir.Array]) -> list[tuple[ir.Value, Gram]]:
    weight = ir.constant(node.inputs[1])
    if weight is None or after.axis != 1:
        return []
    group, w = ir.attribute(node, "group", 1), weight.reshape(*weight.shape[:2], -1).astype(np.float64)
    thinned = prod(ir.attribute(node, "strides", (1,)))  # so many places of the input share one of the output
    if group == len(weight) and weight.shape[1] == 1:
        taps = w[:, 0]
        return [(_data(node), Gram(1, after.matrix * (taps @ taps.T) / thinned))]
    size = len(weight) // group
    found = np.zeros((group * weight.shape[1],) * 2)
    for tap in range(w.shape[2]):
        wide = np.zeros((len(weight), len(found)))
        for g in range(group):
            rows, columns = (
                slice(g * size, (g + 1) * size),
                slice(g * weight.shape[1], (g + 1) * weight.shape[1]),
            )
            wide[rows, columns] = w[rows, :, tap]
        found += wide.T @ after.matrix @ wide
    return [(_data(node), Gram(1, found / thinned))]


def _product(node: ir.Node, after: Gram, open_: Mapping[str, ir.Array]) -> list[tuple[ir.Value, Gram]]:
    weight, dims = ir.constant(node.inputs[1]), ir.dims(_data(node))
    if weight is None or weight.ndim != 2 or dims is None or ir.attribute(node, "transA", 0):
        return []
    rows = weight if ir.attribute(node, "transB", 0) else weight.T
    rows = rows.astype(np.float64) * ir.attribute(node, "alpha", 1.0)
    return [(_data(node), Gram(len(dims) - 1, rows.T @ after.matrix @ rows))]


def _arithmetic(node: ir.Node, after: Gram, open_: Mapping[str, ir.Array]) -> list[tuple[ir.Value, Gram]]:
    computed = [v for v in node.inputs if v is not None and ir.constant(v) is None]
    if node.op_type in ("Add", "Sub"):
        return [(v, after) for v in computed]
    constant = next((c for v in node.inputs if (c := ir.constant(v)) is not None), None)
    if constant is None:  # the other factor takes part of the error, nobody knows how much
        return [(v, after) for v in computed]
    factor = constant.reshape(-1).astype(np.float64)
    if factor.size not in (1, len(after.matrix)):
        return []
    factor = factor if node.op_type == "Mul" else 1 / factor
    scale = factor**2 if factor.size == 1 else np.outer(factor, factor)
    return [(v, Gram(after.axis, after.matrix * scale)) for v in computed]


def _pool(node: ir.Node, after: Gram, open_: Mapping[str, ir.Array]) -> list[tuple[ir.Value, Gram]]:
    # Errors are averaged as what they are errors of: with the places that share an output.
    thinned = prod(ir.static_dims(_data(node))) / max(prod(ir.static_dims(node.outputs[0])), 1)
    return [(_data(node), Gram(after.axis, after.matrix / max(thinned, 1.0)))]


def _reshape(node: ir.Node, after: Gram, open_: Mapping[str, ir.Array]) -> list[tuple[ir.Value, Gram]]:
    source = ir.dims(_data(node))
    if source is None or len(source) < 2 or source[1] is None or None in source[2:]:
        return []
    channels, places = int(source[1]), prod(int(d or 1) for d in source[2:])
    if after.axis != 1 or channels * places != len(after.matrix):
        return []
    blocks = after.matrix.reshape(channels, places, channels, places)
    return [(_data(node), Gram(1, np.einsum("ipjp->ij", blocks) / places))]


def _concat(node: ir.Node, after: Gram, open_: Mapping[str, ir.Array]) -> list[tuple[ir.Value, Gram]]:
    dims = ir.dims(node.outputs[0])
    if dims is None or ir.attribute(node, "axis") % len(dims) != after.axis:
        return [(v, after) for v in node.inputs if v is not None]
    found, start = [], 0
    for value in node.inputs:
        part = None if value is None else (ir.dims(value) or ())[after.axis]
        if value is None or part is None:
            return []
        found.append(
            (value, Gram(after.axis, after.matrix[start : start + part, start : start + part].copy()))
        )
        start += part
    return found


_GATES = ("Relu", "Clip")
_BACK: Mapping[str, Back] = {
    **dict.fromkeys(_PASSES, _through),
    **dict.fromkeys(_GATES, _gate),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "ReduceMean"), _pool),
    **dict.fromkeys(("Gemm", "MatMul"), _product),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze"), _reshape),
    "Conv": _conv,
    "Concat": _concat,
}
