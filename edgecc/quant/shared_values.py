"""Weights that share few values: integers keep them few only with one scale for all channels."""

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


def _keeps_channels(weights: ir.Array) -> bool:
    rows = weights.reshape(len(weights), -1).astype(np.float64)
    scale = float(np.abs(rows).max()) / 127 or 1.0
    lost = (rows - np.rint(rows / scale) * scale) ** 2
    return float(np.mean(lost.sum(axis=1) > _LOST * (rows**2).sum(axis=1))) <= _COARSE
