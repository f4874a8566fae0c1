"""What memory planning must know of a TFLite file, written or to be written: no constants."""

from __future__ import annotations

import numpy as np

from edgecc.analysis.flat import FlatNetwork, FlatOperator, FlatTensor
from edgecc.errors import ModelError
from edgecc.tflite.graph import Graph, itemsize
from edgecc.tflite.reader import CUSTOM, Operator, Tensor, read_graph

# Of the schema's types that numpy does not name alike.
_ITEMS = {"INT4": 1, "UINT4": 1, "INT2": 1, "BFLOAT16": 2, "STRING": 1, "RESOURCE": 4, "VARIANT": 8}


def network_of(graph: Graph) -> FlatNetwork:
    """A graph that is about to be written, as it will stand in the file."""
    tensors = tuple(
        FlatTensor(
            t.name, tuple(t.shape), itemsize(t.dtype), t.dtype, constant=t.data is not None,
            scales=0 if t.quant is None else int(np.size(t.quant.scale)),
        )
        for t in graph.tensors
    )  # fmt: skip
    operators = tuple(FlatOperator(o.code, o.inputs, o.outputs, dict(o.options)) for o in graph.operators)
    return FlatNetwork(tensors, operators, tuple(graph.inputs), tuple(graph.outputs))


def read_network(data: bytes) -> FlatNetwork:
    """The main graph of a TFLite file.

    Raises:
        ModelError: the file is not one, or is damaged.
    """
    graph = read_graph(data)
    for tensor in graph.tensors:
        if any(d < 0 for d in tensor.shape):
            raise ModelError(
                "the TFLite file is damaged: a tensor has a negative dimension", node=tensor.name
            )
    return FlatNetwork(
        tuple(_tensor(t) for t in graph.tensors),
        tuple(_operator(o) for o in graph.operators),
        tuple(t.index for t in graph.inputs),
        tuple(t.index for t in graph.outputs),
        graph.subgraphs,
    )


def _tensor(tensor: Tensor) -> FlatTensor:
    return FlatTensor(
        tensor.name,
        tensor.shape,
        _ITEMS.get(tensor.kind) or np.dtype(tensor.kind.lower()).itemsize,
        tensor.kind.lower(),
        constant=tensor.constant,
        variable=tensor.variable,
        scales=len(tensor.scales) if len(tensor.zero_points) else 0,
    )


def _operator(operator: Operator) -> FlatOperator:
    return FlatOperator(
        operator.code.removeprefix(CUSTOM),
        tuple(-1 if t is None else t.index for t in operator.inputs),
        tuple(t.index for t in operator.outputs),
        {} if operator.options is None else dict(vars(operator.options)),
    )
