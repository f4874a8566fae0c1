"""Scales and roundings of constant weights in few bits, chosen without data (benchmarks/int4.py has the gains)."""

from __future__ import annotations

import numpy as np

from edgecc import ir

# Shares of the largest magnitude that are tried as the clip, and the power of the error that is summed: as in the
# quantizer of GPTQ (Frantar et al. 2022). The squared error alone clips large weights, which matter, too much.
_SHARES = np.linspace(1.0, 0.4, 13)
_POWER = 2.4
# Numbers that are worked on at a time: what the search needs beside the weights stays at a few megabytes.
_CHUNK = 2**18


def least_error(rows: ir.Array, highest: int) -> ir.Array:
    """The symmetric scale of each row for which rounding to -highest..highest costs least: a search over clips.

    Args:
        rows: (channels, count) float32.
        highest: largest stored magnitude, 7 for int4.

    Returns:
        (channels,) float32; 0 for rows of zeros.
    """
    rows = np.ascontiguousarray(rows, np.float32)
    step = max(1, _CHUNK // max(1, rows.shape[1]))
    parts = [_searched(rows[i : i + step], highest) for i in range(0, len(rows), step)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _searched(rows: ir.Array, highest: int) -> ir.Array:
    peak = np.abs(rows).max(axis=1, initial=0.0)
    units = rows / np.where(peak == 0.0, 1.0, peak)[:, None]  # powers of tiny weights would vanish in float32
    best, least = np.ones_like(peak), np.full_like(peak, np.inf)
    error = np.empty_like(units)
    for share in _SHARES:
        scale = np.float32(share / highest)
        np.multiply(units, 1 / scale, out=error)
        np.clip(np.rint(error, out=error), -highest, highest, out=error)
        np.abs(np.subtract(units, np.multiply(error, scale, out=error), out=error), out=error)
        cost = np.power(error, np.float32(_POWER), out=error).sum(axis=1)
        best = np.where(cost < least, np.float32(share), best)
        least = np.minimum(least, cost)
    return np.asarray(peak * best / highest, np.float32)


def sum_preserving(rows: ir.Array, highest: int, group: int = 1) -> ir.Array:
    """Integers whose sum over a row is that of the numbers: some are rounded to the farther neighbour.

    Inputs behind an activation have a mean far from zero, which the sum of the rounding errors is multiplied with;
    it is brought below half a step where that can be, what the clip cuts off included: first over groups of
    neighbours, then over the row, by moving the numbers that are nearest to the middle. Source: SQuant (Guo et al.
    2022), flipping by kernel and by channel; needs no data.

    Args:
        rows: (channels, count) float32, in units of the scale.
        highest: largest stored magnitude.
        group: how many neighbours belong to one input channel (the taps of a kernel).

    Returns:
        (channels, count) int8.
    """
    step = max(1, _CHUNK // max(1, rows.shape[1]))
    stored = np.empty(rows.shape, np.int8)
    for i in range(0, len(rows), step):
        wanted = rows[i : i + step]
        found = np.rint(np.clip(wanted, -highest, highest))
        if group > 1:
            found = _flipped(wanted.reshape(-1, group), found.reshape(-1, group), highest).reshape(
                wanted.shape
            )
        stored[i : i + step] = _flipped(wanted, found, highest)
    return stored


def _flipped(wanted: ir.Array, found: ir.Array, highest: int) -> ir.Array:
    error = found - wanted
    total = error.sum(axis=1, dtype=np.float64)
    sign = np.sign(total)[:, None].astype(wanted.dtype)
    moved = found - sign
    gain = np.where((error * sign > 0) & (np.abs(moved) <= highest), error * sign, -np.inf)
    order = np.argsort(-gain, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.broadcast_to(np.arange(wanted.shape[1]), order.shape), axis=1)
    chosen = (rank < np.rint(np.abs(total))[:, None]) & np.isfinite(gain)
    return np.where(chosen, moved, found)
