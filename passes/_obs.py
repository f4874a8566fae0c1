"""Optimal brain surgeon: which weights of a layer cost least to remove, and what the others make up for.

The output of a row w errs by (w - v) x; its mean square is (w - v) H (w - v)^T with H = E[x x^T]. Removing the
weights P at best costs w_P [H^-1]_PP^-1 w_P^T, when the others move by -w_P [H^-1]_PP^-1 [H^-1]_P. (Hassibi and
Stork 1993; a row at a time: Frantar and Alistarh 2022, "Optimal Brain Compression", arXiv:2208.11580, section 4.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgecc import ir

# Numbers that are kept of rows worked on at once: more would leave the cache of the processor.
_ELEMENTS = 2_000_000
# Of the blocks still to be removed from a row, one in so many goes between two updates.
_SHARE = 8
_TRACE = 1e-12
# Rows with at most so many inputs are refitted all at once, and computed in float64.
_SMALL = 64


@dataclass(frozen=True)
class Pattern:
    """What is removed together.

    Attributes:
        block: so many neighbours; a row is cut into blocks of that size.
        group: of so many neighbouring blocks at most `removable` go; 0: of the row any number.
    """

    block: int = 1
    group: int = 0
    removable: int = 0


def costs(rows: ir.Array, moments: ir.Array, pattern: Pattern, most: float = 1.0) -> ir.Array:
    """What each block costs when it is the next to be removed from its row, cheapest first: never falls on the way.

    With T^T T = [H^-1]_:P [H^-1]_PP^-1 [H^-1]_P: for the weights P that are gone, H^-1 - T^T T is the inverse for
    those that are left; only T, which gains a few rows a round, is kept for each row of weights.

    Args:
        rows: (rows, inputs) float64.
        moments: (inputs, inputs) or (rows, inputs, inputs) float64, positive definite.
        pattern: of whole blocks.
        most: share of a row that may go.

    Returns:
        (rows, inputs / block) float64, the sum over a block; inf: it may not be removed.
    """
    size = rows.shape[1]
    inverse = np.linalg.inv(moments).astype(np.float32 if size > _SMALL else np.float64)
    shared = inverse.ndim == 2
    step = max(1, _ELEMENTS // size**2)
    found = []
    for i in range(0, len(rows), step):
        some = rows[i : i + step]
        own = inverse if shared else inverse[i : i + step]
        found.append(
            _costs(some.astype(inverse.dtype), np.broadcast_to(own, (len(some), size, size)), pattern, most)
        )
    return np.concatenate(found)


def _costs(w: ir.Array, inverse: ir.Array, pattern: Pattern, most: float) -> ir.Array:
    (count, size), block = w.shape, pattern.block
    blocks, lanes = size // block, np.arange(count)[:, None]
    wanted = blocks // pattern.group * pattern.removable if pattern.group else max(1, int(most * blocks))
    gone, found = np.zeros((count, blocks), bool), np.full((count, blocks), np.inf)
    inner = np.arange(size).reshape(blocks, block)
    corners = inverse[:, inner[:, :, None], inner[:, None, :]]  # of each block, in the inverse as it is now
    updates, used = np.empty((count, size, wanted * block), w.dtype), 0
    floor = np.zeros((count, 1))
    while wanted:
        score = _scores(w.reshape(count, blocks, block), corners, gone)
        candidates = score
        if pattern.group:
            candidates, eligible = _one_a_group(score, gone, pattern)
        else:
            eligible = blocks - int(gone[0].sum())
        number = min(wanted, eligible, max(1, wanted // _SHARE))
        chosen = np.argsort(candidates, axis=1, kind="stable")[:, :number]
        np.put_along_axis(gone, chosen, True, axis=1)
        places = inner[chosen].reshape(count, -1)
        before = updates[:, :, :used]
        across = inverse[lanes, places] - before[lanes, places] @ before.swapaxes(1, 2)
        held = np.take_along_axis(across, places[:, None], axis=2)
        unmix = np.linalg.inv(np.linalg.cholesky(held + _jitter(held)))
        lost = (
            unmix @ np.take_along_axis(w, places, axis=1)[..., None]
        )  # squared: what each adds to the error
        # Those that go at once share what they cost. What goes later costs more, if only by a trace: so the order
        # can be read off the costs.
        price = (lost[..., 0].astype(np.float64) ** 2).sum(axis=1, keepdims=True) / number
        price = np.maximum(price, floor) * (1 + _TRACE * np.arange(1, number + 1))
        np.put_along_axis(found, chosen, price, axis=1)
        floor, wanted = price[:, -1:], wanted - number
        if not wanted:
            break
        new = unmix @ across
        w = w - (lost.swapaxes(1, 2) @ new)[:, 0]
        updates[:, :, used : used + new.shape[1]] = new.swapaxes(1, 2)
        used += new.shape[1]
        cut = new.reshape(count, -1, blocks, block)
        corners = corners - np.einsum("rkni,rknj->rnij", cut, cut)
    return found


def _scores(w: ir.Array, corners: ir.Array, gone: ir.Array) -> ir.Array:
    """What each block would cost now; inf where it is gone. w: (rows, blocks, block)."""
    if w.shape[2] == 1:
        with np.errstate(divide="ignore", invalid="ignore"):
            price = w[..., 0] ** 2 / np.maximum(corners[..., 0, 0], 0.0)
    else:
        held = np.where(gone[..., None, None], np.eye(w.shape[2], dtype=w.dtype), corners)
        price = (w * np.linalg.solve(held + _jitter(held), w[..., None])[..., 0]).sum(axis=2)
    return np.where(gone, np.inf, np.nan_to_num(price, nan=0.0, posinf=np.inf))


def _one_a_group(score: ir.Array, gone: ir.Array, pattern: Pattern) -> tuple[ir.Array, int]:
    """The scores of the cheapest block of each group that may lose one, inf elsewhere; how many there are at least."""
    shape = (len(score), -1, pattern.group)
    grouped = score.reshape(shape)
    open_ = gone.reshape(shape).sum(axis=2) < pattern.removable
    best = (np.arange(pattern.group) == grouped.argmin(axis=2)[..., None]) & open_[..., None]
    return np.where(best, grouped, np.inf).reshape(score.shape), int(open_.sum(axis=1).min())


def _jitter(held: ir.Array) -> ir.Array:
    """What keeps a matrix positive definite in spite of rounding."""
    size = held.shape[-1]
    least = np.finfo(held.dtype).eps * 8 * size
    return np.asarray(
        np.eye(size, dtype=held.dtype) * (least * np.trace(held, axis1=-2, axis2=-1)[..., None, None])
    )


def refitted(wanted: ir.Array, moments: ir.Array, mask: ir.Array) -> ir.Array:
    """Rows v, zero where the mask is False, for which v H v^T - 2 b v^T is least: v_S = b_S H_SS^-1.

    Args:
        wanted: (rows, inputs) float64, b: of a row w on its own inputs w H.
        moments: (inputs, inputs) or (rows, inputs, inputs) float64, H.
        mask: (rows, inputs) bool.
    """
    if wanted.shape[1] <= _SMALL:
        both = mask[:, :, None] & mask[:, None, :]
        held = np.where(both, moments, np.eye(wanted.shape[1]))
        return np.linalg.solve(held, np.where(mask, wanted, 0.0)[..., None])[..., 0] * mask
    from scipy.linalg import solve

    found = np.zeros_like(wanted)
    every = np.broadcast_to(moments, (len(wanted), *moments.shape[-2:]))
    for row, (target, held, chosen) in enumerate(zip(wanted, every, mask, strict=True)):
        at = np.flatnonzero(chosen)
        if at.size:
            found[row, at] = solve(held[np.ix_(at, at)], target[at], assume_a="pos", check_finite=False)
    return found
