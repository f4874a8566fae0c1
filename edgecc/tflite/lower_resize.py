"""Resize, nearest and linear."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgecc import ir
from edgecc.analysis.layout import channels_last
from edgecc.analysis.sites import Site
from edgecc.ir import Array
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, NeedsFloat, Unservable
from edgecc.tflite.lower_linear import resize_by_matrices

# onnx.ai/onnx/operators Resize: x_original of an output coordinate x, by coordinate_transformation_mode.
_COORDINATES: dict[str, Callable[[Array, float, int, int], Array]] = {
    "half_pixel": lambda x, scale, size, out: (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, scale, size, out: (x + 0.5) / scale - 0.5 if out > 1 else 0 * x,
    "half_pixel_symmetric": lambda x, scale, size, out: (
        size / 2 * (1 - out / (scale * size)) + (x + 0.5) / scale - 0.5
    ),
    "asymmetric": lambda x, scale, size, out: x / scale,
    "align_corners": lambda x, scale, size, out: x * (size - 1) / (out - 1) if out > 1 else 0 * x,
}
_ROUNDING: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}
# coordinate_transformation_mode -> options of RESIZE_BILINEAR (resize_bilinear.h of LiteRT).
_BILINEAR = {
    "half_pixel": {"alignCorners": False, "halfPixelCenters": True},
    "pytorch_half_pixel": {"alignCorners": False, "halfPixelCenters": True},
    "asymmetric": {"alignCorners": False, "halfPixelCenters": False},
    "align_corners": {"alignCorners": True, "halfPixelCenters": False},
}


@lowers("Resize", int8=True)
def resize(site: Site, b: Builder) -> None:
    """RESIZE_NEAREST_NEIGHBOR, RESIZE_BILINEAR, or one GATHER an axis where no nearest kernel picks the same cells."""
    operand = site.inputs[0]
    assert operand is not None
    size, out = ir.static_dims(operand.value), ir.static_dims(site.outputs[0].value)
    mode = str(site.attribute("mode", "nearest"))
    where = str(site.attribute("coordinate_transformation_mode", "half_pixel"))
    scales = site.inputs[2] if len(site.inputs) > 2 else None
    if scales is not None and scales.array is None and ir.static_dims(scales.value) != (0,):
        raise Unservable("its scales are computed at run time", "make them an initializer, or give sizes")
    images = len(size) == 4 and size[:2] == out[:2]
    kept = site.attribute("keep_aspect_ratio_policy", "stretch") != "stretch"
    odd = site.attribute("antialias", 0) or site.attribute("axes") is not None or kept
    if not images or odd or where not in _COORDINATES or mode == "cubic":
        resize_by_matrices(site, b)
        return
    source = b.input(0, channels_last(4))
    if mode == "nearest":
        _nearest(site, b, source, where, size[2:], out[2:])
    elif mode == "linear" and where in _BILINEAR and _scales_fit(site, size, out):
        b.operator("RESIZE_BILINEAR", [source, b.ints(out[2:])], [b.output()], _BILINEAR[where])
    else:
        resize_by_matrices(site, b)


def _scales(site: Site, size: tuple[int, ...], out: tuple[int, ...]) -> list[float]:
    """Factors of the two spatial axes as the node gives them, else as the sizes have it."""
    operand = site.inputs[2] if len(site.inputs) > 2 else None
    if operand is not None and operand.array is not None and operand.array.size == 4:
        return [float(s) for s in operand.array[2:]]
    return [o / i for o, i in zip(out[-2:], size[-2:], strict=True)]


def _scales_fit(site: Site, size: tuple[int, ...], out: tuple[int, ...]) -> bool:
    """Whether the scales are out/in exactly, which is what TFLite's kernel takes them to be."""
    where = str(site.attribute("coordinate_transformation_mode", "half_pixel"))
    if where == "pytorch_half_pixel" and any(o == 1 < i for i, o in zip(size[2:], out[2:], strict=True)):
        return False  # a single result is the first cell there, the middle in the kernel
    return all(
        np.isclose(s * i, o) for s, i, o in zip(_scales(site, size, out), size[2:], out[2:], strict=True)
    )


def _nearest(
    site: Site, b: Builder, source: int, where: str, size: tuple[int, ...], out: tuple[int, ...]
) -> None:
    rounding = _ROUNDING[str(site.attribute("nearest_mode", "round_prefer_floor"))]
    scales = _scales(site, (0, 0, *size), (0, 0, *out))
    cells = []
    for axis in (0, 1):
        x = _COORDINATES[where](np.arange(out[axis], dtype=np.float64), scales[axis], size[axis], out[axis])
        cells.append(np.clip(rounding(x), 0, size[axis] - 1).astype(np.int32))
    for half in (False, True):
        # LiteRT resize_nearest_neighbor.h: min(floor((x + (half ? .5 : 0)) * in/out), in - 1)
        kernel = [
            np.minimum(np.floor((np.arange(o) + 0.5 * half) * (np.float32(i) / np.float32(o))), i - 1)
            for i, o in zip(size, out, strict=True)
        ]
        if all(np.array_equal(k, c) for k, c in zip(kernel, cells, strict=True)):
            options = {"alignCorners": False, "halfPixelCenters": half}
            b.operator("RESIZE_NEAREST_NEIGHBOR", [source, b.ints(out)], [b.output()], options)
            return
    if b.quantized and b.graph.tensors[source].quant is None:
        raise NeedsFloat
    n, _, w, c = b.shape(source)
    rows = b.temporary(source, "rows", (n, out[0], w, c))
    b.operator("GATHER", [source, b.ints(cells[0])], [rows], {"axis": 1})
    b.operator("GATHER", [rows, b.ints(cells[1])], [b.output()], {"axis": 2})
