"""Single operators of a TFLite file as files of their own."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy

import numpy as np

from edgecc.ir import Array
from edgecc.tflite.reader import Operator


class Isolator:
    """Takes operators out of the first subgraph of a file."""

    def __init__(self, data: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._data, self._schema = data, schema
        self._model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))

    def file(self, op: Operator, tensors: Mapping[int, Array]) -> bytes:
        """A file in which `op` computes its outputs from inputs of the same names and quantization.

        Args:
            op: of the file.
            tensors: what the computed tensors hold; their shapes are written.
        """
        import flatbuffers

        whole = self._model.subgraphs[0]
        step = copy(whole.operators[op.number])
        used = list(dict.fromkeys([*(int(i) for i in step.inputs if i >= 0), *map(int, step.outputs)]))
        place = {old: new for new, old in enumerate(used)}
        graph, model = copy(whole), copy(self._model)
        graph.tensors, model.buffers = [], [self._schema.BufferT()]
        for old in used:
            tensor = copy(whole.tensors[old])
            if old in tensors:
                tensor.shape, tensor.shapeSignature = np.array(tensors[old].shape, np.int32), None
                tensor.buffer = 0
            else:
                model.buffers.append(self._buffer(tensor.buffer))
                tensor.buffer = len(model.buffers) - 1
            graph.tensors.append(tensor)
        graph.inputs = [place[i] for i in dict.fromkeys(map(int, step.inputs)) if i in tensors]
        graph.outputs = [place[int(i)] for i in step.outputs]
        step.inputs = [place.get(int(i), -1) for i in step.inputs]
        step.outputs = list(graph.outputs)
        graph.operators, model.subgraphs = [step], [graph]
        model.metadata = model.metadataBuffer = model.signatureDefs = None
        builder = flatbuffers.Builder(4096)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _buffer(self, number: int) -> object:
        source, made = self._model.buffers[number], self._schema.BufferT()
        made.data = source.data
        if source.offset > 1:  # stored behind the flatbuffer
            made.data = np.frombuffer(self._data, np.uint8, source.size, source.offset)
        return made
