"""Where the weights lie in a .tflite or .onnx file."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

SMALLEST = 64
"""Arrays of fewer bytes stay with the structure around them: a record of their own costs more than it saves."""

Range = tuple[int, int, int]


def weight_ranges(data: bytes) -> list[Range]:
    """Start, end and bytes of an element of each array of weights, in order, without overlap.

    Empty for files of other kinds, and for damaged ones: they are packed as a whole.
    """
    try:
        found = sorted(_tflite(data) if data[4:8] == b"TFL3" else _onnx(data))
    except (struct.error, IndexError, TypeError, ValueError):  # what reading a damaged flatbuffer raises
        return []
    kept: list[Range] = []
    for start, end, width in found:
        if end - start >= SMALLEST and start >= (kept[-1][1] if kept else 0):
            kept.append((start, end, width))
    return kept


def _tflite(data: bytes) -> Iterator[Range]:
    from ai_edge_litert import schema_py_generated as schema

    sizes = {
        value: np.dtype(name.lower()).itemsize
        for name, value in vars(schema.TensorType).items()
        if name in ("FLOAT16", "FLOAT32", "FLOAT64", "INT16", "INT32", "INT64", "UINT16", "UINT32", "UINT64")
    }
    model = schema.Model.GetRootAs(data, 0)
    widths: dict[int, int] = {}
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for i in range(graph.TensorsLength()):
            tensor = graph.Tensors(i)
            widths[tensor.Buffer()] = sizes.get(tensor.Type(), 1)
    base = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        if number not in widths:
            continue  # metadata
        if buffer.DataLength():
            start = buffer.DataAsNumpy().__array_interface__["data"][0] - base
            yield start, start + buffer.DataLength(), widths[number]
        elif buffer.Size() and buffer.Offset() + buffer.Size() <= len(data):  # stored behind the flatbuffer
            yield buffer.Offset(), buffer.Offset() + buffer.Size(), widths[number]


def _onnx(data: bytes) -> Iterator[Range]:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_from_string(data)
    except DecodeError:
        return
    at = 0
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        if len(raw) < SMALLEST:
            continue
        start = data.find(raw, at)
        if start < 0:
            continue
        at = start + len(raw)
        bits = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
        yield start, at, bits
