"""Serialises models, and takes them apart, without a second copy of their weights.

The classes of protobuf hold a message whole, and serialise it into another whole. Here they see everything but the
large initializers, whose bytes are put behind in protobuf's own encoding (protobuf.dev, "Encoding"): a field is a tag,
`number << 3 | 2` for bytes, their length as a varint, and the bytes; fields may come in any order.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import onnx

from edgecc import ir

# Field numbers of onnx.proto.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
# Smaller initializers stay in the message.
_SMALL_BYTES = 1 << 16
# Bytes of a value by wire type; None: a varint, or a length and so many bytes.
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
# Types whose bytes numpy can view.
_VIEWED = frozenset(
    onnx.TensorProto.DataType.Value(name)
    for name in ("FLOAT", "DOUBLE", "FLOAT16", "INT8", "UINT8", "INT16", "UINT16", "INT32", "INT64")
)


def serialize(model: ir.Model) -> bytes:
    """The bytes of an .onnx file that holds all weights; the same model gives the same. `model` stays as it is."""
    copy, large = model.clone(), list[ir.TensorProtocol]()
    for graph in copy.graphs():
        for name, value in tuple(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or tensor.dtype == ir.DataType.STRING:
                continue
            if graph is copy.graph and tensor.nbytes > _SMALL_BYTES:
                value.const_value = None
                graph.initializers.pop(name)
                large.append(tensor)
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=name)
    proto = ir.serde.serialize_model(copy)
    inner = proto.graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    heads = [_head(tensor) for tensor in large]
    fields = [len(head) + tensor.nbytes for head, tensor in zip(heads, large, strict=True)]
    starts = [_tag(_INITIALIZER, length) for length in fields]
    file = io.BytesIO()
    file.write(proto.SerializeToString(deterministic=True))
    file.write(_tag(_GRAPH, len(inner) + sum(fields) + sum(map(len, starts))))
    file.write(inner)
    for start, head, tensor in zip(starts, heads, large, strict=True):
        file.write(start)
        file.write(head)
        if tensor.dtype.bitwidth < 8:  # packed
            file.write(tensor.tobytes())
            continue
        for piece in ir.byte_pieces(tensor.numpy()):
            file.write(piece)
    return file.getvalue()


def weights_aside(data: bytes, location: str) -> tuple[bytes, list[tuple[onnx.TensorProto, memoryview]]]:
    """A serialised model in two parts: one that names a file for its large weights, and these.

    Args:
        data: of a valid ModelProto; the weights are views of it.
        location: of the file that is to hold the weights, one after the other.

    Returns:
        The smaller model, and for each weight its type, shape and name, and its bytes.
    """
    view, found = memoryview(data), list[tuple[onnx.TensorProto, memoryview]]()
    model, place = bytearray(), 0
    for number, start, begin, end in _fields(view):
        if number != _GRAPH:
            model += view[start:end]
            continue
        graph = bytearray()
        for inner, first, inside, last in _fields(view, begin, end):
            split = _split(view, inside, last) if inner == _INITIALIZER else None
            if split is None:
                graph += view[first:last]
                continue
            tensor, content = split
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", location), ("offset", place), ("length", len(content))):
                tensor.external_data.add(key=key, value=str(value))
            place += len(content)
            written = tensor.SerializeToString()
            graph += _tag(_INITIALIZER, len(written)) + written
            found.append((tensor, content))
        model += _tag(_GRAPH, len(graph)) + graph
    return bytes(model), found


def write_aside(data: bytes, path: Path) -> None:
    """Writes a serialised model with its large weights in a file beside it, which runtimes map into memory."""
    small, weights = weights_aside(data, f"{path.name}.weights")
    with path.with_name(f"{path.name}.weights").open("wb") as file:
        for _, content in weights:
            file.write(content)
    path.write_bytes(small)


def _split(view: memoryview, begin: int, end: int) -> tuple[onnx.TensorProto, memoryview] | None:
    """A TensorProto without its bytes, and these, if they are many and of a type that numpy can view."""
    head, content = bytearray(), None
    for number, start, inside, last in _fields(view, begin, end):
        if number == _RAW_DATA and last - inside > _SMALL_BYTES:
            content = view[inside:last]
        else:
            head += view[start:last]
    if content is None:
        return None
    tensor = onnx.TensorProto.FromString(bytes(head))
    return (tensor, content) if tensor.data_type in _VIEWED else None


def _fields(view: memoryview, begin: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int, int]]:
    """Number of each field, where it and its value start, and where it ends."""
    place, end = begin, len(view) if end is None else end
    while place < end:
        start = place
        tag, place = _number(view, place)
        kind = tag & 7
        if kind == _VARINT:
            length = _number(view, place)[1] - place
        elif kind == _BYTES:
            length, place = _number(view, place)
        else:
            length = _FIXED[kind]
        yield tag >> 3, start, place, place + length
        place += length


def _number(view: memoryview, place: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    number = shift = 0
    while True:
        byte = view[place]
        number |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return number, place


def _head(tensor: ir.TensorProtocol) -> bytes:
    """A TensorProto up to the bytes of its data."""
    shape = [int(d) for d in tensor.shape.numpy()]
    head = onnx.TensorProto(name=tensor.name, data_type=int(tensor.dtype), dims=shape)
    return bytes(head.SerializeToString(deterministic=True)) + _tag(_RAW_DATA, tensor.nbytes)


def _tag(field: int, length: int) -> bytes:
    """What comes before the bytes of a field."""
    return bytes([field << 3 | 2]) + _varint(length)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; all bytes but the last have the highest bit set."""
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])
