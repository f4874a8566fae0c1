"""Pooling, windowed and global."""

from __future__ import annotations

import numpy as np

from edgecc import ir
from edgecc.analysis.layout import channels_last
from edgecc.analysis.sites import Site
from edgecc.quant.params import QuantParams
from edgecc.tflite import lower_windows, lowers
from edgecc.tflite.builder import Builder, NeedsFloat
from edgecc.tflite.options import ACTIVATIONS
from edgecc.tflite.padding import VALID, Window, apply_padding, explicit_padding, window


def _window(site: Site) -> Window:
    operand = site.inputs[0]
    assert operand is not None
    shape, out = ir.static_dims(operand.value), ir.static_dims(site.outputs[0].value)
    kernel = [int(k) for k in site.attribute("kernel_shape", ())]  # type: ignore[attr-defined]
    return window(site, kernel, shape[2:], out[2:])


def _pool(
    site: Site, b: Builder, code: str, source: int, win: Window, padding: int, *, fused: bool = True
) -> int:
    """The pooling operator; its result, (batch, height, width, channels), is the site's unless `fused` is False."""
    options = {
        "padding": padding,
        "strideH": win.strides[0],
        "strideW": win.strides[1],
        "filterHeight": win.kernel[0],
        "filterWidth": win.kernel[1],
        "fusedActivationFunction": ACTIVATIONS[site.activation] if fused else 0,
    }
    target = b.output() if fused else b.temporary(source, "sums", _pooled(site))
    shape = b.shape(target)
    image = target if len(shape) == 4 else b.temporary(target, "image", (shape[0], 1, *shape[1:]))
    b.operator(code, [source], [image], options)
    if image != target:
        b.reshape(image, target)
    return target


def _pooled(site: Site) -> tuple[int, ...]:
    shape = ir.static_dims(site.outputs[0].value)
    return tuple(shape[a] for a in channels_last(len(shape)))


def _image(site: Site, b: Builder) -> int:
    operand = site.inputs[0]
    assert operand is not None
    rank = len(ir.static_dims(operand.value))
    source = b.input(0, channels_last(rank))
    if rank == 4:
        return source
    shape = b.shape(source)
    return b.reshape(source, b.temporary(source, "lifted", (shape[0], 1, *shape[1:])))


@lowers("MaxPool", int8=True)
def max_pool(site: Site, b: Builder) -> None:
    """MAX_POOL_2D; a padding that is not SAME is a PADV2 with the lowest value."""
    if lower_windows.needs_slices(site) or len(site.outputs) > 1:
        lower_windows.max_pool(site, b)
        return
    win = _window(site)
    source, padding = apply_padding(b, _image(site, b), win, lowest=True)
    _pool(site, b, "MAX_POOL_2D", source, win, padding)


@lowers("AveragePool", int8=True)
def average_pool(site: Site, b: Builder) -> None:
    """AVERAGE_POOL_2D. TFLite's SAME leaves padding out of the mean, as ONNX does unless count_include_pad is set."""
    if lower_windows.needs_slices(site):
        lower_windows.average_pool(site, b)
        return
    win = _window(site)
    included = bool(site.attribute("count_include_pad", 0))
    if b.quantized and b.scale is None:
        _weighted_mean(site, b, win, included)
        return
    kind = win.kind()
    if kind == VALID or (kind is not None and not included):
        _pool(site, b, "AVERAGE_POOL_2D", _image(site, b), win, kind)
        return
    correction = _correction(site, win, included)
    if (correction == 1).all():
        source = explicit_padding(b, _image(site, b), win)
        _pool(site, b, "AVERAGE_POOL_2D", source, win, VALID)
        return
    if b.quantized:
        raise NeedsFloat
    source = explicit_padding(b, _image(site, b), win)
    sums = _pool(site, b, "AVERAGE_POOL_2D", source, win, VALID, fused=False)
    factors = correction[None, :, :, None] if len(b.shape(sums)) == 4 else correction[None, 0, :, None]
    options = {"fusedActivationFunction": ACTIVATIONS[site.activation]}
    b.operator("MUL", [sums, b.constant(factors, "cells_per_window")], [b.output()], options)


def _weighted_mean(site: Site, b: Builder, win: Window, included: bool) -> None:
    """A DEPTHWISE_CONV_2D with weights 1/n, as AVERAGE_POOL_2D has no scale for its result."""
    if not (_correction(site, win, included) == 1).all():
        raise NeedsFloat
    source = _image(site, b)
    source = explicit_padding(b, source, win) if any((*win.before, *win.after)) else source
    channels, cells = b.shape(source)[3], win.kernel[0] * win.kernel[1]
    quant = b.graph.tensors[source].quant
    assert quant is not None
    share = QuantParams(np.full(channels, 1 / cells), np.zeros(channels), "int8", 3)
    scale = (quant.scale * share.scale).astype(np.float32)
    sums = QuantParams(scale, np.zeros(channels), "int32", 0)
    ones = b.constant(np.ones((1, *win.kernel, channels), np.int8), f"{site.name}/ones", share)
    stored = np.int64 if quant.dtype == "int16" else np.int32
    zeros = b.constant(np.zeros(channels, stored), f"{site.name}/zeros", sums)
    options = {
        "padding": VALID, "strideH": win.strides[0], "strideW": win.strides[1], "depthMultiplier": 1,
        "dilationHFactor": 1, "dilationWFactor": 1, "fusedActivationFunction": ACTIVATIONS[site.activation],
    }  # fmt: skip
    target = b.output()
    shape = b.shape(target)
    image = target if len(shape) == 4 else b.temporary(target, "image", (shape[0], 1, *shape[1:]))
    b.operator("DEPTHWISE_CONV_2D", [source, ones, zeros], [image], options)
    if image != target:
        b.reshape(image, target)


def _correction(site: Site, win: Window, included: bool) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """(height, width): cells of the whole window over those that count, for each output position."""
    shape = ir.static_dims(site.outputs[0].value)[2:]
    out = (1, *shape) if len(shape) == 1 else shape
    pads = [int(p) for p in site.attribute("pads", [0] * (2 * len(shape)))]  # type: ignore[attr-defined]
    given = (
        str(site.attribute("auto_pad", "NOTSET")) == "NOTSET"
    )  # then `win.after` may hold what ceil_mode adds
    explicit_after = (*[0] * (2 - len(shape)), *pads[len(shape) :]) if given else win.after
    counts = []
    for axis in (0, 1):
        low = 0 if included else win.before[axis]
        high = win.before[axis] + win.size[axis] + (explicit_after[axis] if included else 0)
        starts = np.arange(out[axis]) * win.strides[axis]
        counts.append(np.minimum(starts + win.kernel[axis], high) - np.maximum(starts, low))
    cells = np.outer(counts[0], counts[1])
    return (win.kernel[0] * win.kernel[1] / cells).astype(np.float32)


_GLOBAL = {"GlobalAveragePool": "MEAN", "GlobalMaxPool": "REDUCE_MAX"}


@lowers(*_GLOBAL, int8=True)
def global_pool(site: Site, b: Builder) -> None:
    """MEAN or REDUCE_MAX over the spatial axes."""
    operand = site.inputs[0]
    assert operand is not None
    rank = len(ir.static_dims(operand.value))
    axes = b.ints(tuple(range(1, rank - 1)))
    b.emit(_GLOBAL[site.op_type], [b.input(0, channels_last(rank)), axes], {"keepDims": True})
