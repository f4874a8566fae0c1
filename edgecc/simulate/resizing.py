"""Images (n, h, w, c) made larger or smaller.

Sources: LiteRT, kernels/internal/reference/{resize_bilinear,resize_nearest_neighbor}.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgecc.ir import Array
from edgecc.simulate.common import Kernel
from edgecc.simulate.fixed_point import Integers, round_half_away, saturate
from edgecc.tflite.reader import Operator

_BITS = 10
"""Binary places of a position in the bilinear kernel."""


def bilinear(op: Operator, values: Sequence[Array]) -> list[Array]:
    """RESIZE_BILINEAR in integers: positions with ten binary places, rounded half away from zero."""
    data = values[0].astype(np.int64)
    size = [int(v) for v in values[1]]
    (y0, y1, down), (x0, x1, across) = (
        _positions(data.shape[i + 1], size[i], op.options.alignCorners, op.options.halfPixelCenters)
        for i in (0, 1)
    )
    one = 1 << _BITS
    down, across = down[:, None, None], across[None, :, None]
    top, bottom = data[:, y0], data[:, y1]
    sums = (
        top[:, :, x0] * (one - down) * (one - across)
        + bottom[:, :, x0] * down * (one - across)
        + top[:, :, x1] * (one - down) * across
        + bottom[:, :, x1] * down * across
    )
    half = 1 << (2 * _BITS - 1)
    steps = np.where(sums > 0, (sums + half) >> 2 * _BITS, -((half - sums) >> 2 * _BITS))
    return [saturate(steps, values[0].dtype)]


def _positions(size: int, wanted: int, corners: bool, centers: bool) -> tuple[Integers, Integers, Integers]:
    """Lower and upper neighbour of each place of the result, and how far it lies above the lower one."""
    one = 1 << _BITS
    scale = (one * size + wanted // 2) // wanted
    if corners and wanted > 1:
        scale = (one * (size - 1) + (wanted - 1) // 2) // (wanted - 1)
    at = np.arange(wanted, dtype=np.int64) * scale
    if centers:
        at += scale // 2 - one // 2
    # C divides toward zero; what that changes is below 0 and cut off there.
    lower = np.maximum(at // one, 0)
    upper = np.minimum(np.trunc((at + one - 1) / one).astype(np.int64), size - 1)
    return lower, upper, at - one * lower


def nearest(op: Operator, values: Sequence[Array]) -> list[Array]:
    """RESIZE_NEAREST_NEIGHBOR: positions in float32."""
    size = [int(v) for v in values[1]]
    rows, columns = (_nearest(values[0].shape[i + 1], size[i], op) for i in (0, 1))
    return [values[0][:, rows][:, :, columns]]


def _nearest(size: int, wanted: int, op: Operator) -> Integers:
    corners, centers = op.options.alignCorners, op.options.halfPixelCenters
    stretched = corners and wanted > 1
    scale = (
        np.float32(size - 1) / np.float32(wanted - 1) if stretched else np.float32(size) / np.float32(wanted)
    )
    at = (np.arange(wanted, dtype=np.float32) + np.float32(0.5 if centers else 0)) * scale
    whole = (round_half_away(at) if corners else np.floor(at)).astype(np.int64)
    whole = np.minimum(whole, size - 1)
    return np.maximum(whole, 0) if centers else whole


INT8: Mapping[str, Kernel] = {"RESIZE_BILINEAR": bilinear}
ANY: Mapping[str, Kernel] = {"RESIZE_NEAREST_NEIGHBOR": nearest}
