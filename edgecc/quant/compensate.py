"""Error-compensated rounding: what rounding one weight spoils, the weights not yet rounded make up for.

With E[x x^T] = R R^T, R upper triangular, the mean of |e x|^2 of a row e of errors is the sum over k of
R_kk^2 (e_k + sum over j < k of e_j R_jk / R_kk)^2, which is made small term by term. Source: Chee et al. 2023, "QuIP"
(arXiv:2307.13304), section 3.1, where it is shown to be what algorithm 1 of "GPTQ" does (Frantar et al. 2022,
arXiv:2210.17323); here columns come in falling order of their second moment.
"""

from __future__ import annotations

import numpy as np

from edgecc import ir

_BLOCK = 64  # columns that take the errors of all earlier blocks as one product


def compensated(weights: ir.Array, moments: ir.Array, low: int, high: int) -> ir.Array:
    """Integers near `weights` that make the mean of |(W - Q) x|^2 small; zeros stay zero.

    Args:
        weights: (outputs, inputs) float64, in units of each output's scale.
        moments: (inputs, inputs) float64, E[x x^T], positive definite.
        low, high: limits of the integers.

    Returns:
        (outputs, inputs) float64, whole numbers.
    """
    order = np.argsort(-np.diag(moments), kind="stable")
    feedback = _feedback(moments[np.ix_(order, order)])
    wanted = np.ascontiguousarray(weights[:, order].T, np.float64)
    found, errors = np.empty_like(wanted), np.empty_like(wanted)
    pruned = bool((wanted == 0).any())
    for start in range(0, len(wanted), _BLOCK):
        stop = min(start + _BLOCK, len(wanted))
        shifts = feedback[start:stop, :start] @ errors[:start]
        for i in range(start, stop):  # in place: each row is short, and there are many
            row = np.matmul(feedback[i, start:i], errors[start:i], out=found[i])
            row += shifts[i - start]
            row += wanted[i]
            np.rint(row, out=row)
            np.maximum(row, low, out=row)
            np.minimum(row, high, out=row)
            if pruned:
                row[wanted[i] == 0] = 0.0
            np.subtract(wanted[i], row, out=errors[i])
    result = np.empty(weights.shape)
    result[:, order] = found.T
    return result


def compensated_lanes(weights: ir.Array, moments: ir.Array, low: int, high: int) -> ir.Array:
    """`compensated` of many small layers at once, one output each, as the channels of a depthwise convolution.

    Args:
        weights: (lanes, inputs) float64, in units of each lane's scale.
        moments: (lanes, inputs, inputs) float64.
        low, high: limits of the integers.
    """
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")
    wanted = np.take_along_axis(weights.astype(np.float64), order, axis=1)
    moments = np.take_along_axis(moments, order[:, :, None], axis=1)
    feedback = _feedback(np.take_along_axis(moments, order[:, None, :], axis=2))
    found, errors = np.empty_like(wanted), np.empty_like(wanted)
    for i in range(wanted.shape[1]):
        shift = (feedback[:, i, :i] * errors[:, :i]).sum(axis=1)
        rounded = np.clip(np.rint(wanted[:, i] + shift), low, high)
        found[:, i] = np.where(wanted[:, i] == 0, 0.0, rounded)
        errors[:, i] = wanted[:, i] - found[:, i]
    result = np.empty_like(found)
    np.put_along_axis(result, order, found, axis=1)
    return result


def _feedback(moments: ir.Array) -> ir.Array:
    """R_jk / R_kk at [..., k, j], of which j < k count; moments: (..., inputs, inputs) = R R^T."""
    factor = np.linalg.cholesky(moments[..., ::-1, ::-1])[..., ::-1, ::-1]
    return np.ascontiguousarray(factor.swapaxes(-1, -2) / np.diagonal(factor, axis1=-2, axis2=-1)[..., None])
