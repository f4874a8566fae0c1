"""The weights and biases that a plan was made with, where passes changed them on calibration data: what a
saved plan needs to give the same artifact again without data, on every machine.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from edgecc import ir
from edgecc.errors import ModelError, UsageError
from edgecc.quant import int4, rules
from edgecc.quant.units import REAL, integer_units

if TYPE_CHECKING:
    from edgecc.quant.params import QuantParams
    from edgecc.quant.plan import QuantPlan

# How the bytes are to be read: whole numbers in units of the plan's scales, or the numbers themselves.
_STORED, _PLAIN = "int8", "float32"


def changed(before: ir.Model, after: ir.Model, plan: QuantPlan) -> dict[str, str]:
    """The float32 constants in which two networks differ, as text by name.

    Weights that every runtime stores in integers are written as these, which is what the artifact holds of them.

    Args:
        before: the network that passes started from.
        after: what they made of it.
        plan: for `after`, not yet specialised for a runtime.
    """
    stored = _stored(after, plan)
    found = {}
    for name, value in after.graph.initializers.items():
        old = before.graph.initializers.get(name)
        if old is None or old.const_value is value.const_value:
            continue
        array = ir.constant(value)
        if array is None or array.dtype != np.float32:
            continue
        if value in stored:
            kind, data = _STORED, int4.quantized(plan.tensors[name], array).astype(np.int8)
        elif (known := ir.constant(old)) is not None and np.array_equal(array, known):
            continue
        else:
            kind, data = _PLAIN, array
        # Integers of rounded weights hardly repeat: searching for repetitions costs time and gains no byte.
        packer = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
        packed = packer.compress(np.ascontiguousarray(data).data) + packer.flush()
        found[name] = f"{kind} {base64.b64encode(packed).decode('ascii')}"
    return found


def rounded_where_stored(before: ir.Model, after: ir.Model, plan: QuantPlan) -> ir.Model:
    """A copy of the network after passes that rounded weights, in which nodes that compute in float have theirs again.

    Args:
        before: the network that passes started from.
        after: what they made of it when every node had integers.
        plan: which nodes have.
    """
    model = after.clone()
    for node in model.graph:
        if plan.precision_of(node) not in REAL - {"dynamic"}:
            continue
        for value in (rules.weight_of(node), rules.bias_of(node)):
            if value is not None and all(plan.precision_of(n) in REAL for n, _ in value.uses()):
                value.const_value = before.graph.initializers[str(value.name)].const_value
    return model


def rounded_to_widths(narrow: ir.Model, wide: ir.Model, plan: QuantPlan) -> ir.Model:
    """A copy of the network in which every layer has its weights and bias as rounded for the width that it has.

    Args:
        narrow: the network after passes that rounded weights, those that may be in int4 for int4.
        wide: the same with those rounded for int8.
        plan: the width of each.
    """
    model = narrow.clone()
    for node in model.graph:
        weight = rules.weight_of(node)
        if weight is None or plan.tensors[str(weight.name)].dtype == "int4":
            continue
        for value in (weight, rules.bias_of(node)):
            if value is not None:
                value.const_value = wide.graph.initializers[str(value.name)].const_value
    return model


def _stored(model: ir.Model, plan: QuantPlan) -> set[ir.Value]:
    """The weights that all their readers hold as int8 or int4 with the plan's parameters, in every runtime."""
    served = [set(integer_units(model, runtime, plan)[0]) for runtime in get_args(rules.Runtime)]
    found = set()
    for node in set.intersection(*served):
        weight = rules.weight_of(node)
        params = None if weight is None else plan.tensors.get(str(weight.name))
        if weight is None or params is None or params.dtype not in ("int4", "int8"):
            continue
        if all(rules.weight_of(reader) is weight for reader, _ in weight.uses()):
            found.add(weight)
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
