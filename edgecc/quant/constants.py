"""The weights and biases that a plan was made with, where passes changed them on calibration data: what a
saved plan needs to give the same artifact again without data, on every machine.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from edgecc import ir
from edgecc.errors import ModelError, UsageError

if TYPE_CHECKING:
    from edgecc.quant.params import QuantParams

# How the bytes are to be read: whole numbers in units of the plan's scales, or the numbers themselves.
_STORED, _PLAIN = "int8", "float32"


def changed(before: ir.Model, after: ir.Model, tensors: Mapping[str, QuantParams]) -> dict[str, str]:
    """The float32 constants in which two networks differ, as text by name; `tensors`: the plan's parameters."""
    found = {}
    for name, value in after.graph.initializers.items():
        old = before.graph.initializers.get(name)
        if old is None or old.const_value is value.const_value:
            continue
        array, known = ir.constant(value), ir.constant(old)
        if array is None or array.dtype != np.float32 or (known is not None and np.array_equal(array, known)):
            continue
        params = tensors.get(name)
        kind, data = _PLAIN, array
        if params is not None and params.dtype in ("int4", "int8"):
            stored = params.quantize(array)
            if np.array_equal(params.dequantize(stored), array):
                kind, data = _STORED, stored
        packed = zlib.compress(np.ascontiguousarray(data).tobytes(), 9)
        found[name] = f"{kind} {base64.b64encode(packed).decode('ascii')}"
    return found


def restore(model: ir.Model, constants: Mapping[str, str], tensors: Mapping[str, QuantParams]) -> ir.Model:
    """A copy of the network with these constants.

    Raises:
        UsageError: the network has no such constant, or one of another shape.
        ModelError: the text cannot be read.
    """
    if not constants:
        return model
    model = model.clone()
    for name, text in constants.items():
        value = model.graph.initializers.get(name)
        if value is None or value.dtype != ir.DataType.FLOAT:
            raise UsageError(
                f"the plan has weights of {name}, which the network has not",
                node="--plan",
                remedy="use the model and the passes that it was made with",
            )
        value.const_value = ir.Tensor(_read(name, text, ir.static_dims(value), tensors), name=name)
    return model


def _read(name: str, text: str, shape: tuple[int, ...], tensors: Mapping[str, QuantParams]) -> ir.Array:
    kind, _, packed = text.partition(" ")
    dtypes: dict[str, np.dtype[Any]] = {_STORED: np.dtype("int8"), _PLAIN: np.dtype("<f4")}
    dtype = dtypes.get(kind)
    size = int(np.prod(shape, dtype=np.int64)) * (0 if dtype is None else dtype.itemsize)
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(packed, validate=True), size + 1)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ModelError(f"weights of the plan cannot be read: {error}", node=name) from error
    if dtype is None or len(data) != size or (kind == _STORED and name not in tensors):
        raise ModelError(f"weights of the plan are not {shape}", node=name)
    array = np.frombuffer(data, dtype).reshape(shape)
    return tensors[name].dequantize(array) if kind == _STORED else np.array(array, np.float32)
