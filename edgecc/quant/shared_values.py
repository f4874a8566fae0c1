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


def shares_values(weights: ir.Array) -> bool:
    """Whether weights take few values, each of them often; weights of any shape."""
    if weights.size < 2 * _OFTEN:
        return False
    # A sample says no in nearly all cases, and costs nothing.
    if np.unique(weights.reshape(-1)[: 8 * MOST]).size > MOST:
        return False
    distinct = np.unique(weights).size
    return 1 < distinct <= MOST and distinct * _OFTEN <= weights.size
