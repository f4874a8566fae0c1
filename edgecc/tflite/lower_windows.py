"""Pooling that no kernel serves: over one, two or three axes, dilated, with indices, by norm.

A maximum or a sum over a window is one along each axis in turn, each of as many strided slices as the window is long.
"""

from __future__ import annotations

import numpy as np

from edgecc import ir
from edgecc.analysis.layout import channels_last
from edgecc.analysis.sites import Site
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, NeedsFloat, Unservable
from edgecc.tflite.compose import Composer, Term
from edgecc.tflite.lower_index import number, place
from edgecc.tflite.lower_spatial import padded
from edgecc.tflite.padding import Window, window

_LONGEST = 64  # slices along an axis


def needs_slices(site: Site) -> bool:
    """Whether a pooling site is none of those that a pooling kernel serves."""
    operand = site.inputs[0]
    assert operand is not None
    rank = len(ir.static_dims(operand.value))
    dilated = any(int(d) != 1 for d in site.attribute("dilations", ()))  # type: ignore[attr-defined]
    plain = operand.value.dtype is None or operand.value.dtype.is_floating_point()
    return rank not in (3, 4) or dilated or not plain


def _window(site: Site, k: Composer) -> tuple[Window, int]:
    """The window and how many spatial axes there are."""
    operand = site.inputs[0]
    assert operand is not None
    if k.b.quantized:
        raise NeedsFloat
    shape = ir.static_dims(operand.value)
    kernel = [int(i) for i in site.attribute("kernel_shape", ())]  # type: ignore[attr-defined]
    if max(kernel) > _LONGEST:
        raise Unservable(f"a window longer than {_LONGEST} has no kernel here")
    return window(site, kernel, shape[2:], k.out_shape()[2:]), len(kernel)


def _slices(win: Window, axis: int, out: int) -> list[tuple[int, int, int]]:
    """(begin, end, step) of the cells that each place in the window meets along a spatial axis (from the last: -1)."""
    step = win.strides[axis]
    starts = [j * win.dilations[axis] for j in range(win.kernel[axis])]
    return [(s, s + (out - 1) * step + 1, step) for s in starts]


def _pooled(k: Composer, x: Term, win: Window, count: int, code: str, neutral: float) -> Term:
    """`x`, channels last, joined over the window."""
    x = padded(k, x, [*zip(win.before, win.after, strict=True)][-count:], neutral)
    for axis in range(-count, 0):
        cuts = [k.cut(x, axis - 1, *c) for c in _slices(win, axis, k.out_shape()[axis])]
        x = cuts[0]
        for other in cuts[1:]:
            x = k.binary(code, x, other)
    return x


def _lowest(dtype: str) -> float:
    return -np.inf if dtype == "float32" else int(np.iinfo(dtype).min)


def max_pool(site: Site, b: Builder) -> None:
    """Maxima of slices, with the places of the first of them where these are asked for."""
    k = Composer(site, b, batch=True)
    win, count = _window(site, k)
    order = channels_last(count + 2)
    x = k.input(0, order)
    if not k.wanted(1):
        k.finish(_pooled(k, x, win, count, "MAXIMUM", _lowest(x.dtype)), order=order)
        return
    k = Composer(site, b)
    shape = ir.static_dims(site.inputs[0].value)  # type: ignore[union-attr]
    places = np.arange(int(np.prod(shape))).reshape(shape)
    if number(site, "storage_order", 0):
        places = np.arange(int(np.prod(shape))).reshape(*shape[:2], *shape[:1:-1])
        places = places.transpose(0, 1, *range(count + 1, 1, -1))
    best = padded(k, x, [*zip(win.before, win.after, strict=True)][-count:], _lowest(x.dtype))
    index = padded(k, k.whole(places.transpose(order)), [*zip(win.before, win.after, strict=True)][-count:])
    given = best.dtype
    best = k.served("GREATER", best)
    for axis in range(-1, -count - 1, -1):  # the last axis first: of equal maxima the first counts
        pairs = [(k.cut(best, axis - 1, *c), k.cut(index, axis - 1, *c))
                 for c in _slices(win, axis, k.out_shape()[axis])]  # fmt: skip
        best, index = pairs[0]
        for value, spot in pairs[1:]:
            larger = k.binary("GREATER", value, best)
            best, index = k.select(larger, value, best), k.select(larger, spot, index)
    k.finish(k.cast(best, given), 0, order)
    k.finish(index, 1, order)


