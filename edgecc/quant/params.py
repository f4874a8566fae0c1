"""How one tensor is stored in integers: real = scale * (stored - zero_point)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np

from edgecc import ir
from edgecc.quant.shared_values import shares_values
from edgecc.quant.weight_scales import least_error

DType = Literal["int4", "int8", "uint8", "int16", "int32"]

# Lowest and highest stored value. Weights leave the lowest out: symmetric, -127 to 127 (TFLite quantization
# specification, "Symmetric vs asymmetric").
LIMITS: dict[str, tuple[int, int]] = {
    "int4": (-8, 7),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "int32": (-(2**31), 2**31 - 1),
}

# A tensor that was never seen to leave zero (or a channel of zero weights) still needs a scale. Guessed:
# small enough to lose nothing should it move, large enough that scale * scale is far from the smallest
# float32.
DEAD = 1e-6
_PIECE = 1 << 20


@dataclass(frozen=True, eq=False)
class QuantParams:
    """Scale and zero point of one tensor.

    Attributes:
        scale: (1,) or (channels,) float32, positive; with blocks one for each, in the order of the array.
        zero_point: same shape, int64, within the limits of `dtype`.
        dtype: how values are stored.
        axis: of the channels, or the one that is cut into blocks; None for one scale a tensor.
        narrow: the lowest stored value is left out (symmetric weights).
        block_size: how many neighbours along `axis` share a scale; 0: there are no blocks.
    """

    scale: ir.Array
    zero_point: ir.Array
    dtype: DType
    axis: int | None = None
    narrow: bool = False
    block_size: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", _frozen(self.scale, np.float32))
        object.__setattr__(self, "zero_point", _frozen(self.zero_point, np.int64))
        if self.scale.shape != self.zero_point.shape or (self.axis is None and self.scale.size != 1):
            raise ValueError(
                f"scale {self.scale.shape}, zero point {self.zero_point.shape}, axis {self.axis}"
            )
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError(f"scales must be positive and finite: {self.scale}")

    @property
    def limits(self) -> tuple[int, int]:
        """Lowest and highest stored value."""
        low, high = LIMITS[self.dtype]
        return (low + 1 if self.narrow else low), high

    @property
    def symmetric(self) -> bool:
        """Whether zero is stored as zero."""
        return not self.zero_point.any()

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest real value of a per-tensor quantization."""
        scale, zero = float(self.scale[0]), int(self.zero_point[0])
        return (self.limits[0] - zero) * scale, (self.limits[1] - zero) * scale

    def quantize(self, array: ir.Array) -> ir.Array:
        """Stored values: round half to even, then saturate, as QuantizeLinear does. int4 is held in int8."""
        result: ir.Array = np.empty(array.shape, "int8" if self.dtype == "int4" else self.dtype)
        for part, step, offset in self._pieces(array.shape):
            stored = np.rint(np.asarray(array[part], np.float64) / step)
            stored += offset
            result[part] = np.clip(stored, *self.limits)
        return result

    def dequantize(self, stored: ir.Array) -> ir.Array:
        """Real values, float32."""
        result: ir.Array = np.empty(stored.shape, np.float32)
        for part, step, offset in self._pieces(stored.shape):
            result[part] = (stored[part].astype(np.int64) - offset) * step
        return result

    def _pieces(self, shape: Sequence[int]) -> Iterator[tuple[Any, ir.Array, ir.Array]]:
        """Parts of an array, and their scale and zero point: float64 takes several times the memory of the array."""
        scale, zero = self.aligned(shape)
        rows = max(1, _PIECE * shape[0] // max(1, prod(shape))) if shape else 1
        for start in range(0, shape[0] if shape else 1, rows):
            part = slice(start, start + rows) if shape else ()
            step, offset = (v[part] if v.ndim and len(v) > 1 else v for v in (scale, zero))
            yield part, step, offset

    def as_unsigned(self) -> QuantParams:
        """The same real values stored in uint8 instead of int8."""
        if self.dtype != "int8":
            return self
        return QuantParams(self.scale, self.zero_point + 128, "uint8", self.axis)

    def blocks(self, shape: Sequence[int]) -> tuple[int, ...]:
        """How many scales there are along each axis of an array of that shape that is cut into blocks."""
        assert self.axis is not None and self.block_size
        axis = self.axis % len(shape)
        return tuple(-(-d // self.block_size) if i == axis else d for i, d in enumerate(shape))

    def aligned(self, shape: Sequence[int]) -> tuple[ir.Array, ir.Array]:
        """Scale (float64) and zero point such that they broadcast with an array of that shape."""
        scale = self.scale.astype(np.float64)
        if self.axis is None:
            return scale.reshape(()), self.zero_point.reshape(())
        rank = len(shape)
        if self.block_size:
            axis, blocks = self.axis % rank, self.blocks(shape)
            spread = (np.repeat(v.reshape(blocks), self.block_size, axis) for v in (scale, self.zero_point))
            wide, zeros = (np.take(v, range(shape[axis]), axis) for v in spread)
            return wide, zeros
        shape = [-1 if i == self.axis % rank else 1 for i in range(rank)]
        return scale.reshape(shape), self.zero_point.reshape(shape)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; float32 survives exactly, being a float64 too."""
        return {
            "scale": [float(s) for s in self.scale],
            "zero_point": [int(z) for z in self.zero_point],
            "dtype": self.dtype,
            "axis": self.axis,
            "narrow": self.narrow,
            **({"block_size": self.block_size} if self.block_size else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> QuantParams:
        """The inverse of `to_dict`."""
        return cls(
            np.asarray(data["scale"], np.float32),
            np.asarray(data["zero_point"], np.int64),
            data["dtype"],
            data["axis"],
            bool(data["narrow"]),
            int(data.get("block_size", 0)),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuantParams) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return (
            self.scale.tobytes(), self.zero_point.tobytes(), self.dtype, self.axis, self.narrow, self.block_size,
        )  # fmt: skip

    def __str__(self) -> str:
        if self.axis is None:
            return f"{self.dtype} scale {self.scale[0]:.6g} zero point {self.zero_point[0]}"
        low, high = self.scale.min(), self.scale.max()
        blocks = f" in blocks of {self.block_size}" if self.block_size else ""
        return f"{self.dtype} axis {self.axis}{blocks}, {self.scale.size} scales {low:.6g}..{high:.6g}"


def from_range(low: float, high: float, dtype: DType) -> QuantParams:
    """Per-tensor parameters that cover low..high and represent zero exactly; int16 is symmetric.

    Source: TFLite quantization specification (asymmetric int8, symmetric int16 activations).
    """
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    bottom, top = LIMITS[dtype]
    if dtype == "int16":
        scale = max(-low, high, DEAD) / top
        return QuantParams(np.array([scale]), np.array([0]), dtype)
    if high - low < DEAD:
        high = low + DEAD if high == 0.0 and low == 0.0 else high
        scale = DEAD / (top - bottom)
    else:
        scale = (high - low) / (top - bottom)
    zero = int(np.clip(round(bottom - low / scale), bottom, top))
    return QuantParams(np.array([scale]), np.array([zero]), dtype)


def fixed(scale: float, zero_point: int, dtype: DType) -> QuantParams:
    """Parameters that a kernel demands."""
    return QuantParams(np.array([scale]), np.array([zero_point]), dtype)


def from_weights(
    weights: ir.Array, axis: int | None, dtype: DType = "int8", block_size: int = 0
) -> QuantParams:
    """Symmetric parameters of constant weights, one scale a channel of `axis` or one in all.

    Weights that share few values (shared_values.py) have one scale, repeated for each channel: they stay few.
    int8 covers the largest magnitude. 15 levels are too few for that: int4 has the scale of least error.

    Args:
        weights: any shape, float.
        axis: of the output channels; None: one scale for the tensor. With blocks the axis that is cut.
        dtype: int8 or int4.
        block_size: so many neighbours along `axis` share a scale (rounded to float16, as TFLite stores it); 0: all.

    Source: TFLite quantization specification (-127 to 127, zero point 0); -7 to 7 likewise: the built-in kernel of
    LiteRT 2.3 computes -8 wrongly in a FULLY_CONNECTED on float32.
    """
    array = np.asarray(weights, np.float32)
    axis = None if axis is None else axis % array.ndim
    rows = array.reshape(1, -1)
    if block_size and axis is not None:
        cut = (*array.shape[:axis], array.shape[axis] // block_size, block_size, *array.shape[axis + 1 :])
        rows = np.moveaxis(array.reshape(cut), axis + 1, -1).reshape(-1, block_size)
    elif axis is not None and not shares_values(array):
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    highest = LIMITS[dtype][1]
    if dtype == "int4":
        scale = least_error(rows, highest)
    else:
        scale = np.abs(rows).max(axis=1, initial=0.0) / highest
    least = DEAD / highest
    if block_size:
        scale, least = scale.astype(np.float16), float(np.finfo(np.float16).smallest_subnormal)
    scale = np.maximum(scale.astype(np.float32), np.float32(least))
    if axis is not None and not block_size:
        scale = np.broadcast_to(scale, (array.shape[axis],))
    return QuantParams(scale, np.zeros(scale.shape), dtype, axis, narrow=True, block_size=block_size)


def _frozen(array: ir.Array, dtype: Any) -> ir.Array:
    result = np.array(array, dtype).reshape(-1)
    result.setflags(write=False)
    return result
