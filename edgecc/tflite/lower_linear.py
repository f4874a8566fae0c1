"""Operators that are constant matrices along an axis: resizing in every mode, Fourier transforms, affine grids."""

from __future__ import annotations

import numpy as np

from edgecc import ir
from edgecc.analysis.layout import channels_last
from edgecc.analysis.sites import Site
from edgecc.ir import Array
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, NeedsFloat, Unservable
from edgecc.tflite.compose import Composer, Term
from edgecc.tflite.lower_index import number


def _taps(mode: str, ratio: float, scale: float, cubic: float) -> tuple[int, Array]:
    """Where the first tap is, relative to the cell before the coordinate, and the weights of the taps."""
    scale = min(scale, 1.0)
    reach = 1 if mode == "linear" else 2
    start = int(np.floor(-reach / scale) + 1)
    distance = np.abs((np.arange(start, 2 - start) - ratio) * scale)
    if mode == "linear":
        weights = np.clip(1 - distance, 0, 1)
    else:  # Keys 1981, with the coefficient a
        near = ((cubic + 2) * distance - (cubic + 3)) * distance**2 + 1
        far = ((cubic * distance - 5 * cubic) * distance + 8 * cubic) * distance - 4 * cubic
        weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    return start, weights / weights.sum()


def _coordinates(where: str, size: int, out: int, scale: float, roi: tuple[float, float]) -> Array:
    """x_original of each output position (onnx.ai/onnx/operators Resize)."""
    x = np.arange(out, dtype=np.float64)
    if where == "half_pixel":
        return (x + 0.5) / scale - 0.5
    if where == "pytorch_half_pixel":
        return (x + 0.5) / scale - 0.5 if out > 1 else np.full(1, -0.5)
    if where == "half_pixel_symmetric":
        return size / 2 * (1 - out / (scale * size)) + (x + 0.5) / scale - 0.5
    if where == "asymmetric":
        return x / scale
    if where == "align_corners":
        return x * (size - 1) / (scale * size - 1) if scale * size != 1 else 0 * x
    if where == "tf_crop_and_resize":
        start, end = roi
        if out == 1:
            return np.full(1, (start + end) * (size - 1) / 2)
        return start * (size - 1) + x * (end - start) * (size - 1) / (out - 1)
    raise Unservable(f"resizing with {where!r} has no kernel")


def _rounded(x: Array, how: str) -> Array:
    table = {
        "round_prefer_floor": np.ceil(x - 0.5),
        "round_prefer_ceil": np.floor(x + 0.5),
        "floor": np.floor(x),
    }
    return np.asarray(table.get(how, np.ceil(x)))


def _matrix(site: Site, size: int, out: int, scale: float, roi: tuple[float, float]) -> tuple[Array, Array]:
    """(out, size) weights, and where the coordinate lies outside, so that the extrapolation value counts."""
    mode, where = str(site.attribute("mode", "nearest")), str(
        site.attribute("coordinate_transformation_mode", "half_pixel"))  # fmt: skip
    smooth, cubic = bool(number(site, "antialias", 0)), float(site.attribute("cubic_coeff_a", -0.75))  # type: ignore[arg-type]
    places = _coordinates(where, size, out, scale, roi)
    weights = np.zeros((out, size))
    for row, x in enumerate(places):
        if mode == "nearest":
            start, taps = (
                int(_rounded(x, str(site.attribute("nearest_mode", "round_prefer_floor")))),
                np.ones(1),
            )
        else:
            start, taps = _taps(mode, x - np.floor(x), scale if smooth else 1.0, cubic)
            start += int(np.floor(x))
        cells = start + np.arange(len(taps))
        if number(site, "exclude_outside", 0):
            taps = np.where((cells >= 0) & (cells < size), taps, 0)
            taps = taps / taps.sum()
        np.add.at(weights[row], np.clip(cells, 0, size - 1), taps)
    outside = ((places < 0) | (places > size - 1)) & (where == "tf_crop_and_resize")
    return weights, outside


def resize_by_matrices(site: Site, b: Builder) -> None:
    """A matrix along each axis that changes."""
    if b.quantized:
        raise NeedsFloat
    k = Composer(site, b, batch=True)
    rank = len(k.out_shape())
    order = channels_last(rank)
    x = k.input(0, order)
    size, out = ir.static_dims(site.inputs[0].value), k.out_shape()  # type: ignore[union-attr]
    scales, roi = _scales(site, k, size, out), _roi(site, k, rank)
    crops = str(site.attribute("coordinate_transformation_mode", "")) == "tf_crop_and_resize"
    outside = np.zeros([1] * rank, bool)
    for axis in range(rank):
        if not crops and size[axis] == out[axis] and scales[axis] == 1:
            continue
        weights, missing = _matrix(site, size[axis], out[axis], scales[axis], roi[axis])
        if weights.shape[0] != weights.shape[1] or not np.array_equal(weights, np.eye(size[axis])):
            x = k.cast(k.matrix(k.cast(x, "float32"), weights, order.index(axis)), x.dtype)
        outside = outside | missing.reshape([-1 if a == axis else 1 for a in order])
    if outside.any():
        fill = float(site.attribute("extrapolation_value", 0.0))  # type: ignore[arg-type]
        x = k.select(k.term(outside), fill, x)
    k.finish(x, order=order)


