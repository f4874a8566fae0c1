"""What one operator computes of given arrays, by ONNX's reference implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgecc import ir
from edgecc.ir import Array

# What evaluating one operator of a malformed model may raise; anything else is a defect and surfaces as one.
EVALUATION_ERRORS = (
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    MemoryError,
)


def evaluate(node: ir.Node, inputs: Sequence[Array | None], version: int) -> list[Array]:
    """The outputs of one operator, computed by ONNX's reference implementation."""
    if (direct := _DIRECT.get(node.op_type)) is not None:
        return [direct(node, inputs)]
    from onnx.reference.ops import load_op

    attributes = {name: _plain(attr) for name, attr in node.attributes.items()}
    with np.errstate(all="ignore"):
        results = load_op("", node.op_type, version).eval(*inputs, **attributes)
    return [np.asarray(array) for array in (results if isinstance(results, tuple | list) else [results])]


def _constant_node(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    name, attr = next(iter(node.attributes.items()))
    if name == "value":
        return np.asarray(attr.value.numpy())
    return np.asarray(attr.value, np.float32 if "float" in name else np.int64 if "int" in name else object)


def _reshaped(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    assert inputs[0] is not None
    return inputs[0].reshape(ir.static_dims(node.outputs[0]))


def _transposed(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    assert inputs[0] is not None
    return inputs[0].transpose(ir.attribute(node, "perm"))


def _cast(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    assert inputs[0] is not None
    return inputs[0].astype(ir.DataType(ir.attribute(node, "to")).numpy())


def _concatenated(node: ir.Node, inputs: Sequence[Array | None]) -> Array:
    return np.concatenate([array for array in inputs if array is not None], ir.attribute(node, "axis"))


# What most models need, without the 0.2 s that the reference implementation takes to import.
_DIRECT = {
    "Cast": _cast,
    "Concat": _concatenated,
    "Constant": _constant_node,
    "Flatten": _reshaped,
    "Reshape": _reshaped,
    "Squeeze": _reshaped,
    "Transpose": _transposed,
    "Unsqueeze": _reshaped,
}


def _plain(attr: ir.Attr) -> Any:
    if attr.type == ir.AttributeType.TENSOR:
        return ir.serde.serialize_tensor(attr.value)
    return attr.value
