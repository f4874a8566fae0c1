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
# Of the blocks that a row still has, one in so many goes between two updates.
_SHARE = 8
_TRACE = 1e-12
# From so many columns on it pays that a matrix is triangular.
_TRIANGLE = 16
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


def alone(rows: ir.Array, moments: ir.Array, pattern: Pattern) -> ir.Array:
    """What each block costs when it is the only one to be removed; arguments and result as of `costs`."""
    inverse, shape = np.linalg.inv(moments), (len(rows), -1, pattern.block)
    inner = np.arange(rows.shape[1]).reshape(-1, pattern.block)
    corners = inverse[..., inner[:, :, None], inner[:, None, :]]
    corners = np.broadcast_to(corners, (len(rows), *corners.shape[-3:]))
    return _scores(rows.reshape(shape), corners, np.zeros(corners.shape[:2], bool))


def costs(rows: ir.Array, moments: ir.Array, pattern: Pattern, most: ir.Array | None = None) -> ir.Array:
    """What each block costs when it is the next to be removed from its row, cheapest first: never falls on the way.

    With T^T T = [H^-1]_:P [H^-1]_PP^-1 [H^-1]_P: for the weights P that are gone, H^-1 - T^T T is the inverse for
    those that are left; only T, which gains a few rows a round, is kept for each row of weights.

    Args:
        rows: (rows, inputs) float64.
        moments: (inputs, inputs) or (rows, inputs, inputs) float64, positive definite.
        pattern: of whole blocks.
        most: (rows,) how many blocks may go of each row at least (the time grows with the square); None: all.

    Returns:
        (rows, inputs / block) float64, the sum over a block; inf: it may not be removed.
    """
    size = rows.shape[1]
    inverse = np.linalg.inv(moments).astype(np.float32 if size > _SMALL else np.float64)
    shared = inverse.ndim == 2
    step = max(1, _ELEMENTS // size**2)
    blocks = size // pattern.block
    most = np.full(len(rows), blocks) if most is None else most
    order = np.argsort(-most, kind="stable")
    found = np.empty((len(rows), blocks))
    for i in range(0, len(rows), step):
        at = order[i : i + step]
        own = inverse if shared else inverse[at]
        held = np.broadcast_to(own, (len(at), size, size))
        found[at] = _costs(rows[at].astype(inverse.dtype), held, pattern, int(most[at[0]]))
    return found


def _costs(w: ir.Array, inverse: ir.Array, pattern: Pattern, most: int) -> ir.Array:
    (count, size), block = w.shape, pattern.block
    blocks, lanes = size // block, np.arange(count)[:, None]
    wanted = blocks // pattern.group * pattern.removable if pattern.group else min(max(1, most), blocks)
    gone, found = np.zeros((count, blocks), bool), np.full((count, blocks), np.inf)
    inner = np.arange(size).reshape(blocks, block)
    corners = inverse[:, inner[:, :, None], inner[:, None, :]]  # of each block, in the inverse as it is now
    updates, used = np.empty((count, wanted * block, size), w.dtype), 0
    floor = np.zeros((count, 1))
    while wanted:
        candidates = score = _scores(w.reshape(count, blocks, block), corners, gone)
        eligible = left = blocks - int(gone[0].sum())
        if pattern.group:
            candidates, eligible = _one_a_group(score, gone, pattern)
        number = min(wanted, eligible, max(1, left // _SHARE))
        chosen = np.argsort(candidates, axis=1, kind="stable")[:, :number]
        np.put_along_axis(gone, chosen, True, axis=1)
        places = inner[chosen].reshape(count, -1)
        before = updates[:, :used]
        across = inverse[lanes, places] - _columns(before, places).swapaxes(1, 2) @ before
        held = _columns(across, places)
        unmix = _inverted(np.linalg.cholesky(held + _jitter(held)))
        lost = (
            unmix @ np.take_along_axis(w, places, axis=1)[..., None]
        )  # squared: what each adds to the error
        # Those that go at once share what they cost together as each would cost alone. What goes later costs more, if
        # only by a trace: so the order can be read off the costs.
        price = np.take_along_axis(score, chosen, axis=1).astype(np.float64)
        whole = (lost[..., 0].astype(np.float64) ** 2).sum(axis=1, keepdims=True)
        price *= whole / np.maximum(price.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        price = np.maximum(price, floor) * (1 + _TRACE * np.arange(1, number + 1))
        np.put_along_axis(found, chosen, price, axis=1)
        floor, wanted = price[:, -1:], wanted - number
        if not wanted:
            break
        new = np.matmul(unmix, across, out=updates[:, used : used + places.shape[1]])
        w = w - (lost.swapaxes(1, 2) @ new)[:, 0]
        used += new.shape[1]
        if block == 1:
            corners = corners - np.einsum("rkn,rkn->rn", new, new)[..., None, None]
        else:
            cut = new.reshape(count, -1, blocks, block)
            corners = corners - np.einsum("rkni,rknj->rnij", cut, cut)
    return found


def _columns(matrices: ir.Array, places: ir.Array) -> ir.Array:
    """Of each matrix its own columns: take_along_axis at ten times the speed."""
    found = np.empty((*matrices.shape[:2], places.shape[1]), matrices.dtype)
    for own, matrix, at in zip(found, matrices, places, strict=True):
        np.take(matrix, at, axis=1, out=own, mode="clip")
    return found


def _inverted(lower: ir.Array) -> ir.Array:
    """The inverses of lower triangular matrices."""
    if lower.shape[1] <= _TRIANGLE:
        return np.linalg.inv(lower)
    from scipy.linalg import get_lapack_funcs

    invert = get_lapack_funcs("trtri", dtype=lower.dtype)
    # LAPACK reads rows as columns: the transpose, which is upper triangular, has the transposed inverse.
    return np.stack([invert(one.T, lower=0)[0].T for one in lower])


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


def refitted(rows: ir.Array, moments: ir.Array, mask: ir.Array) -> ir.Array:
    """Rows v, zero where the mask is False, for which (w - v) H (w - v)^T is least.

    With S the inputs that stay and P the others: v_S = (w H)_S H_SS^-1, or v = w - w_P [H^-1]_PP^-1 [H^-1]_P, where
    fewer go than stay.

    Args:
        rows: (rows, inputs) float64, w.
        moments: (inputs, inputs) or (rows, inputs, inputs) float64, H.
        mask: (rows, inputs) bool.
    """
    size = rows.shape[1]
    if size <= _SMALL:
        wanted = rows @ moments if moments.ndim == 2 else (rows[:, None] @ moments)[:, 0]
        both = mask[:, :, None] & mask[:, None, :]
        held = np.where(both, moments, np.eye(size))
        return np.linalg.solve(held, np.where(mask, wanted, 0.0)[..., None])[..., 0] * mask
    if moments.ndim == 3:
        each = zip(rows[:, None], moments, mask[:, None], strict=True)
        return np.concatenate([refitted(*one) for one in each])
    from scipy.linalg import cho_factor, cho_solve

    inverse, wanted = np.linalg.inv(moments), rows @ moments
    found, pulls, few = np.zeros_like(rows), np.zeros_like(rows), np.zeros(len(rows), bool)
    for row, (weights, target, chosen) in enumerate(zip(rows, wanted, mask, strict=True)):
        stay, go = np.flatnonzero(chosen), np.flatnonzero(~chosen)
        few[row] = go.size <= stay.size
        matrix, result, at, by = (inverse, pulls, go, weights) if few[row] else (moments, found, stay, target)
        held = matrix[at[:, None], at]
        result[row, at] = cho_solve(
            cho_factor(held, overwrite_a=True, check_finite=False), by[at], check_finite=False
        )
    found[few] = np.where(mask[few], rows[few] - pulls[few] @ inverse, 0.0)
    return found
