"""Error-compensated rounding: what rounding one weight spoils, the weights not yet rounded make up for.

Source: Frantar et al. 2022, "GPTQ" (arXiv:2210.17323), algorithm 1, with the columns in falling order of their
second moment; the closed form of one step is that of Hassibi and Stork 1993, "Optimal Brain Surgeon".
"""

from __future__ import annotations

import numpy as np

from edgecc import ir

_BLOCK = 64  # columns whose effect on all later ones is applied as one product


def compensated(weights: ir.Array, moments: ir.Array, low: int, high: int) -> ir.Array:
    """Integers near `weights` that make the mean of |(W - Q) x|^2 small.

    Args:
        weights: (outputs, inputs) float64, in units of each output's scale.
        moments: (inputs, inputs) float64, E[x x^T], positive definite.
        low, high: limits of the integers.

    Returns:
        (outputs, inputs) float64, whole numbers.
    """
    size = weights.shape[1]
    order = np.argsort(-np.diag(moments), kind="stable")
    factor = np.linalg.cholesky(np.linalg.inv(moments[np.ix_(order, order)])).T  # upper triangular
    left = np.array(weights[:, order], np.float64)
    found = np.empty_like(left)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        errors = np.empty((len(left), stop - start))
        for i in range(start, stop):
            found[:, i] = np.clip(np.rint(left[:, i]), low, high)
            errors[:, i - start] = (left[:, i] - found[:, i]) / factor[i, i]
            left[:, i + 1 : stop] -= errors[:, i - start, None] * factor[i, i + 1 : stop]
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    result = np.empty_like(found)
    result[:, order] = found
    return result


def compensated_lanes(weights: ir.Array, moments: ir.Array, low: int, high: int) -> ir.Array:
    """`compensated` of many small layers at once, one output each, as the channels of a depthwise convolution.

    Args:
        weights: (lanes, inputs) float64, in units of each lane's scale.
        moments: (lanes, inputs, inputs) float64.
        low, high: limits of the integers.
    """
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")
    left = np.take_along_axis(weights.astype(np.float64), order, axis=1)
    moments = np.take_along_axis(moments, order[:, :, None], axis=1)
    moments = np.take_along_axis(moments, order[:, None, :], axis=2)
    factor = np.linalg.cholesky(np.linalg.inv(moments)).transpose(0, 2, 1)
    found = np.empty_like(left)
    for i in range(left.shape[1]):
        found[:, i] = np.clip(np.rint(left[:, i]), low, high)
        error = (left[:, i] - found[:, i]) / factor[:, i, i]
        left[:, i + 1 :] -= error[:, None] * factor[:, i, i + 1 :]
    result = np.empty_like(found)
    np.put_along_axis(result, order, found, axis=1)
    return result
