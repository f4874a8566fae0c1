"""Scales of constant weights stored in few bits: least squared error instead of the largest magnitude."""

from __future__ import annotations

import numpy as np

from edgecc import ir

# Shares of the largest magnitude that are tried as the clip. On the reference networks (benchmarks/int4.py) the best
# at 4 bits lie between 0.4 and 1, and twice as many steps gain less than 0.05 dB.
_SHARES = np.linspace(1.0, 0.4, 13)
# Numbers that are worked on at a time: what the search needs beside the weights stays at a few megabytes.
_CHUNK = 2**18


def least_squares(rows: ir.Array, highest: int) -> ir.Array:
    """The symmetric scale of each row that rounding to -highest..highest costs the least squared error.

    For each clip of a grid the integers q are found; the best scale for these is <w, q> / <q, q>, and the error then
    left is |w|^2 - <w, q>^2 / <q, q>: a line search over the clip, with the closed form of least squares for the scale.

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
    best, least = peak / np.float32(highest), np.zeros_like(peak)
    dead = peak == 0.0
    units = rows / np.where(dead, 1.0, peak)[:, None]  # products of tiny weights would vanish in float32
    stored = np.empty_like(units)
    for share in _SHARES:
        np.multiply(units, np.float32(highest / share), out=stored)
        np.clip(np.rint(stored, out=stored), -highest, highest, out=stored)
        product = np.einsum("ij,ij->i", units, stored)
        square = np.maximum(np.einsum("ij,ij->i", stored, stored), 1.0)  # rows of zeros alone have none
        explained = product**2 / square
        better = explained > least
        least = np.where(better, explained, least)
        best = np.where(better, peak * product / square, best)
    return np.asarray(best, np.float32)
