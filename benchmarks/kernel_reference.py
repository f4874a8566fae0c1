"""What TFLite's operators compute, in numpy: the answers with which `kernel_cases.py` compares the runtimes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / np.sqrt(2))))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def lrn(x: Array, radius: int, bias: float, alpha: float, beta: float) -> Array:
    squares = np.stack(
        [(x[..., max(0, c - radius) : c + radius + 1] ** 2).sum(-1) for c in range(x.shape[-1])], -1
    )
    return np.asarray(x / (bias + alpha * squares) ** beta)


def windows(x: Array, size: Sequence[int], stride: int = 1) -> Array:
    """(batch, *places, channels, *size) of x (batch, *space, channels)."""
    axes = tuple(range(1, x.ndim - 1))
    found = np.lib.stride_tricks.sliding_window_view(x, tuple(size), axis=axes)
    return np.asarray(found[(slice(None), *[slice(None, None, stride)] * len(axes))])


def conv(x: Array, w: Array, b: Array, stride: int = 1) -> Array:
    """x (batch, *space, in), w (out, *size, in)."""
    spatial = w.ndim - 2
    part = windows(x, w.shape[1:-1], stride)
    letters = "uvw"[:spatial]
    return np.asarray(np.einsum(f"b...i{letters},o{letters}i->b...o", part, w) + b)


def grouped_conv(x: Array, w: Array, b: Array) -> Array:
    """x (batch, h, w, in), w (out, kh, kw, in / groups)."""
    groups = x.shape[-1] // w.shape[-1]
    parts = zip(np.split(x, groups, -1), np.split(w, groups), np.split(b, groups), strict=True)
    return np.concatenate([conv(*p) for p in parts], -1)


def depthwise(x: Array, w: Array, b: Array, dilation: int = 1) -> Array:
    """x (batch, h, w, c), w (1, kh, kw, c * multiplier)."""
    size = tuple(1 + dilation * (s - 1) for s in w.shape[1:3])
    part = windows(x, size)[..., ::dilation, ::dilation]
    multiplier = w.shape[-1] // x.shape[-1]
    return np.asarray(np.einsum("bhwcuv,uvc->bhwc", np.repeat(part, multiplier, 3), w[0]) + b)


def transposed_conv(x: Array, w: Array, b: Array, stride: int) -> Array:
    """x (batch, h, w, in), w (out, kh, kw, in), VALID."""
    n, h, wide, _ = x.shape
    o, kh, kw, _ = w.shape
    out = np.zeros((n, (h - 1) * stride + kh, (wide - 1) * stride + kw, o), x.dtype)
    for i in range(h):
        for j in range(wide):
            out[:, i * stride : i * stride + kh, j * stride : j * stride + kw] += np.einsum(
                "bi,ouvi->buvo", x[:, i, j], w
            )
    return np.asarray(out + b)


def max_pool(x: Array) -> Array:
    return np.asarray(windows(x, (2, 2)).max((-1, -2)))


def average_pool(x: Array) -> Array:
    return np.asarray(windows(x, (2, 2)).mean((-1, -2)))


def l2_pool(x: Array) -> Array:
    return np.asarray(np.sqrt((windows(x, (2, 2)) ** 2).mean((-1, -2))))


def resize_linear(x: Array, height: int, width: int, *, half: bool = False, corners: bool = False) -> Array:
    for axis, size in ((1, height), (2, width)):
        old = x.shape[axis]
        scale = (old - 1) / (size - 1) if corners and size > 1 else old / size
        place = (np.arange(size) + 0.5) * scale - 0.5 if half else np.arange(size) * scale
        low = np.clip(np.floor(place), 0, old - 1).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = np.clip(place - low, 0, 1).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        x = x.take(low, axis) * (1 - share) + x.take(high, axis) * share
    return x


def resize_nearest(x: Array, height: int, width: int, *, half: bool = False) -> Array:
    for axis, size in ((1, height), (2, width)):
        place = (np.arange(size) + (0.5 if half else 0)) * (x.shape[axis] / size)
        x = x.take(np.minimum(np.floor(place).astype(int), x.shape[axis] - 1), axis)
    return x


def depth_to_space(x: Array, block: int) -> Array:
    n, h, w, c = x.shape
    parts = x.reshape(n, h, w, block, block, c // block**2).transpose(0, 1, 3, 2, 4, 5)
    return parts.reshape(n, h * block, w * block, -1)


def space_to_depth(x: Array, block: int) -> Array:
    n, h, w, c = x.shape
    parts = x.reshape(n, h // block, block, w // block, block, c).transpose(0, 1, 3, 2, 4, 5)
    return parts.reshape(n, h // block, w // block, -1)


def space_to_batch(x: Array, block: int) -> Array:
    n, h, w, c = x.shape
    parts = x.reshape(n, h // block, block, w // block, block, c).transpose(2, 4, 0, 1, 3, 5)
    return parts.reshape(-1, h // block, w // block, c)


def batch_to_space(x: Array, block: int) -> Array:
    n, h, w, c = x.shape
    parts = x.reshape(block, block, n // block**2, h, w, c).transpose(2, 3, 0, 4, 1, 5)
    return parts.reshape(-1, h * block, w * block, c)


def scatter_nd(indices: Array, updates: Array, shape: Sequence[int]) -> Array:
    out = np.zeros(tuple(shape), updates.dtype)
    np.add.at(out, tuple(np.moveaxis(indices, -1, 0)), updates)
    return out


def top_k(x: Array, k: int) -> tuple[Array, Array]:
    order = np.argsort(-x.astype(np.float64), axis=-1, kind="stable")[..., :k]
    return np.take_along_axis(x, order, -1), order.astype(np.int32)
