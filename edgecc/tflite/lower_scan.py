"""Cumulative sums and products, sequences, masks, and values that shapes alone decide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgecc import ir
from edgecc.analysis.sites import Site
from edgecc.ir import Array
from edgecc.tflite import lowers
from edgecc.tflite.builder import Builder, Unservable, is_batched
from edgecc.tflite.compose import Composer, Term
from edgecc.tflite.lower_index import number, positions
from edgecc.tflite.writer import tensor_type


def constant_result(site: Site, b: Builder, array: Array) -> None:
    """The result is a constant."""
    value = site.outputs[0].value
    array = array.astype(b.dtype(value))
    order = b.permutation(value)
    if array.shape != ir.static_dims(value) or is_batched(value):
        raise Unservable(f"its result has the shape {list(array.shape)}, not that of the model")
    moved = np.ascontiguousarray(array.transpose(order)).reshape([array.shape[a] for a in order])
    b.alias(b.constant(moved, f"{value.name}/constant"))


def _axis(k: Composer, position: int, rank: int) -> int:
    """A constant axis; 0 of a vector whatever it is."""
    if rank == 1:
        return 0
    return int(k.constant(position).reshape(-1)[0]) % rank


@lowers("CumSum")
def cumsum(site: Site, b: Builder) -> None:
    """CUMSUM."""
    k = Composer(site, b)
    given = k.input(0)
    x = k.served("CUMSUM", given)
    axis = k.cast(k.reshape(k.input(1), ()), "int32")
    options = {"exclusive": bool(number(site, "exclusive", 0)), "reverse": bool(number(site, "reverse", 0))}
    k.finish(k.cast(k.apply("CUMSUM", [x, axis], x.shape, options), given.dtype))


@lowers("CumProd")
def cumprod(site: Site, b: Builder) -> None:
    """In log2(n) steps: each multiplies by the products 1, 2, 4, ... positions before (Hillis, Steele 1986)."""
    k = Composer(site, b)
    given = k.input(0)
    x = k.served("MUL", given)
    axis = _axis(k, 1, len(x.shape))
    extent = x.shape[axis]
    backwards = np.arange(extent)[::-1]
    reverse = bool(number(site, "reverse", 0))

    def shifted(term: Term, by: int) -> Term:
        ones = np.ones((*x.shape[:axis], by, *x.shape[axis + 1 :]), x.dtype)
        return k.concat([Term(k, ones), k.cut(term, axis, 0, extent - by)], axis)

    x = k.gather(x, backwards, axis) if reverse else x
    x = shifted(x, 1) if number(site, "exclusive", 0) else x
    step = 1
    while step < extent:
        x = x * shifted(x, step)
        step *= 2
    k.finish(k.cast(k.gather(x, backwards, axis) if reverse else x, given.dtype))


@lowers("ReverseSequence")
def reverse_sequence(site: Site, b: Builder) -> None:
    """GATHER from the flat sequence at positions counted backwards within each length."""
    k = Composer(site, b)
    x, lengths = k.input(0), k.cast(k.input(1), "int32")
    time, batch = number(site, "time_axis", 0), number(site, "batch_axis", 1)
    rank = len(x.shape)
    shape = [1] * rank
    shape[batch] = -1 if lengths.array is not None else lengths.shape[0]
    lengths = k.reshape(lengths, shape)
    step = int(np.prod(x.shape[time + 1 :]))
    clock = (positions(x.shape) // step % x.shape[time]).astype(np.int32)
    moved = k.binary("SUB", lengths, k.whole(2 * clock + 1))
    moved = k.select(k.binary("LESS", k.whole(clock), lengths), moved, k.whole(np.zeros_like(clock)))
    k.finish(k.pick(x, moved * step + k.whole(positions(x.shape))))


@lowers("Trilu")
def trilu(site: Site, b: Builder) -> None:
    """SELECT_V2 with a constant mask, the leading axes made one."""
    k = Composer(site, b)
    x = k.input(0)
    rows, columns = x.shape[-2:]
    across = np.arange(columns) - np.arange(rows)[:, None]
    diagonal = k.reshape(k.input(1), ()) if k.has(1) else Term(k, np.array(0))
    code = "GREATER_EQUAL" if number(site, "upper", 1) else "LESS_EQUAL"
    mask = k.binary(code, Term(k, across.astype(diagonal.dtype)), diagonal)
    flat = k.reshape(x, (int(np.prod(x.shape[:-2])), rows, columns))
    kept = k.select(mask, flat, Term(k, np.zeros((), x.dtype)))
    k.finish(k.reshape(kept, x.shape))


@lowers("EyeLike")
def eye_like(site: Site, b: Builder) -> None:
    """A constant."""
    rows, columns = ir.static_dims(site.outputs[0].value)
    _refuse_batch(site)
    constant_result(site, b, np.eye(rows, columns, number(site, "k", 0)))


def _refuse_batch(site: Site) -> None:
    operand = site.inputs[0]
    if operand is not None and operand.array is None and is_batched(operand.value):
        raise Unservable("it depends on the symbolic batch", "bind the batch with --input-shape")


def _operand_shape(site: Site) -> tuple[int, ...]:
    operand = site.inputs[0]
    assert operand is not None
    return ir.static_dims(operand.value)


@lowers("Shape", "Size")
def shape_or_size(site: Site, b: Builder) -> None:
    """A constant: shapes are known when compiling, but for a free batch, which SHAPE finds."""
    shape = _operand_shape(site)
    operand = site.inputs[0]
    if site.op_type == "Shape" and operand is not None and b.is_free(operand, 0):
        _free_shape(site, b, len(shape))
        return
    _refuse_batch(site)
    if site.op_type == "Size":
        constant_result(site, b, np.array(np.prod(shape), np.int64))
        return
    end = site.attribute("end")
    part = shape[number(site, "start", 0) : None if end is None else int(end)]  # type: ignore[call-overload]
    constant_result(site, b, np.array(part, np.int64))


def _free_shape(site: Site, b: Builder, rank: int) -> None:
    k = Composer(site, b, batch=True)
    kind = {"outType": tensor_type("int64")}
    start, end, _ = slice(number(site, "start", 0), site.attribute("end")).indices(rank)
    stored = b.permutation(site.inputs[0].value) if site.inputs[0] is not None else ()
    order = stored if end <= 1 and stored[:1] == (0,) else None  # the batch alone is first in any order
    whole = b.operator("SHAPE", [b.input(0, order)], [b.tensor(f"{k.name}/shape", (rank,), "int64")], kind)
    k.finish(k.cut(Term(k, None, whole), 0, start, end))


@lowers("ConstantOfShape")
def constant_of_shape(site: Site, b: Builder) -> None:
    """A constant, where the model says which shape it has."""
    value = site.attribute("value")
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value.numpy())  # type: ignore[attr-defined]
    constant_result(site, b, np.full(ir.static_dims(site.outputs[0].value), fill.reshape(-1)[0]))


@lowers("Range")
def range_(site: Site, b: Builder) -> None:
    """start + (0, 1, 2, ...) * step, as many as the model says that there are."""
    k = Composer(site, b)
    start, step = (k.reshape(k.input(i), ()) for i in (0, 2))
    step, start = k.served("MUL", step), k.served("MUL", start)
    k.finish(step * Term(k, np.arange(k.out_shape()[0]).astype(step.dtype)) + start)


@lowers("Compress")
def compress(site: Site, b: Builder) -> None:
    """GATHER of what a constant condition leaves."""
    k = Composer(site, b)
    x = k.input(0)
    kept = np.flatnonzero(k.constant(1).reshape(-1))
    axis = site.attribute("axis")
    if axis is None:
        k.finish(k.gather(k.reshape(x, (int(np.prod(x.shape)),)), kept))
        return
    k.finish(k.gather(x, kept, int(axis) % len(x.shape)))  # type: ignore[call-overload]


@lowers("CenterCropPad")
def center_crop_pad(site: Site, b: Builder) -> None:
    """Slices and zeros around the middle of each axis (ONNX rounds the front down)."""
    k = Composer(site, b)
    x = k.input(0)
    amounts = []
    for axis, wanted in enumerate(k.out_shape()):
        extent = x.shape[axis]
        if wanted < extent:
            first = (extent - wanted) // 2
            x = k.cut(x, axis, first, first + wanted)
        front = max(wanted - extent, 0) // 2
        amounts.append((front, max(wanted - extent, 0) - front))
    k.finish(k.pad(x, amounts))


@lowers("Det")
def det(site: Site, b: Builder) -> None:
    """Expansion by the first row, of matrices up to 4 by 4."""
    k = Composer(site, b)
    x = k.input(0)
    size = x.shape[-1]
    if size > 4:
        raise Unservable("the determinant of a matrix larger than 4 by 4 has no kernel")
    lead = x.shape[:-2]
    flat = k.reshape(x, (*lead, size * size))

    def cell(row: int, column: int) -> Term:
        place = row * size + column
        return k.cut(flat, -1, place, place + 1)

    def minor(row: int, columns: Sequence[int]) -> Term:
        if len(columns) == 1:
            return cell(row, columns[0])
        total: Term | None = None
        for sign, column in enumerate(columns):
            part = cell(row, column) * minor(row + 1, [c for c in columns if c != column])
            total = part if total is None else total - part if sign % 2 else total + part
        assert total is not None
        return total

    k.finish(k.reshape(minor(0, range(size)), k.out_shape()))


_WINDOWS: dict[str, tuple[float, ...]] = {"HannWindow": (0.5, 0.5), "HammingWindow": (25 / 46, 21 / 46),
                                          "BlackmanWindow": (0.42, 0.5, 0.08)}  # fmt: skip


@lowers(*_WINDOWS)
def window(site: Site, b: Builder) -> None:
    """A constant: the model says how long the window is."""
    count = ir.static_dims(site.outputs[0].value)[0]
    period = count if number(site, "periodic", 1) else max(count - 1, 1)
    angle = 2 * np.pi * np.arange(count) / period
    values: Array = sum((-1) ** i * f * np.cos(i * angle) for i, f in enumerate(_WINDOWS[site.op_type]))
    constant_result(site, b, np.asarray(values))
