"""A few elements of each channel of a value, taken by the runtime inside the network.

So the network runs in the memory that it needs anyway: with all its activations as outputs, each sample of a U-Net of
1024x1024 held 18 GB.
"""

from __future__ import annotations

from math import prod

import numpy as np

from edgecc import ir


def places(graph: ir.Graph, value: ir.Value) -> int | None:
    """Elements of a channel of (batch, channels, ...); None: not known before it runs.

    A free batch is that of the network's inputs, of which one sample is run at a time: it counts as 1.
    """
    dims = ir.dims(value)
    if dims is None or len(dims) < 3 or any(d is None for d in dims[1:]):
        return None
    if dims[0] is None:
        assert value.shape is not None
        if value.shape[0] not in [v.shape[0] for v in graph.inputs if v.shape]:
            return None
    return (dims[0] or 1) * prod(d for d in dims[2:] if d is not None)


def add_index(graph: ir.Graph, name: str, count: int) -> ir.Value:
    """A new input (count,) int64 of the network: which elements are to be taken."""
    index = ir.Value(
        name=ir.fresh_name(graph, name), type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([count])
    )
    graph.inputs.append(index)
    return index


def add_picked(graph: ir.Graph, value: ir.Value, index: ir.Value) -> str:
    """A new output (channels, index) of the network: those elements of each channel of a value; its name.

    Args:
        graph: of the network.
        value: of it, (batch, channels, ...).
        index: into batch and what follows the channels, flattened.
    """
    dims = ir.dims(value)
    assert dims is not None
    order = [1, 0, *range(2, len(dims))]
    nodes = (
        []
        if dims[0] == 1
        else [ir.Node("", "Transpose", [value], [ir.Attr("perm", ir.AttributeType.INTS, order)])]
    )
    for node in nodes:
        node.outputs[0].name = ir.fresh_name(graph, f"{value.name}_channels_first")
    shape = ir.add_initializer(
        graph, np.array([dims[1], -1], np.int64), ir.fresh_name(graph, f"{value.name}_rows")
    )
    rows = ir.Node("", "Reshape", [nodes[-1].outputs[0] if nodes else value, shape])
    rows.outputs[0].name = ir.fresh_name(graph, f"{value.name}_flat")
    taken = ir.Node("", "Gather", [rows.outputs[0], index], [ir.Attr("axis", ir.AttributeType.INT, 1)])
    out = taken.outputs[0]
    out.name, out.type = ir.fresh_name(graph, f"{value.name}_picked"), ir.TensorType(ir.DataType.FLOAT)
    assert index.shape is not None
    out.shape = ir.Shape([dims[1], index.shape[0]])
    producer = value.producer()
    if producer is None:
        graph.insert_before(graph[0], [*nodes, rows, taken])
    else:
        graph.insert_after(producer, [*nodes, rows, taken])
    graph.outputs.append(out)
    return str(out.name)
