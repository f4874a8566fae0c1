"""The metadata of TFLite's own tools (Netron, Android's code generator), in a file beside edgecc's JSON.

Layout: metadata_schema.fbs of TFLite Support, identifier M001. Four small tables are written here, field numbers in the
order of that schema; the generated classes would need another package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flatbuffers

from edgecc.artifact import Port

NAME = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_PARSER = "1.0.0"  # the oldest that knows every field used here

# Table -> number of its fields, and field numbers.
_MODEL = (8, {"name": 0, "description": 1, "version": 2, "graphs": 3, "parser": 7})
_GRAPH = (7, {"name": 0, "description": 1, "inputs": 2, "outputs": 3})
_TENSOR = (7, {"name": 0, "description": 1, "dimensions": 2})

_AXES = {
    3: ("batch", "channel", "time"),
    4: ("batch", "channel", "height", "width"),
    5: ("batch", "channel", "depth", "height", "width"),
}


def model_metadata(
    *, name: str, description: str, version: str, inputs: Sequence[Port], outputs: Sequence[Port]
) -> bytes:
    """A ModelMetadata buffer with one graph: what it is called, and what each input and output holds.

    Args:
        name, description: of the model.
        version: of what made it.
        inputs, outputs: in the file's order.
    """
    builder = flatbuffers.Builder(1024)
    graph = _table(
        builder,
        _GRAPH,
        {
            "name": builder.CreateString("main"),
            "inputs": _vector(builder, [_tensor(builder, port) for port in inputs]),
            "outputs": _vector(builder, [_tensor(builder, port) for port in outputs]),
        },
    )
    model = _table(
        builder,
        _MODEL,
        {
            "name": builder.CreateString(name),
            "description": builder.CreateString(description),
            "version": builder.CreateString(version),
            "graphs": _vector(builder, [graph]),
            "parser": builder.CreateString(_PARSER),
        },
    )
    builder.Finish(model, _IDENTIFIER)
    return bytes(builder.Output())


def _tensor(builder: flatbuffers.Builder, port: Port) -> int:
    fields = {
        "name": builder.CreateString(port.name),
        "description": builder.CreateString(describe(port)),
    }
    axes = axis_names(port)
    if axes is not None:
        fields["dimensions"] = _vector(builder, [builder.CreateString(axis) for axis in axes])
    return _table(builder, _TENSOR, fields)


def axis_names(port: Port) -> tuple[str, ...] | None:
    """What its axes are called, where they were moved to the order of images; None: only the model's maker knows."""
    names = _AXES.get(len(port.shape))
    if port.permutation is None or names is None:
        return None
    return tuple(names[axis] for axis in port.permutation)


def describe(port: Port) -> str:
    """Type, layout and quantization of an input or output in words."""
    parts = [port.dtype]
    if port.scale is not None:
        parts.append(f"real value = {port.scale:g} * (stored - {port.zero_point or 0})")
    if port.permutation is not None:
        parts.append(f"axes {list(port.permutation)} of the ONNX model's {list(port.onnx_shape)}")
    return ", ".join(parts)


def _vector(builder: flatbuffers.Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _table(
    builder: flatbuffers.Builder, layout: tuple[int, Mapping[str, int]], fields: Mapping[str, int]
) -> int:
    count, numbers = layout
    builder.StartObject(count)
    for field, offset in fields.items():
        builder.PrependUOffsetTRelativeSlot(numbers[field], offset, 0)
    return int(builder.EndObject())
