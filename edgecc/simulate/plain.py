"""Arithmetic on real values and plain integers, where every machine rounds alike: what float islands need.

Sums of products and transcendental functions are left out: their last bit depends on the library. A mean is a sum in
order of the elements and one division, as LiteRT's reference kernel has it (kernels/internal/reference/reduce.h).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from edgecc.errors import UnsupportedError
from edgecc.ir import Array
from edgecc.simulate.common import Kernel, bounds
from edgecc.simulate.reducing import reduced_axes
from edgecc.tflite.reader import Operator


def binary(op: Operator, values: Sequence[Array], compute: Callable[[Array, Array], Array]) -> list[Array]:
    """One operation on two operands in their own type, then the fused activation."""
    with np.errstate(all="ignore"):
        result = compute(values[0], values[1]).astype(op.outputs[0].dtype)
    if hasattr(op.options, "fusedActivationFunction"):
        low, high = bounds(op)
        result = result if low is None else np.maximum(result, result.dtype.type(low))
        result = result if high is None else np.minimum(result, result.dtype.type(high))
    return [result]


def limited(op: Operator, values: Sequence[Array], low: float, high: float) -> list[Array]:
    """RELU and its kin."""
    kind = values[0].dtype.type
    return [np.minimum(np.maximum(values[0], kind(low)), kind(high))]


def unary(op: Operator, values: Sequence[Array], compute: Callable[[Array], Array]) -> list[Array]:
    """One operation on one operand in its own type."""
    with np.errstate(all="ignore"):
        return [compute(values[0])]


def reciprocal_root(x: Array) -> Array:
    """1 / sqrt(x), both rounded."""
    return np.asarray(x.dtype.type(1) / np.sqrt(x))


def mean(op: Operator, values: Sequence[Array]) -> list[Array]:
    """MEAN: one element after the other in float32."""
    data, axes = values[0], reduced_axes(op, values)
    kept = [a for a in range(data.ndim) if a not in axes]
    rows = data.transpose(*kept, *axes).reshape(*(data.shape[a] for a in kept), -1)
    if not rows.shape[-1]:
        raise UnsupportedError(f"the mean of nothing is not simulated: {op.label}")
    sums = np.cumsum(rows, axis=-1, dtype=data.dtype)[..., -1]  # in order, where np.sum adds in pairs
    result = sums / data.dtype.type(rows.shape[-1])
    return [np.expand_dims(result, axes) if op.options.keepDims else np.asarray(result)]


def select(op: Operator, values: Sequence[Array]) -> list[Array]:
    """SELECT_V2."""
    return [np.where(values[0], values[1], values[2])]


REAL: Mapping[str, Kernel] = {
    "ADD": partial(binary, compute=np.add),
    "SUB": partial(binary, compute=np.subtract),
    "MUL": partial(binary, compute=np.multiply),
    "DIV": partial(binary, compute=np.divide),
    "MAXIMUM": partial(binary, compute=np.maximum),
    "MINIMUM": partial(binary, compute=np.minimum),
    "RELU": partial(limited, low=0.0, high=float("inf")),
    "RELU6": partial(limited, low=0.0, high=6.0),
    "RELU_N1_TO_1": partial(limited, low=-1.0, high=1.0),
    "ABS": partial(unary, compute=np.abs),
    "NEG": partial(unary, compute=np.negative),
    "SQRT": partial(unary, compute=np.sqrt),
    "SQUARE": partial(unary, compute=np.square),
    "FLOOR": partial(unary, compute=np.floor),
    "RSQRT": partial(unary, compute=reciprocal_root),
    "MEAN": mean,
}
WHOLE: Mapping[str, Kernel] = {
    code: REAL[code] for code in ("ADD", "SUB", "MUL", "MAXIMUM", "MINIMUM", "ABS", "NEG")
}
"""On int32 and int64, which shapes and indices are."""
LOGICAL: Mapping[str, Kernel] = {
    "EQUAL": partial(binary, compute=np.equal),
    "NOT_EQUAL": partial(binary, compute=np.not_equal),
}
"""With a result of booleans; of quantized operands only where these are not rescaled: real ones and plain integers."""
ANY: Mapping[str, Kernel] = {"SELECT_V2": select}
