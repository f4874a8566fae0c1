"""One operator of a TFLite file as a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from edgecc.ir import Array
from edgecc.simulate.graph import Operator


def isolated(data: bytes, op: Operator, tensors: Mapping[int, Array]) -> bytes:
    """A file in which `op` computes its outputs from inputs of the same names and quantization.

    Args:
        data: the file of `op`.
        op: an operator of its first subgraph.
        tensors: what the computed tensors hold; their shapes are written.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))
    graph = model.subgraphs[0]
    step = graph.operators[op.number]
    used = list(dict.fromkeys([*(int(i) for i in step.inputs if i >= 0), *map(int, step.outputs)]))
    place = {old: new for new, old in enumerate(used)}
    buffers: list[Any] = [schema.BufferT()]
    kept = [graph.tensors[i] for i in used]
    for old, tensor in zip(used, kept, strict=True):
        source = model.buffers[tensor.buffer]
        if old in tensors:
            tensor.shape, tensor.shapeSignature = np.array(tensors[old].shape, np.int32), None
            tensor.buffer = 0
            continue
        buffer = schema.BufferT()
        if source.offset > 1:  # stored behind the flatbuffer
            buffer.data = np.frombuffer(data, np.uint8, source.size, source.offset)
        else:
            buffer.data = source.data
        buffers.append(buffer)
        tensor.buffer = len(buffers) - 1
    graph.inputs = [place[int(i)] for i in dict.fromkeys(step.inputs) if int(i) in tensors]
    graph.outputs = [place[int(i)] for i in step.outputs]
    step.inputs = [place.get(int(i), -1) for i in step.inputs]
    step.outputs = list(graph.outputs)
    graph.tensors, graph.operators = kept, [step]
    model.subgraphs, model.buffers = [graph], buffers
    model.metadata = model.metadataBuffer = model.signatureDefs = None
    builder = flatbuffers.Builder(4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
