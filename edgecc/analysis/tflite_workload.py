"""What the operators of a TFLite file make a processor do, in the kinds of `analysis.workload`."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from edgecc.analysis.workload import Layer, kind_of

if TYPE_CHECKING:
    from edgecc.tflite.reader import Graph, Operator, Tensor

_EXPONENTIAL = frozenset({"LOGISTIC", "SOFTMAX", "LOG_SOFTMAX", "TANH", "EXP", "GELU"})
_POWERS = frozenset({"LOCAL_RESPONSE_NORMALIZATION", "POW"})
# They move nothing, or (of constants) run once.
_FREE = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS", "SHAPE", "DENSIFY"})
_CONVOLUTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "CONV_3D", "CONV_3D_TRANSPOSE"})
_MATRICES = frozenset({"FULLY_CONNECTED", "BATCH_MATMUL"})
# Where the weights stand among the inputs.
_WEIGHTS: Mapping[str, int] = {"TRANSPOSE_CONV": 1, "CONV_3D_TRANSPOSE": 1}


def layers_of_graph(graph: Graph) -> list[Layer]:
    """One layer an operator, in the order of execution, named by what it writes; a symbolic batch counts as 1."""
    held = {t.index for t in graph.tensors if t.data is not None or t.constant}
    found = []
    for op in graph.operators:
        given = [t.index for t in op.inputs if t is not None]
        if given and held.issuperset(given):  # runs once: weights that are made dense or real
            held |= {t.index for t in op.outputs}
        layer = layer_of(op, held)
        found += [] if layer is None else [layer]
    return found


def layer_of(op: Operator, held: AbstractSet[int] | None = None) -> Layer | None:
    """What one operator does; None where it moves nothing, or runs once.

    Args:
        op: of a graph.
        held: indices of tensors that are constants once the network is loaded; None: those with data.
    """
    given = [t for t in op.inputs if t is not None]
    constants = [t for t in given if (t.data is not None if held is None else t.index in held)]
    if op.code in _FREE or len(constants) == len(given):
        return None
    written = sum(map(_size, op.outputs))
    moved = sum(map(_size, given)) - sum(map(_size, constants)) + written
    name = op.outputs[0].name if op.outputs else op.code
    return Layer(name, op.code, _kind(op), _macs(op), moved, sum(map(_size, constants)), written)


def bytes_of(op: Operator) -> int:
    """Of all that an operator reads and writes, constants included; int4 counts as the int8 that kernels read."""
    tensors = [t for t in (*op.inputs, *op.outputs) if t is not None and t.dtype]
    return sum(_size(t) * np.dtype(t.dtype).itemsize for t in tensors)


def precision_of_graph(graph: Graph) -> str:
    """The word of `--precision` that most multiply-accumulates answer to; `dynamic` leaves small layers in float."""
    work: dict[str, int] = {}
    for op in graph.operators:
        if op.code in _CONVOLUTIONS | _MATRICES:
            word = _precision(op, graph)
            work[word] = work.get(word, 0) + _macs(op)
    most = max(work, key=lambda word: work[word], default="fp32")
    return "dynamic" if most == "fp32" and "dynamic" in work else most


def _precision(op: Operator, graph: Graph) -> str:
    place = _WEIGHTS.get(op.code, 1)
    data, weight = op.outputs[0], op.given(place)
    if data.dtype in ("int8", "int16", "uint8"):
        return "int16x8" if data.dtype == "int16" else "int8"
    if weight.dtype == "int8":
        return "dynamic"
    source = [o for o in graph.operators if weight in o.outputs and o.code == "DEQUANTIZE"]
    half = any(t is not None and t.dtype == "float16" for o in source for t in o.inputs)
    return "fp16" if half or weight.dtype == "float16" else "fp32"


def _size(tensor: Tensor) -> int:
    return prod(max(d, 1) for d in tensor.shape)


def _macs(op: Operator) -> int:
    """Multiply-accumulates; filters are (out, ..., in of a group), those of depthwise ones (1, ..., channels)."""
    if op.code in ("CONV_2D", "FULLY_CONNECTED"):
        return _size(op.outputs[0]) * prod(op.given(1).shape[1:])
    if op.code == "DEPTHWISE_CONV_2D":
        return _size(op.outputs[0]) * prod(op.given(1).shape[1:3])
    if op.code == "CONV_3D":  # (depth, height, width, in, out)
        return _size(op.outputs[0]) * prod(op.given(1).shape[:4])
    if op.code == "TRANSPOSE_CONV":  # (out, height, width, in); each cell of the input is spread
        return _size(op.given(2)) * prod(op.given(1).shape[:3])
    if op.code == "CONV_3D_TRANSPOSE":  # (depth, height, width, out, in)
        return _size(op.given(2)) * prod(op.given(1).shape[:4])
    if op.code == "BATCH_MATMUL":
        left = op.given(0).shape
        return _size(op.outputs[0]) * (left[-2] if getattr(op.options, "adjX", False) else left[-1])
    return 0


def _kind(op: Operator) -> str:
    if op.code in _MATRICES:
        return "fc"
    if op.code not in _CONVOLUTIONS:
        named = {"exp": _EXPONENTIAL, "power": _POWERS}
        return next((kind for kind, codes in named.items() if op.code in codes), "other")
    filters = op.given(_WEIGHTS.get(op.code, 1)).shape
    if op.code == "DEPTHWISE_CONV_2D":
        return "depthwise"
    if op.code in ("CONV_3D", "CONV_3D_TRANSPOSE"):
        return "conv"
    stride = max(getattr(op.options, "strideW", 1), getattr(op.options, "strideH", 1))
    dilation = max(getattr(op.options, "dilationWFactor", 1), getattr(op.options, "dilationHFactor", 1))
    groups = max(1, op.given(0).shape[-1] // filters[-1]) if op.code == "CONV_2D" else 1
    return kind_of(tuple(filters[1:3]), stride, dilation, groups, filters[-1], filters[0])
