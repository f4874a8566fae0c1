"""Ports of a TFLite file: which tensor holds which input or output of the ONNX model, and how."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgecc.artifact import Port
from edgecc.errors import ModelError, UsageError
from edgecc.ir import Array
from edgecc.runtime import Runner, TensorSpec

METADATA = "edgecc"
"""Name of the metadata entry in which edgecc's TFLite files keep their ports and layouts, as JSON."""

_NHWC = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}


@dataclass(frozen=True)
class Bound:
    """A port and the tensor of the file that holds it."""

    port: Port
    index: int
    dtype: np.dtype[Any]

    def store(self, array: Array) -> Array:
        """From ONNX layout and real values to what the tensor holds."""
        if self.port.permutation is not None:
            array = array.transpose(self.port.permutation)
        if self.port.scale is not None and self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            array = np.rint(array / np.float32(self.port.scale)) + (self.port.zero_point or 0)
            array = np.clip(array, limits.min, limits.max)
        return np.asarray(array, self.dtype, order="C")

    def real(self, array: Array) -> Array:
        """From what the tensor holds to ONNX layout and real values."""
        if self.port.scale is not None and self.dtype.kind in "iu":
            array = (array.astype(np.float32) - (self.port.zero_point or 0)) * np.float32(self.port.scale)
        elif array.dtype == np.float16:
            array = array.astype(np.float32)
        if self.port.permutation is not None:
            array = array.transpose(np.argsort(self.port.permutation))
        return np.asarray(array, order="C")


def read_metadata(data: bytes) -> dict[str, Any]:
    """The JSON that edgecc leaves in a TFLite file; empty for files that edgecc did not make.

    Walks three tables of the flatbuffer (Model, Metadata, Buffer: field numbers as in LiteRT's schema.fbs)
    instead of importing the generated schema, which takes 0.4 s.

    Raises:
        ModelError: the entry exists and cannot be read.
    """

    def u32(at: int) -> int:
        return int(struct.unpack_from("<I", data, at)[0])

    def slot(table: int, number: int) -> int:
        vtable = table - struct.unpack_from("<i", data, table)[0]
        size: int = struct.unpack_from("<H", data, vtable)[0]
        entry = 4 + 2 * number
        offset: int = struct.unpack_from("<H", data, vtable + entry)[0] if entry < size else 0
        return table + offset if offset else 0

    def vector(table: int, number: int) -> tuple[int, int]:
        at = slot(table, number)
        return (at + u32(at) + 4, u32(at + u32(at))) if at else (0, 0)

    try:
        root = u32(0)
        entries, count = vector(root, 6)
        for position in range(entries, entries + 4 * count, 4):
            entry = position + u32(position)
            start, length = vector(entry, 0)
            if data[start : start + length] != METADATA.encode():
                continue
            number = slot(entry, 1)
            buffers, _ = vector(root, 4)
            holder = buffers + 4 * (u32(number) if number else 0)
            start, length = vector(holder + u32(holder), 0)
            facts = json.loads(data[start : start + length])
            if not isinstance(facts, dict) or not isinstance(facts.get("layouts", {}), dict):
                raise ValueError("not a JSON object")
            return facts
    except (struct.error, ValueError) as error:
        raise ModelError(f"the file's edgecc metadata is damaged: {error}") from error
    return {}


def port_from_json(fields: Mapping[str, Any]) -> Port:
    """A port as the file's metadata has it.

    Raises:
        TypeError, ValueError, KeyError: it is damaged.
    """
    order = fields.get("permutation")
    if order is not None and sorted(order) != list(range(len(fields["onnx_shape"]))):
        raise ValueError(f"{order} is no permutation of the axes of {fields['name']}")
    return Port(
        name=str(fields["name"]),
        onnx_shape=tuple(fields["onnx_shape"]),
        shape=tuple(fields["shape"]),
        dtype=str(fields["dtype"]),
        permutation=None if order is None else tuple(order),
        scale=fields.get("scale"),
        zero_point=fields.get("zero_point"),
    )


