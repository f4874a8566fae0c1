"""Shapes that static inference cannot tell, seen in a run of ONNX Runtime on random inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from edgecc import ir
from edgecc.analysis import shapes
from edgecc.analysis.pieces import Pieces, ancestors
from edgecc.errors import EdgeccError, ModelError

# Operators whose output shape depends on the content of their inputs, or that run sub-graphs, whose time and
# memory nothing here bounds. The source is the shape inference of each in the operator specification.
_DATA_DEPENDENT = frozenset(
    ("Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "SequenceMap", "StringSplit", "Unique")
)
# Inputs whose content decides the output's shape: the shape depends on the data only if they do.
_SHAPE_INPUTS = {
    "AffineGrid": (1,), "BlackmanWindow": (0,), "CenterCropPad": (1,), "Col2Im": (1, 2),
    "ConstantOfShape": (0,), "DFT": (1, 2), "Expand": (1,), "HammingWindow": (0,), "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1), "OneHot": (1,), "Pad": (1, 3), "Range": (0, 1, 2), "Reshape": (1,),
    "Resize": (1, 2, 3), "STFT": (1, 3), "Slice": (1, 2, 3, 4), "Split": (1,), "SplitToSequence": (1,),
    "Squeeze": (1,), "Tile": (1,), "TopK": (1,), "Unsqueeze": (1,),
    **{f"Reduce{kind}": (1,) for kind in
       ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
}  # fmt: skip


def observe(model: ir.Model, values: Sequence[ir.Value]) -> None:
    """Sets the shapes of `values` that do not depend on data, from one run (two where the batch is symbolic).

    Where the runtime cannot run the network, or a shape depends on data, it stays unknown.

    Raises:
        ModelError: the run would allocate more than `shapes.LARGEST_BYTES` at once.
    """
    data_dependent = _data_dependent(model)
    wanted = [value for value in values if value not in data_dependent]
    if not wanted:
        return
    symbols = shapes.batch_symbols(model)
    sizes = (1, 2) if symbols else (1,)
    waves = _waves(model)
    try:
        seen = [_measured(model, wanted, waves, size) for size in sizes]
    except _TooLargeError:
        raise
    except EdgeccError:
        return  # unknown operators, or random inputs that it does not take
    batch = min(symbols) if symbols else None
    for index, value in enumerate(wanted):
        first, last = seen[0][index], seen[-1][index]
        value.type = value.type or ir.TensorType(ir.DataType.from_numpy(first.dtype))
        if len(first.shape) == len(last.shape):
            pairs = zip(first.shape, last.shape, strict=True)
            value.shape = ir.Shape([a if a == b else _symbol(a, b, batch) for a, b in pairs])


def _symbol(one: int, two: int, batch: str | None) -> str | None:
    """The name of a dimension that measured `one` with batch 1 and `two` with batch 2."""
    return batch if (one, two) == (1, 2) else None


class _TooLargeError(ModelError):
    """An operator asks for more memory than any real network."""


def _data_dependent(model: ir.Model) -> set[ir.Value]:
    """The values whose shape depends on the content of the graph's inputs, and not only on their shapes."""
    content = set(model.graph.inputs)  # values whose content depends on that of the inputs
    shaped: set[ir.Value] = set()
    for node in model.graph:
        used = _inputs(node)
        depends = (
            node.op_type in _DATA_DEPENDENT
            or any(value in content for value in _decisive(node))
            or any(value in shaped for value in used)
        )
        for out in node.outputs:
            if depends and not shapes.is_known(model, out):
                shaped.add(out)
            if node.op_type in ("Shape", "Size"):
                tainted = used[0] in shaped
            else:
                tainted = depends or any(value in content for value in used)
            if tainted:
                content.add(out)
    return shaped


def _measured(
    model: ir.Model, wanted: Sequence[ir.Value], waves: Sequence[Sequence[ir.Node]], batch: int
) -> list[ir.Array]:
    """An empty stand-in of the shape and type of each value, from a run that asks before it allocates much."""
    decisive = {v for wave in waves for node in wave for v in _decisive(node)}
    pieces = Pieces(model, _random_feeds(model, batch), wanted, decisive)
    for wave in waves:
        _check_allocations(pieces, wave)
    return pieces.reach(wanted)


