"""Rules of Ethos-U about one operator: each says why an operator breaks it, None if it does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from edgecc.tflite.reader import Operator, Tensor

Check = Callable[[Operator, Sequence[str]], str | None]
_VALID = 1  # of the schema's Padding
_WIDE = {"int8": 0, "uint8": 1, "int16": 2}  # place of a type among the limits of a reduction


def _constant_parameters(op: Operator, _: Sequence[str]) -> str | None:
    free = [t for t in op.inputs[1:] if t is not None and t.data is None]
    return f"{free[0].name} is computed, and must be constant" if free else None


def _constant_index(op: Operator, _: Sequence[str]) -> str | None:
    return None if op.given(0).data is not None else "the indices are computed, and must be constant"


def _batch(op: Operator, numbers: Sequence[str]) -> str | None:
    shape = op.given(0).shape
    wrong = len(shape) == 4 and shape[0] != int(numbers[0])
    return f"the batch is {shape[0]}, only {numbers[0]} is served" if wrong else None


def _reduced(op: Operator) -> tuple[int, ...]:
    axes, rank = op.given(1).data, len(op.given(0).shape)
    return () if axes is None else tuple(int(a) % rank for a in axes.reshape(-1))


def _depth_alone(op: Operator, _: Sequence[str]) -> str | None:
    shape = op.given(0).shape
    alone = len(shape) - 1 not in _reduced(op) or 1 in (1, 1, *shape)[-3:]  # missing axes count as 1
    return None if alone else "a mean over the depth is served only where another axis is 1"


def _axis_below(op: Operator, numbers: Sequence[str]) -> str | None:
    if op.code != "MEAN":
        return None
    longest = max((op.given(0).shape[a] for a in _reduced(op)), default=0)
    return f"an axis of {longest} is reduced, at most {int(numbers[0]) - 1} are served" if (
        longest >= int(numbers[0])
    ) else None  # fmt: skip


def _reduced_at_most(op: Operator, numbers: Sequence[str]) -> str | None:
    data = op.given(0)
    if data.dtype not in _WIDE:
        return f"{data.name} is {data.dtype}; only int8, uint8 and int16 are reduced"
    count, most = prod(data.shape[a] for a in _reduced(op)), int(numbers[_WIDE[data.dtype]])
    return f"{count} elements are reduced, at most {most} are served" if count > most else None


def _strides(op: Operator) -> tuple[int, int]:
    return int(getattr(op.options, "strideH", 1)), int(getattr(op.options, "strideW", 1))


def _stride(op: Operator, numbers: Sequence[str]) -> str | None:
    high = max(_strides(op))
    return f"the stride is {high}, at most {numbers[0]} is served" if high > int(numbers[0]) else None


def _stride_unless_valid(op: Operator, numbers: Sequence[str]) -> str | None:
    dilated = max(getattr(op.options, "dilationHFactor", 1), getattr(op.options, "dilationWFactor", 1)) > 1
    if not dilated and getattr(op.options, "padding", _VALID) == _VALID:
        return None
    return _stride(op, numbers)


def _pool(op: Operator, numbers: Sequence[str]) -> str | None:
    height, width = int(op.options.filterHeight), int(op.options.filterWidth)
    most = int(numbers[0])
    if len(numbers) > 1 and op.options.padding != _VALID:
        side = int(numbers[1])
        return f"the window is {height}x{width}, with padding at most {side}x{side}" if (
            max(height, width) > side
        ) else None  # fmt: skip
    wrong = height > most or height * width > most * most
    return f"the window is {height}x{width}, at most {most}x{most} is served" if wrong else None


def _depth_at_most(op: Operator, numbers: Sequence[str]) -> str | None:
    depth = op.given(0).shape[-1]
    return f"the depth is {depth}, at most {numbers[0]} is served" if depth > int(numbers[0]) else None


def _along_depth(op: Operator, _: Sequence[str]) -> str | None:
    axis, rank = op.given(1).data, len(op.given(0).shape)
    along = axis is not None and int(axis.reshape(-1)[0]) % rank == rank - 1
    return None if along else "it does not work along the last axis"


def _data(op: Operator, types: Sequence[str]) -> str | None:
    kind = op.given(0).dtype
    return None if kind in types else f"{op.given(0).name} is {kind}; only {', '.join(types)} are served"


def _quant(tensor: Tensor) -> tuple[float, int]:
    return (tensor.scale.item(), tensor.zero_point) if len(tensor.scales) == 1 else (0.0, 0)


def _same_scale(op: Operator, _: Sequence[str]) -> str | None:
    kinds = {_quant(t) for t in (*op.inputs, *op.outputs) if t is not None}
    return "its operands and its result have different scales" if len(kinds) > 1 else None


def _rank(op: Operator, numbers: Sequence[str]) -> str | None:
    rank = len(op.given(0).shape)
    return f"{rank} axes, at most {numbers[0]} are served" if rank > int(numbers[0]) else None


def _area_below(op: Operator, numbers: Sequence[str]) -> str | None:
    area = prod(op.given(0).shape[-3:-1])
    return f"height times width is {area}, below {numbers[0]} is served" if area >= int(numbers[0]) else None


def _weight_sum(op: Operator, numbers: Sequence[str]) -> str | None:
    weights, data = op.given(1), op.given(0)
    if weights.data is None or data.dtype not in ("int8", "uint8"):
        return None
    axis = weights.data.ndim - 1 if op.code == "DEPTHWISE_CONV_2D" else 0
    others = tuple(i for i in range(weights.data.ndim) if i != axis)
    largest = int(np.max(np.sum(np.abs(weights.data.astype(np.int64)), axis=others), initial=0))
    most = int(numbers[0])
    return (
        f"the weights of a channel sum up to {largest}, at most {most} is served" if largest > most else None
    )


def _transposed_stride(op: Operator, _: Sequence[str]) -> str | None:
    height, width = _strides(op)
    data, kernel = op.given(2).shape, op.given(1).shape
    served = (height, width) in ((1, 1), (2, 2)) or (
        (height, width) == (1, 2) and data[1] == kernel[1] == 1
    ) or ((height, width) == (2, 1) and data[2] == kernel[2] == 1)  # fmt: skip
    return None if served else f"its stride is {height}x{width}"


def _factors(op: Operator) -> tuple[float, float] | None:
    """How many times larger height and width become; None where nothing is resized, or a single pixel is."""
    before, after = op.given(0).shape, op.outputs[0].shape
    if before == after or before[1:3] == (1, 1):
        return None
    less = 1 if getattr(op.options, "alignCorners", False) else 0
    sides = [
        (a - less) / (b - less) if b > less else float(a)
        for a, b in zip(after[1:3], before[1:3], strict=True)
    ]
    return sides[0], sides[1]


def _resize_to(op: Operator, allowed: Sequence[str]) -> str | None:
    factors = _factors(op)
    if factors is None:
        return None
    after = op.outputs[0].shape
    flat = any(after[1 + i] == 1 and factors[i] == 1 for i in (0, 1))
    if factors[0] != factors[1] and not flat:
        return f"height and width are resized unequally, {factors[0]:g} and {factors[1]:g} times"
    factor = max(factors)
    times = " or ".join(allowed)
    return None if f"{factor:g}" in allowed else f"it resizes {factor:g} times, only {times} times is served"


def _resize_bilinear(op: Operator, numbers: Sequence[str]) -> str | None:
    half = getattr(op.options, "halfPixelCenters", False)
    return _resize_to(op, numbers[:1] if half else numbers[1:])


def _resize_power_of_two(op: Operator, _: Sequence[str]) -> str | None:
    factors = _factors(op) or ()
    wrong = [f for f in factors if f < 1 or f != int(f) or int(f) & (int(f) - 1)]
    return f"it resizes {wrong[0]:g} times, which is no power of two" if wrong else None


def _resize_at_most(op: Operator, numbers: Sequence[str]) -> str | None:
    most = int(numbers[0 if getattr(op.options, "alignCorners", False) else 1])
    factor = max(_factors(op) or (1.0,))
    return f"it resizes {factor:g} times, at most {most} times is served" if factor > most else None


def _axis_is_batch(op: Operator, _: Sequence[str]) -> str | None:
    axis, batch = int(getattr(op.options, "axis", 0)), int(getattr(op.options, "batchDims", 0))
    return None if axis == batch else f"it gathers along axis {axis}; only axis {batch} is served"


def _dynamic(op: Operator) -> Tensor | None:
    """The second operand of a product, if it is computed."""
    weights = op.given(1)
    return weights if op.code == "BATCH_MATMUL" or weights.data is None else None


def _dynamic_depth(op: Operator, numbers: Sequence[str]) -> str | None:
    most = 1 << int(numbers[0])
    large = _dynamic(op) is not None and max(op.given(0).shape[-1], op.outputs[0].shape[-1]) > most
    return f"a product of two computed operands has an axis above {most}" if large else None


def _dynamic_data(op: Operator, types: Sequence[str]) -> str | None:
    return None if _dynamic(op) is None else _data(op, types)


CHECKS: Mapping[str, Check] = {
    "constant-parameters": _constant_parameters,
    "constant-index": _constant_index,
    "batch": _batch,
    "depth-alone": _depth_alone,
    "axis-below": _axis_below,
    "reduced-at-most": _reduced_at_most,
    "stride": _stride,
    "stride-unless-valid": _stride_unless_valid,
    "pool": _pool,
    "depth-at-most": _depth_at_most,
    "along-depth": _along_depth,
    "data": _data,
    "same-scale": _same_scale,
    "rank": _rank,
    "area-below": _area_below,
    "weight-sum": _weight_sum,
    "transposed-stride": _transposed_stride,
    "resize-bilinear": _resize_bilinear,
    "resize-nearest": _resize_to,
    "resize-power-of-two": _resize_power_of_two,
    "resize-at-most": _resize_at_most,
    "axis-is-batch": _axis_is_batch,
    "dynamic-depth": _dynamic_depth,
    "dynamic-data": _dynamic_data,
}
