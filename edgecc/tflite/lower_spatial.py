"""Convolutions that no kernel serves as they are, and normalisations over space."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecc.analysis.layout import channels_last
from edgecc.analysis.sites import Site
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, NeedsFloat, Unservable
from edgecc.tflite.compose import Composer, Term
from edgecc.tflite.lower_index import number
from edgecc.tflite.padding import VALID, window


def convolve(
    k: Composer,
    x: Term,
    weights: Term,
    bias: Term | None,
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    groups: int = 1,
) -> Term:
    """CONV_2D or CONV_3D, one a group, of `x` (channels last) with `weights` (out, in / groups, ...), unpadded."""
    spatial = len(x.shape) - 2
    if spatial == 1:
        lifted = k.reshape(x, (x.shape[0], 1, *x.shape[1:]))
        filters = k.reshape(weights, (*weights.shape[:2], 1, weights.shape[2]))
        made = convolve(
            k, lifted, filters, bias, strides=(1, *strides), dilations=(1, *dilations), groups=groups
        )
        return k.reshape(made, (made.shape[0], *made.shape[2:]))
    if spatial not in (2, 3):
        raise Unservable(f"a convolution over {spatial} spatial axes has no kernel")
    if spatial == 2 and any(d > 1 for d in dilations) and weights.array is None:
        for axis, dilation in enumerate(dilations, 2):  # the kernel dilates constant weights only
            weights = _spread(k, weights, axis, dilation)
        dilations = (1, 1)
    inner, outer = weights.shape[1], weights.shape[0] // groups
    out = [(i - (n - 1) * d - 1) // s + 1
           for i, n, d, s in zip(x.shape[1:-1], weights.shape[2:], dilations, strides, strict=True)]  # fmt: skip
    names = ("H", "W") if spatial == 2 else ("D", "H", "W")
    options = {"padding": VALID, "fusedActivationFunction": 0}
    options |= {f"stride{n}": s for n, s in zip(names, strides, strict=True)}
    options |= {f"dilation{n}Factor": d for n, d in zip(names, dilations, strict=True)}
    bias = Term(k, np.zeros(outer * groups, np.float32)) if bias is None else bias
    parts = []
    for g in range(groups):
        data = k.cut(x, -1, g * inner, (g + 1) * inner)
        part = k.cut(weights, 0, g * outer, (g + 1) * outer)
        filters = k.transpose(part, (0, 2, 3, 1) if spatial == 2 else (2, 3, 4, 1, 0))
        offset = k.cut(bias, 0, g * outer, (g + 1) * outer)
        parts.append(k.apply(f"CONV_{spatial}D", [data, filters, offset], (x.shape[0], *out, outer), options))
    return k.concat(parts, -1)


def composed_conv(site: Site, b: Builder) -> None:
    """Over three axes, or with computed weights."""
    if b.quantized:
        raise NeedsFloat
    k = Composer(site, b, batch=True)
    order = channels_last(len(k.input(1).shape))
    made = convolved(site, k, k.input(0, order), k.input(1), k.input(2) if k.has(2) else None)
    k.finish(made, order=order)


def convolved(site: Site, k: Composer, x: Term, weights: Term, bias: Term | None) -> Term:
    """`x`, channels last, padded with zeros and convolved as the attributes of `site` say."""
    count = len(weights.shape) - 2
    win = window(site, weights.shape[2:], x.shape[1:-1], k.out_shape()[2:])
    x = padded(k, x, [*zip(win.before, win.after, strict=True)][-count:])
    made = convolve(
        k, x, weights, bias, strides=win.strides[-count:], dilations=win.dilations[-count:],
        groups=number(site, "group", 1),
    )  # fmt: skip
    for axis, extent in enumerate(k.out_shape()[2:], 1):
        made = k.cut(made, axis, 0, extent)
    return made


def padded(k: Composer, x: Term, amounts: Sequence[tuple[int, int]], value: float = 0.0) -> Term:
    """Cells before and behind each spatial axis of a channels-last `x`; negative amounts crop."""
    for axis, (front, back) in enumerate(amounts, 1):
        x = k.cut(x, axis, max(-front, 0), x.shape[axis] - max(-back, 0))
    return k.pad(x, [(0, 0), *((max(f, 0), max(r, 0)) for f, r in amounts), (0, 0)], value)


def composed_transpose(site: Site, b: Builder, front: Sequence[int]) -> None:
    """ConvTranspose as a convolution, with mirrored weights, of the operand with zeros between its cells.

    Args:
        site, b: as everywhere.
        front: what ONNX's pads cut off in front of each axis.
    """
    if b.quantized:
        raise NeedsFloat
    k = Composer(site, b, batch=True)
    rank = len(k.input(1).shape)
    count, groups = rank - 2, number(site, "group", 1)
    x, weights = k.input(0, channels_last(rank)), k.input(1)
    strides, dilations = (
        [int(i) for i in site.attribute(name, (1,) * count)]  # type: ignore[attr-defined]
        for name in ("strides", "dilations")
    )
    amounts = []
    for axis in range(count):
        x = _spread(k, x, axis + 1, strides[axis])
        weights = k.gather(weights, np.arange(weights.shape[axis + 2])[::-1], axis + 2)
        reach = (weights.shape[axis + 2] - 1) * dilations[axis]
        before = reach - front[axis]
        amounts.append((before, k.out_shape()[axis + 2] + reach - before - x.shape[axis + 1]))
    inner = weights.shape[0] // groups
    turned = [
        k.transpose(k.cut(weights, 0, g * inner, (g + 1) * inner), (1, 0, *range(2, rank)))
        for g in range(groups)
    ]
    bias = k.input(2) if k.has(2) else None
    made = convolve(
        k,
        padded(k, x, amounts),
        k.concat(turned, 0),
        bias,
        strides=[1] * count,
        dilations=dilations,
        groups=groups,
    )
    k.finish(made, order=channels_last(rank))


def _spread(k: Composer, x: Term, axis: int, stride: int) -> Term:
    """stride - 1 zeros between neighbours."""
    extent = x.shape[axis]
    if stride == 1 or extent == 1:
        return x
    zeros = [(0, 0)] * len(x.shape)
    zeros[axis] = (0, 1)
    table = np.full((extent - 1) * stride + 1, extent)
    table[::stride] = np.arange(extent)
    return k.gather(k.pad(x, zeros), table, axis)


@lowers("InstanceNormalization")
def instance_normalization(site: Site, b: Builder) -> None:
    """(x - mean) / sqrt(variance + eps) * scale + shift over the spatial axes."""
    k = Composer(site, b, batch=True)
    rank = len(k.out_shape())
    order = channels_last(rank)
    x, scale, shift = k.input(0, order), k.input(1), k.input(2)
    channel = order.index(1)
    axes = [a for a in range(rank) if a not in (0, channel)]
    centred = x - k.reduce("MEAN", x, axes, keep=True)
    variance = k.reduce("MEAN", centred * centred, axes, keep=True)
    deviation = k.one("SQRT", variance + float(site.attribute("epsilon", 1e-5)))  # type: ignore[arg-type]
    kind = [1] * (rank - channel - 1)
    k.finish(centred / deviation * k.reshape(scale, (scale.shape[0], *kind))
             + k.reshape(shift, (shift.shape[0], *kind)), order=order)  # fmt: skip


@lowers("LRN")
def lrn(site: Site, b: Builder) -> None:
    """x / (bias + alpha / size * sum of squares of neighbours)^beta; the sum is a matrix with a band of ones."""
    k = Composer(site, b, batch=True)
    order = channels_last(len(k.out_shape()))
    x = k.input(0, order)
    size = number(site, "size", 1)
    alpha, beta, bias = (
        float(site.attribute(n, d))  # type: ignore[arg-type]
        for n, d in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))
    )
    away = np.arange(x.shape[order.index(1)])
    away = away[None, :] - away[:, None]
    band = (away >= -((size - 1) // 2)) & (away <= size // 2)
    sums = k.matrix(x * x, band * (alpha / size), order.index(1)) + bias
    k.finish(x / k.binary("POW", sums, beta), order=order)


@lowers("LpNormalization")
def lp_normalization(site: Site, b: Builder) -> None:
    """x / its norm along the axis; zero where the norm is."""
    k = Composer(site, b)
    x, axis = k.input(0), number(site, "axis", -1)
    if number(site, "p", 2) == 1:
        norm = k.reduce("SUM", k.one("ABS", x), [axis], keep=True)
    else:
        norm = k.one("SQRT", k.reduce("SUM", x * x, [axis], keep=True))
    k.finish(x / k.select(k.binary("EQUAL", norm, 0.0), 1.0, norm))


@lowers("Col2Im")
def col2im(site: Site, b: Builder) -> None:
    """Blocks added where they lie in the image."""
    from edgecc.tflite.lower_index import join_layers

    k = Composer(site, b)
    x, image, block = k.input(0), k.constant(1), k.constant(2)
    count = len(image)
    dilations, strides, pads = (
        [int(i) for i in site.attribute(n, d)]  # type: ignore[attr-defined]
        for n, d in (("dilations", (1,) * count), ("strides", (1,) * count), ("pads", (0,) * 2 * count))
    )
    steps = [(int(i) + pads[a] + pads[a + count] - dilations[a] * (int(n) - 1) - 1) // strides[a] + 1
             for a, (i, n) in enumerate(zip(image, block, strict=True))]  # fmt: skip
    cells = np.indices([*block, *steps]).reshape(2 * count, int(np.prod(block)), int(np.prod(steps)))
    where, inside = np.zeros(cells.shape[1:], np.int64), np.ones(cells.shape[1:], bool)
    for a in range(count):
        place = cells[count + a] * strides[a] + cells[a] * dilations[a] - pads[a]
        inside &= (place >= 0) & (place < image[a])
        where = where * int(image[a]) + place
    planes = k.out_shape()[0] * k.out_shape()[1]
    size = int(np.prod(image))
    where = np.arange(planes)[:, None] * size + where[inside]
    source = np.arange(planes)[:, None] * cells[0].size + np.flatnonzero(inside)
    flat = k.reshape(x, (int(np.prod(x.shape)),))
    zeros = Term(k, np.zeros(planes * size, x.dtype))
    made = join_layers(k, zeros, k.gather(flat, source.reshape(-1)), where.reshape(-1), "add")
    k.finish(k.reshape(made, k.out_shape()))