def bind(
    details: Sequence[Mapping[str, Any]], side: str, facts: Mapping[str, Any], like: Runner | None
) -> tuple[Bound, ...]:
    """The ports of one side: as the file's own metadata has them, else matched with `like`, else as they are.

    Args:
        details: of the tensors, in the file's order, as LiteRT's interpreter gives them.
        side: "inputs" or "outputs".
        facts: what `read_metadata` found.
        like: the ONNX model, for files that edgecc did not make.

    Raises:
        ModelError: the metadata is damaged.
        UsageError: `like` has a port that matches no tensor.
    """
    if side in facts:
        try:
            ports = [port_from_json(fields) for fields in facts[side]]
            pairs = list(zip(ports, range(len(details)), strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"the file's edgecc metadata does not fit its {side}: {error}") from error
    elif like is not None:
        pairs = match_ports(like.inputs if side == "inputs" else like.outputs, details, side)
    else:
        pairs = [(own_port(detail), i) for i, detail in enumerate(details)]
    return tuple(Bound(port, details[i]["index"], np.dtype(details[i]["dtype"])) for port, i in pairs)


def own_port(detail: Mapping[str, Any]) -> Port:
    """A tensor described by itself: its own name, shape and per-tensor quantization."""
    shape = tuple(int(d) for d in detail.get("shape_signature", detail["shape"]))
    scales, zeros = (detail["quantization_parameters"][key] for key in ("scales", "zero_points"))
    quantized = len(scales) == 1 and float(scales[0]) != 0.0
    return Port(
        name=detail["name"],
        onnx_shape=shape,
        shape=shape,
        dtype=np.dtype(detail["dtype"]).name,
        scale=float(scales[0]) if quantized else None,
        zero_point=int(zeros[0]) if quantized else None,
    )


def match_ports(
    wanted: Sequence[TensorSpec], details: Sequence[Mapping[str, Any]], side: str
) -> list[tuple[Port, int]]:
    """For each ONNX input or output the tensor of its name, else at its position, else the first that fits.

    Raises:
        UsageError: none fits.
    """
    free, pairs = list(range(len(details))), []
    for position, spec in enumerate(wanted):
        order = sorted(free, key=lambda i: (details[i]["name"] != spec.name, i != position, i))
        for i in order:
            port = own_port(details[i])
            found, permutation = _layout(spec.shape, port.shape)
            if found:
                shape = tuple(-1 if d is None else d for d in spec.shape)
                pairs.append((replace(port, name=spec.name, onnx_shape=shape, permutation=permutation), i))
                free.remove(i)
                break
        else:
            left = ", ".join(f"{details[i]['name']} {own_port(details[i]).shape}" for i in free) or "none"
            raise UsageError(
                f"none of the file's {side} has the shape {spec.shape} of the ONNX model,"
                f" as it is or as NHWC; those left: {left}",
                node=spec.name,
            )
    return pairs


def _layout(onnx: Sequence[int | None], shape: Sequence[int]) -> tuple[bool, tuple[int, ...] | None]:
    """Whether `shape` is `onnx` as it is (permutation None) or channels last; symbolic sizes fit any."""

    def fits(permutation: Sequence[int]) -> bool:
        ordered = [onnx[axis] for axis in permutation]
        return all(a is None or b < 0 or a == b for a, b in zip(ordered, shape, strict=True))

    if len(onnx) != len(shape):
        return False, None
    if fits(range(len(onnx))):
        return True, None
    order = _NHWC.get(len(onnx))
    return (True, order) if order and fits(order) else (False, None)


def check_identifier(data: bytes) -> None:
    """Tells a TFLite file from anything else.

    Raises:
        ModelError: it is none.
    """
    if data[4:8] != b"TFL3":
        raise ModelError("this is not a TFLite file: its identifier TFL3 is missing")


def checked_feeds(inputs: Sequence[Bound], feeds: Mapping[str, Array]) -> list[Array]:
    """What is fed, in the order of the inputs.

    Raises:
        UsageError: an input is missing or its shape does not fit.
    """
    missing = [b.port.name for b in inputs if b.port.name not in feeds]
    if missing:
        raise UsageError(f"no data for input {', '.join(missing)}; given: {', '.join(feeds)}")
    return [checked(b.port, np.asarray(feeds[b.port.name])) for b in inputs]


def checked(port: Port, array: Array) -> Array:
    """`array`, if it fits all of the port's axes but the batch.

    Raises:
        UsageError: it does not.
    """
    expected = port.onnx_shape
    if array.ndim != len(expected) or any(
        want >= 0 and got != want and axis > 0
        for axis, (got, want) in enumerate(zip(array.shape, expected, strict=False))
    ):
        raise UsageError(f"the data has shape {array.shape}, the network takes {expected}", node=port.name)
    return array


def spec_of(bound: Bound) -> TensorSpec:
    """What a user of the runner feeds or gets."""
    port = bound.port
    real = "float32" if port.scale is not None or port.dtype == "float16" else bound.dtype.name
    return TensorSpec(port.name, tuple(None if d < 0 else d for d in port.onnx_shape), real)