def _scales(site: Site, k: Composer, size: tuple[int, ...], out: tuple[int, ...]) -> list[float]:
    axes = [int(a) % len(size) for a in site.attribute("axes", range(len(size)))]  # type: ignore[attr-defined]
    scales = [1.0] * len(size)
    if k.has(2) and k.input(2).shape != (0,):
        for axis, scale in zip(axes, k.constant(2), strict=True):
            scales[axis] = float(scale)
        return scales
    policy = str(site.attribute("keep_aspect_ratio_policy", "stretch"))
    ratios = {a: out[a] / size[a] for a in axes}
    if policy != "stretch":
        wishes = [int(s) / size[a] for a, s in zip(axes, k.constant(3), strict=True)]
        ratios = dict.fromkeys(axes, min(wishes) if policy == "not_larger" else max(wishes))
    for axis, ratio in ratios.items():
        scales[axis] = ratio
    return scales


def _roi(site: Site, k: Composer, rank: int) -> list[tuple[float, float]]:
    found = [(0.0, 1.0)] * rank
    if str(site.attribute("coordinate_transformation_mode", "")) == "tf_crop_and_resize":
        roi = k.constant(1)
        axes = [int(a) % rank for a in site.attribute("axes", range(rank))]  # type: ignore[attr-defined]
        for place, axis in enumerate(axes):
            found[axis] = float(roi[place]), float(roi[place + len(axes)])
    return found


def _fourier(count: int, rows: int, parts: int) -> Array:
    """(rows * 2, count * parts): real and imaginary results beside each other, of real and imaginary operands."""
    angle = 2 * np.pi * (np.outer(np.arange(rows), np.arange(count)) % count) / count
    table = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])[:, :parts]
    return table.transpose(2, 0, 3, 1).reshape(
        rows * 2, count * parts
    )  # from result part, operand part, row, column


def _real_inverse(k: Composer, x: Term, axis: int) -> None:
    """Real numbers from the first half of a spectrum that is symmetric."""
    rank, bins = len(x.shape), x.shape[axis]
    count = int(k.constant(1).reshape(-1)[0]) if k.has(1) else 2 * (bins - 1)
    used = min(bins, count // 2 + 1)
    x = k.cut(x, axis, 0, used)
    perm = [*(a for a in range(rank - 1) if a != axis), axis, rank - 1]
    moved = k.transpose(x, perm)
    angle = 2 * np.pi * (np.outer(np.arange(count), np.arange(used)) % count) / count
    twice = np.where((np.arange(used) == 0) | (2 * np.arange(used) == count), 1, 2) / count
    weights = np.stack([np.cos(angle) * twice, -np.sin(angle) * twice], -1).reshape(count, used * 2)
    product = k.matrix(k.reshape(moved, (*moved.shape[:-2], used * 2)), weights)
    back = np.argsort(perm).tolist()
    k.finish(k.transpose(k.reshape(product, (*product.shape, 1)), back))


@lowers("DFT")
def dft(site: Site, b: Builder) -> None:
    """A constant matrix along the axis, real and imaginary parts in turn."""
    k = Composer(site, b)
    x = k.input(0)
    rank, parts = len(x.shape), x.shape[-1]
    given = k.constant(2, np.array(number(site, "axis", -2)))
    axis = int(given.reshape(-1)[0]) % rank
    inverse, onesided = bool(number(site, "inverse", 0)), bool(number(site, "onesided", 0))
    if inverse and not onesided:
        raise Unservable("an inverse transform to complex numbers is too inexact in float32")
    if inverse:
        _real_inverse(k, x, axis)
        return
    count = int(k.constant(1).reshape(-1)[0]) if k.has(1) else x.shape[axis]
    x = k.cut(x, axis, 0, min(count, x.shape[axis]))
    x = k.pad(x, [(0, count - x.shape[axis] if a == axis else 0) for a in range(rank)])
    perm = [*(a for a in range(rank - 1) if a != axis), axis, rank - 1]
    moved = k.transpose(x, perm)
    rows = count // 2 + 1 if onesided else count
    lead = moved.shape[:-2]
    product = k.matrix(k.reshape(moved, (*lead, count * parts)),
                       _fourier(count, rows, parts))  # fmt: skip
    k.finish(k.transpose(k.reshape(product, (*lead, rows, 2)), np.argsort(perm).tolist()))


@lowers("STFT")
def stft(site: Site, b: Builder) -> None:
    """Frames by GATHER, each transformed by a constant matrix that holds the window."""
    k = Composer(site, b)
    x = k.input(0)
    x = k.reshape(x, (*x.shape, 1)) if len(x.shape) == 2 else x
    window = k.constant(2) if k.has(2) else None
    step = int(k.constant(1).reshape(-1)[0])
    length = int(k.constant(3).reshape(-1)[0]) if k.has(3) else len(window) if window is not None else 0
    if not length:
        raise Unservable("the length of its frames is unknown")
    batch, extent, parts = x.shape
    frames = (extent - length) // step + 1
    cells = np.arange(frames)[:, None] * step + np.arange(length)
    taken = k.reshape(k.gather(x, cells, 1), (batch, frames, length * parts))
    rows = length // 2 + 1 if number(site, "onesided", 1) else length
    weights = _fourier(length, rows, parts)
    if window is not None:
        weights = weights * np.repeat(window.astype(np.float64), parts)
    k.finish(k.reshape(k.matrix(taken, weights), (batch, frames, rows, 2)))


@lowers("AffineGrid")
def affine_grid(site: Site, b: Builder) -> None:
    """The matrices times a constant grid; the last extents are those of the result."""
    k = Composer(site, b)
    theta, out = k.input(0), k.out_shape()
    space = out[1:-1]
    aligned = bool(number(site, "align_corners", 0))
    axes = [np.linspace(-1, 1, d) if aligned else (2 * np.arange(d) + 1) / d - 1 for d in space]
    grid = np.stack([*np.meshgrid(*axes, indexing="ij")[::-1], np.ones(space)], -1).reshape(
        -1, len(space) + 1
    )
    k.finish(k.reshape(k.transpose(k.matrix(theta, grid), (0, 2, 1)), out))
