"""What kernels of several families share: their form, ranges of activations, windows over images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgecc.errors import UnsupportedError
from edgecc.ir import Array
from edgecc.simulate.fixed_point import Integers, round_half_away
from edgecc.tflite.options import ACTIVATIONS
from edgecc.tflite.reader import Operator, Tensor

Kernel = Callable[[Operator, Sequence[Array]], Sequence[Array]]
"""Computes the outputs of an operator from its inputs; inputs that are left out are empty arrays."""

_ACTIVATION_NAMES = {number: name for name, number in ACTIVATIONS.items()}
_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "NONE": (None, None), "RELU": (0.0, None), "RELU_N1_TO_1": (-1.0, 1.0), "RELU6": (0.0, 6.0),
}  # fmt: skip


def quantized(output: Tensor, value: float) -> int:
    """A real bound in steps of `output`, rounded as C's roundf of a float32 quotient."""
    steps = float(np.float32(value) / output.scale)
    return output.zero_point + int(np.clip(round_half_away(steps), -(2.0**31), 2.0**31 - 1))


def bounds(op: Operator) -> tuple[float | None, float | None]:
    """Real limits of the fused activation.

    Raises:
        UnsupportedError: it has none.
    """
    number = op.options.fusedActivationFunction
    name = _ACTIVATION_NAMES.get(number)
    if name is None:
        raise UnsupportedError(f"the fused activation {number} is not simulated: {op.label}")
    return _BOUNDS[name]


def clamped(op: Operator, steps: Integers, limits: tuple[float | None, float | None] | None = None) -> Array:
    """The output's integers: the zero point added, limited by its type and the fused activation.

    Args:
        steps: int64, on the output's scale.
        limits: real ones; None: of the fused activation.
    """
    output = op.outputs[0]
    kind = np.iinfo(output.dtype)
    low, high = bounds(op) if limits is None else limits
    least = kind.min if low is None else max(kind.min, quantized(output, low))
    most = kind.max if high is None else min(kind.max, quantized(output, high))
    # The reference takes the larger first: where the limits cross, the upper one wins.
    return np.minimum(np.maximum(steps + output.zero_point, least), most).astype(output.dtype)


def fitted(op: Operator, steps: Integers) -> Array:
    """`clamped` of operators without a fused activation."""
    return clamped(op, steps, (None, None))


def centred(tensor: Tensor, values: Array) -> Integers:
    """Integers without their zero point, int64."""
    return values.astype(np.int64) - tensor.zero_point


@dataclass(frozen=True)
class Axis:
    """Windows along one axis of an image: how many, how far apart, and zeros in front."""

    size: int
    kernel: int
    stride: int
    dilation: int
    count: int
    before: int

    @property
    def after(self) -> int:
        """Elements that the last window needs behind the image, at least 0."""
        return max(0, (self.count - 1) * self.stride + self.reach - self.size - self.before)

    @property
    def reach(self) -> int:
        """Of a window, from its first element to its last."""
        return (self.kernel - 1) * self.dilation + 1

    def taps(self) -> Iterator[tuple[int, slice]]:
        """Each element of the window, and where all windows have it in the padded image."""
        for k in range(self.kernel):
            start = k * self.dilation
            yield k, slice(start, start + (self.count - 1) * self.stride + 1, self.stride)


def axis(size: int, kernel: int, stride: int, same: bool, dilation: int = 1) -> Axis:
    """As the schema's paddings SAME and VALID place them (kernels/padding.h)."""
    reach = (kernel - 1) * dilation + 1
    count = -(-size // stride) if same else -(-(size - reach + 1) // stride)
    before = max(0, (count - 1) * stride + reach - size) // 2 if same else 0
    return Axis(size, kernel, stride, dilation, count, before)


def padded(image: Array, rows: Axis, columns: Axis, value: float = 0) -> Array:
    """An image (n, h, w, c) with what its windows need around it."""
    amounts = ((0, 0), (rows.before, rows.after), (columns.before, columns.after), (0, 0))
    if not any(map(any, amounts)):
        return image
    return np.pad(image, amounts, constant_values=value)
