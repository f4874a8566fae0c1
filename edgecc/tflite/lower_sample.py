"""GridSample: gathers weighted by where the grid points lie between the cells."""

from __future__ import annotations

import itertools

import numpy as np

from edgecc.analysis.sites import Site
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, Unservable
from edgecc.tflite.compose import Composer, Term
from edgecc.tflite.lower_index import number, strides

_CUBIC = -0.75  # onnx.ai/onnx/operators GridSample: the coefficient of its cubic


@lowers("GridSample")
def grid_sample(site: Site, b: Builder) -> None:
    """One GATHER for each neighbouring cell; with a constant grid places and weights are constants."""
    k = Composer(site, b)
    x, grid = k.input(0), k.input(1)
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(m := str(site.attribute("mode", "linear")), m)
    padding, aligned = str(site.attribute("padding_mode", "zeros")), bool(number(site, "align_corners", 0))
    batch, channels, *space = x.shape
    points = int(np.prod(grid.shape[1:-1]))
    grid = k.reshape(grid, (batch, points, len(space)))
    if mode not in ("nearest", "linear", "cubic"):
        raise Unservable(f"sampling with {mode!r} has no kernel")
    neighbours = []
    for axis, size in enumerate(space):
        place = len(space) - 1 - axis  # the grid gives x first, the axes y first
        wish = k.reshape(k.cut(grid, -1, place, place + 1), (batch, points))
        at = (wish + 1.0) * ((size - 1) / 2) if aligned else (wish + 1.0) * (size / 2) - 0.5
        if mode == "nearest":
            at = k.one("ROUND", at)
        if mode != "cubic" or padding != "border":  # PyTorch and ONNX Runtime clamp only the cells of a cubic
            at = _inside(k, at, size, padding, aligned)
        found = _weights(k, at, mode)
        neighbours.append([_cell(k, cell, weight, size, padding, aligned) for cell, weight in found])
    rows = k.reshape(k.transpose(x, (0, *range(2, len(x.shape)), 1)), (batch * int(np.prod(space)), channels))
    first = k.whole(np.arange(batch)[:, None] * int(np.prod(space)))
    total: Term | None = None
    for corner in itertools.product(*neighbours):
        where, weight = k.whole(np.zeros((batch, points), np.int32)) + first, None
        for (cell, part), step in zip(corner, strides(tuple(space)), strict=True):
            where = where + k.cast(cell, "int32") * step
            weight = part if weight is None else weight * part
        assert weight is not None
        values = k.gather(rows, where) * k.reshape(weight, (batch, points, 1))
        total = values if total is None else total + values
    assert total is not None
    k.finish(k.reshape(k.transpose(total, (0, 2, 1)), k.out_shape()))


def _inside(k: Composer, at: Term, size: int, padding: str, aligned: bool) -> Term:
    """Coordinates moved into the image, as the padding mode has it."""
    if padding == "zeros":
        return at
    if padding == "border":
        return k.binary("MINIMUM", k.binary("MAXIMUM", at, 0.0), float(size - 1))
    low, high = (0.0, size - 1.0) if aligned else (-0.5, size - 0.5)
    span = high - low
    if span == 0:
        return at * 0.0
    folded = k.one("ABS", (at - low) % (2 * span) - span)  # a triangle: |.. - span| falls and rises
    return k.binary("SUB", high, folded)


def _weights(k: Composer, at: Term, mode: str) -> list[tuple[Term, Term]]:
    """(cell, weight) of each neighbour along an axis."""
    if mode == "nearest":
        return [(k.one("ROUND", at), k.term(np.ones(at.shape, np.float32)))]
    base = k.one("FLOOR", at)
    ratio = at - base
    if mode == "linear":
        return [(base, k.binary("SUB", 1.0, ratio)), (base + 1.0, ratio)]
    found = []
    for offset in (-1.0, 0.0, 1.0, 2.0):
        away = k.one("ABS", ratio - offset)
        if offset in (0.0, 1.0):
            weight = (away * (_CUBIC + 2) - (_CUBIC + 3)) * away * away + 1.0
        else:
            weight = ((away * _CUBIC - 5 * _CUBIC) * away + 8 * _CUBIC) * away - 4 * _CUBIC
        found.append((base + offset, weight))
    return found


def _cell(k: Composer, cell: Term, weight: Term, size: int, padding: str, aligned: bool) -> tuple[Term, Term]:
    """A neighbour inside of the image: zero weight, the nearest cell or the mirrored one where it is not."""
    if padding == "reflection":
        cell = _inside(k, cell, size, padding, aligned)
    kept = k.binary("MINIMUM", k.binary("MAXIMUM", cell, 0.0), float(size - 1))
    if padding == "zeros":
        weight = k.select(k.binary("EQUAL", kept, cell), weight, k.term(np.zeros((), np.float32)))
    return kept, weight
