"""Operators of detectors, whose results have as many rows as the data say: LiteRT gives them that shape."""

from __future__ import annotations

import numpy as np

from edgecc.analysis.sites import Site
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, Unservable, is_batched
from edgecc.tflite.compose import Composer, Term
from edgecc.tflite.lower_index import number

# (centre x, centre y, width, height) to (y1, x1, y2, x2).
_CORNERS = np.array([[0, 1, 0, -0.5], [1, 0, -0.5, 0], [0, 1, 0, 0.5], [1, 0, 0.5, 0]], np.float32)
_MOST = 256  # kernels of one network: a network with more classes suppresses them together


@lowers("NonMaxSuppression")
def non_max_suppression(site: Site, b: Builder) -> None:
    """NON_MAX_SUPPRESSION_V4 for each class of each image; its result is cut to the count that it tells.

    How many boxes are left depends on the data, so LiteRT gives the result the shape that it has.
    """
    k = Composer(site, b)
    boxes, scores = k.input(0), k.input(1)
    images, classes, count = scores.shape
    if images * classes > _MOST:
        raise Unservable(
            f"it suppresses {images * classes} classes one by one",
            "suppress all classes together (boxes shifted by class), or in the application",
        )
    if number(site, "center_point_box", 0):
        boxes = k.matrix(boxes, _CORNERS)
    limit = k.cast(k.reshape(k.input(2), ()), "int32") if k.has(2) else k.whole(0)
    limit = k.binary("MINIMUM", limit, count)
    overlap, least = (
        k.reshape(k.input(i), ()) if k.has(i) else Term(k, np.array(d, np.float32))
        for i, d in ((3, 0.0), (4, -np.inf))
    )
    overlap = _next(k, overlap)
    found = []
    for image in range(images):
        corners = k.reshape(k.cut(boxes, 0, image, image + 1), (count, 4))
        for kind in range(classes):
            row = k.reshape(k.cut(k.cut(scores, 0, image, image + 1), 1, kind, kind + 1), (count,))
            chosen = _chosen(k, [corners, row, limit, overlap, least])
            found.append(chosen * k.whole(np.array([[0, 0, 1]])) + k.whole(np.array([[image, kind, 0]])))
    rows = k.apply("CONCATENATION", found, (k.out_shape()[0], 3), {"axis": 0}) if len(found) > 1 else found[0]
    tensor = b.graph.tensors[rows.index]
    tensor.shape, tensor.batched = k.out_shape(), is_batched(site.outputs[0].value)
    k.finish(rows)


def _next(k: Composer, x: Term) -> Term:
    """The number after `x` >= 0: the kernel drops a box at the threshold, ONNX one beyond it."""
    if x.array is not None:
        return Term(k, np.nextafter(x.array, np.float32(np.inf), dtype=np.float32))
    bits = k.apply("BITCAST", [x], x.shape, dtype="int32") + 1
    return k.apply("BITCAST", [bits], x.shape, dtype="float32")


def _chosen(k: Composer, operands: list[Term]) -> Term:
    """Places of the boxes that stay, best first: as many rows as there are, one column."""
    most, name = k.out_shape()[0], k.name
    places, valid = k.b.tensor(f"{name}/places", (most,), "int32"), k.b.tensor(f"{name}/valid", (), "int32")
    k.b.operator("NON_MAX_SUPPRESSION_V4", [k.tensor(t) for t in operands], [places, valid], {})
    end = k.reshape(Term(k, None, valid), (1,))
    cut = k.apply("STRIDED_SLICE", [Term(k, None, places), k.whole([0]), end, k.whole([1])], (most,), {})
    column = k.b.tensor(f"{name}/column", (most, 1), "int32")
    shape = np.array([-1, 1], np.int32)
    k.b.operator("RESHAPE", [cut.index, k.b.ints(shape)], [column], {"newShape": shape})
    return Term(k, None, column)


@lowers("NonZero")
def non_zero(site: Site, b: Builder) -> None:
    """WHERE, which gives a row for each element that is not zero."""
    k = Composer(site, b)
    x = k.served("NOT_EQUAL", k.input(0))
    if x.dtype != "bool":
        x = k.binary("NOT_EQUAL", x, 0)
    rank, count = k.out_shape()
    rows = k.apply("WHERE", [x], (count, rank), dtype="int64")
    k.finish(k.transpose(rows, (1, 0)))
