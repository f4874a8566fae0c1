"""Weights that share few values, as they are or as multiples of a scale of each channel, which integers keep few.

Values of one codebook for all channels stay few only with one int8 scale for all; codebooks in steps of 1/127 of the
largest weight of each channel with the usual scale of each channel, and nothing is rounded.
"""

from __future__ import annotations

import numpy as np

from edgecc import ir

MOST_SHARED = 6
"""Bits of the largest codebook that is told from chance."""

MOST = 2**MOST_SHARED
# So often each value occurs in the mean.
_OFTEN = 4
REASON = "its weights share few values, which would be many afterwards"


# One scale for all is too coarse for a channel that loses more than this share of its energy, and this share of the
# channels may be such: the weights of neurons that do nothing are tiny.
_LOST, _COARSE = 0.1, 0.25


def shares_values(weights: ir.Array) -> bool:
    """Whether weights take few values, each of them often, that one int8 scale can tell apart in most channels.

    Weights of any shape, channels along the first axis. Filters made by hand have few values,
    too, but in channels as unlike as 300 and 1.
    """
    if weights.size < 2 * _OFTEN:
        return False
    # A sample says no in nearly all cases, and costs nothing.
    if np.unique(weights.reshape(-1)[: 8 * MOST]).size > MOST:
        return False
    distinct = np.unique(weights).size
    return 1 < distinct <= MOST and distinct * _OFTEN <= weights.size and _keeps_channels(weights)


def shares_steps(weights: ir.Array, axis: int) -> bool:
    """Whether weights are few multiples, each of them often, of 1/127 of the largest in their channel.

    Weights of any shape, channels along `axis`.
    """
    if weights.size < 2 * _OFTEN:
        return False
    rows = np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)
    if not _on_steps(rows[:8]):  # a sample says no in nearly all cases, and costs nothing
        return False
    codes = np.unique(np.rint(steps(rows)))
    return bool(1 < codes.size <= MOST and codes.size * _OFTEN <= weights.size and _on_steps(rows))


def stays_few(weights: ir.Array, axis: int) -> bool:
    """Whether weights share few values in one of the two ways, and are to be left as they are."""
    return shares_values(weights) or shares_steps(weights, axis)


def steps(rows: ir.Array) -> ir.Array:
    """Each row in units of 1/127 of its largest magnitude, float64."""
    top = np.abs(rows).max(axis=1, keepdims=True, initial=0.0).astype(np.float64)
    return np.asarray(rows / np.where(top > 0, top, 1.0) * 127)


def _on_steps(rows: ir.Array) -> bool:
    found = steps(rows)
    return bool((np.abs(found - np.rint(found)) < 1e-3).all())


def _keeps_channels(weights: ir.Array) -> bool:
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    scale = float(np.abs(rows).max()) / 127 or 1.0
    lost = (rows - np.rint(rows / scale) * scale) ** 2
    return float(np.mean(lost.sum(axis=1) > _LOST * (rows**2).sum(axis=1))) <= _COARSE
