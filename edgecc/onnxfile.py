"""Serialises models without a second copy of their weights.

The classes of protobuf hold a message whole, and serialise it into another whole. Here they see everything but the
large initializers, whose bytes are put behind in protobuf's own encoding (protobuf.dev, "Encoding"): a field is a tag,
`number << 3 | 2` for bytes, their length as a varint, and the bytes; fields may come in any order.
"""

from __future__ import annotations

import io

import onnx

from edgecc import ir

# Field numbers of onnx.proto.
_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
# Smaller initializers stay in the message.
_SMALL_BYTES = 1 << 16


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