def _random_feeds(model: ir.Model, batch: int) -> dict[str, ir.Array]:
    random = np.random.default_rng(0)
    feeds: dict[str, ir.Array] = {}
    for value in model.graph.inputs:
        shape = tuple(batch if d is None else d for d in ir.dims(value) or ())
        dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        if dtype.kind == "f":
            feeds[value.name or ""] = random.standard_normal(shape).astype(dtype)
        else:  # 0 and 1 are valid indices almost everywhere
            feeds[value.name or ""] = random.integers(0, 2, shape).astype(dtype)
    return feeds


def _waves(model: ir.Model) -> list[list[ir.Node]]:
    """The operators with computed sizes, after those that their inputs need."""
    pending = {
        node
        for node in model.graph
        if node.op_type in _ALLOCATED and not shapes.is_known(model, node.outputs[0])
    }
    above = {node: ancestors(_inputs(node)) & pending for node in pending}
    waves: list[list[ir.Node]] = []
    while pending:
        waves.append([node for node in pending if not above[node] & pending])
        pending.difference_update(waves[-1])
    return waves


def _check_allocations(pieces: Pieces, wave: Sequence[ir.Node]) -> None:
    """Computes what operators with computed sizes would allocate, before any of them runs.

    Their inputs are computed by a run of the part of the network above them, which has been found harmless.
    """
    values = [v for node in wave for v in _inputs(node)]
    found = dict(zip(values, pieces.reach(values), strict=True))
    for node in wave:
        count = _ALLOCATED[node.op_type]([None if v is None else found[v] for v in node.inputs])
        if count * 4 > shapes.LARGEST_BYTES:  # counted as float32, the widest type that networks carry
            raise _TooLargeError(f"this {node.op_type} asks for {count:.3g} elements", node=ir.label(node))


def _inputs(node: ir.Node) -> list[ir.Value]:
    return [value for value in node.inputs if value is not None]


def _decisive(node: ir.Node) -> list[ir.Value]:
    """The inputs whose content decides the shape of what a node computes."""
    places = _SHAPE_INPUTS.get(node.op_type, ())
    return [v for i, v in enumerate(node.inputs) if i in places and v is not None]


_Arrays = Sequence[ir.Array | None]


def _product(array: ir.Array | Sequence[float]) -> float:
    return math.prod(float(x) for x in array)


def _expanded(inputs: _Arrays) -> float:
    data, shape = inputs[0], inputs[1]
    assert data is not None
    assert shape is not None
    grown = [1] * max(0, len(shape) - data.ndim) + list(data.shape)
    wished = [1] * max(0, data.ndim - len(shape)) + [int(d) for d in shape]
    return _product([max(a, b) for a, b in zip(grown, wished, strict=True)])


def _resized(inputs: _Arrays) -> float:
    data, scales = inputs[0], inputs[2] if len(inputs) > 2 else None
    sizes = inputs[3] if len(inputs) > 3 else None
    assert data is not None
    if sizes is not None and sizes.size:
        return _product(sizes) * (_product(data.shape) if len(sizes) < data.ndim else 1)
    return _product(data.shape) * (_product(scales) if scales is not None else 1)


def _padded(inputs: _Arrays) -> float:
    data, pads = inputs[0], inputs[1]
    assert data is not None
    assert pads is not None
    added = [max(0, int(a)) + max(0, int(b)) for a, b in zip(*np.split(pads.ravel(), 2), strict=True)]
    sides = list(data.shape) if len(added) == data.ndim else [max(data.shape, default=1)] * len(added)
    grown = _product([a + b for a, b in zip(sides, added, strict=True)])
    return grown if len(added) == data.ndim else grown * data.size


def _ranged(inputs: _Arrays) -> float:
    start, limit, delta = (float(np.ravel(x)[0]) for x in inputs if x is not None)
    return max(0.0, (limit - start) / delta) if delta else math.inf


def _hot(inputs: _Arrays) -> float:
    indices, depth = inputs[0], inputs[1]
    assert indices is not None
    assert depth is not None
    return indices.size * float(np.ravel(depth)[0])


def _filled(inputs: _Arrays) -> float:
    assert inputs[0] is not None
    return _product(inputs[0])


def _tiled(inputs: _Arrays) -> float:
    assert inputs[0] is not None
    assert inputs[1] is not None
    return inputs[0].size * _product(inputs[1])


# Elements that an operator computes, from its inputs: the operators that make much from little.
_ALLOCATED: Mapping[str, Callable[[_Arrays], float]] = {
    "ConstantOfShape": _filled,
    "Expand": _expanded,
    "OneHot": _hot,
    "Pad": _padded,
    "Range": _ranged,
    "Resize": _resized,
    "Tile": _tiled,
}