def average_pool(site: Site, b: Builder) -> None:
    """Sums of slices over how many cells count."""
    k = Composer(site, b, batch=True)
    win, count = _window(site, k)
    order = channels_last(count + 2)
    sums = _pooled(k, k.input(0, order), win, count, "ADD", 0.0)
    k.finish(sums * (1 / _cells(site, k, win, count)).astype(np.float32), order=order)


def _cells(
    site: Site, k: Composer, win: Window, count: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """How many cells count in each window: (..., 1), channels last."""
    included = bool(number(site, "count_include_pad", 0))
    pads = [int(p) for p in site.attribute("pads", [0] * 2 * count)]  # type: ignore[attr-defined]
    given = str(site.attribute("auto_pad", "NOTSET")) == "NOTSET"
    cells = np.ones((1,) * count)
    for axis in range(-count, 0):
        after = pads[axis] if given else win.after[axis]
        low = -win.before[axis] if included else 0
        high = win.size[axis] + (after if included else 0)
        taps = [np.arange(*c) - win.before[axis] for c in _slices(win, axis, k.out_shape()[axis])]
        counted = np.sum([(t >= low) & (t < high) for t in taps], axis=0)
        cells = cells * counted.reshape(-1, *[1] * (-axis - 1))
    return np.asarray(cells)[..., None]


@lowers("LpPool")
def lp_pool(site: Site, b: Builder) -> None:
    """(sum of |x|^p)^(1/p) over the window."""
    k = Composer(site, b, batch=True)
    win, count = _window(site, k)
    order, p = channels_last(count + 2), number(site, "p", 2)
    sums = _pooled(k, _power(k, k.input(0, order), p), win, count, "ADD", 0.0)
    k.finish(_root(k, sums, p), order=order)


@lowers("GlobalLpPool")
def global_lp_pool(site: Site, b: Builder) -> None:
    """(sum of |x|^p)^(1/p) over all spatial axes."""
    k = Composer(site, b, batch=True)
    rank, p = len(k.out_shape()), number(site, "p", 2)
    order = channels_last(rank)
    axes = [a for a in range(rank) if order[a] > 1]
    k.finish(_root(k, k.reduce("SUM", _power(k, k.input(0, order), p), axes, keep=True), p), order=order)


def _power(k: Composer, x: Term, p: int) -> Term:
    if p == 2:
        return x * x
    return k.one("ABS", x) if p == 1 else k.binary("POW", k.one("ABS", x), float(p))


def _root(k: Composer, x: Term, p: int) -> Term:
    if p == 2:
        return k.one("SQRT", x)
    return x if p == 1 else k.binary("POW", x, 1 / p)


@lowers("MaxUnpool")
def max_unpool(site: Site, b: Builder) -> None:
    """Values at the flat positions of an image of zeros; positions count in the image without `output_shape`."""
    k = Composer(site, b)
    x, places = k.input(0), k.cast(k.input(1), "int32")
    out = k.out_shape()
    if k.has(2):
        kernel = [int(i) for i in site.attribute("kernel_shape", ())]  # type: ignore[attr-defined]
        pads = [int(i) for i in site.attribute("pads", [0] * 2 * len(kernel))]  # type: ignore[attr-defined]
        steps = [int(i) for i in site.attribute("strides", [1] * len(kernel))]  # type: ignore[attr-defined]
        own = [(d - 1) * s + n - p - q for d, s, n, p, q in
               zip(x.shape[2:], steps, kernel, pads, pads[len(kernel) :], strict=False)]  # fmt: skip
        if places.array is None:
            raise Unservable("its indices are computed at run time", "leave its output_shape away")
        grid = np.unravel_index(places.array, (*x.shape[:2], *own))
        places = k.whole(np.ravel_multi_index(grid, out))
    zeros = Term(k, np.zeros(out, x.dtype))
    k.finish(place(k, zeros, places, x, "none"))
